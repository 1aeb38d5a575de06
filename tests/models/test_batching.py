"""Batches: as the processors make them, and rows with and without pictures together, exactly, in every family."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import ALL_FAMILIES, tiny_llava_onevision
from tiny_models import tiny_llava
from torch.nn.functional import cross_entropy

from c3l_hf.models.batching import PER_TOKEN, collate, has_picture, mixed_difference, picture_row, with_picture
from c3l_hf.models.encoding import encode_prompt, encode_row

QUESTION = [{"role": "user", "content": "Is there a dog?"}]


def picture(seed=0, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module", params=ALL_FAMILIES.values(), ids=ALL_FAMILIES)
def any_family(request):
    """(model in float64, processor) of every family."""
    model, processor = request.param()
    return model.double(), processor


def mixed_rows(processor):
    """Rows of different lengths, with no, one and two pictures of different shapes."""
    rows = [
        ("How many?", "two dogs", []),
        ("Is there a dog?", "Yes, there is a d\xf6g.", [picture(0, (20, 64))]),
        ("What is it about, this long text without a picture?", "a car", []),
        ("What is in both?", "No", [picture(1), picture(2, (60, 60))]),
        ("And here?", "one\ntwo", [picture(3, (60, 60))]),
    ]
    return [encode_row(processor, user(question), answer, images) for question, answer, images in rows]


def labelled(rows, batch):
    labels = torch.full_like(batch["input_ids"], -100)
    for label, ids, row in zip(labels, batch["input_ids"], rows):
        label[row.answer] = ids[row.answer]
    return {name: t.double() if t.is_floating_point() else t for name, t in {**batch, "labels": labels}.items()}


def run(model, rows, batch):
    """Log-probabilities of the answers' tokens of each row, by a batch."""
    batch = labelled(rows, batch)
    labels = batch.pop("labels")
    lines = model(**batch).logits.log_softmax(-1)
    return [
        line[row.answer.start - 1 : row.answer.stop - 1].gather(-1, label[row.answer][:, None])[:, 0]
        for row, line, label in zip(rows, lines, labels)
    ]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 1], [1, 0, 2], [2, 0], [3, 0, 4], [0, 3], [1]], ids=str)
def test_a_mixed_batch_is_its_rows(any_family, order):
    """In float64 what a batch and its rows alone give differs by rounding only."""
    model, processor = any_family
    every = mixed_rows(processor)
    rows = [every[number] for number in order]
    batch = collate(processor, [row.inputs for row in rows])
    assert has_picture(batch) == any(row.images for row in rows)
    with torch.no_grad():
        together = run(model, rows, batch)
        for row, values in zip(rows, together):
            alone = run(model, [row], row.inputs)[0]
            torch.testing.assert_close(values, alone, rtol=0, atol=1e-10)


def gradients(model, rows, batch):
    """The mean loss of the answers' tokens, in float64 as nothing else in transformers, and what it does to weights."""
    batch = labelled(rows, batch)
    labels = batch.pop("labels")
    model.zero_grad()
    loss = cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    return loss.item(), {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


def test_the_loss_and_gradients_of_a_mixed_batch_are_those_of_its_rows(any_family):
    model, processor = any_family
    rows = mixed_rows(processor)
    loss, together = gradients(model, rows, collate(processor, [row.inputs for row in rows]))
    counts = torch.tensor([row.answer.stop - row.answer.start for row in rows], dtype=torch.float64)
    shares = counts / counts.sum()
    alone = [gradients(model, [row], row.inputs) for row in rows]
    assert loss == pytest.approx(sum(float(share) * one for share, (one, _) in zip(shares, alone)), abs=1e-10)
    for name, value in together.items():
        expected = sum(share * each[name] for share, (_, each) in zip(shares, alone) if name in each)
        # The norms of these models calculate in float32, whatever the model is in.
        bound = 1e-12 + 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(value, expected, rtol=0, atol=bound, msg=lambda text, name=name: f"{name}: {text}")
    model.zero_grad()


def test_a_further_picture_changes_no_gradient_and_leaves_none_out(any_family):
    """What keeps processes in step when one of them has no picture."""
    model, processor = any_family
    rows = [row for row in mixed_rows(processor) if not row.images]
    plain = [row.inputs for row in rows]
    safe = with_picture(processor, plain)
    assert len(safe) == 3 and has_picture(safe[-1]) and with_picture(processor, safe) == safe
    loss, expected = gradients(model, rows, collate(processor, plain))
    loss_safe, together = gradients(model, rows, collate(processor, safe))
    assert loss_safe == pytest.approx(loss, abs=1e-12)
    of_pictures = 0
    for name, value in together.items():
        if name in expected:
            torch.testing.assert_close(
                value, expected[name], rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
            )
        else:
            of_pictures += 1
            assert not value.any(), name
    with_pictures = [row for row in mixed_rows(processor) if len(row.images) == 1][:1]
    _, reached = gradients(model, with_pictures, with_pictures[0].inputs)
    assert of_pictures and set(together) >= set(reached)
    model.zero_grad()


def test_float32(any_family):
    model, processor = copy.deepcopy(any_family[0]).float(), any_family[1]
    rows = mixed_rows(processor)
    batch = collate(processor, [row.inputs for row in rows])
    with torch.no_grad():
        for side in ("right", "left"):
            batch = collate(processor, [row.inputs for row in rows], side)
            assert set(batch) == {name for row in rows for name in row.inputs}
        logits = model(**collate(processor, [row.inputs for row in rows])).logits
        for row, line in zip(rows, logits):
            alone = model(**row.inputs).logits[0]
            torch.testing.assert_close(line[: len(alone)], alone, rtol=1e-5, atol=1e-5)


def test_a_mixed_batch_can_be_tried(any_family):
    model, processor = any_family
    for dtype, most in ((torch.float64, 1e-6), (torch.float32, 2e-5), (torch.bfloat16, 0.5)):
        difference, by_rounding = mixed_difference(copy.deepcopy(model).to(dtype), processor)
        assert difference < most and by_rounding


def test_a_model_that_mixes_rows_is_found_out(llava):
    """One that takes what is not a picture for one; and one that takes no such batch."""
    model, processor = copy.deepcopy(llava[0]), llava[1]
    forward = model.forward

    def leaking(pixel_values=None, **inputs):
        output = forward(pixel_values=pixel_values, **inputs)
        if pixel_values is not None:
            output.logits = output.logits + torch.linspace(0, 1, len(output.logits))[:, None] * output.logits[:1]
        return output

    model.forward = leaking
    difference, by_rounding = mixed_difference(model, processor)
    assert difference > 0.1 and not by_rounding

    def refusing(pixel_values=None, **inputs):
        if pixel_values is not None and len(pixel_values) != len(inputs["input_ids"]):
            raise IndexError("as many pictures as rows")
        return forward(pixel_values=pixel_values, **inputs)

    model.forward = refusing
    with pytest.raises(ValueError, match="takes no batch of rows with and without pictures: IndexError: as many"):
        mixed_difference(model, processor)


@pytest.mark.parametrize("side", ["right", "left"])
def test_collate_equals_the_processor(family, side):
    _, processor = family
    images = [picture(0), picture(1, (20, 64)), picture(2, (60, 60))]
    texts = ["Is there a dog?", "What?", "How many cats are there in the picture?"]
    prompts = [[{"role": "user", "content": text}] for text in texts]
    batch = collate(processor, [encode_prompt(processor, p, [i]) for p, i in zip(prompts, images)], padding_side=side)
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
        for image, text in zip(images, texts)
    ]
    expected = processor.apply_chat_template(
        conversations,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": side},
    )
    assert set(batch) == set(expected)
    for name in expected:
        assert torch.equal(batch[name], expected[name]), name


def test_rows_that_do_not_go_together(llava):
    _, processor = llava
    row = encode_prompt(processor, QUESTION, [picture()])
    half = {**row, "image_sizes": torch.tensor([[32, 32]])}
    with pytest.raises(ValueError, match=r"row 0 of the batch has .* others have \['image_sizes'\] too"):
        collate(processor, [row, half])
    with pytest.raises(ValueError, match="row 1 of the batch"):
        collate(processor, [row, {"input_ids": row["input_ids"]}])


def test_a_processor_that_takes_one_picture_only():
    """Whether its tensors have a line for each row or for each picture cannot be told: no guess is made."""
    processor = tiny_llava_onevision()[1]
    once = "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}{{ loop.index == 2 and 1 / 0 }}"
    processor.chat_template = f"{once}{{% endfor %}}{{% endfor %}}{processor.chat_template}"
    rows = [encode_prompt(processor, QUESTION, images) for images in ([], [picture()])]
    assert collate(processor, rows[:1]) and collate(processor, rows[1:])
    with pytest.raises(ValueError, match="makes no row with 2 small picture"):
        collate(processor, rows)


def test_the_further_row_is_small_and_its_own(llava):
    row = picture_row(llava[1])
    row["input_ids"] = None
    assert picture_row(llava[1])["input_ids"] is not None
    assert set(row) - set(PER_TOKEN) == {"pixel_values"}
    processor = tiny_llava()[1]
    processor.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ValueError, match="makes no row with 1 small picture"):
        with_picture(processor, [])
