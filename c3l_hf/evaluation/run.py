"""A whole evaluation: questions, answers, judge, figures, files; and the comparison of two of them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features

from c3l_hf.common.checksums import noted_damage
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import read_json, write_json
from c3l_hf.common.nodes import check_places, check_shared
from c3l_hf.common.processes import process_state
from c3l_hf.common.versions import versions
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.data.worlds import WORLDS, find_world
from c3l_hf.evaluation.answerer import PredictionConfig
from c3l_hf.evaluation.benchmarks import BENCHMARKS
from c3l_hf.evaluation.figures import compare_runs, evaluate_predictions, format_results
from c3l_hf.evaluation.judge import JUDGE_FEATURES
from c3l_hf.evaluation.judge_endpoint import JudgeEndpoint
from c3l_hf.evaluation.judge_setup import (
    check_judge,
    describe_judge,
    earlier_judge,
    judge_endpoint,
    judge_predictions,
    judged_file,
)
from c3l_hf.evaluation.options import PUBLISHED, EvaluateOptions, check_options, prediction_configs
from c3l_hf.evaluation.predictions import PREDICTION_FEATURES, claim_folder, predict, predictions_file
from c3l_hf.evaluation.questions import bare_questions, load_questions, select_some
from c3l_hf.evaluation.submission import write_submission
from c3l_hf.evaluation.world_questions import world_questions
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source, load

__all__ = ["EvaluateOptions", "compare", "run_evaluation"]


@dataclass(frozen=True)
class _Benchmark:
    """What is done for one benchmark, known before the model is loaded.

    Attributes:
        name: A key of `BENCHMARKS`.
        folder: Of its files.
        questions: As they are asked.
        data: What they are, in words.
        config: How they are put to the model.
        made_from: What else the predictions are known by.
    """

    name: str
    folder: Path
    questions: Dataset
    data: str
    config: PredictionConfig
    made_from: Mapping[str, Any]


def run_evaluation(options: EvaluateOptions, source: Source) -> dict[str, dict[str, Any]]:
    """Puts benchmarks to a model, and prints and writes the figures.

    `<output_dir>/<benchmark>/` gets `predictions.parquet` (every answer), `results.json` (every figure with its
    standard error and 95 % interval, what could not be asked or read) and, of LLaVA-Bench, `judgements.jsonl` and
    `judged.parquet`. The same call again goes on after an interruption. All is checked, and the folders are claimed,
    before any answer is asked for. Every process calls this; they share the answers.

    Args:
        options: Which benchmarks, and how.
        source: The model: an id on the Hub, a folder (adapters alone, too), or the name of an embedded world for the
            generator that is shipped with it.

    Returns:
        Benchmark → what its `results.json` has, see `figures.evaluate_predictions`.

    Raises:
        RunError: If the options do not go together, data or a model cannot be loaded, a folder holds something else, or
            the judge's endpoint cannot be used. The message says what to do.
        OSError: If a model's files cannot be read.
    """
    started, state = time.monotonic(), process_state()
    try:
        check_options(options)
        endpoint = judge_endpoint(options)
        configs = prediction_configs(options)
        places = {"data": options.sources.values(), "image_folders": options.folders.values()}
        check_places({"model": source.model_id, **places})
        check_shared(options.output_dir, "output_dir")
        benchmarks = [_benchmark(name, options, configs[name]) for name in options.names]
        here, identity = find_model(source)
        judge = describe_judge(options, endpoint)
        for benchmark in benchmarks:
            if benchmark.name == "llava_w":
                check_judge(_results_file(benchmark.folder), judge)
        model, processor = load(here)
        for benchmark in benchmarks:
            claim_folder(benchmark.folder, benchmark.questions, model, processor, benchmark.config, benchmark.made_from)
    except ValueError as error:
        raise RunError(str(error)) from error

    for benchmark in benchmarks:
        state.print(f"\n== {BENCHMARKS[benchmark.name].name}", flush=True)
        try:
            predictions = predict(
                benchmark.questions,
                model,
                processor,
                benchmark.config,
                folder=benchmark.folder,
                made_from=benchmark.made_from,
            )
            if state.is_main_process:
                about = {"model": _name_of(source), **identity}
                text = _report(benchmark, predictions, options, endpoint, judge, about)
                state.print(text, flush=True)
        except ValueError as error:
            raise RunError(f"{benchmark.name}: {error}") from error
    state.print(f"\n{time.monotonic() - started:.0f} s")
    state.wait_for_everyone()
    return {benchmark.name: read_json(_results_file(benchmark.folder)) for benchmark in benchmarks}


def compare(folder_a: str | Path, folder_b: str | Path) -> str:
    """Paired tests of all benchmarks that two evaluations have, as text; differences are b - a.

    Args:
        folder_a, folder_b: `output_dir` of each.

    Raises:
        RunError: If one of them does not exist, they have no benchmark in common, or not the same questions.
    """
    folders = Path(folder_a), Path(folder_b)
    names = [name for name in BENCHMARKS if all(_results_file(path / name).is_file() for path in folders)]
    for path in folders:
        if not path.is_dir():
            raise RunError(f"there is no folder {path}; give the output_dir of an evaluation")
    if not names:
        raise RunError(f"{folder_a} and {folder_b} have results of no benchmark in common")
    parts = [f"a: {folder_a}\nb: {folder_b}"]
    for name in names:
        results_a, results_b = (read_json(_results_file(path / name)) for path in folders)
        try:
            compared = compare_runs(
                name,
                _read_predictions(folders[0] / name, judged=bool(results_a["judge"])),
                _read_predictions(folders[1] / name, judged=bool(results_b["judge"])),
            )
        except ValueError as error:
            raise RunError(f"{name}: {error}") from None
        notes = []
        if results_a["judge"] != results_b["judge"]:
            compared["figures"] = [figure for figure in compared["figures"] if figure["by"] != "judge"]
            notes.append(
                f"the judges differ ({results_a['judge']} and {results_b['judge']}): their scores are not compared"
            )
        parts.append("\n".join([f"== {BENCHMARKS[name].name}", format_results(compared), *notes]))
    return "\n\n".join(parts)


def _name_of(source: Source) -> str:
    """What the results call the model: the embedded world whose generator it is, not where the package lies here."""
    worlds = {world.GENERATOR: name for name in reversed(WORLDS) if (world := find_world(name))}
    return worlds.get(source.model_id, source.model_id)


def _benchmark(name: str, options: EvaluateOptions, config: PredictionConfig) -> _Benchmark:
    """A benchmark with its questions, as they are to be asked."""
    made_from = {"benchmark": name, "world": options.world, "limit": options.limit, "bare": options.bare_questions}
    if options.world == PUBLISHED:
        split = options.mmbench_split if name == "mmbench" else None
        questions = load_questions(
            name,
            options.sources.get(name),
            split=split,
            circular=options.mmbench_circular,
            image_folder=options.folders.get(name),
        )
        data = questions.info.description
    else:
        questions = world_questions(
            options.world, name, options.num_images, seed=options.seed, circular=options.mmbench_circular
        )
        data = f"{options.num_images:,} {options.world}, seed {options.seed}: {len(questions):,} rows"
        made_from |= {"num_images": options.num_images, "scenes_seed": options.seed}
    questions = select_some(questions, options.limit)
    if options.bare_questions:
        questions = bare_questions(questions)
    return _Benchmark(name, Path(options.output_dir) / name, questions, data, config, made_from)


def _report(
    benchmark: _Benchmark,
    predictions: Dataset,
    options: EvaluateOptions,
    endpoint: JudgeEndpoint | None,
    judge: dict[str, Any] | None,
    model: Mapping[str, str],
) -> str:
    """Judges and counts the answers to a benchmark, and writes its results; the text to print."""
    name, file, notes = benchmark.name, _results_file(benchmark.folder), []
    if name == "llava_w":
        earlier = earlier_judge(file)
        if judge is None and earlier:
            return f"the results there, judged by {earlier['judge']}, stay as they are: {file}"
        if judge is None:
            notes.append("no judge_base_url and judge_model: answers only, no scores")
        else:
            predictions = judge_predictions(options, endpoint, predictions, benchmark.folder)
    if not any(predictions["answer"][:]):
        notes.append(_without_answers(benchmark, predictions))
    if options.limit is not None:
        notes.append(f"a try-out: {len(predictions):,} rows, limit {options.limit}")
    results = {
        "benchmark": name,
        "title": BENCHMARKS[name].name,
        "data": benchmark.data,
        **model,
        **benchmark.made_from,
        "judge": judge if name == "llava_w" else None,
        "notes": notes,
        **evaluate_predictions(name, predictions),
        "versions": versions(),
    }
    write_json(file, results)
    return "\n".join([format_results(results), *notes, str(file)])


def _without_answers(benchmark: _Benchmark, predictions: Dataset) -> str:
    """Why there are no figures; of MMBench's test split there is a file to submit."""
    if benchmark.name != "mmbench" or STATUS_OK not in predictions["status"][:]:
        return "there is no question with an answer: no figures"
    submission = benchmark.folder / "submission.tsv"
    if not submission.exists():
        write_submission(predictions, submission)
    return f"this split has no answers: no figures; {submission} is what the evaluation server takes"


def _results_file(folder: Path) -> Path:
    return folder / "results.json"


def _read_predictions(folder: Path, *, judged: bool) -> Dataset:
    features = PREDICTION_FEATURES | JUDGE_FEATURES if judged else PREDICTION_FEATURES
    file = judged_file(folder) if judged else predictions_file(folder)
    if told := noted_damage(file):
        raise RunError(f"{file} {told}; give the same c3l evaluate again, which makes it again")
    return Dataset.from_parquet(str(file), features=Features(features), keep_in_memory=True)
