"""Prompt templates: how a generator is asked about an image, and in which form it is to reply."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from c3l_hf.common.errors import RowError
from c3l_hf.common.files import digest, file_sha256
from c3l_hf.common.names import nearest
from c3l_hf.common.thoughts import without_thoughts
from c3l_hf.prompts.refusals import is_refusal
from c3l_hf.prompts.reply_checks import REFUSAL, problem_of
from c3l_hf.prompts.reply_forms import UNREADABLE, Conversation, ReplyForm, Turn
from c3l_hf.prompts.template_texts import fields_of, render, uses

__all__ = [
    "GENERAL",
    "Conversation",
    "Example",
    "Template",
    "TemplateSet",
    "Turn",
]

GENERAL = "general"  # the type of templates that leave the type to the model

SAME_PAIR = "the same pair again in one reply"


@dataclass(frozen=True)
class Example:
    """A few-shot example: an image, and the reply that is wanted for it.

    Attributes:
        image: The image's file.
        turns: Questions and answers of the reply.
        fields: Values for the template's fields.
    """

    image: Path
    turns: tuple[Turn, ...]
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Template:
    """An instruction that asks a vision-language model to write about an image, and how its reply is read.

    Attributes:
        id: Unique name, stored in the column `template`.
        type: What kind of questions it asks for, or `GENERAL` when the model may choose.
        user: The message that goes with the image: a Jinja text, whose fields are columns of the image's row, beside
            `turns` ("3", "2-4") and `pairs`.
        system: A message before it, in the same way.
        reply: The form of the reply.
        language: The language of the reply (ISO 639-1); None for any.
        turns: Fewest and most turns of a conversation.
        pairs: How many pairs of one turn are asked for in one reply.
        weight: How often it is drawn among the templates of its type.
        max_new_tokens: Longest reply, in tokens.
        examples: Replies to other images, shown before the image.
        place: Where it is from, for messages; no part of what it is.

    Raises:
        ValueError: If these do not go together; the message begins with the key of a template file.
    """

    id: str
    type: str
    user: str
    system: str | None = None
    reply: ReplyForm = ReplyForm()
    language: str | None = None
    turns: tuple[int, int] = (1, 1)
    pairs: int = 1
    weight: int = 1
    max_new_tokens: int = 128
    examples: tuple[Example, ...] = ()
    place: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("pairs", "weight", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 1 <= self.turns[0] <= self.turns[1]:
            raise ValueError(f"turns is {self.turns_text}; it must be a number, or a range as 2-4")
        if self.pairs > 1 and self.turns != (1, 1):
            raise ValueError(f"pairs is {self.pairs} and turns {self.turns_text}; a reply has several of one of them")
        for name, text in (("user", self.user), ("system", self.system)):
            try:
                fields_of(text or "")
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if self.pairs > 1 and not uses(self.user, "pairs"):
            raise ValueError("user does not use {{ pairs }}; it must, as later stages ask for one pair by this text")
        object.__setattr__(self, "reply", self.reply.for_several(self.turns, self.pairs))
        try:
            self.reply.check(self.turns, self.pairs)
        except ValueError as error:
            raise ValueError(f"reply.{error}") from None
        fewest, most = (self.pairs, self.pairs) if self.pairs > 1 else self.turns
        for number, example in enumerate(self.examples):
            if not fewest <= len(example.turns) <= most:
                asked = self.pairs if self.pairs > 1 else self.turns_text
                raise ValueError(f"examples[{number}] has {len(example.turns)} turns, and {asked} are asked for")
            try:
                self._shown(example)
            except RowError as error:
                raise ValueError(f"examples[{number}]: {error}") from None

    @cached_property
    def fields(self) -> frozenset[str]:
        """The columns that a row must have."""
        return fields_of(self.user) | fields_of(self.system or "")

    def chat(self, values: Mapping[str, Any], images: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What a generator is asked about one row.

        Args:
            values: Column → value; others than `fields` may be there.
            images: How many images the row has.

        Returns:
            Messages, whose contents are lists of {"type": "text", "text": ...} and {"type": "image"} items; and the
            examples' images, which come before the row's own, as structs of "bytes" and "path".

        Raises:
            RowError: If a field has no value; the message names template and field.
        """
        messages = [_message("system", self._rendered(self.system, values))] if self.system else []
        for example in self.examples:
            messages += self._shown(example)
        messages.append(_message("user", self._rendered(self.user, values), images))
        return messages, [{"bytes": None, "path": str(example.image)} for example in self.examples]

    def instruction(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """The messages of system and user as plain texts, without examples, and for one pair: the prompt of a
        pseudo-label.

        Raises:
            RowError: As `chat`.
        """
        texts = [("system", self.system)] if self.system else []
        return [
            {"role": role, "content": self._rendered(text, values, pairs=1)}
            for role, text in [*texts, ("user", self.user)]
        ]

    def read(self, raw: str) -> list[Conversation | str]:
        """The conversations of a reply; in place of one that is none, or no good, the reason, a short fixed text.

        Returns:
            As many as `pairs`: what goes beyond is cut off, and what is missing has a reason.
        """
        read = self.reply.read(raw, self.turns, self.pairs)
        refused = isinstance(read[0], str) and is_refusal(without_thoughts(raw).strip())
        seen: list[Conversation] = []
        for number, found in enumerate(read):
            if isinstance(found, str):
                read[number] = REFUSAL if refused and found in UNREADABLE else found
                continue
            read[number] = SAME_PAIR if found in seen else problem_of(found, self.language) or found
            seen.append(found)
        return read

    def identity(self) -> dict[str, Any]:
        """All that determines what is asked and how the reply is read, as JSON has it; images by their contents."""
        examples = [
            {
                "image": file_sha256(example.image).hex(),
                "turns": [list(turn) for turn in example.turns],
                "fields": dict(example.fields),
            }
            for example in self.examples
        ]
        return {
            "id": self.id,
            "type": self.type,
            "user": self.user,
            "system": self.system,
            "reply": self.reply.to_json(),
            "language": self.language,
            "turns": list(self.turns),
            "pairs": self.pairs,
            "weight": self.weight,
            "max_new_tokens": self.max_new_tokens,
            "examples": examples,
        }

    @property
    def turns_text(self) -> str:
        """`turns` as texts have it: "3", "2-4"."""
        return f"{self.turns[0]}" if self.turns[0] == self.turns[1] else f"{self.turns[0]}-{self.turns[1]}"

    def _rendered(self, text: str, values: Mapping[str, Any], pairs: int | None = None) -> str:
        try:
            return render(text, values, turns=self.turns_text, pairs=self.pairs if pairs is None else pairs)
        except RowError as error:
            raise RowError(f"template {self.id!r}: {error}") from error

    def _shown(self, example: Example) -> list[dict[str, Any]]:
        return [
            _message("user", self._rendered(self.user, example.fields), images=1),
            _message("assistant", self.reply.write(example.turns)),
        ]


@dataclass(frozen=True)
class TemplateSet:
    """Templates, in their order.

    Attributes:
        name: What the set is called: that of a shipped one, or a file's.
        templates: The templates.
        description: What they are for.

    Raises:
        ValueError: If there are none, or two have one id.
    """

    name: str
    templates: tuple[Template, ...]
    description: str = ""

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError("templates has nothing")
        ids = [template.id for template in self.templates]
        if repeated := [id for id in ids if ids.count(id) > 1]:
            raise ValueError(f"two templates have the id {repeated[0]!r}")

    @property
    def types(self) -> tuple[str, ...]:
        """The types, in their order; `GENERAL` only if there is no other, as it is asked only when it is named."""
        types = tuple(dict.fromkeys(template.type for template in self.templates))
        return tuple(type for type in types if type != GENERAL) or types

    @property
    def fields(self) -> frozenset[str]:
        """The columns that rows must have."""
        return frozenset().union(*(template.fields for template in self.templates))

    def of_type(self, type: str) -> tuple[Template, ...]:
        """The templates of one type; a ValueError, which lists the types, if there is none."""
        found = tuple(template for template in self.templates if template.type == type)
        if not found:
            types = list(dict.fromkeys(template.type for template in self.templates))
            raise ValueError(f"no template of type {type!r}; the types are {', '.join(types)}{nearest(type, types)}")
        return found

    def get(self, id: str) -> Template:
        """The template with this id; a ValueError, which lists the ids, if there is none."""
        for template in self.templates:
            if template.id == id:
                return template
        ids = [template.id for template in self.templates]
        raise ValueError(f"no template {id!r}; the templates are {', '.join(ids)}{nearest(id, ids)}")

    def identity(self) -> dict[str, Any]:
        """All that determines what is asked and how replies are read, as JSON has it; not where the set is from."""
        return {"templates": [template.identity() for template in self.templates]}

    def digest(self) -> str:
        """What a run's folder knows the set by."""
        return digest(json.dumps(self.identity(), sort_keys=True), size=8)


def _message(role: str, text: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}
