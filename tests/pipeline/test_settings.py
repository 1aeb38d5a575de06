"""Options of a run together: what identifies what is generated, and what is refused before any work."""

import json
from dataclasses import replace

import pytest

from c3l_hf.common.errors import RunError
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
from c3l_hf.pipeline.settings import Settings
from c3l_hf.pipeline.writers import _sums, check_backend, server_options
from c3l_hf.training.config import C3LConfig

MINE = """
templates:
  - {id: one, type: short, user: "Ask.", language: de}
  - {id: two, type: long, user: "Ask more."}
"""


def settings(tmp_path, *, images="photos/", model="user/model", backend=None, keep=None, **generation):
    return Settings(
        RunOptions(),
        ImageOptions(images),
        ModelOptions(model),
        GenerationOptions(**generation),
        backend or BackendOptions(),
        ScoringOptions(),
        SelectionOptions(),
        CurationOptions(**(keep or {})),
        PublishingOptions(),
        C3LConfig(str(tmp_path / "run"), report_to="none", bf16=False),
    )


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return file


@pytest.mark.parametrize(
    ("images", "model", "expected"),
    [("photos/", "user/model", "instruct"), ("scenes", "user/model", "scenes"), ("photos/", "scenes", "scenes")],
)
def test_an_embedded_world_has_templates_of_its_own(tmp_path, images, model, expected):
    assert settings(tmp_path, images=images, model=model).generating(0).template_set.name == expected
    named = settings(tmp_path, images=images, model=model, templates="instruct-de")
    assert named.generating(0).template_set.name == "instruct-de"


@pytest.mark.parametrize(
    ("images", "pairs", "message"),
    [
        ("scenes", "mine.parquet", "pairs is given beside images, which is scenes, perhaps in the configuration"),
        (None, None, "images is missing: a folder of pictures"),
    ],
)
def test_a_run_begins_with_images_or_with_pairs(tmp_path, images, pairs, message):
    given = settings(tmp_path, images=images)
    with pytest.raises(RunError, match=message):
        replace(given, run=replace(given.run, pairs=pairs)).check()


def test_a_templates_text_identifies_what_is_generated_and_its_place_does_not(tmp_path, mine):
    before = settings(tmp_path, templates=str(mine)).generation_identity(trained=False)
    json.dumps(before)
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text("# mine\n" + MINE)
    assert settings(tmp_path, templates=str(elsewhere)).generation_identity(trained=False) == before
    for old, new in (("Ask.", "Ask!"), ("language: de", "language: en"), ("id: two", "id: three")):
        elsewhere.write_text(MINE.replace(old, new))
        after = settings(tmp_path, templates=str(elsewhere)).generation_identity(trained=False)
        assert after["templates"] != before["templates"]
    assert settings(tmp_path, templates=str(mine), generation_batch_size=3).generation_identity(False) == before
    for changed in ({"top_p": 0.5}, {"types": ["short"]}, {"max_new_tokens": 9}, {"pairs_per_image": 4}):
        assert settings(tmp_path, templates=str(mine), **changed).generation_identity(False) != before


def test_the_backend_of_each_round_identifies_it(tmp_path, mine):
    def identities(**backend):
        made = settings(tmp_path, templates=str(mine), backend=BackendOptions(**backend))
        return [made.generation_identity(trained) for trained in (False, True)]

    first, second = identities()
    assert first == second and "backend" not in first
    by_url, in_process = identities(backend="server", base_url=["http://a/v1"], served_model="m")
    assert by_url == {**first, "backend": "server", "server_extra_body": None, "served_model": "m"}
    assert in_process == second  # the trained generator writes in this process, as nothing serves it
    assert identities(backend="server", base_url=["http://b/v1"], served_model="m") == [by_url, in_process]
    served = identities(backend="server", serve="serve {model} --port {port}")
    assert served[0] == served[1] == {**first, "backend": "server", "server_extra_body": None}
    both = identities(backend="server", serve="serve {model} {port}", base_url=["http://a/v1"], served_model="m")
    assert both == [by_url, served[1]]


def test_types_and_languages_that_are_not_asked_for_cannot_be_kept(tmp_path, mine):
    settings(tmp_path, templates=str(mine), keep={"keep_types": ["short"], "keep_languages": ["de"]}).check()
    for keep, message in (
        ({"keep_types": ["short"]}, "keep_types has short, which is not asked for; the types are long"),
        ({"keep_languages": ["de"]}, "keep_languages has de, which is not asked for; the languages are not said by"),
    ):
        with pytest.raises(RunError, match=message):
            settings(tmp_path, templates=str(mine), types=["long"], keep=keep).check()
    with pytest.raises(RunError, match="keep_languages has en, which is not asked for; the languages are de"):
        settings(tmp_path, templates=str(mine), keep={"keep_languages": ["en"]}).check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": ["http://a/v1"]}, "base_url is of a server; set backend: server"),
        ({"served_model": "m"}, "served_model is of a server"),
        ({"backend": "server"}, "needs base_url, .* or serve"),
        ({"backend": "server", "serve": "vllm serve --port {port}"}, "serve must have {model} and {port}"),
        ({"backend": "server", "serve": "s {model} {port}", "served_model": "m"}, "served_model is of a server that"),
        ({"backend": "server", "base_url": ["a"]}, "base_url must be http"),
        ({"backend": "server", "base_url": ["http://user:pass@a/v1"]}, "without user, password or query"),
        ({"backend": "server", "base_url": ["http://a/v1"], "server_extra_body": "[]"}, "must be an object in JSON"),
        ({"backend": "server", "base_url": ["http://a/v1"], "server_extra_body": "{"}, "must be an object in JSON"),
        ({"backend": "server", "base_url": ["http://a/v1"], "server_concurrency": 0}, "^server_concurrency is 0"),
        (
            {"backend": "server", "base_url": ["http://a/v1", "http://a/v1/"]},
            "^base_url has http://a/v1 more",
        ),
    ],
)
def test_options_of_a_server_that_do_not_go_together(options, message):
    with pytest.raises(RunError, match=message) as error:
        check_backend(BackendOptions(**options))
    assert "pass" not in str(error.value).replace("password", "")


def test_options_of_a_server_reach_it():
    options = BackendOptions(
        "server",
        ["http://a/v1"],
        "m",
        server_concurrency=3,
        server_timeout=4.0,
        server_retries=5,
        server_extra_body='{"min_p": 0.1}',
        prompt_price=0.5,
        completion_price=1.5,
    )
    made = server_options(options, options.base_url)
    assert (made.served_model, made.concurrency, made.timeout, made.retries) == ("m", 3, 4.0, 5)
    assert (made.extra_body, made.prompt_price, made.completion_price) == ({"min_p": 0.1}, 0.5, 1.5)


def test_the_summary_is_that_of_all_processes():
    one = [("requests", 3), ("cost", 0.25), ("replies of a", 3)]
    other = [("requests", 2), ("cost", 0.5), ("replies of b", 2), ("left out: http://a", "gone")]
    rows = [("requests", 5), ("cost", 0.75), ("replies of a", 3), ("replies of b", 2), ("left out: http://a", "gone")]
    assert _sums([one, other]) == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 3}, "clusters is 3, but embeddings is not given"),
        ({"embeddings": "hidden"}, "embeddings is hidden, but clusters is not given"),
        ({"embeddings": "hidden", "clusters": 0}, "clusters is 0; it must be at least 1"),
        ({"embeddings": "clip", "clusters": 2}, "embeddings is 'clip'; in a run it must be hidden or image"),
        ({"embeddings": "image", "clusters": 2, "balance_by": ["type"]}, "balance_by has no cluster"),
        ({"balance_by": ["cluster"]}, "balance_by has cluster; in this run it may have type, language, template"),
        ({"floors": ["beauty=1"]}, "floors has beauty; the scores of a run are i2c, answer_kl"),
        ({"floors": ["pmi"]}, "floors has 'pmi'; each must be COLUMN=LEAST once, as pmi=0"),
        ({"floors": ["pmi=nan"]}, "floors has 'pmi=nan'"),
        ({"floors": ["pmi=0", "pmi=1"]}, "floors has 'pmi=1'"),
    ],
)
def test_rules_of_curation_that_do_not_go_together(tmp_path, options, message):
    with pytest.raises(RunError, match=message):
        settings(tmp_path, keep=options).check()


def test_rules_of_curation():
    assert CurationOptions().rules()["balance_by"] == ["type"]
    options = CurationOptions(floors=["pmi=0", "logprob=-2.5"], embeddings="hidden", clusters=7)
    assert options.rules() == {
        **{name: getattr(options, name) for name in ("target_size", "near_duplicate_scope", "max_per_image")},
        **{name: getattr(options, name) for name in ("near_duplicate_threshold", "keep_types", "keep_languages")},
        "floors": {"pmi": 0.0, "logprob": -2.5},
        "balance_by": ["cluster"],
        "score": "pmi_k",
    }
    assert CurationOptions(curation_score="i2c").rules()["score"] == "i2c"
    both = CurationOptions(embeddings="hidden", clusters=7, balance_by=["type", "cluster"])
    assert both.rules()["balance_by"] == ["type", "cluster"]
