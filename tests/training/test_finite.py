"""A loss that is not finite ends a training before the weights are spoiled, and names the rows."""

import pytest
import torch
from tiny_models import tiny_llava
from tiny_training import config, make_trainer, pseudo_labels, weights
from torch import nn
from transformers import TrainerCallback

from c3l_hf.common.errors import RunError
from c3l_hf.training.checkpoints import last_checkpoint
from c3l_hf.training.finite import StopIfNotFinite, refuse_spoiled
from c3l_hf.training.resuming import train_from_last
from c3l_hf.training.run import train_generator


def spoil(trainer, names, at_step=1):
    """A trainer whose pictures of these images are not finite from a step on."""
    collate = trainer.data_collator

    def spoiled(rows):
        batch = collate(rows)
        if trainer.state.global_step + 1 >= at_step:
            for place, row in enumerate(rows):
                if row["image_id"] in names:
                    batch["pixel_values"][place] = torch.nan
        return batch

    trainer.data_collator = spoiled
    return trainer


def test_the_rows_are_named_and_the_weights_are_what_they_were(tmp_path):
    trainer = spoil(make_trainer(tmp_path, use_lora=False, max_steps=3), ["image-2"])
    before = weights(trainer)
    with pytest.raises(FloatingPointError) as told:
        trainer.train()
    assert str(told.value) == (
        "the loss is not finite at step 1, in row with image_id 'image-2'. Lower learning_rate, which is 0.01, look at "
        "these rows, and see whether the model was finite before"
    )
    assert all(torch.equal(before[name], weight) for name, weight in trainer.model.state_dict().items())


def test_all_micro_batches_of_a_step_count(tmp_path):
    """Rows one by one: the bad one is the first of the step, and its gradients are in the sum."""
    trainer = make_trainer(
        tmp_path,
        gradient_accumulation_steps=4,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        bf16=True,
    )
    with pytest.raises(FloatingPointError, match="in row with image_id 'image-0'. .*training is in bfloat16"):
        spoil(trainer, ["image-0"]).train()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_gradients_alone(tmp_path, value):
    trainer = make_trainer(tmp_path, use_lora=False)
    weight = next(weight for weight in trainer.model.parameters() if weight.requires_grad)
    weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([1]), value))
    with pytest.raises(FloatingPointError, match="the gradients are not finite at step 1, among row with.*; row with"):
        trainer.train()


def test_the_checkpoint_before_it_stays(tmp_path):
    """And the same call goes on from it; a passing fault is over then."""
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    with pytest.raises(FloatingPointError, match="at step 3"):
        train_from_last(spoil(make_trainer(tmp_path, **options), ["image-1"], at_step=3))
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    trainer = make_trainer(tmp_path, **options)
    train_from_last(trainer)
    assert trainer.state.global_step == 3


def spoil_weights(trainer, value, at_step):
    """A trainer whose optimizer leaves a weight of this value behind at a step, though all gradients were finite."""

    class Spoil(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **_):
            if state.global_step + 1 == at_step:
                next(weight for weight in model.parameters() if weight.requires_grad).data.view(-1)[0] = value

    trainer.add_callback(Spoil)
    return trainer


def test_spoiled_weights_are_no_checkpoint(tmp_path):
    options = {"use_lora": False, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    with pytest.raises(
        FloatingPointError, match=r"weights are not finite after step 2: \S+embed_tokens.*Lower learning"
    ):
        train_from_last(spoil_weights(make_trainer(tmp_path, **options), torch.inf, at_step=2))
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


def test_a_generator_that_is_not_finite_is_no_result(tmp_path):
    """Of the last step no loss is computed any more; and the same call tells it at the same place."""
    training = config(tmp_path, use_lora=False, learning_rate=1e37, optim="sgd", max_steps=1, save_strategy="steps")
    for _ in range(2):
        with pytest.raises(RunError, match="has ended: what the trained model predicts is not finite. Lower") as told:
            train_generator(*tiny_llava(), pseudo_labels(), training, tmp_path / "checkpoints", tmp_path / "made")
        assert "\n" not in str(told.value) and not (tmp_path / "made").exists()
    model, processor = tiny_llava()
    refuse_spoiled(model, processor, training)
    model.model.vision_tower.post_layernorm.bias.data[0] = torch.inf  # the model does not use it
    with pytest.raises(FloatingPointError, match=r"^weights of the trained model are not finite: model.vision_tower\."):
        refuse_spoiled(model, processor, training)


class Arguments:
    fp16, bf16, learning_rate, device = True, False, 0.1, torch.device("cpu")


class State:
    global_step = 0


def test_float16_may_leave_out_steps_but_not_all():
    """Its loss scaling finds its scale by gradients that are too large."""
    model = nn.Linear(2, 1)
    callback = StopIfNotFinite()

    def step(gradient, loss=1.0):
        model.weight.grad = torch.full((1, 2), gradient)
        callback.on_step_begin(Arguments, State, None)
        callback.note(["row 0", "row 1"], torch.tensor(loss))
        callback.on_pre_optimizer_step(Arguments, State, None, model=model)

    for _ in range(49):
        step(torch.inf)
    step(1.0)
    for _ in range(49):
        step(torch.nan)
    with pytest.raises(
        FloatingPointError, match="not finite in 50 steps of float16 in a row.*among row 0; row 1.*fp16"
    ):
        step(torch.inf)
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 1, in row 0; row 1"):
        step(1.0, loss=torch.nan)
