"""What a run may go on with: replies of the same model, about the same captions."""

import re
from pathlib import Path

import pytest
from datasets import Dataset
from openai_server import OpenAIServer, completions

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import read_json
from c3l_hf.data.sources import Images
from c3l_hf.generation.pairs import PairGenerationConfig
from c3l_hf.models.loading import Source
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.inputs import Inputs, plan, set_old_results_aside
from c3l_hf.pipeline.options import (
    STAGES,
    BackendOptions,
    GenerationOptions,
    ImageOptions,
    ModelOptions,
    PublishingOptions,
    RunOptions,
    ScoringOptions,
    SelectionOptions,
)
from c3l_hf.pipeline.settings import Settings
from c3l_hf.pipeline.writers import open_writer
from c3l_hf.training.config import C3LConfig


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def opened(options, folder):
    """The model whose replies the folder has, once a writer is open."""
    with open_writer(options, PairGenerationConfig("scenes"), None, lambda: None, folder):
        return read_json(folder / "served_model.json")["model"]


def test_a_stage_is_not_gone_on_with_by_another_model(tmp_path):
    """Where nobody has named the model, no option tells that it is another one."""
    with OpenAIServer(lambda body: completions(["a"]), ["first"]) as server:
        options = BackendOptions("server", [server.url])
        assert opened(options, tmp_path / "replies") == "first"
        assert opened(options, tmp_path / "replies") == "first"
    with OpenAIServer(lambda body: completions(["a"]), ["second"]) as server:
        options = BackendOptions("server", [server.url])
        with pytest.raises(RunError, match="so far are of the model first, and the server has second now"):
            opened(options, tmp_path / "replies")
        opened(BackendOptions("server", [server.url], "second"), tmp_path / "replies")


def test_replies_of_a_generator_that_is_trained_again_are_set_aside(tmp_path):
    """It has the old one's name, and so a reply's digest is the same."""
    folder, _ = planned(tmp_path)
    run = folder.folder
    others = ["replies/{}/replies-0.jsonl", "embeddings/{}/vectors.parquet", "training-0-1/{}", "report_files/{}"]
    unfinished = "stages/6_rescore.unfinished/00000-of-00001.parquet"
    for name in [*(other.format(stage) for other in others for stage in ("score", "regenerate")), unfinished]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("content")
    set_old_results_aside(folder, "train")
    left = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and "aside" not in str(file)}
    assert left == {".lock", ".lock.json", "replies/score/replies-0.jsonl", "embeddings/score/vectors.parquet"}
    kept = [file for file in run.glob("set_aside-1/**/*") if file.is_file()]
    assert len(kept) == 7 and run / "set_aside-1" / unfinished in kept


def settings_of(folder, **changed):
    """Settings with options of any group changed."""
    groups = {"run": RunOptions, "images": ImageOptions, "model": ModelOptions, "generation": GenerationOptions}
    groups |= {"backend": BackendOptions, "scoring": ScoringOptions, "selection": SelectionOptions}
    groups |= {"curation": CurationOptions, "publishing": PublishingOptions, "training": C3LConfig}
    fixed = {"images": {"images": "photos/"}, "model": {"model": "m"}}
    fixed["training"] = {"output_dir": str(folder / "run"), "report_to": "none", "bf16": False}
    return Settings(**{name: kind(**fixed.get(name, {}) | changed.get(name, {})) for name, kind in groups.items()})


def planned(folder, caption="a cat", **changed):
    """A run's folder with these options, and each stage's digest."""
    rows = Dataset.from_dict({"image_id": ["x"], "caption": [caption]})
    model = Source("m")
    inputs = Inputs(Images(rows, "of the pictures", None), None, model, {"digest": "d"}, model, None)
    run = plan(settings_of(folder, **changed), inputs)
    return run, {stage: run.digest(stage) for stage in STAGES}


@pytest.mark.parametrize("told", ["a cat", "a dog"])
def test_what_the_templates_say_of_an_image_is_part_of_a_run(tmp_path, told):
    """A run is not gone on with after its captions have been edited."""
    (tmp_path / "mine.yaml").write_text('templates: [{id: a, type: a, user: "Ask about {{ caption }}."}]')
    asked = {"generation": {"templates": str(tmp_path / "mine.yaml")}}
    (_, first), (_, second) = (planned(tmp_path, caption, **asked) for caption in ("a cat", told))
    for stage in ("generate", "regenerate"):
        assert (first[stage] == second[stage]) == (told == "a cat")


# Option → another value, and the first stage that it makes another result of.
CHANGES = {
    "generation": {
        "pairs_per_image": (3, "generate"),
        "templates": ("instruct-de", "generate"),
        "types": (["short"], "generate"),
        "types_per_image": (2, "generate"),
        "sampling_temperature": (0.5, "generate"),
        "top_p": (0.9, "generate"),
        "max_new_tokens": (7, "generate"),
        "retries": (1, "generate"),
    },
    "model": {"dtype": ("float16", "generate"), "attn_implementation": ("eager", "generate")},
    "backend": {"backend": ("server", "generate")},
    "scoring": {"ranking": ("answer_kl", "score")},
    "selection": {"within": ("all", "select"), "max_rejected": (1, "select"), "min_margin": (0.5, "select")},
    "run": {"max_epochs": (2.0, "train")},
    "training": {
        "seed": (1, "generate"),
        "learning_rate": (1e-3, "train"),
        "max_steps": (9, "train"),
        "per_device_train_batch_size": (3, "train"),
        "contrastive_weight": (0.3, "train"),
        "use_lora": (False, "train"),
    },
    "curation": {
        "target_size": (7, "curate"),
        "floors": (["pmi=0"], "curate"),
        "embeddings": ("image", "curate"),
        "clusters": (3, "curate"),
        "balance_by": (["language"], "curate"),
        "near_duplicate_scope": ("none", "curate"),
        "near_duplicate_threshold": (0.5, "curate"),
        "near_duplicate_images": ("same", "curate"),
        "near_duplicate_distance": (3, "curate"),
        "max_per_image": (2, "curate"),
        "keep_types": (["short"], "curate"),
        "keep_languages": (["en"], "curate"),
        "curation_score": ("pmi", "curate"),
    },
    "publishing": {
        "license": ("mit", "write"),
        "images_license": ("mit", "write"),
        "images_source": ("mine", "write"),
        "keep_metadata": (True, "write"),
    },
}
# What the inputs know by content (pictures, pairs, weights, benchmarks, marks); what counts together with another
# option; and what no result depends on.
BY_CONTENT = {"images", "num_images", "images_split", "copies", "pairs", "columns", "answers", "image_folder", "model"}
BY_CONTENT |= {"model_revision", "base_model", "scorer_model", "scorer_revision", "decontaminate", "marks"}
TOGETHER = {"retry_floor", "served_model", "server_extra_body", "load_in_4bit", "load_in_8bit", "base_url", "serve"}
NO_PART = {"stages", "restart_from", "dry_run", "calibrate", "download_images", "device_map", "generation_batch_size"}
NO_PART |= {"shard_size", "scoring_batch_size", "scoring_max_tokens", "serve_timeout", "prompt_price", "public"}
NO_PART |= {"completion_price", "hub_namespace", "hub_dataset_name", "hub_generator_name", "overwrite"}
NO_PART |= {"server_concurrency", "server_timeout", "server_retries", "plan", "plan_image_size"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run that has all results."""
    folder = tmp_path_factory.mktemp("made")
    run, _ = planned(folder)
    run.claim()
    for stage in STAGES:
        run.complete(stage, lambda path: None)
    return folder


def test_every_option_changes_a_result_or_is_known_not_to():
    groups = vars(settings_of(Path(".")))
    known = {name for options in CHANGES.values() for name in options} | BY_CONTENT | TOGETHER | NO_PART
    options = {name for group in groups if group not in ("training", "config_name") for name in vars(groups[group])}
    assert not options - known, "is a result another one with it? then it must be in a stage's options"


@pytest.mark.parametrize(
    ("group", "option", "value", "stage"),
    [(group, option, *change) for group, options in CHANGES.items() for option, change in options.items()],
)
def test_a_changed_option_is_named_with_the_stages_that_it_concerns(tmp_path, made, group, option, value, stage):
    changed = {group: {option: value}}
    before, after = planned(tmp_path)[1], planned(tmp_path, **changed)[1]
    first = STAGES.index(stage)
    assert [name for name in STAGES if before[name] != after[name]] == list(STAGES[first:])

    with pytest.raises(RunError) as error:
        planned(made, **changed)
    told = re.search(r"result \((.+)\); stages concerned: (.+); give another .+, or (.+), which", str(error.value))
    assert told and told[1].startswith(f"{option}: ") and " asked for" in told[1]
    assert told[2] == ", ".join(STAGES[first:]) and told[3] == f"restart_from {stage}"
    planned(made, **changed | {"run": {"restart_from": stage} | changed.get("run", {})})


@pytest.mark.parametrize("option", sorted(NO_PART & vars(GenerationOptions()).keys()))
def test_what_changes_no_result_is_free(tmp_path, option):
    assert planned(tmp_path)[1] == planned(tmp_path, generation={option: 3})[1]
