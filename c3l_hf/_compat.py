"""Every touch of a private part of datasets, transformers, torch or the Hub's client: why, and when it can go.

What is private may move in any minor version. `CHECKED_WITH` names the versions in which all of it was looked at;
`tests/test_compat.py` fails when `constraints.txt` moves past them, and has a test for each touch. Imports stand in the
functions: cards and `verify` load neither torch nor transformers.

Methods that `C3LTrainer` and `StudentTrainer` override, and attributes that they set, cannot stand here:
`TRAINER_METHODS` and `TRAINER_PARTS` list them.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tarfile

    import pyarrow as pa
    from datasets import Dataset, Features
    from transformers import PreTrainedModel

__all__ = [
    "CHECKED_WITH",
    "TRAINER_METHODS",
    "TRAINER_PARTS",
    "attention_implementation",
    "current_weight_names",
    "embed_images",
    "fingerprint",
    "forget_members",
    "git_blob_digest",
    "has_foreign_hooks",
    "hash_of",
    "ignore_on_save",
    "layers_to_keep_whole",
    "not_formatted",
    "with_column",
]

# Package → the minor version in which everything here was looked at.
CHECKED_WITH = {
    "accelerate": "1.15",
    "datasets": "5.2",
    "huggingface_hub": "2.4",
    "peft": "0.21",
    "transformers": "5.23",
    "trl": "1.16",
}

# Private methods of `Trainer` that ours override → why. They can go when transformers has hooks for them.
TRAINER_METHODS = {
    "_save_checkpoint": "the projection head is saved beside the weights",
    "_load_from_checkpoint": "and loaded; full models are loaded by their released names",
    "_load_best_model": "likewise",
    "_get_train_sampler": "groups by length from an index, which `train_sampling_strategy` reads from the rows",
}

# Other parts of `SFTTrainer` and `Trainer` that ours use → why, and when they can go.
TRAINER_PARTS = {
    "_metrics": "logged means over rows; until TRL has a public way to log",
    "_total_train_tokens": "the number of tokens seen, which checkpoints keep; likewise",
    "_get_output_dir": "where the projection head is saved; until there is a hook for saving",
    "loss_is_scaled_for_ga": "the loss is a mean over a micro-batch's rows; until it is documented",
    "unset_hf_deepspeed_config": "models made without weights under ZeRO-3; until there is a context for it",
}


def fingerprint(dataset: "Dataset") -> str:
    """What `datasets` knows a dataset's content by.

    `Dataset._fingerprint`, since datasets 1.2: there is no public way to ask for it. It goes when there is one.
    """
    return dataset._fingerprint


def hash_of(value: Any) -> str:
    """A digest of a value as the cache of `datasets` has it, whatever its type.

    `datasets.fingerprint.Hasher`, which the documentation of `map` names for `new_fingerprint` without exporting it.
    """
    from datasets.fingerprint import Hasher

    return Hasher.hash(value)


def with_column(dataset: "Dataset", name: str, values: "pa.Array", new_fingerprint: str) -> "Dataset":
    """A dataset with other values in a column. The other columns are neither read nor copied.

    `map` and `add_column` write all columns again when rows were selected before; pictures of more than 2 GB then do
    not fit into one Arrow array. So the dataset is made of its parts: its indices are `Dataset._indices`. It goes when
    `datasets` sets a column in place.

    Args:
        dataset: The dataset, perhaps with selected rows.
        name: The column.
        values: One for each row of the table below, selected or not.
        new_fingerprint: Given, because `datasets` would read all pictures to make one.
    """
    from datasets import Dataset

    table = dataset.data.table
    place = table.column_names.index(name)
    return Dataset(
        table.set_column(place, table.schema.field(place), values),
        info=dataset.info,
        indices_table=dataset._indices,
        fingerprint=new_fingerprint,
    )


def not_formatted(rows: Any) -> "tuple[pa.Table, Features, bool] | None":
    """The columns of a row or batch from `Dataset.map` that nobody has looked at yet, as they are stored.

    `LazyRow` and `LazyBatch` of `datasets.formatting.formatting`: `map` gives one of these, and each column is decoded
    when it is looked up. Their `pa_table`, `formatter` and `keys_to_format` are in no documentation. It goes when `map`
    can be told not to decode.

    Returns:
        The columns, their types, and whether it is a batch; None for everything else.
    """
    from datasets.formatting.formatting import LazyBatch, LazyRow

    if not isinstance(rows, LazyBatch | LazyRow) or rows.formatter.features is None:
        return None
    names = [name for name in rows.pa_table.column_names if name in rows.keys_to_format]
    return rows.pa_table.select(names), rows.formatter.features, isinstance(rows, LazyBatch)


def embed_images(table: "pa.Table") -> "pa.Table":
    """A table of a dataset with the content of the files that its images and sounds name. Nothing is fetched.

    `datasets.table.embed_table_storage`: what `Dataset.to_parquet` and `push_to_hub` call, which fetch addresses on the
    web too; there is no public name for one table.
    """
    from datasets.table import embed_table_storage

    return embed_table_storage(table, remote_files=False)


def layers_to_keep_whole(model: "PreTrainedModel") -> list[str]:
    """The classes of layers that sharding must not cut, as the model's class lists them.

    `PreTrainedModel._no_split_modules`; accelerate reads it likewise.
    """
    return list(model._no_split_modules or ())


def attention_implementation(config: Any) -> str | None:
    """How a model computes attention: "sdpa", "eager", ...

    `PretrainedConfig._attn_implementation`: what was asked for is public, what is used is not.
    """
    return config._attn_implementation


def ignore_on_save(model: "PreTrainedModel", keys: Iterable[str]) -> None:
    """Leave weights out of what `save_pretrained` writes.

    `PreTrainedModel._keys_to_ignore_on_save`: a set of names; `save_pretrained` has no argument for it.
    """
    if model._keys_to_ignore_on_save is None:
        model._keys_to_ignore_on_save = set()
    model._keys_to_ignore_on_save.update(keys)


def has_foreign_hooks(module: Any) -> bool:
    """Whether forward hooks that are not those of transformers are on a module, which may change what it computes.

    `Module._forward_hooks` and `_forward_pre_hooks` of torch; there is no public way to list them.
    """
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return not all(str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks)


def git_blob_digest(content: bytes) -> str:
    """The id that git, and so the Hub, has for a file's content.

    `huggingface_hub.utils.sha.git_hash`, which compares what is to be uploaded with what is there.
    """
    from huggingface_hub.utils.sha import git_hash

    return git_hash(content)


def current_weight_names(model: "PreTrainedModel", names: Iterable[str]) -> dict[str, str]:
    """Names of weights as an earlier transformers wrote them → as this model has them; others stay.

    `get_model_conversion_mapping` and `rename_source_key`, with which `from_pretrained` renames the weights of older
    checkpoints: PEFT does not do it for most families, and transformers' own loading of adapters does not fail where a
    name fits nowhere. They go when PEFT renames, and refuses.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]
    return {name: rename_source_key(name, renamings, [])[0] for name in names}


def forget_members(tar: "tarfile.TarFile") -> None:
    """Lets go of the headers of the files that a tar has been read past, which else stay in memory, each some kB.

    `TarFile.members`. It goes with Python 3.12: from 3.13 on `tarfile.open(stream=True)` keeps none.
    """
    tar.members = []  # type: ignore[attr-defined]
