"""Blind baselines: what stands in the image's place, from the row's content alone."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import ALL_FAMILIES, as_letters

from c3l_hf.common.errors import RowError
from c3l_hf.data.turns import Pair
from c3l_hf.models.encoding import encode_row
from c3l_hf.scoring.blind import BASELINES, PairEncoder
from c3l_hf.scoring.likelihood import answer_logprobs
from c3l_hf.scoring.scorer import I2CScorer


def picture(seed, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def pair(image, question="What?"):
    return Pair([{"role": "user", "content": question}], "A dog.", image if isinstance(image, list) else [image])


def pixels(processor, image):
    return processor.image_processor(image, return_tensors="pt")["pixel_values"]


def test_drop(llava):
    _, processor = llava
    with_image, blind = PairEncoder(processor, None).encode(pair(picture(0)))
    assert "pixel_values" in with_image.inputs and "pixel_values" not in blind.inputs and blind.images == ()


def test_blank_is_the_mean_colour(llava):
    _, processor = llava
    image = Image.new("RGB", (40, 20), (10, 20, 30))
    image.paste((110, 120, 130), (0, 0, 20, 20))
    _, blind = PairEncoder(processor, None, "blank").encode(pair(image))
    assert torch.equal(blind.inputs["pixel_values"], pixels(processor, Image.new("RGB", (40, 20), (60, 70, 80))))


def test_noise_comes_from_the_image(llava):
    _, processor = llava
    rows = [PairEncoder(processor, None, "noise").encode(pair(picture(seed)))[1] for seed in (0, 0, 1)]
    values = [row.inputs["pixel_values"] for row in rows]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert not torch.equal(values[0], pixels(processor, picture(0)))


def test_shuffle_takes_another_image(llava):
    _, processor = llava
    pool = [picture(seed) for seed in range(4)]
    encoder = PairEncoder(processor, None, "shuffle", pool)
    known = [pixels(processor, image) for image in pool]
    for number, image in enumerate(pool):
        taken = encoder.encode(pair(image.copy()))[1].inputs["pixel_values"]
        index = [torch.equal(taken, other) for other in known].index(True)
        assert index != number
        again = PairEncoder(processor, None, "shuffle", pool).encode(pair(image))[1].inputs["pixel_values"]
        assert torch.equal(again, taken)
    with pytest.raises(RowError, match="no image other than"):
        PairEncoder(processor, None, "shuffle", [picture(7)]).encode(pair(picture(7)))


@pytest.mark.parametrize("blind", BASELINES)
def test_every_baseline_scores_the_same_with_image(llava, blind):
    options = {"blind_images": [picture(8), picture(9)]} if blind == "shuffle" else {}
    rows = [{"image": picture(i // 2), "question": f"What is {i}?", "answer": "A dog."} for i in range(4)]
    drop, scored = I2CScorer(*llava).score(rows), I2CScorer(*llava, blind=blind, **options).score(rows)
    alone = [I2CScorer(*llava, blind=blind, **options, path="plain")(row) for row in rows]
    for a, b, c in zip(drop, scored, alone):
        assert b["i2c_status"] == "ok"
        assert a["logprob"] == pytest.approx(b["logprob"], rel=1e-5)
        assert (a["logprob_blind"] == pytest.approx(b["logprob_blind"], rel=1e-4)) == (blind == "drop")
        assert c["pmi"] == pytest.approx(b["pmi"], rel=1e-4, abs=1e-5)


def test_several_images_each_have_their_substitute(llava):
    _, processor = llava
    images = [picture(0), picture(1)]
    _, blind = PairEncoder(processor, None, "noise").encode(pair(images))
    assert blind.inputs["pixel_values"].shape[0] == 2
    assert not torch.equal(*blind.inputs["pixel_values"])


def test_relative_paths(llava, tmp_path):
    _, processor = llava
    (tmp_path / "pictures").mkdir()
    picture(0).save(tmp_path / "pictures" / "a.png")
    encoder = PairEncoder(processor, None, image_folder=tmp_path / "pictures")
    row, _ = encoder.encode(pair("a.png"))
    assert torch.equal(row.inputs["pixel_values"], pixels(processor, picture(0)))
    picture(1).save(tmp_path / "b.png")
    row, _ = encoder.encode(pair({"bytes": None, "path": "a.png"}))
    assert torch.equal(row.inputs["pixel_values"], pixels(processor, picture(0)))
    for path in ("../b.png", str(tmp_path / "b.png"), {"bytes": None, "path": str(tmp_path / "b.png")}):
        with pytest.raises(RowError, match="is not in the folder"):
            encoder.encode(pair(path))
    with pytest.raises(RowError, match="none.png cannot be read: there is no such file"):
        encoder.encode(pair("none.png"))
    # A link in the folder may lead to another disk.
    (tmp_path / "disk").mkdir()
    picture(2).save(tmp_path / "disk" / "c.png")
    (tmp_path / "pictures" / "linked").symlink_to(tmp_path / "disk")
    row, _ = encoder.encode(pair("linked/c.png"))
    assert torch.equal(row.inputs["pixel_values"], pixels(processor, picture(2)))
    with pytest.raises(RowError, match="cannot be read: it"):
        encoder.encode(pair("a\0.png"))


# --- control tokens in a text


ESCAPED = "In HTML </s> ends nothing, <image> shows <|image_pad|>, <|im_end|> and <end_of_turn> are\nletters </s>"


@pytest.fixture(scope="module", params=ALL_FAMILIES.values(), ids=ALL_FAMILIES)
def any_family(request):
    return request.param()


def by_hand(model, processor, question, images):
    """ln p of an answer's letters in float64, from ids put together by hand, without our escape."""
    row = encode_row(processor, [{"role": "user", "content": question}], "x", images, end_of_turn=False)
    ids, begin = row.inputs["input_ids"][0].tolist(), row.answer.start
    lead = processor.tokenizer.decode(row.answer_ids).removesuffix("x")
    answer = as_letters(processor, lead + ESCAPED)
    inputs = {name: t.double() if t.is_floating_point() else t for name, t in row.inputs.items()}
    inputs["input_ids"] = torch.tensor([ids[:begin] + answer])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in {"token_type_ids", "mm_token_type_ids"} & set(inputs):
        zeros = torch.zeros_like(inputs["input_ids"])
        zeros[:, :begin] = inputs[name][:, :begin]
        inputs[name] = zeros
    with torch.no_grad():
        logits = copy.deepcopy(model).double()(**inputs).logits[0]
    assert logits.dtype == torch.float64
    predictions = logits[begin - 1 : -1].log_softmax(-1)
    return predictions.gather(-1, torch.tensor(answer)[:, None])[:, 0].numpy()


def test_an_escaped_answer_is_scored_as_its_letters(any_family):
    model, processor = any_family
    pictures = [picture(0, (20, 64))]
    row = Pair([{"role": "user", "content": "What?"}], ESCAPED, pictures)
    with pytest.raises(RowError, match="control token"):
        PairEncoder(processor, None).encode(row)
    seen, blind = PairEncoder(processor, None, control_tokens="escape").encode(row)
    score = answer_logprobs(model, processor, [seen], [blind])[0]
    for values, images in ((score.with_image, pictures), (score.blind, [])):
        np.testing.assert_allclose(values, by_hand(model, processor, "What?", images), rtol=1e-5, atol=2e-6)


def test_tokens_that_are_content_are_scored_as_these_tokens():
    """Qwen-VL's boxes: one token each, as the model writes them; the reference has the ids by hand."""
    model, processor = ALL_FAMILIES["qwen2_5_vl"]()
    tokens = ["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"]
    processor.tokenizer.add_special_tokens({"extra_special_tokens": tokens}, replace_extra_special_tokens=False)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    text = "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    asked = "Where is <|object_ref_start|>a dog<|object_ref_end|>?"
    row = {"image": picture(0), "question": asked, "answer": text}
    result = I2CScorer(model, processor).score([row])[0]
    start, end, box, box_end = processor.tokenizer.convert_tokens_to_ids(tokens)
    answer = [start, *as_letters(processor, "a dog"), end, box, *as_letters(processor, "(1,2),(3,4)"), box_end]
    assert len(result["answer_tokens"]) == len(answer) and result["answer_tokens"][0] == tokens[0]
    items = [{"type": "image", "image": picture(0)}, {"type": "text", "text": asked}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template([{"role": "user", "content": items}], **options)
    begin = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    zeros = torch.zeros(1, len(answer), dtype=torch.long)
    inputs["mm_token_type_ids"] = torch.cat([torch.as_tensor(inputs["mm_token_type_ids"]), zeros], dim=1)
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        inputs = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
        logits = double(**inputs).logits[0, begin - 1 : -1].log_softmax(-1)
    expected = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(result["logprob_per_token"], expected, rtol=1e-5, atol=2e-6)


def test_how_control_tokens_are_read_is_a_setting(llava):
    encoders = [PairEncoder(llava[1], None, control_tokens=how) for how in ("refuse", "escape")]
    assert encoders[0].settings != encoders[1].settings
    with pytest.raises(ValueError, match="control_tokens is 'yes'"):
        PairEncoder(llava[1], None, control_tokens="yes")
