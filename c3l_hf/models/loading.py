"""Models and processors from the Hub or a folder, and short digests of what they are."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import xxhash
from accelerate.utils import align_module_device
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import cached_file

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import file_sha256, files_digest
from c3l_hf.common.processes import first_on_each_machine, process_state
from c3l_hf.data.inventory import FileState, Inventory, cached
from c3l_hf.data.worlds import find_world

__all__ = [
    "LoadingOptions",
    "Source",
    "digest_weights",
    "find_model",
    "load",
    "model_folder",
    "pick_dtype",
    "resolve_dtype",
]

# Files of a model beside its weights.
_WITH_WEIGHTS = ("*.json", "*.jinja", "*.txt", "*.model")


class LoadingOptions(Protocol):
    """What `Source.of` reads; `pipeline.options.ModelOptions` has it."""

    model: str
    model_revision: str | None
    dtype: Any
    device_map: str | None
    attn_implementation: str | None
    load_in_4bit: bool
    load_in_8bit: bool


@dataclass(frozen=True)
class Source:
    """Where a model is, and how it is to be loaded: enough to load it again in another process.

    Attributes:
        model_id: Repository id, folder, or the name of an embedded world, for the generator that is shipped with it.
        revision: Branch, tag or commit on the Hub.
        dtype: "float32", "bfloat16", "float16", or "auto", see `pick_dtype`.
        device: Where to put the whole model; None for this process's accelerator, or the CPU.
        trust_remote_code: Whether code from the repository may be run.
        device_map: In place of `device`, where its parts go: "auto", "cpu", "cuda:1", ...; see `from_pretrained`.
        attn_implementation: "sdpa", "eager", "flash_attention_2", ...; None for the model's default.
        quantization_config: How the weights are quantised as they are loaded, e.g. a `BitsAndBytesConfig`.
    """

    model_id: str
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    trust_remote_code: bool = False
    device_map: str | None = None
    attn_implementation: str | None = None
    quantization_config: Any = field(default=None, hash=False)

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
        )

    def pinned(self) -> "Source":
        """The same with the commit that a branch or tag of a repository is at now; a folder as it is, an embedded
        world's name as the folder of its generator.

        Raises:
            OSError: If there is no such model.
        """
        folder = model_folder(self.model_id)
        if Path(folder).is_dir():
            return replace(self, model_id=folder)
        try:
            file = cached_file(self.model_id, "adapter_config.json", revision=self.revision)
        except OSError:  # not adapters alone
            try:
                file = cached_file(self.model_id, "config.json", revision=self.revision)
            except OSError as error:
                # Offline it would not be named.
                reason = str(error).strip().splitlines()[0]
                raise OSError(f"{self.model_id} is neither a folder here nor a model on the Hub: {reason}") from error
        return replace(self, revision=Path(file).parent.name)

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
        times, other after any change.
        """
        if not Path(self.model_id).is_dir():
            return [self.model_id, str(self.revision)]
        files = [(path, path.stat()) for path in sorted(Path(self.model_id).iterdir()) if path.is_file()]
        return [f"{path.name} {stat.st_size} {stat.st_mtime_ns}" for path, stat in files]


def load(source: Source) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model, in eval mode, and its processor.

    Raises:
        OSError: If there is no such model, or it has no weights as safetensors: others may hold code.
    """
    options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    name = model_folder(source.model_id)
    processor = AutoProcessor.from_pretrained(name, **options)
    device = torch.device(source.device) if source.device else process_state().device
    placed = source.device_map is not None or source.quantization_config is not None
    if placed:
        # Quantised weights are made where they stay.
        options["device_map"] = source.device_map or {"": device}
    if source.attn_implementation is not None:
        options["attn_implementation"] = source.attn_implementation
    if source.quantization_config is not None:
        options["quantization_config"] = source.quantization_config
    dtype = resolve_dtype(source.dtype, device)
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, use_safetensors=True, **options)
    model = model.eval()
    return model if placed else model.to(device), processor


def model_folder(name: str) -> str:
    """The folder of the generator that is shipped with an embedded world, if `name` is one; else the name."""
    world = find_world(name)
    return name if world is None else world.GENERATOR


def find_model(name: str, revision: str | None, with_code: bool, adapters: bool = False) -> tuple[Path, dict[str, str]]:
    """A model's folder, and what identifies it: the commit on the Hub, or digests of its files.

    The files of a local model are read for that once on each machine, and again when their sizes or times have changed;
    what is known of them is kept in the cache of `datasets`. Every process calls this.

    Args:
        name: A folder, a repository id, or the name of an embedded world, for the generator that is shipped with it.
        revision: Branch, tag or commit on the Hub.
        with_code: Whether to fetch the code of a repository, too.
        adapters: Whether a folder will do that has adapters only, and names their model.

    Raises:
        RunError: If there is no such model, or it has no weights as safetensors.
    """
    folder = Path(model_folder(name))
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ["config.json"] + ["adapter_config.json"] * adapters):
            what = (
                ": these are adapters, which have to be merged into their model first"
                * (folder / "adapter_config.json").is_file()
            )
            raise RunError(f"model {name} has no config.json{what or ', so it is not a model'}; see save_pretrained")
        if not any(folder.glob("*.safetensors")):
            raise RunError(f"model {name} has no weights as *.safetensors; write it with save_pretrained")
        # The weights, and what else says how they are used: configuration, processor, chat template.
        weights, beside = ("*.safetensors",), (*_WITH_WEIGHTS, "*.py")
        content = _known_contents(folder, *weights, *beside)
        digests = [files_digest(folder, *patterns, content=content) for patterns in (weights, beside)]
        return folder, dict(zip(("digest", "files"), digests))
    try:
        # Weights as safetensors only; code only if asked for.
        patterns = ["*.safetensors", *_WITH_WEIGHTS] + ["*.py"] * with_code
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"model {name} is neither a folder here nor a model that could be fetched ({reason})") from None
    return folder, {"revision": folder.name}


def _known_contents(folder: Path, *patterns: str) -> Callable[[Path], bytes]:
    """SHA-256 digests of a model's files, by their paths."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    states = {path: FileState.of(path.name, path.stat()) for path in paths}
    with first_on_each_machine():
        digests = Inventory(cached("model", folder.resolve())).digests(
            list(states.values()), lambda state: file_sha256(folder / state.name)
        )
    return dict(zip(paths, digests)).__getitem__


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
