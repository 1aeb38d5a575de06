"""Texts are, seed by seed, those of each prompt alone by the model's own `generate`, whichever way they are written."""

import copy
import gc
import weakref

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import dispatch_model
from peft import LoraConfig, get_peft_model
from tiny_families import ALL_FAMILIES, tiny_idefics3
from tiny_models import tiny_gemma3, tiny_llava
from transformers import LlavaForConditionalGeneration, MistralConfig

from c3l_hf import _compat
from c3l_hf.generation import decoding, prefix_cache, sampling
from c3l_hf.generation.decoding import ColumnDecoder
from c3l_hf.generation.drawing import Draw
from c3l_hf.generation.prefix_cache import PrefixCache
from c3l_hf.generation.sampling import Text, TextSampler, end_tokens
from c3l_hf.generation.written import Prompt, kind
from c3l_hf.models.encoding import encode_prompt

QUESTIONS = ("Is there a dog?", "Describe this picture in every detail, please.", "How many cats are there? One word.")
SIZES = ((32, 32), (48, 32), (32, 64))


def picture(number: int, size: tuple[int, int]) -> PIL.Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def prompts_of(processor, count: int = 7, seed: int = 0) -> list[tuple]:
    """Of different lengths, with one, two and five texts of up to 18, 30 or 4 tokens."""
    rng = np.random.default_rng(seed)
    prompts = []
    for number in range(count):
        message = {"role": "user", "content": QUESTIONS[number % 3]}
        encoded = encode_prompt(processor, [message], [picture(number, SIZES[number % 3])])
        prompts.append((number, encoded, rng.random(((1, 2, 5)[number % 3], (18, 30, 4)[number // 3 % 3]))))
    return prompts


def alone(sampler: TextSampler, prompts: list[tuple]) -> dict[int, list[Text]]:
    """By `generate`, one prompt at a time."""
    found = {}
    for key, encoded, uniforms in prompts:
        (texts,) = sampler._rows([Prompt(key, encoded, uniforms)])
        found[key] = [Text(sampler._decode(one.ids), one.ended, one.tokens) for one in texts]
    return found


@pytest.fixture
def by_rows(monkeypatch):
    """The keys of prompts that `generate` has written."""
    keys, write_rows = [], sampling.write_rows

    def recorded(model, processor, prompts, *args):
        keys.extend(prompt.key for prompt in prompts)
        return write_rows(model, processor, prompts, *args)

    monkeypatch.setattr(sampling, "write_rows", recorded)
    return keys


def check(model, processor, prompts=None, *, temperature=1.0, top_p=1.0, batch_size=8, way="columns"):
    """What is written, having been compared with the prompts alone."""
    prompts = prompts_of(processor) if prompts is None else prompts
    with TextSampler(model, processor, temperature=temperature, top_p=top_p, batch_size=batch_size) as sampler:
        texts = dict(sampler.write(iter(prompts)))
        assert sampler.way == way
        assert texts == alone(sampler, prompts)
    return texts


@pytest.fixture(scope="module", params=ALL_FAMILIES)
def family(request):
    return ALL_FAMILIES[request.param]()


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 0.9), (0.0, 1.0)])
def test_every_family(family, temperature, top_p, caplog):
    texts = check(*family, temperature=temperature, top_p=top_p)
    assert not caplog.records, "no family here needs another way"
    assert {key: len(texts[key]) for key in texts} == {key: (1, 2, 5)[key % 3] for key in range(7)}
    assert temperature == 0 or len({text.text for of_one in texts.values() for text in of_one}) > 15
    assert all(text.tokens <= (18, 30, 4)[key // 3] for key in texts for text in texts[key])


def test_every_family_in_half_precision(family, caplog):
    """Texts may part by rounding; as little as those of one prompt beside others by `generate`, so no way is left."""
    model, processor = copy.deepcopy(family[0]).to(torch.bfloat16), family[1]
    with TextSampler(model, processor, temperature=1.0, top_p=1.0, batch_size=8) as sampler:
        texts = dict(sampler.write(prompts_of(processor)))
        same = sum(
            a == b for key, of_one in alone(sampler, prompts_of(processor)).items() for a, b in zip(of_one, texts[key])
        )
        assert sampler.way == "columns" and not caplog.records
    assert len(texts) == 7 and same >= 3


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_number_of_texts_at_once_does_not_matter(llava, batch_size):
    assert check(*llava, batch_size=batch_size) == check(*llava, batch_size=8)


@pytest.mark.parametrize("build", [tiny_llava, tiny_gemma3])
def test_buffers_that_grow_at_every_step(build, monkeypatch, fresh_checks):
    monkeypatch.setattr(prefix_cache, "_AT_ONCE", 1)
    monkeypatch.setattr(prefix_cache, "_MULTIPLE", 1)
    reserve = PrefixCache.reserve
    monkeypatch.setattr(
        PrefixCache,
        "reserve",
        lambda self, rows, prompt, columns: reserve(self, rows, prompt, min(columns, self.extent.room + 3)),
    )
    check(*build())


def test_only_prompts_of_one_kind_are_read_together(monkeypatch, fresh_checks):
    """Of tiles filled up with zeros not every model knows that there is nothing."""
    read, kinds = decoding.collate, []

    def recorded(processor, rows, **options):
        kinds.append({kind(row) for row in rows})
        return read(processor, rows, **options)

    monkeypatch.setattr(decoding, "collate", recorded)
    check(*tiny_idefics3(), batch_size=100)
    assert {len(of_batch) for of_batch in kinds} == {1} and len(set.union(*kinds)) > 1


def test_many_end_tokens(llava):
    """Rows end at once, after one token, and all at different times."""
    model, processor = llava
    model = copy.copy(model)
    model.generation_config = copy.deepcopy(model.generation_config)
    for step in (2, 9):
        model.generation_config.eos_token_id = list(range(2, 400, step))
        texts = [text for of_one in check(model, processor, prompts_of(processor, 20)).values() for text in of_one]
        assert sum(text.ended for text in texts) > len(texts) / 2
        assert {1, 2, 3} <= {text.tokens for text in texts if text.ended}


def test_a_window_in_all_layers(fresh_checks):
    """As Mistral has it, without a list of what each layer is."""
    model, processor = tiny_llava()
    config = copy.deepcopy(model.config)
    settings = {
        name: getattr(config.text_config, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "pad_token_id",
            "eos_token_id",
            "initializer_range",
        )
    }
    texts = []
    for window in (12, 4096):
        config.text_config = MistralConfig(**settings, sliding_window=window, head_dim=8)
        torch.manual_seed(0)
        texts.append(check(LlavaForConditionalGeneration(config).eval(), processor))
    assert texts[0] != texts[1]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_models_own_attention_comes_back(implementation, fresh_checks):
    model, processor = tiny_llava()
    model.set_attn_implementation(implementation)
    check(model, processor)
    parts = model.config, model.config.text_config, model.config.vision_config
    assert {_compat.attention_implementation(part) for part in parts} == {implementation}


def test_keys_and_values_go_with_their_decoder(llava):
    """At once: on a GPU there is no room for those of two, and Python may not look for circles for long."""
    decoder = ColumnDecoder(*llava, Draw(1.0, 1.0), [1], 8)
    (_, encoded, uniforms), *_ = prompts_of(llava[1], 1)
    with torch.inference_mode():
        decoder.run([Prompt(0, encoded, uniforms)])
    cache = weakref.ref(decoder.cache)
    gc.disable()
    try:
        del decoder
        assert cache() is None
    finally:
        gc.enable()


def test_a_model_on_several_devices(caplog):
    """Or with parts of it elsewhere: accelerate's hooks move what goes into each module."""
    model, processor = tiny_llava()
    expected = check(model, processor)
    dispatch_model(model, device_map={name: "cpu" for name, _ in model.named_children()}, force_hooks=True)
    caplog.clear()
    assert check(model, processor) == expected and not caplog.records


def test_adapters(fresh_checks):
    model, processor = tiny_llava()
    bare = check(model, processor)
    torch.manual_seed(0)
    adapted = get_peft_model(
        model, LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False)
    )
    assert check(adapted.eval(), processor) != bare


def test_model_and_torch_are_as_they_were(llava):
    model, processor = llava
    expected = check(model, processor)
    own = copy.deepcopy(model.generation_config)
    try:
        for name, value in (("repetition_penalty", 9.0), ("top_k", 1), ("num_beams", 3), ("min_new_tokens", 30)):
            setattr(model.generation_config, name, value)
        theirs = model.generation_config
        model.train()
        assert check(model, processor) == expected
        assert model.generation_config is theirs and model.training and not torch.is_inference_mode_enabled()
        with TextSampler(model, processor, temperature=1.0, top_p=1.0, batch_size=8) as sampler:
            texts = sampler.write(prompts_of(processor))
            next(texts)  # and left
            assert _compat.attention_implementation(model.config.text_config) == "sdpa"
        assert model.generation_config is theirs and model.training
    finally:
        model.generation_config = own
        model.eval()


def test_prompts_are_taken_as_they_are_needed(llava):
    taken = []

    def source():
        for prompt in prompts_of(llava[1], 20):
            taken.append(prompt[0])
            yield prompt

    with TextSampler(*llava, temperature=1.0, top_p=1.0, batch_size=5) as sampler:
        seen = []
        for key, _ in sampler.write(source()):
            seen.append(key)
            # Those out, at most five texts' prompts in work, what two that were tried brought, and the next one.
            assert len(taken) <= len(seen) + 5 + 2 + 1
    assert sorted(seen) == list(range(20))


def test_an_error_of_the_source_is_none_of_the_model(llava, caplog):
    def source():
        yield from prompts_of(llava[1], 3)
        raise MemoryError("full")

    with TextSampler(*llava, temperature=1.0, top_p=1.0, batch_size=4) as sampler:
        with pytest.raises(MemoryError, match="full"):
            list(sampler.write(source()))
    assert sampler.way == "columns" and not caplog.records


def test_nothing_to_write(llava):
    with TextSampler(*llava, temperature=1.0, top_p=1.0, batch_size=4) as sampler:
        assert list(sampler.write([])) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_whose_predictions_are_no_numbers_is_alone_in_that(llava, temperature, monkeypatch, by_rows):
    """Its keys and values are in the row of others, and nobody's after it has gone."""
    model, processor = llava
    prompts = prompts_of(processor, 12)
    expected = check(model, processor, prompts, temperature=temperature)
    tokenizer = processor.tokenizer
    # A token that some texts have, not as their last one: after it, everything is not a number.
    ids = {
        key: [tokenizer.encode(text.text, add_special_tokens=False) for text in of_one]
        for key, of_one in expected.items()
    }
    token = next(
        id for id in range(300, 400) if sum(id in text[:-3] for of_one in ids.values() for text in of_one) in (1, 2)
    )
    embedding = model.get_input_embeddings()
    forward = embedding.forward

    def overflowing(input_ids):
        return forward(input_ids).masked_fill((input_ids == token)[..., None], torch.nan)

    monkeypatch.setattr(embedding, "forward", overflowing)
    prompts = [prompt for prompt in prompts if token not in prompt[1]["input_ids"]]
    texts = check(model, processor, prompts, temperature=temperature)
    broken = [(key, n) for key, of_one in texts.items() for n, text in enumerate(of_one) if text.ended is None]
    assert broken and len(broken) < 12
    by_rows.clear()
    with TextSampler(model, processor, temperature=temperature, top_p=1.0, batch_size=8) as sampler:
        monkeypatch.setattr(sampler, "_untried", lambda batch: [])
        assert dict(sampler.write(prompts)) == texts
    # Written again are those that had company in their row, and nobody who came into it later.
    assert sorted(by_rows) == sorted({key for key, _ in broken if len(texts[key]) > 1}) != []
    for key, of_one in texts.items():
        for number, text in enumerate(of_one):
            assert (key, number) in broken or text == expected[key][number]


def test_a_picture_whose_predictions_are_no_numbers(llava, monkeypatch):
    model, processor = llava
    prompts = prompts_of(processor)
    expected = check(model, processor)
    bad = prompts[4][1]["pixel_values"]
    tower = type(model.model.vision_tower)
    forward = tower.forward

    def overflowing(self, pixel_values, **kwargs):
        wrong = torch.tensor([torch.equal(pixels, bad[0]) for pixels in pixel_values])
        return forward(self, pixel_values.masked_fill(wrong[:, None, None, None], torch.nan), **kwargs)

    monkeypatch.setattr(tower, "forward", overflowing)
    texts = check(model, processor)
    assert texts[4] == [Text("", None, 0)] * 2
    assert {key: texts[key] for key in texts if key != 4} == {key: expected[key] for key in texts if key != 4}


def seeing_all(monkeypatch, tokens: int | None = None) -> None:
    """A wrong mask: texts of a row see each other, or the first tokens in it."""
    begin = PrefixCache.begin

    def wrong(self, *args):
        masks = begin(self, *args)
        seen = self.owners[:, None, None, slice(*self.extent.step.window)] > 0
        if tokens is not None:
            seen &= seen.cumsum(-1) <= tokens
        return {name: mask | seen[: mask.shape[0]] for name, mask in masks.items()}

    monkeypatch.setattr(PrefixCache, "begin", wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_where_it_is_wrong_is_found_out(dtype, monkeypatch, caplog, fresh_checks):
    model, processor = tiny_llava()
    seeing_all(monkeypatch)
    prompts = prompts_of(processor, 7)[1:]
    with TextSampler(model.to(dtype), processor, temperature=1.0, top_p=1.0, batch_size=8) as sampler:
        texts = dict(sampler.write(prompts))
        assert sampler.way == "batches"
        assert dtype == torch.bfloat16 or texts == alone(sampler, prompts)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "LlavaForConditionalGeneration cannot write all texts of a prompt in one row of a batch (the tokens differ): "
        "it writes each text in a row of its own"
    )
    caplog.clear()
    TextSampler(model, processor, temperature=1.0, top_p=1.0, batch_size=8)  # is known now, and said again
    assert len(caplog.records) == 1


@pytest.mark.parametrize("tokens,way", [(0, "columns"), (1, "batches")])
def test_in_half_precision_rounding_and_a_mistake_are_told_apart(tokens, way, monkeypatch, fresh_checks):
    """With as many tokens as a real language model has."""
    model, processor = tiny_llava(vocabulary=49_152, layers=6)
    seeing_all(monkeypatch, tokens)
    prompts = prompts_of(processor, 4)[1:]
    with TextSampler(model.to(torch.bfloat16), processor, temperature=1.0, top_p=1.0, batch_size=8) as sampler:
        list(sampler.write(prompts))
        assert sampler.way == way


def test_what_fails_after_it_was_tried(llava, caplog, monkeypatch, fresh_checks):
    """Nothing is lost, and nothing is there twice."""
    step, left = ColumnDecoder._step, [60]

    def failing(self):
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("sizes differ")
        step(self)

    monkeypatch.setattr(ColumnDecoder, "_step", failing)
    prompts = prompts_of(llava[1], 12)
    with TextSampler(*llava, temperature=1.0, top_p=1.0, batch_size=8) as sampler:
        texts = list(sampler.write(prompts))
        assert sampler.way == "batches" and left[0] == 0
        assert len(texts) == 12 and dict(texts) == alone(sampler, prompts)
    assert "RuntimeError: sizes differ" in caplog.text


@pytest.mark.parametrize("first", ["one text", "texts that end at once"])
def test_what_a_trial_did_not_show_is_tried_again(llava, first, monkeypatch, fresh_checks):
    """A prompt with one text tells nothing of several; texts without a second token nothing of any."""
    seeing_all(monkeypatch)
    message, rng = [{"role": "user", "content": "Is there a dog?"}], np.random.default_rng(0)
    one, other = (encode_prompt(llava[1], message, [picture(n, (32, 32))]) for n in range(2))
    model = copy.copy(llava[0])
    if first != "one text":
        model.generation_config = copy.deepcopy(model.generation_config)
        model.generation_config.eos_token_id = [0]  # what the random number 0 draws
    begin = (0, one, rng.random((1, 12)) if first == "one text" else np.zeros((3, 12)))
    with TextSampler(model, llava[1], temperature=1.0, top_p=1.0, batch_size=3) as sampler:
        list(sampler.write([begin]))
        assert sampler.way == "columns"
        prompt = (1, other, rng.random((3, 12)))
        assert dict(sampler.write([prompt])) == alone(sampler, [prompt])
        assert sampler.way != "columns"


def test_one_prompt_at_a_time_is_the_last_way(llava, caplog, monkeypatch, fresh_checks):
    seeing_all(monkeypatch)
    write_rows = sampling.write_rows

    def mixing(model, processor, prompts, *args):
        if len(prompts) > 1:
            raise ValueError("rows of different prompts")
        return write_rows(model, processor, prompts, *args)

    monkeypatch.setattr(sampling, "write_rows", mixing)
    message = [{"role": "user", "content": "Is there a dog?"}]
    rng = np.random.default_rng(0)
    prompts = [(n, encode_prompt(llava[1], message, [picture(n, (32, 32))]), rng.random((2, 12))) for n in range(4)]
    check(*llava, prompts, way="alone")
    assert "it writes each text in a row of its own, one prompt at a time" in caplog.text


def test_layers_that_see_the_past_in_another_way():
    model, processor = tiny_gemma3()
    kinds = model.config.text_config.layer_types
    (_, encoded, uniforms), *_ = prompts_of(processor, 1)
    model.config.text_config.layer_types = ["chunked_attention", *kinds[1:]]
    decoder = ColumnDecoder(model, processor, Draw(1.0, 1.0), [1], 8)
    with torch.inference_mode(), pytest.raises(NotImplementedError, match="it has layers of type chunked_attention"):
        decoder.run([Prompt(0, encoded, uniforms)])


def test_longer_prompts_and_more_at_once_are_tried(llava, monkeypatch, fresh_checks):
    tried = []
    trial = TextSampler._try

    def counted(self, prompts):
        tried.append([prompt.key for prompt in prompts])
        return trial(self, prompts)

    monkeypatch.setattr(TextSampler, "_try", counted)
    prompts = prompts_of(llava[1], 3)
    rng = np.random.default_rng(0)
    prompts = [(key, encoded, rng.random((2, 12))) for key, encoded, _ in prompts]  # 1 is the longest, 0 the shortest
    with TextSampler(*llava, temperature=1.0, top_p=1.0, batch_size=8) as sampler:
        for asked, expected in (([0], [[0]]), ([0, 2], [[2, 0]]), ([0, 2, 0], []), ([1], [[1]])):
            tried.clear()
            assert len(list(sampler.write(prompts[key] for key in asked))) == len(asked)
            assert tried == expected
    with TextSampler(*llava, temperature=0.5, top_p=1.0, batch_size=8) as sampler:
        list(sampler.write(prompts))
    assert tried == [[1]]


def test_image_tokens_in_the_text_stay_visible(llava):
    model, processor = llava
    sampler = TextSampler(model, processor, temperature=1.0, top_p=1.0, batch_size=1)
    ids = processor.tokenizer("Question: a? Answer: <image> b</s>", add_special_tokens=False)["input_ids"]
    assert "<image>" in sampler._decode(ids)
    clean = [id for id in ids if id != processor.tokenizer.convert_tokens_to_ids("<image>")]
    assert sampler._decode(clean) == "Question: a? Answer:  b"


def test_a_model_that_knows_no_end(llava):
    model, tokenizer = copy.copy(llava[0]), copy.deepcopy(llava[1].tokenizer)
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no text would end"):
        end_tokens(model, tokenizer)
