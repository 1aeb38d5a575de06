"""By which score a command ranks: a column, or several that it combines."""

from dataclasses import dataclass, field

from datasets import Dataset

from c3l_hf.common.errors import RunError
from c3l_hf.selection.combination import COMBINED, combine_scores, weights_of

__all__ = ["ScoreChoice", "with_score"]


@dataclass
class ScoreChoice:
    """By which score is ranked."""

    score: str = field(default="i2c", metadata={"help": "Column to rank by; higher is better."})
    combine: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rank by the weighted mean of these columns' places among the pairs of a type, as pmi=1 "
            f"truth_logodds=0.5; it goes into the column {COMBINED}.",
            "metavar": "COLUMN=WEIGHT",
        },
    )


def with_score(dataset: Dataset, choice: ScoreChoice) -> tuple[Dataset, str, str]:
    """The rows, the column to rank by, and what is to be told of it: "" or a line.

    Raises:
        RunError: If columns cannot be combined, or one to rank by is named as well.
    """
    if not choice.combine:
        return dataset, choice.score, ""
    if choice.score not in ("i2c", COMBINED):
        raise RunError(f"score is {choice.score}, and combine makes a score: give one of them")
    try:
        weights = weights_of(choice.combine)
        dataset, missing = combine_scores(dataset, weights)
    except ValueError as error:
        raise RunError(f"combine: {error}") from None
    lacking = [f"{count:,} rows have no {name}" for name, count in missing.items() if count]
    formula = " + ".join(f"{weight:g} {name}" for name, weight in weights.items())
    return dataset, COMBINED, f"{COMBINED}: {formula}, as ranks within the type; {', '.join(lacking) or 'all have it'}"
