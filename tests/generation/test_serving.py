"""A server that is started for a stage: waited for, checked, and gone at the end, whatever the end is."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from c3l_hf.common.errors import RunError
from c3l_hf.data.worlds import find_world
from c3l_hf.generation import serving
from c3l_hf.generation.asking import requests_of
from c3l_hf.generation.in_process import ModelWriter
from c3l_hf.generation.server import ServerOptions, ServerWriter
from c3l_hf.generation.serving import Served, serve
from c3l_hf.models.loading import Source, load
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.scenes import GENERATOR

ROOT = Path(__file__).parents[2]
# A server of one model that it does not have: port, name, seconds until it listens, how it begins.
SERVER = """
import os, sys, time
sys.path.insert(0, {folder!r})
from http.server import ThreadingHTTPServer
from openai_server import OpenAIServer, Response, _Handler, completion
port, model, delay, how = sys.argv[1:5]
print("loading", model, {{name for name in os.environ if name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}}, flush=True)
if how == "broken":
    print("the weights\\x1b[31m are broken", file=sys.stderr)
    sys.exit(3)
if how == "stubborn":
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how == "parent":
    if child := os.fork():
        os.waitpid(child, 0)
time.sleep(float(delay))
owner = OpenAIServer(lambda body: completion("hello"), models=[model])
if how == "loading":
    class _Handler(_Handler):
        times = iter((503, 503))
        def do_GET(self):
            status = next(self.times, None)
            self._respond(Response(status)) if status else super().do_GET()
server = ThreadingHTTPServer(("127.0.0.1", int(port)), _Handler)
server.owner = owner
server.serve_forever()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("C3L_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def command(tmp_path):
    """From how the server behaves to its command."""
    script = tmp_path / "a server.py"
    script.write_text(SERVER.format(folder=str(ROOT / "recipes" / "crosscheck")))

    def of(how="well", delay=0, model="{model}"):
        return f"{sys.executable} {shlex.quote(str(script))} {{port}} {model} {delay} {how}"

    return of


def listens(served):
    try:
        socket.create_connection(("127.0.0.1", int(served.base_url.split(":")[2].split("/")[0])), timeout=5).close()
    except OSError:
        return False
    return True


def test_it_is_there_and_then_gone(command, tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(serving, "process_state", lambda: Processes(1, True))
    before = signal.getsignal(signal.SIGTERM)
    with serve(command(delay=0.3), tmp_path / "my model", tmp_path / "log") as served:
        assert served.model == str(tmp_path / "my model") and listens(served)
    assert not listens(served) and signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "log").read_text() == f"loading {tmp_path / 'my model'} set()\n"


def test_one_that_answers_before_it_has_the_model(command, tmp_path):
    with serve(command("loading"), "m", tmp_path / "log") as served:
        assert served.model == "m"


def test_an_error_within_stops_it(command, tmp_path):
    with pytest.raises(KeyError):
        with serve(command(), "m", tmp_path / "log") as served:
            raise KeyError
    assert not listens(served)


@pytest.mark.parametrize("how", ["stubborn", "parent"])
def test_what_does_not_end_is_killed_with_all_that_it_has_started(command, tmp_path, monkeypatch, how):
    monkeypatch.setattr(serving, "_GRACE", 0.3)
    with serve(command(how), "m", tmp_path / "log") as served:
        assert listens(served)
    assert not listens(served)


def test_one_that_ends_by_itself(command, tmp_path):
    with pytest.raises(RunError) as caught:
        with serve(command("broken"), "m", tmp_path / "log"):
            pass
    assert str(caught.value) == (
        f"the server of m cannot be used: it has ended with status 3\nThe end of its log, {tmp_path / 'log'}:\n"
        "  loading m set()\n  the weights [31m are broken"
    )


def test_one_that_takes_too_long(command, tmp_path):
    with pytest.raises(RunError, match="does not answer after 0.2 s: nobody listens at its port\nThe end of its"):
        with serve(command(delay=60), "m", tmp_path / "log", deadline=0.2):
            pass


def test_another_model(command, tmp_path):
    with pytest.raises(RunError, match="has no model 'm'; it lists other"):
        with serve(command(model="other") + " {model}", "m", tmp_path / "log"):
            pass


def test_a_model_by_the_name_of_its_folder(command, tmp_path):
    with serve(command(model="generator") + " {model}", tmp_path / "generator", tmp_path / "log") as served:
        assert served.model == "generator"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vllm serve {model}", r"has no \{port\}; as in: vllm serve \{model\} --port \{port\}"),
        ("vllm serve --port {port}", r"has no \{model\}"),
        ("vllm 'serve {model} {port}", "cannot be split into words: No closing quotation"),
    ],
)
def test_a_command_that_cannot_be_one(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        with serve(text, "m", tmp_path / "log"):
            pass


def test_a_command_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match="cannot be started: no-such-server: No such file"):
        with serve("no-such-server {model} {port}", "m", tmp_path / "log"):
            pass


def test_no_shell_reads_the_command(command, tmp_path):
    with serve(command(model="'{model}'"), "$(touch x); m", tmp_path / "log") as served:
        assert served.model == "$(touch x); m"


class Processes(SimpleNamespace):
    """Stands for the state of a launcher's process."""

    def __init__(self, number, main):
        super().__init__(num_processes=number, is_main_process=main)

    def wait_for_everyone(self):
        pass


@pytest.mark.parametrize("told", [Served("http://127.0.0.1:1/v1", "m"), "the server of m cannot be used"])
def test_the_other_processes_are_told(command, tmp_path, monkeypatch, told):
    """Also that there is none, so that they do not wait for it."""
    monkeypatch.setattr(serving, "process_state", lambda: Processes(2, False))
    monkeypatch.setattr(serving, "broadcast_object_list", lambda started: started.__setitem__(0, told))
    if isinstance(told, str):
        with pytest.raises(RunError, match=told):
            with serve(command(), "m", tmp_path / "log"):
                pass
    else:
        with serve(command(), "m", tmp_path / "log") as served:
            assert served == told
    assert not (tmp_path / "log").exists()


SCRIPT = """
import signal, sys, time
from c3l_hf.generation.serving import serve
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with serve(sys.argv[1], "m", sys.argv[2]) as served:
    print(served.base_url, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it(command, tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, command(), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as process:
        served = Served(process.stdout.readline().strip(), "m")
        assert listens(served)
        process.send_signal(number)
        assert process.wait(60) in (-number, 1, 130)
    assert not listens(served)


@pytest.mark.slow
def test_transformers_serve_with_the_small_generator(tmp_path):
    """For real: pictures as data URLs, several turns, seeds; greedy texts are those made in this process."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    words = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command = f"{shlex.join(words)} {{model}} --port {{port}} --host 127.0.0.1 --device cpu --dtype float32"
    images = find_world("scenes").load_images("scenes", 4, 0, "train")
    asked = requests_of(
        images, load_templates("scenes"), ["count", "colour"], pairs_per_image=2, types_per_image=2, seed=0
    )
    requests = [one.request for one in asked]
    # Several turns: what was said before is read too.
    first = requests[0]
    said = [{"role": "assistant", "content": [{"type": "text", "text": "Question: What is it?\nAnswer: A cat."}]}]
    requests.append(replace(first, image_id="turns", messages=[*first.messages, *said, *first.messages[-1:]]))
    requests[-1].messages[-1] = {"role": "user", "content": [{"type": "text", "text": "Ask another question."}]}
    model, processor = load(Source(GENERATOR, dtype="float32", device="cpu"))
    expected = dict(pairs_of(ModelWriter(model, processor, temperature=0.0), requests))
    with serve(command, GENERATOR, tmp_path / "log", deadline=120) as served:
        assert served.model == GENERATOR
        options = ServerOptions([served.base_url], served.model, concurrency=1)
        with ServerWriter(options, tmp_path / "greedy.jsonl", temperature=0.0) as writer:
            greedy = dict(pairs_of(writer, requests))
        # It is asked to sample in its own way: it heeds temperatures only of models that sample by default.
        extra = {"generation_config": '{"do_sample": true, "max_new_tokens": 60, "eos_token_id": 1, "pad_token_id": 2}'}
        several = [replace(first, ks=(0, 1, 2))]
        runs = []
        for name in ("one", "two"):
            options = replace(options, extra_body=extra)
            with ServerWriter(options, tmp_path / f"{name}.jsonl", seed=3) as writer:
                runs.append(dict(pairs_of(writer, several)))
    assert len(expected) == 9 and {text.strip() for text, _ in expected.values()}
    assert {key: text.strip() for key, (text, _) in greedy.items()} == {
        key: text.strip() for key, (text, _) in expected.items()
    }
    assert {problem for _, problem in greedy.values()} == {None}
    assert runs[0] == runs[1] and len({text for text, _ in runs[0].values()}) > 1  # n by three requests, each seeded


def pairs_of(writer, requests):
    for asked, replies in writer(requests):
        for k, reply in zip(asked.ks, replies, strict=True):
            yield (asked.image_id, asked.template.id, k), (reply.text, reply.problem)
