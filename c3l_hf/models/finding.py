"""A model as it is on this machine, and what identifies it: of adapters, their own model too."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import file_sha256, files_digest
from c3l_hf.common.plain import plain
from c3l_hf.common.processes import first_on_each_machine
from c3l_hf.files.inventory import FileState, Inventory, cached
from c3l_hf.models.adapters import CONFIG, Adapters
from c3l_hf.models.loading import Source, fetched, missing_model, model_folder
from c3l_hf.models.processors import PROCESSOR_FILES

__all__ = ["find_model"]


def find_model(source: Source) -> tuple[Source, dict[str, str]]:
    """A model as it is here, and what identifies it: the commit on the Hub, or digests of its files.

    The files of a local model are read for that once on each machine, and again when their sizes or times have changed;
    what is known of them is kept in the cache of `datasets`. Every process calls this.

    Args:
        source: The model.

    Returns:
        The same, in folders: what `load` loads is what was identified. And "revision", or "digest" (of the weights)
        and "files" (of what is beside them); of adapters also "base_revision", or "base_digest" and "base_files", of
        the model that they belong to, and "base_model", its name (of an absolute path the last part).

    Raises:
        RunError: If there is no such model, it has no weights as safetensors, or adapters cannot be used.
    """
    folder, identity = _find_folder(source, "model")
    here = replace(source, model_id=str(folder), revision=None)
    adapters = Adapters.of(folder, source.model_id)
    if adapters is None:
        if source.base_model is not None:
            raise RunError(f"model {source.model_id} is a whole model; base_model is for adapters alone")
        return here, identity
    base = source.base(adapters.base_model, adapters.base_revision)
    base.pinned_as_base(source.model_id)
    base_folder, base_identity = _find_folder(base, f"model {source.model_id} has adapters, and their model")
    identity |= {"base_model": plain(base.model_id), **{f"base_{name}": value for name, value in base_identity.items()}}
    return replace(here, base_model=str(base_folder), base_revision=None), identity


def _find_folder(source: Source, what: str) -> tuple[Path, dict[str, str]]:
    """The folder of one model, or of adapters alone, and what identifies it."""
    name = source.model_id
    folder = Path(model_folder(name))
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", CONFIG)):
            raise RunError(f"{what} {name} has no config.json, so it is not a model; see save_pretrained")
        if not any(folder.glob("*.safetensors")):
            raise RunError(f"{what} {name} has no weights as *.safetensors; write it with save_pretrained")
        # The weights, and what else says how they are used: configuration, processor, chat template.
        weights, beside = ("*.safetensors",), (*PROCESSOR_FILES, "*.py")
        content = _known_contents(folder, *weights, *beside)
        digests = [files_digest(folder, *patterns, content=content) for patterns in (weights, beside)]
        return folder, dict(zip(("digest", "files"), digests))
    if problem := missing_model(name):
        raise RunError(f"{what} {name} {problem}")
    found: Path | None = None
    reason = ""
    with first_on_each_machine():  # which fetches what the others find; an error is raised when all have been here
        try:
            # Weights as safetensors only; code only if asked for.
            found = fetched(source)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
            reason = str(error).strip().splitlines()[0]
    if found is None:
        raise RunError(f"{what} {name} is neither a folder here nor a model that could be fetched ({reason})")
    return found, {"revision": found.name}


def _known_contents(folder: Path, *patterns: str) -> Callable[[Path], bytes]:
    """SHA-256 digests of a model's files, by their paths."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    states = {path: FileState.of(path.name, path.stat()) for path in paths}
    with first_on_each_machine():
        digests = Inventory(cached("model", folder.resolve())).digests(
            list(states.values()), lambda state: file_sha256(folder / state.name)
        )
    return dict(zip(paths, digests)).__getitem__
