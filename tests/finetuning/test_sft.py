"""Fine-tuning a student: what it is trained on, which weights, resuming, what is saved; recipes/sft.py as it is run."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from peft import PeftModel
from PIL import Image as PILImage
from tiny_families import tiny_internvl, tiny_llava_onevision, tiny_qwen2_5_vl, tiny_smolvlm
from tiny_models import LLAVA_TEMPLATE, tiny_gemma3, tiny_llava, tiny_llava_next
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import TrlParser
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from c3l_hf.finetuning.examples import DataCollatorForAnswers, encode_examples
from c3l_hf.finetuning.student import StudentConfig, StudentTrainer, fine_tune
from c3l_hf.models.encoding import encode_prompt
from c3l_hf.models.parameters import projector_modules

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("sft_*.yaml"))
PAIRS = [
    ("Is there a dog in the picture?", "Yes, there is a dog."),
    ("Describe this picture.", "The picture shows an apple next to a ball on a table."),
    ("What colour is the background?", "red"),
    ("How many cats are there?", "two cats"),
    ("Where is the car?", "It is at the top left."),
]
ENDS = {"</s>", "<end_of_turn>", "<|im_end|>", "<end_of_utterance>"}
MESSAGES = List({"role": Value("string"), "content": Value("string")})
FEATURES = Features(
    {
        "images": List(Image()),
        "prompt": MESSAGES,
        "completion": MESSAGES,
        "pair_id": Value("string"),
        "i2c": Value("float32"),
    }
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    monkeypatch.syspath_prepend(str(RECIPES))


def message(role, content):
    return [{"role": role, "content": content}]


def picture(number):
    return PILImage.linear_gradient("L").rotate(72 * number).resize((40 + 8 * number, 40)).convert("RGB")


def curated(pairs=PAIRS):
    """Rows as c3l.py writes them."""
    rows = [
        {
            "images": [picture(number)],
            "prompt": message("user", question),
            "completion": message("assistant", answer),
            "pair_id": f"pair-{number}",
            "i2c": 0.5,
        }
        for number, (question, answer) in enumerate(pairs)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def config(folder, **options):
    defaults = {
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_steps": 2,
        "per_device_train_batch_size": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "use_lora": False,
        "lora_r": 4,
        "lora_alpha": 8,
    }
    return StudentConfig(str(folder), **{**defaults, **options})


def make_trainer(folder, built=None, dataset=None, **options):
    model, processor = built or tiny_llava()
    return StudentTrainer(model, encode_examples(dataset or curated(), processor), config(folder, **options))


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def batch_of(examples):
    return DataCollatorForAnswers(examples)(list(examples.index))


FAMILIES = [tiny_llava, tiny_llava_next, tiny_gemma3]
FAMILIES += [tiny_llava_onevision, tiny_qwen2_5_vl, tiny_smolvlm, tiny_internvl]


@pytest.mark.parametrize("build", FAMILIES)
def test_labels_and_loss_are_of_the_answers_only(tmp_path, build):
    model, processor = build()
    # As in the released Gemma 3. With one, TRL's head would cap the logits, which the model with images does not.
    model.config.get_text_config().final_logit_softcapping = None
    trainer = make_trainer(tmp_path, (model, processor))
    examples = trainer.data_collator.examples
    batch = batch_of(examples)
    total = 0.0
    for number, (_, answer) in enumerate(PAIRS):
        mask, labels = batch["attention_mask"][number] == 1, batch["labels"][number]
        ids, trained = batch["input_ids"][number][mask], labels[mask] != -100
        assert (labels[~mask] == -100).all() and torch.equal(ids[trained], labels[mask][trained])
        *text, end = ids[trained].tolist()
        assert processor.tokenizer.decode(text).strip() == answer and processor.tokenizer.decode(end) in ENDS
        assert trained[-len(text) - 1 :].all() and not trained[: -len(text) - 1].any()

        # The model's own forward of the row alone
        row = {name: value for name, value in examples.encoded(number, 0).inputs.items()}
        assert torch.equal(row["input_ids"][0], ids)
        with torch.no_grad():
            log_probs = model.double()(**doubled(row)).logits[0].log_softmax(dim=-1)
        total += sum(log_probs[place - 1, ids[place]].item() for place in trained.nonzero()[:, 0].tolist())
    with torch.no_grad():
        loss = trainer.compute_loss(model, doubled(batch)).item()
    assert loss == pytest.approx(-total / (batch["labels"] != -100).sum().item(), rel=1e-6)


def doubled(inputs):
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def test_labels_are_those_of_trl(llava):
    """But for the newline that this template writes after the end token, which nobody generates."""
    processor = llava[1]
    ours = batch_of(encode_examples(curated(), processor))
    theirs = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(list(curated()))
    for number in range(len(PAIRS)):
        one, other = (batch["labels"][number][batch["labels"][number] != -100].tolist() for batch in (ours, theirs))
        assert other[:-1] == one and processor.tokenizer.decode(other[-1:]) == "\n"
        one, other = (batch["input_ids"][number][batch["attention_mask"][number] == 1] for batch in (ours, theirs))
        assert torch.equal(one, other[:-1])
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


def test_a_template_without_end_token_gets_the_tokenizers():
    """LLaVA-1.5's on the Hub writes a space after an answer and nothing else: with it alone nobody learns to stop."""
    _, processor = tiny_llava()
    processor.chat_template = LLAVA_TEMPLATE.replace("{{ eos_token }}", "{{ ' ' }}")
    batch = batch_of(encode_examples(curated(), processor))
    for number, (_, answer) in enumerate(PAIRS):
        ids = batch["input_ids"][number][batch["attention_mask"][number] == 1]
        trained = batch["labels"][number][batch["labels"][number] != -100]
        assert processor.tokenizer.decode(trained).strip() == answer + "</s>"
        assert torch.equal(ids[-len(trained) :], trained)


def layouts():
    for question, answer in PAIRS[:2]:
        yield {"image": picture(0), "question": question, "answer": answer}
    (first, one), (second, two) = PAIRS[:2]
    turns = [("human", f"<image>\n{first}"), ("gpt", one), ("human", second), ("gpt", two)]
    yield {"image": picture(0), "conversations": [{"from": role, "value": text} for role, text in turns]}
    roles = {"human": "user", "gpt": "assistant"}
    turns = [{"role": roles[role], "content": text.replace("<image>\n", "")} for role, text in turns]
    yield {"images": [picture(0)], "messages": turns}


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "encoded again"])
def test_every_layout_gives_the_same_examples(llava, keep):
    processor = llava[1]

    def trained(dataset):
        examples = encode_examples(dataset, processor, keep=keep)
        batch = batch_of(examples)
        texts = [processor.tokenizer.decode(labels[labels != -100]).strip() for labels in batch["labels"]]
        assert examples.index["length"][:] == batch["attention_mask"].sum(dim=1).tolist()
        return texts, batch

    first, second, conversations, messages = layouts()
    answers = [f"{answer}</s>" for _, answer in PAIRS[:2]]
    for row in (conversations, messages):
        texts, batch = trained(Dataset.from_list([row]))
        assert texts == answers
        # The second answer follows the first turn, the image is there for both.
        prompt = processor.tokenizer.decode(batch["input_ids"][1])
        assert PAIRS[0][0] in prompt and PAIRS[0][1] in prompt and PAIRS[1][0] in prompt
        assert len(batch["pixel_values"]) == 2
    texts, plain = trained(Dataset.from_list([first, second]))
    assert texts == answers
    _, same = trained(curated([PAIRS[0], PAIRS[0]]).select([0]))
    length = int(same["attention_mask"].sum())
    assert torch.equal(plain["input_ids"][0, :length], same["input_ids"][0])


def test_kept_examples_are_those_encoded_again_and_share_images(llava):
    rows = [{"image": picture(number // 2), "question": q, "answer": a} for number, (q, a) in enumerate(PAIRS)]
    kept, again = (encode_examples(Dataset.from_list(rows), llava[1], keep=keep) for keep in (True, False))
    one, other = batch_of(kept), batch_of(again)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    tensors = [kept.encoded(row, 0).inputs["pixel_values"] for row in range(5)]
    assert tensors[0] is tensors[1] and tensors[2] is tensors[3] and tensors[1] is not tensors[2]
    some = kept.select([1, 4])
    assert some.index["row"][:] == [1, 4] and torch.equal(batch_of(some)["pixel_values"], one["pixel_values"][[1, 4]])


def bad_rows():
    """Six rows, of which only the first can be trained on."""
    rows = curated([PAIRS[0]] * 6).to_list()
    rows[1]["completion"][0]["content"] = "The picture shows " + "a dog and " * 60 + "a cat."
    rows[2]["images"] = [{"bytes": b"no picture", "path": None}]
    rows[3]["prompt"] = None
    rows[4]["completion"][0]["content"] = "a dog<image>"
    rows[5]["images"] = []
    return Dataset.from_list(rows, features=FEATURES)


REASONS = {
    1: "the sequence is longer than 100 tokens; it has ",
    2: "the image cannot be read",
    3: "prompt is null",
    4: "contains the control token '<image>'",
    5: "has no image",
}


def test_a_picture_that_came_later(tmp_path):
    """The rows stay the same, so the cache of `datasets`, and a run's identity, have to know of the file."""
    from sft import rows_digest

    _, processor = tiny_llava()
    file = tmp_path / "late.png"
    picture(0).save(tmp_path / "there.png")
    names = [str(file), str(tmp_path / "there.png")]
    Dataset.from_dict({"image": names, "question": ["What?"] * 2, "answer": ["a"] * 2}).to_json(tmp_path / "rows.json")
    # Of a dataset in memory nothing would be in the cache.
    rows = Dataset.from_json(str(tmp_path / "rows.json"), cache_dir=tmp_path / "cache")
    assert encode_examples(rows, processor).rejected.keys() == {0}
    missing = rows_digest(rows)
    picture(1).save(file)
    assert not encode_examples(rows, processor).rejected and rows_digest(rows) != missing


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "encoded again"])
def test_rows_that_cannot_be_trained_on_are_left_out_and_named(tmp_path, caplog, keep):
    model, processor = tiny_llava()
    examples = encode_examples(bad_rows(), processor, 100, keep=keep)
    assert examples.index["row"][:] == [0] and examples.rejected.keys() == REASONS.keys()
    assert all(REASONS[row] in reason for row, reason in examples.rejected.items())
    assert examples.rejected_lines(2)[0].startswith("row 1 (pair_id 'pair-1'): the sequence is longer")
    assert len(examples.rejected_lines(2)) == 2 and examples.select([0, 3]).rejected.keys() == {3}

    fine_tune(model, processor, bad_rows(), config(tmp_path, max_length=100, max_steps=1))
    assert "5 rows are left out" in caplog.text and "pair-1" in caplog.text
    with pytest.raises(
        ValueError, match=r"none of the 1 rows can be trained on: row 0 \(pair_id 'pair-3'\): prompt is"
    ):
        encode_examples(bad_rows().select([3]), processor, keep=keep)
    with pytest.raises(ValueError, match="on: row 0: the answer is empty"):
        encode_examples(
            Dataset.from_list([{"image": picture(0), "question": "What?", "answer": " "}]), processor, keep=keep
        )
    with pytest.raises(ValueError, match="the dataset has no rows"):
        encode_examples(bad_rows().select([]), processor, keep=keep)
    with pytest.raises(ValueError, match="in the columns picture, caption; accepted are"):
        encode_examples(Dataset.from_dict({"picture": ["a"], "caption": ["b"]}), processor, keep=keep)


def test_the_limit_is_exact(llava):
    examples = encode_examples(curated(), llava[1])
    longest = max(examples.index["length"])
    assert not encode_examples(curated(), llava[1], longest).rejected
    assert len(encode_examples(curated(), llava[1], longest - 1).rejected) == 1


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


class Interrupted(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


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


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full"])
def test_resuming_continues_to_the_same_weights(tmp_path, use_lora, strategy):
    def run(folder, interrupt=False, checkpoint=None):
        options = {
            "max_steps": -1,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 2,
            "lr_scheduler_type": "linear",
        }
        options |= {"save_strategy": "steps", "save_steps": 4, "lora_dropout": 0.1, "use_lora": use_lora}
        options |= {"train_sampling_strategy": strategy, "projector_learning_rate": 1e-3}
        trainer = make_trainer(tmp_path / folder, **options)
        if interrupt:
            trainer.add_callback(Interrupted())
            with pytest.raises(KeyboardInterrupt):
                trainer.train_from(None)
        else:
            trainer.train_from(checkpoint)
        return trainer.trained_model().state_dict()

    whole = run("whole")
    run("parts", interrupt=True)
    # In the second of three epochs of three steps.
    resumed = run("parts", checkpoint=str(tmp_path / "parts" / "checkpoint-4"))
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


# recipes/sft.py


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folders of a student and of datasets."""
    folder = tmp_path_factory.mktemp("inputs")
    model, processor = tiny_llava()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "data" / "data").mkdir(parents=True)
    curated().to_parquet(folder / "data" / "data" / "train-00000-of-00001.parquet")
    bad_rows().save_to_disk(folder / "bad")
    DatasetDict({"pool": curated()}).save_to_disk(folder / "splits")
    Dataset.from_dict({"picture": ["a"], "caption": ["b"]}).save_to_disk(folder / "columns")
    return folder


def run(inputs, output, *args, monkeypatch):
    """recipes/sft.py in this process, as `python recipes/sft.py …`; later options win."""
    options = ["--config", RECIPES / "configs" / "sft_scenes.yaml", "--bf16", "false", "--max_steps", 4]
    options += ["--model", inputs / "model", "--dataset", inputs / "data", "--output_dir", output]
    options += ["--per_device_train_batch_size", 2, "--save_steps", 2]
    monkeypatch.setattr(sys, "argv", ["sft.py", *map(str, [*options, *args])])
    return runpy.run_path(str(RECIPES / "sft.py"), run_name="__main__")


def test_the_recipe(inputs, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "out"
    scope = run(inputs, folder, monkeypatch=monkeypatch)
    printed = capfd.readouterr().out
    assert "0 of 5 rows are left out" in printed and f"student  {folder / 'student'}" in printed
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "run.json", "stages", "student"]
    made_by = json.loads((folder / "student" / "training.json").read_text())
    assert (made_by["model"], made_by["dataset"]) == ("model", "data")
    assert made_by["inputs"]["model"]["digest"] and made_by["versions"]["trl"]
    assert made_by["options"]["learning_rate"] == 5e-4
    report = made_by["report"]
    assert report["steps"] == 4 and report["examples"] == 5 and report["rejected"] == 0
    assert 0 < report["trained_parameters"] < report["parameters"]
    assert not any(str(path) in (folder / "student" / "training.json").read_text() for path in (tmp_path, inputs))
    assert not list((folder / "student").glob("*.bin"))

    # It reloads as what it was trained to be: the same training in memory.
    processor = AutoProcessor.from_pretrained(folder / "student")
    reloaded, info = AutoModelForImageTextToText.from_pretrained(folder / "student", output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    training = scope["job"].training
    training.output_dir = str(tmp_path / "again")
    expected = fine_tune(AutoModelForImageTextToText.from_pretrained(inputs / "model"), processor, curated(), training)
    batch = batch_of(encode_examples(curated(), processor))
    del batch["labels"]
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, expected(**batch).logits)
        assert not torch.allclose(reloaded(**batch).logits, tiny_llava()[0](**batch).logits, atol=1e-3)

    # Again: shown without work. With other options or rows: refused, and nothing is touched.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "run.json"}
    run(inputs, folder, monkeypatch=monkeypatch)
    assert "steps" in capfd.readouterr().out
    for other in (["--learning_rate", 1e-3], ["--max_rows", 3], ["--seed", 1]):
        with pytest.raises(SystemExit) as stop:
            run(inputs, folder, *other, monkeypatch=monkeypatch)
        assert "another run's result" in stop.value.code and "--output_dir" in stop.value.code
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_recipe_goes_on_after_an_interruption(inputs, tmp_path, monkeypatch):
    run(inputs, tmp_path / "whole", monkeypatch=monkeypatch)
    with monkeypatch.context() as patch:
        begin = StudentTrainer.training_step

        def stopped(self, *args, **kwargs):
            if self.state.global_step == 3:
                raise KeyboardInterrupt
            return begin(self, *args, **kwargs)

        patch.setattr(StudentTrainer, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "parts", monkeypatch=monkeypatch)
    assert not (tmp_path / "parts" / "student").exists()
    steps = []
    step = StudentTrainer.training_step
    monkeypatch.setattr(StudentTrainer, "training_step", lambda self, *a, **k: steps.append(1) or step(self, *a, **k))
    run(inputs, tmp_path / "parts", monkeypatch=monkeypatch)
    assert len(steps) == 2
    one, other = ((tmp_path / name / "student" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == other


def test_the_recipe_saves_adapters_alone(inputs, tmp_path, monkeypatch):
    lora = ["--use_lora", "true", "--learning_rate", 1e-2, "--max_rows", 4]
    run(inputs, tmp_path / "merged", *lora, monkeypatch=monkeypatch)
    # As with a student of the Hub: what is loaded is not where it is named.
    shutil.copytree(inputs / "model", tmp_path / "snapshot")
    monkeypatch.setattr("c3l_hf.models.loading.find_model", lambda *args: (tmp_path / "snapshot", {"revision": "0"}))
    run(inputs, tmp_path / "adapters", *lora, "--merge_adapters", "false", monkeypatch=monkeypatch)
    student = tmp_path / "adapters" / "student"
    assert not (student / "model.safetensors").exists()
    assert json.loads((student / "adapter_config.json").read_text())["base_model_name_or_path"] == str(inputs / "model")
    base = AutoModelForImageTextToText.from_pretrained(inputs / "model")
    models = [
        PeftModel.from_pretrained(base, student).eval(),
        AutoModelForImageTextToText.from_pretrained(student),
        AutoModelForImageTextToText.from_pretrained(tmp_path / "merged" / "student"),
    ]
    batch = batch_of(encode_examples(curated(), AutoProcessor.from_pretrained(student)))
    del batch["labels"]
    with torch.no_grad():
        one, two, merged = (model(**batch).logits for model in models)
        untrained = tiny_llava()[0](**batch).logits
    torch.testing.assert_close(one, merged, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two, merged, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, untrained, atol=1e-2)


def test_the_recipe_without_adapters_to_save_alone(inputs, tmp_path, monkeypatch):
    """Only the projector is trained, whatever is asked for of adapters."""
    options = ["--use_lora", "true", "--train_language_model", "false", "--train_projector", "true"]
    run(inputs, tmp_path / "out", *options, "--merge_adapters", "false", monkeypatch=monkeypatch)
    assert (tmp_path / "out" / "student" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "stages" / "1_train" / "student").exists()


def test_the_recipe_counts_what_it_leaves_out(inputs, tmp_path, monkeypatch, capfd):
    run(inputs, tmp_path, "--dataset", inputs / "bad", "--max_length", 100, "--max_steps", 1, monkeypatch=monkeypatch)
    printed = capfd.readouterr().out
    assert "5 of 6 rows are left out" in printed and all(reason in printed for reason in REASONS.values())
    report = json.loads((tmp_path / "stages" / "1_train" / "stage.json").read_text())["report"]
    assert report["rejected"] == 5 and report["reasons"]["the sequence is longer than 100 tokens"] == 1


WRONG = {
    "no such model": (["--model", "{}/nowhere"], "nowhere"),
    "not a model": (["--model", "{}/data"], "no config.json"),
    "no such dataset": (["--dataset", "{}/nowhere"], "--dataset"),
    "no such split": (["--split", "test"], "test"),
    "no such split on disk": (["--dataset", "{}/splits"], "no split 'train'; its splits are pool"),
    "no such configuration": (["--dataset_config", "scored"], "scored"),
    "wrong columns": (["--dataset", "{}/columns"], "cannot find pairs in the columns picture, caption"),
    "no rows": (["--max_rows", "0"], "--max_rows is 0"),
    "unknown key": (["--colour", "blue"], "colour"),
    "token as an option": (["--hub_token", "hf_secret"], "hub_token is not supported"),
    "too long, all of them": (["--max_length", "5"], "none of the 5 rows can be trained on: row 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_ends_with_one_clear_line(case, inputs, tmp_path, monkeypatch):
    args, says = WRONG[case]
    with pytest.raises(SystemExit) as stop:
        run(inputs, tmp_path / "out", *(arg.format(inputs) for arg in args), monkeypatch=monkeypatch)
    message = stop.value.code
    assert isinstance(message, str) and says in message and "\n" not in message.strip() and "hf_secret" not in message
    assert not (tmp_path / "out" / "student").exists()


def test_another_folder_is_not_overwritten(inputs, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="not made by this recipe"):
        run(inputs, tmp_path, monkeypatch=monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_trains(path, tmp_path, monkeypatch):
    """A few steps of the family it is for; the first of them is warm-up, at a learning rate of 0."""
    # As on the hardware the file is meant for.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args: True)
    scope = runpy.run_path(str(RECIPES / "sft.py"))
    options = ["--output_dir", str(tmp_path), "--max_steps", "3", "--dataloader_num_workers", "1"]
    parser = TrlParser((scope["SFTArguments"], StudentConfig))
    args, training = parser.parse_args_and_config(["--config", str(path), *options])
    assert args.model and training.get_warmup_steps(1000) == 30
    model, processor = tiny_qwen2_5_vl() if "qwen" in path.name else tiny_llava()
    model.to(getattr(torch, args.model_dtype))
    before = weights(model)
    trained = fine_tune(model, processor, curated(), training).state_dict()
    moved = [name for name in before if not torch.equal(before[name], trained[name])]
    assert any("language_model" in name for name in moved) and not any("vision_tower" in name for name in moved)
    assert len(CONFIGS) == 3 and all(tensor.isfinite().all() for tensor in trained.values())
