"""Vectors of pairs: every family against plain passes of one row, bad rows, layouts, and whole datasets."""

import functools

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from scored_rows import png
from tiny_families import ALL_FAMILIES
from tiny_models import tiny_llava

from c3l_hf.data.schema import EMBEDDING, EMBEDDING_STATUS
from c3l_hf.models.control_tokens import control_of
from c3l_hf.scoring.embeddings import PairEmbedder, embed_dataset


def picture(seed, size=(32, 32)):
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def row(question, answer, images):
    prompt = [{"role": "user", "content": question}]
    return {"images": images, "prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


ROWS = [
    row("Is there a dog?", "Yes, there is a dög 日.", [picture(0)]),
    row("What colour is the background in this picture?", "red", [picture(1, (20, 64))]),
    row("Is there a dog?", "No", [picture(0)]),
    row("What is in both?", "a car", [picture(3), picture(4, (20, 64))]),
]


@pytest.fixture(scope="module", params=ALL_FAMILIES.values(), ids=ALL_FAMILIES)
def family(request):
    model, processor = request.param()
    return model.eval(), processor


def inputs_of(processor, values, **options):
    items = [{"type": "image", "image": image} for image in values["images"]]
    items.append({"type": "text", "text": values["prompt"][0]["content"]})
    answer = [{"type": "text", "text": values["completion"][0]["content"]}]
    messages = [{"role": "user", "content": items}, {"role": "assistant", "content": answer}]
    options |= {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(messages, **options)


@torch.inference_mode()
def plain_hidden(model, processor, values):
    """One row, all layers, a loop over its tokens."""
    inputs = inputs_of(processor, values, continue_final_message=True)
    states = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
    control = {*control_of(processor).ids, model.config.image_token_id}
    kept = [state for number, state in zip(inputs["input_ids"][0].tolist(), states) if number not in control]
    return torch.stack(kept).mean(0).numpy()


def test_hidden_states_of_every_family(family):
    model, processor = family
    embedder = PairEmbedder(model, processor)
    found = embedder.embed(ROWS)
    assert [one[EMBEDDING_STATUS] for one in found] == ["ok"] * 4
    for values, one in zip(ROWS, found):
        assert one[EMBEDDING].shape == (embedder.size,) and one[EMBEDDING].dtype == np.float32
        np.testing.assert_allclose(one[EMBEDDING], plain_hidden(model, processor, values), rtol=1e-4, atol=1e-5)
    # Question, answer and image each matter.
    other = embedder.embed([row("Is there a dog?", "No", [picture(9)])])[0]
    assert np.abs(found[0][EMBEDDING] - found[2][EMBEDDING]).max() > 1e-2
    assert np.abs(other[EMBEDDING] - found[2][EMBEDDING]).max() > 1e-3


def test_image_features_of_every_family(family, monkeypatch):
    model, processor = family
    embedder = PairEmbedder(model, processor, kind="image")
    seen, original = [], model.get_image_features

    @functools.wraps(original)
    def counted(**given):
        seen.append(given)
        return original(**given)

    monkeypatch.setattr(model, "get_image_features", counted)
    found = [one[EMBEDDING] for one in embedder.embed(ROWS)]
    assert len(seen) == 3  # two rows have the same image
    assert all(vector.shape == (embedder.size,) for vector in found)
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-3
    # What the projector of the model reads: hooked on its input, in a whole pass.
    projector = next(
        module
        for name, module in model.named_modules()
        if name.split(".")[-1] in ("multi_modal_projector", "connector", "merger")
    )
    read = []
    hook = projector.register_forward_pre_hook(lambda _, given: read.append(given[0].detach()))
    with torch.inference_mode():
        model(**inputs_of(processor, ROWS[1]))
    hook.remove()
    np.testing.assert_allclose(found[1], read[0].reshape(-1, embedder.size).mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_rows_that_cannot_be_used_keep_their_place(llava):
    rows = [
        ROWS[0],
        {**ROWS[0], "completion": None, "prompt": None},
        {**ROWS[0], "images": []},
        {**ROWS[0], "images": [{"bytes": png(0)[:60], "path": None}]},
        row("What is </s> in HTML?", "A tag.", [picture(0)]),
        ROWS[1],
    ]
    embedder = PairEmbedder(*llava)
    found = embedder.embed(rows)
    assert [one[EMBEDDING] is None for one in found] == [False, True, True, True, True, False]
    says = ("ok", "prompt is null", "no image", "cannot be read", "control token", "ok")
    assert all(words in one[EMBEDDING_STATUS] for words, one in zip(says, found))
    for one, expected in zip((found[0], found[5]), embedder.embed(ROWS[:2])):
        np.testing.assert_allclose(one[EMBEDDING], expected[EMBEDDING], rtol=1e-4, atol=1e-5)


def test_a_vector_that_is_not_finite_is_none():
    model, processor = tiny_llava()
    embedder = PairEmbedder(model, processor)
    with torch.no_grad():
        model.model.language_model.norm.weight.fill_(torch.nan)
    assert embedder.embed(ROWS[:1]) == [{EMBEDDING: None, EMBEDDING_STATUS: "the vector is not finite"}]


def test_a_conversation_counts_to_its_last_usable_answer(llava):
    said = [
        {"role": "user", "content": "Is there a dog?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "What colour?"},
    ]
    embedder = PairEmbedder(*llava)
    whole, first, broken = embedder.embed(
        [
            {"images": [picture(0)], "messages": messages}
            for messages in (
                [*said, {"role": "assistant", "content": "Red."}],
                said[:2],
                [*said, {"role": "assistant", "content": " "}],
            )
        ]
    )
    assert np.abs(whole[EMBEDDING] - first[EMBEDDING]).max() > 1e-3
    np.testing.assert_allclose(broken[EMBEDDING], first[EMBEDDING], rtol=1e-4, atol=1e-5)


@pytest.fixture
def dataset():
    rows = [
        {"image": {"bytes": png(n // 2), "path": None}, "question": f"How many {n}?", "answer": "two" if n else " "}
        for n in range(5)
    ]
    return Dataset.from_list(
        rows, features=Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    )


def test_datasets_by_map_and_in_parts(llava, dataset, tmp_path, caplog, monkeypatch):
    embedder = PairEmbedder(*llava)
    types = Features({**dataset.features, **embedder.features})
    mapped = dataset.map(embedder, batched=True, batch_size=2, features=types)
    found = embed_dataset(dataset, embedder, part_size=3, batch_size=2, cache_dir=tmp_path)
    assert found.features == mapped.features == types
    assert "1 of 5 rows have no vector" in caplog.text
    assert found[0][EMBEDDING] is None and "answer" in found[0][EMBEDDING_STATUS]
    assert mapped[0][EMBEDDING] is None
    for number in range(1, 5):
        np.testing.assert_allclose(found[number][EMBEDDING], mapped[number][EMBEDDING], rtol=1e-4, atol=1e-5)
    single = embedder(dataset[2])
    np.testing.assert_allclose(single[EMBEDDING], found[2][EMBEDDING], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(PairEmbedder, "_embedded", lambda *_: pytest.fail("embedded again"))
    again = embed_dataset(dataset, PairEmbedder(*llava), part_size=3, batch_size=2, cache_dir=tmp_path)
    assert again[4][EMBEDDING] == found[4][EMBEDDING]
    with pytest.raises(ValueError, match="embedding, embedding_status already"):
        embed_dataset(found, embedder)


def test_wrong_arguments(llava):
    model, processor = llava
    with pytest.raises(ValueError, match="kind is 'text'; it must be one of hidden, image"):
        PairEmbedder(model, processor, kind="text")
    with pytest.raises(ValueError, match="max_tokens is 0"):
        PairEmbedder(model, processor, max_tokens=0)
    with pytest.raises(ValueError, match="no accepted layout|cannot find"):
        PairEmbedder(model, processor)({"beauty": [1]})
