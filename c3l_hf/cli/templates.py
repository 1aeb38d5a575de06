"""`c3l templates`: the prompt templates that are shipped, what they ask, and whether one's own are right."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from c3l_hf.cli.command import CallOptions, Command, UsageError, set_up_process

if TYPE_CHECKING:
    from c3l_hf.prompts.templates import Template

__all__ = ["COMMAND", "TemplateOptions"]


@dataclass
class TemplateOptions:
    """What is told of which templates."""

    _argument_group_name: ClassVar[str] = "What"
    action: Literal["list", "show", "check"] = field(
        default="list", metadata={"help": "list: sets, or the templates of one; show: what is asked; check: a file."}
    )
    name: str | None = field(default=None, metadata={"help": "A shipped set, or a YAML file."})
    id: str | None = field(default=None, metadata={"help": "Of show: one template; by default all."})
    fields: list[str] | None = field(
        default=None,
        metadata={"help": "Of show: values for the fields, as caption='a cat'.", "metavar": "NAME=VALUE"},
    )
    model: str | None = field(
        default=None,
        metadata={"help": "Of check: look for its control tokens; else for those of common families."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})
    images: str | None = field(
        default=None, metadata={"help": "Of check: whether the rows of these images have the fields' columns."}
    )
    images_split: str = field(default="train", metadata={"help": "Split of the images' dataset."})


def tell_of_templates(options: TemplateOptions, _: CallOptions) -> None:
    """Lists, shows or checks templates; see `COMMAND`."""
    _check_use(options)
    if options.action == "list":
        print(_list(options.name))
        return
    if options.name is None:
        raise UsageError(f"NAME is missing: which set or file to {options.action}")
    if options.action == "show":
        print(_show(options.name, options.id, options.fields or []))
    else:
        print(_check(options, options.name))


def _check_use(options: TemplateOptions) -> None:
    of_action = {"show": ("id", "fields"), "check": ("model", "model_revision", "images")}
    for action, names in of_action.items():
        for name in names:
            if action != options.action and getattr(options, name) is not None:
                raise UsageError(f"{name} is for c3l templates {action}, not for {options.action}")


def _list(name: str | None) -> str:
    from c3l_hf.common.tables import format_table
    from c3l_hf.prompts.template_files import load_templates, shipped_sets

    if name is None:
        lines = []
        for shipped in shipped_sets():
            templates = load_templates(shipped)
            types = Counter(template.type for template in templates.templates)
            counts = ", ".join(f"{count} {type}" for type, count in types.items())
            lines += [f"{shipped}: {templates.description}", f"  {len(templates.templates)} templates: {counts}"]
        return "\n".join(lines)
    rows = [
        [template.id, template.type, *_asked_for(template), ", ".join(sorted(template.fields))]
        for template in load_templates(name).templates
    ]
    header = ["id", "type", "turns", "pairs", "reply", "language", "weight", "tokens", "fields"]
    return format_table([header, *rows])


def _asked_for(template: "Template") -> tuple[str, int, str, str, int, int]:
    return (
        template.turns_text,
        template.pairs,
        template.reply.form,
        template.language or "",
        template.weight,
        template.max_new_tokens,
    )


def _show(name: str, id: str | None, given: Sequence[str]) -> str:
    from c3l_hf.common.errors import RowError, RunError
    from c3l_hf.common.names import nearest
    from c3l_hf.prompts.template_files import load_templates

    if wrong := [word for word in given if not word.partition("=")[1]]:
        raise UsageError(f"fields has {wrong[0]!r}; write NAME=VALUE")
    values = {field: value for field, _, value in (word.partition("=") for word in given)}
    templates = load_templates(name)
    chosen = templates.templates if id is None else (templates.get(id),)
    used = frozenset().union(*(template.fields for template in chosen))
    if unknown := sorted(values.keys() - used):
        raise UsageError(f"fields has {unknown[0]!r}, which no template here uses{nearest(unknown[0], used)}")
    shown = []
    for template in chosen:
        try:
            messages, examples = template.chat(values, images=1)
        except RowError as error:
            raise RunError(f"{error}; give --fields NAME=VALUE") from None
        turns, pairs, form, language, weight, tokens = _asked_for(template)
        head = f"{template.id} ({template.type}): {form}, turns {turns}, pairs {pairs}, at most {tokens} tokens"
        pictures = iter([image["path"] for image in examples])
        lines = [line for message in messages for line in _lines(message, pictures)]
        shown.append("\n".join([head, *lines]))
    return "\n\n".join(shown)


def _lines(message: dict[str, Any], pictures: Any) -> list[str]:
    parts = [
        f"[picture: {next(pictures, 'the row')}]" if item["type"] == "image" else item["text"]
        for item in message["content"]
    ]
    return [f"  {message['role']}:", *(f"    {line}" for part in parts for line in part.splitlines())]


def _check(options: TemplateOptions, name: str) -> str:
    from c3l_hf.prompts.template_files import check_control_tokens, check_fields, load_templates

    templates = load_templates(name)
    count = len(templates.templates)
    told = [f"{count} template{'s' if count > 1 else ''}", f"types {', '.join(templates.types)}"]
    processor = None
    if options.model is not None:
        from c3l_hf.models.loading import Source, load_processor

        set_up_process()
        processor = load_processor(Source(options.model, options.model_revision).pinned())
    check_control_tokens(templates.templates, processor)
    told.append(f"no control tokens of {options.model or 'common families'}")
    if options.images is not None:
        from c3l_hf.data.sources import load_images

        set_up_process()
        columns = load_images(options.images, split=options.images_split, limit=1).dataset.column_names
        check_fields(templates.templates, columns)
        told.append(f"{options.images} has all fields")
    elif templates.fields:
        told.append(f"fields {', '.join(sorted(templates.fields))} (--images looks for their columns)")
    return f"ok: {'; '.join(told)}"


COMMAND = Command(
    description="Prompt templates: how a generator is asked about an image. Lists those that are shipped, shows what "
    "is asked, and checks a file of your own: what is wrong is told in one line, with its place. docs/prompts.md "
    "describes the files.",
    examples=(
        "c3l templates list",
        "c3l templates show instruct conversation-1",
        "c3l templates show my.yaml caption-1 --fields 'caption=A cat on a sofa.'",
        "c3l templates check my.yaml --model llava-hf/llava-1.5-7b-hf --images my_pictures/",
    ),
    groups=(TemplateOptions, CallOptions),
    call=tell_of_templates,
    positionals=("action", "name", "id"),
)
