"""Several servers with the same model: each request goes to the least busy one, and on to others where one fails."""

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from c3l_hf.common.endpoint import Completion, Endpoint, EndpointClient, NoReply
from c3l_hf.common.errors import RunError
from c3l_hf.generation.served_model import check_served_model
from c3l_hf.generation.server_requests import Accepted

__all__ = ["ServerPool"]

logger = logging.getLogger(__name__)

_MOST_FAILURES = 3  # in a row, of one server while there are others


class _Server:
    """One of the servers: how busy it is, and how it has done."""

    def __init__(self, client: EndpointClient) -> None:
        self.client, self.accepted = client, Accepted(client)
        self.under_way, self.failures = 0, 0


class ServerPool:
    """Servers with the same model, asked from several threads; a context manager.

    Args:
        endpoints: Where they are.
        stop: Once it is set, nothing is asked. A `RunError` sets it.

    Attributes:
        left_out: The addresses of servers that are not asked any more, and why.
    """

    def __init__(self, endpoints: Sequence[Endpoint], stop: threading.Event) -> None:
        self._stop, self._changing, self._exit = stop, threading.Lock(), ExitStack()
        self._servers = [_Server(EndpointClient(endpoint, stop=stop)) for endpoint in endpoints]
        self.left_out: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._servers)

    def __enter__(self) -> "ServerPool":
        for server in self._servers:
            self._exit.enter_context(server.client)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def check(self, wanted: str | None) -> str:
        """The name of the model that all servers have.

        Raises:
            RunError: If one is not there, is something else, or has not the model that is wanted, or another than the
                rest.
        """
        names = {server.client.endpoint.root: check_served_model(server.client, wanted) for server in self._servers}
        if len(set(names.values())) > 1:
            found = ", ".join(f"{name} at {root}" for root, name in names.items())
            raise RunError(f"the servers have different models: {found}; give the served_model that is meant")
        for server in self._servers:
            server.client.model = next(iter(names.values()))
        return next(iter(names.values()))

    def ask(self, body: Mapping[str, Any], form: str) -> Completion:
        """The reply to a request, of whichever server; see `Accepted.chat`.

        Raises:
            NoReply: If those that are there have failed.
            RunError: If none is left, or there can be no reply to any request.
        """
        tried: set[_Server] = set()
        garbled = 0
        while True:
            server = self._take(tried)
            try:
                completion = server.accepted.chat(body, form)
            except NoReply as reason:
                if reason.kind == "ended":
                    raise
                if reason.kind == "garbled":  # such as a proxy's page, or half a reply
                    garbled += 1
                    if garbled <= server.client.endpoint.retries:
                        server.client.pause(garbled - 1)
                        continue
                at_fault = reason.status is None or reason.status in (408, 409, 429) or reason.status >= 500
                if not at_fault:
                    raise
                tried.add(server)
                self._has_failed(server, reason)
                if reason.kind != "gone" and not self._others(tried):
                    raise
            else:
                server.failures = 0
                return completion
            finally:
                with self._changing:
                    server.under_way -= 1

    def _take(self, tried: set[_Server]) -> _Server:
        with self._changing:
            there = [server for server in self._servers if server.client.endpoint.root not in self.left_out]
            if not there:
                self._stop.set()
                why = "; ".join(f"{root}: {reason}" for root, reason in self.left_out.items())
                raise RunError(
                    f"no server is left. {why}. Replies so far are kept; the same command goes on from there"
                )
            server = min([one for one in there if one not in tried] or there, key=lambda one: one.under_way)
            server.under_way += 1
            return server

    def _others(self, tried: set[_Server]) -> bool:
        with self._changing:
            return any(one not in tried and one.client.endpoint.root not in self.left_out for one in self._servers)

    def _has_failed(self, server: _Server, reason: NoReply) -> None:
        root = server.client.endpoint.root
        with self._changing:
            server.failures += 1
            alone = len(self.left_out) == len(self._servers) - 1
            if root in self.left_out or not (
                reason.kind == "gone" or (server.failures >= _MOST_FAILURES and not alone)
            ):
                return
            self.left_out[root] = str(reason)
        logger.warning("the server %s is left out: %s", root, reason)
