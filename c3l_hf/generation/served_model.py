"""Which model a server has: the one that is meant, by the server's own list or by its word."""

from c3l_hf.common.endpoint import EndpointClient, NoReply
from c3l_hf.common.errors import RunError
from c3l_hf.common.names import listed

__all__ = ["check_served_model"]


def check_served_model(client: EndpointClient, wanted: str | None) -> str:
    """The name of the server's model.

    A server that does not list the model is asked for one token of it; what it replies tells which model it has.
    `transformers serve` lists what lies in a cache, but not the model that it was started with, and fails where there
    is no cache.

    Args:
        client: The server.
        wanted: The name that it must have; None takes its only model.

    Raises:
        RunError: If nobody is there, or something else, or the server has not this model, or several and none is named.
    """
    where = client.endpoint.root
    try:
        names = client.models()
    except NoReply as reason:
        if wanted is None or reason.status != 500:
            raise RunError(f"{where}: no model can be asked for: {reason}") from None
        names = None
    if wanted is None:
        if names is None or len(names) != 1:
            found = f"lists {len(names)} models ({listed(names)})" if names else "lists no models"
            raise RunError(f"the server {where} {found}; give the served_model that is meant")
        return names[0]
    if wanted not in (names or ()):
        client.model = wanted
        _ask_for(client, wanted, names)
    return wanted


def _ask_for(client: EndpointClient, wanted: str, names: list[str] | None) -> None:
    has = f"has no model {wanted!r}; it lists {listed(names or []) or 'none'}"
    body = {"model": wanted, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        served = client.chat(body).served_model or "no name"
    except NoReply as reason:
        raise RunError(f"the server {client.endpoint.root} {has}; asked for it, {reason}") from None
    # Some repeat whatever name they are given: against a list that proves nothing. With a revision it is their own.
    if not (served.startswith(f"{wanted}@") or (served == wanted and names is None)):
        raise RunError(f"the server {client.endpoint.root} {has}; asked for it, it replied as {served!r}")
