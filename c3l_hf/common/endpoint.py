"""An OpenAI-compatible endpoint: requests, the repetition of those that fail and its waits, and what ends a run."""

import json
import os
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import httpx2
import openai

from c3l_hf.common.bounded_client import BoundedClient
from c3l_hf.common.errors import RunError

__all__ = ["Choice", "Completion", "Endpoint", "EndpointClient", "NoReply", "short"]

_LONGEST_WAIT = 60.0
_ABSENT = (404, 405, 501)  # there is no such thing at the address
_REPEATED = (408, 409, 429)  # and 5xx: as OpenAI's own client has it
# All that a server has to know. The library adds a description of this machine, and headers out of the environment
# (OPENAI_CUSTOM_HEADERS, OPENAI_ORG_ID, …) that are meant for another server.
_SENT = ("host", "accept", "accept-encoding", "connection", "content-length", "content-type", "user-agent")


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how long they are tried. The key is in the environment only, and no part of this object.

    Args:
        base_url: The endpoint, as for OpenAI's client: `https://host/v1`. The name of a host alone gets the `/v1`.
        api_key_variable: Environment variable with the key. If it is not set none is sent (servers of one's own). It
            is deliberately none that other programs use, so that no key goes to an endpoint it was not meant for.
        timeout: Seconds without a byte from the endpoint after which a request has failed.
        retries: How often a request is repeated after 408, 409, 429, 5xx, a timeout or a lost connection.
        retry_wait: Seconds before the first repetition, doubled each time, up to a quarter less by chance; a
            `Retry-After` goes first. At most 60.

    Raises:
        ValueError: If a value is impossible, or the address contains a user, a password or a query.
    """

    base_url: str
    api_key_variable: str
    timeout: float = 120.0
    retries: int = 4
    retry_wait: float = 1.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            valid = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
            valid = bool(valid and not re.search(r"\s", self.base_url) and httpx2.URL(self.base_url))
        except (ValueError, httpx2.InvalidURL):
            valid = False
        # Not quoted: what is wrong may be that it contains a password.
        if not valid or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "base_url must be http(s)://host[:port]/path without user, password or query; "
                f"the key belongs into the environment variable {self.api_key_variable}"
            )
        if self.timeout <= 0 or self.retries < 0 or self.retry_wait < 0:
            raise ValueError("the endpoint's timeout must be above 0, its retries and retry_wait not below 0")

    @property
    def root(self) -> str:
        """The address that paths are appended to."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))

    @property
    def url(self) -> str:
        """The address that chats go to."""
        return f"{self.root}/chat/completions"


@dataclass(frozen=True)
class Choice:
    """One of the texts that came for a request: the text, the refusal that came in its place, and why it ended."""

    text: str | None
    refusal: str | None
    finish_reason: str | None


@dataclass(frozen=True)
class Completion:
    """What an endpoint sent for a request: at least one choice, and what it says about itself.

    Attributes:
        choices: The texts.
        served_model: The model's name, as the endpoint has it.
        prompt_tokens: Tokens of the prompt, if it says so.
        completion_tokens: Tokens of all choices together, if it says so.
    """

    choices: tuple[Choice, ...]
    served_model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


Kind = Literal["gone", "silent", "lost", "status", "garbled", "ended"]


class NoReply(Exception):
    """Why a request brought no reply of the endpoint.

    Attributes:
        kind: What happened: nobody was there ("gone"), nothing came in time ("silent"), the connection broke off
            ("lost"), an error came ("status"), or what is no reply ("garbled"); or the run has ended ("ended").
        status: The HTTP status, of the kind "status".
    """

    def __init__(self, reason: str, kind: Kind, status: int | None = None):
        super().__init__(reason)
        self.kind, self.status = kind, status


class EndpointClient:
    """Requests to an endpoint, from several threads; a context manager.

    Args:
        endpoint: The endpoint.
        model: The model's name there, for messages; None if none is known.
        stop: Shared by the clients of a run, if there are several.

    Attributes:
        stop: Once it is set, no request is made and nothing waited for. A `RunError` sets it.

    Raises:
        RunError: If the key in the environment cannot be one.
    """

    def __init__(self, endpoint: Endpoint, model: str | None = None, stop: threading.Event | None = None) -> None:
        self.endpoint, self.model, self._reached = endpoint, model, False
        self.stop = stop or threading.Event()
        self._key = os.environ.get(endpoint.api_key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise RunError(f"the key in {endpoint.api_key_variable} has characters that no key has; set it again")
        # Not `huggingface_hub.InferenceClient`: without a key it sends the user's token for the Hub to the endpoint,
        # and with HF_HUB_OFFLINE it calls nobody, not even a server on this machine.
        # The library's repetitions cannot be interrupted, wait up to 120 s, and give up where a server asks for more.
        self._client = openai.OpenAI(
            api_key="none",  # without one it takes the environment's; `_only_what_is_needed` sets the header
            base_url=endpoint.root,
            max_retries=0,
            http_client=BoundedClient(
                timeout=httpx2.Timeout(endpoint.timeout, connect=min(endpoint.timeout, 20.0)),
                limits=httpx2.Limits(max_connections=None),
                follow_redirects=False,
                event_hooks={"request": [self._only_what_is_needed]},
            ),
        )

    def __enter__(self) -> "EndpointClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def chat(self, body: Mapping[str, Any]) -> Completion:
        """The reply to a request.

        Args:
            body: As OpenAI's API has it; it is sent as it is.

        Raises:
            NoReply: If there is none, after the repetitions.
            RunError: If there can be none for any request.
        """
        return self._completion(self._answer("post", "/chat/completions", body))

    def models(self) -> list[str] | None:
        """The names of the models that the endpoint lists; None if it has no such list.

        Raises:
            NoReply: If there is no answer, after the repetitions.
            RunError: If nobody is there, the key is refused, or what is there is no such endpoint.
        """
        response = self._answer("get", "/models", None, optional=True)
        if response.status_code in _ABSENT:
            return None
        try:
            names = [model["id"] for model in response.json()["data"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            names = [None]
        if not all(isinstance(name, str) for name in names):
            raise self._end(
                f"sent what is no list of models for /models: {self._what_it_says(response)}; "
                "check that the address is one of OpenAI's API"
            )
        return names

    def pause(self, attempt: int) -> None:
        """Wait before a repetition, the longer the more there were; not once the run has ended."""
        _pause(self.stop, min(self._wait(attempt), _LONGEST_WAIT))

    def _wait(self, attempt: int) -> float:
        return self.endpoint.retry_wait * 2**attempt * (1 - 0.25 * random.random())

    def _only_what_is_needed(self, request: httpx2.Request) -> None:
        for name in set(request.headers) - set(_SENT):
            del request.headers[name]
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"

    def _answer(
        self, method: Literal["get", "post"], path: str, body: Mapping[str, Any] | None, optional: bool = False
    ) -> httpx2.Response:
        """A successful response; also one that there is no such thing, of what is optional."""
        for attempt in range(self.endpoint.retries + 1):
            if self.stop.is_set():
                raise NoReply("the run has ended", "ended")
            kind: Kind
            status: int | None = None
            wait = self._wait(attempt)
            response = self._sent(method, path, body)
            if isinstance(response, httpx2.Response):
                status, kind = response.status_code, "status"
                if response.is_success or (optional and status in _ABSENT):
                    self._reached = self._reached or response.is_success
                    return response
                reason = f"answered HTTP {status}: {self._what_it_says(response)}"
                self._end_if_hopeless(status, reason)
                self._reached = True
                # A list of models that cannot be made now is none: see `check_served_model`.
                if (status not in _REPEATED and status < 500) or (optional and status == 500):
                    raise NoReply(f"the endpoint {reason}", kind, status)
                wait = _wanted_wait(response.headers.get("retry-after", "")) or wait
            else:
                kind, says = "lost", self._clean(str(response)) or type(response).__name__
                if isinstance(response, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
                    kind, reason = "gone", f"cannot be reached: {says}"
                    if not self._reached:
                        raise self._end(f"{reason}; check the address, and that a server runs there")
                elif isinstance(response, httpx2.TimeoutException):
                    kind, reason = "silent", f"timed out: {self.endpoint.timeout:g} s without a byte"
                elif isinstance(response, httpx2.TransportError):
                    reason = f"lost the connection: {says}"
                else:
                    raise NoReply(f"the endpoint sent what cannot be read: {says}", "garbled")
            if attempt < self.endpoint.retries:
                _pause(self.stop, min(wait, _LONGEST_WAIT))
        raise NoReply(f"the endpoint {reason} (tried {attempt + 1} times)", kind, status)

    def _sent(
        self, method: Literal["get", "post"], path: str, body: Mapping[str, Any] | None
    ) -> httpx2.Response | BaseException:
        """The response, whatever it says, or why there is none. Not raised: in a traceback the library's errors would
        stand behind ours, with the texts of the server, which quotes keys."""
        try:
            # As a response, not as the library's types: it takes whatever comes for a completion.
            if method == "get":
                return self._client.get(path, cast_to=httpx2.Response)
            # Lone surrogates, which JSON may have and UTF-8 not, stay escaped.
            headers = {"Content-Type": "application/json"}
            content = json.dumps(body).encode()
            return self._client.post(path, cast_to=httpx2.Response, content=content, options={"headers": headers})
        except openai.APIStatusError as error:
            return error.response
        except openai.APIConnectionError as error:
            return error.__cause__ or error

    def _end_if_hopeless(self, code: int, reason: str) -> None:
        variable = self.endpoint.api_key_variable
        # Later on a 403 may be about one text: some gateways moderate what they pass on.
        if code == 401 or (code == 403 and not self._reached):
            key = f"the key in {variable} is not accepted" if self._key else f"the variable {variable} has no key"
            raise self._end(f"{reason}; {key}")
        if code in (404, 405):
            name = f" and the model's name, {self.model!r}" if self.model else ""
            raise self._end(f"{reason}; check the address{name}")
        if 300 <= code < 400:
            raise self._end(f"{reason}; it sends requests elsewhere: give the address itself")

    def _end(self, reason: str) -> RunError:
        self.stop.set()
        return RunError(f"the endpoint {self.endpoint.url} {reason}")

    def _completion(self, response: httpx2.Response) -> Completion:
        try:
            content = response.json()
            usage = content.get("usage") or {}
            choices = [
                {
                    "text": choice["message"].get("content"),
                    "refusal": choice["message"].get("refusal"),
                    "finish_reason": choice.get("finish_reason"),
                }
                for choice in content["choices"]
            ]
            served_model = content.get("model")
            tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            texts = [served_model, *(value for choice in choices for value in choice.values())]
            valid = bool(choices) and all(text is None or isinstance(text, str) for text in texts)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            valid = False
        if not valid:
            raise NoReply(f"the endpoint sent what is not a chat completion: {self._what_it_says(response)}", "garbled")
        clean = [Choice(**{name: value and self._without_key(value) for name, value in one.items()}) for one in choices]
        prompt, completion = (count if isinstance(count, int) and count >= 0 else None for count in tokens)
        return Completion(tuple(clean), served_model and self._without_key(served_model), prompt, completion)

    def _what_it_says(self, response: httpx2.Response) -> str:
        """What an unwelcome response says, short."""
        try:
            message = response.json()
            message = message.get("error") or message.get("message") or message.get("detail") or message
            message = message.get("message") or message if isinstance(message, dict) else message
        except (ValueError, AttributeError, RecursionError):
            message = response.text
        return self._clean(str(message)) or "(nothing)"

    def _clean(self, text: str) -> str:
        return short(self._without_key(text), 200)

    def _without_key(self, text: str) -> str:
        # Endpoints quote keys they do not accept. Lone surrogates are valid JSON, but no text: U+FFFD is put in
        # their place, by which a reply is found to be damaged.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # A key of a few characters is a server's placeholder, and would cut up words.
        return text.replace(self._key, "[key]") if len(self._key) >= 8 else text


def _wanted_wait(header: str) -> float | None:
    """The seconds that a `Retry-After` asks for, as a number or as a date to come; None if it says nothing useful."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header, re.ASCII):
        return float(header)
    try:
        seconds = parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None


def _pause(stop: threading.Event, seconds: float) -> None:
    stop.wait(seconds)


def short(text: str, length: int) -> str:
    """A text of unknown origin for one line of a message: printable, cut to a length."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
