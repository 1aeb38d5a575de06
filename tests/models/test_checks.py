"""What is remembered of checks: for models that differ in nothing but their weights."""

import copy
import functools

import numpy as np
import pytest
import torch
from scored_rows import picture
from tiny_models import tiny_gemma3, tiny_llava

from c3l_hf.generation import sampling
from c3l_hf.generation.sampling import TextSampler
from c3l_hf.models.checks import check_key, recall, remember, tokenizer_state
from c3l_hf.models.encoding import encode_prompt
from c3l_hf.models.loading import Source, load
from c3l_hf.scoring import self_check
from c3l_hf.scoring.blind import PairEncoder
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.self_check import check_paths, check_prompts


@pytest.fixture
def passes(monkeypatch):
    """A list that grows by one at each forward pass of a tiny LLaVA; not a hook, with which nothing is remembered."""
    seen = []
    model_class = type(tiny_llava()[0])
    forward = model_class.forward

    @functools.wraps(forward)
    def counted(*args, **inputs):
        seen.append(1)
        return forward(*args, **inputs)

    monkeypatch.setattr(model_class, "forward", counted)
    return seen


def sampled(model, processor):
    prompt = encode_prompt(processor, [{"role": "user", "content": "Is there a dog?"}], [picture(0)])
    uniforms = np.random.default_rng(0).random((3, 8))
    with TextSampler(model, processor, temperature=1.0, top_p=1.0, batch_size=8) as sampler:
        ((_, texts),) = sampler.write([(0, prompt, uniforms)])
    return [text.text for text in texts]


CHECKS = {
    "paths": lambda model, processor: I2CScorer(model, processor).path,
    "prompts": check_prompts,
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_check_runs_once_for_models_with_other_weights(fresh_checks, passes, check):
    first = check(*tiny_llava())
    assert passes
    passes.clear()
    for seed in (0, 1):
        model, processor = tiny_llava(seed)
        assert check(model.train(), processor) == first
    # Whether a model gives numbers is a matter of its weights: one row with its picture, and without.
    assert len(passes) == (4 if check is CHECKS["paths"] else 0)


def attention(model, processor):
    model.set_attn_implementation("eager")


def configuration(model, processor):
    model.config.text_config.rms_norm_eps = 1e-5


def template(model, processor):
    processor.chat_template = processor.chat_template.replace("USER", "Human")


def tokens(model, processor):
    processor.tokenizer = copy.deepcopy(processor.tokenizer)
    processor.tokenizer.add_tokens(["zebra"])


def module(model, processor):
    class Other(torch.nn.Linear):
        pass

    model.lm_head.__class__ = Other


OTHERS = {
    "dtype": lambda model, processor: model.to(torch.bfloat16),
    "attention": attention,
    "configuration": configuration,
    "template": template,
    "tokens": tokens,
    "module": module,
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_it_runs_again_for_another_model(fresh_checks, passes, check, change):
    check(*tiny_llava())
    passes.clear()
    model, processor = tiny_llava()
    change(model, processor)
    check(model, processor)
    assert passes


def test_options_that_matter(fresh_checks, passes):
    model, processor = tiny_llava()
    for options in ({}, {"max_tokens": 100}, {"blind": "blank"}, {"max_tokens": 100, "blind": "blank"}):
        passes.clear()
        I2CScorer(model, processor, **options)
        assert passes, options
    passes.clear()
    I2CScorer(model, processor, max_tokens=100, ranking="token_kl", path="plain")
    assert len(passes) == 2  # whether it gives numbers


def test_models_that_are_changed_by_hooks_are_checked_each_time(fresh_checks, passes):
    model, processor = tiny_llava()
    assert check_paths(model, processor, PairEncoder(processor, None)).not_batched is None
    hook = model.register_forward_hook(
        lambda _, __, output: setattr(output, "logits", output.logits * (1 + len(output.logits)))
    )
    assert check_paths(model, processor, PairEncoder(processor, None)).not_batched is not None
    hook.remove()
    passes.clear()
    assert check_paths(model, processor, PairEncoder(processor, None)).not_batched is None
    assert not passes
    model.forward = lambda **inputs: type(model).forward(model, **inputs)
    check_paths(model, processor, PairEncoder(processor, None))
    assert passes


def test_the_sharing_of_prompts_is_tried_once(fresh_checks, passes):
    model, processor = tiny_llava()
    first = sampled(model, processor)
    with_trial = len(passes)
    passes.clear()
    assert sampled(*tiny_llava()) == first
    without = len(passes)
    assert without < with_trial
    passes.clear()
    sampled(*tiny_llava(seed=1))
    # Its texts may be of other lengths: what counts is that no text was written twice.
    assert len(passes) <= 1 + 8
    passes.clear()
    model, processor = tiny_llava()
    sampled(model.to(torch.bfloat16), processor)
    assert len(passes) > 1 + 8


def test_sharing_that_is_wrong_is_remembered_and_said_again(fresh_checks, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "alike", lambda *_: False)
        expected = sampled(*tiny_llava())
    assert "the tokens differ" in caplog.text
    caplog.clear()
    monkeypatch.setattr(TextSampler, "_try", lambda *_: pytest.fail("tried again"))
    assert sampled(*tiny_llava()) == expected
    assert "the tokens differ" in caplog.text


def test_errors_are_not_remembered(fresh_checks, monkeypatch):
    model, processor = tiny_llava()
    with monkeypatch.context() as patch:
        patch.setattr(
            "c3l_hf.scoring.self_check.answer_logprobs", lambda *_, **__: (_ for _ in ()).throw(MemoryError("full"))
        )
        with pytest.raises(ValueError, match="MemoryError: full"):
            I2CScorer(model, processor)
    assert I2CScorer(model, processor).path == "packed"


def test_a_path_that_failed_by_an_error_is_tried_again(fresh_checks, monkeypatch):
    model, processor = tiny_llava()
    real = self_check.answer_logprobs

    def without_memory(*args, packed, **options):
        if packed:
            raise MemoryError("full")
        return real(*args, packed=packed, **options)

    with monkeypatch.context() as patch:
        patch.setattr(self_check, "answer_logprobs", without_memory)
        assert "full" in check_paths(model, processor, PairEncoder(processor, None)).not_packed
    assert check_paths(model, processor, PairEncoder(processor, None)).not_packed is None


def test_the_key_is_the_same_wherever_a_model_came_from(tmp_path):
    model, processor = tiny_llava()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "a")
    copied = load(Source(str(tmp_path / "a")))
    for part in copied:
        part.save_pretrained(tmp_path / "b")
    keys = {check_key("x", *pair, 1) for pair in ((model, processor), copied, load(Source(str(tmp_path / "b"))))}
    assert len(keys) == 1
    assert keys.isdisjoint({check_key("y", model, processor, 1), check_key("x", model, processor, 2)})
    assert keys.isdisjoint({check_key("x", *tiny_gemma3(), 1)})


def test_a_tokenizer_is_the_same_before_its_first_use_and_after():
    _, processor = tiny_llava()
    tokenizer = copy.deepcopy(processor.tokenizer)
    before = tokenizer_state(tokenizer)
    tokenizer.backend_tokenizer.enable_padding(length=99)
    tokenizer.backend_tokenizer.enable_truncation(50)
    assert tokenizer_state(tokenizer) == before
    tokenizer("a dog")
    assert tokenizer_state(tokenizer) == before


def test_nothing_is_kept_without_a_key(fresh_checks):
    remember(None, "something")
    assert recall(None) is None
    remember("key", "something")
    assert recall("key") == "something" and recall("other") is None
