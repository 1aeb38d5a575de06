"""A writer of replies on servers: anything that speaks OpenAI's chat API, one or several, asked side by side."""

import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from c3l_hf.common.endpoint import Completion, Endpoint, NoReply
from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.files import digest
from c3l_hf.common.replies_file import RepliesFile
from c3l_hf.generation.requests import CUT_OFF, Reply, Request, seed_of
from c3l_hf.generation.server_pool import ServerPool
from c3l_hf.generation.server_requests import chat_messages, reply_key, request_body
from c3l_hf.generation.server_summary import ServerSummary

__all__ = ["REPLY_COLUMNS", "ServerOptions", "ServerWriter", "is_unanswered"]

logger = logging.getLogger(__name__)

REPLY_COLUMNS = ("text", "refusal", "finish_reason", "served_model", "prompt_tokens", "completion_tokens")
_ENDED = (None, "stop", "eos_token", "stop_sequence")  # how servers say that a text came to its end
_PROBLEMS = {
    "gone": "no server could be reached",
    "silent": "the server did not answer in time",
    "lost": "the connection to the server was lost",
    "garbled": "the server sent what is no reply",
}
_STATUS = "the server answered HTTP"  # and its number
_AHEAD = 2  # requests that are read for each that is under way


@dataclass(frozen=True)
class ServerOptions:
    """Servers, and how they are asked. Keys are in the environment only, and no part of this object.

    Args:
        base_urls: Addresses that have the same model, as for OpenAI's client: `http://host:8000/v1`.
        served_model: The model's name there; None takes the only one that each server lists.
        api_key_variable: Environment variable with the key; if it is not set none is sent.
        concurrency: Requests under way at once, at each address.
        timeout: Seconds without a byte after which a request has failed; a server sends none before it is done.
        retries: How often a request is repeated after 408, 409, 429, 5xx, a timeout, a lost connection or a reply
            that cannot be read.
        retry_wait: Seconds before the first repetition, doubled each time; a `Retry-After` goes first. At most 60.
        extra_body: Further fields of each request; they replace ours of the same name, and null leaves one out. They
            are saved; no secrets.
        constrain: Have the servers constrain replies whose form is JSON to its schema.
        prompt_price: Of a million tokens of prompts, in whatever currency; None if it is not known.
        completion_price: Of a million tokens of replies.
        max_failures: Requests that may fail one after the other before the run ends.

    Raises:
        ValueError: If a value is impossible, or an address is given twice.
    """

    base_urls: Sequence[str]
    served_model: str | None = None
    api_key_variable: str = "C3L_API_KEY"
    concurrency: int = 16
    timeout: float = 300.0
    retries: int = 4
    retry_wait: float = 1.0
    extra_body: Mapping[str, Any] | None = None
    constrain: bool = True
    prompt_price: float | None = None
    completion_price: float | None = None
    max_failures: int = 25

    def __post_init__(self) -> None:
        roots = [endpoint.root for endpoint in self.endpoints]
        if not roots or isinstance(self.base_urls, str):
            raise ValueError("base_urls must be a list of at least one address")
        if twice := {root for root in roots if roots.count(root) > 1}:
            raise ValueError(f"base_urls has {min(twice)} more than once")
        for name in ("concurrency", "max_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("prompt_price", "completion_price"):
            if not 0 <= (getattr(self, name) or 0) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be below 0")
        for name, value in (self.extra_body or {}).items():
            if name in ("messages", "model", "stream") or (name in ("n", "seed") and value is not None):
                raise ValueError(f"extra_body has {name}, which is not a field to change")

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where the servers are."""
        return [
            Endpoint(url, self.api_key_variable, self.timeout, self.retries, self.retry_wait) for url in self.base_urls
        ]


class ServerWriter:
    """Replies of servers; a context manager, and a `requests.Writer`.

    The k replies to a request are asked for at once, as `n`. A server that refuses that, or sends fewer, is asked for
    the rest. Each has a seed by its own number, which goes with the request of which it is the first; texts are
    reproducible as far as the server is.

    Every reply goes at once into a file of JSON lines, by a digest of all that went into its request: the model's name,
    messages and pictures, sampling, seed, form; not the address. The same call continues after an interruption, and
    asks for nothing twice. A request that fails in the end has replies with a `problem`, which are not in the file: a
    later run asks again.

    A server that nobody answers at, or that fails three requests in a row while others do not, is left out and named;
    its requests go to the others.

    Example:

    ```python
    with ServerWriter(ServerOptions(["http://localhost:8000/v1"]), folder / "replies.jsonl", temperature=1.0) as writer:
        for request, replies in writer(requests):
            ...
        print(format_table(writer.summary()))
    ```

    Args:
        options: The servers.
        file: Where replies are kept; made if it does not exist, only ever appended to. One process writes a file.
        temperature: Sampling temperature; 0 takes the likeliest token.
        top_p: Samples from the smallest set of tokens with at least this probability.
        seed: Seeds come from it, the image's id, and the reply's number.
        others: Files of other processes of the run, to read.

    Attributes:
        served_model: The model's name, within the context.

    Raises:
        ValueError: If a file holds something else, or can be none.
        RunError: At the beginning, if a server is not there, is something else, refuses the key, or has not the model;
            later, if none is left, or `max_failures` requests have failed one after the other.
    """

    def __init__(
        self,
        options: ServerOptions,
        file: str | Path,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        others: Iterable[str | Path] = (),
    ) -> None:
        self.options, self.served_model = options, options.served_model
        self._seed, self._settings = seed, {"temperature": temperature, "top_p": top_p, **(options.extra_body or {})}
        self._stop, self._counting = threading.Event(), threading.Lock()
        self._left_out = {name for name, value in (options.extra_body or {}).items() if value is None}
        self._in_a_row, self._told = 0, set[str]()
        self._error: RunError | None = None  # the first: others follow from it
        self._replies = RepliesFile(file, REPLY_COLUMNS, others)
        self._servers = ServerPool(options.endpoints, self._stop)
        self._summary = ServerSummary(options.prompt_price, options.completion_price, temperature > 0)
        self._exit = ExitStack()

    def __enter__(self) -> "ServerWriter":
        with ExitStack() as stack:
            stack.enter_context(self._replies)
            stack.enter_context(self._servers)
            self.served_model = self._servers.check(self.options.served_model)
            self._threads = ThreadPoolExecutor(self.options.concurrency * len(self._servers), "server")
            # What is under way may have been paid for: the pool waits for it, and it is written.
            stack.callback(self._threads.shutdown, cancel_futures=True)
            stack.callback(self._stop.set)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def __call__(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Reply]]]:
        most = _AHEAD * self.options.concurrency * len(self._servers)
        waiting: set[Future] = set()
        unread = iter(requests)
        try:
            while True:
                while len(waiting) < most and (request := next(unread, None)) is not None:
                    waiting.add(self._threads.submit(self._answered, request))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except RunError:
            self._stop.set()
            wait(waiting)
            raise self._error or RunError("the run has ended") from None
        except BaseException:
            self._stop.set()
            raise

    def identity(self) -> str:
        """What the replies depend on beside the requests, as a hex digest: the model's name within the context, how
        replies are drawn, and further fields; not the address."""
        return digest(self.served_model, json.dumps(self._settings, sort_keys=True), self._seed)

    def summary(self) -> list[tuple[str, int | float | str]]:
        """What was asked and came so far, as rows of a table: requests, replies, tokens, and their price."""
        return self._summary.rows(self._servers.left_out)

    def _answered(self, request: Request) -> tuple[Request, list[Reply]]:
        """A request with its replies, from the file or from a server."""
        try:
            messages = chat_messages(request)
        except RowError as error:
            return request, self._summary.counted([Reply("", str(error)) for _ in request.ks])
        body = request_body(request, messages, {"model": self.served_model, **self._settings}, self.options.constrain)
        seeds = {k: seed_of(self._seed, request, k) for k in request.ks}
        keys = {k: reply_key(body, seeds[k]) for k in request.ks}
        missing = [k for k in request.ks if keys[k] not in self._replies]
        kept = len(request.ks) - len(missing)
        problem: str | None = None
        while missing and problem is None:
            of_these = {"seed": seeds[missing[0]], "n": len(missing) if len(missing) > 1 else None}
            sent = {name: value for name, value in of_these.items() if value is not None and name not in self._left_out}
            try:
                completion = self._servers.ask({**body, **sent}, request.template.id)
            except NoReply as reason:
                problem = self._failed(reason, request)
            except RunError as ending:
                with self._counting:
                    self._error = self._error or ending
                raise
            else:
                self._worked(completion)
                self._keep(completion, missing, keys, request)
                missing = missing[len(completion.choices) :]
        entries = [self._replies.get(keys[k]) for k in request.ks]
        replies = [Reply("", problem) if entry is None else _reply(entry) for entry in entries]
        return request, self._summary.counted(replies, kept)

    def _keep(self, completion: Completion, missing: Sequence[int], keys: Mapping[int, str], request: Request) -> None:
        """Write what came for the first of the missing replies; what is beyond them was not asked for."""
        entries = {}
        for number, (k, choice) in enumerate(zip(missing, completion.choices)):
            entries[keys[k]] = {
                "image_id": request.image_id,
                "template": request.template.id,
                "k": k,
                **asdict(choice),
                "served_model": completion.served_model,
                "prompt_tokens": None if number else completion.prompt_tokens,
                "completion_tokens": None if number else completion.completion_tokens,
            }
        self._replies.add(entries)

    def _worked(self, completion: Completion) -> None:
        with self._counting:
            self._in_a_row = 0
            served = completion.served_model
            known = served is None or f"{served}@".startswith(f"{self.served_model}@")  # also with a revision
            if known or f"model {served}" in self._told:
                return
            self._told.add(f"model {served}")
        logger.warning("asked for %s, a server replied as %s; each reply has the name", self.served_model, served)

    def _failed(self, reason: NoReply, request: Request) -> str:
        """The problem of replies that did not come: a short fixed text; the server's words are told once.

        Raises:
            RunError: If the run has ended, or this is one failure too many.
        """
        if reason.kind == "ended":
            raise RunError("the run has ended") from None
        problem = f"{_STATUS} {reason.status}" if reason.kind == "status" else _PROBLEMS[reason.kind]
        with self._counting:
            self._in_a_row += 1
            new = problem not in self._told
            self._told.add(problem)
            if self._in_a_row >= self.options.max_failures:
                self._stop.set()
                count = self._in_a_row
                self._error = self._error or RunError(
                    f"{count} requests in a row have failed, the last one: {reason}. What came before is kept in "
                    f"{self._replies.file}; the same command goes on from there"
                )
                raise self._error
        if new:
            logger.warning("image %s, template %s: %s", request.image_id, request.template.id, reason)
        return problem


def is_unanswered(problem: str) -> bool:
    """Whether a reply's problem is that no server gave one, so that it may be asked for again."""
    return problem in _PROBLEMS.values() or problem.startswith(_STATUS)


def _reply(entry: Mapping[str, Any]) -> Reply:
    text, refusal, reason = entry["text"], entry["refusal"], entry["finish_reason"]
    problem: str | None = None if text else "the server sent an empty reply"
    if reason == "length":
        problem = CUT_OFF
    elif reason == "content_filter":
        problem = "withheld by the server's content filter"
    elif refusal:
        problem = "refused by the model"
    elif reason not in _ENDED:
        problem = "ended by the server before its end"
    return Reply(
        text or refusal or "", problem, entry["served_model"], entry["prompt_tokens"], entry["completion_tokens"]
    )
