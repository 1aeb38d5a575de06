"""MMBench's test split, whose answers are not published: predictions → the table that its evaluation server takes."""

import csv
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from c3l_hf.common.files import atomic_write
from c3l_hf.evaluation.benchmarks import LETTERS

__all__ = ["write_submission"]

logger = logging.getLogger(__name__)

_SHOWN = 5


def write_submission(predictions: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Predictions on MMBench as the table that its evaluation server takes.

    The server's script (VLMEvalKit, scripts/mmb_eval_gradio.py) takes .tsv and .csv beside .xlsx, and needs the columns
    index, question, A to D, l2-category and prediction. All rotations belong into it. A question without a prediction
    has an empty one, and is named in a warning.

    Args:
        predictions: Prediction rows of `load_questions("mmbench", …)`: `question_id`, `prediction` (null if there is
            none), `options`, `group` and `meta`.
        path: Where to write it, .tsv or .csv; nothing may be there.

    Raises:
        ValueError: If the path has another ending or is there already, or a row is not one of MMBench.
    """
    path = Path(path)
    delimiter = {".tsv": "\t", ".csv": ","}.get(path.suffix)
    if delimiter is None:
        raise ValueError(f"{path} must end in .tsv or .csv")
    if path.exists():
        raise ValueError(f"{path} is there already; give another name, or move it away")
    lines, missing = [], []
    for row in predictions:
        meta = json.loads(row["meta"])
        if "index" not in meta:
            raise ValueError(f"{row['question_id']} is not a question of MMBench: its meta has no index")
        missing += [row["question_id"]] * (row["prediction"] is None)
        options = [*row["options"], *[""] * len(LETTERS)][: len(LETTERS)]
        rest = (meta["category"], row["group"], _cell(row["prediction"] or ""))
        lines.append([meta["index"], meta["question"], *options, *rest])
    if missing:
        named = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        logger.warning("%s: %d of %d questions have no prediction: %s", path, len(missing), len(lines), named)
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["index", "question", *LETTERS, "category", "l2-category", "prediction"])
        writer.writerows(lines)


def _cell(text: str) -> str:
    """A generated text that a spreadsheet neither refuses nor takes for a formula; the server ignores the blank."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return f" {text}" if text.startswith(("=", "+", "-", "@")) else text
