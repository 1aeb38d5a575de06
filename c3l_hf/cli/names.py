"""Names that were probably meant."""

from collections.abc import Iterable

from c3l_hf.common.names import closest

__all__ = ["nearest"]

# What an option was called once, as in the configurations of published runs.
_RENAMED = {
    "batch_size": "scoring_batch_size",
    "dataset_name": "hub_dataset_name",
    "device": "device_map",
    "generator_name": "hub_generator_name",
    "max_tokens": "scoring_max_tokens",
    "model_dtype": "dtype",
    "namespace": "hub_namespace",
    "revision": "model_revision",
}


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant, as the end of a sentence; nothing if none is near."""
    names = list(names)
    bare = name.removeprefix("--")
    renamed = name.replace(bare, _RENAMED.get(bare, bare))
    close = renamed if renamed in names else closest(name, names)
    return "" if close is None else f"; did you mean {close}?"
