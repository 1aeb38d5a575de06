"""`c3l run`: calls that are wrong, before any work."""

import pytest

from c3l_hf.cli import main
from c3l_hf.cli.settings import find_config

TOKEN = "hf_recipesecret"
SMALL = ["--num_images", "14", "--pairs_per_image", "3", "--max_steps", "2", "--target_size", "20"]


def wrong_calls(tmp_path):
    """What is wrong → (arguments, what the line says, exit code)."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_text("x")
    (tmp_path / "unknown.yaml").write_text(find_config("scenes").read_text() + "colour_of_the_sky: blue\n")
    push = ["--push_to_hub", "--license", "apache-2.0"]
    return {
        "no such folder": (["--images", tmp_path / "nowhere"], "nowhere", 1),
        "empty folder": (["--images", tmp_path / "empty"], "has no pictures", 1),
        "not a picture": (["--images", tmp_path / "texts"], "has no pictures in it; ", 1),
        "no such model": (["--model", tmp_path / "no_model"], "c3l run: --model ", 1),
        "not a model": (["--model", tmp_path / "texts"], "no config.json", 1),
        "no safe weights": (["--model", tmp_path / "pickled"], "no weights as *.safetensors", 1),
        "no such scorer": (["--scorer_model", tmp_path / "no_model"], "no_model", 1),
        "no such pairs": (["--pairs", tmp_path / "no.parquet"], "c3l run: ", 1),
        "unknown key": (
            ["--config", tmp_path / "unknown.yaml"],
            "unknown.yaml: there is no option colour_of_the_sky",
            2,
        ),
        "no such file": (["--config", tmp_path / "no.yaml"], "no.yaml", 2),
        "misspelt stage": (["--stages", "scores"], "write; did you mean 'score'?", 1),
        "misspelt configuration": (["--config", "scene"], "; did you mean scenes?", 2),
        "misspelt folder": (["--images", f"{tmp_path / 'text'}/"], f"folder (there is {tmp_path / 'texts'})", 1),
        "misspelt world": (["--images", "scene"], "--images scene: there is no such folder; did you mean 'scenes'?", 1),
        "misspelt model": (["--model", "scene"], "nor the name of a model on the Hub, as user/name; did you mean", 1),
        "unknown stage": (["--stages", "bake"], "'bake'; the stages are generate, score", 1),
        "unknown first stage": (["--restart_from", "bake"], "'bake'; the stages are generate, score", 1),
        "unknown type": (["--types", "smell"], "smell", 1),
        "a negative temperature": (
            ["--sampling_temperature", "-1"],
            "c3l run: --sampling_temperature must be at le",
            1,
        ),
        "batches of nothing": (
            ["--generation_batch_size", "0"],
            "c3l run: --generation_batch_size must be at least",
            1,
        ),
        "unknown ranking": (["--ranking", "beauty"], "--ranking: invalid choice: 'beauty'", 2),
        "below one": (["--max_rejected", "0"], "c3l run: --max_rejected is 0; it must be at least 1", 1),
        "a temperature of 0": (["--temperature", "0"], "c3l run: --temperature is 0.0; it must be above 0", 2),
        "nothing to compare": (
            ["--within", "type", "--types_per_image", "4", "--pairs_per_image", "4"],
            "no pseudo-label",
            1,
        ),
        "greedy": (["--sampling_temperature", "0"], "sampling_temperature 0 no image has two different pairs", 1),
        "other folder": (["--output_dir", tmp_path / "other"], "was not made by c3l_hf; give another output_dir", 1),
        "push without the images' licence": (
            [*push, "--images", tmp_path / "texts"],
            "c3l run: --push_to_hub needs images_license",
            1,
        ),
        "push without a licence": (["--push_to_hub"], "c3l run: --push_to_hub needs license", 1),
        "push of a part": ([*push, "--stages", "generate"], "needs the stage write", 1),
        "push with code": ([*push, "--trust_remote_code", "true"], "--push_to_hub publishes no code", 1),
        "push offline": (push, "offline mode is enabled", 1),
        "token as an option": ([*push, "--hub_token", "hf_x"], "the token comes from HF_TOKEN", 1),
    }


CASES = (
    "no such folder, empty folder, not a picture, no such model, not a model, no safe weights, no such scorer, no "
    "such pairs, unknown key, no such file, misspelt stage, misspelt configuration, misspelt folder, misspelt "
    "world, misspelt model, unknown stage, unknown first stage, unknown type, a negative temperature, batches of "
    "nothing, unknown ranking, below one, a temperature of 0, nothing to compare, greedy, other folder, push "
    "without the images' licence, push without a licence, push of a part, push with code, push offline, token as "
    "an option"
).split(", ")


def test_every_case_is_tried(tmp_path):
    assert list(wrong_calls(tmp_path)) == CASES


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_call_ends_with_one_clear_line(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    words, says, code = wrong_calls(tmp_path)[case]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = [*([] if "--config" in words else ["--config", "scenes"]), *SMALL, *words]
    words += [] if "--output_dir" in words else ["--output_dir", tmp_path / "out"]
    assert main(["run", *map(str, words)]) == code
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("c3l run: ") and says in line and TOKEN not in line + captured.out
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not (tmp_path / "out").exists()
