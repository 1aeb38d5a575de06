"""Training a student: which weights, at which rates, what a resumed training goes on to."""

import pytest
import torch
from datasets import Dataset
from tiny_families import tiny_qwen2_5_vl
from tiny_models import tiny_llava
from tiny_students import FEATURES, PAIRS, config, curated, make_trainer, weights
from transformers import TrainerCallback

from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.finetuning.student import fine_tune
from c3l_hf.models.encoding import encode_prompt
from c3l_hf.models.parameters import projector_modules

TRAINED = {
    "full": ({}, ("language_model", "lm_head", "projector")),
    "lora": ({"use_lora": True}, ("lora_", "projector")),
    "lora alone": ({"use_lora": True, "train_projector": False}, ("lora_",)),
    "language model": ({"train_projector": False}, ("language_model", "lm_head")),
    "projector": ({"train_language_model": False}, ("projector",)),
    "all": ({"train_vision_tower": True}, ("",)),
}


@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl], ids=["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("chosen", TRAINED)
def test_what_is_said_is_trained_and_nothing_else(tmp_path, build, chosen):
    options, parts = TRAINED[chosen]
    model, processor = build()
    projector = projector_modules(model)
    trainer = make_trainer(tmp_path, (model, processor), **options)
    before = weights(trainer.model)
    trainer.train_from(None)
    after = trainer.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}

    def is_part(name, part):
        in_projector = any(f".{module}." in f".{name}" for module in projector)
        if part == "projector":
            return in_projector and "original_module" not in name
        return part in name and not in_projector if part else True

    expected = {name for name in before if any(is_part(name, part) for part in parts)}
    # What these models have and no gradient reaches: the last layers of CLIP's tower, which LLaVA does not use; the
    # keys' biases, to which attention is blind.
    unused = {
        name for name in expected - moved if "post_layernorm" in name or name.endswith(("k_proj.bias", "qkv.bias"))
    }
    unused |= {name for name in expected - moved if ".encoder.layers.1." in name and "vision_tower" in name}
    assert expected and moved <= expected and expected - moved <= unused, (moved - expected, expected - moved)


def test_the_projector_has_its_own_learning_rate(tmp_path):
    options = {"use_lora": True, "projector_learning_rate": 1e-3, "weight_decay": 0.1}
    trainer = make_trainer(tmp_path, lr_scheduler_type="linear", **options)
    trainer.create_optimizer_and_scheduler(10)
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    rates = {}
    for group in trainer.optimizer.param_groups:
        for weight in group["params"]:
            assert id(weight) in names and names[id(weight)] not in rates
            rates[names[id(weight)]] = (group["lr"], group["weight_decay"])
    trainable = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert rates.keys() == trainable
    for name, (rate, decay) in rates.items():
        assert rate == (1e-3 if "multi_modal_projector" in name else 1e-2), name
        assert decay == (0.0 if "bias" in name else 0.1), name
    trainer.lr_scheduler.step(5)
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {5e-3, 5e-4}


def test_a_step_without_pictures_leaves_the_projector_as_it_was(tmp_path):
    """Also where nothing else is trained, so that the step has no gradient but that of a picture of no meaning."""
    rows = curated(PAIRS[:2]).to_list()
    rows[1]["images"] = []
    mixed = Dataset.from_list(rows, features=FEATURES)
    options = {"train_language_model": False, "train_projector": True, "per_device_train_batch_size": 1}
    options |= {"train_sampling_strategy": "sequential", "optim": "sgd"}
    one, both = (make_trainer(tmp_path, dataset=mixed, max_steps=steps, **options) for steps in (1, 2))
    before = weights(one.model)
    one.train()
    both.train()
    after, expected = weights(both.model), weights(one.model)
    assert [log["grad_norm"] > 0 for log in both.state.log_history if "grad_norm" in log] == [True, False]
    assert all(torch.equal(after[name], expected[name]) for name in after)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in after if "multi_modal_projector" in name
    }


def test_small_steps_of_a_bfloat16_model_are_not_lost(tmp_path):
    model, processor = tiny_llava()
    model.to(torch.bfloat16)
    options = {"bf16": True, "use_lora": True, "learning_rate": 1e-6, "max_steps": 1}
    with pytest.raises(ValueError, match="the model is in torch.bfloat16: set bf16=True"):
        make_trainer(tmp_path, (model, processor), use_lora=True)
    trainer = make_trainer(tmp_path, (model, processor), **options)
    before = weights(trainer.model)
    trainer.train_from(None)
    after = trainer.model.state_dict()
    name = next(name for name in after if "projector.modules_to_save" in name and name.endswith("linear_1.weight"))
    assert (after[name] != before[name]).float().mean() > 0.9
    trained = trainer.trained_model()
    assert {tensor.dtype for tensor in trained.state_dict().values()} == {torch.bfloat16} and not trained.training


class StepCounter(TrainerCallback):
    count = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.count += 1


def test_resuming_keeps_what_small_steps_have_changed(tmp_path):
    """A checkpoint is said to be in the dtype of its first weights, frozen in bfloat16; trained ones are in float32."""

    def run(checkpoint=None):
        model, processor = tiny_llava()
        options = {"bf16": True, "use_lora": False, "learning_rate": 1e-6, "max_steps": 2}
        options |= {"save_strategy": "steps", "save_steps": 1}
        trainer = make_trainer(tmp_path, (model.to(torch.bfloat16), processor), **options)
        trainer.train_from(checkpoint)
        return weights(trainer.model)

    whole = run()
    resumed = run(str(tmp_path / "checkpoint-1"))
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert whole[name].dtype == torch.float32 and (whole[name] != whole[name].bfloat16()).any()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("use_lora, strategy", [(True, "group_by_length"), (False, "random")], ids=["lora", "full"])
def test_resuming_continues_to_the_same_weights(tmp_path, use_lora, strategy):
    def run(folder, checkpoint=None):
        options = {
            "max_steps": -1,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 2,
            "lr_scheduler_type": "linear",
        }
        options |= {"save_strategy": "steps", "save_steps": 4, "lora_dropout": 0.1, "use_lora": use_lora}
        options |= {"train_sampling_strategy": strategy, "projector_learning_rate": 1e-3}
        trainer = make_trainer(tmp_path / folder, **options)
        steps = StepCounter()
        trainer.add_callback(steps)
        trainer.train_from(checkpoint)
        return trainer.trained_model().state_dict(), steps.count

    whole, steps = run("whole")
    # In the second of three epochs of three steps.
    resumed, rest = run("resumed", str(tmp_path / "whole" / "checkpoint-4"))
    assert (steps, rest) == (9, 5)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    start = tiny_llava()[0].state_dict()
    assert not torch.equal(
        start["model.multi_modal_projector.linear_1.weight"], whole["model.multi_modal_projector.linear_1.weight"]
    )


def test_every_epoch_has_every_example_once_in_another_order(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=1)
    orders = []
    for epoch in (0, 1, 1.5):
        trainer.state.epoch = epoch
        orders.append(list(trainer._get_train_sampler()))
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert orders[0] != orders[1] == orders[2]


def test_fine_tuning_in_memory(tmp_path):
    """Learns its five answers by heart and stops after them; the model is as it was before but for its weights."""
    model, processor = tiny_llava()
    examples = encode_examples(curated(), processor, keep=True)
    options = {"max_steps": 60, "learning_rate": 5e-3, "per_device_train_batch_size": 5}
    trained = fine_tune(model, processor, examples, config(tmp_path / "none", **options))
    assert trained is model and "forward" not in vars(model) and not model.training
    for row, (_, answer) in zip(curated(), PAIRS):
        assert answered(model, processor, row) == answer
    assert not (tmp_path / "none").exists() or not list((tmp_path / "none").iterdir())


def answered(model, processor, row):
    inputs = encode_prompt(processor, row["prompt"], row["images"])
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert output[-1] == processor.tokenizer.eos_token_id
    return processor.tokenizer.decode(output, skip_special_tokens=True).strip()


UNSUPPORTED = [
    ({"packing": True}, "packing"),
    ({"chat_template_path": "t.jinja"}, "chat_template_path"),
    ({"completion_only_loss": False}, "completion_only_loss"),
    ({"push_to_hub": True}, "push_to_hub"),
    ({"hub_token": "hf_secret"}, "hub_token"),
    ({"use_lora": True, "train_vision_tower": True}, "use_lora=False"),
    ({"train_language_model": False, "train_projector": False}, "nothing is left to train"),
    ({"train_projector": False, "projector_learning_rate": 1e-5}, "needs train_projector"),
]


@pytest.mark.parametrize("options, says", UNSUPPORTED, ids=lambda value: value if isinstance(value, str) else "")
def test_options_that_are_not_supported(tmp_path, options, says):
    with pytest.raises(ValueError, match=says) as error:
        config(tmp_path, **options)
    assert "hf_secret" not in str(error.value)
