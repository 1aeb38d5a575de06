"""The quick check tells what encoding in full would tell: in every family, for good rows and bad ones."""

import io
import pickle

import numpy as np
import pytest
from datasets.fingerprint import Hasher
from PIL import Image
from tiny_families import (
    LLAVA_ONEVISION_PUBLISHED,
    tiny_idefics3,
    tiny_internvl,
    tiny_llava_onevision,
    tiny_qwen2_5_vl,
    tiny_qwen3_vl,
    tiny_smolvlm,
)
from tiny_models import LLAVA_TEMPLATE, tiny_gemma3, tiny_llava, tiny_llava_next
from tiny_training import message

from c3l_hf.models.control_tokens import control_of
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.quick_check import QuickCheck
from c3l_hf.training.row_checks import row_problem


def published_onevision():
    model, processor = tiny_llava_onevision()
    processor.chat_template = LLAVA_ONEVISION_PUBLISHED
    return model, processor


def llava_without_end():
    """As LLaVA-1.5's: no end token after an answer, no newline in front of the next turn."""
    model, processor = tiny_llava()
    processor.chat_template = LLAVA_TEMPLATE.replace("{{ eos_token }}", "").replace("{{ '\n' }}", "{{ ' ' }}")
    return model, processor


FAMILIES = [
    tiny_llava,
    llava_without_end,
    tiny_llava_next,
    tiny_gemma3,
    tiny_llava_onevision,
    published_onevision,
    tiny_qwen2_5_vl,
    tiny_qwen3_vl,
    tiny_idefics3,
    tiny_smolvlm,
    tiny_internvl,
]


def picture(width, height, seed=0):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def items(*content):
    return [{"type": "image", "text": None} if text is None else {"type": "text", "text": text} for text in content]


SIZES = [(32, 32), (64, 20), (20, 64), (60, 60), (97, 41)]
PROMPTS = [
    message("user", "Ask a question about this picture."),
    message("user", "\n Ask a question?\n\n"),
    [{"role": "user", "content": items("Ask about this: ", None)}],
    [{"role": "user", "content": items("Before\n", None, "\n\nand after.")}],
    message("user", "Is there a dog?") + message("assistant", "Yes.") + message("user", "How many? 日"),
]
ANSWERS = [["Question: Is there a dog?\nAnswer: Yes", "no"], ["\n two", " A dög. ", "three 日\n\n"], ["x"]]


def good_rows():
    for number, size in enumerate(SIZES):
        for place, prompt in enumerate(PROMPTS):
            chosen, *rejected = ANSWERS[(number + place) % len(ANSWERS)]
            yield {
                "images": [picture(*size, seed=place)],
                "prompt": prompt,
                "chosen": message("assistant", chosen),
                "rejected": [message("assistant", text) for text in rejected],
            }
    two = [picture(*SIZES[0]), picture(*SIZES[1])]
    places = [{"role": "user", "content": items(None, "or", None, "?")}]
    for prompt in (message("user", "Which?"), places):
        yield {"images": two, "prompt": prompt, "chosen": "the first", "rejected": ["the second"]}


BAD = [
    {"images": []},
    {"images": None},
    {"images": [{"bytes": b"no picture", "path": None}]},
    {"images": [{"bytes": picture(32, 32)["bytes"][:200], "path": None}]},  # cut short: only its header can be read
    {"images": [None]},
    {"prompt": None},
    {"prompt": message("user", " ")},
    {"prompt": message("user", "an <image>, <|image_pad|>, <IMG_CONTEXT>, <start_of_image> or <bos> in a text")},
    {"prompt": [{"role": "user", "content": items(None, "two places", None)}]},
    {"prompt": [{"role": "user", "content": [{"type": "video"}]}]},
    {"prompt": [{"role": "system", "content": "Only this."}]},
    {"images": [picture(32, 32)] * 2, "prompt": [{"role": "user", "content": items(None, "one place")}]},
    {"chosen": " \n"},
    {"chosen": "</s>, <|im_end|>, <eos>, <|end_of_text|> or <end_of_utterance>"},
    {"rejected": ["yes", ""]},
    {"rejected": [message("user", "yes")]},
    {"rejected": ["dog " * 600]},
]  # fmt: skip


@pytest.mark.parametrize("build", FAMILIES)
def test_rows_of_every_family(build):
    collator = DataCollatorForC3L(build()[1], max_length=512)
    quick = QuickCheck(collator)
    good = list(good_rows())
    told = 0
    for row in good:
        problem = row_problem(row, collator)
        assert quick.takes(row) == (problem is None)
        assert row_problem(row, collator, quick) == problem
        told += problem is None
    assert told >= len(good) - 2  # two pictures, or two places, are not for all
    for change in BAD:
        row = {**good[0], **change}
        problem = row_problem(row, collator)
        assert quick.takes(row) <= (problem is None)
        assert row_problem(row, collator, quick) == problem
    assert sum(row_problem({**good[0], **change}, collator) is not None for change in BAD) >= len(BAD) - 1


@pytest.mark.parametrize("build", FAMILIES)
def test_lengths_are_those_in_full(build):
    """A limit of as many tokens as a row has is kept, one less is not."""
    collator = DataCollatorForC3L(build()[1])
    quick, tried = QuickCheck(collator), 0
    for row in good_rows():
        collator.max_length = None
        if row_problem(row, collator):
            continue
        encoded = collator.encode(row)
        # What the chat template puts after an answer counts too, and is not left of the chosen one.
        rejected = {**row, "rejected": [row["chosen"]]}
        length = max(one.inputs["input_ids"].shape[1] for one in [*encoded, *collator.encode(rejected)])
        collator.max_length = length
        assert quick.takes(row) and row_problem(row, collator) is None
        collator.max_length = length - 1
        assert not quick.takes(row)
        assert "at most" in row_problem(row, collator, quick) or "longer than" in row_problem(row, collator, quick)
        tried += 1
    assert tried > 20


@pytest.mark.parametrize("build", FAMILIES)
def test_control_tokens_as_letters(build):
    """Rows with control tokens in every place, read as letters: as by encoding them in full, to the token."""
    processor = build()[1]
    tokens = sorted(control_of(processor).tokens)
    refusing = DataCollatorForC3L(processor)
    collator = DataCollatorForC3L(processor, control_tokens="escape")
    quick = QuickCheck(collator)
    start = next(good_rows())
    for number, token in enumerate(tokens):
        text = f"a {token}{token}, {token} b"
        change = [
            {"prompt": message("user", f"What is {text}?")},
            {"prompt": [{"role": "user", "content": items(f"Of {token} ", None, f" {token}?")}]},
            {"chosen": text},
            {"rejected": ["no", text]},
        ][2 if token == "<image>" else number % 4]  # which in a question is the place of a picture
        row = {**start, **change}
        assert f"control token {token!r}" in row_problem(row, refusing)
        collator.max_length = None
        assert quick.takes(row) and row_problem(row, collator) is None
        rejected = {**row, "rejected": [row["chosen"]]}
        length = max(one.inputs["input_ids"].shape[1] for one in collator.encode(row) + collator.encode(rejected))
        for collator.max_length, fits in ((length, True), (length - 1, False)):
            assert quick.takes(row) is fits and (row_problem(row, collator, quick) is None) is fits


def test_pictures_are_prepared_once_for_a_size_and_read_once(monkeypatch):
    collator = DataCollatorForC3L(tiny_llava()[1])
    quick = QuickCheck(collator)
    rows = list(good_rows())
    assert all(quick.takes(row) for row in rows)
    prepared, opened = [], []
    image_processor = type(collator.processor.image_processor)
    monkeypatch.setattr(image_processor, "__call__", lambda self, *args, **options: prepared.append(args) or 1 / 0)
    monkeypatch.setattr("c3l_hf.training.quick_check.open_image", lambda image: opened.append(image) or 1 / 0)
    assert all(quick.takes(row) for row in rows) and not prepared and not opened


def test_tokens_that_depend_on_more_than_sizes_are_counted_in_full(monkeypatch, caplog):
    """A processor that cuts even margins off has other tokens for other pictures of the same size."""
    processor = tiny_llava_next()[1]
    prepare = type(processor.image_processor).preprocess

    def without_margins(self, images, *args, **options):
        cut = [image.crop(image.getbbox() or (0, 0, 40, 20)) for image in images[0]]
        return prepare(self, [cut], *args, **options)

    monkeypatch.setattr(type(processor.image_processor), "preprocess", without_margins)
    collator = DataCollatorForC3L(processor, max_length=512)
    quick, row = QuickCheck(collator), next(good_rows())
    assert not quick.takes(row) and row_problem(row, collator, quick) is None
    assert "each row is encoded in full to check it" in caplog.text and "different tokens" in caplog.text


def test_a_check_that_overlooks_something_is_not_used(monkeypatch, caplog):
    collator = DataCollatorForC3L(tiny_llava()[1], max_length=512)
    quick, row = QuickCheck(collator), {**next(good_rows()), "rejected": ["dog " * 600]}
    monkeypatch.setattr(QuickCheck, "_takes", lambda self, row: True)
    assert "at most 512" in row_problem(row, collator, quick)
    assert "overlooks that rejected[0]" in caplog.text and not quick.takes(next(good_rows()))


def test_what_it_has_learned_is_no_part_of_its_identity():
    quick = QuickCheck(DataCollatorForC3L(tiny_llava()[1]))
    before = Hasher.hash(quick)
    rows = list(good_rows())
    assert all(quick.takes(row) for row in rows)
    assert Hasher.hash(quick) == before
    again = pickle.loads(pickle.dumps(quick))
    assert all(again.takes(row) for row in rows)


@pytest.mark.parametrize("build", [tiny_idefics3, tiny_smolvlm, tiny_internvl, tiny_gemma3])
def test_tokens_that_only_a_whole_picture_brings(build):
    """What stands around tiles is control, also for a check that has one token in a picture's place, also elsewhere."""
    processor = build()[1]
    collator = DataCollatorForC3L(processor, max_length=512)
    quick = QuickCheck(collator)
    around = {"<row_1_col_2>", "<row_2_col_1>", "</img>", "<end_of_image>"} & set(processor.tokenizer.get_vocab())
    assert around
    for token in around:
        row = {**next(good_rows()), "rejected": [f"A {token} dog"]}
        for check in (quick, pickle.loads(pickle.dumps(quick))):
            assert not check.takes(row)
        assert f"control token '{token}'" in row_problem(row, collator, quick)
