"""What a report shows, whatever it was read from: facts, counts, charts, and the pairs with their pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import PIL.Image

__all__ = ["Chart", "Content", "Filter", "Funnel", "Pairs", "Picture", "ShownPair", "ShownTurn", "Table"]


@dataclass(frozen=True)
class Table:
    """A table of the overview.

    Attributes:
        title: Its heading; also what links to it.
        header: Names of the columns; the first column is the rows' names, the others are numbers or short texts.
        rows: Texts as they are to be shown.
        note: A sentence or two below it; may be empty.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Funnel:
    """What became of the rows of one stage.

    Attributes:
        stage: Its name.
        before: Rows that went in; None where the stage makes its rows from something else.
        after: Rows that came out.
        dropped: Reasons with their numbers of rows, the most frequent first.
    """

    stage: str
    before: int | None
    after: int
    dropped: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Filter:
    """The bars of a histogram as filters of the gallery.

    Attributes:
        score: Which of the pairs' scores is drawn.
        stage: Of which stage's pairs; None: of all.
        edges: Of the bars, in rising order: one more than there are bars. The first and the last bar have all below and
            above.
    """

    score: str
    stage: str | None
    edges: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A chart of the overview.

    Attributes:
        title: Its heading.
        text: What it shows, in words that also serve those who do not see it.
        svg: The drawing: an `svg` element without scripts, `style` elements, or a fixed background. Bars that filter
            are elements with the ids `<chart id>-bar-<number>`.
        id: Of letters, digits and "-"; differs from the others'.
        filter: What a click on a bar does; None where bars are only bars.
    """

    id: str
    title: str
    text: str
    svg: str
    filter: Filter | None = None


@dataclass(frozen=True)
class Picture:
    """One image of the gallery.

    Attributes:
        image_id: Its id.
        open: Gives the picture, upright, in 8-bit RGB.

    `open` raises a `RowError` with the reason if the picture cannot be read.
    """

    image_id: str
    open: Callable[[], PIL.Image.Image]


@dataclass(frozen=True)
class ShownTurn:
    """A question and its answer.

    Attributes:
        question, answer: Their texts; untrusted.
        tokens: The answer's tokens as texts; empty where there are no scores of tokens.
        gain: Of each token ln p − ln q, the signed `pmi`.
        divergence: Of each token the KL divergence; ≥ 0.
    """

    question: str
    answer: str
    tokens: Sequence[str] = ()
    gain: Sequence[float | None] = ()
    divergence: Sequence[float | None] = ()


@dataclass(frozen=True)
class ShownPair:
    """A pair of the gallery.

    Attributes:
        key: What names it in the page, its address and the marks: unique in the report, and the same in another report
            of the same rows.
        pair_id: Its id in the data; ids of two stages may be equal.
        digest: Of its texts, so that a mark is not applied to another pair of the same id.
        picture: Number of its image among the content's pictures.
        stage: Which pool it belongs to ("first round", "second round", "dataset").
        type, language, template: As in the data.
        status: "ok", or the reason why there is no pair, or no score.
        turns: Its texts; empty where there is no pair.
        scores: Name → value, those that there are.
        role: "chosen" or "rejected" where it is a pseudo-label.
        kept: Whether the curated dataset has it; None where that was not asked.
        true: Whether it is true; None where the truth is not known.
        raw: What the generator wrote, where no pair could be read of it.
    """

    key: str
    pair_id: str
    digest: str
    picture: int
    stage: str
    status: str = "ok"
    turns: Sequence[ShownTurn] = ()
    type: str | None = None
    language: str | None = None
    template: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    role: str | None = None
    kept: bool | None = None
    true: bool | None = None
    raw: str | None = None


@dataclass(frozen=True)
class Pairs:
    """The pairs of the gallery, read when they are asked for: pools may be larger than memory.

    Attributes:
        count: How many there are.
        rows: Gives them, those of an image next to each other within a stage; each call begins anew.
    """

    count: int
    rows: Callable[[], Iterator[ShownPair]]


@dataclass(frozen=True)
class Content:
    """A whole report.

    Attributes:
        title: What it is about.
        facts: What was run or read: names and values, in order.
        funnel: The stages in order; empty where only rows were given.
        charts, tables: The overview, in order.
        pairs: The gallery.
        pictures: The images of the pairs, by number.
        alike: Number of a picture → numbers of those that look most alike, nearest first; empty where nothing tells.
        ranking: The score that the pairs are ranked by, one of the names in their scores; None if they have none.
        threshold: The lowest score among the pairs that were kept, by `threshold_score`; None where nothing was chosen,
            or no lower one was left out.
        threshold_score: The score that pairs were chosen by.
        notes: Sentences that the reader should know first (samples, pictures that could not be read, what is missing).
    """

    title: str
    pairs: Pairs
    pictures: Sequence[Picture]
    facts: Sequence[tuple[str, str]] = ()
    funnel: Sequence[Funnel] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    alike: Mapping[int, Sequence[int]] = field(default_factory=dict)
    ranking: str | None = None
    threshold: float | None = None
    threshold_score: str | None = None
    notes: Sequence[str] = ()
