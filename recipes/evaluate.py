"""Evaluate a vision-language model on POPE, SEED-Bench, MMBench and LLaVA-Bench in the wild; compare two evaluations.

    accelerate launch recipes/evaluate.py --model llava-hf/llava-1.5-7b-hf --output_dir runs/evaluation
    python recipes/evaluate.py --model scenes --world scenes --bare_questions --output_dir runs/evaluation-scenes
    python recipes/evaluate.py compare runs/evaluation runs/evaluation-other

`<output_dir>/<benchmark>/` gets `predictions.parquet` (every answer), `results.json` (every figure with its standard
error and 95 % interval, what could not be asked or read) and, of LLaVA-Bench, `judged.parquet`. The same command again
goes on after an interruption. LLaVA-Bench's scores need --judge_base_url and --judge_model; the judge's key comes from
the environment variable JUDGE_API_KEY.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# This folder behind the installed packages: else this file would be taken for the package `evaluate`.
sys.path.sort(key=lambda path: Path(path).resolve() == Path(__file__).resolve().parent)

import torch
import yaml
from datasets import Dataset, Features
from trl import TrlParser

from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.common.versions import versions
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.evaluation.answerer import PredictionConfig
from c3l_hf.evaluation.endpoint import ChatEndpoint
from c3l_hf.evaluation.figures import (
    bare_questions,
    compare_runs,
    evaluate_predictions,
    format_results,
    scenes_questions,
    select_some,
)
from c3l_hf.evaluation.judge import JUDGE_FEATURES, PROMPT_VERSION, judge_answers
from c3l_hf.evaluation.predictions import PREDICTION_FEATURES, claim_folder, predict, predictions_file
from c3l_hf.evaluation.questions import BENCHMARKS, load_questions, write_submission
from c3l_hf.models.loading import Source, find_model, load
from c3l_hf.scenes.judge import judge_scene_answers

WORLDS = ("published", "scenes", "scenes-shifted")
# Long enough for an answer with its reason; a model that knows what is asked ends after a word.
MAX_NEW_TOKENS = {"pope": 32, "seed": 32, "mmbench": 32, "llava_w": 1024}
_WITH_OPTIONS = ("seed", "mmbench")
# Its 60 answers take as long as thousands of others: several processes share them, and an interruption loses few.
_LONG_ANSWERS = {"part_size": 16}
MAX_NEW_TOKENS_SCENES = dict.fromkeys(MAX_NEW_TOKENS, 96)


@dataclass
class EvaluateArguments:
    model: str = field(
        metadata={"help": "Model with a chat template: a folder, a Hub id, or 'scenes' for the shipped small one."}
    )
    output_dir: str = field(metadata={"help": "Folder of this evaluation: one model, any benchmarks."})
    benchmarks: list[str] = field(
        default_factory=lambda: list(BENCHMARKS), metadata={"help": f"Of: {' '.join(BENCHMARKS)}; or with commas."}
    )

    # Questions
    data: list[str] = field(
        default_factory=list,
        metadata={"help": "benchmark=folder or benchmark=Hub id, of the published layout."},
    )
    world: str = field(
        default="published",
        metadata={"help": "published, or scenes, scenes-shifted: the same benchmarks in the embedded world."},
    )
    num_images: int = field(default=500, metadata={"help": "Images of each benchmark on scenes."})
    seed: int = field(default=0, metadata={"help": "Seed of the scenes, and of sampling at a temperature above 0."})
    bare_questions: bool = field(
        default=False,
        metadata={"help": "Ask without options and request for a letter or word, for models that know neither."},
    )
    mmbench_split: str = field(default="dev", metadata={"help": "dev, or test: no figures, but a file to submit."})
    mmbench_circular: bool = field(default=True, metadata={"help": "Ask with all rotations of the options."})
    limit: int | None = field(
        default=None,
        metadata={"help": "Only so many questions of each, spread evenly; the results say so."},
    )

    # Model
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a model on the Hub."})
    model_dtype: str = field(
        default="auto", metadata={"help": "float32, bfloat16, float16, or auto: bfloat16 on an accelerator."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether code from the model's repository may be run."}
    )

    # Answers
    likelihood: bool = field(default=True, metadata={"help": "Also answer by the likelihoods of the options."})
    max_new_tokens: list[str] = field(
        default_factory=list,
        metadata={"help": "Longest answer, in tokens: a number, or benchmark=number. Models that reason need more."},
    )
    temperature: float = field(default=0.0, metadata={"help": "Sampling temperature; 0 is greedy."})
    batch_size: int = field(default=32, metadata={"help": "Answers written at once."})

    # Judge of LLaVA-Bench
    judge_base_url: str | None = field(
        default=None, metadata={"help": "An OpenAI-compatible endpoint, https://host/v1."}
    )
    judge_model: str | None = field(default=None, metadata={"help": "The judge's name there."})
    judge_temperature: float = field(
        default=0.2,
        metadata={"help": "Temperature of its replies; below 0: none is sent (some models have their own)."},
    )
    judge_max_tokens: int = field(default=1024, metadata={"help": "Its longest reply, in tokens; 0: none is sent."})
    judge_extra_body: str | None = field(
        default=None,
        metadata={"help": "Further fields of requests to it, JSON: '{\"max_completion_tokens\": 4096}'; no secrets."},
    )
    judge_timeout: float = field(default=120.0, metadata={"help": "Seconds without a byte of its reply."})
    judge_both_orders: bool = field(default=False, metadata={"help": "Ask in both orders of the answers, and average."})
    judge_max_errors: float | None = field(
        default=None, metadata={"help": "Largest share of failed judgements; more end the run. By default they count."}
    )


class Evaluation:
    """One model on some benchmarks. All of the call is checked before any answer is asked for."""

    def __init__(self, args: EvaluateArguments):
        self.args = args
        self.names = [name for part in args.benchmarks for name in part.split(",") if name]
        if unknown := [name for name in self.names if name not in BENCHMARKS]:
            raise RunError(f"--benchmarks has {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
        if args.world not in WORLDS:
            raise RunError(f"--world is {args.world!r}; it must be one of {', '.join(WORLDS)}")
        self.data = dict(self._assignment("data", item) for item in args.data)
        if self.data and args.world != "published":
            raise RunError(f"--data is for the published benchmarks, not for --world {args.world}")
        self.judge = self._judge()
        self.configs = self._configs()
        # Of all benchmarks, before the model is loaded.
        self.described: dict[str, str] = {}
        self.questions = {name: self._questions(name) for name in self.names}
        self.folder = Path(args.output_dir)
        folder, self.identity = find_model(args.model, args.model_revision, args.trust_remote_code, adapters=True)
        self._check_judge()
        self.model, self.processor = load(
            Source(str(folder), dtype=args.model_dtype, trust_remote_code=args.trust_remote_code)
        )
        for name in self.names:
            claim_folder(
                self.folder / name,
                self.questions[name],
                self.model,
                self.processor,
                self.configs[name],
                self._made_from(name),
            )

    def run(self, name: str) -> str:
        """Predicts, judges and reports on a benchmark; the text to print."""
        folder = self.folder / name
        predictions = predict(
            self.questions[name],
            self.model,
            self.processor,
            self.configs[name],
            folder=folder,
            made_from=self._made_from(name),
        )
        if not process_state().is_main_process:
            return ""
        notes, judge = [], None
        if name == "llava_w":
            judge, earlier = self._judged_by(), self._earlier_judge()
            if judge is None and earlier:
                return f"the results there, judged by {earlier['judge']}, stay as they are: {folder / 'results.json'}"
            if judge is None:
                notes.append("no --judge_base_url and --judge_model: answers only, no scores")
            else:
                predictions = self._judged(predictions, folder)
        if not any(predictions["answer"][:]) and (name != "mmbench" or STATUS_OK not in predictions["status"][:]):
            notes.append("there is no question with an answer: no figures")
        elif not any(predictions["answer"][:]):
            submission = folder / "submission.tsv"
            if not submission.exists():
                write_submission(predictions, submission)
            notes.append(f"this split has no answers: no figures; {submission} is what the evaluation server takes")
        if self.args.limit is not None:
            notes.append(f"a try-out: {len(predictions):,} rows, --limit {self.args.limit}")
        results = {
            "benchmark": name,
            "title": BENCHMARKS[name].name,
            "data": self.described[name],
            "model": self.args.model,
            **self.identity,
            **self._made_from(name),
            "judge": judge,
            "notes": notes,
            **evaluate_predictions(name, predictions),
            "versions": versions(),
        }
        _write(folder / "results.json", results)
        return "\n".join([format_results(results), *notes, str(folder / "results.json")])

    def _questions(self, name: str) -> Dataset:
        args = self.args
        if args.world == "published":
            split = args.mmbench_split if name == "mmbench" else None
            questions = load_questions(name, self.data.get(name), split=split, circular=args.mmbench_circular)
            self.described[name] = questions.info.description
        else:
            shifted = args.world == "scenes-shifted"
            questions = scenes_questions(
                name, args.num_images, seed=args.seed, shifted=shifted, circular=args.mmbench_circular
            )
            self.described[name] = f"{args.num_images:,} {args.world}, seed {args.seed}: {len(questions):,} rows"
        questions = select_some(questions, args.limit)
        return bare_questions(questions) if args.bare_questions else questions

    def _made_from(self, name: str) -> dict:
        args = self.args
        scenes = {"num_images": args.num_images, "scenes_seed": args.seed} if args.world != "published" else {}
        return {"benchmark": name, "world": args.world, "limit": args.limit, "bare": args.bare_questions, **scenes}

    def _configs(self) -> dict[str, PredictionConfig]:
        longest = dict(MAX_NEW_TOKENS if self.args.world == "published" else MAX_NEW_TOKENS_SCENES)
        for item in self.args.max_new_tokens:
            names, number = self._assignment("max_new_tokens", item) if "=" in item else (None, item)
            if not number.isdecimal():
                raise RunError(f"--max_new_tokens {item}: {number!r} is not a number")
            longest |= dict.fromkeys([names] if names else longest, int(number))
        shared = {name: getattr(self.args, name) for name in ("temperature", "seed", "batch_size")}
        parts = {"llava_w": _LONG_ANSWERS} if self.args.world == "published" else {}
        return {
            name: PredictionConfig(
                max_new_tokens=longest[name],
                likelihood=self.args.likelihood and name in _WITH_OPTIONS,
                **shared,
                **parts.get(name, {}),
            )
            for name in self.names
        }

    def _assignment(self, option: str, item: str) -> tuple[str, str]:
        name, equals, value = item.partition("=")
        if not equals or not value or name not in BENCHMARKS:
            raise RunError(f"--{option} {item} must be benchmark=value, with one of {', '.join(BENCHMARKS)}")
        return name, value

    def _judge(self) -> ChatEndpoint | None:
        args = self.args
        if (args.judge_base_url is None) != (args.judge_model is None):
            raise RunError("a judge needs both --judge_base_url and --judge_model")
        if args.judge_base_url is None:
            return None
        if args.world != "published" or "llava_w" not in self.names:
            raise RunError("--judge_base_url is for the published llava_w; scenes are judged by their truth")
        try:
            extra = json.loads(args.judge_extra_body or "{}")
        except ValueError:
            extra = None
        if not isinstance(extra, dict):
            raise RunError(f"--judge_extra_body is {args.judge_extra_body!r}; it must be an object in JSON")
        return ChatEndpoint(
            args.judge_base_url,
            args.judge_model,
            temperature=args.judge_temperature if args.judge_temperature >= 0 else None,
            max_tokens=args.judge_max_tokens if args.judge_max_tokens > 0 else None,
            extra_body=extra,
            timeout=args.judge_timeout,
        )

    def _earlier_judge(self) -> dict | None:
        """Who has given the scores that are there."""
        file = self.folder / "llava_w" / "results.json"
        results = json.loads(file.read_text()) if file.is_file() else {"figures": []}
        scores = [figure["value"] for figure in results["figures"] if figure["by"] == "judge"]
        return None if all(score is None for score in scores) else results["judge"]

    def _check_judge(self) -> None:
        earlier, judge = self._earlier_judge(), self._judged_by()
        if "llava_w" in self.names and earlier and judge and earlier != judge:
            raise RunError(
                f"{self.folder / 'llava_w'} holds scores by another judge ({earlier} there, {judge} now); give another "
                "--output_dir"
            )

    def _judged_by(self) -> dict | None:
        if self.args.world != "published":
            return {"judge": "the scenes checker"}
        if self.judge is None:
            return None
        return {
            "judge": self.judge.model,
            "base_url": self.judge.base_url,
            "temperature": self.judge.temperature,
            "max_tokens": self.judge.max_tokens,
            "extra_body": self.judge.extra_body,
            "both_orders": self.args.judge_both_orders,
            "prompt_version": PROMPT_VERSION,
        }

    def _judged(self, predictions: Dataset, folder: Path) -> Dataset:
        if self.judge is None:
            judged = judge_scene_answers(predictions)
        else:
            judged = judge_answers(
                predictions,
                self.judge,
                folder / "judgements.jsonl",
                both_orders=self.args.judge_both_orders,
                max_errors=self.args.judge_max_errors,
            )
        partial = folder / ".judged.parquet.partial"
        judged.to_parquet(partial)
        os.replace(partial, folder / "judged.parquet")
        return judged


def compare(folder_a: Path, folder_b: Path) -> str:
    """Paired tests of all benchmarks that both evaluations have."""
    folders = folder_a, folder_b
    names = [name for name in BENCHMARKS if all((path / name / "results.json").is_file() for path in folders)]
    if not names:
        raise RunError(f"{folder_a} and {folder_b} have results of no benchmark in common")
    parts = [f"a: {folder_a}\nb: {folder_b}"]
    for name in names:
        a, b = (json.loads((path / name / "results.json").read_text()) for path in folders)
        try:
            runs = zip(folders, (a, b))
            found = compare_runs(name, *(_predictions(path / name, bool(results["judge"])) for path, results in runs))
        except ValueError as error:
            raise RunError(f"{name}: {error}") from None
        notes = []
        if a["judge"] != b["judge"]:
            found["figures"] = [figure for figure in found["figures"] if figure["by"] != "judge"]
            notes.append(f"the judges differ ({a['judge']} and {b['judge']}): their scores are not compared")
        parts.append("\n".join([f"== {BENCHMARKS[name].name}", format_results(found), *notes]))
    return "\n\n".join(parts)


def _predictions(folder: Path, judged: bool) -> Dataset:
    features = PREDICTION_FEATURES | JUDGE_FEATURES if judged else PREDICTION_FEATURES
    file = folder / "judged.parquet" if judged else predictions_file(folder)
    return Dataset.from_parquet(str(file), features=Features(features), keep_in_memory=True)


def _write(path: Path, content: Mapping) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def parse_comparison(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py compare", description="Paired tests of two evaluations.")
    parser.add_argument("run_a", type=Path, help="--output_dir of the one")
    parser.add_argument("run_b", type=Path, help="--output_dir of the other; differences are b - a")
    return parser.parse_args(arguments)


def main(evaluation: Evaluation) -> None:
    started, state = time.monotonic(), process_state()
    if state.device.type == "cpu":
        # `accelerate launch` gives every process one thread unless told otherwise.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // state.num_processes))
    for name in evaluation.names:
        state.print(f"\n== {BENCHMARKS[name].name}", flush=True)
        try:
            state.print(evaluation.run(name), flush=True)
        except ValueError as error:
            raise RunError(f"{name}: {error}") from error
    state.print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        if sys.argv[1:2] == ["compare"]:
            runs = parse_comparison(sys.argv[2:])
            print(compare(runs.run_a, runs.run_b))
            sys.exit()
        (arguments,) = TrlParser((EvaluateArguments,)).parse_args_and_config()
        job = Evaluation(arguments)
    except (RunError, OSError, ValueError, yaml.YAMLError) as error:
        # Nothing has been done yet: one line says what is wrong with the call.
        sys.exit(f"evaluate: {error}")
    try:
        main(job)
    except RunError as error:
        sys.exit(f"evaluate: {error}")
