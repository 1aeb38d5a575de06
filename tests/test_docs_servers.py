"""The page on servers: its code runs, its bodies can be sent, its options exist, and what it says of failures holds."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
from openai_server import OpenAIServer, completions
from scored_rows import png

from c3l_hf.common.endpoint import Endpoint
from c3l_hf.generation.requests import Request
from c3l_hf.generation.server import ServerOptions
from c3l_hf.generation.serving import serve
from c3l_hf.pipeline.options import BackendOptions
from c3l_hf.scenes.templates import TEMPLATES

PAGE = (Path(__file__).parents[1] / "docs" / "servers.md").read_text("utf-8")


def test_the_code_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (code,) = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is here?"}]}
    picture = {"bytes": png(0), "path": None}
    request = Request(0, "a", TEMPLATES.of_type("count")[0], (0, 1), [message], [picture], 50)
    with OpenAIServer(lambda body: completions(["x", "y"], model="m"), ["m"]) as one:
        with OpenAIServer(lambda body: completions(["x", "y"], model="m"), ["m"]) as two:
            code = code.replace("http://localhost:8000/v1", one.url).replace("http://other:8000/v1", two.url)
            names = {"requests": [request]}
            exec(code, names)
    assert names["summary"]["replies"] == 2 and (tmp_path / "replies.jsonl").is_file()


@pytest.mark.parametrize("body", re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL))
def test_the_bodies_on_the_page(body):
    extra = json.loads(body)
    assert ServerOptions(["http://h"], extra_body=extra).extra_body == extra
    assert isinstance(json.loads(extra.get("generation_config", "{}")), dict)


def test_the_options_and_figures_on_the_page():
    fields = {field.name for field in dataclasses.fields(BackendOptions)}
    own = {"images", "output", "output_dir", "model"}
    named = set(re.findall(r"--([a-z]+_[a-z_]+|serve|backend)\b", PAGE))
    assert named - own <= fields and {"serve", "base_url", "served_model"} <= named
    defaults = {field.name: field.default for field in dataclasses.fields(ServerOptions)}
    assert f"| {defaults['max_failures']} requests in a row without one |" in PAGE
    assert f"`{defaults['api_key_variable']}`" in PAGE and "at most 60 s" in PAGE
    assert "At most 60." in Endpoint.__doc__
    assert inspect.signature(serve).parameters["api_key_variable"].default == defaults["api_key_variable"]
