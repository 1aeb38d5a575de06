"""The one model that a run has in memory."""

from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.models.loading import Source, load
from c3l_hf.pipeline.options import ModelOptions

__all__ = ["ModelInUse"]


class ModelInUse:
    """The one model that is in memory: stages that come one after the other use the same."""

    def __init__(self, options: ModelOptions, trust_remote_code: bool):
        self._options, self._trust_remote_code = options, trust_remote_code
        self._source: Source | None = None
        self._loaded: tuple[PreTrainedModel, ProcessorMixin] | None = None

    def load(self, model: Source | Path) -> tuple[PreTrainedModel, ProcessorMixin]:
        """A model, or the one of a folder, loaded in the same way as the others."""
        if isinstance(model, Path):
            model = self.source_of(model)
        if self._loaded is None or self._source != model:
            self._loaded = None  # the one before leaves the memory first
            self._source, self._loaded = model, load(model)
        return self._loaded

    def source_of(self, folder: Path) -> Source:
        """A model in a folder, to be loaded in the same way as the others."""
        return Source.of(self._options, model_id=folder, trust_remote_code=self._trust_remote_code)

    def release(self) -> None:
        """Forget the model: from here on it is another one."""
        self._source = self._loaded = None
