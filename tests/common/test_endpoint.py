"""An OpenAI-compatible endpoint: what reaches a server, what it may wish, and what a list of models is."""

import gzip
import itertools
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from openai_server import OpenAIServer, Response, completions, error

from c3l_hf.common import bounded_client
from c3l_hf.common import endpoint as endpoint_module
from c3l_hf.common.endpoint import Choice, Endpoint, EndpointClient, NoReply
from c3l_hf.common.errors import RunError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def client(server, **options):
    return EndpointClient(Endpoint(server.url, "A_KEY", **{"retry_wait": 0, "retries": 2, "timeout": 30, **options}))


def test_nothing_of_the_environment_reaches_a_server(monkeypatch):
    """What is meant for OpenAI's own, or another one, stays here; and so does what this machine is."""
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", f"secret-{name}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: secret\nAuthorization: Bearer secret")
    for key in (None, "mine"):
        if key:
            monkeypatch.setenv("A_KEY", key)
        with OpenAIServer(lambda body: "hello") as server, client(server) as asking:
            asking.chat({"model": "m"})
        ((_, headers, _),) = server.requests
        assert "secret" not in str(headers) and not [name for name in headers if name.lower().startswith("x-")]
        assert headers.get("Authorization") == (key and f"Bearer {key}")


def test_all_choices_and_what_the_server_counted():
    usage = {"prompt_tokens": 7, "completion_tokens": 9}
    with OpenAIServer(lambda body: completions(["a", "b"], "stop", usage=usage)) as server, client(server) as asking:
        reply = asking.chat({})
    assert reply.choices == (Choice("a", None, "stop"), Choice("b", None, "stop"))
    assert (reply.served_model, reply.prompt_tokens, reply.completion_tokens) == ("judge-1-2026", 7, 9)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "7"}, {"prompt_tokens": -1, "completion_tokens": 1.5}])
def test_counts_that_are_none(usage):
    with OpenAIServer(lambda body: completions(["a"], usage=usage)) as server, client(server) as asking:
        reply = asking.chat({})
    assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)


def test_lone_surrogates_are_sent():
    with OpenAIServer(lambda body: body["text"]) as server, client(server) as asking:
        assert asking.chat({"text": "a\ud800b"}).choices[0].text == "a\ufffdb"


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("99999", 60),
        # A name of its own: processes that share the tests compare their names.
        pytest.param(format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 60, id="tomorrow"),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1.5),
        ("soon", 1.5),
        ("", 1.5),
        ("nan", 1.5),
    ],
)
@pytest.mark.parametrize("status", [408, 409, 429, 503])
def test_the_wait_that_a_server_asks_for(monkeypatch, header, waits, status):
    waited = []
    monkeypatch.setattr(endpoint_module.random, "random", lambda: 0.0)
    monkeypatch.setattr(endpoint_module, "_pause", lambda stop, seconds: waited.append(seconds))
    answers = iter([error(status, "", Retry_After=header), "hello"])
    with OpenAIServer(lambda body: next(answers)) as server, client(server, retry_wait=1.5) as asking:
        assert asking.chat({}).choices[0].text == "hello"
    assert waited == [waits]


def test_waits_differ_by_chance(monkeypatch):
    waited = []
    monkeypatch.setattr(endpoint_module, "_pause", lambda stop, seconds: waited.append(seconds))
    with OpenAIServer(lambda body: Response(500)) as server, client(server, retry_wait=4, retries=3) as asking:
        with pytest.raises(NoReply, match="HTTP 500: .nothing. .tried 4 times"):
            asking.chat({})
    assert len(set(waited)) == 3
    assert all(0.75 <= wait / full <= 1 for wait, full in zip(waited, (4, 8, 16)))


def test_the_models_that_are_listed():
    with OpenAIServer(lambda body: "hello", models=["a", "b/c"]) as server, client(server) as asking:
        assert asking.models() == ["a", "b/c"]
        server.models = Response(404)
        assert asking.models() is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>Welcome to nginx!</html>", "<html>Welcome to nginx!</html>"),
        (b'{"models": []}', "models"),
        (b'{"data": [{"name": "a"}]}', "data"),
        (b'{"data": [{"id": 7}]}', "data"),
        (b"[]", r"\[\]"),
    ],
)
def test_something_else_at_the_address(body, says):
    with OpenAIServer(lambda body: "hello", models=Response(200, body)) as server, client(server) as asking:
        with pytest.raises(RunError, match=f"no list of models for /models: .*{says}.*; check that the address is one"):
            asking.models()
        assert asking.stop.is_set()


ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(1 << 22))


@pytest.mark.parametrize(
    ("head", "parts", "says"),
    [
        (ENDLESS, itertools.repeat(b"1\r\n \r\n"), "no end"),  # a byte now and then
        (ENDLESS, itertools.repeat(b"10000\r\n" + b" " * 65536 + b"\r\n"), "more than 1 MB"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB),
            [BOMB],
            "more than 1 MB",
        ),
    ],
)
def test_a_reply_without_end_is_none(monkeypatch, head, parts, says):
    monkeypatch.setattr(bounded_client, "_MOST_BYTES", 1 << 20)
    monkeypatch.setattr(bounded_client, "_MOST_TIMEOUTS", 0.05)

    def answer(listening):
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(head)
                for part in parts:
                    connection.sendall(part)
                    time.sleep(0.01)
            except OSError:  # hung up on
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        address = Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "A_KEY", timeout=10, retries=0)
        with EndpointClient(address) as asking, pytest.raises(NoReply, match=says):
            asking.chat({"model": "m"})
        thread.join()
