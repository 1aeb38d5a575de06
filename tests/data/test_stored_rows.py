"""Rows as all stages read them: columns of several kinds as their values, whoever reads them."""

import json

import pyarrow as pa
import pytest
from datasets import Audio, Features, List, Video, load_dataset
from PIL import Image

from c3l_hf.data.imported_pairs import import_pairs
from c3l_hf.data.stored_rows import stored_row, stored_rows
from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.scoring.dataset import score_dataset
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.row_checks import check_rows


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (48, 40), "red").save(path)
    return str(path)


def load(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "c"))


def conversation(answer):
    return [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": answer}]


def messages(answer, system=False):
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Colour?"}]}
    first = [{"role": "system", "content": "Be short."}] if system else []
    return [*first, user, {"role": "assistant", "content": answer}]


def answers(examples):
    tokenizer = examples.encoder.processor.tokenizer
    rows = [examples.encoded(row, 0) for row in examples.index["row"]]
    ids = [row.inputs["input_ids"][0] for row in rows]
    return [
        (tokenizer.decode(tokens[: row.answer.start]), tokenizer.decode(tokens[row.answer], skip_special_tokens=True))
        for tokens, row in zip(ids, rows)
    ]


@pytest.mark.parametrize("system", [False, True])
def test_items_beside_texts(llava, tmp_path, picture, system):
    """The commonest OpenAI habit: the user's content is a list of items, the assistant's a text."""
    rows = load(tmp_path, [{"images": [picture], "messages": messages("It is red.", system)}] * 2)
    assert "Json" in str(rows.features["messages"])
    assert stored_row(rows, 1)["messages"] == messages("It is red.", system)
    assert stored_rows(rows.with_format("arrow")[:], rows.features)[0]["images"] == [picture]
    for keep in (False, True):
        examples = encode_examples(rows, llava[1], keep=keep)
        assert not examples.rejected and len(examples.index) == 2
        for prompt, answer in answers(examples):
            assert answer.strip() == "It is red." and "Colour?" in prompt
            assert '"' not in prompt + answer and "type" not in prompt


def test_a_number_among_the_answers_is_refused_alone(llava, tmp_path, picture):
    good = {"id": "a", "image": picture, "conversations": conversation("It is red.")}
    rows = load(tmp_path, [good, good, {"id": "n", "image": picture, "conversations": conversation(3)}])
    assert "Json" in str(rows.features["conversations"])
    examples = encode_examples(rows, llava[1])
    assert list(examples.rejected) == [2] and "is neither a text nor" in examples.rejected[2]
    assert [answer.strip() for _, answer in answers(examples)] == ["It is red."] * 2
    # The scorer, and a run that begins with these pairs, read the same.
    statuses = score_dataset(rows, I2CScorer(*llava), cache_dir=tmp_path / "scores")["i2c_status"][:]
    assert statuses[:2] == ["ok", "ok"] and "is neither a text nor" in statuses[2]
    imported = import_pairs(rows).table.to_pydict()
    assert [value and value[0]["content"] for value in imported["completion"]] == ["It is red.", "It is red.", None]


def test_pseudo_labels_of_several_kinds(llava, tmp_path, picture):
    """A rejected answer with items in one row, and as text in another, makes the column one of JSON."""
    prompt = [{"role": "user", "content": "Ask."}]
    base = {"images": [picture], "prompt": prompt, "chosen": [{"role": "assistant", "content": "yes"}]}
    texts = {**base, "rejected": [[{"role": "assistant", "content": "no"}]]}
    items = {**base, "rejected": [[{"role": "assistant", "content": [{"type": "text", "text": "no"}]}]]}
    number = {**base, "rejected": [[{"role": "assistant", "content": 3}]]}
    rows = load(tmp_path, [texts, items, number])
    assert "Json" in str(rows.features["rejected"])
    with pytest.raises(ValueError) as refused:
        check_rows("train_dataset", rows, DataCollatorForC3L(llava[1]), drop=False, num_proc=None)
    # Of the third what is wrong is said of its value, not of JSON text.
    assert "1 of 3 rows" in str(refused.value) and "row 2" in str(refused.value)
    assert "the answer is not a text but a number" in str(refused.value)


def test_what_is_given_and_what_is_not_read(llava, tmp_path, picture):
    """OpenAI's `weight`, a column of videos, no picture: the same to the scorer, students and imported pairs."""
    user = {"role": "user", "content": "Colour?"}
    weighted = [user, {"role": "assistant", "content": "Wrong.", "weight": 0}, {"role": "user", "content": "Again?"}]
    weighted.append({"role": "assistant", "content": "It is red.", "weight": 1})
    plain = [user, {"role": "assistant", "content": "Hello."}]
    rows = [
        {"image": picture, "messages": weighted},
        {"messages": plain},
        {"image": picture, "messages": plain, "videos": ["a.mp4"]},
    ]
    rows = load(tmp_path, rows)
    examples = encode_examples(rows, llava[1])
    assert list(examples.rejected) == [2] and "column videos, which is not read" in examples.rejected[2]
    (prompt, answer), (text, hello) = answers(examples)
    assert "Wrong." in prompt and (answer.strip(), hello.strip()) == ("It is red.", "Hello.")
    assert "<image>" in prompt and "<image>" not in text
    scored = score_dataset(rows, I2CScorer(*llava), cache_dir=tmp_path / "scores")
    statuses = scored["i2c_status"][:]
    assert len(scored["turns"][0]) == 1 and "".join(scored["answer_tokens"][0]).strip() == "It is red."
    assert statuses[0] == "ok" and "no image" in statuses[1] and statuses[2] == examples.rejected[2]
    imported = import_pairs(rows)
    assert imported.table["generation_status"].to_pylist() == ["ok", examples.rejected[2]]
    assert imported.without_image == {"the row has no image": 1}


def test_sounds_and_videos_are_not_decoded():
    features = Features({"video": Video(), "audios": List(Audio())})
    content = {"video": {"bytes": b"no video", "path": None}, "audios": [{"bytes": b"?", "path": None}]}
    (row,) = stored_rows(pa.Table.from_pylist([content], schema=features.arrow_schema), features)
    assert row["video"]["bytes"] == b"no video" and row["audios"][0]["bytes"] == b"?"
