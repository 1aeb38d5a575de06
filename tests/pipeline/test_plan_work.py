"""What stages have to do, against what torch counts while the scorer and the trainer do it."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset
from tiny_models import tiny_gemma3, tiny_llava
from tiny_training import config
from torch.utils.flop_counter import FlopCounterMode

from c3l_hf.cli.run import COMMAND
from c3l_hf.cli.settings import read_settings
from c3l_hf.models.encoding import encode_prompt
from c3l_hf.pipeline.plan_images import image_costs
from c3l_hf.pipeline.plan_model import model_costs
from c3l_hf.pipeline.plan_work import Texts, work_of
from c3l_hf.pipeline.settings import Settings
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.training.trainer import C3LTrainer

SIZE = (40, 40)
QUESTION = "What is there?"
ANSWER = "a dog and a cat at the top left"


def settings_of(*words):
    return Settings(*read_settings(COMMAND, ["--model", "scenes", "--images", "scenes", *words], {}, list).groups)


def picture(seed=0):
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8))


def length_of(processor, *texts):
    return len(processor.tokenizer("".join(texts), add_special_tokens=False)["input_ids"])


def counter_of_attention():
    """Counts what a CPU's fused attention does, too: four operations for a pair of tokens and a number of a head;
    backwards twice as many."""
    aten = torch.ops.aten

    def forward(query, key, *_, **__):
        return 4 * query[0] * query[1] * query[2] * key[2] * query[3]

    def backward(_, query, key, *__, **___):
        return 2 * forward(query, key)

    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


def planned(settings, model, processor, texts, images, **options):
    costs = model_costs(model), image_costs(model, processor, SIZE, QUESTION, "m")
    return work_of(settings, costs, costs, texts, images, 1, 4.0, 4.0, **options)


@pytest.mark.parametrize("build", [tiny_llava, tiny_gemma3])  # packed, and each alone
def test_operations_of_the_scorer(build):
    model, processor = build()
    scorer = I2CScorer(model, processor)
    answers = [f"{word} {ANSWER}" for word in ("one", "two", "red", "blue", "green")]
    rows = [{"image": picture(), "question": QUESTION, "answer": answer} for answer in answers]
    with counter_of_attention() as counter:
        scored = scorer.score(rows)
    prompt = encode_prompt(processor, [{"role": "user", "content": QUESTION}], [])["input_ids"].shape[1]
    answer = float(np.mean([len(one["answer_tokens"]) for one in scored]))
    # In a pack the question and what is around it, too, stand once.
    shared = prompt * (4 / 5) if scorer.path == "packed" else 0.0
    texts = replace(Texts(), pair=prompt + answer - shared, answer=answer)
    stage = planned(settings_of(), model, processor, texts, 1, pairs_per_image=5)["score"]
    assert stage.rows == 5 and (scorer.path == "packed") == model_costs(model).shares
    assert stage.flops == pytest.approx(counter.get_total_flops(), rel=0.12)


@pytest.mark.parametrize("options", [{"use_lora": False}, {"use_lora": True}, {"activation_checkpointing": True}])
def test_operations_of_the_trainer(tmp_path, options):
    model, processor = tiny_llava()
    reply = [[{"role": "assistant", "content": f"{word} {ANSWER}"}] for word in ("one", "two", "red")]
    row = {"prompt": [{"role": "user", "content": QUESTION}], "chosen": reply[0], "rejected": reply[1:]}
    rows = Dataset.from_list([row | {"images": [picture(n)]} for n in range(4)])
    options = {"use_lora": False, "lora_r": 2, "similarity": "likelihood", "max_steps": 2} | options
    training = config(tmp_path, **options)
    trainer = C3LTrainer(model=model, args=training, train_dataset=rows, processing_class=processor)
    with counter_of_attention() as counter:
        trainer.train()
    model, _ = tiny_llava()
    prompt = encode_prompt(processor, [{"role": "user", "content": QUESTION}], [picture()])["input_ids"].shape[1]
    end = 1
    texts = replace(Texts(), prompt=prompt - 16, reply=length_of(processor, f" one {ANSWER}") + end)
    settings = replace(settings_of("--pairs_per_image", "3"), training=training)
    stage = planned(settings, model, processor, texts, 4)["train"]
    assert (stage.rows, stage.steps) == (8, 2)
    assert stage.flops == pytest.approx(counter.get_total_flops(), rel=0.12)


def test_what_writing_moves():
    model, processor = tiny_llava()
    costs = model_costs(model)
    texts = Texts(prompt=20, reply=30)
    few = planned(settings_of("--generation_batch_size", "5"), model, processor, texts, 100)["generate"]
    many = planned(settings_of("--generation_batch_size", "50"), model, processor, texts, 100)["generate"]
    assert few.flops == many.flops and few.tokens == {"image": 1600, "prompt": 2000, "written": 15000}
    # The weights are read in each step, for 5 texts or for 50; the cache of a text is read once a step in either way.
    weights = 4 * (costs.decoder + costs.head)
    cache = 4 * costs.cached * (16 + 20 + 5 * 30 / 2)
    assert few.moved == pytest.approx(100 * 30 * (weights + cache))
    assert many.moved == pytest.approx(100 * 30 * (weights / 10 + cache))


def test_a_step_has_a_batch_of_each_device():
    model, processor = tiny_llava()
    costs = model_costs(model), image_costs(model, processor, SIZE, QUESTION, "m")
    settings = settings_of("--max_steps", "10", "--per_device_train_batch_size", "4", "--max_epochs", "3")
    for devices, images, rows, steps in ((1, 1000, 40, 10), (8, 1000, 320, 10), (8, 20, 60, 3)):
        train = work_of(settings, costs, costs, Texts(), images, devices, 2.0, 2.0)["train"]
        assert (train.rows, train.steps) == (rows, steps)


def test_pairs_that_are_given_are_not_generated():
    model, processor = tiny_llava()
    stages = planned(settings_of(), model, processor, Texts(), 10)
    assert list(stages) == ["generate", "score", "train", "regenerate", "rescore"]
    words = ["--model", "scenes", "--pairs", "p.jsonl"]
    given = Settings(*read_settings(COMMAND, words, {}, list).groups)
    assert list(planned(given, model, processor, Texts(), 10)) == ["score", "train", "regenerate", "rescore"]
