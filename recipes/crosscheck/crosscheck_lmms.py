"""lmms-eval in a process of its own: its tasks with other data, and what it leaves in its files."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from crosscheck_answers import Answer

from c3l_hf.evaluation.benchmarks import LETTERS

__all__ = ["TASKS", "check_finished", "run_lmms", "their_answers", "their_figures"]

# By the time; the tasks write other files whose names end alike.
_LOG, _RESULTS = "log.txt", "[0-9]*_results.json"

# Ours → lmms-eval's task, where its package has it, the figures that it reports under our names.
TASKS = {
    "pope": (
        "pope",
        "pope/pope.yaml",
        {f"pope_{name}": name for name in ("accuracy", "precision", "recall", "yes_ratio")} | {"pope_f1_score": "f1"},
    ),
    "seed": ("seedbench", "seedbench/seedbench.yaml", {"seed_image": "accuracy"}),
    "mmbench": ("mmbench_en_dev", "mmbench/mmbench_en_dev.yaml", {"gpt_eval_score": "circular_accuracy"}),
    "llava_w": (
        "llava_in_the_wild",
        "llava-in-the-wild/llava-in-the-wild.yaml",
        {f"gpt_eval_llava_{name}": f"relative_score {name}" for name in ("all", "conv", "detail", "complex")},
    ),
}


def run_lmms(folder: Path, data: Mapping[str, Path], judge: str, model: str, model_args: str) -> None:
    """Runs its four tasks on the CPU, one question at a time.

    Args:
        folder: New folder for the tasks' files, the log and the results.
        data: Benchmark → folder that `load_from_disk` reads.
        judge: Address of an OpenAI-compatible endpoint.
        model: lmms-eval's name of the model's kind.
        model_args: What it takes, `name=value,…`.

    Raises:
        RuntimeError: If it has failed; the log is named.
    """
    package = Path(importlib.util.find_spec("lmms_eval").origin).parent
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    for benchmark, (name, file, _) in TASKS.items():
        task = {
            "include": str(package / "tasks" / file),
            "task": f"crosscheck_{name}",
            "dataset_path": str(data[benchmark]),
            "dataset_kwargs": {"load_from_disk": True},
        }
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(task))
    # Its two benchmarks with a judge take the address in different ways: one as it is, one with a path added.
    environment = {"OPENAI_API_URL": judge, "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    names = ",".join(f"crosscheck_{name}" for name, _, _ in TASKS.values())
    command = [sys.executable, "-m", "lmms_eval", "eval", "--model", model, "--model_args", model_args]
    command += ["--tasks", names, "--include_path", str(tasks), "--device", "cpu", "--batch_size", "1"]
    command += ["--log_samples", "--output_path", str(folder)]
    with (folder / _LOG).open("w") as file:
        subprocess.run(command, env=os.environ | environment, stdout=file, stderr=file)
    check_finished(folder)


def check_finished(folder: Path) -> None:
    """It exits with 0 whatever happens, and takes a failed generation for an empty answer.

    Raises:
        RuntimeError: If either has happened.
    """
    log = folder / _LOG
    if " in generating" in log.read_text():
        raise RuntimeError(f"lmms-eval could not generate some answers, and counts them as empty: see {log}")
    if len(list(folder.rglob(_RESULTS))) != 1:
        raise RuntimeError(f"lmms-eval has written no results: see {log}")


def their_figures(folder: Path, benchmark: str) -> dict[str, float]:
    """The figures in its results file, by our names; MMBench's as a share."""
    name, _, figures = TASKS[benchmark]
    results = json.loads(next(folder.rglob(_RESULTS)).read_text())["results"][f"crosscheck_{name}"]
    found = {ours: results[f"{theirs},none"] for theirs, ours in figures.items()}
    return {name: value / 100 for name, value in found.items()} if benchmark == "mmbench" else found


def their_answers(folder: Path, benchmark: str, ids: list[str]) -> dict[str, Answer]:
    """What it has of each row of the data, whose ids these are.

    Raises:
        RuntimeError: If it has not asked them all.
    """
    name = TASKS[benchmark][0]
    lines = next(folder.rglob(f"*_samples_crosscheck_{name}.jsonl")).read_text().splitlines()
    samples = {sample["doc_id"]: sample for sample in map(json.loads, lines)}
    if sorted(samples) != list(range(len(ids))):
        raise RuntimeError(f"lmms-eval has {len(samples)} answers to the {len(ids)} questions of {name}")
    return {id: _their_answer(benchmark, samples[row]) for row, id in enumerate(ids)}


def _their_answer(benchmark: str, sample: Mapping[str, Any]) -> Answer:
    # What the model wrote is there twice if it is not what is read: without reasoning and blanks around it.
    prompt, text = sample["input"], sample.get("resps", sample["filtered_resps"])
    if benchmark == "pope":
        read = sample["pope_accuracy"]["prediction"]
        return Answer(prompt, text, read if read in ("yes", "no") else None)
    if benchmark == "seed":
        read = sample["seed_all"]["pred"].upper()
        return Answer(prompt, text, read if read and read in LETTERS else None)
    if benchmark == "llava_w":
        judged = sample["gpt_eval_llava_all"]
        return Answer(prompt, text, how=judged["review"], scores=tuple(judged["scores"]))
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    item, rules = sample["gpt_eval_score"], MMBench_Evaluator()
    if found := rules.can_infer_option(item["prediction"]):
        return Answer(prompt, text, found, "letter")
    found = rules.can_infer_text(item["prediction"], rules.build_choices(item))
    return Answer(prompt, text, found or None, "option" if found else None)
