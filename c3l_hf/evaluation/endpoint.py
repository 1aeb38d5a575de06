"""An OpenAI-compatible endpoint: requests, the retry of those that fail and its waits, and what ends a run."""

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2

from c3l_hf.common.errors import RunError

__all__ = ["ChatClient", "ChatEndpoint", "NoReply", "short"]

_LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class ChatEndpoint:
    """A model behind an OpenAI-compatible endpoint. The key is in the environment only, and no part of this object.

    Args:
        base_url: The endpoint, as for OpenAI's client: `https://host/v1`. The name of a host alone gets the `/v1`.
        model: The model's name there.
        api_key_variable: Environment variable with the key. If it is not set none is sent (servers of one's own). It
            is deliberately none that other programs use, so that no key goes to an endpoint it was not meant for.
        temperature: That of LLaVA-Bench's judge by default; None sends none (some models take only their own).
        max_tokens: Longest reply; None sends none.
        extra_body: Further fields of the request, e.g. {"max_completion_tokens": 4096}. They are saved; no secrets.
        timeout: Seconds without a byte from the endpoint after which a request has failed.
        retries: How often a request is repeated after 408, 429, 5xx, a timeout or a lost connection.
        retry_wait: Seconds before the first repetition, doubled each time; a `Retry-After` goes first. At most 60.

    Raises:
        ValueError: If a value is impossible, or the address contains a user, a password or a query.
    """

    base_url: str
    model: str
    api_key_variable: str = "JUDGE_API_KEY"
    temperature: float | None = 0.2
    max_tokens: int | None = 1024
    extra_body: Mapping[str, Any] | None = None
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
        if not self.model:
            raise ValueError("the endpoint's model must have a name")
        if self.timeout <= 0 or self.retries < 0 or self.retry_wait < 0:
            raise ValueError("the endpoint's timeout must be above 0, its retries and retry_wait not below 0")

    @property
    def url(self) -> str:
        """The address that requests go to."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        return urlunsplit((parts.scheme, parts.netloc, f"{path}/chat/completions", "", ""))


class NoReply(Exception):
    """Why a request brought no reply of the endpoint."""


class ChatClient:
    """Requests to an endpoint, from several threads; a context manager.

    Args:
        endpoint: The endpoint.

    Attributes:
        stop: Once it is set, no request is made and nothing waited for. A `RunError` sets it.

    Raises:
        RunError: If the key in the environment cannot be one.
    """

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self.endpoint, self.stop, self._reached = endpoint, threading.Event(), False
        self._key = os.environ.get(endpoint.api_key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise RunError(f"the key in {endpoint.api_key_variable} has characters that no key has; set it again")
        # Not `huggingface_hub.InferenceClient`: without a key it sends the user's token for the Hub to the endpoint,
        # and with HF_HUB_OFFLINE it calls nobody, not even a server on this machine.
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(endpoint.timeout, connect=min(endpoint.timeout, 20.0)),
            limits=httpx2.Limits(max_connections=None),
        )

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A reply: its text, refusal, finish_reason, and served_model; None or text each.

        Raises:
            NoReply: If there is none, after the repetitions.
            RunError: If there can be none for any request.
        """
        for attempt in range(self.endpoint.retries + 1):
            if self.stop.is_set():
                raise NoReply("the run has ended")
            wait = self.endpoint.retry_wait * 2**attempt
            try:
                response = self._client.post(self.endpoint.url, json=body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
                reason = f"cannot be reached: {self._clean(str(error)) or type(error).__name__}"
                if not self._reached:
                    raise self._end(f"{reason}; check the address, and that a server runs there") from None
            except httpx2.TimeoutException:
                reason = f"timed out: {self.endpoint.timeout:g} s without a byte"
            except httpx2.TransportError as error:
                reason = f"lost the connection: {self._clean(str(error)) or type(error).__name__}"
            except httpx2.HTTPError as error:
                raise NoReply(f"the endpoint sent what cannot be read: {self._clean(str(error))}") from None
            else:
                if response.is_success:
                    self._reached = True
                    return self._reply(response)
                reason = f"answered HTTP {response.status_code}: {self._what_it_says(response)}"
                self._end_if_hopeless(response.status_code, reason)
                self._reached = True
                if response.status_code not in (408, 429) and response.status_code < 500:
                    raise NoReply(f"the endpoint {reason}")
                if re.fullmatch(r"\d{1,9}(\.\d+)?", after := response.headers.get("retry-after", ""), re.ASCII):
                    wait = float(after)
            if attempt < self.endpoint.retries:
                _pause(self.stop, min(wait, _LONGEST_WAIT))
        raise NoReply(f"the endpoint {reason} (tried {attempt + 1} times)")

    def _end_if_hopeless(self, code: int, reason: str) -> None:
        variable = self.endpoint.api_key_variable
        # Later on a 403 may be about one text: some gateways moderate what they pass on.
        if code == 401 or (code == 403 and not self._reached):
            key = f"the key in {variable} is not accepted" if self._key else f"the variable {variable} has no key"
            raise self._end(f"{reason}; {key}")
        if code in (404, 405):
            raise self._end(f"{reason}; check the address and the model's name, {self.endpoint.model!r}")
        if 300 <= code < 400:
            raise self._end(f"{reason}; it sends requests elsewhere: give the address itself")

    def _end(self, reason: str) -> RunError:
        self.stop.set()
        return RunError(f"the endpoint {self.endpoint.url} {reason}")

    def _reply(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            completion = response.json()
            choice = completion["choices"][0]
            message = choice["message"]
            reply = {
                "text": message.get("content"),
                "refusal": message.get("refusal"),
                "finish_reason": choice.get("finish_reason"),
                "served_model": completion.get("model"),
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            reply = None
        if reply is None or not all(value is None or isinstance(value, str) for value in reply.values()):
            raise NoReply(f"the endpoint sent what is not a chat completion: {self._what_it_says(response)}")
        return {name: value and self._without_key(value) for name, value in reply.items()}

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
        # Endpoints quote keys they do not accept. Lone surrogates are valid JSON, but no text.
        text = text.encode("utf-8", "replace").decode()
        # A key of a few characters is a server's placeholder, and would cut up words.
        return text.replace(self._key, "[key]") if len(self._key) >= 8 else text


def _pause(stop: threading.Event, seconds: float) -> None:
    stop.wait(seconds)


def short(text: str, length: int) -> str:
    """A text of unknown origin for one line of a message: printable, cut to a length."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
