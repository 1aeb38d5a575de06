"""The prompt template that is taken for a pair which does not say what its generator was asked."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from c3l_hf.common.files import digest
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.prompts.templates import GENERAL, TemplateSet

__all__ = ["Taken", "sets_digest", "taken"]

# The set that has a template for any number of turns, and the one that versions before the columns that say what was
# asked had: their rows name the template.
_SET, _EARLIER_SET = "instruct", "scenes"


class Taken(NamedTuple):
    """The template that is taken for a row."""

    source: str  # the name of its set
    id: str
    messages: Sequence[Mapping[str, str]]
    form: str
    unknown: str | None = None  # the template that the row names, if nobody knows it


@functools.cache
def taken(templates: TemplateSet | None, name: str | None, turns: int) -> Taken:
    """The template for a row with so many turns that names one, or none.

    Args:
        templates: Taken for rows that name no template of earlier versions: the first that asks for as many turns, of
            the type `GENERAL` if there is one, and has no fields. Where there is none, and by default, the set
            "instruct" has one.
        name: The template that the row names.
        turns: How many turns the row has.
    """
    earlier = {template.id: template for template in load_templates(_EARLIER_SET).templates}
    unknown = name if name is not None and name not in earlier else None
    if name in earlier and turns == 1:
        source, template = _EARLIER_SET, earlier[name]
    else:
        fitting = [
            template
            for template in (templates.templates if templates else ())
            if template.turns[0] <= turns <= template.turns[1] and not template.fields
        ]
        if templates is not None and fitting:
            source, template = templates.name, min(fitting, key=lambda template: template.type != GENERAL)
        else:
            of_type = load_templates(_SET).of_type(GENERAL if turns == 1 else "conversation")
            source, template = _SET, replace(of_type[0], turns=(turns, turns))
    return Taken(source, template.id, template.instruction({}), template.reply.to_json(), unknown)


def sets_digest(templates: TemplateSet | None) -> str:
    """What identifies the templates that `taken` chooses from."""
    sets = [load_templates(_SET), load_templates(_EARLIER_SET), *([templates] if templates is not None else [])]
    return digest(*(repr(one.identity()) for one in sets))
