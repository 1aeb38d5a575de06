"""Pseudo-label rows → a batch for the contrastive training: separate sequences, or one per image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ProcessorMixin
from transformers.data.data_collator import DataCollatorMixin

from .image_io import open_image
from .packing import collate_packs, pack
from .processing import EncodedRow, RowError, collate, encode_row, with_image_cache

__all__ = ["DataCollatorForC3L"]


@dataclass
class DataCollatorForC3L(DataCollatorMixin):
    """
    Data collator for pseudo-label rows: one padded batch with all candidates of all rows.

    Each row has an `"images"` list, a `"prompt"` (messages), the `"chosen"` answer (one assistant message) and a list
    of `"rejected"` answers (each like `"chosen"`; their number may vary and be 0). Every candidate becomes one sequence
    of images, prompt and answer; row after row, the chosen one first. B rows give R = Σ (1 + N_row) sequences, in L
    lines of the batch: L = R, or, with `packed`, L = B: the candidates of a row share the line that has their images
    and prompt once, see `packing.py`.
    - `"candidate_mask"`: `(B, 1 + N)` bool, which candidates each row has; its True values are the R sequences in
    order. It comes first, because the `Trainer` takes the batch size from the first tensor.
    - `"positive_index"`: `(B,)`, which of the R sequences is each row's chosen one.
    - `"line"`: `(R,)`, the line in which each sequence is.
    - `"weight"`: `(B,)` float32, only with `weight_column`.
    - `"prompt_mask"`: `(R, T)` bool, where in its line a sequence has all that is before its answer: image, instruction
    and the template's tokens around them.
    - `"answer_mask"`: `(R, T)` bool, the answer's content.
    - `"label_mask"`: `(R, T)` bool, tokens of the NLL: the chosen answers, with the end-of-turn token if the chat
    template writes one, because a generator has to learn to stop.
    - `"predict_mask"`: `(L, T)` bool, where the logits of these tokens are: each at the token before, in its sequence.
    - `"num_tokens"`: `(L,)`, how many tokens each line has.
    - what the model takes, over L lines: `"input_ids"`, `"attention_mask"`, `"pixel_values"`, ...

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            The model's processor, with a chat template.
        max_length (`int`, *optional*):
            Longest allowed sequence. If `None`, there is no limit.
        weight_column (`str`, *optional*):
            Column with the weight of each row.
        packed (`bool`, *optional*, defaults to `False`):
            Whether the candidates of a row share a line. Exact for models with full causal attention only.
        return_tensors (`str`, *optional*, defaults to `"pt"`):
            Type of Tensor to return. Only `"pt"` is currently supported.

    Raises:
        ValueError: if a row cannot be encoded; names the row by its `pair_id` or `image_id`.

    Example:
    ```python
    >>> from PIL import Image
    >>> from transformers import AutoProcessor
    >>> from c3l_hf.collator import DataCollatorForC3L

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
    packed: bool = False
    return_tensors: str = "pt"

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        processor = with_image_cache(self.processor)  # the candidates of a row share its images
        encoded, candidates = [], []
        for row in examples:
            column = "images"
            try:
                images = [open_image(image) for image in row["images"] or ()]
                if not images:
                    raise RowError("there is none")
                answers = [row["chosen"], *row["rejected"]]
                for number, answer in enumerate(answers):
                    column = "chosen" if number == 0 else f"rejected[{number - 1}]"
                    text = _answer_text(answer)
                    encoded.append(encode_row(processor, row["prompt"], text, images, max_length=self.max_length))
            except RowError as error:
                raise ValueError(f"{_row_name(row)}, {column}: {error}") from error
            candidates.append(len(answers))

        counts = torch.tensor(candidates)
        positive_index = counts.cumsum(0) - counts
        line, places, inputs = self._lines(encoded, candidates)
        batch = {
            "candidate_mask": torch.arange(max(candidates)) < counts[:, None],
            "positive_index": positive_index,
            "line": line,
        }
        if self.weight_column is not None:
            batch["weight"] = torch.tensor([float(row[self.weight_column]) for row in examples])

        shape = (len(encoded), inputs["input_ids"].shape[1])
        for name in ("prompt_mask", "answer_mask", "label_mask"):
            batch[name] = torch.zeros(shape, dtype=torch.bool)
        batch["predict_mask"] = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
        for index, (row, where) in enumerate(zip(encoded, places)):
            start, stop = row.answer.start, row.answer.stop
            batch["prompt_mask"][index, where[:start]] = True
            batch["answer_mask"][index, where[start:stop]] = True
        for index in positive_index.tolist():  # no NLL on rejected answers
            row, where = encoded[index], places[index]
            start, stop = row.answer.start, row.answer.stop + self._ends_with_special_token(row)
            batch["label_mask"][index, where[start:stop]] = True
            batch["predict_mask"][line[index], where[start - 1 : stop - 1]] = True
        return {**batch, **inputs}

    def _lines(
        self, encoded: list[EncodedRow], candidates: list[int]
    ) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, torch.Tensor]]:
        """Each sequence's line, the places of its tokens there, and what the model takes."""
        if not self.packed:
            inputs = collate(self.processor, [row.inputs for row in encoded], padding_side="right")
            lengths = [row.inputs["input_ids"].shape[1] for row in encoded]
            inputs["num_tokens"] = torch.tensor(lengths)
            return torch.arange(len(encoded)), [torch.arange(length) for length in lengths], inputs
        rows, left = [], iter(encoded)
        for count in candidates:
            rows.append([next(left).inputs for _ in range(count)])
        packs = [pack([inputs["input_ids"][0].numpy() for inputs in row]) for row in rows]
        pad_id = self.processor.tokenizer.pad_token_id or 0
        # A mask of booleans: the attention may run in another precision (autocast) than the weights have.
        inputs = collate_packs(packs, rows, pad_id, torch.bool)
        inputs["num_tokens"] = torch.tensor([len(one) for one in packs])
        places = [torch.from_numpy(where) for one in packs for where in one.where]
        return torch.arange(len(packs)).repeat_interleave(torch.tensor(candidates)), places, inputs

    def _ends_with_special_token(self, row: EncodedRow) -> bool:
        after = row.inputs["input_ids"][0, row.answer.stop :]
        token = self.processor.tokenizer.added_tokens_decoder.get(int(after[0])) if len(after) else None
        return token is not None and token.special


def _row_name(row: dict[str, Any]) -> str:
    for column in ("pair_id", "image_id"):
        if row.get(column) is not None:
            return f"row with {column} {row[column]!r}"
    return f"row without pair_id and image_id (prompt {str(row['prompt'])[:80]!r})"


def _answer_text(messages: Sequence[dict[str, str]] | None) -> str:
    """The text of an answer given as one assistant message."""
    if messages is None or len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = None if messages is None else [message["role"] for message in messages]
        raise RowError(f"found messages with the roles {roles}; give exactly one message, of the assistant")
    if not isinstance(messages[0]["content"], str):
        raise RowError(f"the content is of type {type(messages[0]['content']).__name__}; give a string")
    if not messages[0]["content"].strip():
        raise RowError("the text is empty")
    return messages[0]["content"]
