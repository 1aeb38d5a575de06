"""Where the answer stands in the ids, with and without the image, and what cannot be encoded."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_llava

from c3l_hf.common.errors import RowError
from c3l_hf.models.encoding import encode_prompt, encode_row, with_image_cache

QUESTION = [{"role": "user", "content": "Is there a dog?"}]


def picture(seed=0, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def llava_copy():
    """A processor whose template a test may change."""
    return tiny_llava()[1]


@pytest.mark.parametrize("answer", ["Yes.", "Yes, a dög 日.", "one\ntwo", "x", "a" * 50, "ASSISTANT: USER: yes"])
@pytest.mark.parametrize("images", [[picture()], []], ids=["image", "blind"])
def test_answer_span(family, answer, images):
    _, processor = family
    decode = processor.tokenizer.decode
    for end_of_turn in (True, False):
        row = encode_row(processor, QUESTION, answer, images, end_of_turn=end_of_turn)
        ids = row.inputs["input_ids"][0]
        before, after = decode(ids[: row.answer.start]), decode(ids[row.answer.stop :])
        assert decode(row.answer_ids).strip() == answer
        assert before.endswith(("ASSISTANT:", "<start_of_turn>model\n"))
        tail = "</s>\n" if before.endswith("ASSISTANT:") else "<end_of_turn>\n"
        assert after == (tail if end_of_turn else "")
        assert (ids == processor.tokenizer.bos_token_id).sum() == 1 and ids[0] == processor.tokenizer.bos_token_id
        assert not set(row.answer_ids) & set(processor.tokenizer.all_special_ids)


def test_blind_row_has_nothing_of_the_image(family):
    _, processor = family
    row = encode_row(processor, QUESTION, "Yes.", [])
    text = processor.tokenizer.decode(row.inputs["input_ids"][0])
    assert "image" not in text and "pixel_values" not in row.inputs
    assert "\n Is there" not in text and "\n\nIs there" not in text  # the newlines that come with an image
    with_image = encode_row(processor, QUESTION, "Yes.", [picture()])
    assert with_image.answer_ids == row.answer_ids


def test_images_stand_where_the_messages_put_them(llava):
    _, processor = llava
    images = [picture(1), picture(2)]
    items = [{"type": "text", "text": "Compare"}, {"type": "image"}, {"type": "image"}, {"type": "text", "text": "now"}]
    row = encode_row(processor, [{"role": "user", "content": items}], "No.", images)
    single = [encode_row(processor, QUESTION, "No.", [image]).inputs["pixel_values"] for image in images]
    assert torch.equal(row.inputs["pixel_values"], torch.cat(single))
    blind = encode_row(processor, [{"role": "user", "content": items}], "No.", [])
    assert blind.answer_ids == row.answer_ids
    for wrong in (images[:1], [*images, picture(3)]):
        with pytest.raises(RowError, match="place"):
            encode_row(processor, [{"role": "user", "content": items}], "No.", wrong)
    with pytest.raises(RowError, match="neither text nor image"):
        encode_row(processor, [{"role": "user", "content": [{"type": "video"}]}], "No.", [])


def test_system_message_comes_before_the_image(llava):
    _, processor = llava
    row = encode_row(processor, [{"role": "system", "content": "Be brief."}, *QUESTION], "No.", [picture()])
    text = processor.tokenizer.decode(row.inputs["input_ids"][0])
    assert text.startswith("<s>SYSTEM: Be brief.\nUSER: <image>")


# What models' own templates do with a system message; those of LLaVA-1.5 and Qwen-VL write it.
IF_SYSTEM = "{% if m['role'] == 'system' %}"
LEFT_OUT = "{% for m in messages if m['role'] != 'system' %}"
REFUSED = f"{{% for m in messages %}}{IF_SYSTEM}{{{{ raise_exception('System role not supported') }}}}{{% endif %}}"
# As Gemma 3's: the text comes first in the user's turn.
MERGED = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'][0]['text'] %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
    "{% if loop.first and first %}{{ first }}: {% endif %}"
)


@pytest.mark.parametrize(
    ("loop", "found"),
    [
        (LEFT_OUT, "the model's chat template leaves system messages out"),
        (REFUSED, "the processor refuses the row: System role not supported"),
        (MERGED, None),
    ],
    ids=["left out", "refused", "merged"],
)
def test_system_messages_are_never_lost(llava_copy, loop, found):
    llava_copy.chat_template = llava_copy.chat_template.replace("{% for m in messages %}", loop)
    assert loop in llava_copy.chat_template
    prompt = [{"role": "system", "content": "Be brief."}, *QUESTION]
    for encode in (
        lambda prompt: encode_row(llava_copy, prompt, "No.", [picture()]).inputs,
        lambda prompt: encode_prompt(llava_copy, prompt, [picture()]),
    ):
        assert encode(QUESTION)["input_ids"].shape[1] > 10
        if found is None:
            assert "Be brief.: USER: <image>" in llava_copy.tokenizer.decode(encode(prompt)["input_ids"][0])
            continue
        with pytest.raises(RowError, match=found):
            encode(prompt)


@pytest.mark.parametrize("token", ["<image>", "</s>", "<s>", "<pad>"])
def test_control_tokens_in_a_text_are_refused(llava, token):
    _, processor = llava
    for prompt, answer in (("Is there", f"a {token} b"), (f"What is {token}?", "A dog.")):
        for images in ([picture()], []):
            with pytest.raises(RowError, match=f"control token '{token}'"):
                encode_row(processor, [{"role": "user", "content": prompt}], answer, images)
    with pytest.raises(RowError, match="control token"):
        encode_prompt(processor, [{"role": "user", "content": [{"type": "text", "text": token}]}], [])


def test_prompt_that_is_not_a_prefix(llava_copy):
    llava_copy.chat_template = llava_copy.chat_template.replace("prompt %}ASSISTANT:", "prompt %}ASSISTANT: so")
    with pytest.raises(RowError, match="not the first tokens"):
        encode_row(llava_copy, QUESTION, "Yes.", [picture()])


def test_template_without_end_of_turn(llava_copy):
    # as llava-hf/llava-1.5-7b-hf: a space after each message and no end token
    llava_copy.chat_template = llava_copy.chat_template.replace("{{ eos_token }}", " ").replace("{{ '\n' }}", "")
    row = encode_row(llava_copy, QUESTION, "Yes.", [picture()])
    assert llava_copy.tokenizer.decode(row.answer_ids) == " Yes."
    assert row.inputs["input_ids"].shape[1] == row.answer.stop + 1


def test_answer_that_merges_with_the_tail(llava_copy):
    llava_copy.chat_template = llava_copy.chat_template.replace("{{ eos_token }}", "g")
    with pytest.raises(RowError, match="merges"):
        encode_row(llava_copy, QUESTION, "do", [])
    row = encode_row(llava_copy, QUESTION, "do", [], end_of_turn=False)
    assert llava_copy.tokenizer.decode(row.answer_ids) == " do"


def test_template_errors_are_reasons(llava_copy):
    llava_copy.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RowError, match="roles must alternate"):
        encode_row(llava_copy, QUESTION, "Yes.", [])


def test_nothing_is_truncated(llava):
    _, processor = llava
    length = encode_row(processor, QUESTION, "Yes.", [picture()]).inputs["input_ids"].shape[1]
    assert encode_row(processor, QUESTION, "Yes.", [picture()], max_length=length)
    with pytest.raises(RowError, match=f"{length} tokens, but the model takes at most {length - 1}"):
        encode_row(processor, QUESTION, "Yes.", [picture()], max_length=length - 1)


def test_texts_without_content(llava):
    _, processor = llava
    with pytest.raises(RowError, match="user message has no text"):
        encode_row(processor, [{"role": "user", "content": " "}], "Yes.", [picture()])
    with pytest.raises(RowError, match=r"^a user message has no text, only an image$"):
        encode_row(processor, [{"role": "user", "content": [{"type": "image"}]}], "Yes.", [picture()])
    turns = [*QUESTION, {"role": "assistant", "content": ""}, *QUESTION]
    with pytest.raises(RowError, match=r"^an assistant message has no text \(message 2 of 3\)$"):
        encode_row(processor, turns, "Yes.", [picture()])
    with pytest.raises(RowError, match="no place for 1 of the row's 1 images"):
        encode_row(processor, [{"role": "system", "content": "Be brief."}], "Yes.", [picture()])


def test_encode_prompt_is_the_beginning_of_the_row(family):
    _, processor = family
    row = encode_row(processor, QUESTION, "Yes.", [picture()])
    prompt = encode_prompt(processor, QUESTION, [picture()])
    assert torch.equal(prompt["input_ids"], row.inputs["input_ids"][:, : row.answer.start])
    assert torch.equal(prompt["pixel_values"], row.inputs["pixel_values"])


def test_image_cache(family, monkeypatch):
    _, processor = family
    images = [picture(1), picture(2, (20, 64)), picture(1)]
    cached = with_image_cache(processor)
    assert with_image_cache(cached) is cached and processor.image_processor is not cached.image_processor
    plain = [encode_row(processor, QUESTION, "Yes.", [image]) for image in images]
    calls, preprocess = [], type(processor.image_processor).preprocess

    def counting(*args, **kwargs):
        calls.append(1)
        return preprocess(*args, **kwargs)

    monkeypatch.setattr(type(processor.image_processor), "preprocess", counting)
    for _ in range(2):
        for expected, image in zip(plain, images):
            row = encode_row(cached, QUESTION, "Yes.", [image])
            assert row.answer == expected.answer
            for name, tensor in expected.inputs.items():
                assert torch.equal(row.inputs[name], tensor), name
    assert len(calls) == len(images)
