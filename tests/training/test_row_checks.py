"""Rows that cannot be trained on: found before the first step, named, and left out if asked; never in silence."""

import json
import logging
import re

import pytest
import torch
from datasets import Dataset, Image, IterableDataset, LargeList, List
from PIL import Image as PILImage
from tiny_families import as_letters
from tiny_models import tiny_llava
from tiny_training import config, make_trainer, message, moved, pseudo_labels, weights, with_pictures_elsewhere

from c3l_hf.files.opening import open_dataset
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.row_checks import row_problem
from c3l_hf.training.trainer import C3LTrainer

TWO = message("assistant", "yes") * 2


def rows_with(*changes):
    """Good rows with others between them: a change each of the second good one."""
    good = pseudo_labels().to_list()
    bad = [{**good[1], "image_id": f"bad-{number}", **change} for number, change in enumerate(changes)]
    return Dataset.from_list([good[0], *bad, *good[1:]], features=pseudo_labels().features)


BAD = [
    ({"images": []}, "images: there is none"),
    ({"images": None}, "images: there is none"),
    ({"images": [{"path": "missing.png", "bytes": None}]}, "images: .*missing.png"),
    ({"images": [{"path": None, "bytes": b"not an image"}]}, "images: .*"),
    ({"prompt": []}, "prompt: it is empty"),
    ({"prompt": None}, "prompt: it is empty"),
    ({"prompt": message("user", "  ")}, "a user message has no text"),
    ({"chosen": TWO}, r"chosen: its messages are not one of the assistant"),
    ({"chosen": None}, "chosen: it is null"),
    ({"chosen": message("assistant", " \n")}, "chosen: the answer is empty"),
    ({"chosen": message("assistant", None)}, "chosen: the answer is not a text but null"),
    ({"rejected": [message("assistant", "no"), message("user", "yes")]}, r"rejected\[1\]: its messages are not one of"),
    ({"rejected": [message("assistant", "")]}, r"rejected\[0\]: the answer is empty"),
    (
        {"chosen": message("assistant", "a  dog"), "rejected": [message("assistant", t) for t in ("no", "a dog ")]},
        r"rejected\[1\]: it is the chosen answer again",
    ),
    ({"chosen": message("assistant", "an <image> in the text")}, "chosen: the text contains the control token"),
    ({"rejected": [message("assistant", "dog " * 600)]}, r"rejected\[0\]: \d+ tokens, but the model takes at most 512"),
    ({"weight": float("nan")}, "weight: it is nan; give a number that is not negative"),
    ({"weight": None}, "weight: it is null"),
    ({"weight": -1.0}, "weight: it is -1.0"),
]  # fmt: skip


@pytest.mark.parametrize("change, found", BAD, ids=[found[:30] for _, found in BAD])
def test_a_bad_row_is_named_before_the_first_step(tmp_path, change, found):
    with pytest.raises(ValueError, match=rf"(?s)1 of 5 rows .*row 1 \(image_id 'bad-0'\), .*{found}.*invalid_rows="):
        make_trainer(tmp_path, train_dataset=rows_with(change), weight_column="weight")


def test_a_system_message_that_the_models_template_has_no_place_for(tmp_path):
    model, processor = tiny_llava()
    loop = "{% for m in messages %}"
    skips = loop.replace(" %}", " if m['role'] != 'system' %}")
    processor.chat_template = processor.chat_template.replace(loop, skips)
    rows = rows_with({"prompt": message("system", "Be brief.") + message("user", "Ask.")})
    found = r"1 of 5 rows .*row 1 \(image_id 'bad-0'\), chosen: the model's chat template leaves system messages out"
    with pytest.raises(ValueError, match=f"(?s){found}"):
        make_trainer(tmp_path, (model, processor), rows)


def test_bad_rows_are_dropped_and_counted(tmp_path, caplog):
    dataset = rows_with(*(change for change, _ in BAD))
    options = {"invalid_rows": "drop", "weight_column": "weight", "max_steps": 1}
    trainer = make_trainer(tmp_path, train_dataset=dataset, eval_dataset=dataset, **options)
    for rows in (trainer.train_dataset, trainer.eval_dataset):
        assert [row["image_id"] for row in rows] == [f"image-{number}" for number in range(4)]
    assert f"train_dataset: {len(BAD)} of {len(dataset)} rows are left out: 2 with images: there is none" in caplog.text
    assert moved(trainer)


def test_a_picture_that_came_later(tmp_path, caplog):
    """The rows stay the same, so the cache of `datasets` has to know of the file."""
    file = tmp_path / "late.png"
    stored = rows_with({"images": [str(file)]}).cast_column("images", List(Image(decode=False))).to_list()
    # Of a dataset in memory nothing would be in the cache.
    rows = Dataset.from_generator(lambda: iter(stored), features=pseudo_labels().features, cache_dir=tmp_path / "cache")
    trainer = make_trainer(tmp_path, train_dataset=rows, invalid_rows="drop")
    assert len(trainer.train_dataset) == len(rows) - 1 and "1 of 5 rows are left out" in caplog.text
    PILImage.new("RGB", (32, 32), "red").save(file)
    assert len(make_trainer(tmp_path, train_dataset=rows, invalid_rows="drop").train_dataset) == len(rows)


def test_only_the_first_are_listed_and_an_empty_rest_is_an_error(tmp_path):
    many = rows_with(*[{"images": []}] * 7)
    with pytest.raises(ValueError, match=r"7 of 11 rows[^$]*bad-4[^$]*and 2 more") as error:
        make_trainer(tmp_path, train_dataset=many)
    assert "bad-5" not in str(error.value)
    with pytest.raises(ValueError, match=r"(?s)7 of 7 rows .*No row is left"):
        make_trainer(tmp_path, train_dataset=many.select(range(1, 8)), invalid_rows="drop")
    with pytest.raises(ValueError, match="held_out: 1 of 5 rows"):
        make_trainer(tmp_path, eval_dataset={"held_out": rows_with({"images": []})})


def test_max_length_of_the_options_and_of_the_model(tmp_path):
    with pytest.raises(ValueError, match=r"row 0 \(image_id 'image-0'\), chosen: 62 tokens, .* at most 50"):
        make_trainer(tmp_path, max_length=50)
    assert make_trainer(tmp_path).data_collator.max_length == 512


def test_no_negatives_at_all(tmp_path):
    rows = pseudo_labels().to_list()
    alone = [{**row, "rejected": rejected} for row, rejected in zip(rows, ([], None, [], []))]
    alone = Dataset.from_list(alone, features=pseudo_labels().features)
    with pytest.raises(ValueError, match="no row with a rejected answer, .*contrastive_weight=0 .*in_batch_negatives"):
        make_trainer(tmp_path, train_dataset=alone)
    for options in ({"contrastive_weight": 0.0}, {"in_batch_negatives": True}):
        assert moved(make_trainer(tmp_path, train_dataset=alone, **options))


@pytest.mark.parametrize("images, found", [([], "there is none"), ([{"path": None, "bytes": b"x"}], "cannot be read")])
def test_a_stream_is_judged_as_it_comes(tmp_path, caplog, images, found):
    stream = rows_with({"images": images}).to_iterable_dataset()
    options = {"max_steps": 1, "per_device_train_batch_size": 4}
    with pytest.raises(ValueError, match=f"row with image_id 'bad-0', images: .*{found}"):
        make_trainer(tmp_path, train_dataset=stream, **options).train()
    trainer = make_trainer(tmp_path, train_dataset=stream, invalid_rows="drop", **options)
    with caplog.at_level(logging.WARNING):
        assert moved(trainer)
    assert re.search(f"train_dataset: the row with image_id 'bad-0' is left out, images: .*{found}", caplog.text)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_rows_that_are_made_when_they_are_read(tmp_path, caplog, num_proc):
    bad = rows_with({"images": []}, {"images": [{"path": None, "bytes": b"x"}]}, {"chosen": None})
    rows, good = with_pictures_elsewhere(bad), pseudo_labels()
    with pytest.raises(ValueError, match=r"(?s)3 of 7 rows .*row 2 \(image_id 'bad-1'\), images: .* cannot be read"):
        make_trainer(tmp_path, train_dataset=rows, dataset_num_proc=num_proc)
    options = {"invalid_rows": "drop", "max_steps": 1, "dataset_num_proc": num_proc}
    trainer = make_trainer(tmp_path, train_dataset=rows, eval_dataset=rows, **options)
    assert "train_dataset: 3 of 7 rows are left out" in caplog.text
    assert [row["image_id"] for row in trainer.train_dataset] == good["image_id"][:]
    plain = make_trainer(tmp_path, train_dataset=good, eval_dataset=good, **options)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    assert moved(trainer) == moved(plain)
    for name, weight in weights(plain).items():
        assert torch.equal(weight, weights(trainer)[name])


def test_a_transform_that_fails_is_a_problem_of_its_row(tmp_path, caplog):
    """Of `datasets`, too, which decodes the pictures before the transform."""
    rows = rows_with({"images": [{"path": None, "bytes": b"not an image"}]})
    bad = rows.with_transform(lambda batch: batch)
    with pytest.raises(ValueError, match=r"1 of 5 rows [^$]*row 1 \(image_id 'bad-0'\), it cannot be read: "):
        make_trainer(tmp_path, train_dataset=bad)
    first = rows.select([1, 0, 2]).with_transform(lambda batch: batch)
    trainer = make_trainer(tmp_path, train_dataset=first, invalid_rows="drop", max_steps=1)
    assert "1 of 3 rows are left out" in caplog.text and moved(trainer)


def test_columns_of_a_transform(tmp_path):
    rows = pseudo_labels().with_transform(lambda batch: {name: batch[name] for name in ("images", "prompt", "chosen")})
    with pytest.raises(ValueError, match="train_dataset has no column 'rejected'; it has images, prompt, chosen"):
        make_trainer(tmp_path, train_dataset=rows)
    alone = pseudo_labels().select([2]).with_transform(lambda batch: batch)
    with pytest.raises(ValueError, match="no row with a rejected answer"):
        make_trainer(tmp_path, train_dataset=alone)


def test_plain_texts_are_one_message_each(tmp_path):
    rows = pseudo_labels()
    plain = [
        {
            **row,
            "prompt": row["prompt"][0]["content"],
            "chosen": row["chosen"][0]["content"],
            "rejected": [answer[0]["content"] for answer in row["rejected"]],
        }
        for row in rows
    ]
    collator = DataCollatorForC3L(tiny_llava()[1])
    for one, other in zip(collator(plain).items(), collator(list(rows)).items()):
        assert one[0] == other[0] and (one[1] == other[1]).all()
    plain[1]["chosen"] = " "
    assert row_problem(plain[1], collator) == "chosen: the answer is empty"
    with pytest.raises(ValueError, match="row 1 .*chosen: the answer is empty"):
        make_trainer(tmp_path, train_dataset=Dataset.from_list(plain, features=None))


def items(text):
    return [{"type": "text", "text": text}]


PREFERENCES = {
    "one text": ("What colour?", "red", "blue"),
    "texts": ("What colour?", "red", ["blue", "green"]),
    "without spaces": ("什么颜色?", "红色的", "蓝色的"),
    "messages": (message("user", "What colour?"), message("assistant", "red"), message("assistant", "blue")),
    "items": (
        message("user", items("What colour?")),
        message("assistant", items("red")),
        message("assistant", items("blue")),
    ),
    "several in messages": (
        message("user", "What colour?"),
        message("assistant", "red"),
        [message("assistant", "blue"), message("assistant", "green")],
    ),
}


@pytest.mark.parametrize("form", PREFERENCES)
def test_preference_rows_as_trl_documents_them(tmp_path, form):
    """A rejected answer is an answer, whatever its form: never its letters, nor its messages one by one."""
    prompt, chosen, rejected = PREFERENCES[form]
    row = {**pseudo_labels(1)[0], "prompt": prompt, "chosen": chosen, "rejected": rejected}
    columns = ("images", "prompt", "chosen", "rejected")
    trainer = make_trainer(tmp_path, train_dataset=Dataset.from_list([{name: row[name] for name in columns}] * 2))
    collator = trainer.data_collator
    batch = collator([trainer.train_dataset[0]])
    tokenizer = trainer.processing_class.tokenizer
    texts = [
        tokenizer.decode(batch["input_ids"][line][mask]).strip()
        for line, mask in zip(batch["line"], batch["answer_mask"])
    ]
    expected = ["红色的", "蓝色的"] if form == "without spaces" else ["red", "blue", "green"]
    several = form in ("texts", "several in messages")
    known = [tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() for text in expected]
    assert texts == (known if several or form == "without spaces" else known[:2])
    trainer.train()


def texts_of(rows):
    """The rows as texts and one picture each: of all forms the plainest."""
    plain = [
        {
            "image": row["images"][0],
            "prompt": row["prompt"][0]["content"],
            "chosen": row["chosen"][0]["content"],
            "rejected": row["rejected"][0][0]["content"] if row["rejected"] else None,
        }
        for row in rows
    ]
    return Dataset.from_list(plain)


def in_the_prompt(folder):
    rows = []
    for number, row in enumerate(texts_of(pseudo_labels())):
        row.pop("image").save(folder / f"{number}.png")
        picture = {"type": "image", "image": str(folder / f"{number}.png")}
        rows.append({**row, "prompt": message("user", [picture, {"type": "text", "text": row["prompt"]}])})
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return open_dataset(str(file))


def conversations(folder):
    rows = [
        {
            "images": [row["image"]],
            "chosen": message("user", row["prompt"]) + message("assistant", row["chosen"]),
            "rejected": row["rejected"] and message("user", row["prompt"]) + message("assistant", row["rejected"]),
        }
        for row in texts_of(pseudo_labels())
    ]
    return Dataset.from_list(rows)


OTHERS = {
    "pictures in the prompt": in_the_prompt,
    "whole conversations": conversations,
    "numpy": lambda folder: texts_of(pseudo_labels()).with_format("numpy"),
    "torch": lambda folder: pseudo_labels().with_format("torch"),
    "large lists": lambda folder: pseudo_labels().cast_column("images", LargeList(Image())),
    "stream": lambda folder: texts_of(pseudo_labels()).to_iterable_dataset(),
    "stream of conversations": lambda folder: conversations(folder).to_iterable_dataset(),
    "transform": lambda folder: with_pictures_elsewhere(pseudo_labels()),
}


@pytest.mark.parametrize("form", OTHERS)
def test_the_same_rows_train_alike(tmp_path, form):
    """Loss by loss, from the reader to the model."""

    def losses(rows):
        options = {"per_device_train_batch_size": 2, "max_steps": 2, "train_sampling_strategy": "sequential"}
        trainer = make_trainer(tmp_path, train_dataset=rows, **options)
        trainer.train()
        names = ("loss/nll", "loss/contrastive")
        return [log[name] for log in trainer.state.log_history if "loss/nll" in log for name in names]

    theirs, first = OTHERS[form](tmp_path), pseudo_labels()
    one_each = first.map(lambda row: {"rejected": row["rejected"][:1]}, features=first.features)
    ours = first if form in ("torch", "large lists", "transform") else one_each
    assert losses(theirs) == pytest.approx(losses(ours), rel=1e-6)


def test_a_stream_that_lacks_a_column(tmp_path):
    def rows():
        yield from ({"images": row["images"], "prompt": "a", "chosen": "b"} for row in pseudo_labels())

    trainer = make_trainer(tmp_path, train_dataset=IterableDataset.from_generator(rows))
    with pytest.raises(ValueError, match="rejected: there is no such column, only images, prompt, chosen"):
        trainer.train()


def test_control_tokens_as_letters(tmp_path):
    rows = pseudo_labels().to_list()
    rows[1]["chosen"][0]["content"] = text = "<s>two</s> <image>"
    rows = Dataset.from_list(rows, features=pseudo_labels().features)
    with pytest.raises(ValueError, match="row 1 .*chosen: the text contains the control token '<s>'"):
        make_trainer(tmp_path, train_dataset=rows)
    trainer = make_trainer(tmp_path, train_dataset=rows, control_tokens="escape")
    batch, processor = trainer.data_collator([trainer.train_dataset[1]]), trainer.processing_class
    ids = batch["input_ids"][batch["line"][0]][batch["answer_mask"][0]].tolist()
    assert ids == as_letters(processor, f" {text}")
    trainer.train()
    with pytest.raises(ValueError, match="control_tokens is 'keep'; it must be one of refuse, escape"):
        config(tmp_path, control_tokens="keep")


def test_another_collator_is_left_alone(tmp_path):
    model, processor = tiny_llava()
    collator = DataCollatorForC3L(processor)
    dataset = rows_with({"images": []})
    trainer = C3LTrainer(model, config(tmp_path), dataset, processing_class=processor, data_collator=lambda rows: rows)
    assert len(trainer.train_dataset) == 5 and not collator.packed
