"""Settings of a call: where they come from, which wins, and what is refused."""

import pytest
import yaml

from c3l_hf.cli import main
from c3l_hf.cli.dispatch import COMMANDS

SELECT = ["select", "--dataset", "rows.parquet", "--output", "labels.parquet", "--dry_run"]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("C3L_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings(capsys):
    """What a dry run prints: (the values, the lines)."""

    def merged(*arguments):
        assert main([*map(str, arguments)]) == 0
        printed = capsys.readouterr().out
        return yaml.safe_load(printed), printed.splitlines()

    return merged


@pytest.fixture
def refused(capsys):
    """The one line of a call that is refused."""

    def line(*arguments, code=2):
        assert main([*map(str, arguments)]) == code
        captured = capsys.readouterr()
        assert not captured.out and captured.err.count("\n") == 1, captured
        return captured.err.strip()

    return line


def test_flags_before_environment_before_yaml_before_defaults(settings, tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("within: all\nmax_rejected: 3\nmin_margin: 1e-1\nlimit: 7\n")
    monkeypatch.setenv("C3L_MAX_REJECTED", "2")
    monkeypatch.setenv("C3L_LIMIT", "6")
    values, lines = settings(*SELECT, "--config", file, "--limit", 5)
    assert (values["within"], values["max_rejected"], values["limit"]) == ("all", 2, 5)
    assert values["min_margin"] == 0.1  # YAML alone reads 1e-1 as a text
    assert values["score"] == "i2c" and values["split"] == "train"
    sources = dict(line.split("  # ") for line in lines if "  # " in line)
    assert sources["within: all"] == "mine.yaml" and sources["max_rejected: 2"] == "C3L_MAX_REJECTED"
    assert sources["limit: 5"] == "--limit" and "score: i2c" in lines


def test_what_a_dry_run_prints_is_a_configuration_again(settings, tmp_path):
    values, lines = settings(*SELECT, "--within", "all", "--min_margin", "0.25")
    (tmp_path / "again.yaml").write_text("\n".join(lines))
    again, _ = settings("select", "--config", tmp_path / "again.yaml")
    assert again == values


def test_a_configuration_by_the_environment(settings, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("within: all\n")
    monkeypatch.setenv("C3L_CONFIG", str(tmp_path / "mine.yaml"))
    assert settings(*SELECT)[0]["within"] == "all"


def test_hyphens_switches_and_values_with_equals_signs(settings):
    values, _ = settings("push", "--public", "runs/demo", "--hub-namespace=user", "--overwrite", "false", "--dry_run")
    assert values["public"] is True and values["run_folder"] == "runs/demo" and values["overwrite"] is False
    assert values["hub_namespace"] == "user"
    assert settings("verify", "user/name", "--dry-run")[0]["name"] == "user/name"
    compared, _ = settings("evaluate", "compare", "runs/a", "runs/b", "--dry_run")
    assert (compared["folder_a"], compared["folder_b"]) == ("runs/a", "runs/b")


def test_a_list_and_nothing(settings, tmp_path, monkeypatch):
    call = ["generate", "--images", "x", "--model", "scenes", "--output", "a.parquet", "--dry_run"]
    assert settings(*call, "--types", "count", "where")[0]["types"] == ["count", "where"]
    monkeypatch.setenv("C3L_TYPES", "colour,count")
    assert settings(*call)[0]["types"] == ["colour", "count"]
    (tmp_path / "mine.yaml").write_text("types: [where]\nnum_images: null\nmodel_revision: 1234567\n")
    monkeypatch.delenv("C3L_TYPES")
    values, lines = settings(*call, "--config", tmp_path / "mine.yaml")
    assert values["types"] == ["where"] and values["num_images"] is None and values["model_revision"] == "1234567"
    assert "num_images: null  # mine.yaml" in lines


def test_options_that_do_not_exist(refused, tmp_path, monkeypatch):
    assert refused(*SELECT, "--max_rejects", 3) == (
        "c3l select: there is no option --max_rejects; did you mean --max_rejected?"
    )
    # No option is taken for another that begins so.
    assert "no option --max_reject;" in refused(*SELECT, "--max_reject", 3)
    (tmp_path / "mine.yaml").write_text("within_it: all\n")
    assert refused(*SELECT, "--config", tmp_path / "mine.yaml") == (
        "c3l select: mine.yaml: there is no option within_it; did you mean within?"
    )
    assert refused(*SELECT, "stray") == "c3l select: 'stray' belongs to no option"
    # What is there was meant to be read.
    (tmp_path / "my pictures").mkdir()
    folder = str(tmp_path / "my pictures")
    assert refused("run", folder) == f"c3l run: {folder!r} belongs to no option; did you mean --images {folder!r}?"
    assert refused("scorex") == "c3l: there is no command scorex; did you mean score?; see c3l --help"


def test_options_that_were_called_otherwise(refused, tmp_path):
    (tmp_path / "old.yaml").write_text("model_dtype: float32\n")
    assert refused("run", "--config", tmp_path / "old.yaml").endswith("no option model_dtype; did you mean dtype?")
    assert refused("run", "--model_dtype", "float32").endswith("no option --model_dtype; did you mean --dtype?")
    assert refused("push", "runs/x", "--namespace", "user").endswith("did you mean --hub_namespace?")


def test_variables_that_do_not_exist(refused, settings, monkeypatch):
    # Of another command.
    monkeypatch.setenv("C3L_NUM_IMAGES", "20")
    settings(*SELECT)
    monkeypatch.setenv("C3L_MAX_REJECTS", "3")
    line = refused(*SELECT)
    assert line.startswith("c3l select: the environment has C3L_MAX_REJECTS, and no command has that option")
    assert line.endswith("; did you mean C3L_MAX_REJECTED?")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [1\n", "is not YAML that can be read"),
        ("- within\n", "must have lines like `num_images: 20`; it has list"),
        ("", "it has NoneType"),
        ("limit: 1\nlimit: 2\n", "limit is there twice"),
        ("limit: seven\n", "mine.yaml: limit: invalid int value: 'seven'"),
        ("limit: 2.5\n", "mine.yaml: limit: invalid int value: '2.5'"),
        ("limit: [1, 2]\n", "mine.yaml: limit is [1, 2], but takes one value"),
        ("limit: {a: 1}\n", "mine.yaml: limit is {'a': 1}, but takes one value"),
        ("max_rejected: null\n", "mine.yaml: max_rejected has no value"),
        ("within: any\n", "mine.yaml: within: invalid choice: 'any' (choose from 'type', 'all')"),
        ("dry_run: perhaps\n", "mine.yaml: dry_run: "),
    ],
)
def test_yaml_that_cannot_be_used(refused, tmp_path, content, says):
    (tmp_path / "mine.yaml").write_text(content)
    line = refused(*SELECT, "--config", tmp_path / "mine.yaml")
    assert line.startswith("c3l select: ") and says in line


def test_values_that_cannot_be_read(refused, monkeypatch):
    assert refused(*SELECT, "--limit", "seven") == "c3l select: --limit: invalid int value: 'seven'"
    assert refused(*SELECT, "--limit").endswith("--limit: expected one argument")
    assert "--within: invalid choice: 'any'" in refused(*SELECT, "--within", "any")
    assert refused(*SELECT, "--config") == "c3l select: --config needs a name: a YAML file, or a shipped one"
    assert refused("select", "--output", "a.parquet") == (
        "c3l select: --dataset is missing: give --dataset, a YAML file with it (--config), or C3L_DATASET"
    )
    assert refused("evaluate", "compare") == (
        "c3l evaluate compare: FOLDER_A and FOLDER_B are missing: give FOLDER_A, a YAML file with it (--config), or "
        "C3L_FOLDER_A"
    )
    monkeypatch.setenv("C3L_LIMIT", "many")
    assert refused(*SELECT) == "c3l select: C3L_LIMIT: limit: invalid int value: 'many'"


def test_a_configuration_that_is_not_there(refused):
    line = refused("run", "--config", "scnes")
    assert line.startswith(
        "c3l run: --config scnes: there is no such file, and those that are shipped are llava15_7b, "
    )
    assert line.endswith("did you mean scenes?")


def test_no_two_groups_of_a_command_have_the_same_option():
    from c3l_hf.cli.dispatch import _load
    from c3l_hf.cli.options import options_of

    for name in COMMANDS:
        command = _load(name)
        options = options_of(command.groups)
        assert "dry_run" in options and "config" not in options, name
        for group, shown in command.shown.items():
            assert group in command.groups and shown.keys() <= options_of([group]).keys(), name
        assert set(command.positionals) <= options.keys()


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        ([], {}, (3.0, 150, 2.0)),
        (["--num_train_epochs", 5], {}, (5.0, -1, None)),
        (["--max_steps", 9], {}, (3.0, 9, None)),
        (["--max_epochs", 9], {}, (3.0, 150, 9.0)),
        ([], {"C3L_NUM_TRAIN_EPOCHS": "5"}, (5.0, -1, None)),
        (["--max_steps", 9], {"C3L_NUM_TRAIN_EPOCHS": "5"}, (5.0, 9, None)),  # which the steps come before
        (["--max_steps", -1], {"C3L_NUM_TRAIN_EPOCHS": "5"}, (5.0, -1, None)),
        (["--max_steps", -1], {}, (3.0, -1, None)),
    ],
)
def test_how_long_training_takes_is_said_by_what_is_nearest_to_the_user(
    tmp_path, monkeypatch, capsys, flags, variables, expected
):
    """A trainer by itself lets max_steps of a YAML file win over epochs given as a flag."""
    monkeypatch.setattr("c3l_hf.pipeline.method.run_c3l", lambda *_, **__: None)
    (tmp_path / "mine.yaml").write_text("model: scenes\nimages: scenes\nmax_steps: 150\nmax_epochs: 2\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "--config", str(tmp_path / "mine.yaml"), "--dry_run", *map(str, flags)]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    shown = (values["num_train_epochs"], values["max_steps"], values.get("max_epochs"))
    assert shown == expected


def test_epochs_beside_steps_are_said_not_to_count(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("c3l_hf.pipeline.method.run_c3l", lambda *_, **__: None)
    file = tmp_path / "mine.yaml"
    for text, said in (("max_steps: 5\nnum_train_epochs: 2", 1), ("max_steps: -1\nnum_train_epochs: 2", 0)):
        caplog.clear()
        file.write_text(f"model: scenes\nimages: scenes\n{text}\n")
        assert main(["run", "--config", str(file)]) == 0
        assert caplog.text.count("num_train_epochs does not count beside max_steps") == said
