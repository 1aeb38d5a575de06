"""An OpenAI-compatible chat endpoint on this machine, whose replies are ours to decide: for the cross-check and tests.

with OpenAIServer(lambda body: "8 7\\nBecause ...") as server:
    ...  # base_url is server.url
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

HANG, DROP = "(never answers)", "(closes the connection)"


class Response(NamedTuple):
    """An HTTP response as it is."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}


def completion(text: Any, finish_reason: str | None = "stop", **message: Any) -> Response:
    """A successful response with one choice."""
    return completions([text], finish_reason, message)


def completions(
    texts: Sequence[Any],
    finish_reason: str | None = "stop",
    message: Mapping[str, Any] | None = None,
    model: str = "judge-1-2026",
    usage: Mapping[str, int] | None = None,
) -> Response:
    """A successful response with a choice for each text."""
    choices = [
        {
            "index": number,
            "finish_reason": finish_reason,
            "message": {"role": "assistant", "content": text, **(message or {})},
        }
        for number, text in enumerate(texts)
    ]
    content = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": model, "usage": usage or {}}
    return Response(200, json.dumps({**content, "choices": choices}).encode(), {"Content-Type": "application/json"})


def error(status: int, message: str, **headers: str) -> Response:
    """An error as OpenAI's API reports it."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, json.dumps({"error": {"message": message, "type": "error"}}).encode(), headers)


class OpenAIServer:
    """The endpoint on a free port of 127.0.0.1, from `with` to its end.

    Args:
        answer: From a request's body to a text (a completion), a `Response`, HANG, or DROP. Called in threads.
        models: The models that it lists, or what it answers when it is asked for them.

    Attributes:
        url: The address for clients, ending in /v1.
        requests: (path, headers, body) of each request so far.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], str | Response], models: Sequence[str] | Response = ("judge-1",)
    ) -> None:
        self.models = models
        self.answer, self.requests, self.closing = answer, [], threading.Event()

    def __enter__(self) -> "OpenAIServer":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.owner, self.url = self, f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        models = self.server.owner.models
        listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
        self._respond(models if isinstance(models, Response) else Response(200, json.dumps(listed).encode()))

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner.requests.append((self.path, dict(self.headers), body))
        answer = owner.answer(body)
        if answer in (HANG, DROP):
            if answer == HANG:
                owner.closing.wait()
            self.close_connection = True
            return
        self._respond(completion(answer) if isinstance(answer, str) else answer)

    def _respond(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, *_: object) -> None:
        pass
