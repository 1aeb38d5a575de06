"""LoRA adapters (PEFT) as whole models: what a folder of them holds, and their merge into the model that it names."""

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from c3l_hf import _compat
from c3l_hf.common.errors import RunError, said_by

__all__ = ["BESIDE", "CONFIG", "Adapters", "base_named_in", "merge_adapters"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# How PEFT saves embeddings whole, without and with adapters of their own.
_WHOLE = (".weight", ".base_layer.weight")
# Trained weights that LLaVA's own code leaves beside its adapters.
BESIDE = "non_lora_trainables.bin"
# Beginnings of adapters with which the base is as it was, or is changed in the same way each time. Others change it by
# chance or by data, so that what was trained upon cannot be made again.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva", "pissa", "olora")
# Kinds of LoRA that no merged model computes, or whose model has other layers than its base.
_NOT_MERGED = ("alora_invocation_tokens", "arrow_config", "layer_replication", "megatron_config")


@dataclass(frozen=True)
class Adapters:
    """A folder of LoRA adapters.

    Attributes:
        folder: The folder.
        base_model: The model that they belong to, as the folder names it; None if it does not.
        base_revision: Its revision, if it is named.
    """

    folder: Path
    base_model: str | None
    base_revision: str | None

    @classmethod
    def of(cls, folder: Path, name: str | None = None) -> "Adapters | None":
        """The adapters in a folder; None if it has none.

        Args:
            folder: The folder.
            name: What messages call it; by default its path.

        Raises:
            RunError: If what it has cannot be used: a whole model beside the adapters, weights that are no safetensors,
                another method than LoRA, options of a later PEFT. The message says what to do.
        """
        if not (folder / CONFIG).is_file():
            return None
        name = name or str(folder)
        whole = [path.name for kind in ("model*.safetensors", "pytorch_model*.bin") for path in folder.glob(kind)]
        if whole:
            # Nothing tells whether they have been merged into it already, and twice would go unseen.
            raise RunError(
                f"model {name} has adapters ({WEIGHTS}) and a whole model ({whole[0]}), into which they may have been "
                "merged already; give each a folder of its own"
            )
        if (folder / BESIDE).is_file():
            raise RunError(
                f"model {name} has adapters, and further trained weights in {BESIDE}, which are no safetensors; merge "
                "them with the code that wrote them"
            )
        if not (folder / WEIGHTS).is_file():
            raise RunError(f"model {name} has adapters, but no {WEIGHTS}; write them with save_pretrained")
        return cls(folder, *base_named_in(folder / CONFIG, name))


def base_named_in(file: Path, name: str) -> tuple[str | None, str | None]:
    """The model that adapters belong to, and its revision, as their configuration names them.

    Args:
        file: adapter_config.json.
        name: What messages call the adapters.

    Raises:
        RunError: As for `Adapters.of`.
    """
    values = _read_config(file, name)
    return values.get("base_model_name_or_path") or None, values.get("revision") or None


def merge_adapters(model: PreTrainedModel, folder: Path, name: str) -> PreTrainedModel:
    """A model with LoRA adapters merged into its weights: it computes what the two compute together, up to rounding.

    Every weight in the file has a place in the model, and every place that the configuration names has a weight in the
    file, or nothing is loaded. Names of weights as earlier versions of transformers had them are understood. Where the
    file has embeddings with other rows than the model, the model gets as many. Embeddings that were shared with the
    head, and differ from it after the merge, are no longer shared.

    Args:
        model: The model that they were trained on, unquantised. Modified.
        folder: With adapter_config.json and adapter_model.safetensors.
        name: What messages call it.

    Raises:
        RunError: If the adapters are not such of this model; the message names the first weight that does not fit.
    """
    values = {key: value for key, value in _read_config(folder / CONFIG, name).items() if key in _KNOWN}
    try:
        config = LoraConfig(**{**values, "inference_mode": True})
    except (ValueError, TypeError, AttributeError) as error:  # it checks what it is given
        raise RunError(f"model {name}: PEFT refuses {CONFIG}: {' '.join(str(error).split()):.200}") from None
    _check_mergeable(model, name)
    saved = _read_weights(folder, name)
    paths = _current_paths(model, saved, name)
    weights = {path: saved[key] for key, path in paths.items()}
    if any(path != key.removeprefix(_PREFIX) for key, path in paths.items()):
        # The names in the configuration are of the earlier version, too: the file says which modules have adapters.
        config = _with_current_names(config, model, paths, name)
    whole = _take_embeddings(model, config, weights, name)
    head = model.get_output_embeddings()
    tied = head is not None and model.get_input_embeddings().weight is head.weight
    try:
        with warnings.catch_warnings():
            # Of shared embeddings, which are parted below.
            warnings.filterwarnings("ignore", ".*`tie_word_embeddings=True`")
            adapted = PeftModel(model, config)
        _set_weights(adapted, weights, whole, name)
        if tied:
            _part_before_merge(adapted)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*(`tie_word_embeddings=True`|no longer tied after merging)")
            merged = adapted.merge_and_unload(safe_merge=True)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, NotImplementedError) as error:
        raise RunError(f"model {name}: the adapters do not fit {_class(model)}: {said_by(error)}") from None
    if tied:
        _share_or_part(merged)
    # As `from_pretrained` leaves a model: PEFT has frozen it.
    return merged.requires_grad_(True).eval()


_KNOWN = {field.name for field in fields(LoraConfig)}


def _read_config(file: Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text("utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise RunError(f"model {name}: {CONFIG} is not JSON as PEFT writes it")
    kind = values.get("peft_type")
    if kind != "LORA":
        raise RunError(f"model {name} has adapters of the type {kind!r:.40}; only LORA can be merged")
    # PEFT passes over what it does not know; what is off changes nothing.
    unknown = sorted(key for key, value in values.items() if value and key not in _KNOWN)
    if unknown:
        raise RunError(f"model {name}: this version of PEFT does not know {', '.join(unknown)} of {CONFIG}; update it")
    if used := [key for key in _NOT_MERGED if values.get(key)]:
        raise RunError(f"model {name}: adapters with {used[0]} cannot be merged")
    beginning = values.get("init_lora_weights", True)
    if not isinstance(beginning, bool | str | None) or beginning not in _BEGINNINGS:
        raise RunError(
            f"model {name}: adapters with init_lora_weights {beginning!r:.40} belong to a base that they have changed; "
            "save them with path_initial_model_for_weight_conversion, or the merged model"
        )
    return values


def _check_mergeable(model: PreTrainedModel, name: str) -> None:
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise RunError(
            f"model {name}: adapters cannot be merged exactly into quantised weights; load their model unquantised "
            "(base_model names another), or merge them first, save the whole model, and quantise that"
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise RunError(
            f"model {name}: device_map leaves no room for all weights on the devices, and adapters cannot be merged "
            "into those that were put elsewhere; choose another, or merge them first and save the whole model"
        )


def _class(model: nn.Module) -> str:
    return type(model).__name__


def _read_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise RunError(f"model {name}: {WEIGHTS} cannot be read ({str(error).strip():.100})") from None
    foreign = [key for key in weights if not key.startswith(_PREFIX)]
    if foreign or not any(".lora_" in key for key in weights):
        first = foreign[0] if foreign else "none"
        raise RunError(f"model {name}: {WEIGHTS} has no LoRA weights as PEFT saves them ({first:.100})")
    if broken := [key for key, weight in weights.items() if not weight.isfinite().all()]:
        raise RunError(f"model {name}: {WEIGHTS} has numbers that are not finite: {broken[0]}")
    return weights


def _module_of(path: str) -> str:
    """The module that a weight belongs to, without the parts that PEFT puts between."""
    if ".lora_" in path:
        return path.partition(".lora_")[0]
    module = path.rpartition(".")[0]
    return module.removesuffix(".base_layer").removesuffix(".token_adapter")


def _current_paths(model: PreTrainedModel, keys: Iterable[str], name: str) -> dict[str, str]:
    """Key of the file → its name in the model, without PEFT's prefix.

    Raises:
        RunError: If a weight has no place in the model.
    """
    modules = {path for path, _ in model.named_modules()}
    paths = {key: key.removeprefix(_PREFIX) for key in keys}
    unknown = {key: path for key, path in paths.items() if _module_of(path) not in modules}
    renamed = _compat.current_weight_names(model, unknown.values())
    paths |= {key: renamed[path] for key, path in unknown.items()}
    without_place = [key for key in unknown if _module_of(paths[key]) not in modules]
    if without_place:
        raise RunError(
            f"model {name}: {_class(model)} has no place for {len(without_place):,} of {len(paths):,} weights, first "
            f"{without_place[0]}; the adapters are of another model, or of another version of it"
        )
    if len(set(paths.values())) != len(paths):
        raise RunError(f"model {name}: {WEIGHTS} has the same weight under two names")
    return paths


def _with_current_names(config: LoraConfig, model: PreTrainedModel, paths: Mapping[str, str], name: str) -> LoraConfig:
    """The configuration for modules that had other names when it was written.

    Raises:
        RunError: If some layers have adapters in the file, and others of the same kind have none.
    """
    modules = {_module_of(key.removeprefix(_PREFIX)): _module_of(p) for key, p in paths.items() if ".lora_" in key}
    if not (config.layers_to_transform or config.exclude_modules):
        kinds = {(_without_numbers(module), type(model.get_submodule(module))) for module in modules.values()}
        layers = [path for path, layer in model.named_modules() if (_without_numbers(path), type(layer)) in kinds]
        if missing := sorted(set(layers) - set(modules.values())):
            raise RunError(f"model {name}: {WEIGHTS} has no weights for {missing[0]}, but for others of its kind")
    patterns = {}
    for option in ("rank_pattern", "alpha_pattern"):
        values = getattr(config, option) or {}
        keys = {new: get_pattern_key(values, old) for old, new in modules.items()}
        patterns[option] = {re.escape(new): values[key] for new, key in keys.items() if key in values}
    unset = {"layers_to_transform": None, "layers_pattern": None, "exclude_modules": None}
    return replace(config, target_modules=sorted(modules.values()), **unset, **patterns)


def _without_numbers(path: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in path.split("."))


def _take_embeddings(
    model: PreTrainedModel, config: LoraConfig, weights: Mapping[str, torch.Tensor], name: str
) -> set[str]:
    """Puts embeddings and head that PEFT has saved whole into the model, which gets as many rows as they have.

    Returns:
        The names of these weights. Those that the configuration has in `modules_to_save` are not among them: PEFT puts
        them in their places.

    Raises:
        RunError: If the rows differ, and the file does not have all of them.
    """
    input_layer, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: path for path, module in model.named_modules() if module in (input_layer, head)}
    saved, of_peft = {}, set()
    for layer, path in names.items():
        for key in (f"{path}.weight", f"{path}.base_layer.weight"):
            if key in weights:
                saved[layer] = weights[key]
                of_peft |= {layer} if path.split(".")[-1] in (config.modules_to_save or ()) else set()
    whole = {f"{names[layer]}{end}" for layer in saved if layer not in of_peft for end in _WHOLE} & set(weights)
    tied = head is not None and input_layer.weight is head.weight
    rows = {len(weight) for weight in saved.values()}
    if rows and rows != {len(input_layer.weight)}:
        # With shared weights one of both is enough, but not where PEFT trained a copy of it.
        enough = len(saved) == len(names) or (tied and not of_peft)
        if len(rows) > 1 or not enough:
            raise RunError(
                f"model {name}: the adapters were trained with {max(rows):,} rows of embeddings, their model has "
                f"{len(input_layer.weight):,}, and {WEIGHTS} does not have all of the others"
            )
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)
        input_layer, head = model.get_input_embeddings(), model.get_output_embeddings()
        modules = dict(model.named_modules())
        saved = {modules[names[layer]]: weight for layer, weight in saved.items()}
        of_peft = {modules[names[layer]] for layer in of_peft}
    taken = {layer: weight for layer, weight in saved.items() if layer not in of_peft}
    if tied and taken and (of_peft or len(taken) == 2 and not torch.equal(*taken.values())):
        assert head is not None
        head.weight = nn.Parameter(head.weight.detach().clone())
    with torch.no_grad():
        for layer, weight in taken.items():
            if layer.weight.shape != weight.shape:
                raise RunError(f"model {name}: {names.get(layer, 'embeddings')} has another shape than in {WEIGHTS}")
            layer.weight.copy_(weight)
    return whole


def _set_weights(adapted: PeftModel, weights: Mapping[str, torch.Tensor], whole: set[str], name: str) -> None:
    """Sets the weights of the adapters: exactly those that the configuration asks for.

    Raises:
        RunError: If there are others in the file, or some are missing.
    """
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    given = {_PREFIX + path: weight for path, weight in weights.items() if path not in whole}
    for keys, says in (
        (sorted(given.keys() - wanted.keys()), f"has weights that {CONFIG} does not ask for"),
        (sorted(wanted.keys() - given.keys()), f"lacks weights that {CONFIG} asks for"),
        (sorted(key for key in given if key in wanted and given[key].shape != wanted[key].shape), "has other shapes"),
    ):
        if keys:
            raise RunError(f"model {name}: {WEIGHTS} {says}: {len(keys):,}, first {keys[0]}")
    set_peft_model_state_dict(adapted, given)
    now = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    wrong = [key for key, weight in given.items() if not torch.equal(now[key].cpu(), weight.to(now[key].dtype).cpu())]
    if wrong:
        raise RunError(f"model {name}: PEFT has not loaded {len(wrong):,} weights of {WEIGHTS}, first {wrong[0]}")


def _part_before_merge(adapted: PeftModel) -> None:
    """Gives the head a weight of its own where adapters of it or of the embeddings would be added to both."""
    model = adapted.get_base_model()
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    if any(isinstance(layer, BaseTunerLayer) for layer in layers):
        head: Any = layers[1].get_base_layer() if isinstance(layers[1], BaseTunerLayer) else layers[1]
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _share_or_part(model: PreTrainedModel) -> None:
    """Embeddings and head, shared before: again if they are equal, else the configuration says that they are not."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if torch.equal(embeddings.weight, head.weight.to(embeddings.weight.device)):
        head.weight = embeddings.weight
        return
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
