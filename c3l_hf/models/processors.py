"""The processor of adapters: what their folder has of one, and the rest from the model that they belong to."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin

__all__ = ["PROCESSOR_FILES", "processor_of_adapters"]

_IMAGES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# One of the first two, and a tokenizer is there.
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
PROCESSOR_FILES = ("*.json", "*.jinja", "*.txt", "*.model")


def processor_of_adapters(folder: Path, base: Path, trust_remote_code: bool = False) -> tuple[ProcessorMixin, bool]:
    """The processor that belongs to adapters.

    Their folder's own, if it has one. Of a tokenizer without the part for images, or the other way round, the other
    part is that of their model, as is everything if the folder has neither. A chat template in the folder is used in
    any case.

    Args:
        folder: The adapters' folder.
        base: Folder of the model that they belong to.
        trust_remote_code: Whether code beside a processor may be run.

    Returns:
        The processor, and whether its tokenizer is from the adapters' folder.

    Raises:
        OSError: If there is no processor.
    """
    images, tokenizer = _has_images(folder), _has_tokenizer(folder)
    if images == tokenizer:
        processor = AutoProcessor.from_pretrained(folder if images else base, trust_remote_code=trust_remote_code)
    else:
        with tempfile.TemporaryDirectory() as place:
            kinds = (*PROCESSOR_FILES, *["*.py"] * trust_remote_code)
            _put_together(folder, base, _IMAGES if images else _TOKENIZER, kinds, Path(place))
            processor = AutoProcessor.from_pretrained(place, trust_remote_code=trust_remote_code)
    template = _chat_template(folder) or processor.chat_template or _chat_template(base)
    if template is not None and template != processor.chat_template:
        processor.chat_template = template
    return processor, tokenizer


def _has_images(folder: Path) -> bool:
    return (folder / "preprocessor_config.json").is_file() or "image_processor" in _json(folder / _IMAGES[0])


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER[:2])


def _put_together(folder: Path, base: Path, own: tuple[str, ...], kinds: tuple[str, ...], place: Path) -> None:
    """The files of a model beside its weights, but for those of one part, which are the adapters' own."""
    for path in (path for kind in kinds for path in base.glob(kind)):
        if path.is_file() and path.name not in own:
            shutil.copyfile(path, place / path.name)
    for name in own:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, place / name)


def _chat_template(folder: Path) -> Any:
    """The chat template in a folder, in whichever of its files versions of transformers have kept it; None without."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    for name in ("chat_template.json", *_IMAGES[:1], "tokenizer_config.json"):
        template = _json(folder / name).get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {entry["name"]: entry["template"] for entry in template}
        if template:
            return template
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
