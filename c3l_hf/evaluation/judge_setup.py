"""Which judge an evaluation has: built from the options, described in the results, kept apart from an earlier one."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from c3l_hf.common.checksums import checksum, note
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import atomic_write, read_json
from c3l_hf.data.worlds import find_world
from c3l_hf.evaluation.judge import PROMPT_VERSION, judge_answers
from c3l_hf.evaluation.judge_endpoint import JudgeEndpoint
from c3l_hf.evaluation.options import PUBLISHED, EvaluateOptions

__all__ = ["check_judge", "describe_judge", "earlier_judge", "judge_endpoint", "judge_predictions", "judged_file"]


def judge_endpoint(options: EvaluateOptions) -> JudgeEndpoint | None:
    """The language model that grades LLaVA-Bench; None if none is named.

    Raises:
        RunError: If what is named of it does not go together.
        ValueError: If a value is impossible.
    """
    if (options.judge_base_url is None) != (options.judge_model is None):
        raise RunError("judge_base_url and judge_model are needed together")
    if options.judge_base_url is None or options.judge_model is None:
        return None
    if options.world != PUBLISHED or "llava_w" not in options.names:
        raise RunError(
            f"judge_base_url is for the {PUBLISHED} llava_w; answers about an embedded world are judged by its truth"
        )
    try:
        extra = json.loads(options.judge_extra_body or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise RunError(f"judge_extra_body is {options.judge_extra_body!r}; it must be an object in JSON")
    return JudgeEndpoint(
        options.judge_base_url,
        options.judge_model,
        temperature=options.judge_temperature if options.judge_temperature >= 0 else None,
        max_tokens=options.judge_max_tokens if options.judge_max_tokens > 0 else None,
        extra_body=extra,
        timeout=options.judge_timeout,
    )


def describe_judge(options: EvaluateOptions, endpoint: JudgeEndpoint | None) -> dict[str, Any] | None:
    """What the results say of the judge; scores of judges that differ in it are not compared. None without a judge."""
    if world := find_world(options.world):
        return {"judge": world.JUDGE}
    if endpoint is None:
        return None
    return {
        "judge": endpoint.model,
        "base_url": endpoint.base_url,
        "temperature": endpoint.temperature,
        "max_tokens": endpoint.max_tokens,
        "extra_body": endpoint.extra_body,
        "both_orders": options.judge_both_orders,
        "prompt_version": PROMPT_VERSION,
    }


def earlier_judge(results_file: Path) -> dict[str, Any] | None:
    """Who has given the scores in a results file; None if it is not there, or has no scores."""
    if not results_file.is_file():
        return None
    results = read_json(results_file)
    scores = [figure["value"] for figure in results["figures"] if figure["by"] == "judge"]
    return None if all(score is None for score in scores) else results["judge"]


def check_judge(results_file: Path, judge: dict[str, Any] | None) -> None:
    """That scores of an earlier judge are not mixed with, or written over by, those of another.

    Raises:
        RunError: If there are some.
    """
    earlier = earlier_judge(results_file)
    if earlier and judge and earlier != judge:
        raise RunError(
            f"{results_file.parent} holds scores by another judge ({earlier} there, {judge} now); give another "
            "output_dir"
        )


def judge_predictions(
    options: EvaluateOptions, endpoint: JudgeEndpoint | None, predictions: Dataset, folder: Path
) -> Dataset:
    """The predictions on LLaVA-Bench with the judge's columns; also in `judged_file(folder)`."""
    if world := find_world(options.world):
        judged = world.judge_answers(predictions)
    elif endpoint is not None:
        judged = judge_answers(
            predictions,
            endpoint,
            folder / "judgements.jsonl",
            both_orders=options.judge_both_orders,
            max_errors=options.judge_max_errors,
        )
    else:
        raise ValueError("there is no judge: judge_base_url and judge_model are not set")
    with atomic_write(judged_file(folder)) as partial:
        pq.write_table(pa.Table.from_pylist(judged.to_list(), schema=judged.features.arrow_schema), partial)
        note(judged_file(folder), checksum(partial))
    return judged


def judged_file(folder: Path) -> Path:
    """Where a benchmark's folder has the predictions with the judge's columns."""
    return folder / "judged.parquet"
