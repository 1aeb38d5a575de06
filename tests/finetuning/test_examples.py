"""Rows of any layout → what a student is trained on: labels on the answers only, what is left out."""

import pytest
import torch
from datasets import Dataset
from tiny_families import tiny_internvl, tiny_llava_onevision, tiny_qwen2_5_vl, tiny_smolvlm
from tiny_models import LLAVA_TEMPLATE, tiny_gemma3, tiny_llava, tiny_llava_next
from tiny_students import PAIRS, REASONS, bad_rows, batch_of, config, curated, make_trainer, picture
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.finetuning.run import rows_digest
from c3l_hf.finetuning.student import fine_tune

ENDS = {"</s>", "<end_of_turn>", "<|im_end|>", "<end_of_utterance>"}

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


def test_trl_also_learns_the_further_questions_of_a_conversation(llava):
    """As docs/layouts.md and the card say: its loss is on all of the completion, ours on the answers."""
    processor = llava[1]
    row = list(layouts())[-1]
    ours = batch_of(encode_examples(Dataset.from_list([row]), processor))
    theirs = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)([row])
    learned = processor.decode(theirs["labels"][theirs["labels"] != -100])
    assert PAIRS[0][1] in learned and f"USER: {PAIRS[1][0]}" in learned and PAIRS[1][1] in learned
    assert PAIRS[0][0] not in learned
    assert all("USER" not in processor.decode(labels[labels != -100]) for labels in ours["labels"])
    # The same tokens, but for the newline that this template writes at the end.
    whole = ours["input_ids"][1]
    assert torch.equal(theirs["input_ids"][0, : len(whole)], whole)


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
    yield {"images": [picture(0)], "prompt": turns[:1], "completion": turns[1:]}


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "encoded again"])
def test_every_layout_gives_the_same_examples(llava, keep):
    processor = llava[1]

    def trained(dataset):
        examples = encode_examples(dataset, processor, keep=keep)
        batch = batch_of(examples)
        texts = [processor.tokenizer.decode(labels[labels != -100]).strip() for labels in batch["labels"]]
        assert examples.index["length"][:] == batch["attention_mask"].sum(dim=1).tolist()
        return texts, batch

    first, second, *conversations = layouts()
    answers = [f"{answer}</s>" for _, answer in PAIRS[:2]]
    assert len(conversations) == 3
    for row in conversations:
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


def test_a_picture_that_came_later(tmp_path):
    """The rows stay the same, so the cache of `datasets`, and a run's identity, have to know of the file."""
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


MIXED = [tiny_llava, tiny_llava_next, tiny_gemma3]
MIXED += [tiny_llava_onevision, tiny_qwen2_5_vl, tiny_smolvlm, tiny_internvl]


def without_pictures():
    """The five rows, of which the second and the last are about no picture, as in LLaVA's mix."""
    rows = curated().to_list()
    for number in (1, 4):
        rows[number]["images"] = []
    return Dataset.from_list(rows, features=curated().features)


@pytest.mark.parametrize("build", MIXED)
def test_rows_without_a_picture_are_trained_on_as_alone(tmp_path, build):
    model, processor = build()
    model.config.get_text_config().final_logit_softcapping = None
    trainer = make_trainer(tmp_path, (model, processor), dataset=without_pictures())
    examples = trainer.data_collator.examples
    assert examples.index["images"][:] == [1, 0, 1, 1, 0] and not examples.rejected
    batch, total = batch_of(examples), 0.0
    for number in range(5):
        row = examples.encoded(number, 0)
        ids = row.inputs["input_ids"][0]
        assert ("pixel_values" in row.inputs) == (number not in (1, 4))
        with torch.no_grad():
            log_probs = model.double()(**doubled(row.inputs)).logits[0].log_softmax(dim=-1)
        total += sum(log_probs[place - 1, ids[place]].item() for place in range(row.answer.start, row.answer.stop))
    with torch.no_grad():
        loss = trainer.compute_loss(model, doubled(batch)).item()
    assert loss == pytest.approx(-total / (batch["labels"] != -100).sum().item(), rel=1e-6)


def test_a_dataset_without_any_picture_is_refused(llava):
    """As one whose column of images has another name would be trained on as texts alone."""
    rows = Dataset.from_list([{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "1"}]}])
    with pytest.raises(ValueError, match=r"none of the 1 rows has an image \(read: messages\)"):
        encode_examples(rows, llava[1])


def test_a_turn_that_cannot_be_trained_on_leaves_the_others(llava):
    (first, one), (second, two) = PAIRS[:2]
    messages = [
        {"role": role, "content": text}
        for role, text in (("user", first), ("assistant", one), ("user", second), ("assistant", " "))
    ]
    rows = Dataset.from_list([{"images": [picture(0)], "messages": messages}])
    examples = encode_examples(rows, llava[1])
    assert examples.index["turn"][:] == [0] and not examples.rejected
    assert examples.shortened == {0: "assistant turn 2: the answer is empty"}
    assert examples.rejected_lines() == ["row 0: assistant turn 2: the answer is empty"]


def test_a_folder_of_pictures(llava, tmp_path):
    picture(0).save(tmp_path / "a.png")
    rows = Dataset.from_dict({"image": ["a.png"], "question": ["What?"], "answer": ["a dog"]})
    assert "cannot be read" in error_of(rows, llava[1])
    assert encode_examples(rows, llava[1], image_folder=str(tmp_path)).index["images"][:] == [1]
    outside = Dataset.from_dict({"image": ["../a.png"], "question": ["What?"], "answer": ["a dog"]})
    assert "is not in the folder" in error_of(outside, llava[1], image_folder=str(tmp_path))


def error_of(rows, processor, **options):
    with pytest.raises(ValueError) as error:
        encode_examples(rows, processor, **options)
    return str(error.value)


def test_control_tokens_as_letters(llava):
    rows = Dataset.from_dict({"image": [picture(0)], "question": ["What?"], "answer": ["a </s> dog"]}).cast_column(
        "image", curated().features["images"].feature
    )
    assert "control token '</s>'" in error_of(rows, llava[1])
    examples = encode_examples(rows, llava[1], control_tokens="escape")
    row = examples.encoded(0, 0)
    ids = row.inputs["input_ids"][0][row.answer].tolist()
    assert ids.count(llava[1].tokenizer.eos_token_id) == 1 and ids[-1] == llava[1].tokenizer.eos_token_id
    assert llava[1].tokenizer.decode(ids[:-1]).strip() == "a </s> dog"
