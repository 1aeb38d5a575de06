"""The same figures through lmms-eval: are they ours, answer for answer, and where not, why?

    make crosscheck                                # its own environment: .venv-crosscheck
    .venv-crosscheck/bin/python recipes/crosscheck/crosscheck.py --model folder/ --images 30

Small local copies of POPE, SEED-Bench, MMBench and LLaVA-Bench (the benchmarks on scenes, in the published layouts) are
put to a model by lmms-eval's own tasks, unmodified except for where their data are, and by `c3l_hf.evaluation.run`; on
the CPU in float32, so that both compute the same. MMBench, for which their prompts differ, is put to it by us once more
with lmms-eval's prompts: then all must be the same.

A second run has no model: to every question belongs a text written here, such as models write ("(B)", "Yes, there is no
…", "B and C"), so that the readings are compared too. Both runs go through all of lmms-eval, up to the figures in its
results file.

The judge that two of the benchmarks ask is a stand-in on this machine. It grades by a checksum of the answer, so that
both programs get the same grades; in the second run some of its replies are such as judges should not give. Asked by
lmms-eval which option an answer means, it says: none.

Every difference goes into `differences.jsonl`, by question, with its cause; `report.txt` sums up. The command fails
if a difference has no known cause.
"""

import importlib.util
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from crosscheck_answers import CAUSES, Answer, Difference, Figure, compare_answers, compare_figures
from crosscheck_lmms import TASKS, run_lmms, their_answers, their_figures
from crosscheck_texts import REPLIES, WELL, grade, written
from datasets import Dataset, DatasetDict, concatenate_datasets
from openai_server import OpenAIServer
from trl import TrlParser

from c3l_hf.common.errors import RunError
from c3l_hf.common.tables import format_table
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.data.worlds import find_world
from c3l_hf.evaluation.answerer import PredictionConfig, stem
from c3l_hf.evaluation.benchmarks import CIRCULAR_STEP, LETTERS
from c3l_hf.evaluation.counts import count_answers
from c3l_hf.evaluation.judge import judge_answers
from c3l_hf.evaluation.judge_endpoint import JudgeEndpoint
from c3l_hf.evaluation.judge_setup import judged_file
from c3l_hf.evaluation.predictions import PREDICTION_FEATURES, predict, predictions_file
from c3l_hf.evaluation.questions import load_questions
from c3l_hf.evaluation.run import EvaluateOptions, run_evaluation
from c3l_hf.metrics.choice import letter
from c3l_hf.metrics.reading import yes_no
from c3l_hf.models.loading import Source, load
from c3l_hf.scenes import GENERATOR

SPLITS = {"pope": "test", "seed": "test", "mmbench": "dev", "llava_w": "train"}


@dataclass
class CrosscheckArguments:
    model: str = field(default=GENERATOR, metadata={"help": "Folder or Hub id; default: the scenes generator."})
    lmms_model: str = field(default="llava_hf", metadata={"help": "lmms-eval's name of the model's kind."})
    images: int = field(default=8, metadata={"help": "Scenes in each benchmark; 4 to 11 questions about each."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest answer of ours; lmms-eval has its own limits."})
    seed: int = field(default=0, metadata={"help": "Seed of scenes and questions."})
    output_dir: str | None = field(default=None, metadata={"help": "New folder; default: runs/crosscheck/<time>."})


def with_rotations(rows: Dataset) -> Dataset:
    """MMBench's rows with their rotated copies, as published: the options turned to the left, the index raised."""
    copies = []
    for row in rows.with_format("arrow")[:].to_pylist():
        texts = [row[name] for name in LETTERS if row[name] != "nan"]
        for turn in range(1, len(texts)):
            turned = dict(zip(LETTERS, texts[turn:] + texts[:turn]))
            answer = next(name for name, text in turned.items() if text == row[row["answer"]])
            copies.append({**row, **turned, "answer": answer, "index": row["index"] + turn * CIRCULAR_STEP})
    return concatenate_datasets([rows, Dataset.from_list(copies, features=rows.features)])


def with_videos(rows: Dataset, n: int = 2) -> Dataset:
    """SEED-Bench's rows, and some that are about videos: three frames each."""
    videos = rows.with_format("arrow")[:n].to_pylist()
    for number, row in enumerate(videos):
        frames = row["image"] * 3
        row.update(data_type="video", question_id=f"video-{number}", question_type_id=10, image=frames, segment=[0, 3])
    return concatenate_datasets([rows, Dataset.from_list(videos, features=rows.features)])


def row_id(benchmark: str, row: Mapping[str, Any]) -> str:
    """The question_id that `load_questions` gives to a published row."""
    if benchmark == "pope":
        return f"{row['category']}-{row['question_id']}"
    if benchmark == "seed":
        return f"{row['question_type_id']}-{row['question_id']}"
    return str(row["index" if benchmark == "mmbench" else "question_id"])


def our_answers(benchmark: str, predictions: Iterable[Mapping[str, Any]]) -> dict[str, Answer]:
    """What we have of each question that was asked."""
    found = {}
    for row in predictions:
        if row["status"] != STATUS_OK:
            continue
        text, read, scores = row["prediction"], None, None
        if benchmark == "llava_w":
            scores = (row["reference_score"], row["model_score"]) if row["judge_status"] == STATUS_OK else None
        else:
            read = letter(text, row["options"]) if row["options"] else yes_no(text, stem(row))
        found[row["question_id"]] = Answer(row["question"], text, read, None, scores, row["ended"])
    return found


class Crosscheck:
    """The data, and what both programs make of them.

    Args:
        args: Options.
        folder: New folder for all files.
    """

    def __init__(self, args: CrosscheckArguments, folder: Path):
        self.args, self.folder = args, folder
        self.source = Source(args.model, dtype="float32", device="cpu")
        scenes = find_world("scenes")
        rows = {name: scenes.benchmark("scenes", name, args.images, args.seed) for name in TASKS}
        rows["seed"], rows["mmbench"] = with_videos(rows["seed"]), with_rotations(rows["mmbench"])
        self.data, self.ids, self.questions = {}, {}, {}
        for name, published in rows.items():
            self.data[name] = folder / "data" / name
            DatasetDict({SPLITS[name]: published}).save_to_disk(self.data[name])
            plain = published.select_columns([column for column in published.column_names if column != "image"])
            self.ids[name] = [row_id(name, row) for row in plain]
            asked = load_questions(name, self.data[name])
            self.questions[name] = {row["question_id"]: row for row in asked.remove_columns("images")}
            for id in self.ids[name]:
                self.questions[name].setdefault(id, {"status": "video", "options": [], "answer": "A", "meta": "{}"})

    def of_model(self) -> dict[str, tuple[list[Difference], list[Figure], int]]:
        """Both programs put the questions to the model."""
        args, ours, lmms = self.args, self.folder / "model" / "ours", self.folder / "model" / "lmms-eval"
        with OpenAIServer(lambda body: grade(body, (WELL,))) as judge:
            options = EvaluateOptions(
                str(ours),
                benchmarks=list(TASKS),
                data=[f"{name}={path}" for name, path in self.data.items()],
                max_new_tokens=[str(args.max_new_tokens)],
                likelihood=False,
                judge_base_url=judge.url,
                judge_model="stand-in",
            )
            results = run_evaluation(options, self.source)
            lmms_args = f"pretrained={args.model},dtype=float32,device_map=cpu"
            run_lmms(lmms, self.data, judge.url, args.lmms_model, lmms_args)
        found = {}
        for name in TASKS:
            file = judged_file(ours / name) if name == "llava_w" else predictions_file(ours / name)
            predictions = pq.read_table(file).to_pylist()
            metric = results[name]["metric"]["judge" if name == "llava_w" else "generated"]
            found[name] = self._compared(name, lmms, predictions, metric)
        found["mmbench, its prompts"] = self._with_their_prompts(lmms)
        return found

    def of_written(self) -> dict[str, tuple[list[Difference], list[Figure], int]]:
        """Both programs read texts that are the same by construction."""
        folder, found, predictions = self.folder / "written", {}, {}
        logs = folder / "logs"
        logs.mkdir(parents=True)
        for name, (task, _, _) in TASKS.items():
            numbers: dict[Any, int] = {}
            rows = []
            for id, question in self.questions[name].items():
                number = numbers.setdefault(json.loads(question["meta"]).get("base", id), len(numbers))
                rows.append({**question, "question_id": id, "prediction": written(question, number), "ended": True})
            texts = {row["question_id"]: row["prediction"] for row in rows}
            log = [{"doc_id": row, "resps": [[texts[id]]]} for row, id in enumerate(self.ids[name])]
            content = {"args": {"model": "", "model_args": "", "limit": None}, "logs": log}
            content["model_configs"] = {"task": f"crosscheck_{task}"}
            (logs / f"{task}.json").write_text(json.dumps(content))
            rows = [dict.fromkeys(PREDICTION_FEATURES) | row for row in rows if row["status"] != "video"]
            rows = [{name: row[name] for name in PREDICTION_FEATURES} for row in rows]
            predictions[name] = Dataset.from_list(rows, features=PREDICTION_FEATURES)
        with OpenAIServer(lambda body: grade(body, REPLIES)) as judge:
            endpoint = JudgeEndpoint(judge.url, "stand-in", retries=0)
            predictions["llava_w"] = judge_answers(
                predictions["llava_w"], endpoint, folder / "judgements.jsonl", progress=False
            )
            lmms = folder / "lmms-eval"
            run_lmms(lmms, self.data, judge.url, "from_log", f"logs={logs}")
        for name in TASKS:
            found[name] = self._compared(
                name, lmms, predictions[name], count_answers(name, predictions[name])[0].metric, prompts=False
            )
        return found

    def _compared(
        self,
        name: str,
        lmms: Path,
        predictions: Iterable[Mapping[str, Any]],
        metric: Mapping[str, Any],
        prompts: bool = True,
    ) -> tuple[list[Difference], list[Figure], int]:
        theirs, ours = their_answers(lmms, name, self.ids[name]), our_answers(name, predictions)
        questions = {id: {**row, "meta": json.loads(row["meta"])} for id, row in self.questions[name].items()}
        differences = compare_answers(name, questions, theirs, ours, prompts=prompts)
        figures = compare_figures(name, predictions, theirs, ours, their_figures(lmms, name), metric)
        return differences, figures, len(theirs)

    def _with_their_prompts(self, lmms: Path) -> tuple[list[Difference], list[Figure], int]:
        """MMBench again, by us with lmms-eval's prompts: all else must be the same."""
        theirs = their_answers(lmms, "mmbench", self.ids["mmbench"])
        questions = load_questions("mmbench", self.data["mmbench"])
        prompts = [theirs[id].prompt for id in questions["question_id"][:]]
        questions = questions.remove_columns("question").add_column("question", prompts)
        config = PredictionConfig(max_new_tokens=self.args.max_new_tokens, likelihood=False)
        predictions = predict(questions, *load(self.source), config)
        return self._compared("mmbench", lmms, predictions, count_answers("mmbench", predictions)[0].metric)


def report(found: Mapping[str, tuple[list[Difference], list[Figure], int]]) -> str:
    """What is the same, which figures follow, and every difference by question."""
    lines = [("", "questions", "other prompt", "other text", "other reading", "unexplained")]
    figures = [("", "figure", "lmms-eval", "our definition, its readings", "ours", "")]
    causes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    notes = set()
    for name, (differences, compared, questions) in found.items():
        kinds = [difference.what for difference in differences]
        numbers = (kinds.count("prompt"), kinds.count("text"), kinds.count("answer") + kinds.count("scores"))
        lines.append((name, questions, *numbers, sum(difference.cause is None for difference in differences)))
        for figure in compared:
            note = "UNEXPLAINED" if figure.cause is None else "other definition" if figure.cause else ""
            notes |= {f"{figure.name}: {figure.cause}"} if figure.cause else set()
            values = (f"{value:.4f}" for value in (figure.reported, figure.of_their_answers, figure.ours))
            figures.append((name, figure.name, *values, note))
        for difference in differences:
            causes[difference.cause or "UNEXPLAINED"][name].append(difference.question_id)
    parts = [format_table(lines), format_table(figures), "\n".join(sorted(notes))]
    for cause, where in sorted(causes.items()):
        listed = [f"  {name}, {len(ids):,}: {', '.join(ids)}" for name, ids in where.items()]
        parts.append("\n".join([f"{cause}: {CAUSES.get(cause, 'look at these')}", *listed]))
    return "\n\n".join(part for part in parts if part)


def main(args: CrosscheckArguments) -> bool:
    """Whether every difference has a known cause."""
    if importlib.util.find_spec("lmms_eval") is None:
        raise SystemExit("crosscheck: lmms-eval is not installed here; `make crosscheck` makes the environment")
    folder = Path(args.output_dir or f"runs/crosscheck/{datetime.now():%Y%m%d-%H%M%S}").resolve()
    if folder.exists():
        raise SystemExit(f"crosscheck: {folder} is there already; give another --output_dir")
    work = Crosscheck(args, folder)
    whole, known = [], True
    for run, found in (("model", work.of_model()), ("written answers", work.of_written())):
        whole.append(f"== {run}\n\n{report(found)}")
        with (folder / "differences.jsonl").open("a") as file:
            for name, (differences, figures, _) in found.items():
                known &= all(item.cause is not None for item in (*differences, *figures))
                for difference in differences:
                    file.write(json.dumps({"run": run, "benchmark": name, **asdict(difference)}) + "\n")
    text = "\n\n".join(whole) + f"\n\nAll differences: {folder / 'differences.jsonl'}"
    (folder / "report.txt").write_text(text + "\n")
    print(text)
    return known


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    (arguments,) = TrlParser((CrosscheckArguments,)).parse_args_and_config()
    try:
        explained = main(arguments)
    except (RunError, RuntimeError) as error:
        sys.exit(f"crosscheck: {error}")
    if not explained:
        sys.exit("crosscheck: some differences have no known cause")
