"""Contents of small reports, for the tests of the page."""

from collections.abc import Iterator, Sequence

import PIL.Image

from c3l_hf.common.errors import RowError
from c3l_hf.common.files import digest
from c3l_hf.report.content import Chart, Content, Filter, Funnel, Pairs, Picture, ShownPair, ShownTurn, Table

PAIRS_AN_IMAGE = 3
UNREADABLE = 2  # number of a picture
COUNT = 60  # pairs of the report that most tests look at


def picture(number: int) -> Picture:
    def unreadable() -> PIL.Image.Image:
        raise RowError("the image photo.jpg cannot be read: it is empty")

    def readable() -> PIL.Image.Image:
        return PIL.Image.new("RGB", (200, 120), (40 * number % 256, 90, 160))

    return Picture(f"image-{number}", unreadable if number == UNREADABLE else readable)


def shown_pair(number: int, text: str | None = None, **changes) -> ShownPair:
    """Pair number n: its `pmi` is n / 100 − 0.2, its answer has three tokens with numbers."""
    stage = "first round" if number % 2 == 0 else "second round"
    tokens = (" A", " blue", f" thing{number}.")
    turn = ShownTurn(f"What is it, {number}?", "".join(tokens), tokens, (0.0, 2.0, -1.0), (0.0, 1.5, None))
    values = {
        "key": f"key {number}",
        "pair_id": f"pair-{number}",
        "digest": digest(number),
        "picture": number // PAIRS_AN_IMAGE,
        "stage": stage,
        "turns": (turn,) if text is None else (ShownTurn(text, text),),
        "type": ("count", "colour")[number % 2],
        "language": "en",
        "template": "first",
        "scores": {"pmi": number / 100 - 0.2, "answer_kl": float(number % 7)},
        "kept": number % 4 == 0,
    }
    return ShownPair(**{**values, **changes})


def bars(count: int = 4) -> Chart:
    """Bars of the pmi of the first round, between −0.1 and 0.3."""
    edges = [-0.1 + 0.4 * n / count for n in range(count + 1)]
    drawn = "".join(f'<rect id="hist-bar-{n}" x="{20 * n}" y="0" width="18" height="40"/>' for n in range(count))
    drawn += '<rect x="0" y="10" width="78" height="30" class="over"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 80 40"><g fill="red">{drawn}</g></svg>'
    return Chart("hist", "Scores", "How many pairs have which pmi.", svg, Filter("pmi", "first round", edges))


def report_content(pairs: Sequence[ShownPair], **changes) -> Content:
    pictures = [picture(number) for number in range(1 + max((pair.picture for pair in pairs), default=0))]

    def rows() -> Iterator[ShownPair]:
        return iter(pairs)

    values = {
        "title": "A small report",
        "pairs": Pairs(len(pairs), rows),
        "pictures": pictures,
        "facts": [("Model", "a model")],
        "funnel": [Funnel("generated", None, 90), Funnel("curated", 90, 60, [("a copy", 20), ("too low", 10)])],
        "charts": [bars()],
        "tables": [Table("Types", ["type", "pairs"], [["count", "30"]], "A note.")],
        "ranking": "pmi",
        "threshold": 0.1,
        "threshold_score": "pmi",
        "notes": ["One picture cannot be read."],
    }
    return Content(**{**values, **changes})
