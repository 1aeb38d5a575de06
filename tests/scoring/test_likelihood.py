"""Log-probabilities of answers against an independent reference: row by row, float64, full logits, explicit loops.

The reference shares nothing with the package: prompts are written out by hand, and token counts place the answer.
"""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax, rel_entr
from tiny_models import tiny_llava, tiny_llava_next

from c3l_hf.models.encoding import encode_row
from c3l_hf.scoring import likelihood
from c3l_hf.scoring.likelihood import answer_logprobs

# What the templates of tests/tiny_models.py must render to, by processor class: (with image, blind).
PROMPTS = {
    "LlavaProcessor": ("<s>USER: <image>\n {}\nASSISTANT:", "<s>USER: {}\nASSISTANT:", " {}"),
    "LlavaNextProcessor": ("<s>USER: <image>\n {}\nASSISTANT:", "<s>USER: {}\nASSISTANT:", " {}"),
    "Gemma3Processor": (
        "<bos><start_of_turn>user\n<start_of_image>{}<end_of_turn>\n<start_of_turn>model\n",
        "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
        "{}",
    ),
}
QUESTIONS = [
    ("Is there a dog?", "Yes, there is a dög 日."),
    ("What colour is the background in this picture?", "red"),
    ("How many?", "Two horses and a cat, next to an apple."),
    ("Is there a dog?", "No"),
    ("Where is the car?", "It is at the top left, and there is one more at the bottom right."),
]


def picture(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


ROWS = [(*pair, picture(i, size)) for i, (pair, size) in enumerate(zip(QUESTIONS, [(32, 32), (20, 64), (60, 60)] * 2))]
ROWS += [(*QUESTIONS[1], picture(9, (32, 32)))]  # another image, the same text: one blind row for two


def reference(model, processor, question, answer, image):
    """[(ln p(a), ln q(a), KL)] per token of one row."""
    with_image, blind, form = PROMPTS[type(processor).__name__]
    predictions, ids = [], []
    for prompt, images in ((with_image, [image]), (blind, None)):
        start = processor(text=prompt.format(question), images=images, add_special_tokens=False)["input_ids"][0]
        text = prompt.format(question) + form.format(answer)
        inputs = processor(text=text, images=images, add_special_tokens=False, return_tensors="pt")
        inputs = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
        with torch.no_grad():
            logits = model(**inputs).logits[0].numpy()
        assert logits.dtype == np.float64
        predictions.append([log_softmax(row) for row in logits[len(start) - 1 : -1]])
        ids.append(inputs["input_ids"][0, len(start) :].tolist())
    assert ids[0] == ids[1]
    result = []
    for token, p, q in zip(ids[0], *predictions):
        result.append((p[token], q[token], rel_entr(np.exp(p), np.exp(q)).sum()))
    return result


def score(model, processor, rows, **options):
    encoded = [
        [
            encode_row(
                processor,
                [{"role": "user", "content": question}],
                answer,
                images,
                end_of_turn=False,
                image_keys=[id(image) for image in images],
            )
            for images in ([image], [])
        ]
        for question, answer, image in rows
    ]
    results = answer_logprobs(model, processor, [row for row, _ in encoded], [blind for _, blind in encoded], **options)
    return [list(zip(r.with_image.tolist(), r.blind.tolist(), r.kl.tolist())) for r in results]


@pytest.fixture(scope="module")
def expected(family):
    model, processor = family
    double = copy.deepcopy(model).double()
    return [reference(double, processor, *row) for row in ROWS]


def test_equals_the_float64_reference(family, expected):
    for found, wanted in zip(score(*family, ROWS), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    # the images matter, or the test could not tell a blind pass from another
    assert all(abs(p - q) > 1e-3 and kl > 1e-3 for row in expected for p, q, kl in row[:1])


def test_a_double_model_equals_the_reference_closely(family, expected):
    model, processor = family
    for found, wanted in zip(score(copy.deepcopy(model).double(), processor, ROWS), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_does_not_depend_on_the_batch(family):
    together = score(*family, ROWS)
    alone = [score(*family, [row])[0] for row in ROWS]
    backwards = score(*family, ROWS[::-1])[::-1]
    for a, b, c in zip(together, alone, backwards):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(a, c, rtol=2e-6, atol=1e-6)


def test_does_not_depend_on_the_tokenizers_padding_side(llava):
    model, processor = llava
    right = score(model, processor, ROWS)
    side = processor.tokenizer.padding_side
    try:
        for processor.tokenizer.padding_side in ("left", "right"):
            assert score(model, processor, ROWS) == right
    finally:
        processor.tokenizer.padding_side = side


@pytest.mark.parametrize("tokens", [3, 8, 20])
def test_logits_are_bounded(family, monkeypatch, tokens):
    model, processor = family
    plain = score(model, processor, ROWS)
    vocabulary = model.config.get_text_config().vocab_size
    monkeypatch.setattr(likelihood, "_MAX_LOGITS_CPU", tokens * vocabulary)
    monkeypatch.setattr(likelihood, "_CHUNK_CPU", 2 * vocabulary)
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
    try:
        bounded = score(model, processor, ROWS)
    finally:
        hook.remove()
    assert max(seen) <= tokens * vocabulary
    for a, b in zip(bounded, plain):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


def test_one_pair_of_passes_and_equal_blind_rows_once(llava):
    model, processor = llava
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        score(model, processor, ROWS)
    finally:
        hook.remove()
    assert sizes == [len(ROWS), len(ROWS) - 1]


def test_head_only_at_answer_positions(llava):
    model, processor = llava
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    try:
        result = score(model, processor, ROWS)
    finally:
        hook.remove()
    assert seen[0][:-1].numel() == sum(len(row) for row in result)


def test_softmax_in_double_whatever_the_models_dtype(llava):
    model, processor = llava
    half = copy.deepcopy(model).to(torch.bfloat16)
    for found, wanted in zip(score(half, processor, ROWS), score(model, processor, ROWS)):
        found, wanted = np.array(found), np.array(wanted)
        assert np.abs(found - wanted).mean() < 0.1
    logits, blind = torch.randn(2, 5, 400, generator=torch.Generator().manual_seed(0)).bfloat16()
    places = torch.arange(5)
    with_image, _, kl = likelihood._compare(logits, places, blind, places, [1, 2, 3, 4, 5])
    p, q = log_softmax(logits.double().numpy(), axis=-1), log_softmax(blind.double().numpy(), axis=-1)
    np.testing.assert_allclose(with_image, p[range(5), [1, 2, 3, 4, 5]], rtol=1e-12)
    np.testing.assert_allclose(kl, rel_entr(np.exp(p), np.exp(q)).sum(-1), rtol=1e-12)


def test_tokens_that_are_ruled_out_add_nothing():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    place = torch.tensor([0])
    _, _, kl = likelihood._compare(logits, place, torch.tensor([[1.0, 0.0, -torch.inf]]), place, [0])
    assert np.isclose(kl.item(), (np.e - 1) / (np.e + 1))
    _, _, kl = likelihood._compare(logits, place, torch.tensor([[1.0, -torch.inf, 0.0]]), place, [0])
    assert kl.item() == np.inf


def test_different_answers_are_refused(llava):
    model, processor = llava
    prompt = [{"role": "user", "content": "What?"}]
    row, other = (encode_row(processor, prompt, answer, []) for answer in ("a dog", "a cat"))
    with pytest.raises(ValueError, match="row 0 has other answer tokens"):
        answer_logprobs(model, processor, [row], [other])


# --- the packed path

MANY = [(*pair, image) for image in (picture(0, (32, 32)), picture(1, (32, 32))) for pair in QUESTIONS]


def passes(model, run):
    """The inputs of every forward pass that `run` makes, and how many images the vision tower saw."""
    seen, images = [], []
    hooks = [
        model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True),
        model.model.vision_tower.register_forward_pre_hook(
            lambda _, args, kwargs: images.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
        ),
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen, sum(images)


@pytest.mark.parametrize("max_tokens", [1, 150, 4096])
@pytest.mark.parametrize("build", [tiny_llava, tiny_llava_next], ids=["llava", "llava_next"])
def test_packed_equals_the_reference(build, max_tokens):
    model, processor = build()
    double = copy.deepcopy(model).double()
    rows = [*MANY, *ROWS]
    expected = [reference(double, processor, *row) for row in rows]
    for found, wanted in zip(score(model, processor, rows, packed=True, max_tokens=max_tokens), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("tokens", [3, 8, 20])
def test_packed_logits_are_bounded(llava, monkeypatch, tokens):
    model, processor = llava
    plain = score(model, processor, MANY)
    vocabulary = model.config.get_text_config().vocab_size
    monkeypatch.setattr(likelihood, "_MAX_LOGITS_CPU", tokens * vocabulary)
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
    try:
        bounded = score(model, processor, MANY, packed=True)
    finally:
        hook.remove()
    assert max(seen) <= tokens * vocabulary
    for a, b in zip(bounded, plain):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


def test_packed_has_each_image_and_each_beginning_once(llava):
    model, processor = llava
    plain, plain_images = passes(model, lambda: score(model, processor, MANY))
    packed, packed_images = passes(model, lambda: score(model, processor, MANY, packed=True))
    assert (plain_images, packed_images) == (10, 2)
    assert [len(inputs["input_ids"]) for inputs in packed] == [2, 1]  # two images; the blind rows in one sequence
    image_token = model.config.image_token_id
    assert (packed[0]["input_ids"] == image_token).sum() == 2 * 16
    assert all((inputs["input_ids"] == 1).sum() == len(inputs["input_ids"]) for inputs in packed)  # one <s> each
    assert sum(inputs["input_ids"].numel() for inputs in packed) < sum(i["input_ids"].numel() for i in plain) / 2


# Unlike LLaVA's, a template that leaves an image where the message has it.
IN_ORDER = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}:{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %} <image>{% else %} {{ c['text'] }}{% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_an_image_after_the_question_is_not_shared(llava):
    # `[question 1 | image]` and `[question 2 | image]` have no image in common at their beginning
    model, _ = llava
    _, processor = tiny_llava()
    processor.chat_template = IN_ORDER
    rows, blind_rows = [], []
    for question, answer, image in [(*QUESTIONS[i], MANY[0][2]) for i in (0, 1, 3)]:
        prompt = [{"role": "user", "content": [{"type": "text", "text": question}, {"type": "image"}]}]
        rows.append(encode_row(processor, prompt, answer, [image], end_of_turn=False, image_keys=["x"]))
        blind_rows.append(encode_row(processor, prompt, answer, [], end_of_turn=False))
    ids = rows[0].inputs["input_ids"][0].tolist()
    assert ids.index(model.config.image_token_id) > 5  # the image does come after the question
    plain = answer_logprobs(model, processor, rows, blind_rows)
    packed = answer_logprobs(model, processor, rows, blind_rows, packed=True)
    for a, b in zip(plain, packed):
        np.testing.assert_allclose(a.with_image, b.with_image, rtol=1e-5)
        np.testing.assert_allclose(a.blind, b.blind, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_rows_with_different_numbers_of_images_are_not_mixed(llava, packed):
    # in some models the images that fill up a batch change other rows
    model, processor = llava
    rows, blind_rows = [], []
    for question, answer, image in MANY[:4]:
        images = [image] * (1 + len(rows) % 2)
        prompt = [{"role": "user", "content": question}]
        keys = [(len(images), n) for n in range(len(images))]
        rows.append(encode_row(processor, prompt, answer, images, end_of_turn=False, image_keys=keys))
        blind_rows.append(encode_row(processor, prompt, answer, [], end_of_turn=False))
    seen, _ = passes(model, lambda: answer_logprobs(model, processor, rows, blind_rows, packed=packed))
    counts = [(inputs["input_ids"] == model.config.image_token_id).sum(1).unique().tolist() for inputs in seen]
    assert sorted(counts) == [[0], [0], [16], [32]]


@pytest.mark.parametrize("packed", [False, True])
def test_token_budget(llava, packed):
    model, processor = llava
    for budget in (80, 200):
        seen, _ = passes(model, partial(score, model, processor, MANY, packed=packed, max_tokens=budget))
        assert all(len(i["input_ids"]) == 1 or i["input_ids"].numel() <= budget for i in seen)
        lengths = [i["input_ids"].shape[1] for i in seen if "pixel_values" in i]
        assert lengths == sorted(lengths, reverse=True)


def test_bf16_bound(llava):
    # what docs/method.md states: in bfloat16 the logits, of the order of ten, are rounded to 8 bits
    model, processor = llava
    half = copy.deepcopy(model).to(torch.bfloat16)
    for packed in (False, True):
        for found, wanted in zip(score(half, processor, MANY, packed=packed), score(model, processor, MANY)):
            found, wanted = np.array(found), np.array(wanted)
            assert np.abs(found - wanted)[:, :2].max() < 0.25
            assert np.abs((found - wanted)[:, :2].mean(0)).max() < 0.05  # the mean over an answer's tokens
