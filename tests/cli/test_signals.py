"""`c3l score --signals`, and ranking by several scores, on files of other people."""

import json

import pytest
from openai_server import OpenAIServer, completions
from scored_rows import picture
from tiny_models import tiny_llava

from c3l_hf.cli import main
from c3l_hf.cli.signals import SignalOptions, new_columns
from c3l_hf.files.opening import open_dataset
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.yes_no import truth_signal


def call(*words):
    return main([*map(str, words)])


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and rows in LLaVA's layout of which the last has no picture."""
    path = tmp_path_factory.mktemp("signals")
    for part in tiny_llava():
        part.save_pretrained(path / "model")
    rows = []
    for number, (question, answer) in enumerate([("Is there a dog?", "Yes."), ("How many?", "two"), ("Who?", "Ann")]):
        picture(number // 2).save(path / f"{number}.png")
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        rows.append({"id": number, "image": f"{number}.png", "conversations": turns})
    rows[2]["image"] = "missing.png"
    (path / "rows.json").write_text(json.dumps(rows))
    return path


def test_signals_beside_the_scores_and_later(folder, llava, tmp_path, capsys):
    call_of = ["score", "--model", folder / "model", "--image_folder", folder]
    some = [*call_of, "--dataset", folder / "rows.json", "--signals", "i2c", "question", "agreement"]
    assert call(*some, "--agreement_replies", 2, "--output", tmp_path / "a.parquet") == 0
    printed = capsys.readouterr().out
    assert "question: 3 rows, 2 with scores, 1 without" in printed and "agreement: 3 rows" in printed
    assert "no column generation_prompt says what was asked" in printed  # the rows are somebody's
    more = [*call_of, "--dataset", tmp_path / "a.parquet", "--signals", "truth", "premise"]
    assert call(*more, "--truth_text", "{{ question }} {{ answer }}?", "--output", tmp_path / "b.parquet") == 0
    found = open_dataset(tmp_path / "b.parquet")
    names = new_columns(["i2c", "question", "agreement", "truth", "premise"])
    assert found.column_names == ["id", "image", "conversations", *names]
    for status in ("i2c_status", "question_status", "agreement_status", "truth_status", "premise_status"):
        assert found[status][:2] == ["ok", "ok"] and "cannot be read" in found[status][2]
    assert [len(turns[0]["replies"]) for turns in found["agreement_turns"][:2]] == [2, 2]
    signal = truth_signal(I2CScorer(*llava, image_folder=folder), text="{{ question }} {{ answer }}?")
    expected = signal.score(json.loads((folder / "rows.json").read_text())[:2])
    for row, number in zip(expected, found["truth_logodds"][:2], strict=True):
        assert number == pytest.approx(row["truth_logodds"], abs=1e-5)
    words = ["--dataset", tmp_path / "b.parquet", "--target_size", 1, "--output", tmp_path / "c.parquet"]
    assert call("curate", *words, "--combine", "pmi=1", "truth_logodds=-0.5") == 0
    printed = capsys.readouterr().out
    assert "combined: 1 pmi + -0.5 truth_logodds, as ranks within the type; 1 rows have no pmi, 1 rows" in printed
    assert len(open_dataset(tmp_path / "c.parquet")) == 1
    assert call("select", "--dataset", tmp_path / "b.parquet", "--combine", "pmy=1", "--output", tmp_path / "d") == 1
    assert "combine: there is no column 'pmy' to combine; did you mean 'pmi'?" in capsys.readouterr().err


def test_a_judge_on_a_server(folder, tmp_path):
    with OpenAIServer(lambda body: completions(["Yes, it is."], model="judge"), ("judge",)) as server:
        words = ["--dataset", folder / "rows.json", "--image_folder", folder, "--signals", "judge"]
        words += ["--judge_url", server.url, "--model", folder / "model"]
        assert call("score", *words, "--output", tmp_path / "a.parquet") == 0
        asked = len(server.requests)
        assert call("score", *words, "--output", tmp_path / "b.parquet") == 0
        assert asked == len(server.requests) == 2
    found = open_dataset(tmp_path / "a.parquet")
    assert found["judge"][:] == [1, 1, None] and "cannot be read" in found["judge_status"][2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["truths"], "--signals has truths; there are i2c, truth,"),
        (["truth", "truth"], "--signals must name at least one signal, each once"),
        (["judge"], "--judge_url is missing"),
        (["truth", "--judge_model", "m"], "--judge_model is for the signal judge, which is not asked for"),
        (["i2c", "--truth_text", "Is it so?"], "--truth_text is for the signal truth or judge, which is not asked for"),
        (["truth", "--truth_text", "{{ question }}"], "signal truth: text has no {{ question }} or no {{ answer }}"),
        (["agreement", "--agreement_replies", "0"], "--agreement_replies is 0"),
    ],
)
def test_what_cannot_be_asked_for(folder, tmp_path, capsys, words, says):
    call_of = [
        "score",
        "--model",
        folder / "model",
        "--dataset",
        folder / "rows.json",
        "--output",
        tmp_path / "a.parquet",
    ]
    assert call(*call_of, "--signals", *words) != 0
    assert says in capsys.readouterr().err and not (tmp_path / "a.parquet").exists()


def test_the_scores_alone_by_default():
    assert SignalOptions().signals == ["i2c"]
