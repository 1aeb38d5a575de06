"""A model's answers to question rows: batches, parts, interruptions, bad rows, other runs' folders."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from closures import loaded_by
from datasets import Dataset
from scored_rows import picture, png
from tiny_models import tiny_llava

from c3l_hf.common.errors import RunError
from c3l_hf.evaluation import answerer as answering
from c3l_hf.evaluation import prediction_code
from c3l_hf.evaluation.answerer import Answerer, PredictionConfig
from c3l_hf.evaluation.predictions import PREDICTION_FEATURES, predict, predictions_file
from c3l_hf.evaluation.questions import QUESTION_FEATURES
from c3l_hf.generation.decoding import ColumnDecoder
from c3l_hf.metrics.reading import yes_no
from c3l_hf.scoring.scorer import I2CScorer

COLOURS = ["red", "green", "light blue", "black"]
SMALL = PredictionConfig(max_new_tokens=6, part_size=3, batch_size=2)


def question(id, image, text, options=(), status="ok", **meta):
    images = [{"bytes": png(image) if isinstance(image, int) else image, "path": None}]
    return {
        "question_id": id,
        "images": images,
        "question": text,
        "options": list(options),
        "answer": "yes",
        "group": "g",
        "cluster": str(image)[:9],
        "status": status,
        "meta": json.dumps(meta),
    }


ROWS = [
    question("a", 0, "Is there a dog? Answer yes or no."),
    question(
        "b", 1, "What colour is the background?\nA. red\nB. green\nC. light blue\nD. black", COLOURS, stem="Colour?"
    ),
    question("unreadable", b"no picture", "Is there a dog?", ["Yes", "No"]),
    question("c", 0, "How many cats are there? one two three four five", ["one", "two"]),
    question("not ok", 2, "Is there a car?", status="the answer is not among the options"),
    question("control", 2, "What does <image> mean?"),
    question("d", 2, "Describe this picture."),
    question("a again", 0, "Is there a dog? Answer yes or no."),
    question("bad option", 2, "Where is the car?", ["top left", " "]),
    question("long", 1, "Where? " * 200),
    question("e", 3, "Is there a dog? Answer yes or no."),
]


def dataset(rows=ROWS):
    return Dataset.from_list(rows, features=QUESTION_FEATURES)


def by_id(predictions):
    return {row["question_id"]: row for row in predictions}


def assert_same(a, b):
    """Equal but for rounding of the likelihoods."""
    assert len(a) == len(b)
    for one, other in zip(a, b):
        for name in PREDICTION_FEATURES:
            if name.startswith("option_logprobs") and one[name] is not None:
                assert one[name] == pytest.approx(other[name], rel=1e-5, abs=2e-6)
            else:
                assert one[name] == other[name]


@pytest.fixture(scope="module")
def base(llava):
    """One row at a time."""
    config = PredictionConfig(max_new_tokens=6, part_size=1, batch_size=1)
    return list(predict(dataset(), *llava, config, progress=False))


def test_written_answers_are_those_of_generate(llava, base):
    model, processor = llava
    found = by_id(base)
    for id, seed in (("a", 0), ("b", 1), ("d", 2), ("e", 3)):
        text = next(row["question"] for row in ROWS if row["question_id"] == id)
        content = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
        assert found[id]["prediction"] == processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert found[id]["ended"] == (processor.tokenizer.eos_token_id in ids.tolist())
        assert found[id]["status"] == "ok"
    assert len({found[id]["prediction"] for id in "abde"}) > 1
    assert found["a"]["prediction"] == found["a again"]["prediction"]


def test_likelihoods_are_those_of_the_scorer(llava, base):
    found, scorer = by_id(base), I2CScorer(*llava)
    for id, seed, text, options in (
        ("b", 1, "Colour?", COLOURS),  # not the question with its options
        ("c", 0, ROWS[3]["question"], ["one", "two"]),
    ):
        rows = [{"question": text, "answer": option, "image": picture(seed)} for option in options]
        scores = [scorer(row) for row in rows]
        assert found[id]["option_logprobs"] == pytest.approx([row["logprob"] for row in scores], rel=1e-5)
        assert found[id]["option_logprobs_blind"] == pytest.approx([row["logprob_blind"] for row in scores], rel=1e-5)
        assert found[id]["option_status"] == "ok"
    for id in "ade":  # no options
        assert found[id]["option_logprobs"] is found[id]["option_status"] is None


def test_batches_and_parts_do_not_matter(family):
    one = predict(dataset(), *family, PredictionConfig(6, part_size=1, batch_size=1), progress=False)
    for batch_size, part_size in ((2, 3), (4, 100), (100, 7)):
        config = PredictionConfig(6, batch_size=batch_size, part_size=part_size)
        assert_same(predict(dataset(), *family, config, progress=False), one)
    backwards = predict(dataset(ROWS[::-1]), *family, SMALL, progress=False)
    assert_same(list(backwards)[::-1], one)


def test_rows_that_cannot_be_asked_keep_their_place(base):
    assert [row["question_id"] for row in base] == [row["question_id"] for row in ROWS]
    found = by_id(base)
    reasons = {
        "unreadable": "the image cannot be read: it is no picture",
        "not ok": "the answer is not among the options",
        "control": "the text contains the control token '<image>'",
        "long": "tokens and up to 6 new ones, but the model takes at most 512",
    }
    for id, row in found.items():
        assert (row["prediction"] is None) == (row["status"] != "ok") == (id in reasons)
        assert reasons.get(id, "ok") in row["status"]
    assert found["unreadable"]["option_logprobs"] is None
    assert "option A: the image cannot be read" in found["unreadable"]["option_status"]
    # The one is answered in writing, though its options cannot be compared.
    assert found["bad option"]["status"] == "ok" and found["bad option"]["option_logprobs"] is None
    assert found["bad option"]["option_status"] == "option B: the answer is empty"


def test_nothing_to_ask(llava, tmp_path):
    rows = [question("x", 0, "Is there a dog?", status="the question is empty")]
    (row,) = predict(dataset(rows), *llava, SMALL, folder=tmp_path / "run")
    assert (row["status"], row["prediction"]) == ("the question is empty", None)


def test_an_interrupted_run_goes_on(llava, base, tmp_path, monkeypatch, caplog):
    asked, answers = [], Answerer.__call__

    def interrupted(self, rows, keys):
        asked.append([row["question_id"] for row in rows])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answers(self, rows, keys)

    monkeypatch.setattr(Answerer, "__call__", interrupted)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        predict(dataset(), *llava, SMALL, folder=folder)
    assert len(list(folder.glob("parts/*.parquet"))) == 1 and not predictions_file(folder).exists()
    made = predict(dataset(), *llava, SMALL, folder=folder)
    assert asked[0] == ["a", "c", "b"]  # those about a picture next to each other
    # Each question once, but for the part that was interrupted; none that asks the same as another.
    assert asked[1] == asked[2] and len(asked) == 4
    assert sorted(sum(asked[:1] + asked[2:], [])) == sorted({r["question_id"] for r in ROWS} - {"not ok", "a again"})
    assert_same(made, base)
    whole = predict(dataset(), *llava, SMALL, folder=tmp_path / "uninterrupted")
    assert list(made) == list(whole)
    assert predictions_file(folder).read_bytes() == predictions_file(tmp_path / "uninterrupted").read_bytes()
    names = [".predictions.parquet.xxh3", "predictions.json", "predictions.json.bak", "predictions.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == names

    monkeypatch.setattr(Answerer, "__call__", lambda *_: pytest.fail("asked again"))
    assert list(predict(dataset(), *llava, SMALL, folder=folder)) == list(made)
    assert pq.read_table(predictions_file(folder)).to_pylist() == list(made)

    monkeypatch.undo()
    content = bytearray(predictions_file(folder).read_bytes())
    content[100] ^= 1
    predictions_file(folder).write_bytes(content)
    (folder / "predictions.json").write_bytes(b"")
    assert list(predict(dataset(), *llava, SMALL, folder=folder)) == list(made)
    assert "predictions.parquet is not what was written; it is made again" in caplog.text
    assert (folder / "set_aside-1" / "predictions.parquet").read_bytes() == content


def test_another_run_is_an_error_that_says_what_differs(llava, tmp_path):
    model, processor = llava
    rows, folder = dataset(ROWS[:2]), tmp_path / "run"
    predict(rows, model, processor, SMALL, folder=folder, made_from={"benchmark": "pope"})
    before = predictions_file(folder).read_bytes()

    def refused(match, rows=rows, model=model, processor=processor, config=SMALL, made_from="pope"):
        with pytest.raises(RunError, match=match):
            predict(rows, model, processor, config, folder=folder, made_from={"benchmark": made_from})

    refused("max_new_tokens: 6 there, 7 now", config=PredictionConfig(7, part_size=3))
    refused("likelihood: True there, False now", config=PredictionConfig(6, False, part_size=3))
    refused("benchmark: 'pope' there, 'seed' now", made_from="seed")
    refused("rows: 2 there, 1 now", rows=dataset(ROWS[:1]))
    refused("questions: '", rows=dataset([ROWS[0], {**ROWS[1], "answer": "no"}]))
    refused("questions: '", rows=dataset([ROWS[0], question("b", 3, ROWS[1]["question"], COLOURS, stem="Colour?")]))
    refused(r"\(model: '", model=tiny_llava(seed=1)[0])
    other = copy.copy(processor)
    other.chat_template = processor.chat_template.replace("USER", "HUMAN")
    refused(r"\(processor: '", processor=other)
    ending = copy.deepcopy(model)
    ending.generation_config.eos_token_id = [7, 9]
    refused(r"end_tokens: \[\d+\] there, \[7, 9\] now", model=ending)
    assert predictions_file(folder).read_bytes() == before
    # How many are answered at once is no other run.
    predict(
        rows,
        model,
        processor,
        PredictionConfig(6, part_size=3, batch_size=9),
        folder=folder,
        made_from={"benchmark": "pope"},
    )


def test_predictions_are_known_by_the_code_they_come_from():
    """Of all modules of ours that the answerer loads, but those that open files, find models, or read pairs."""
    modules = loaded_by("c3l_hf.evaluation.answerer")
    harmless = {"c3l_hf.files.inventory", "c3l_hf.data.worlds", "c3l_hf.prompts.parsing", "c3l_hf.models.loading"}
    rooms = {name for name in modules if not name.startswith("c3l_hf.common.")} - harmless
    # Of what is common to all only that which reads texts.
    assert rooms | {"c3l_hf.common.thoughts"} == {module.__name__ for module in prediction_code.MODULES}


def test_a_folder_with_other_things_in_it(llava, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is in the way: it has no predictions.json"):
        predict(dataset(), *llava, SMALL, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_sampled_answers_depend_on_seed_and_question_alone(llava, monkeypatch):
    def texts(rows=ROWS, **options):
        config = PredictionConfig(6, likelihood=False, temperature=1.0, **options)
        return {id: row["prediction"] for id, row in by_id(predict(dataset(rows), *llava, config)).items()}

    first = texts(part_size=100, batch_size=4)
    assert first == texts(part_size=2, batch_size=1) == texts(ROWS[::-1])
    assert first != texts(seed=1)

    numbers, write = [], answering.TextSampler.write

    def recorded(self, prompts):
        prompts = list(prompts)
        numbers.extend(tuple(uniforms[0].tolist()) for _, _, uniforms in prompts)
        return write(self, prompts)

    monkeypatch.setattr(answering.TextSampler, "write", recorded)
    texts()
    assert len(set(numbers)) == len(numbers) == 6  # no two questions have the same


def test_wrong_calls(llava):
    model, processor = llava
    silent = copy.copy(processor)
    silent.chat_template = None
    with pytest.raises(ValueError, match="LlavaProcessor has no chat template"):
        predict(dataset(), model, silent)
    with pytest.raises(ValueError, match="no column images, status; their columns are question_id, question"):
        predict(dataset().remove_columns(["images", "status"]), model, processor)
    with pytest.raises(ValueError, match="'d' occurs more than once"):
        predict(dataset([*ROWS, ROWS[6]]), model, processor)
    with pytest.raises(ValueError, match="no questions"):
        predict(dataset().select([]), model, processor)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, not 0"):
        PredictionConfig(max_new_tokens=0)


def test_a_model_that_is_not_exact_in_batches_answers_one_at_a_time(llava, base, monkeypatch, caplog):
    sizes, run = [], ColumnDecoder.run

    def counted(self, prompts, wanted=0):
        sizes.append(len(prompts))
        return run(self, prompts, wanted)

    monkeypatch.setattr(ColumnDecoder, "run", counted)
    assert_same(predict(dataset(), *llava, SMALL), base)
    assert max(sizes) == 2 and not caplog.records
    sizes.clear()
    monkeypatch.setattr(answering, "check_prompts", lambda *_: "it mixes rows")
    assert_same(predict(dataset(), *llava, SMALL), base)
    assert max(sizes) == 1 and "answers one question at a time: it mixes rows" in caplog.text


def test_a_prompt_that_opens_a_thought(llava, caplog):
    """No answer has a place right after it, so there are no likelihoods; but the model can write, in batches too."""
    model, processor = llava[0], copy.copy(llava[1])
    processor.chat_template = processor.chat_template.replace("prompt %}ASSISTANT:", "prompt %}ASSISTANT: <think>\n")

    def texts(**options):
        made = predict(dataset(), model, processor, PredictionConfig(6, likelihood=False, **options), progress=False)
        assert {row["status"] for row in made if row["question_id"] in "abde"} == {"ok"}
        return [row["prediction"] for row in made if row["status"] == "ok"]

    written = texts(batch_size=4)
    assert written == texts(batch_size=1, part_size=1) and not caplog.records
    # Cut off within the thought, which is no answer.
    assert all(text.startswith("<think>\n") and text != "<think>\n" for text in written)
    assert yes_no(f"{written[0]}Yes") is None and yes_no(f"{written[0]}</think>Yes") == "yes"

    without_options = dataset([row for row in ROWS if not row["options"]])
    assert "ok" in predict(without_options, model, processor, SMALL, progress=False)["status"]
    with pytest.raises(RunError, match=r"^Llava\w+ has no likelihoods of options: the tokens of the prompt are not .*"):
        predict(dataset(), model, processor, SMALL, progress=False)
    with pytest.raises(RunError, match=r"set likelihood=False$") as error:
        predict(dataset(), model, processor, SMALL, progress=False)
    assert "blind" not in str(error.value) and "\n" not in str(error.value)


def test_the_model_is_left_as_it_was(llava):
    model = tiny_llava()[0].train()
    settings = model.generation_config.to_dict()
    predict(dataset(ROWS[:1]), model, llava[1], SMALL)
    assert model.training and model.generation_config.to_dict() == settings
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in model.parameters())


@pytest.mark.slow
def test_two_processes_equal_one(base, tmp_path):
    for part in tiny_llava():
        part.save_pretrained(tmp_path / "model")
    dataset().to_parquet(tmp_path / "rows.parquet")
    script = tmp_path / "script.py"
    script.write_text(
        "import json\n"
        "from datasets import load_dataset\n"
        "from c3l_hf.models.loading import Source, load\n"
        "from c3l_hf.evaluation.predictions import PredictionConfig, predict\n"
        "from c3l_hf.common.processes import process_state\n"
        f"rows = load_dataset('parquet', data_files={str(tmp_path / 'rows.parquet')!r}, split='train')\n"
        f"model, processor = load(Source({str(tmp_path / 'model')!r}))\n"
        f"config = PredictionConfig(max_new_tokens=6, part_size=2, batch_size=2)\n"
        f"made = predict(rows, model, processor, config, folder={str(tmp_path / 'run')!r})\n"
        f"open(f'{tmp_path}/{{process_state().process_index}}.json', 'w').write(json.dumps(list(made)))\n"
        "print(f'PROCESSES {process_state().num_processes}\\n', end='')\n"
    )
    # Without accelerators `accelerate launch` starts one process only; what it calls elsewhere starts two.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    env |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(launch, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("PROCESSES 2") == 2
    for number in (0, 1):
        assert_same(json.loads((tmp_path / f"{number}.json").read_text()), base)
    assert_same(pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist(), base)
