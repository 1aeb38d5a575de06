"""Models and processors from the Hub or a folder, short digests of what they are, and where datasets are cached."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xxhash
from accelerate.utils import align_module_device
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import cached_file

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import files_digest
from c3l_hf.common.processes import process_state
from c3l_hf.scenes import GENERATOR

__all__ = ["Source", "digest_weights", "find_model", "load", "pick_dtype"]

# Files of a model beside its weights.
_WITH_WEIGHTS = ("*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True)
class Source:
    """Where a model is: enough to load it again in another process.

    Attributes:
        model_id: Repository id or folder.
        revision: Branch, tag or commit on the Hub.
        dtype: "float32", "bfloat16", "float16", or "auto", see `pick_dtype`.
        device: Where to put the model; None for this process's accelerator, or the CPU.
        trust_remote_code: Whether code from the repository may be run.
    """

    model_id: str
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    trust_remote_code: bool = False

    def pinned(self) -> "Source":
        """The same with the commit that a branch or tag of a repository is at now; a folder as it is.

        Raises:
            OSError: If there is no such model.
        """
        if Path(self.model_id).is_dir():
            return self
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
    options = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    processor = AutoProcessor.from_pretrained(source.model_id, **options)
    device = torch.device(source.device) if source.device else process_state().device
    dtype = pick_dtype(device) if source.dtype == "auto" else source.dtype
    model = AutoModelForImageTextToText.from_pretrained(source.model_id, dtype=dtype, use_safetensors=True, **options)
    return model.eval().to(device), processor


def find_model(name: str, revision: str, with_code: bool, adapters: bool = False) -> tuple[Path, dict[str, str]]:
    """A model's folder, and what identifies it: the commit on the Hub, or digests of its files.

    With `adapters`, a folder that has only these, and names their model, will do.
    """
    folder = Path(GENERATOR if name == "scenes" else name)
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ["config.json"] + ["adapter_config.json"] * adapters):
            raise RunError(f"{name} has no config.json, so it is not a model; give a folder of save_pretrained")
        if not any(folder.glob("*.safetensors")):
            raise RunError(f"{name} has no weights as *.safetensors; write it with save_pretrained")
        # The weights, and what else says how they are used: configuration, processor, chat template.
        beside = files_digest(folder, *_WITH_WEIGHTS, "*.py")
        return folder, {"digest": files_digest(folder, "*.safetensors"), "files": beside}
    try:
        # Weights as safetensors only; code only if asked for.
        patterns = ["*.safetensors", *_WITH_WEIGHTS] + ["*.py"] * with_code
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"--model {name} is neither a folder here nor a model that could be fetched ({reason})"
        ) from None
    return folder, {"revision": folder.name}


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
