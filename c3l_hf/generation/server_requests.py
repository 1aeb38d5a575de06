"""What is sent to a server for a request, what identifies it, and which fields a server does not take."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from c3l_hf.common.endpoint import Completion, EndpointClient, NoReply
from c3l_hf.common.errors import RowError
from c3l_hf.common.files import digest
from c3l_hf.generation.data_urls import data_urls
from c3l_hf.generation.requests import Request
from c3l_hf.prompts.template_files import written_control_token

__all__ = ["Accepted", "chat_messages", "reply_key", "request_body"]

logger = logging.getLogger(__name__)

# Fields that some servers refuse, and how their messages call them.
_OPTIONAL = {
    "n": re.compile(r"\bn\b"),
    "response_format": re.compile(r"response_format|json_schema|schema|structured|guided|grammar", re.IGNORECASE),
    "structured_outputs": re.compile(r"structured_outputs|regex|pattern|guided|grammar", re.IGNORECASE),
    "seed": re.compile(r"\bseed\b"),
}
_OF_THE_FORM = ("response_format", "structured_outputs")
_WITHOUT = {
    "n": "is asked for one reply at a time",
    "response_format": "does not constrain replies to the form",
    "structured_outputs": "does not constrain replies to the pattern",
    "seed": "takes seeds of its own",
}


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """The messages of a request as OpenAI's API has them, its pictures as data URLs.

    Raises:
        RowError: If a picture cannot be read, or a text has a control token of some family of models.
    """
    urls = iter(data_urls(request.images))
    messages = []
    for message in request.messages:
        content = message["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for item in items:
            if item["type"] == "text" and (token := written_control_token(item["text"])):
                # The server's tokenizer would read it as its own: it cannot be asked which it has.
                raise RowError(f"the text contains the control token {token!r}")
        if len(items) == 1 and items[0]["type"] == "text":
            messages.append({"role": message["role"], "content": items[0]["text"]})  # which every server takes
            continue
        parts = [item if item["type"] == "text" else _picture(urls) for item in items]
        messages.append({"role": message["role"], "content": parts})
    if next(urls, None) is not None:
        raise RowError("the messages have fewer places for images than there are images")
    return messages


def _picture(urls: Iterator[str]) -> dict[str, Any]:
    try:
        return {"type": "image_url", "image_url": {"url": next(urls)}}
    except StopIteration:
        raise RowError("the messages have more places for images than there are images") from None


def request_body(
    request: Request, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], constrain: bool
) -> dict[str, Any]:
    """What is sent, but for the seed and the number of replies.

    Args:
        request: The request.
        messages: Its messages, see `chat_messages`.
        settings: Fields of every request, among them the model's name; they replace others of their names, and those
            that are None are left out.
        constrain: Whether to send what constrains a reply to its form: the JSON schema, or of a regular expression a
            pattern, in a field of vLLM's that others pass over or refuse.
    """
    body: dict[str, Any] = {"messages": messages, "max_tokens": request.max_new_tokens}
    template = request.template
    schema = template.reply.schema(template.turns, template.pairs) if constrain else None
    if schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": schema},
        }
    elif constrain and template.reply.form == "regex":
        if pattern := template.reply.pattern(template.turns, template.pairs):
            body["structured_outputs"] = {"regex": pattern}
    return {name: value for name, value in {**body, **settings}.items() if value is not None}


def reply_key(body: Mapping[str, Any], seed: int) -> str:
    """What identifies a reply: a digest of all that went into its request, and of its own seed."""
    return digest(json.dumps(body, sort_keys=True), seed)


class Accepted:
    """Which fields one server takes: one that it refuses is left out from then on, with a warning.

    Args:
        client: The server.
    """

    def __init__(self, client: EndpointClient) -> None:
        self._client = client
        self._taken: dict[str, bool] = {}

    def chat(self, body: Mapping[str, Any], form: str) -> Completion:
        """The reply to a request, without the fields that the server refuses.

        Args:
            body: The request.
            form: What tells the form of the reply from others: a server may refuse one schema and take another.

        Raises:
            NoReply: As `EndpointClient.chat`; also if the server refuses the request with and without those fields.
            RunError: As `EndpointClient.chat`.
        """
        keys = {name: f"{name} of {form}" if name in _OF_THE_FORM else name for name in _OPTIONAL}
        sent = {name: value for name, value in body.items() if self._taken.get(keys.get(name, name), True)}
        reply = self._tried(sent)
        if isinstance(reply, NoReply):
            refusal = reply
            unsure = [name for name in _OPTIONAL if name in sent and keys[name] not in self._taken]
            # What it complains of goes first.
            unsure.sort(key=lambda name: not _OPTIONAL[name].search(str(refusal)))
            ways = [[name] for name in unsure] + ([unsure] if len(unsure) > 1 else [])
            for left_out in ways:
                fewer = {name: value for name, value in sent.items() if name not in left_out}
                reply = self._tried(fewer)
                if not isinstance(reply, NoReply):
                    self._leave_out([keys[name] for name in left_out], refusal)
                    sent = fewer
                    break
        if isinstance(reply, NoReply):
            raise reply
        for name in _OPTIONAL:
            if name in sent:
                self._taken[keys[name]] = True
        return reply

    def _tried(self, body: Mapping[str, Any]) -> Completion | NoReply:
        """The reply, or the refusal of what was asked."""
        try:
            return self._client.chat(body)
        except NoReply as reason:
            if reason.status not in (400, 422):
                raise
            return reason

    def _leave_out(self, keys: Sequence[str], refusal: NoReply) -> None:
        for key in keys:
            if key not in self._taken:
                where, what = self._client.endpoint.root, _WITHOUT[key.partition(" ")[0]]
                logger.warning("%s refuses the field %s, and from now on %s: %s", where, key, what, refusal)
            self._taken[key] = False
