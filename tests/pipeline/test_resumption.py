"""What a run may go on with: replies of the same model, about the same captions."""

import pytest
from datasets import Dataset
from openai_server import OpenAIServer, completions

from c3l_hf.common.errors import RunError
from c3l_hf.data.sources import Images
from c3l_hf.generation.pairs import PairGenerationConfig
from c3l_hf.models.loading import Source
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.inputs import Inputs, plan, set_old_results_aside
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
from c3l_hf.pipeline.writers import open_writer
from c3l_hf.training.config import C3LConfig


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def opened(options, folder):
    with open_writer(options, PairGenerationConfig("scenes"), None, lambda: None, folder) as writer:
        return writer.served_model


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
        assert opened(BackendOptions("server", [server.url], "second"), tmp_path / "replies") == "second"


def test_replies_of_a_generator_that_is_trained_again_are_set_aside(tmp_path):
    """It has the old one's name, and so a reply's digest is the same."""
    for stage in ("generate", "regenerate"):
        (tmp_path / "replies" / stage).mkdir(parents=True)
        (tmp_path / "replies" / stage / "replies-0.jsonl").write_text(stage)
    set_old_results_aside(tmp_path, "train")
    left = [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*.jsonl"))]
    assert left == ["replies/generate/replies-0.jsonl", "set_aside-1/replies/regenerate/replies-0.jsonl"]


@pytest.mark.parametrize("told", ["a cat", "a dog"])
def test_what_the_templates_say_of_an_image_is_part_of_a_run(tmp_path, told):
    """A run is not gone on with after its captions have been edited."""
    (tmp_path / "mine.yaml").write_text('templates: [{id: a, type: a, user: "Ask about {{ caption }}."}]')
    options = (ImageOptions("photos/"), ModelOptions("m"), GenerationOptions(templates=str(tmp_path / "mine.yaml")))
    rest = (BackendOptions(), ScoringOptions(), SelectionOptions(), CurationOptions(), PublishingOptions())
    training = C3LConfig(str(tmp_path / "run"), report_to="none", bf16=False)
    settings = Settings(RunOptions(), *options, *rest, training)

    def identities(caption):
        rows = Dataset.from_dict({"image_id": ["x"], "caption": [caption]})
        model = Source("m")
        inputs = Inputs(Images(rows, "of the pictures", None), None, model, {"digest": "d"}, model, None)
        folder = plan(settings, inputs)
        return folder.digest("generate"), folder.digest("regenerate")

    first, second = zip(identities("a cat"), identities(told))
    assert (first[0] == first[1]) == (second[0] == second[1]) == (told == "a cat")
