"""A whole evaluation and the comparison of two: files, resuming, judges, wrong options, all before any work."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import PIL.Image
import pyarrow.parquet as pq
import pytest
from openai_server import OpenAIServer, Response
from peft import get_peft_model
from tiny_benchmarks import pope_rows, write_llava_bench, write_mmbench, write_pope, write_seed
from tiny_families import tiny_idefics3
from tiny_models import tiny_llava
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf.cli import main
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import read_json
from c3l_hf.data.worlds import find_world
from c3l_hf.evaluation import answerer as answering
from c3l_hf.evaluation.benchmarks import BENCHMARKS
from c3l_hf.evaluation.questions import load_questions
from c3l_hf.evaluation.run import EvaluateOptions, compare, run_evaluation
from c3l_hf.models.loading import Source
from c3l_hf.training.config import language_model_lora

WRITERS = {"pope": write_pope, "seed": write_seed, "mmbench": write_mmbench, "llava_w": write_llava_bench}
KEY = "sk-judge-of-the-tests"
URL = "https://host/v1"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The four benchmarks in their published layouts."""
    folder = tmp_path_factory.mktemp("data")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in tiny_llava():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def call(model, data):
    """An evaluation with small settings; what it returns and prints."""

    def call(output, *benchmarks, model=model, **options):
        local = {"data": [f"{name}={folder}" for name, folder in data.items()]}
        local |= {"max_new_tokens": ["5", "llava_w=7"], "benchmarks": list(benchmarks or BENCHMARKS)}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            results = run_evaluation(EvaluateOptions(str(output), **{**local, **options}), Source(str(model)))
        return results, printed.getvalue()

    return call


def judged_by(body):
    return "8 4\nThe second is worse." if "detail" in json.dumps(body) else "9 9"


@pytest.fixture(scope="module")
def evaluated(call, tmp_path_factory):
    """A finished evaluation of the four benchmarks; its judge goes on answering. Not to be changed: see `copied`."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    with pytest.MonkeyPatch.context() as patch, OpenAIServer(judged_by) as server:
        patch.setenv("JUDGE_API_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        judge = {"judge_base_url": server.url, "judge_model": "judge-1"}
        results, printed = call(folder, "pope,seed", "mmbench,llava_w", **judge)
        asked = len(server.requests)
        yield SimpleNamespace(folder=folder, results=results, printed=printed, judge=judge, server=server, asked=asked)


@pytest.fixture
def copied(evaluated, tmp_path, monkeypatch):
    """A copy of the finished evaluation, in which nothing may be asked of the model again."""
    shutil.copytree(evaluated.folder, tmp_path / "run")
    monkeypatch.setattr(answering.Answerer, "__call__", lambda *_: pytest.fail("asked again"))
    return tmp_path / "run"


@pytest.fixture
def answers_only(copied):
    """LLaVA-Bench answered and not judged, in folders of any name beside the copy."""

    def answers_only(name):
        target = copied.parent / "answered" / name / "llava_w"
        target.mkdir(parents=True)
        for file in ("predictions.json", "predictions.parquet"):
            shutil.copy(copied / "llava_w" / file, target)
        return target.parent

    return answers_only


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def of(results, figure, by="generated", group="all"):
    (entry,) = (f for f in results["figures"] if (f["by"], f["group"], f["figure"]) == (by, group, figure))
    return entry


def test_the_four_benchmarks(evaluated, data):
    server, folder = evaluated.server, evaluated.folder
    assert evaluated.asked == 6 and KEY in server.requests[0][1]["Authorization"]
    assert list(evaluated.results) == list(BENCHMARKS)
    for name, layout in BENCHMARKS.items():
        assert f"== {layout.name}" in evaluated.printed
        results = json.loads((folder / name / "results.json").read_text())
        assert results == evaluated.results[name]
        rows = pq.read_table(folder / name / "predictions.parquet").to_pylist()
        questions = load_questions(name, data[name])
        assert [row["question_id"] for row in rows] == questions["question_id"][:]
        assert results["questions"] == results["asked"] == len(questions) and str(data[name]) in results["data"]
        assert results["figures"] and results["benchmark"] == name and results["versions"]["torch"]
        assert (results["judge"] is None) == (name != "llava_w")
        longest = 7 if name == "llava_w" else 5
        assert json.loads((folder / name / "predictions.json").read_text())["max_new_tokens"] == longest
    assert results["judge"]["judge"] == "judge-1"
    judged = pq.read_table(folder / "llava_w" / "judged.parquet").to_pylist()
    assert of(results, "relative_score", "judge")["value"] == pytest.approx(
        100 * sum(row["model_score"] for row in judged) / sum(row["reference_score"] for row in judged)
    )
    seed = evaluated.results["seed"]
    assert {figure["by"] for figure in seed["figures"]} == {"generated", "likelihood", "likelihood minus prior"}
    files = contents(folder)
    assert len(files) > 10 and not any(KEY.encode() in content for content in files.values())


def test_the_same_again_asks_nothing_again(evaluated, copied, call):
    """Neither the model nor the judge."""
    before, asked = contents(copied), len(evaluated.server.requests)
    results, _ = call(copied, **evaluated.judge)
    assert results == evaluated.results and len(evaluated.server.requests) == asked
    after = contents(copied)
    assert before.keys() == after.keys()
    assert all(before[path] == after[path] for path in before if path.suffix != ".json")


def test_the_command(call, copied, evaluated, model, data, capsys):
    """`c3l evaluate` and `c3l evaluate compare` call the functions."""
    arguments = ["evaluate", "--model", model, "--output_dir", copied, "--benchmarks", "pope,seed"]
    arguments += ["--data", *(f"{name}={folder}" for name, folder in data.items()), "--max_new_tokens", "5"]
    assert main([*map(str, arguments)]) == 0
    assert "== POPE" in capsys.readouterr().out
    assert read_json(copied / "pope" / "results.json") == evaluated.results["pope"]
    assert main(["evaluate", "compare", str(copied), str(evaluated.folder)]) == 0
    assert "== SEED-Bench" in capsys.readouterr().out


def test_a_shipped_model_is_called_by_its_name(call, tmp_path):
    """Not by the place of the package on this machine."""
    results, _ = call(tmp_path, "pope", model=find_world("scenes").GENERATOR, limit=1)
    assert results["pope"]["model"] == "scenes" and results["pope"]["digest"]


def test_comparison(evaluated):
    text = compare(evaluated.folder, str(evaluated.folder))
    assert "== MMBench" in text and "b - a" in text and "+0.000" in text
    assert "likelihood minus prior" in text and "relative_score" in text


def test_other_options_need_another_folder(call, tmp_path, monkeypatch):
    results, printed = call(tmp_path / "run", "pope", "seed", limit=4)
    assert "a try-out: 4 rows, limit 4" in printed and results["pope"]["limit"] == 4
    with monkeypatch.context() as patch:
        patch.setattr(answering.Answerer, "__call__", lambda *_: pytest.fail("work before the error"))
        with pytest.raises(RunError, match=r"run/pope holds predictions .* \(limit: 4 there, None now\); give another"):
            call(tmp_path / "run", "mmbench", "pope")
        with pytest.raises(RunError, match="likelihood: True there, False now"):
            call(tmp_path / "run", "seed", limit=4, likelihood=False)
        # Where there are no options there are none to compare.
        call(tmp_path / "run", "pope", limit=4, likelihood=False)


def test_the_test_split_of_mmbench(call, tmp_path, monkeypatch):
    for _ in range(2):
        _, printed = call(tmp_path / "run", "mmbench", mmbench_split="test", likelihood=False)
        assert "no figures" in printed and "submission.tsv is what the evaluation server takes" in printed
        monkeypatch.setattr(answering.Answerer, "__call__", lambda *_: pytest.fail("asked again"))
    folder = tmp_path / "run" / "mmbench"
    lines = (folder / "submission.tsv").read_text().splitlines()
    assert len(lines) == 1 + len(pq.read_table(folder / "predictions.parquet")) > 6 and "prediction" in lines[0]
    assert json.loads((folder / "results.json").read_text())["figures"] == []


def test_a_benchmark_without_answers_is_no_test_split(call, tmp_path):
    """Only MMBench has a split that is asked without answers, for a file to submit."""
    folder = write_pope(tmp_path / "pope", [{**row, "answer": None} for row in pope_rows(3)])
    with pytest.raises(RunError, match="none of 3 questions can be asked; the first, adv.*-1: the answer is None"):
        call(tmp_path / "run", "pope", data=[f"pope={folder}"])
    assert not (tmp_path / "run" / "pope").exists()


def test_scores_of_an_earlier_judge_stay(evaluated, copied, call):
    """Neither a call without a judge nor one with another takes their place."""
    before = contents(copied)
    _, printed = call(copied, "llava_w")
    assert "judged by judge-1, stay as they are" in printed
    with pytest.raises(
        RunError, match="run/llava_w holds scores by another judge .*'temperature': None.* give another output_dir"
    ):
        call(copied, "llava_w", **evaluated.judge, judge_temperature=-1)
    assert contents(copied) == before


def test_scores_of_two_judges_are_not_compared(evaluated, answers_only, call):
    same, other = answers_only("same"), answers_only("other")
    call(same, "llava_w", **evaluated.judge)
    assert "relative_score" in compare(evaluated.folder, same)
    call(other, "llava_w", **evaluated.judge, judge_both_orders=True)
    text = compare(evaluated.folder, other)
    assert "relative_score" not in text and "the judges differ ({" in text


def test_a_judge_that_takes_other_fields(evaluated, answers_only, call):
    """As models that reason: another name for the longest reply, and no temperature but their own."""
    asked = len(evaluated.server.requests)
    options = {"judge_temperature": -1, "judge_max_tokens": 0}
    options["judge_extra_body"] = '{"max_completion_tokens": 4096}'
    results, _ = call(answers_only("run"), "llava_w", **evaluated.judge, **options)
    bodies = [body for _, _, body in evaluated.server.requests[asked:]]
    assert {frozenset(body) for body in bodies} == {frozenset({"model", "messages", "max_completion_tokens"})}
    judge = results["llava_w"]["judge"]
    assert judge["extra_body"] == {"max_completion_tokens": 4096} and judge["max_tokens"] is None


def test_a_student_of_adapters_alone(call, model, tmp_path):
    base = AutoModelForImageTextToText.from_pretrained(model)
    get_peft_model(base, language_model_lora(base, 4)).save_pretrained(tmp_path / "student")
    config = tmp_path / "student" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(model)}))
    AutoProcessor.from_pretrained(model).save_pretrained(tmp_path / "student")
    _, printed = call(tmp_path / "run", "pope", model=tmp_path / "student", limit=2)
    assert "accuracy" in printed


def test_no_judge(answers_only, call):
    folder = answers_only("run")
    _, printed = call(folder, "llava_w")
    assert "no judge_base_url and judge_model: answers only, no scores" in printed
    assert not (folder / "llava_w" / "judged.parquet").exists()


def test_an_embedded_world_is_judged_by_its_truth(call, tmp_path):
    options = {"world": "scenes-shifted", "num_images": 1, "bare_questions": True, "max_new_tokens": ["6"], "data": []}
    found, _ = call(tmp_path, **options)
    for name in BENCHMARKS:
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert results["world"] == "scenes-shifted" and results["bare"] and results["figures"]
        assert results["not_asked"]["count"] == 0 and results == found[name]
    assert results["judge"] == {"judge": "the scenes checker"}
    assert of(results, "relative_score", "judge")["value"] > 0


def test_a_judge_that_fails(answers_only, call, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    folder = answers_only("run")
    with OpenAIServer(lambda body: "I would rather not.") as server:
        judge = {"judge_base_url": server.url, "judge_model": "judge-1"}
        with pytest.raises(RunError, match="6 of 6 judgements failed, more than the share of 0.5"):
            call(folder, "llava_w", **judge, judge_max_errors=0.5)
        results, printed = call(folder, "llava_w", **judge)
    results = results["llava_w"]
    assert results["unreadable"]["judge"]["count"] == 6
    assert results["metric"]["judge"]["judge_errors"] == 6 and of(results, "relative_score", "judge")["value"] is None
    with OpenAIServer(lambda body: Response(401, b"{}")) as server:
        with pytest.raises(RunError, match="the key in JUDGE_API_KEY is not accepted"):
            call(folder, "llava_w", judge_base_url=server.url, judge_model="judge-2")
    assert KEY not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"benchmarks": ["popes"]}, "benchmarks has popes; there are pope, seed, mmbench, llava_w"),
        ({"benchmarks": []}, "benchmarks has nothing; there are pope, seed, mmbench, llava_w"),
        ({"world": "mars"}, "world is 'mars'; it must be one of published, scenes, scenes-shifted"),
        ({"world": "scenes"}, "data is for the published benchmarks"),
        ({"world": "scenes", "data": [], "num_images": 0}, "num_images is 0; it must be at least 1"),
        ({"data": ["pope"]}, "data has 'pope'; it must be benchmark=value"),
        ({"data": ["pope=/nowhere/at/all"]}, "POPE cannot be loaded from /nowhere/at/all"),
        ({"max_new_tokens": ["seed=many"]}, "'many' is not a number"),
        ({"max_new_tokens": ["0"]}, "max_new_tokens must be at least 1"),
        ({"limit": 0}, "limit is 0"),
        ({"judge_model": "judge-1"}, "judge_base_url and judge_model are needed together"),
        ({"judge_model": "j", "judge_base_url": "https://me:secret@host/v1"}, "base_url must be http"),
        (
            {"judge_model": "j", "judge_base_url": URL, "judge_extra_body": "[1]"},
            "judge_extra_body is '[1]'; it must be an object in JSON",
        ),
        (
            {"judge_model": "j", "judge_base_url": URL, "benchmarks": ["pope"]},
            "judge_base_url is for the published llava_w",
        ),
        ({"model": "/nowhere"}, "/nowhere is neither a folder here nor the name of a model"),
    ],
)
def test_wrong_calls_end_in_one_line_before_any_work(call, tmp_path, options, message):
    with pytest.raises(RunError) as error:
        call(tmp_path / "run", **options)
    assert message in str(error.value) and "\n" not in str(error.value) and "--" not in str(error.value)
    assert "secret" not in str(error.value) and not (tmp_path / "run").exists()


def test_bad_data_and_a_model_without_chat_template(call, data, tmp_path):
    with pytest.raises(RunError, match="pope is not in the layout of SEED-Bench"):
        call(tmp_path / "run", "seed", data=[f"seed={data['pope']}"])
    silent = tmp_path / "silent"
    for part in tiny_llava():
        if hasattr(part, "chat_template"):
            part = type(part)(part.image_processor, part.tokenizer, patch_size=8, chat_template=None)
        part.save_pretrained(silent)
    with pytest.raises(RunError, match="LlavaProcessor has no chat template"):
        call(tmp_path / "run", "pope", model=silent)
    with pytest.raises(RunError, match="have results of no benchmark in common"):
        compare(tmp_path, tmp_path)


def test_comparison_of_other_questions(evaluated, call, tmp_path):
    call(tmp_path / "fewer", "pope", limit=4)
    with pytest.raises(RunError, match="pope: the runs are not about the same questions"):
        compare(evaluated.folder, tmp_path / "fewer")


def test_a_strangers_files_and_another_family(call, tmp_path):
    """POPE's own lines with a folder of pictures, some of them bad: all rows are kept, those are counted."""
    model = tmp_path / "model"
    for part in tiny_idefics3():
        part.save_pretrained(model)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        PIL.Image.new("RGBA", (40, 30), (90 * number, 9, 9, 128)).save(pictures / f"{number}.png")
    content = (pictures / "2.png").read_bytes()
    (pictures / "2.png").write_bytes(content[: len(content) // 2])
    asked = {"text": "Is there a dog in the image?", "label": "no"}
    names = [*(f"{number % 4}.png" for number in range(8)), "0\0.png"]
    lines = [{"question_id": number, "image": name, **asked} for number, name in enumerate(names)]
    file = tmp_path / "coco_pope_popular.json"
    file.write_text("\n".join(map(json.dumps, lines)))
    given = {"data": [f"pope={file}"], "image_folders": [f"pope={pictures}"]}
    results, printed = call(tmp_path / "run", "pope", model=model, **given)
    found = results["pope"]
    assert (found["questions"], found["asked"], found["not_asked"]["count"]) == (9, 4, 5)
    assert {named["question_id"] for named in found["not_asked"]["first"]} == {f"popular-{n}" for n in (2, 3, 6, 7, 8)}
    assert "not asked: 5" in printed and "popular-3" in printed
    with pytest.raises(RunError, match="image_folders has seed, for which data says no file; say data too"):
        call(tmp_path / "other", "pope", model=model, data=given["data"], image_folders=["seed=x"])
    with pytest.raises(RunError, match="the image folder .*/nowhere of POPE does not exist"):
        call(tmp_path / "other", "pope", model=model, data=given["data"], image_folders=[f"pope={tmp_path}/nowhere"])
