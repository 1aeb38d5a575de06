"""Which model a server has: the one that is meant, by the server's own list or by its word."""

from c3l_hf.common.endpoint import EndpointClient, NoReply
from c3l_hf.common.errors import RunError
from c3l_hf.common.names import listed

__all__ = ["check_served_model"]


def check_served_model(client: EndpointClient, wanted: str | None) -> str:
    """The name of the server's model.

    `transformers serve` lists what lies in a cache, but not the model that it was started with. So a server that does
    not list the model is asked for one token of it; what it replies tells which model it has.

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
        raise RunError(f"{where}: no model can be asked for: {reason}") from None
    if wanted is None:
        if names is None or len(names) != 1:
            found = f"lists {len(names)} models ({listed(names)})" if names else "lists no models"
            raise RunError(f"the server {where} {found}; give the served_model that is meant")
        return names[0]
    if names is not None and wanted not in names:
        client.model = wanted
        _ask_for(client, wanted, names)
    return wanted


def _ask_for(client: EndpointClient, wanted: str, names: list[str]) -> None:
    has = f"has no model {wanted!r}; it lists {listed(names) or 'none'}"
    body = {"model": wanted, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        served = client.chat(body).served_model or "no name"
    except NoReply as reason:
        raise RunError(f"the server {client.endpoint.root} {has}; asked for it, {reason}") from None
    # Some repeat whatever name they are given: that alone proves nothing. With a revision it is a name of their own.
    if not served.startswith(f"{wanted}@"):
        raise RunError(f"the server {client.endpoint.root} {has}; asked for it, it replied as {served!r}")
