"""C3LTrainer on tiny models: the loss against separate float64 forwards, what moves, what is saved, what is refused."""

import copy
import dataclasses
import doctest
from typing import get_args, get_type_hints

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from peft import PeftModel
from safetensors import safe_open
from tiny_families import tiny_internvl, tiny_llava_onevision, tiny_qwen2_5_vl, tiny_smolvlm
from tiny_models import LLAVA_TEMPLATE, tiny_gemma3, tiny_llava, tiny_llava_next
from tiny_training import ANSWERS, config, make_trainer, message, moved, pseudo_labels, weights
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, TrlParser

import c3l_hf.training.collator
from c3l_hf.finetuning.student import StudentConfig
from c3l_hf.models.encoding import encode_row
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.config import C3LConfig, language_model_lora
from c3l_hf.training.forward import HEAD
from c3l_hf.training.losses import CONTRASTIVE_LOSSES
from c3l_hf.training.trainer import C3LTrainer

METRICS = ["loss/nll", "loss/contrastive", "similarity/positive", "alignment", "similarity/negative"]
METRICS += ["contrastive_accuracy"]


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL sends none then


def assert_equal_weights(trainer, other):
    expected = other.model.state_dict()
    assert trainer.model.state_dict().keys() == expected.keys()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def reference_loss(trainer, processor, rows):
    """The loss in float64 by the formulas of `C3LConfig`, from one forward of its own per candidate, with full logits
    and no padding."""
    args, model, decoder = trainer.args, trainer.model, trainer._vlm.get_decoder()
    ending = processor.tokenizer.convert_tokens_to_ids(["</s>", "<end_of_turn>", "<|im_end|>", "<end_of_utterance>"])
    head = dict(model.named_modules())[next(n for n, _ in model.named_modules() if n.endswith("contrastive_head"))]

    def project(vectors):
        if args.similarity == "likelihood":
            return None
        vector = vectors.mean(dim=0) if args.pooling == "mean" else vectors[-1]
        if args.projection == "none":
            return vector
        vector = head[0].weight @ vector + head[0].bias
        if args.projection != "linear":
            vector = vector.clamp(min=0)
        return head[2].weight @ vector + head[2].bias if args.projection == "mlp" else vector

    def logistic(x):
        return 1 / (1 + torch.exp(-x))

    anchors, candidates, nlls, likelihoods = [], [], [], []
    for row in rows:
        candidates.append([])
        likelihoods.append([])
        for index, answer in enumerate([row["chosen"], *row["rejected"]]):
            encoded = encode_row(processor, row["prompt"], answer[0]["content"], row["images"])
            start, stop = encoded.answer.start, encoded.answer.stop
            inputs = {k: v.double() if v.is_floating_point() else v for k, v in encoded.inputs.items()}
            outputs = model(**inputs, output_hidden_states=True)
            hidden = outputs.hidden_states[args.hidden_layer][0]
            ids = encoded.inputs["input_ids"][0]
            log_probs = outputs.logits[0].log_softmax(dim=-1)
            likelihoods[-1].append(sum(log_probs[t - 1, ids[t]] for t in range(start, stop)) / (stop - start))
            if index == 0:
                assert ids[stop] in ending
                nlls.append(-sum(log_probs[t - 1, ids[t]] for t in range(start, stop + 1)) / (stop + 1 - start))
                is_image = ids[:start] == trainer.model.config.image_token_id
                chosen = {"prompt": is_image | True, "text": ~is_image, "image": is_image}[args.anchor]
                anchors.append(project(hidden[:start][chosen]))
            candidates[-1].append(project(hidden[start:stop]))
    assert decoder.config.num_hidden_layers == 2
    losses = []
    for number, (anchor, (positive, *negatives), nll) in enumerate(zip(anchors, candidates, nlls)):
        if args.in_batch_negatives:
            text = rows[number]["chosen"]
            negatives += [own[0] for own, row in zip(candidates, rows) if row["chosen"] != text]
        if args.similarity == "likelihood":
            scaled = [value / args.temperature for value in likelihoods[number]]
        else:
            scaled = [anchor @ c / (anchor.norm() * c.norm()) / args.temperature for c in (positive, *negatives)]
        if args.contrastive_loss == "infonce":
            contrastive = -torch.log(scaled[0].exp() / sum(value.exp() for value in scaled))
        else:
            terms = [torch.log(logistic(scaled[0])), *(torch.log(logistic(-value)) for value in scaled[1:])]
            contrastive = -sum(terms) / len(terms)
        weight = rows[number]["weight"] if args.weight_column else 1.0
        losses.append(args.nll_weight * weight * nll + args.contrastive_weight * contrastive)
    return sum(losses) / len(losses)


FAMILIES = [tiny_llava, tiny_llava_next, tiny_gemma3]
FAMILIES += [tiny_llava_onevision, tiny_qwen2_5_vl, tiny_smolvlm, tiny_internvl]


def assert_loss_and_gradients_of_the_reference(folder, built, rows=None, **options):
    processor = built[1]
    trainer = make_trainer(folder, built, rows, temperature=0.5, contrastive_weight=0.7, **options)
    trainer.train()  # so that no adapter is zero
    rows = list(trainer.train_dataset)
    batch = trainer.data_collator(rows)

    trainer.model.eval()
    with torch.no_grad():
        single = trainer.compute_loss(trainer.model, batch)

    trainer.model.double()
    batch = {k: v.double() if k == "pixel_values" else v for k, v in batch.items()}
    gradients = []
    for compute in (
        lambda: trainer.compute_loss(trainer.model, batch),
        lambda: reference_loss(trainer, processor, rows),
    ):
        trainer.model.zero_grad()
        loss = compute()
        loss.backward()
        named = trainer.model.named_parameters()
        gradients.append((loss.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}))
    (loss, grads), (expected, expected_grads) = gradients
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=0)
    has_head = trainer.args.similarity == "hidden" and trainer.args.projection != "none"
    assert any("contrastive_head" in name for name in grads) == has_head
    for name, grad in grads.items():
        wanted = expected_grads.get(name, torch.zeros(()))  # a weight of 0 gives a gradient of 0, or none
        # 1e-5 of the tensor's size: the norms inside these models are computed in float32 whatever the input.
        assert (grad - wanted).norm() <= 1e-5 * wanted.norm() + 1e-9, name
    return trainer


@pytest.mark.parametrize("pack_candidates", [True, False], ids=["packed", "separate"])
@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full"])
def test_loss_and_gradients_equal_separate_float64_forwards(tmp_path, build, use_lora, pack_candidates):
    options = {"use_lora": use_lora, "pack_candidates": pack_candidates, "weight_column": "weight"}
    trainer = assert_loss_and_gradients_of_the_reference(tmp_path, build(), **options)
    assert trainer.data_collator.packed == (pack_candidates and build is not tiny_gemma3)


@pytest.mark.parametrize("pack_candidates", [True, False], ids=["packed", "separate"])
@pytest.mark.parametrize("build", FAMILIES)
def test_likelihoods_as_similarity_equal_separate_float64_forwards(tmp_path, build, pack_candidates):
    options = {"similarity": "likelihood", "pack_candidates": pack_candidates, "use_lora": build is tiny_llava}
    trainer = assert_loss_and_gradients_of_the_reference(tmp_path, build(), **options)
    assert trainer.data_collator.packed == (pack_candidates and build is not tiny_gemma3)
    assert list(trainer._vlm.get_submodule(HEAD).parameters()) == []
    log = trainer.state.log_history[0]
    assert "alignment" not in log and log["similarity/positive"] < 0


OPTIONS = [
    {"contrastive_loss": "sigmoid"},
    {"in_batch_negatives": True},
    {"in_batch_negatives": True, "contrastive_loss": "sigmoid", "pooling": "last", "anchor": "text"},
    {"pooling": "last"},
    {"hidden_layer": 1},
    {"hidden_layer": 0, "pooling": "last", "projection": "linear"},
    {"anchor": "text"},
    {"anchor": "image", "projection": "none"},
    {"projection": "linear"},
    {"projection": "mlp"},
    {"nll_weight": 0.0},
    {"nll_weight": 2.5, "weight_column": "weight"},
]


@pytest.mark.parametrize("pack_candidates", [True, False], ids=["packed", "separate"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()))
def test_every_option_is_its_formula(tmp_path, options, pack_candidates):
    rows = pseudo_labels().to_list()
    rows.append({**rows[0], "chosen": rows[1]["chosen"], "image_id": "the same answer as image-1"})
    rows = Dataset.from_list(rows, features=pseudo_labels().features)
    options = {"use_lora": False, "learning_rate": 1e-3, "per_device_train_batch_size": 5, **options}
    assert_loss_and_gradients_of_the_reference(tmp_path, tiny_llava(), rows, pack_candidates=pack_candidates, **options)


@pytest.mark.parametrize("build", [tiny_llava, tiny_llava_next, tiny_qwen2_5_vl, tiny_smolvlm])
def test_several_images_in_a_row(tmp_path, build):
    rows = pseudo_labels().to_list()
    rows = [
        {**row, "images": (row["images"] + other["images"])[: 1 + n % 2]}
        for n, (row, other) in enumerate(zip(rows, rows[1:] + rows))
    ]
    assert [len(row["images"]) for row in rows] == [1, 2, 1, 2]
    rows = Dataset.from_list(rows, features=pseudo_labels().features)
    assert_loss_and_gradients_of_the_reference(tmp_path, build(), rows, use_lora=False)


@pytest.mark.parametrize("build", [tiny_llava, tiny_gemma3, tiny_qwen2_5_vl, tiny_smolvlm])
def test_conversations_are_one_reply_to_a_prompt_with_a_system_message(tmp_path, build):
    """Every turn of the chosen one counts, also those of the user, as a generator has to write them all."""
    talks = [
        [("What is it?", "A ball."), ("Which colour?", "Red."), ("Where?", "On a table.")],
        [("What is it?", "A ball."), ("Which colour?", "Blue.")],
        [("Is there a cat?", "No.")],
    ]
    chosen, *rejected = [message("assistant", ReplyForm("json", list_key="turns").write(talk)) for talk in talks]
    rows = pseudo_labels(3).to_list()
    for number, row in enumerate(rows):
        row["images"] = [*rows[number - 1]["images"], *row["images"]][: 1 if build is tiny_gemma3 else 2]
        system = message("system", f"You see {number} things.")
        row |= {"prompt": system + row["prompt"], "chosen": chosen, "rejected": rejected[:number]}
    rows = Dataset.from_list(rows, features=pseudo_labels().features)
    trainer = assert_loss_and_gradients_of_the_reference(tmp_path, build(), rows, use_lora=False)
    batch, processor = trainer.data_collator(list(rows)), trainer.processing_class
    learned = processor.decode(batch["input_ids"][batch["line"][0]][batch["label_mask"][0]])
    assert learned.strip().startswith(chosen[0]["content"])
    anchor = processor.decode(batch["input_ids"][batch["line"][0]][batch["anchor_mask"][0]])
    assert "You see 0 things." in anchor and "A ball" not in anchor


def test_collator_masks(llava):
    _, processor = llava
    rows = list(pseudo_labels())
    batch = DataCollatorForC3L(processor, weight_column="weight")(rows)
    assert next(iter(batch)) == "candidate_mask"  # the Trainer takes the batch size from the first tensor
    assert batch["candidate_mask"].tolist() == [
        [True] * 3,
        [True, True, False],
        [True, False, False],
        [True, True, False],
    ]
    assert batch["positive_index"].tolist() == [0, 3, 5, 6]
    assert batch["weight"].tolist() == [0.5, 0.75, 1.0, 1.25]

    texts = [text for row in ANSWERS for text in row]
    tokenizer, ids = processor.tokenizer, batch["input_ids"]
    for index, text in enumerate(texts):
        answer, label = batch["answer_mask"][index], batch["label_mask"][index]
        assert tokenizer.decode(ids[index][answer]).strip() == text
        if index in batch["positive_index"]:
            anchor = batch["anchor_mask"][batch["positive_index"].tolist().index(index)]
            assert tokenizer.decode(ids[index][anchor]).rstrip().endswith("ASSISTANT:")
            assert (ids[index][anchor] == processor.image_token_id).sum() == 16
            assert tokenizer.decode(ids[index][label]).strip() == text + "</s>"
        else:
            assert not label.any()
    padding = batch["attention_mask"] == 0
    assert padding.any() and batch["line"].tolist() == list(range(len(texts)))
    assert batch["num_tokens"].tolist() == batch["attention_mask"].sum(1).tolist()
    for name in ("answer_mask", "label_mask", "predict_mask"):
        assert not (batch[name] & padding).any()
    assert not (batch["anchor_mask"] & padding[batch["positive_index"]]).any()
    assert torch.equal(batch["predict_mask"][:, :-1], batch["label_mask"][:, 1:])


@pytest.mark.parametrize("packed", [False, True])
def test_a_template_without_end_token_gets_the_tokenizers(packed):
    """LLaVA-1.5's on the Hub writes a space after an answer and nothing else: with it alone nobody learns to stop."""
    _, processor = tiny_llava()
    processor.chat_template = LLAVA_TEMPLATE.replace("{{ eos_token }}", "{{ ' ' }}")
    batch = DataCollatorForC3L(processor, packed=packed)(list(pseudo_labels()))
    for index, row in zip(batch["positive_index"].tolist(), ANSWERS):
        ids = batch["input_ids"][batch["line"][index]]
        assert processor.tokenizer.decode(ids[batch["label_mask"][index]]).strip() == row[0] + "</s>"
        assert processor.tokenizer.decode(ids[batch["answer_mask"][index]]).strip() == row[0]


def test_packed_collator(llava):
    _, processor = llava
    rows = list(pseudo_labels())
    plain, packed = (DataCollatorForC3L(processor, packed=packed)(rows) for packed in (False, True))
    assert packed["line"].tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    assert len(packed["input_ids"]) == 4 and packed["attention_mask"].dtype == torch.bool
    assert packed["pixel_values"].shape[0] == 4 and plain["pixel_values"].shape[0] == 8
    assert packed["num_tokens"].sum() < plain["num_tokens"].sum() / 1.5
    assert packed["num_tokens"].max() == packed["input_ids"].shape[1]
    for index, line in enumerate(packed["line"].tolist()):
        for name in ("answer_mask", "label_mask"):
            one, other = packed["input_ids"][line][packed[name][index]], plain["input_ids"][index][plain[name][index]]
            assert one.tolist() == other.tolist(), name
    for number, index in enumerate(plain["positive_index"].tolist()):
        one = packed["input_ids"][number][packed["anchor_mask"][number]]
        assert one.tolist() == plain["input_ids"][index][plain["anchor_mask"][number]].tolist()
    # a token that predicts a label is the one before it in its sequence: it sees it, at the position before
    for index, line in zip(packed["positive_index"].tolist(), range(4)):
        labels, before = packed["label_mask"][index].nonzero()[:, 0], packed["predict_mask"][line].nonzero()[:, 0]
        assert (packed["position_ids"][line][labels] == packed["position_ids"][line][before] + 1).all()
        assert packed["attention_mask"][line, 0][labels, before].all()


def test_collator_example(llava, monkeypatch):
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda name: llava[1])
    examples = [
        example
        for example in doctest.DocTestFinder().find(DataCollatorForC3L, module=c3l_hf.training.collator)
        if example.examples
    ]
    flags = doctest.NORMALIZE_WHITESPACE
    assert doctest.DocTestRunner(optionflags=flags).run(examples[0]).failed == 0


@pytest.mark.parametrize("batch_size, steps", [(2, 2), (1, 4)])
def test_gradient_accumulation_equals_one_batch(tmp_path, batch_size, steps):
    runs = []
    for size, accumulation in ((4, 1), (batch_size, steps)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "optim": "sgd"}
        trainer = make_trainer(tmp_path, use_lora=False, max_grad_norm=0.0, learning_rate=0.1, **options)
        start = weights(trainer)
        trainer.train()
        runs.append({name: tensor - start[name] for name, tensor in weights(trainer).items()})
        logs = [log for log in trainer.state.log_history if "loss" in log]
        runs[-1]["loss"] = torch.tensor([log["loss"] for log in logs])
        runs[-1]["loss/nll"] = torch.tensor([log["loss/nll"] for log in logs])
    for name, step in runs[0].items():
        torch.testing.assert_close(runs[1][name], step, rtol=1e-3, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")


RESUMED = [
    {"use_lora": True},
    {"use_lora": False},
    {"use_lora": True, "train_projector": True, "projection": "mlp"},
    {"use_lora": False, "projection": "none", "in_batch_negatives": True},
]


@pytest.mark.parametrize("chosen", RESUMED, ids=["lora", "full", "lora+projector", "no head"])
def test_resuming_continues_to_the_same_weights(tmp_path, chosen):
    model, processor = tiny_llava()
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")

    def run(folder, resume=None, **options):
        trainer = C3LTrainer(
            str(tmp_path / "start"),
            config(tmp_path / folder, per_device_train_batch_size=2, **chosen, **options),
            train_dataset=pseudo_labels(),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    options = {"max_steps": 6, "lr_scheduler_type": "linear"}
    whole = run("whole", save_strategy="steps", save_steps=3, **options)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    assert_equal_weights(run("resumed", resume=str(checkpoint), **options), whole)
    assert_equal_weights(run("again", **options), whole)  # the same seed gives the same weights

    (checkpoint / "contrastive_head.safetensors").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-3 has no contrastive_head\.safetensors"):
        run("broken", resume=str(checkpoint), **options)


@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full"])
def test_best_model_is_loaded_at_the_end(tmp_path, use_lora):
    # Once the lowest and once the highest loss counts as the best: two different steps, and each time it is loaded.
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    options |= {"load_best_model_at_end": True, "learning_rate": 0.01, "optim": "sgd", "use_lora": use_lora}
    best = []
    for worse in (False, True):
        trainer = make_trainer(tmp_path / str(worse), eval_dataset=pseudo_labels(), greater_is_better=worse, **options)
        trainer.train()
        losses = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
        best.append(min(losses, key=lambda step: losses[step] * (-1 if worse else 1)))
        assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best[-1]], rel=1e-6)
    assert best[0] != best[1]


def saved_keys(folder):
    keys = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            keys |= set(weights.keys())
    return keys


@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full"])
def test_what_is_published_reloads_and_has_no_head(tmp_path, use_lora):
    trainer = make_trainer(tmp_path / "run", use_lora=use_lora)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    adapter = PeftModel.from_pretrained(tiny_llava()[0], tmp_path / "saved") if use_lora else None
    assert saved_keys(tmp_path / "saved") and not any("head.0" in key for key in saved_keys(tmp_path / "saved"))

    batch = DataCollatorForC3L(trainer.processing_class)(list(trainer.train_dataset))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    trainer.model.eval()
    with torch.no_grad():
        trained = trainer.model(**inputs).logits
        if use_lora:  # the adapter as such, on the model it was trained on
            torch.testing.assert_close(adapter(**inputs).logits, trained, rtol=1e-4, atol=1e-4)

    model = trainer.merged_model()
    assert not any("lora" in name or "contrastive" in name for name in model.state_dict())
    assert "forward" not in vars(model)
    model.save_pretrained(tmp_path / "merged")
    assert not any("contrastive" in key or "lora" in key for key in saved_keys(tmp_path / "merged"))
    reloaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        torch.testing.assert_close(reloaded(**inputs).logits, trained, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(tiny_llava()[0](**inputs).logits, trained, atol=1e-2)


def test_metrics_of_training_and_evaluation(tmp_path):
    # Three rows in batches of two: means are over rows, not over batches or sequences.
    rows = pseudo_labels(3)
    options = {"per_device_eval_batch_size": 2, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1}
    trainer = make_trainer(tmp_path, eval_dataset=rows, contrastive_weight=2.0, **options)
    trainer.train()
    training = next(log for log in trainer.state.log_history if "loss" in log)
    evaluation = next(log for log in trainer.state.log_history if "eval_loss" in log)
    for name in METRICS:
        assert name in training and f"eval_{name}" in evaluation
    assert training["loss"] == pytest.approx(training["loss/nll"] + 2 * training["loss/contrastive"], rel=1e-4)
    assert training["num_tokens"] == trainer.data_collator(list(trainer.train_dataset))["num_tokens"].sum()

    trainer.model.eval()
    collected = []
    with torch.no_grad():
        for row in rows:
            trainer.compute_loss(trainer.model, trainer.data_collator([row]))
            collected.append({name: values[0] for name, values in trainer._metrics["eval"].items()})
            trainer._metrics["eval"].clear()
    for name in METRICS:
        values = [metrics[name] for metrics in collected if name in metrics]
        assert len(values) == (
            2 if name in ("similarity/negative", "contrastive_accuracy") else 3
        )  # one has no negatives
        assert evaluation[f"eval_{name}"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    losses = [metrics["loss/nll"] + 2 * metrics["loss/contrastive"] for metrics in collected]
    assert evaluation["eval_loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)
    assert trainer.evaluate(pseudo_labels(1))["eval_loss"] == pytest.approx(losses[0], rel=1e-4)


def test_contrastive_accuracy_and_similarities(tmp_path):
    trainer = make_trainer(tmp_path)
    similarities = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.99], [0.3, 0.7, 0.7], [0.4, 0.4, 0.1]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [True, True, True]])
    trainer.model.train()
    trainer._log_rows(similarities, mask, torch.ones(4), torch.ones(4))
    logged = trainer._metrics["train"]
    assert logged["contrastive_accuracy"] == [1.0, 1.0, 0.0]  # a tie is not won; padding plays no part
    assert logged["similarity/positive"] == pytest.approx([0.9, 0.5, 0.3, 0.4])
    assert logged["similarity/negative"] == pytest.approx([0.15, 0.4, 0.25])


def test_training_lowers_both_losses(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=15)
    trainer.train()
    first, *_, last = [log for log in trainer.state.log_history if "loss" in log]
    assert last["loss/nll"] < 0.7 * first["loss/nll"] and last["loss/contrastive"] < 0.7 * first["loss/contrastive"]


def test_trl_defaults_bf16_and_gradient_checkpointing(tmp_path, recwarn):
    plain = C3LConfig(str(tmp_path), use_cpu=True)
    assert plain.bf16 and plain.gradient_checkpointing and plain.activation_checkpointing
    # TRL uses the old name of the option; that is nothing to warn its users of.
    assert not [warning for warning in recwarn if "checkpointing" in str(warning.message)]
    trainer = make_trainer(tmp_path, bf16=True, gradient_checkpointing=True)
    names = moved(trainer)
    assert any("lora_A" in name for name in names) and any("contrastive_head" in name for name in names)
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())

    # The head stays in float32 under bf16 autocast: its outputs are no bf16 numbers.
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert not torch.equal(outputs["anchor"].bfloat16().float(), outputs["anchor"].float())

    full = make_trainer(tmp_path, bf16=True, use_lora=False)
    full.train()
    model, (row, *_) = full.merged_model(), full.train_dataset
    inputs = encode_row(full.processing_class, row["prompt"], "red", row["images"]).inputs
    reloaded = copy.deepcopy(model)
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits) and "forward" not in vars(model)

    # Gradient checkpointing changes the memory, not the training.
    runs = [make_trainer(tmp_path, gradient_checkpointing=switch, use_lora=False) for switch in (True, False)]
    for run in runs:
        run.train()
    assert_equal_weights(*runs)


def test_all_is_inside_the_forward_for_ddp(tmp_path):
    trainer = make_trainer(tmp_path)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(trainer.model, find_unused_parameters=True)
        trainer.compute_loss(wrapped, trainer.data_collator(list(trainer.train_dataset))).backward()
    finally:
        dist.destroy_process_group()
    for name, parameter in trainer.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_the_path_is_said_and_chosen(tmp_path, caplog):
    assert make_trainer(tmp_path).data_collator.packed and not caplog.text
    assert not make_trainer(tmp_path, pack_candidates=False).data_collator.packed and not caplog.text
    assert not make_trainer(tmp_path, tiny_gemma3()).data_collator.packed
    assert "Gemma3ForConditionalGeneration: each candidate gets a sequence" in caplog.text
    assert "sliding_attention" in caplog.text
    caplog.clear()
    model, processor = tiny_llava()
    model.set_attn_implementation("eager")
    assert not make_trainer(tmp_path, (model, processor)).data_collator.packed
    assert "attn_implementation='sdpa'" in caplog.text


@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full"])
def test_packed_training_equals_separate(tmp_path, use_lora):
    # several optimizer steps; in full training a row's image is seen once instead of once per candidate
    trainers = [make_trainer(tmp_path, pack_candidates=pack, max_steps=4, use_lora=use_lora) for pack in (True, False)]
    for trainer in trainers:
        trainer.train()
    packed, separate = ([log["loss"] for log in t.state.log_history if "loss" in log] for t in trainers)
    assert packed == pytest.approx(separate, rel=1e-3) and packed[0] > packed[-1]


def test_bad_columns(tmp_path):
    rows = pseudo_labels()
    with pytest.raises(ValueError, match="train_dataset has no column 'rejected'; it has images, image_id"):
        make_trainer(tmp_path, train_dataset=rows.remove_columns("rejected"))
    with pytest.raises(ValueError, match="held_out has no column 'chosen'"):
        make_trainer(tmp_path, eval_dataset={"held_out": rows.remove_columns("chosen")})
    with pytest.raises(ValueError, match="train_dataset has no column 'score'"):
        make_trainer(tmp_path, weight_column="score")


def test_choices_are_those_of_the_command_line(tmp_path, capsys):
    assert set(get_args(get_type_hints(C3LConfig)["contrastive_loss"])) == set(CONTRASTIVE_LOSSES)
    options = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false", "--similarity", "hidden", "--pooling"]
    (args,) = TrlParser((C3LConfig,)).parse_args_and_config([*options, "last"])
    assert args.pooling == "last"
    with pytest.raises(SystemExit):
        TrlParser((C3LConfig,)).parse_args_and_config([*options, "max"])
    assert "invalid choice: 'max' (choose from 'mean', 'last')" in capsys.readouterr().err
    (tmp_path / "max.yaml").write_text("pooling: max\n")
    with pytest.raises(ValueError, match="pooling is 'max'; it must be one of mean, last"):
        TrlParser((C3LConfig,)).parse_args_and_config([*options[:-1], "--config", str(tmp_path / "max.yaml")])


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match="args is a SFTConfig; C3LTrainer needs a C3LConfig"):
        C3LTrainer(tiny_llava()[0], SFTConfig(str(tmp_path), use_cpu=True), pseudo_labels())
    for options, found in [
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"contrastive_weight": -1.0}, "contrastive_weight is -1.0"),
        ({"projection_dim": 0}, "projection_dim is 0"),
        ({"train_vision_tower": True}, "needs use_lora=False"),
        ({"train_language_model": False}, "leaves nothing to train"),
        ({"nll_weight": -1.0}, "nll_weight is -1.0"),
        ({"nll_weight": 0.0, "contrastive_weight": 0.0}, "both 0"),
        ({"nll_weight": 0.0, "token_weights": "cal"}, "token_weights weights the NLL, and nll_weight is 0"),
        ({"nll_weight": 0.0, "weight_column": "weight"}, "weight_column weights the NLL, and nll_weight is 0"),
        ({"contrastive_loss": "triplet"}, "contrastive_loss is 'triplet'; it must be one of infonce, sigmoid"),
        ({"anchor": "images"}, "anchor is 'images'; it must be one of prompt, text, image"),
        ({"pooling": "max"}, "pooling is 'max'; it must be one of mean, last"),
        ({"projection": "cnn"}, "projection is 'cnn'; it must be one of none, linear, linear_relu, mlp"),
        ({"invalid_rows": "skip"}, "invalid_rows is 'skip'; it must be one of raise, drop"),
        ({"similarity": "cosine"}, "similarity is 'cosine'; it must be one of likelihood, hidden"),
        *(({"similarity": "likelihood", **of_hidden}, "needs similarity='hidden'") for of_hidden in OPTIONS[:9]),
        ({"packing": True}, "packing is True; C3LTrainer supports False only"),
        ({"chat_template_path": "t.jinja"}, "chat_template_path is 't.jinja'; C3LTrainer supports None only"),
        ({"remove_unused_columns": True}, "remove_unused_columns is True"),
        ({"loss_type": "dft"}, "loss_type is 'dft'"),
    ]:
        with pytest.raises(ValueError, match=found):
            config(tmp_path, **options)


def test_the_temperature_follows_the_similarity(tmp_path):
    found = [
        C3LConfig(str(tmp_path), use_cpu=True, bf16=False, similarity=s).temperature for s in ("likelihood", "hidden")
    ]
    assert found == [0.3, 0.1]
    assert config(tmp_path, similarity="likelihood", temperature=0.1).temperature == 0.1


def test_config_from_yaml_and_help(tmp_path):
    file = tmp_path / "c3l.yaml"
    file.write_text("output_dir: out\nuse_cpu: true\ntemperature: 0.07\nuse_lora: false\nlearning_rate: 1.0e-4\n")
    (args,) = TrlParser((C3LConfig,)).parse_args_and_config(["--config", str(file), "--contrastive_weight", "0.5"])
    assert (args.temperature, args.contrastive_weight, args.use_lora, args.learning_rate) == (0.07, 0.5, False, 1e-4)
    own = C3LConfig.__annotations__
    assert {"temperature", "contrastive_weight", "projection_dim", "weight_column", "use_lora"} <= own.keys()
    for field in dataclasses.fields(C3LConfig):
        if field.name in own:
            assert field.metadata["help"]
            assert f"        {field.name} (`" in C3LConfig.__doc__ or f"`{field.name}`" in C3LConfig.__doc__


def test_model_can_be_trained_twice_and_copied(tmp_path):
    trainer = make_trainer(tmp_path, use_lora=False)
    again = make_trainer(tmp_path, (trainer.model, trainer.processing_class), use_lora=False)
    again.train()
    clone = copy.deepcopy(again.model)
    batch = again.data_collator(list(again.train_dataset))
    with torch.no_grad():
        assert torch.equal(again.compute_loss(clone, batch), again.compute_loss(again.model, batch))


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_adapters_of_the_callers(tmp_path, task_type):
    """With a task type, PEFT's model has arguments of its own for the forward."""
    adapters = language_model_lora(tiny_llava()[0], r=4)
    adapters.task_type = task_type
    trainer = make_trainer(tmp_path, peft_config=adapters)
    assert all("lora_" in name or HEAD in name for name in moved(trainer)) and trainer.state.global_step == 2
    assert trainer.model.peft_config["default"].r == 4


def test_rank_and_scale_of_the_adapters(tmp_path):
    chosen = make_trainer(tmp_path, lora_r=4, lora_alpha=12, train_projector=True).model.peft_config["default"]
    assert (chosen.r, chosen.lora_alpha, chosen.modules_to_save) == (4, 12, ["model.multi_modal_projector"])


def test_small_steps_of_a_projector_beside_adapters(tmp_path):
    """bfloat16 has 8 bits: a step of 1e-5 would not change a weight of 0.1."""
    model, processor = tiny_llava()
    options = {"train_projector": True, "bf16": True, "learning_rate": 1e-5}
    trainer = make_trainer(tmp_path, (model.bfloat16(), processor), **options)
    names = moved(trainer)
    assert any("multi_modal_projector" in name for name in names)
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    assert {trainer.model.get_parameter(name).dtype for name in trained if HEAD not in name} == {torch.float32}
    assert {weight.dtype for weight in trainer.merged_model().parameters()} == {torch.bfloat16}


def test_one_process_with_several_gpus(tmp_path, monkeypatch):
    for options in (C3LConfig, StudentConfig):
        monkeypatch.setattr(options, "n_gpu", 2)
        with pytest.raises(ValueError, match="sees 2 GPUs.*accelerate launch --num_processes 2"):
            options(str(tmp_path), use_cpu=True, bf16=False)
