"""The check that chooses a model's path: it must see every way in which batching or packing can be wrong."""

import copy

import pytest
import torch
from tiny_models import tiny_gemma3, tiny_llava, tiny_llava_next

from c3l_hf.scoring import likelihood, self_check
from c3l_hf.scoring.blind import PairEncoder
from c3l_hf.scoring.likelihood import answer_logprobs
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.self_check import check_paths, check_prompts


def check(model, processor, **options):
    return check_paths(model, processor, PairEncoder(processor, None, **options), max_tokens=4096)


@pytest.mark.parametrize("build", [tiny_llava, tiny_llava_next])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_llava_is_packed(build, dtype):
    model, processor = build()
    paths = check(model.to(dtype), processor)
    assert paths.not_batched is None and paths.not_packed is None


def test_gemma3_is_not():
    paths = check(*tiny_gemma3())
    assert paths.not_batched is None and "sliding_attention" in paths.not_packed


def test_two_way_attention_is_seen_without_its_configuration(fresh_checks, monkeypatch):
    monkeypatch.setattr(self_check, "_partial_attention", lambda model: None)
    assert "differ" in check(*tiny_gemma3()).not_packed


def test_a_window_in_the_configuration_counts_though_the_check_is_shorter():
    model, processor = tiny_llava()
    model.config.text_config.sliding_window = 4096
    assert "last 4096 tokens" in check(model, processor).not_packed
    model.config.text_config.use_sliding_window = False
    assert check(model, processor).not_packed is None


def test_wrong_positions_are_seen(fresh_checks, monkeypatch):
    real = self_check.answer_logprobs

    def without_positions(model, *args, packed, **kwargs):
        hook = model.register_forward_pre_hook(
            lambda _, a, k: (a, {n: v for n, v in k.items() if n != "position_ids"}), with_kwargs=True
        )
        try:
            return real(model, *args, packed=packed, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(self_check, "answer_logprobs", without_positions)
    assert "differ" in check(*tiny_llava()).not_packed


def test_a_mask_that_is_ignored_is_seen():
    model, processor = tiny_llava()
    model.register_forward_pre_hook(
        lambda _, a, k: (a, {**k, "attention_mask": None} if k["attention_mask"].ndim == 4 else k), with_kwargs=True
    )
    paths = check(model, processor)
    assert paths.not_batched is None and "differ" in paths.not_packed


@pytest.fixture(scope="module")
def coarse():
    """In bfloat16, with as many tokens and, for a test, layers as a real language model."""
    model, processor = tiny_llava(vocabulary=49_152, layers=6)
    return model.to(torch.bfloat16), processor


def test_rounding_is_no_mistake(coarse):
    paths = check(*coarse)
    assert paths.not_batched is None and paths.not_packed is None
    assert check_prompts(*coarse) is None


def seen_by_others(batch: dict[str, torch.Tensor]) -> None:
    """One token of each pack is seen by a text it does not belong to."""
    mask = batch["attention_mask"]
    for pack in mask[:, 0]:
        hidden = (pack < 0).tril()
        key = int(hidden.sum(0).argmax())
        pack[hidden[:, key], key] = 0


def one_off(batch: dict[str, torch.Tensor]) -> None:
    batch["position_ids"][:, -8:] += 1


@pytest.mark.parametrize("mistake", [seen_by_others, one_off])
def test_small_mistakes_are_seen_above_rounding(mistake, coarse, monkeypatch, fresh_checks):
    collate_packs = likelihood.collate_packs

    def wrong(*args):
        batch = collate_packs(*args)
        batch["attention_mask"] = batch["attention_mask"].clone()
        mistake(batch)
        return batch

    monkeypatch.setattr(likelihood, "collate_packs", wrong)
    paths = check(*coarse)
    assert paths.not_batched is None and "of which rounding explains" in paths.not_packed


def test_one_token_of_padding_is_seen(coarse, monkeypatch, fresh_checks):
    collate = self_check.collate

    def wrong(*args, **options):
        batch = collate(*args, **options)
        for mask in batch["attention_mask"]:
            mask[mask.argmax() - 1] = 1  # of a row without padding it is the last one, which is seen anyway
        return batch

    monkeypatch.setattr(self_check, "collate", wrong)
    assert "of which rounding explains" in check_prompts(*coarse)


def test_rows_that_change_each_other_in_a_batch_are_seen():
    model, processor = tiny_llava()

    def mix(_, __, output):
        output.logits = output.logits * (1.01 if len(output.logits) > 20 else 1)
        return output

    model.register_forward_hook(mix)
    paths = check(model, processor)
    assert "differ" in paths.not_batched and paths.not_packed == paths.not_batched


def test_numbers_that_are_not_finite_are_no_agreement(fresh_checks):
    model, processor = tiny_llava()
    torch.nn.init.constant_(model.model.language_model.norm.weight, float("nan"))
    assert "nan" in check(model, processor).not_batched
    assert check(*tiny_llava()).not_batched is None  # and nothing that would be remembered of the code


def test_a_model_that_takes_no_4d_mask_keeps_the_plain_path():
    model, processor = tiny_llava()

    def refuse(_, __, kwargs):
        if kwargs["attention_mask"].ndim == 4:
            raise NotImplementedError("2-D masks only")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert check(model, processor).not_packed == "NotImplementedError: 2-D masks only"


def test_a_model_without_a_blind_pass_is_refused():
    model, processor = tiny_llava()
    processor = copy.copy(processor)
    processor.chat_template = (
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}{% else %}"
        + ("{% if m['role'] == 'user' %}{{ raise_exception('an image is needed') }}{% endif %}{% endfor %}{% endfor %}")
        + processor.chat_template
    )
    with pytest.raises(ValueError, match='LlavaProcessor cannot be scored: .*an image is needed.*blind="blank" may'):
        I2CScorer(model, processor)
    assert I2CScorer(model, processor, blind="blank").path == "packed"


def test_prompts_can_be_answered_in_a_batch(family):
    assert check_prompts(*family) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_prompts_can_be_answered_in_a_batch_in_other_precisions(dtype):
    model, processor = tiny_llava()
    assert check_prompts(model.to(dtype), processor) is None


def test_prompts_that_change_each_other_in_a_batch_are_seen():
    model, processor = tiny_llava()
    hook = model.register_forward_hook(
        lambda _, __, output: setattr(output, "logits", output.logits * (1 + len(output.logits)))
    )
    assert "predictions of the next token differ by up to" in check_prompts(model, processor)
    hook.remove()

    def refuse(_, __, kwargs):
        if len(kwargs["input_ids"]) > 1:
            raise NotImplementedError("one row only")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert check_prompts(model, processor) == "NotImplementedError: one row only"


def test_padding_that_is_not_masked_is_seen():
    model, processor = tiny_llava()
    model.model.language_model.register_forward_pre_hook(
        lambda _, a, k: (a, {**k, "attention_mask": None}), with_kwargs=True
    )
    assert "differ" in check_prompts(model, processor)


def test_a_model_that_answers_no_prompt_is_refused():
    model, processor = tiny_llava()
    processor.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(ValueError, match="LlavaProcessor cannot answer: RowError: .*no such role"):
        check_prompts(model, processor)


def test_the_scorer_says_which_path_and_why():
    with pytest.warns(
        UserWarning, match="about the same image separately, as packing them is not exact: it has layers"
    ):
        scorer = I2CScorer(*tiny_gemma3())
    assert scorer.path == "batched"
    assert I2CScorer(*tiny_llava()).path == "packed"
    assert I2CScorer(*tiny_llava(), path="plain").path == "batched"
    model, processor = tiny_llava()
    model.register_forward_hook(
        lambda _, __, output: setattr(output, "logits", output.logits * (1 + len(output.logits)))
    )
    with pytest.warns(UserWarning, match="one at a time"):
        assert I2CScorer(model, processor).path == "single"


def test_packing_where_it_is_not_exact_gives_other_scores():
    # what the check is there for
    model, processor = tiny_gemma3()
    rows, blind = zip(*(PairEncoder(processor, None).encode(pair) for pair in self_check._pairs()))
    plain, packed = (answer_logprobs(model, processor, rows, blind, packed=packed) for packed in (False, True))
    assert max((a.with_image - b.with_image).abs().max() for a, b in zip(plain, packed)) > 1e-3
