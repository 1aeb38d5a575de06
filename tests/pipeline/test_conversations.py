"""Conversations, and what generation wrote beside its pairs, through a whole run; the truth of an embedded world."""

import json
import re
from types import SimpleNamespace

import pytest
from datasets import Dataset, load_dataset

from c3l_hf.cli import main
from c3l_hf.common.shards import Shards
from c3l_hf.data.row_texts import messages_of_turns
from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.data.worlds import find_world
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.options import (
    BackendOptions,
    GenerationOptions,
    ImageOptions,
    ModelOptions,
    PublishingOptions,
    RunOptions,
    ScoringOptions,
    SelectionOptions,
)
from c3l_hf.pipeline.pools import truth_of_run
from c3l_hf.pipeline.settings import Settings
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.publishing.hub import verify
from c3l_hf.scenes import load_scenes
from c3l_hf.training.config import C3LConfig

ASKED = [{"role": "user", "content": "Schreibe zwei Fragen."}]
GERMAN = ReplyForm(question=("Frage",), answer=("Antwort",))
# Words that the small generator knows.
ONE = "Ask a question about this picture, and answer it. Reply in the form: Question: ... Answer: ..."
TEMPLATES = f"""
templates:
  - {{id: mine, type: short, user: "{ONE}", language: en}}
  - {{id: talk, type: talk, turns: 2, user: "Write {{{{ turns }}}} questions, with answers.", language: en}}
"""


def rows():
    """Of each picture two conversations, a pair, and a row without one; of every second one they say what was asked."""
    for number, scene in enumerate(load_scenes(4, seed=4, split="test")):
        for k, turns in enumerate((2, 2, 1, 0)):
            talk = [(f"Is it {n}?", f"It is {n} of {k}.") for n in range(turns)]
            prompt, completion = messages_of_turns(talk) if talk else (None, None)
            usage = {"served_model": "far", "prompt_tokens": 50, "completion_tokens": 9}
            yield {
                "images": scene["images"],
                "image_id": f"i{number}",
                "pair_id": f"i{number}/{k}",
                "template": "far-1" if number % 2 else None,
                "type": "talk" if turns == 2 else "pair",
                "language": "de",
                "prompt": prompt,
                "completion": completion,
                "raw": "…",
                "generation_status": "ok" if turns else "no question",
                "generation_prompt": ASKED if number % 2 else None,
                "reply_form": GERMAN.to_json() if number % 2 else None,
                "usage": usage,
                "attempt": 0,
            }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talks")
    Dataset.from_list(list(rows()), features=PAIR_FEATURES).to_parquet(folder / "rows.parquet")
    (folder / "mine.yaml").write_text(TEMPLATES)
    words = ["run", "--pairs", str(folder / "rows.parquet"), "--model", "scenes", "--output_dir", str(folder / "out")]
    words += ["--templates", str(folder / "mine.yaml"), "--types", "short", "--pairs_per_image", "2"]
    words += "--dtype float32 --use_lora false --max_steps 1 --bf16 false --report_to none --within all".split()
    # Of the first round, which has other ones, no pair would be kept.
    words += "--max_new_tokens 40 --target_size 5 --keep_types short --keep_languages en".split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        assert main(words) == 0
        yield folder / "out", words


def test_labels_ask_as_their_rows_say_or_as_the_runs_templates(finished):
    folder, _ = finished
    statuses = Shards(folder / "stages" / "1_generate").table(["generation_status"])["generation_status"].to_pylist()
    assert statuses == ["ok", "ok", "ok", "no question"] * 4
    labels = Shards(folder / "stages" / "3_select").table().to_pylist()
    scores = Shards(folder / "stages" / "2_score").table(["i2c", "i2c_status"]).to_pylist()
    assert len(labels) == 4 and sum(row["i2c_status"] == "ok" for row in scores) == 12
    for number, label in enumerate(labels):
        best = max(range(3), key=lambda k: scores[4 * number + k]["i2c"])
        (prompt,), reply = label["prompt"], label["chosen"][0]["content"]
        taken = ("mine", ONE) if best == 2 else ("talk", "Write 2 questions, with answers.")
        expected = ("far-1", ASKED[0]["content"]) if number % 2 else taken
        assert (label["template"], prompt["content"]) == expected
        assert reply.startswith("Frage: Is it 0?" if number % 2 else "Question: Is it 0?")
        assert len(re.findall(r"It is \d of", reply)) == (1 if best == 2 else 2) and len(label["rejected"]) == 2
    assert {label["template"] for label in labels} == {"far-1", "mine", "talk"}


def test_the_results_are_checked(finished, tmp_path):
    folder, _ = finished
    assert verify(str(folder))
    card = (folder / "dataset" / "README.md").read_text()
    assert "- **Prompt templates:** mine" in card and "## Truth" not in card
    assert "language:\n- en\n" in card and "language not among those to keep" in card
    # What the rows say was spent on them was spent before.
    assert "| generate | far |" not in card and "| regenerate | in the run's own process |" in card
    told = json.loads((folder / "dataset" / "manifest.json").read_text())["facts"]["tokens"]
    usage = load_dataset(str(folder / "dataset"), "scored", split="train", cache_dir=str(tmp_path))["usage"]
    sums = [sum(one[name] or 0 for one in usage) for name in ("prompt_tokens", "completion_tokens")]
    assert told == [["regenerate", None, *sums]] and all(sums)


def test_labels_of_other_templates_are_made_again(finished, capsys):
    """Where the pairs do not say what was asked, the run's templates do: they identify what is selected."""
    _, words = finished
    assert main([*words, "--templates", "instruct", "--types", "short", "--dry_run"]) == 1
    assert "select" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "templates", "known"),
    [("scenes", None, True), ("scenes", "scenes", True), ("scenes", "instruct", False), (None, None, False)],
)
def test_the_truth_is_told_of_pairs_that_the_worlds_own_templates_ask_for(tmp_path, images, templates, known):
    made = Settings(
        RunOptions(),
        ImageOptions(images),
        ModelOptions("scenes"),
        GenerationOptions(templates=templates),
        BackendOptions(),
        ScoringOptions(),
        SelectionOptions(),
        CurationOptions(),
        PublishingOptions(),
        C3LConfig(str(tmp_path / "run"), report_to="none", bf16=False),
    )
    world = find_world(images or "")
    inputs = SimpleNamespace(images=SimpleNamespace(world=world, dataset=load_scenes(2, seed=1, split="test")))
    assert (truth_of_run(made, inputs) is not None) == known
