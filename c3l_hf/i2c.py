"""I²C, the image-instruction correspondence of an answer: how much seeing the image changes what a model thinks of it.

`scores_from_logprobs` has the formulas; `I2CScorer` applies them to the rows of a dataset, as a function for
`Dataset.map`.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from . import likelihood, processing, schema
from .likelihood import answer_logprobs
from .processing import EncodedRow, encode_row, image_key, open_image, token_texts, with_image_cache
from .schema import SCORE_COLUMNS, SCORE_FEATURES, SCORES, STATUS, STATUS_OK, RowError, is_batch, layout_of, to_pair

__all__ = ["DEFAULT_RANKING", "I2CScorer", "scores_from_logprobs"]

DEFAULT_RANKING = "pmi"


def scores_from_logprobs(with_image: Sequence[float], blind: Sequence[float], kl: Sequence[float]) -> dict[str, float]:
    """All scores of one answer from what its N tokens got in the two passes.

    With p_t, q_t the predictions with and without the image and a_t the answer's tokens:

    - `answer_kl` = sum_t P_t ln(P_t / Q_t), P_t = p_t(a_t) / sum_s p_s(a_s), Q_t alike: the divergence between the two
      sequences of answer scores, each normalised over the answer (C3L as implemented here; the paper's normalisation is
      not known)
    - `token_kl` = (1/N) sum_t sum_v p_t(v) ln(p_t(v) / q_t(v))
    - `pmi` = (1/N) sum_t [ln p_t(a_t) - ln q_t(a_t)]; `ppl_ratio` = exp(pmi)
    - `logprob`, `logprob_blind` = (1/N) sum_t ln p_t(a_t), (1/N) sum_t ln q_t(a_t)

    Args:
        with_image: ln p_t(a_t), (N,), nats.
        blind: ln q_t(a_t), (N,), nats.
        kl: The divergence over the vocabulary at each token, (N,), nats.

    Returns:
        The scores, computed in float64, with the names of `schema.SCORES`.

    Raises:
        ValueError: If the three differ in length or have no token.
    """
    p, q, kl = (np.asarray(values, dtype=np.float64) for values in (with_image, blind, kl))
    if not p.shape == q.shape == kl.shape or p.ndim != 1 or not p.size:
        raise ValueError(
            f"needs three lists of one length with at least one token, got shapes {p.shape}, {q.shape}, {kl.shape}"
        )
    log_p, log_q = p - np.logaddexp.reduce(p), q - np.logaddexp.reduce(q)
    pmi = np.mean(p - q)
    scores = {
        "answer_kl": np.sum(np.exp(log_p) * (log_p - log_q)),
        "token_kl": np.mean(kl),
        "pmi": pmi,
        "ppl_ratio": np.exp(pmi),
        "logprob": np.mean(p),
        "logprob_blind": np.mean(q),
    }
    return {name: float(value) for name, value in scores.items()}


@dataclass(frozen=True)
class _Source:
    """Where `from_pretrained` found the model: enough to load it again in another process."""

    model_id: str
    revision: str | None
    dtype: str
    device: str | None
    trust_remote_code: bool


class I2CScorer:
    """Scores image/question/answer rows by what the image does to the answer's likelihood.

    A scorer is a function for `map`: of a row it returns the score columns, of a batch (`batched=True`) lists of them.
    Rows in any layout of `schema.to_pair` are taken. A row that cannot be scored has null scores and the reason in
    `i2c_status`.

    Example:

    ```python
    scorer = I2CScorer.from_pretrained("llava-hf/llava-1.5-7b-hf", dtype="bfloat16")
    scored = ds.map(scorer, batched=True, batch_size=256, features=Features({**ds.features, **scorer.features}))
    ```

    The scores of a row do not depend on the other rows, their order, or `batch_size`, but for rounding (float32 models:
    1e-5 on log-probabilities). Within what it is given at once it sorts rows by length, preprocesses each distinct
    image once, and runs equal blind rows once; so give `map` some multiple of `batch_size`. The preprocessed images of
    one call are in memory together.

    Caching: `datasets` sees `fingerprint`, not the weights.

    For several processes (`num_proc`) use `from_pretrained`: each process then loads the model for itself; a scorer
    made from a model object cannot follow, and says so. Let them start afresh, with
    `multiprocess.set_start_method("spawn")`: a forked process can die in the threads that PyTorch has started before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        ranking: str = DEFAULT_RANKING,
        batch_size: int = 16,
    ):
        """
        Args:
            model: A model for `AutoModelForImageTextToText`. Later changes of its weights need a new scorer.
            processor: Its processor, with a chat template.
            ranking: Which of `schema.SCORES` goes into the column `i2c`.
            batch_size: Most rows in one forward pass.

        Raises:
            ValueError: If the ranking is not a score, the batch size not positive, or the processor without chat
                template.
        """
        _check_options(ranking, batch_size)
        if processor.chat_template is None:
            raise ValueError(f"the {type(processor).__name__} has no chat template; set processor.chat_template")
        self.ranking, self.batch_size = ranking, batch_size
        self._model, self._processor = model, processor
        self._source: _Source | None = None

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        trust_remote_code: bool = False,
        ranking: str = DEFAULT_RANKING,
        batch_size: int = 16,
    ) -> "I2CScorer":
        """A scorer with a model and processor from the Hub or a folder.

        Args:
            model_id: Repository id or folder.
            revision: Branch, tag or commit on the Hub.
            dtype: "float32", "bfloat16", "float16"; the softmax is taken in float32 or better in any case.
            device: Where to put the model; by default the accelerator if there is one, else the CPU.
            trust_remote_code: Whether code from the repository may be run.
            ranking: See `I2CScorer`.
            batch_size: See `I2CScorer`.

        Raises:
            OSError: If there is no such model.
            ValueError: As for `I2CScorer`.
        """
        _check_options(ranking, batch_size)
        source = _Source(str(model_id), revision, dtype, device, trust_remote_code)
        scorer = cls(*_load(source), ranking=ranking, batch_size=batch_size)
        scorer._source = source
        return scorer

    @property
    def features(self) -> dict[str, Any]:
        """The types of the score columns, for `map(features=Features({**ds.features, **scorer.features}))`."""
        return dict(SCORE_FEATURES)

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Scores one row, or a batch of rows.

        Args:
            rows: A row (column → value) or a batch (column → list of values); `schema.is_batch` tells them apart.

        Returns:
            The columns of `schema.SCORE_COLUMNS` with a value each, or with a list in the order of the batch.

        Raises:
            ValueError: If the columns are in no accepted layout.
        """
        columns = layout_of(rows.keys())
        needed = {name: rows[name] for name in columns}
        if not is_batch(needed):
            return self.score([needed])[0]
        count = len(needed[columns[0]])
        scored = self.score([{name: needed[name][number] for name in columns} for number in range(count)])
        return {name: [row[name] for row in scored] for name in SCORE_COLUMNS}

    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The score columns of each row, in order. See `__call__`."""
        model, processor = self._loaded()
        results: list[dict[str, Any]] = [{} for _ in rows]
        encoded: dict[int, tuple[EncodedRow, EncodedRow]] = {}
        max_length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        encoder = _Encoder(processor, max_length)
        for number, row in enumerate(rows):
            try:
                encoded[number] = encoder.encode(row)
            except RowError as error:
                results[number] = _without_score(str(error))

        # Rows of similar length need little padding; equal blind rows next to each other are run once.
        def length(number: int) -> tuple[int, list[int]]:
            with_image, blind = (row.inputs["input_ids"][0] for row in encoded[number])
            return len(with_image), blind.tolist()

        order = sorted(encoded, key=length, reverse=True)  # longest first: too little memory shows at once
        training = model.training
        model.eval()
        try:
            for first in range(0, len(order), self.batch_size):
                numbers = order[first : first + self.batch_size]
                pairs = [encoded[number] for number in numbers]
                logprobs = answer_logprobs(model, processor, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
                for number, (row, _), tokens in zip(numbers, pairs, logprobs):
                    lists = [values.tolist() for values in (tokens.with_image, tokens.blind, tokens.kl)]
                    results[number] = self._result(token_texts(processor, row.answer_ids), *lists)
        finally:
            model.train(training)
        return results

    def _result(
        self, tokens: list[str], with_image: list[float], blind: list[float], kl: list[float]
    ) -> dict[str, Any]:
        if not np.isfinite([with_image, blind, kl]).all():
            return _without_score("the model's log-probabilities are not finite")
        scores = scores_from_logprobs(with_image, blind, kl)
        return {
            "i2c": scores[self.ranking],
            **scores,
            "answer_tokens": tokens,
            "token_kl_per_token": kl,
            "logprob_per_token": with_image,
            "logprob_blind_per_token": blind,
            STATUS: STATUS_OK,
        }

    def _loaded(self) -> tuple[PreTrainedModel, ProcessorMixin]:
        if self._model is None:
            if self._source is None:
                raise RuntimeError(
                    "this scorer was made from a model object and sent to another process, where the model is not; "
                    "use I2CScorer.from_pretrained, which each process can load for itself, or map without num_proc"
                )
            self._model, self._processor = _load(self._source)
        return self._model, self._processor

    @functools.cached_property
    def fingerprint(self) -> str:
        """What the scores depend on, as a hex digest: model, processor, dtype, options, and the code that scores.

        A model from the Hub counts by its id and commit; any other by all its weights, which takes about a second per
        gigabyte, once per scorer. Equal across processes.
        """
        model, processor = self._loaded()
        digest = hashlib.blake2b(digest_size=16)
        commit = getattr(model.config, "_commit_hash", None) if self._source else None
        if commit:
            # only for a model this scorer loaded: one passed in may have been trained since it was downloaded
            parts = [self._source.model_id, commit]
        else:
            parts = [
                model.config.to_json_string(),
                processor.to_json_string(),
                processor.tokenizer.backend_tokenizer.to_str(),
            ]
            _digest_weights(model, digest)
        parts += [
            type(model).__name__,
            str(model.dtype),
            str(processor.chat_template),
            self.ranking,
            str(self.batch_size),
        ]
        for part in (*parts, _code_version()):
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        # `datasets` fingerprints a function by pickling it: this is what it sees, instead of the weights
        return _restore, (self.fingerprint, self._source, self.ranking, self.batch_size)


def _restore(fingerprint: str, source: _Source | None, ranking: str, batch_size: int) -> I2CScorer:
    """A scorer in another process: without its model, which it loads when first called."""
    scorer = I2CScorer.__new__(I2CScorer)
    scorer.ranking, scorer.batch_size = ranking, batch_size
    scorer._model = scorer._processor = None
    scorer._source = source
    scorer.__dict__["fingerprint"] = fingerprint
    return scorer


def _check_options(ranking: str, batch_size: int) -> None:
    if ranking not in SCORES:
        raise ValueError(f"ranking is {ranking!r}; it must be one of {', '.join(SCORES)}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")


def _load(source: _Source) -> tuple[PreTrainedModel, ProcessorMixin]:
    options = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    processor = AutoProcessor.from_pretrained(source.model_id, **options)
    model = AutoModelForImageTextToText.from_pretrained(source.model_id, dtype=source.dtype, **options)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.eval().to(source.device or accelerator or "cpu"), processor


class _Encoder:
    """Encodes rows with and without their images, each distinct image and each distinct blind row once."""

    def __init__(self, processor: ProcessorMixin, max_length: int | None):
        self._processor, self._max_length = with_image_cache(processor), max_length
        self._images: dict[Any, Any] = {}
        self._blind: dict[str, EncodedRow] = {}

    def encode(self, row: Mapping[str, Any]) -> tuple[EncodedRow, EncodedRow]:
        pair = to_pair(row)
        images = [self._image(image) for image in pair.images]
        options = {"max_length": self._max_length, "end_of_turn": False}
        with_image = encode_row(self._processor, pair.prompt, pair.answer, images, **options)
        text = repr((pair.prompt, pair.answer))
        if text not in self._blind:
            self._blind[text] = encode_row(self._processor, pair.prompt, pair.answer, [], **options)
        blind = self._blind[text]
        if with_image.answer_ids != blind.answer_ids:
            raise RowError("the answer has other tokens with the image than without")
        return with_image, blind

    def _image(self, value: Any) -> Any:
        key = image_key(value)
        if key not in self._images:
            self._images[key] = (open_image(value), value)  # the value is kept so that its identity stays its own
        return self._images[key][0]


def _without_score(reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(SCORE_COLUMNS), STATUS: reason}


def _digest_weights(model: PreTrainedModel, digest: Any) -> None:
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


@functools.cache
def _code_version() -> str:
    """Digest of the modules that make a score and the version of transformers: a corrected scorer scores anew."""
    digest = hashlib.blake2b(transformers.__version__.encode(), digest_size=16)
    for module in (schema, processing, likelihood):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()
