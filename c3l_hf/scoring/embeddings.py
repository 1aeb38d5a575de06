"""A vector for each pair, from the vision-language model itself: what pairs are clustered by (`selection.clusters`).

No other model is needed, and none is better placed to say which pairs are alike to it. Vectors of anybody's model do
as well: clustering takes any column of them.
"""

import contextlib
import functools
import inspect
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.ahead import ahead
from c3l_hf.common.arrow import beside
from c3l_hf.common.choices import check_choice
from c3l_hf.common.errors import RowError
from c3l_hf.common.files import code_digest, digest
from c3l_hf.common.processes import process_state
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.schema import EMBEDDING, EMBEDDING_STATUS, STATUS_OK
from c3l_hf.models.batching import PER_TOKEN, picture_row
from c3l_hf.models.checks import model_state
from c3l_hf.models.control_tokens import ControlTokens, control_of
from c3l_hf.models.encoding import EncodedRow, image_token_id
from c3l_hf.models.loading import digest_weights
from c3l_hf.models.parameters import in_eval_mode
from c3l_hf.scoring.batch import pairs_by_images, read_rows, reason_of_row, reasons_of
from c3l_hf.scoring.blind import PairEncoder
from c3l_hf.scoring.dataset import in_parts, pair_batches, row_batches
from c3l_hf.scoring.likelihood import batch_tensors, default_max_tokens, plan_batches
from c3l_hf.scoring.rows import mapped
from c3l_hf.scoring.score_code import code_version
from c3l_hf.scoring.self_check import check_paths

__all__ = ["EMBEDDING_KINDS", "EmbeddingKind", "PairEmbedder", "embed_dataset", "embed_tables"]

logger = logging.getLogger(__name__)

EmbeddingKind = Literal["hidden", "image"]
EMBEDDING_KINDS: tuple[EmbeddingKind, ...] = get_args(EmbeddingKind)


class PairEmbedder:
    """Gives each row a vector.

    "hidden": what the language model makes of instruction and answer, having seen the image,

        e = 1/|T| sum over t in T of h_t,

    h_t being the last hidden state (after the final norm) at token t, T all tokens of the conversation up to the end of
    its last usable answer, without control tokens and the image's own. Words of the chat template are in T; they are
    the same in all rows.

    "image": what the vision tower makes of the image, whatever is said about it: the mean over the patches of the
    states that the projector reads. Rows about the same image have the same vector. It takes one image at a time.

    An embedder is a function for `Dataset.map`: of a row it returns `embedding` and `embedding_status`, of a batch
    (`batched=True`) lists of them. Rows in any layout of `data.layouts` are taken. A row that cannot be embedded has no
    vector, and the reason in `embedding_status`; the others are "ok". A vector does not depend on the other rows of the
    batch, but for rounding.

    Example:

    ```python
    embedder = PairEmbedder(model, processor)
    ds = ds.map(embedder, batched=True, batch_size=256, features=Features({**ds.features, **embedder.features}))
    ```

    `embed_dataset` does the same without writing the images again, and continues after an interruption.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        kind: EmbeddingKind = "hidden",
        max_tokens: int | None = None,
        image_folder: str | Path | None = None,
        control_tokens: ControlTokens = "refuse",
    ):
        """
        Args:
            model: A model for `AutoModelForImageTextToText`. Later changes of its weights need a new embedder.
            processor: Its processor, with a chat template.
            kind: "hidden" or "image".
            max_tokens: Most tokens in one forward pass, with padding; as for `I2CScorer`.
            image_folder: Where images are that the rows name by a relative path.
            control_tokens: What becomes of control tokens that are written out in a text; as for `I2CScorer`.

        Raises:
            ValueError: If an option is none of its choices, or the model gives no such vectors.
        """
        check_choice("kind", kind, EMBEDDING_KINDS)
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; it must be at least 1")
        if processor.chat_template is None:
            raise ValueError(f"the {type(processor).__name__} has no chat template; set processor.chat_template")
        self._model, self._processor, self.kind = model, processor, kind
        self.image_folder = None if image_folder is None else Path(image_folder)
        self._control_tokens: ControlTokens = control_tokens
        self._max_tokens = max_tokens or default_max_tokens(model)
        self._packed = False
        with self._in_eval():
            if kind == "hidden":
                self.size: int = model.config.get_text_config().hidden_size
                paths = check_paths(model, processor, self._encoder(), self._max_tokens)
                self._packed = paths.not_packed is None
                self._max_tokens = 1 if paths.not_batched else self._max_tokens
            else:
                self.size = len(self._image_vector(picture_row(processor)))

    @property
    def features(self) -> Features:
        """The types of the columns, for `map(features=Features({**ds.features, **embedder.features}))`."""
        return Features({EMBEDDING: List(Value("float32"), length=self.size), EMBEDDING_STATUS: Value("string")})

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Embeds one row, or a batch of rows.

        Args:
            rows: A row (column → value) or a batch (column → list of values).

        Returns:
            `embedding` and `embedding_status` with a value each, or with a list in the order of the batch.

        Raises:
            ValueError: If the columns are in no accepted layout, or hold arrays.
        """
        return mapped(rows, lambda names: layout_of(names).columns, self.embed, (EMBEDDING, EMBEDDING_STATUS))

    def embed(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The columns of each row, in order. See `__call__`."""
        return self._embedded(self._encoded(rows))

    def tables(self, batches: Iterable[Sequence[Mapping[str, Any]]]) -> Iterator[pa.Table]:
        """The columns of each batch of rows as a table. The next batch is read and encoded in a thread while the model
        works on the present one; what the model takes of two batches is in memory together."""
        with contextlib.closing(ahead(map(self._encoded, batches))) as encoded:
            for rows in encoded:
                yield pa.Table.from_pylist(self._embedded(rows), schema=self.features.arrow_schema)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What the vectors depend on, as a hex digest: model with all its weights, processor, options, and the code."""
        options = (self.kind, self._packed, self._max_tokens, str(self.image_folder), self._control_tokens)
        return digest(
            *model_state(self._model, self._processor),
            repr(options),
            digest_weights(self._model),
            code_version(),
            code_digest(sys.modules[__name__]),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # `datasets` fingerprints a function by pickling it: this is what it sees, instead of the weights.
        return _restore, (self.fingerprint,)

    def _encoder(self) -> PairEncoder:
        max_length = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return PairEncoder(
            self._processor, max_length, image_folder=self.image_folder, control_tokens=self._control_tokens
        )

    def _encoded(self, rows: Sequence[Mapping[str, Any]]) -> list[EncodedRow | str]:
        """Each row up to its last usable answer, or why it has none."""
        encoder, read = self._encoder(), read_rows(rows)
        reasons, found = reasons_of(read), dict[int, EncodedRow]()
        for group in pairs_by_images(encoder, read, reasons):
            # The last answer first: what comes before it is in its prompt.
            for (row, number), pair in sorted(group.items(), key=lambda item: item[0], reverse=True):
                if row in found:
                    continue
                try:
                    found[row] = encoder.encode_seen(pair)
                except RowError as error:
                    reasons[row][number] = str(error)
            encoder.forget_images()
        return [found[row] if row in found else reason_of_row(reasons[row]) for row in range(len(rows))]

    def _embedded(self, encoded: Sequence[EncodedRow | str]) -> list[dict[str, Any]]:
        usable = {number: row for number, row in enumerate(encoded) if isinstance(row, EncodedRow)}
        with self._in_eval():
            vectors = self._hidden(usable) if self.kind == "hidden" else self._images(usable)
        result: list[dict[str, Any]] = []
        for number, row in enumerate(encoded):
            status = row if isinstance(row, str) else STATUS_OK
            if number in vectors and not np.isfinite(vectors[number]).all():
                status = "the vector is not finite"
            vector = vectors[number] if status == STATUS_OK else None
            result.append({EMBEDDING: vector, EMBEDDING_STATUS: status})
        return result

    @contextlib.contextmanager
    def _in_eval(self) -> Iterator[None]:
        with in_eval_mode(self._model), torch.inference_mode():
            yield

    def _hidden(self, rows: Mapping[int, EncodedRow]) -> dict[int, np.ndarray]:
        model, without = self._model, {*control_of(self._processor).ids, image_token_id(self._model.config)}
        excluded = torch.tensor(sorted(number for number in without if number is not None))
        vectors = {}
        # No logits are made: there is no limit of answer tokens.
        for batch in plan_batches(model, rows, self._packed, self._max_tokens, sys.maxsize, whole=True):
            tensors = batch_tensors(model, self._processor, rows, batch, self._packed)
            states = model.base_model(**tensors, use_cache=False).last_hidden_state
            for line, member in enumerate(batch):
                for number, places in zip(member.rows, member.pack.where):
                    text = ~torch.isin(rows[number].inputs["input_ids"][0], excluded)
                    kept = torch.from_numpy(places)[text].to(states.device)
                    vectors[number] = states[line, kept].float().mean(0).cpu().numpy()
        return vectors

    def _images(self, rows: Mapping[int, EncodedRow]) -> dict[int, np.ndarray]:
        known: dict[tuple[Any, ...], np.ndarray] = {}
        vectors = {}
        for number, row in rows.items():
            if row.images not in known:
                known[row.images] = self._image_vector(row.inputs)
            vectors[number] = known[row.images]
        return vectors

    def _image_vector(self, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        model = self._model
        name = type(model).__name__
        if not hasattr(model, "get_image_features"):
            raise ValueError(f'{name} has no get_image_features, which the vectors of images come from; kind="hidden"')
        taken = inspect.signature(model.get_image_features).parameters
        tensors = {
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
            if name not in PER_TOKEN and name in taken
        }
        output = model.get_image_features(**tensors, return_dict=True)
        states = output.last_hidden_state
        # LLaVA's projectors read another layer, and leave out the token of the class, which is no patch.
        layer = getattr(model.config, "vision_feature_layer", None)
        if isinstance(layer, int) and getattr(output, "hidden_states", None) is not None:
            states = output.hidden_states[layer]
        if getattr(model.config, "vision_feature_select_strategy", None) == "default":
            states = states[:, 1:]
        return states.float().reshape(-1, states.shape[-1]).mean(0).cpu().numpy()


def _restore(fingerprint: str) -> PairEmbedder:
    raise RuntimeError(
        "this embedder was sent to another process, where its model is not; map without num_proc, or use embed_dataset "
        "under accelerate launch"
    )


def embed_dataset(
    dataset: Dataset,
    embedder: PairEmbedder,
    *,
    batch_size: int = 256,
    part_size: int = 2048,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """A dataset with `embedding` and `embedding_status` beside its own columns.

    The vectors are kept in parts on the disk, as scores are: see `score_dataset`, also for the arguments. Every process
    of a launcher calls this.

    Raises:
        ValueError: If the columns are in no accepted layout, or the dataset has these columns already.
    """
    if present := [name for name in embedder.features if name in dataset.column_names]:
        raise ValueError(f"the dataset has the columns {', '.join(present)} already; remove or rename them first")
    columns = layout_of(dataset.column_names).columns
    vectors = in_parts(
        dataset,
        lambda rows: embedder.tables(row_batches(rows, columns, batch_size)),
        features=embedder.features,
        columns=columns,
        names=("embeddings", "Embedding"),
        fingerprint=embedder.fingerprint,
        image_folder=embedder.image_folder,
        part_size=part_size,
        cache_dir=cache_dir,
    )
    reasons = Counter(status for status in vectors[EMBEDDING_STATUS] if status != STATUS_OK)
    if reasons and process_state().is_main_process:
        first, _ = reasons.most_common(1)[0]
        logger.warning("%d of %d rows have no vector; most often: %s", reasons.total(), len(vectors), first)
    return beside(dataset, vectors)


def embed_tables(
    pairs: Iterable[pa.Table | pa.RecordBatch], images: Dataset, embedder: PairEmbedder, batch_size: int = 256
) -> Iterator[pa.Table]:
    """The vectors of pair tables, whose images are stored apart: a row for each pair, in tables of `batch_size`; see
    `scoring.dataset.score_tables`."""
    return embedder.tables(pair_batches(pairs, images, batch_size))
