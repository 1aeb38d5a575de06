"""`c3l evaluate` and `c3l sft`: what reaches the functions behind them, and how they end."""

from pathlib import Path

import pytest
from tiny_models import tiny_llava
from tiny_training import pseudo_labels

from c3l_hf.cli import main
from c3l_hf.models.loading import Source

HOW = "--model org/model --model_revision v2 --dtype bfloat16 --device_map auto --attn_implementation eager".split()


def how(trust_remote_code=False):
    return Source(
        "org/model",
        "v2",
        "bfloat16",
        trust_remote_code=trust_remote_code,
        device_map="auto",
        attn_implementation="eager",
    )


@pytest.fixture
def evaluations(monkeypatch):
    calls = []

    def run_evaluation(options, source):
        calls.append((options, source))
        return {name: {"asked": options.limit} for name in options.names}

    monkeypatch.setattr("c3l_hf.cli.evaluate.run_evaluation", run_evaluation)
    return calls


def test_an_evaluation_gets_its_options_and_model(evaluations):
    words = "--benchmarks pope mmbench --output_dir out --limit 3 --max_new_tokens 7 pope=9 --trust_remote_code"
    assert main(["evaluate", *HOW, *words.split()]) == 0
    ((options, source),) = evaluations
    assert source == how(trust_remote_code=True)
    assert options.names == ["pope", "mmbench"] and options.max_new_tokens == ["7", "pope=9"] and options.limit == 3
    assert options.mmbench_circular and main(["evaluate", *HOW, *words.split(), "--no_mmbench_circular"]) == 0
    assert not evaluations[1][0].mmbench_circular


def test_an_evaluation_without_questions_is_a_failure(evaluations, capsys):
    assert main(["evaluate", *HOW, "--output_dir", "out", "--limit", "0"]) == 1
    assert capsys.readouterr().err.startswith("c3l evaluate: no question could be asked; see not_asked in out/")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--benchmarks popes", "c3l evaluate: --benchmarks has popes; there are pope, "),
        ("--world moon", "c3l evaluate: --world is 'moon'"),
        ("--world scenes --data pope=x", "c3l evaluate: --data is for the published benchmarks"),
        ("--max_new_tokens many", "c3l evaluate: --max_new_tokens has 'many'"),
    ],
)
def test_evaluations_that_are_refused(words, says, tmp_path, capsys):
    assert main(["evaluate", "--model", "scenes", "--output_dir", str(tmp_path / "out"), *words.split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(says) and not (tmp_path / "out").exists()


def test_a_comparison_of_what_is_not_there(tmp_path, capsys):
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["evaluate", "compare", *folders]) == 1
    assert f"there is no folder {folders[0]}; give the output_dir of an evaluation" in capsys.readouterr().err
    for folder in folders:
        Path(folder).mkdir()
    assert main(["evaluate", "compare", *folders]) == 1
    assert "have results of no benchmark in common" in capsys.readouterr().err


def test_a_fine_tuning_gets_its_options_and_model(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("c3l_hf.cli.sft.run_sft", lambda *call: calls.append(call))
    words = "--dataset user/d --dataset_config scored --trust_remote_code --learning_rate 3e-4 --bf16 false"
    assert main(["sft", *HOW, *words.split(), "--output_dir", str(tmp_path / "out")]) == 0
    ((options, source, training),) = calls
    assert (options.dataset, options.dataset_config) == ("user/d", "scored")
    assert source == how(trust_remote_code=True)
    assert training.learning_rate == 3e-4 and training.bf16 is False and training.output_dir == str(tmp_path / "out")


def test_a_fine_tuning_without_rows_that_can_be_used(tmp_path, capsys):
    for part in tiny_llava():
        part.save_pretrained(tmp_path / "model")
    pseudo_labels(1).remove_columns(["chosen", "rejected"]).to_parquet(tmp_path / "rows.parquet")
    call = ["--model", tmp_path / "model", "--dataset", tmp_path / "rows.parquet", "--output_dir", tmp_path / "out"]
    assert main(["sft", *map(str, call), "--bf16", "false"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("c3l sft: ") and "rows.parquet" in line and not (tmp_path / "out").exists()
