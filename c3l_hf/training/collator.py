"""Pseudo-label rows → a batch for the contrastive training: separate sequences, or one per image."""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import ProcessorMixin
from transformers.data.data_collator import DataCollatorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.data.preferences import read_candidates
from c3l_hf.data.schema import CHOSEN_TOKENS
from c3l_hf.files.image import open_image
from c3l_hf.models.control_tokens import ControlTokens
from c3l_hf.models.encoding import EncodedRow, collate, encode_row, position_ids, with_end, with_image_cache
from c3l_hf.models.packing import collate_packs, pack
from c3l_hf.models.token_spans import carry_over
from c3l_hf.models.token_texts import token_texts
from c3l_hf.selection.token_weights import TokenWeights, reply_weights
from c3l_hf.training.finite import ROW_NAMES

__all__ = ["DataCollatorForC3L"]


@dataclass
class DataCollatorForC3L(DataCollatorMixin):
    """
    Data collator for pseudo-label rows: one padded batch with all candidates of all rows.

    Each row has `"images"` (or one `"image"`), a `"prompt"` (messages, or a string: one user message), the `"chosen"`
    answer (one assistant message, or a string) and a list of `"rejected"` answers (each like `"chosen"`; their number
    may vary and be 0), or one such answer, or whole conversations, as in TRL's preference datasets: see
    `data.preferences`. Every candidate becomes one sequence of images, prompt and answer; row after row, the chosen one
    first. B rows give R = Σ (1 + N_row) sequences, in L lines of the batch: L = R, or, with `packed`, L = B: the
    candidates of a row share the line that has their images and prompt once, see `packing.py`.
    - `"candidate_mask"`: `(B, 1 + N)` bool, which candidates each row has; its True values are the R sequences in
    order. It comes first, because the `Trainer` takes the batch size from the first tensor.
    - `"positive_index"`: `(B,)`, which of the R sequences is each row's chosen one.
    - `"line"`: `(R,)`, the line in which each sequence is.
    - `"weight"`: `(B,)` float32, only with `weight_column`.
    - `"token_weight"`: `(K,)` float32, only with `token_weights`: of the tokens of `label_mask`, row after row.
    - `"answer_key"`: `(B,)`, a hash of the chosen answer's text: equal for equal texts.
    - `"anchor_mask"`: `(B, T)` bool, where in its line the chosen sequence has the tokens of the anchor: of what is
    before its answer (image, instruction and the template's tokens around them) all, or what `anchor` says.
    - `"answer_mask"`: `(R, T)` bool, the answer's content.
    - `"label_mask"`: `(R, T)` bool, tokens of the NLL: the chosen answers, with the token that ends them, because a
    generator has to learn to stop: see `models.encoding.with_end`.
    - `"predict_mask"`: `(L, T)` bool, where the logits of these tokens are: each at the token before, in its sequence;
    with `all_logits` also those of all answers' content.
    - `"label_logits"`: `(K,)`, which of these logits, row after row of `predict_mask`, predicts each of the K tokens of
    `label_mask`; and with `all_logits` likewise `"answer_logits"` for `answer_mask`. Tokens of several answers that
    begin alike may share one.
    - `"num_tokens"`: `(L,)`, how many tokens each line has.
    - what the model takes, over L lines: `"input_ids"`, `"attention_mask"`, `"pixel_values"`, ...
    - `"row_names"`: B texts, what messages call the rows, only with `named`; not for the model.

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            The model's processor, with a chat template.
        max_length (`int`, *optional*):
            Longest allowed sequence. If `None`, there is no limit.
        weight_column (`str`, *optional*):
            Column with the weight of each row.
        token_weights (`str`, *optional*):
            How the tokens of the chosen answers are weighed, by the rows' `chosen_tokens`: see [`C3LConfig`].
        anchor (`str`, *optional*, defaults to `"prompt"`):
            `"prompt"`, `"text"` or `"image"`, see [`C3LConfig`].
        image_token_id (`int`, *optional*):
            Id of the image tokens in `input_ids`, to tell text and image of the anchor.
        all_logits (`bool`, *optional*, defaults to `False`):
            Whether the likelihood of every candidate is asked for, not of the chosen ones alone.
        packed (`bool`, *optional*, defaults to `False`):
            Whether the candidates of a row share a line. Exact for models with full causal attention only.
        control_tokens (`str`, *optional*, defaults to `"refuse"`):
            What becomes of control tokens that are written out in a text: `"refuse"` or `"escape"`, see [`C3LConfig`].
        position_module (`torch.nn.Module`, *optional*):
            With `packed`, the module with `get_rope_index` for models whose positions have parts (M-RoPE); needs no
            weights, see `models.encoding.position_module`.
        named (`bool`, *optional*, defaults to `False`):
            Whether the batch says what its rows are called.
        return_tensors (`str`, *optional*, defaults to `"pt"`):
            Type of Tensor to return. Only `"pt"` is currently supported.

    Raises:
        ValueError: if a row cannot be encoded; names the row by its `pair_id` or `image_id`.

    Example:
    ```python
    >>> from PIL import Image
    >>> from transformers import AutoProcessor
    >>> from c3l_hf.training.collator import DataCollatorForC3L

    >>> processor = AutoProcessor.from_pretrained("llava-hf/llava-1.5-7b-hf")
    >>> collator = DataCollatorForC3L(processor)
    >>> row = {
    ...     "images": [Image.new("RGB", (64, 64), "red")],
    ...     "image_id": "red",
    ...     "prompt": [{"role": "user", "content": "Ask about a colour in this picture, and answer the question."}],
    ...     "chosen": [{"role": "assistant", "content": "Question: What colour is it?\\nAnswer: red"}],
    ...     "rejected": [[{"role": "assistant", "content": "Question: What colour is it?\\nAnswer: blue"}]],
    ... }
    >>> batch = collator([row, {**row, "image_id": "no negatives", "rejected": []}])
    >>> batch["candidate_mask"]
    tensor([[ True,  True],
            [ True, False]])
    >>> batch["positive_index"]
    tensor([0, 2])
    >>> print(processor.decode(batch["input_ids"][1][batch["answer_mask"][1]]))
    Question: What colour is it?
    Answer: blue
    >>> batch["label_mask"].any(dim=1)
    tensor([ True, False,  True])

    ```
    """

    processor: ProcessorMixin
    max_length: int | None = None
    weight_column: str | None = None
    token_weights: TokenWeights | None = None
    anchor: str = "prompt"
    image_token_id: int | None = None
    all_logits: bool = False
    packed: bool = False
    position_module: nn.Module | None = None
    control_tokens: ControlTokens = "refuse"
    named: bool = False
    return_tensors: str = "pt"

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows, token_weights = [], []
        for example in examples:
            try:
                rows.append(self.encode(example))
                token_weights.append(self.token_weights_of(example, rows[-1][0]))
            except RowError as error:
                raise ValueError(f"{_row_name(example)}, {error}") from error
        encoded = [candidate for row in rows for candidate in row]
        counts = torch.tensor([len(row) for row in rows])
        positive_index = counts.cumsum(0) - counts
        line, places, inputs = self._lines(encoded, counts.tolist())
        batch = {
            "candidate_mask": torch.arange(int(counts.max())) < counts[:, None],
            "positive_index": positive_index,
            "line": line,
        }
        if self.weight_column is not None:
            batch["weight"] = torch.tensor([float(example[self.weight_column]) for example in examples])
        if self.token_weights is not None:
            batch["token_weight"] = torch.tensor([weight for weights in token_weights for weight in weights])
        batch["answer_key"] = torch.tensor([_key(read_candidates(example).chosen) for example in examples])

        length = inputs["input_ids"].shape[1]
        batch["anchor_mask"] = torch.zeros(len(rows), length, dtype=torch.bool)
        for name in ("answer_mask", "label_mask"):
            batch[name] = torch.zeros(len(encoded), length, dtype=torch.bool)
        batch["predict_mask"] = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
        # The place of what predicts each token, as a number in the whole batch.
        before: dict[str, list[torch.Tensor]] = {"label_logits": [], "answer_logits": []}
        chosen = set(positive_index.tolist())
        for index, (row, where) in enumerate(zip(encoded, places)):
            start, stop = row.answer.start, row.answer.stop
            origin = int(line[index]) * length
            batch["answer_mask"][index, where[start:stop]] = True
            before["answer_logits"].append(origin + where[start - 1 : stop - 1])
            if index in chosen:  # no NLL on rejected answers
                batch["label_mask"][index, where[start : stop + 1]] = True
                before["label_logits"].append(origin + where[start - 1 : stop])
        for number, index in enumerate(positive_index.tolist()):
            row, where = encoded[index], places[index]
            start = row.answer.start
            batch["anchor_mask"][number, where[:start][self._in_anchor(row)]] = True
        if not self.all_logits:
            del before["answer_logits"]
        flat = {name: torch.cat(numbers) for name, numbers in before.items()}
        for numbers in flat.values():
            batch["predict_mask"].view(-1)[numbers] = True
        rank = batch["predict_mask"].view(-1).cumsum(0) - 1
        batch |= {name: rank[numbers] for name, numbers in flat.items()}
        names = {ROW_NAMES: list(map(_row_name, examples))} if self.named else {}
        return {**batch, **inputs, **names}

    def encode(self, row: Mapping[str, Any]) -> list[EncodedRow]:
        """The sequences of a row: that of the chosen answer, and those of the rejected ones.

        Raises:
            RowError: If the row cannot be trained on; names the column.
        """
        candidates = read_candidates(row)
        processor = with_image_cache(self.processor)  # the candidates share the images
        column = "images"
        try:
            images = [open_image(image) for image in candidates.images]
            encoded = []
            for number, answer in enumerate([candidates.chosen, *candidates.rejected]):
                column = f"rejected[{number - 1}]" if number else "chosen"
                candidate = encode_row(
                    processor,
                    candidates.prompt,
                    answer,
                    images,
                    max_length=self.max_length,
                    control_tokens=self.control_tokens,
                )
                if number == 0:
                    candidate = replace(with_end(processor, candidate, self.max_length), answer=candidate.answer)
                encoded.append(candidate)
            return encoded
        except RowError as error:
            raise RowError(f"{column}: {error}") from error

    def token_weights_of(self, row: Mapping[str, Any], chosen: EncodedRow) -> list[float]:
        """The weights of a chosen answer's tokens and of the one that ends it; [] without `token_weights`.

        Raises:
            RowError: If the row does not have them, or they are those of another answer; names the column.
        """
        if self.token_weights is None:
            return []
        try:
            pieces = row.get(CHOSEN_TOKENS)
            if not pieces:
                raise RowError("the chosen answer has no scores of its tokens")
            weights = reply_weights(pieces, self.token_weights)
            ours = token_texts(self.processor, chosen.answer_ids)
            return [*carry_over([piece["text"] for piece in pieces], weights, ours), 1.0]
        except RowError as error:
            raise RowError(f"{CHOSEN_TOKENS}: {error}") from error

    def _in_anchor(self, row: EncodedRow) -> torch.Tensor:
        """Which of the tokens before the answer belong to the anchor."""
        ids = row.inputs["input_ids"][0, : row.answer.start]
        if self.anchor == "prompt":
            return torch.ones_like(ids, dtype=torch.bool)
        return (ids == self.image_token_id) == (self.anchor == "image")

    def _lines(
        self, encoded: list[EncodedRow], candidates: list[int]
    ) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, torch.Tensor]]:
        """Each sequence's line, the places of its tokens there, and what the model takes."""
        if not self.packed:
            inputs = collate(self.processor, [row.inputs for row in encoded], padding_side="right")
            lengths = [row.inputs["input_ids"].shape[1] for row in encoded]
            inputs["num_tokens"] = torch.tensor(lengths)
            return torch.arange(len(encoded)), [torch.arange(length) for length in lengths], inputs
        encoded_inputs = [row.inputs for row in encoded]
        left = iter(encoded_inputs)
        rows = [list(itertools.islice(left, count)) for count in candidates]
        packs = [pack([inputs["input_ids"][0].numpy() for inputs in row]) for row in rows]
        pad_id = self.processor.tokenizer.pad_token_id or 0
        module = self.position_module
        positions = None if module is None else position_ids(module, encoded_inputs)
        # A mask of booleans: the attention may run in another precision (autocast) than the weights have.
        inputs = collate_packs(packs, rows, pad_id, torch.bool, positions)
        inputs["num_tokens"] = torch.tensor([len(one) for one in packs])
        places = [torch.from_numpy(where) for one in packs for where in one.where]
        return torch.arange(len(packs)).repeat_interleave(torch.tensor(candidates)), places, inputs


def _row_name(row: dict[str, Any]) -> str:
    for column in ("pair_id", "image_id"):
        if row.get(column) is not None:
            return f"row with {column} {row[column]!r}"
    return f"row without pair_id and image_id (prompt {str(row.get('prompt', row.get('chosen')))[:80]!r})"


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
