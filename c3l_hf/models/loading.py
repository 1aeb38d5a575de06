"""Models and processors from the Hub or a folder, and short digests of what they are."""

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import xxhash
from accelerate.utils import align_module_device
from huggingface_hub import snapshot_download
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import cached_file

from c3l_hf.common.errors import RunError
from c3l_hf.common.names import is_not_on_hub, nearest_path
from c3l_hf.common.processes import process_state
from c3l_hf.data.worlds import find_world, nearest_world
from c3l_hf.models.adapters import BESIDE, CONFIG, Adapters, base_named_in, merge_adapters
from c3l_hf.models.processors import PROCESSOR_FILES, processor_of_adapters

__all__ = [
    "LoadingOptions",
    "Source",
    "digest_weights",
    "fetched",
    "load",
    "load_processor",
    "model_folder",
    "pick_dtype",
    "resolve_dtype",
]


class LoadingOptions(Protocol):
    """What `Source.of` reads; `pipeline.options.ModelOptions` has it."""

    model: str
    model_revision: str | None
    base_model: str | None
    dtype: Any
    device_map: str | None
    attn_implementation: str | None
    load_in_4bit: bool
    load_in_8bit: bool


@dataclass(frozen=True)
class Source:
    """Where a model is, and how it is to be loaded: enough to load it again in another process.

    A folder or repository with LoRA adapters alone is the model into which they are merged as it is loaded.

    Attributes:
        model_id: Repository id, folder, or the name of an embedded world, for the generator that is shipped with it.
        revision: Branch, tag or commit on the Hub.
        dtype: "float32", "bfloat16", "float16", or "auto", see `pick_dtype`.
        device: Where to put the whole model; None for this process's accelerator, or the CPU.
        trust_remote_code: Whether code from the repository may be run.
        device_map: In place of `device`, where its parts go: "auto", "cpu", "cuda:1", ...; see `from_pretrained`.
        attn_implementation: "sdpa", "eager", "flash_attention_2", ...; None for the model's default.
        quantization_config: How the weights are quantised as they are loaded, e.g. a `BitsAndBytesConfig`.
        base_model: If it is adapters: the model that they are merged into, in place of the one that they name.
        base_revision: Branch, tag or commit of that model.
    """

    model_id: str
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    trust_remote_code: bool = False
    device_map: str | None = None
    attn_implementation: str | None = None
    quantization_config: Any = field(default=None, hash=False)
    base_model: str | None = None
    base_revision: str | None = None

    def __post_init__(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise ValueError(f"device {self.device} and device_map {self.device_map} are both given; choose one")

    @property
    def is_placed(self) -> bool:
        """Whether it was said where the model goes."""
        return self.device is not None or self.device_map is not None

    @classmethod
    def of(
        cls, options: LoadingOptions, *, model_id: str | Path | None = None, trust_remote_code: bool = False
    ) -> "Source":
        """The model that a user's options name, loaded as they say.

        Args:
            options: The options.
            model_id: Where it is here, if that is known (see `find_model`), or another model to load in the same way.
            trust_remote_code: Whether code from the repository may be run.

        Raises:
            RunError: If options exclude each other, or quantisation is asked for that is not installed.
        """
        return cls(
            options.model if model_id is None else str(model_id),
            options.model_revision if model_id is None else None,
            options.dtype,
            trust_remote_code=trust_remote_code,
            device_map=options.device_map,
            attn_implementation=options.attn_implementation,
            quantization_config=_quantization(options),
            base_model=options.base_model if model_id is None else None,
        )

    def pinned(self) -> "Source":
        """The same with the commit that a branch or tag of a repository is at now; a folder as it is, an embedded
        world's name as the folder of its generator. Of adapters, also the model that they belong to.

        Raises:
            OSError: If there is no such model.
            RunError: If it is adapters whose model is not named, or cannot be found.
        """
        pinned, config = self._pinned_alone()
        if config is None:
            return pinned
        base = self.base(*base_named_in(config, self.model_id)).pinned_as_base(self.model_id)
        return replace(pinned, base_model=base.model_id, base_revision=base.revision)

    def _pinned_alone(self) -> tuple["Source", Path | None]:
        """The same, pinned, but for the model that adapters belong to; and the configuration of adapters."""
        folder = model_folder(self.model_id)
        if Path(folder).is_dir():
            config = Path(folder) / CONFIG
            return replace(self, model_id=folder), config if config.is_file() else None
        if problem := missing_model(self.model_id):
            raise OSError(f"{self.model_id} {problem}")
        try:
            file = cached_file(self.model_id, CONFIG, revision=self.revision)
            return replace(self, revision=Path(file).parent.name), Path(file)
        except OSError:  # not adapters alone
            try:
                file = cached_file(self.model_id, "config.json", revision=self.revision)
            except OSError as error:
                # Offline it would not be named.
                reason = str(error).strip().splitlines()[0]
                raise OSError(f"{self.model_id} is neither a folder here nor a model on the Hub: {reason}") from error
        return replace(self, revision=Path(file).parent.name), None

    def base(self, named: str | None, revision: str | None) -> "Source":
        """The model that these adapters belong to, loaded in the same way.

        Args:
            named: Its name in the adapters' folder.
            revision: Its revision there.

        Raises:
            RunError: If it is named neither there nor by `base_model`, or is to be quantised.
        """
        if self.quantization_config is not None:
            raise RunError(
                f"model {self.model_id} is adapters, which cannot be merged exactly into quantised weights; load them "
                "unquantised, or save the merged model, and quantise that"
            )
        if self.base_model is not None:
            named, revision = self.base_model, self.base_revision
        if named is None:
            raise RunError(f"model {self.model_id} has adapters, and {CONFIG} names no model; give base_model")
        return replace(self, model_id=named, revision=revision, base_model=None, base_revision=None)

    def pinned_as_base(self, adapters: str) -> "Source":
        """The same, pinned: as the model that adapters of this name belong to.

        Raises:
            RunError: If it cannot be found, or is adapters itself.
        """
        try:
            pinned, config = self._pinned_alone()
        except OSError as error:
            raise RunError(
                f"model {adapters} has adapters of the model {self.model_id}, which is neither a folder here (seen "
                "from the working directory) nor on the Hub; give base_model, or correct base_model_name_or_path in "
                f"{CONFIG}"
            ) from error
        if config is not None:
            raise RunError(
                f"model {adapters} has adapters of {self.model_id}, which are adapters themselves; merge those first: "
                "load them, and save the whole model"
            )
        return pinned

    def loading(self) -> dict[str, Any]:
        """What of a model's loading changes what it computes: part of what identifies a result. The dtype is what
        "auto" stands for on this process's device; what is left to the model is not named."""
        quantisation = self.quantization_config
        further = {
            "attn_implementation": self.attn_implementation,
            "quantization": None if quantisation is None else quantisation.to_dict(),
        }
        return {"dtype": resolve_dtype(self.dtype)} | {k: value for k, value in further.items() if value is not None}

    def digest(self) -> list[str]:
        """What tells this model's weights from others, without reading them, if it is `pinned`.

        On the Hub its id and commit; in a folder the names, sizes and times of the files: equal after a copy that keeps
        times, other after any change. Of adapters, the same of the model that they belong to comes after it.
        """
        base = [] if self.base_model is None else ["merged into", *Source(self.base_model, self.base_revision).digest()]
        if not Path(self.model_id).is_dir():
            return [self.model_id, str(self.revision), *base]
        files = [(path, path.stat()) for path in sorted(Path(self.model_id).iterdir()) if path.is_file()]
        return [f"{path.name} {stat.st_size} {stat.st_mtime_ns}" for path, stat in files] + base


def load(source: Source) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model, in eval mode, and its processor. Adapters are merged into the model that they belong to, in the dtype
    in which it is loaded; the processor is theirs, as far as they have one (see `processor_of_adapters`).

    Raises:
        OSError: If there is no such model, or it has no weights as safetensors: others may hold code.
        RunError: If adapters cannot be merged, see `merge_adapters`, or their model cannot be found.
    """
    pinned, config = _adapters_or_not(source)
    if config is None:
        if source.base_model is not None:
            raise RunError(f"model {source.model_id} is a whole model; base_model is for adapters alone")
        return _load_model(source), _whole_processor(source)
    adapters, base = _adapters_and_base(source, pinned)
    processor, own_tokenizer = processor_of_adapters(
        adapters.folder, fetched(base, with_weights=False), source.trust_remote_code
    )
    model = merge_adapters(_load_model(base), adapters.folder, source.model_id)
    rows = len(model.get_input_embeddings().weight)
    if own_tokenizer and len(processor.tokenizer) > rows:
        raise RunError(
            f"model {source.model_id}: its tokenizer has {len(processor.tokenizer):,} tokens, the model {rows:,} "
            "embeddings: those of the added tokens were not saved with the adapters"
        )
    return model, processor


def load_processor(source: Source) -> ProcessorMixin:
    """The processor alone, as `load` gives it."""
    pinned, config = _adapters_or_not(source)
    if config is None:
        return _whole_processor(source)
    adapters, base = _adapters_and_base(source, pinned)
    return processor_of_adapters(adapters.folder, fetched(base, with_weights=False), source.trust_remote_code)[0]


def _whole_processor(source: Source) -> ProcessorMixin:
    name = model_folder(source.model_id)
    return AutoProcessor.from_pretrained(name, revision=source.revision, trust_remote_code=source.trust_remote_code)


def _adapters_and_base(source: Source, pinned: Source) -> tuple[Adapters, Source]:
    adapters = Adapters.of(fetched(pinned), source.model_id)
    assert adapters is not None  # it has the configuration
    return adapters, pinned.base(adapters.base_model, adapters.base_revision).pinned_as_base(source.model_id)


def _load_model(source: Source) -> PreTrainedModel:
    """A whole model, in its place."""
    options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    device = torch.device(source.device) if source.device else process_state().device
    placed = source.device_map is not None or source.quantization_config is not None
    if placed:
        # Quantised weights are made where they stay.
        options["device_map"] = source.device_map or {"": device}
    if source.attn_implementation is not None:
        options["attn_implementation"] = source.attn_implementation
    if source.quantization_config is not None:
        options["quantization_config"] = source.quantization_config
    model = AutoModelForImageTextToText.from_pretrained(
        model_folder(source.model_id), dtype=resolve_dtype(source.dtype, device), use_safetensors=True, **options
    )
    if getattr(model, "peft_config", None):
        # In transformers' own way weights without a place go unseen.
        raise RunError(f"model {source.model_id} has adapters, and whether it has could not be told before; try again")
    model = model.eval()
    return model if placed else model.to(device)


def _adapters_or_not(source: Source) -> tuple[Source, Path | None]:
    """The source with its commit and the configuration of its adapters; as it is, and None, if it has none."""
    try:
        pinned, config = source._pinned_alone()
    except OSError:
        return source, None  # its loading says why
    return (source, None) if config is None else (pinned, config)


def fetched(source: Source, with_weights: bool = True) -> Path:
    """The folder with a model's files: weights as safetensors only, code only if it may be run.

    Args:
        source: The model; no embedded world.
        with_weights: Whether to fetch its weights, too.

    Raises:
        OSError: If it cannot be fetched.
    """
    if Path(source.model_id).is_dir():
        return Path(source.model_id)
    patterns = [*PROCESSOR_FILES, *["*.py"] * source.trust_remote_code]
    patterns += ["*.safetensors", BESIDE] * with_weights
    return Path(snapshot_download(source.model_id, revision=source.revision, allow_patterns=patterns))


def model_folder(name: str) -> str:
    """The folder of the generator that is shipped with an embedded world, if `name` is one; else the name."""
    world = find_world(name)
    return name if world is None else world.GENERATOR


def missing_model(name: str) -> str | None:
    """What is wrong with the name of a model that is no folder here, if the Hub need not be asked for it."""
    meant = nearest_world(name)
    if not (meant or is_not_on_hub(name)):
        return None
    return f"is neither a folder here{nearest_path(name)} nor the name of a model on the Hub, as user/name{meant}"


def _quantization(options: LoadingOptions) -> BitsAndBytesConfig | None:
    if options.load_in_4bit and options.load_in_8bit:
        raise RunError("load_in_4bit and load_in_8bit are both set; choose one")
    if not (options.load_in_4bit or options.load_in_8bit):
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        name = "load_in_4bit" if options.load_in_4bit else "load_in_8bit"
        raise RunError(f"{name} needs the package bitsandbytes, which is not installed")
    if options.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = resolve_dtype(options.dtype)
    # NF4, as in QLoRA (Dettmers et al. 2023); left to itself the library computes in float32.
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def resolve_dtype(dtype: str, device: torch.device | None = None) -> str:
    """A dtype by its name, where "auto" stands for that of a device, by default this process's; see `pick_dtype`."""
    return pick_dtype(device or process_state().device) if dtype == "auto" else dtype


def pick_dtype(device: torch.device) -> str:
    """bfloat16 where an accelerator has it, float32 on the CPU and elsewhere."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device.type in ("xpu", "hpu", "npu") else "float32"


def digest_weights(model: PreTrainedModel) -> str:
    """Digest of all weights of a model, offloaded ones too; about 0.1 s per gigabyte."""
    digest = xxhash.xxh3_128()
    for path, module in sorted(model.named_modules()):
        with align_module_device(module):
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                digest.update(f"{path}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
