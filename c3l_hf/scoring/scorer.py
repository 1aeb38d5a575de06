"""I²C, the image-instruction correspondence of an answer: how much seeing the image changes what a model thinks of it.

`I2CScorer` scores the rows of a dataset, as a function for `Dataset.map`; `formulas.py` has the formulas.

From the command line, with any dataset:

    c3l score --model llava-hf/llava-1.5-7b-hf --dataset user/my-pairs --output scored.parquet
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.ahead import ahead
from c3l_hf.common.errors import RowError
from c3l_hf.common.files import digest
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.schema import GENERATION_STATUS, SCORE_COLUMNS, SCORE_FEATURES, STATUS, Ranking
from c3l_hf.data.turns import Pair
from c3l_hf.files.image import open_image
from c3l_hf.models.checks import model_state
from c3l_hf.models.control_tokens import ControlTokens
from c3l_hf.models.loading import Source, digest_weights, load
from c3l_hf.models.parameters import in_eval_mode
from c3l_hf.scoring.batch import EncodedBatch, batch_scores, encode_batch, read_rows
from c3l_hf.scoring.blind import Baseline, PairEncoder
from c3l_hf.scoring.likelihood import AnswerLogprobs, default_max_tokens
from c3l_hf.scoring.one_pair import PairScores, check_rows, row_of, scored_pair
from c3l_hf.scoring.options import RowPath, ScorerOptions
from c3l_hf.scoring.passes import Passes, check_numbers
from c3l_hf.scoring.rows import mapped
from c3l_hf.scoring.score_code import code_version
from c3l_hf.scoring.self_check import Paths, check_paths, own_rows

__all__ = ["DEFAULT_RANKING", "I2CScorer"]

DEFAULT_RANKING: Ranking = "pmi"


class I2CScorer:
    """Scores image/question/answer rows by what the image does to the answer's likelihood.

    A scorer is a function for `map`: of a row it returns the score columns, of a batch (`batched=True`) lists of them.
    Rows in any layout of `data.layouts` are taken, with one or several images and assistant turns. A row that
    cannot be scored has null scores and the reason in `i2c_status`.

    Example:

    ```python
    scorer = I2CScorer.from_pretrained("llava-hf/llava-1.5-7b-hf")
    scored = ds.map(scorer, batched=True, batch_size=256, features=Features({**ds.features, **scorer.features}))
    ```

    `score_dataset` does the same without writing the images again, and continues after an interruption. Of a dataset's
    rows both take the images as they are stored; of a stream, `datasets` decodes them before `map` shows them to
    anyone, and ends at one that is damaged, unless it is `stream.cast_column("image", Image(decode=False))`.

    The scores of a row do not depend on the other rows, their order, or how they are batched, but for rounding (float32
    models: 1e-5 on log-probabilities). Within what it is given at once it encodes and reads each image once, whatever
    the number of its answers; so give `map` a `batch_size` of some hundreds, with the rows of an image next to each
    other. The preprocessed images of one call are in memory together.

    Several assistant turns: each is scored, given all that comes before it. `turns` has the scores of each, or why it
    has none, as where its image comes later; the other columns are over the tokens of all turns that have scores.

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
        ranking: Ranking = DEFAULT_RANKING,
        max_tokens: int | None = None,
        path: RowPath = "auto",
        blind: Baseline = "drop",
        blind_images: Sequence[Any] = (),
        image_folder: str | Path | None = None,
        control_tokens: ControlTokens = "refuse",
    ):
        """
        Args:
            model: A model for `AutoModelForImageTextToText`. Later changes of its weights need a new scorer.
            processor: Its processor, with a chat template.
            ranking: Which of `data.schema.SCORES` goes into the column `i2c`.
            max_tokens: Most tokens in one forward pass, with padding; a longer row gets one of its own. By default
                8,192; on a CPU 4,096, in float32 1,024, as more only leave its caches.
            path: "auto": rows with the same images share a sequence if a few rows, scored at once in either way, show
                that this is exact for the model; else each has its own, and a warning says why. "plain": each its own.
            blind: What takes the image's place in the pass without it, one of `blind.BASELINES`: "drop" (nothing),
                "blank", "noise", "shuffle".
            blind_images: For "shuffle": the images to choose from, as PIL images, `datasets` dicts or paths.
            image_folder: Where images are that the rows name by a relative path.
            control_tokens: What becomes of control tokens that are written out in a text, as `<s>` in HTML. "refuse":
                the row has no score. "escape": they are read as the letters they are. Never as the tokens: see
                `models.control_tokens`.

        Raises:
            RunError: If the model gives no numbers.
            ValueError: If an option is none of its choices, the processor has no chat template, or the model cannot
                score a row with and without image.
        """
        images = tuple(open_image(image) for image in blind_images)
        folder = None if image_folder is None else str(image_folder)
        self._options = ScorerOptions(ranking, max_tokens, path, blind, images, folder, control_tokens)
        if processor.chat_template is None:
            raise ValueError(f"the {type(processor).__name__} has no chat template; set processor.chat_template")
        self._model, self._processor = model, processor
        self._source: Source | None = None
        self._passes = Passes()
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
        base_model: str | None = None,
        **options: Any,
    ) -> "I2CScorer":
        """A scorer with a model and processor from the Hub or a folder.

        Args:
            model_id: Repository id or folder, or "scenes" for the small generator that is shipped. LoRA adapters are
                merged into the model that they name.
            revision: Branch, tag or commit on the Hub.
            dtype: "float32", "bfloat16", "float16", or "auto": bfloat16 on an accelerator, float32 on the CPU. The
                softmax is taken in float32 or better in any case.
            device: Where to put the model; by default the accelerator if there is one, else the CPU.
            device_map: In place of `device`, where its parts go, as for the model's `from_pretrained`: "auto", ...
            attn_implementation: As for the model's `from_pretrained`: "sdpa", "eager", "flash_attention_2", ...
            quantization_config: Likewise, e.g. a `BitsAndBytesConfig`.
            trust_remote_code: Whether code from the repository may be run.
            base_model: The model that adapters are merged into, in place of the one that they name.
            options: Those of `I2CScorer`.

        Raises:
            OSError: If there is no such model.
            RunError: If adapters cannot be merged, or the model that they belong to cannot be found.
            ValueError: As for `I2CScorer`.
        """
        placing = (device_map, attn_implementation, quantization_config)
        source = Source(str(model_id), revision, dtype, device, trust_remote_code, *placing, base_model).pinned()
        scorer = cls(*load(source), **options)
        scorer._source = source
        return scorer

    # The column with the reason why a row has no score.
    status = STATUS

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

    def columns(self, names: Iterable[str]) -> tuple[str, ...]:
        """The columns that are read of a dataset with these.

        Raises:
            ValueError: If they are in no accepted layout.
        """
        names = list(names)
        # It says why a generated row has no pair.
        return (*layout_of(names).columns, *(name for name in (GENERATION_STATUS,) if name in names))

    def __call__(self, rows: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """Scores one row, or a batch of rows.

        Args:
            rows: A row (column → value) or a batch (column → list of values); `data.layouts.is_batch` tells them apart.
            rank: The number of this process, from `map(with_rank=True)`: where there are several accelerators, the
                model goes to the one of that number.

        Returns:
            The columns of `data.schema.SCORE_COLUMNS` with a value each, or with a list in the order of the batch.

        Raises:
            ValueError: If the columns are in no accepted layout, or hold arrays.
        """
        if rank is not None:
            self.to_accelerator(rank)
        return mapped(rows, self.columns, self._score, SCORE_COLUMNS)

    @overload
    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]: ...

    @overload
    def score(self, *, image: Any, question: str, answer: str) -> PairScores: ...

    def score(
        self,
        rows: Sequence[Mapping[str, Any]] | None = None,
        *,
        image: Any = None,
        question: str | None = None,
        answer: str | None = None,
    ) -> list[dict[str, Any]] | PairScores:
        """One pair, or a list of rows.

        Example:

        ```python
        scorer.score(image="cat.jpg", question="What is on the sofa?", answer="A cat.")
        scorer.score([{"image": "cat.jpg", "question": "What is on the sofa?", "answer": "A cat."}])
        ```

        Args:
            rows: Rows in any layout of `data.layouts`; see `__call__` for a single row, or a batch as `map` gives it.
            image: In place of rows, the image of a pair: a PIL image, a path, bytes, ...; or a list of them.
            question: Its instruction, a text.
            answer: Its answer, a text.

        Returns:
            Of rows the score columns of each, in order; a row that cannot be scored has null scores and the reason in
            `i2c_status`. Of a pair its score columns, as a dict that shows itself.

        Raises:
            TypeError: If neither is given, or both.
            ValueError: If the pair cannot be scored, with the reason; or rows are in no accepted layout.
        """
        if rows is None:
            (columns,) = self._score([row_of(image, question, answer)])
            return scored_pair(columns)
        if any(value is not None for value in (image, question, answer)):
            raise TypeError("score takes either a list of rows, or image=…, question=… and answer=…")
        return self._score(check_rows(rows))

    def _score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        encoded = self._encoded(rows)
        return batch_scores(encoded, self.logprobs(encoded), self._options.ranking)

    def score_batches(
        self, batches: Iterable[Sequence[Mapping[str, Any]]]
    ) -> Generator[list[dict[str, Any]], None, None]:
        """The score columns of each row of each batch, in order; the next batch is read and encoded in a thread while
        the model works on the present one.

        Close it where it may be left early (`contextlib.closing`), see `common.ahead`. Two batches are in memory
        together, encoded.

        Args:
            batches: Rows as for `score`. They are made in the thread.
        """
        self.loaded()  # here rather than in the thread
        with contextlib.closing(ahead(map(self._encoded, batches))) as encoded:
            for rows in encoded:
                yield batch_scores(rows, self.logprobs(rows), self._options.ranking)

    def _encoded(self, rows: Sequence[Mapping[str, Any]]) -> EncodedBatch:
        return self.encode(read_rows(rows))

    def encode(self, rows: Sequence[Sequence[Pair | RowError]]) -> EncodedBatch:
        """Pairs ready for the model, as `batch.read_rows` gives them; what other signals make of rows, likewise."""
        return encode_batch(self._encoder(), self.loaded()[1], rows)

    def logprobs(self, encoded: EncodedBatch) -> list[AnswerLogprobs]:
        """What the model says with and without the image of each turn of a batch, in this scorer's way."""
        model, processor = self.loaded()
        rows, blind_rows = [turn.seen for turn in encoded.turns], [turn.blind for turn in encoded.turns]
        packed = self._paths.not_packed is None
        max_tokens = 1 if self._paths.not_batched else self._max_tokens
        ours = functools.partial(own_rows, self._encoder())
        with in_eval_mode(model):
            return self._passes(model, processor, rows, blind_rows, packed=packed, max_tokens=max_tokens, ours=ours)

    @property
    def _max_tokens(self) -> int:
        return self._options.max_tokens or default_max_tokens(self.loaded()[0])

    def _encoder(self) -> PairEncoder:
        model, processor = self.loaded()
        options = self._options
        max_length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return PairEncoder(
            processor, max_length, options.blind, options.blind_images, self.image_folder, options.control_tokens
        )

    def _checked(self) -> Paths:
        encoder = self._encoder()
        with in_eval_mode(self._model):
            paths = check_paths(self._model, self._processor, encoder, self._max_tokens)
            check_numbers(self._model, self._processor, functools.partial(own_rows, encoder))
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

    def loaded(self) -> tuple[PreTrainedModel, ProcessorMixin]:
        """The model and its processor. A scorer that came from another process loads them now."""
        if self._model is None:
            if self._source is None:
                raise RuntimeError(
                    "this scorer was made from a model object and sent to another process, where the model is not; "
                    "use I2CScorer.from_pretrained, which each process can load for itself, or map without num_proc"
                )
            self._model, self._processor = load(self._source)
        return self._model, self._processor

    def to_accelerator(self, rank: int) -> None:
        """Puts the model on the accelerator of this number, where there are several processes with one each."""
        if not torch.accelerator.is_available() or (self._source is not None and self._source.is_placed):
            return
        device = torch.device(torch.accelerator.current_accelerator().type, rank % torch.accelerator.device_count())
        if self._model is None and self._source is not None:
            # Straight there: all processes at once would not fit on the first accelerator.
            self._model, self._processor = load(dataclasses.replace(self._source, device=str(device)))
        else:
            self.loaded()[0].to(device)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What the scores depend on, as a hex digest: model, processor, dtype, options, and the code that scores.

        A model from the Hub counts by its id and commit, one from a folder by its files' names, sizes and times, a
        model object by all its weights, which takes about 0.1 s per gigabyte, once. Equal across processes.
        """
        model, processor = self.loaded()
        parts = [*model_state(model, processor), self._options.digest(), code_version()]
        # A model passed in may have been trained since it was loaded: its weights count, whatever it says about itself.
        parts += [digest_weights(model)] if self._source is None else self._source.digest()
        return digest(*parts)

    def __reduce__(self) -> tuple[Any, ...]:
        # `datasets` fingerprints a function by pickling it: this is what it sees, instead of the weights
        return _restore, (self.fingerprint, self._source, self._options, self._paths)


def _restore(fingerprint: str, source: Source | None, options: ScorerOptions, paths: Paths) -> I2CScorer:
    """A scorer in another process: without its model, which it loads when first called."""
    scorer = I2CScorer.__new__(I2CScorer)
    scorer._model = scorer._processor = None
    scorer._source, scorer._options, scorer._paths = source, options, paths
    scorer._passes = Passes()
    scorer.__dict__["fingerprint"] = fingerprint
    return scorer
