"""Who writes the replies of a stage: which model it is, and what is kept of its replies."""

import pytest
from openai_server import OpenAIServer, completions

from c3l_hf.common.errors import RunError
from c3l_hf.generation.pairs import PairGenerationConfig
from c3l_hf.pipeline.inputs import set_old_results_aside
from c3l_hf.pipeline.options import BackendOptions
from c3l_hf.pipeline.writers import open_writer


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
