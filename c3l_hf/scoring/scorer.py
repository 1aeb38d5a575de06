"""I²C, the image-instruction correspondence of an answer: how much seeing the image changes what a model thinks of it.

`I2CScorer` scores the rows of a dataset, as a function for `Dataset.map`; `scores.py` has the formulas.

From the command line, with any dataset:

    c3l score --model llava-hf/llava-1.5-7b-hf --dataset user/my-pairs --output scored.parquet
"""

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
import xxhash
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.data import image, layouts, schema
from c3l_hf.data.image import open_image
from c3l_hf.data.layouts import is_batch, layout_of, to_pairs
from c3l_hf.data.schema import SCORE_COLUMNS, SCORE_FEATURES, SCORES, STATUS, STATUS_OK, TURNS
from c3l_hf.models import encoding, packing
from c3l_hf.models.encoding import EncodedRow, token_texts
from c3l_hf.models.loading import Source, digest_weights, load
from c3l_hf.scoring import blind, formulas, likelihood, self_check
from c3l_hf.scoring.blind import BASELINES, PairEncoder
from c3l_hf.scoring.formulas import scores_from_logprobs
from c3l_hf.scoring.likelihood import AnswerLogprobs, answer_logprobs
from c3l_hf.scoring.self_check import Paths, check_paths

__all__ = ["DEFAULT_RANKING", "I2CScorer"]

DEFAULT_RANKING = "pmi"
PATHS = ("auto", "plain")


@dataclass(frozen=True)
class _Options:
    """What a user may set; see `I2CScorer`."""

    ranking: str
    max_tokens: int | None
    path: str
    blind: str
    blind_images: tuple[PIL.Image.Image, ...]
    image_folder: str | None

    def __post_init__(self):
        for name, choices in (("ranking", SCORES), ("path", PATHS), ("blind", tuple(BASELINES))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if (self.blind == "shuffle") != bool(self.blind_images):
            raise ValueError(
                'blind="shuffle", and only that, needs blind_images: some dozens of images, e.g. of your rows'
            )
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise ValueError(f"image_folder {self.image_folder} is not a folder")

    def digest(self) -> str:
        images = [xxhash.xxh3_128_hexdigest(f"{i.size}".encode() + i.tobytes()) for i in self.blind_images]
        return repr((self.ranking, self.max_tokens, self.path, self.blind, images, self.image_folder))


class I2CScorer:
    """Scores image/question/answer rows by what the image does to the answer's likelihood.

    A scorer is a function for `map`: of a row it returns the score columns, of a batch (`batched=True`) lists of them.
    Rows in any layout of `schema.to_pairs` are taken, with one or several images and assistant turns. A row that cannot
    be scored has null scores and the reason in `i2c_status`.

    Example:

    ```python
    scorer = I2CScorer.from_pretrained("llava-hf/llava-1.5-7b-hf")
    scored = ds.map(scorer, batched=True, batch_size=256, features=Features({**ds.features, **scorer.features}))
    ```

    `score_dataset` does the same without writing the images again, and continues after an interruption. It also keeps
    rows whose picture is damaged, at which `map` ends before the scorer sees it: `datasets` decodes a column of images
    as it reads it, unless it is `ds.cast_column("image", Image(decode=False))`.

    The scores of a row do not depend on the other rows, their order, or how they are batched, but for rounding (float32
    models: 1e-5 on log-probabilities). Within what it is given at once it encodes and reads each image once, whatever
    the number of its answers; so give `map` a `batch_size` of some hundreds, with the rows of an image next to each
    other. The preprocessed images of one call are in memory together.

    Several assistant turns: each is scored, given all that comes before it. `turns` has the scores of each; the other
    columns are over the tokens of all turns together.

    Caching: `datasets` sees `fingerprint`, not the weights.

    For several processes (`num_proc`, with `with_rank=True` for one accelerator each) use `from_pretrained`: each
    process then loads the model for itself; a scorer made from a model object cannot follow, and says so. Let them
    start afresh, with `multiprocess.set_start_method("spawn")`: a forked process can die in the threads that PyTorch
    has started before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        ranking: str = DEFAULT_RANKING,
        max_tokens: int | None = None,
        path: str = "auto",
        blind: str = "drop",
        blind_images: Sequence[Any] = (),
        image_folder: str | Path | None = None,
    ):
        """
        Args:
            model: A model for `AutoModelForImageTextToText`. Later changes of its weights need a new scorer.
            processor: Its processor, with a chat template.
            ranking: Which of `schema.SCORES` goes into the column `i2c`.
            max_tokens: Most tokens in one forward pass, with padding; a longer row gets one of its own. By default
                8,192; on a CPU 4,096, in float32 1,024, as more only leave its caches.
            path: "auto": rows with the same images share a sequence if a few rows, scored at once in either way, show
                that this is exact for the model; else each has its own, and a warning says why. "plain": each its own.
            blind: What takes the image's place in the pass without it, one of `blind.BASELINES`: "drop" (nothing),
                "blank", "noise", "shuffle".
            blind_images: For "shuffle": the images to choose from, as PIL images, `datasets` dicts or paths.
            image_folder: Where images are that the rows name by a relative path.

        Raises:
            ValueError: If an option is none of its choices, the processor has no chat template, or the model cannot
                score a row with and without image.
        """
        images = tuple(open_image(image) for image in blind_images)
        folder = None if image_folder is None else str(image_folder)
        self._options = _Options(ranking, max_tokens, path, blind, images, folder)
        if processor.chat_template is None:
            raise ValueError(f"the {type(processor).__name__} has no chat template; set processor.chat_template")
        self._model, self._processor = model, processor
        self._source: Source | None = None
        self._paths = self._checked()

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        device_map: str | None = None,
        attn_implementation: str | None = None,
        quantization_config: Any = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> "I2CScorer":
        """A scorer with a model and processor from the Hub or a folder.

        Args:
            model_id: Repository id or folder, or "scenes" for the small generator that is shipped.
            revision: Branch, tag or commit on the Hub.
            dtype: "float32", "bfloat16", "float16", or "auto": bfloat16 on an accelerator, float32 on the CPU. The
                softmax is taken in float32 or better in any case.
            device: Where to put the model; by default the accelerator if there is one, else the CPU.
            device_map: In place of `device`, where its parts go, as for the model's `from_pretrained`: "auto", ...
            attn_implementation: As for the model's `from_pretrained`: "sdpa", "eager", "flash_attention_2", ...
            quantization_config: Likewise, e.g. a `BitsAndBytesConfig`.
            trust_remote_code: Whether code from the repository may be run.
            options: Those of `I2CScorer`.

        Raises:
            OSError: If there is no such model.
            ValueError: As for `I2CScorer`.
        """
        placing = (device_map, attn_implementation, quantization_config)
        source = Source(str(model_id), revision, dtype, device, trust_remote_code, *placing).pinned()
        scorer = cls(*load(source), **options)
        scorer._source = source
        return scorer

    @property
    def features(self) -> dict[str, Any]:
        """The types of the score columns, for `map(features=Features({**ds.features, **scorer.features}))`."""
        return dict(SCORE_FEATURES)

    @property
    def image_folder(self) -> Path | None:
        """Where images are that rows name by a relative path."""
        return None if self._options.image_folder is None else Path(self._options.image_folder)

    @property
    def path(self) -> str:
        """How this model's rows are scored: "packed", "batched" or "single" (each in a pass of its own)."""
        if self._paths.not_batched:
            return "single"
        return "batched" if self._paths.not_packed else "packed"

    def __call__(self, rows: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """Scores one row, or a batch of rows.

        Args:
            rows: A row (column → value) or a batch (column → list of values); `schema.is_batch` tells them apart.
            rank: The number of this process, from `map(with_rank=True)`: where there are several accelerators, the
                model goes to the one of that number.

        Returns:
            The columns of `schema.SCORE_COLUMNS` with a value each, or with a list in the order of the batch.

        Raises:
            ValueError: If the columns are in no accepted layout.
        """
        columns = layout_of(rows.keys())
        needed = {name: rows[name] for name in columns}
        if rank is not None:
            self._to_accelerator(rank)
        if not is_batch(needed):
            return self.score([needed])[0]
        count = len(needed[columns[0]])
        scored = self.score([{name: needed[name][number] for name in columns} for number in range(count)])
        return {name: [row[name] for row in scored] for name in SCORE_COLUMNS}

    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The score columns of each row, in order. See `__call__`."""
        encoder = self._encoder()
        results: list[dict[str, Any]] = [{} for _ in rows]
        turns: list[tuple[int, EncodedRow, EncodedRow]] = []
        for number, row in enumerate(rows):
            try:
                turns += [(number, *encoder.encode(pair)) for pair in to_pairs(row)]
            except RowError as error:
                results[number] = _without_score(str(error))
        logprobs = self._logprobs([turn[1] for turn in turns], [turn[2] for turn in turns])
        of_row: dict[int, list[tuple[EncodedRow, AnswerLogprobs]]] = {}
        for (number, row, _), found in zip(turns, logprobs):
            of_row.setdefault(number, []).append((row, found))
        for number, found in of_row.items():
            results[number] = self._result(found)
        return results

    def _logprobs(self, rows: list[EncodedRow], blind_rows: list[EncodedRow]) -> list[AnswerLogprobs]:
        model, processor = self._loaded()
        training = model.training
        model.eval()
        try:
            packed = self._paths.not_packed is None
            max_tokens = 1 if self._paths.not_batched else self._max_tokens
            return answer_logprobs(model, processor, rows, blind_rows, packed=packed, max_tokens=max_tokens)
        finally:
            model.train(training)

    def _result(self, turns: list[tuple[EncodedRow, AnswerLogprobs]]) -> dict[str, Any]:
        processor = self._processor
        tokens = [text for row, _ in turns for text in token_texts(processor, row.answer_ids)]
        lists = [(t.with_image.tolist(), t.blind.tolist(), t.kl.tolist()) for _, t in turns]
        together = [[value for one in lists for value in one[part]] for part in range(3)]
        if not np.isfinite(together).all():
            return _without_score("the model's log-probabilities are not finite")
        ranking = self._options.ranking
        each = [scores_from_logprobs(*one) for one in lists]
        row = scores_from_logprobs(*together)
        return {
            "i2c": row[ranking],
            **row,
            "answer_tokens": tokens,
            "token_kl_per_token": together[2],
            "logprob_per_token": together[0],
            "logprob_blind_per_token": together[1],
            TURNS: [{"i2c": t[ranking], **t, "tokens": len(one[0])} for t, one in zip(each, lists)],
            STATUS: STATUS_OK,
        }

    @property
    def _max_tokens(self) -> int:
        model, _ = self._loaded()
        # In bfloat16 a CPU rearranges the weights for every product: larger ones make it pay.
        default = 8192 if model.device.type != "cpu" else 1024 if model.dtype == torch.float32 else 4096
        return self._options.max_tokens or default

    def _encoder(self) -> PairEncoder:
        model, processor = self._loaded()
        options = self._options
        max_length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return PairEncoder(processor, max_length, options.blind, options.blind_images, self.image_folder)

    def _checked(self) -> Paths:
        training = self._model.training
        self._model.eval()
        try:
            paths = check_paths(self._model, self._processor, self._encoder(), self._max_tokens)
        finally:
            self._model.train(training)
        name = type(self._model).__name__
        if paths.not_batched:
            warnings.warn(
                f"{name} scores rows one at a time, as a batch is not exact: {paths.not_batched}", stacklevel=3
            )
        elif self._options.path == "plain":
            return Paths(None, "path is plain")
        elif paths.not_packed:
            warnings.warn(
                f"{name} scores answers about the same image separately, as packing them is not exact: "
                f"{paths.not_packed}",
                stacklevel=3,
            )
        return paths

    def _loaded(self) -> tuple[PreTrainedModel, ProcessorMixin]:
        if self._model is None:
            if self._source is None:
                raise RuntimeError(
                    "this scorer was made from a model object and sent to another process, where the model is not; "
                    "use I2CScorer.from_pretrained, which each process can load for itself, or map without num_proc"
                )
            self._model, self._processor = load(self._source)
        return self._model, self._processor

    def _to_accelerator(self, rank: int) -> None:
        if not torch.accelerator.is_available() or (self._source is not None and self._source.is_placed):
            return
        device = torch.device(torch.accelerator.current_accelerator().type, rank % torch.accelerator.device_count())
        if self._model is None and self._source is not None:
            # Straight there: all processes at once would not fit on the first accelerator.
            self._model, self._processor = load(dataclasses.replace(self._source, device=str(device)))
        else:
            self._loaded()[0].to(device)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What the scores depend on, as a hex digest: model, processor, dtype, options, and the code that scores.

        A model from the Hub counts by its id and commit, one from a folder by its files' names, sizes and times, a
        model object by all its weights, which takes about 0.1 s per gigabyte, once. Equal across processes.
        """
        model, processor = self._loaded()
        parts = [
            type(model).__name__,
            str(model.dtype),
            model.config.to_json_string(),
            processor.to_json_string(),
            processor.tokenizer.backend_tokenizer.to_str(),
            str(processor.chat_template),
            self._options.digest(),
            _code_version(),
        ]
        # A model passed in may have been trained since it was loaded: its weights count, whatever it says about itself.
        parts += [digest_weights(model)] if self._source is None else self._source.digest()
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        # `datasets` fingerprints a function by pickling it: this is what it sees, instead of the weights
        return _restore, (self.fingerprint, self._source, self._options, self._paths)


def _restore(fingerprint: str, source: Source | None, options: _Options, paths: Paths) -> I2CScorer:
    """A scorer in another process: without its model, which it loads when first called."""
    scorer = I2CScorer.__new__(I2CScorer)
    scorer._model = scorer._processor = None
    scorer._source, scorer._options, scorer._paths = source, options, paths
    scorer.__dict__["fingerprint"] = fingerprint
    return scorer


def _without_score(reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(SCORE_COLUMNS), STATUS: reason}


@functools.cache
def _code_version() -> str:
    """Digest of the modules that make a score and the version of transformers: a corrected scorer scores anew."""
    digest = hashlib.blake2b(transformers.__version__.encode(), digest_size=16)
    for module in (blind, encoding, formulas, image, layouts, likelihood, packing, schema, self_check):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()
