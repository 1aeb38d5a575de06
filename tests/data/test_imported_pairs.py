"""Somebody's pairs: each image once, every row accounted for, in any layout."""

import io
from base64 import b64encode

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from c3l_hf.common.errors import RunError
from c3l_hf.data.file_states import FILE_STATES
from c3l_hf.data.imported_pairs import import_pairs
from c3l_hf.data.schema import PAIR_FEATURES, PAIR_TABLE_FEATURES
from c3l_hf.data.sources import image_column


def png(colour):
    file = io.BytesIO()
    PILImage.new("RGB", (8, 6), colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_rows_about_one_image_come_together():
    rows = {
        "image": [png("red"), png("blue"), png("red"), png("blue")],
        "question": ["a?", "b?", "c?", ""],
        "answer": ["1", "2", "3", ""],
    }
    pairs = import_pairs(Dataset.from_dict(rows, features=Features({**text("question", "answer"), "image": Image()})))
    assert len(pairs.images) == 2 and pairs.images.dataset["image_id"][:] == ["000000", "000001"]
    assert pairs.images.dataset[1]["image"].getpixel((0, 0)) == (0, 0, 255)
    assert pairs.table.schema == PAIR_TABLE_FEATURES.arrow_schema and pairs.first_rows == [0, 2, 4]
    columns = pairs.table.to_pydict()
    assert columns["pair_id"] == ["000000/0", "000000/1", "000001/0", "000001/1"]
    assert columns["image_row"] == [0, 0, 1, 1]
    assert [prompt and prompt[0]["content"] for prompt in columns["prompt"]] == ["a?", "c?", "b?", None]
    assert columns["generation_status"] == ["ok", "ok", "ok", "the answer is empty"]
    assert [part.to_pydict()["pair_id"] for part in pairs.tables(1, 2)] == [["000001/0", "000001/1"]]


@pytest.mark.parametrize("colour", ["red", "blue"])
def test_other_images_of_the_same_id_are_told(caplog, colour):
    """They may be copies of the first one, or the ids may name something else."""
    rows = {"image": [png("red"), png("red"), png(colour)], "image_id": ["a"] * 3}
    features = Features({**text("image_id", "question", "answer"), "image": Image()})
    rows |= {"question": list("stu"), "answer": ["x"] * 3}
    pairs = import_pairs(Dataset.from_dict(rows, features=features))
    assert len(pairs.table) == 3 and len(pairs.images) == 1
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == (colour == "blue")
    assert all("1 rows have another image than the first row of their image_id (row 2 " in line for line in warned)


def test_paths_that_leave_the_folder_are_neither_read_nor_published(tmp_path, monkeypatch):
    """Also where the same path leads to a picture from the working folder."""
    for folder in ("pictures", "here"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("secret.png", "pictures/mine.png"):
        PILImage.new("RGB", (8, 6), "red").save(tmp_path / name)
    outside = tmp_path / "secret.png"
    names = [
        "../secret.png",
        str(outside),
        outside.as_uri(),
        "../here/../secret.png",
        "mine.png",
        "../pictures/mine.png",
    ]
    rows = Dataset.from_dict({"image": names, "question": list("abcdef"), "answer": ["x"] * 6})
    pairs = import_pairs(rows, image_folder=str(tmp_path / "pictures"))
    assert [prompt[0]["content"] for prompt in pairs.table["prompt"].to_pylist()] == ["e", "f"]
    assert pairs.without_image == {"the image's path does not lead into the folder of the images": 4}
    stored = pairs.images.dataset.cast_column("images", List(Image(decode=False)))
    assert {row["images"][0]["path"] for row in stored} == {str(tmp_path / "pictures" / "mine.png")}


def text(*names):
    return {name: Value("string") for name in names}


def test_columns_that_are_there_are_used():
    features = Features(
        {"image": Image(), "conversations": List(text("from", "value")), **text("image_id", "pair_id", "type")}
    )
    conversation = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    rows = [
        {"image": png("red"), "conversations": conversation, "image_id": "x", "pair_id": "p1", "type": "count"},
        # Another copy of the picture, the same image by its id.
        {"image": png("green"), "conversations": conversation, "image_id": "x", "pair_id": "p2", "type": None},
        {"image": png("blue"), "conversations": conversation * 2, "image_id": "y", "pair_id": "p3", "type": "where"},
    ]
    pairs = import_pairs(Dataset.from_list(rows, features=features))
    columns = pairs.table.to_pydict()
    assert columns["image_id"] == ["x", "x", "y"] and columns["pair_id"] == ["p1", "p2", "p3"]
    assert columns["type"] == ["count", "general", "where"] and columns["template"] == [None] * 3
    assert columns["prompt"][0] == [{"role": "user", "content": "What?"}]
    assert columns["completion"][0] == [{"role": "assistant", "content": "A dog."}]
    assert columns["generation_status"][2].startswith("the conversation has 2 ")


def plain(*turns, system=None):
    """`prompt` and `completion` of a row as generation writes it; the turns are texts of user and assistant."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": content} for place, content in enumerate(turns)]
    first = [{"role": "system", "content": system}] if system else []
    return {"prompt": [*first, *messages[:1]], "completion": messages[1:]}


def test_what_generation_wrote_is_carried(caplog):
    """Its pairs, its conversations, several of one reply, and rows without a pair with their reason."""
    said = {
        "language": "de",
        "raw": "Frage: …",
        "generation_status": "ok",
        "generation_prompt": plain("Frage etwas.", system="Sei kurz.")["prompt"],
        "reply_form": '{"form": "labelled"}',
        "usage": {"served_model": "vlm", "prompt_tokens": 90, "completion_tokens": 12},
        "attempt": 1,
        "template": "mine",
        "type": "talk",
        "image_id": "a",
    }
    talk = plain("Was?", "Der Hund.", "Und?", "Der Ball.")
    more = {"served_model": "vlm", "prompt_tokens": None, "completion_tokens": None}
    rows = [
        {**said, **talk, "pair_id": "a/0.0"},
        {**said, **plain("Wo?", "Da."), "pair_id": "a/0.1", "usage": more},
        {**said, "prompt": None, "completion": None, "pair_id": "a/1", "generation_status": "no answer\n in it"},
    ]
    dataset = Dataset.from_list([{**row, "images": [png("red")]} for row in rows], features=PAIR_FEATURES)
    table = import_pairs(dataset).table.to_pylist()
    for found, row in zip(table, rows):
        expected = {**row, "image_row": 0, "generation_status": "no answer in it" if row["prompt"] is None else "ok"}
        assert found == expected
    assert import_pairs(dataset.remove_columns("usage")).table["usage"].null_count == 3 and not caplog.records
    for name, other in (("generation_prompt", "Frage etwas."), ("usage", 102)):
        wrong = dataset.remove_columns(name).add_column(name, [other] * 3)
        table = import_pairs(wrong).table
        assert table[name].null_count == 3 and table["raw"].null_count == 0
        assert caplog.records.pop().getMessage().startswith(f"pairs: {name} not read: ")


def test_columns_of_which_a_file_knows_no_type():
    row = {"question": "Wo?", "answer": "Da.", "image": png("red"), "language": None, "reply_form": None}
    usage = {"served_model": None, "prompt_tokens": 90, "completion_tokens": 3}
    dataset = Dataset.from_list([{**row, "generation_prompt": plain("Frage.")["prompt"], "usage": usage}])
    assert dataset.features["language"] == dataset.features["usage"]["served_model"] == Value("null")
    [found] = import_pairs(dataset).table.to_pylist()
    assert found["usage"] == usage and found["generation_prompt"] == plain("Frage.")["prompt"]


def test_conversations():
    features = Features({"images": List(Image()), "messages": List(text("role", "content"))})
    talk = plain("<image><image>Which is red?", "The first.", "Sure?", "Yes.", system="Be brief.")
    user, answer = {"role": "user", "content": "And?"}, {"role": "assistant", "content": "A cat."}
    rows = [
        [*talk["prompt"], *talk["completion"]],
        [*talk["prompt"], *talk["completion"], answer],
        [*talk["prompt"], talk["completion"][0], user, {"role": "user", "content": "What else?"}, answer],
        [user, answer, {"role": "user", "content": "<image><image>Now?"}, answer],
        [*talk["prompt"], {"role": "assistant", "content": " "}, user, answer],
    ]
    rows = [{"images": [png("red"), png("blue")], "messages": messages} for messages in rows]
    table = import_pairs(Dataset.from_list(rows, features=features)).table.to_pydict()
    assert table["prompt"][0] == [talk["prompt"][0], {"role": "user", "content": "Which is red?"}]
    assert table["completion"][0] == talk["completion"]
    assert [len(messages or ()) for messages in table["completion"]] == [3, 0, 4, 0, 0]
    assert table["generation_status"] == [
        "ok",
        "two answers follow each other without a question between them",
        "ok",
        "an image comes after the first question; a pair's images come first",
        "assistant turn 1: the answer is empty",
    ]


def test_answers_that_are_not_asked_for_are_given():
    """Before the first one that is, they are earlier turns; between others they cannot be told apart."""
    weighted = {**text("role", "content"), "weight": Value("int64")}
    features = Features({"images": List(Image()), "messages": List(weighted)})
    turns = ("What?", "A dog.", "Where?", "There.", "Why?", "So.")
    rows = []
    for skipped in ((1,), (3,), (1, 3)):
        prompt = plain(*turns)
        messages = [*prompt["prompt"], *prompt["completion"]]
        rows.append([{**m, "weight": int(place not in skipped)} for place, m in enumerate(messages)])
    rows = [{"images": [png("red")], "messages": messages} for messages in rows]
    table = import_pairs(Dataset.from_list(rows, features=features)).table.to_pydict()
    assert [len(messages or ()) for messages in table["prompt"]] == [3, 0, 5]
    assert [len(messages or ()) for messages in table["completion"]] == [3, 0, 1]
    assert table["generation_status"][1] == "an answer between others is not asked for (weight 0 or loss false)"


def test_rows_without_image_are_counted():
    features = Features({"image": Image(), **text("question", "answer")})
    rows = [{"image": png("red"), "question": "a?", "answer": "1"}, {"image": None, "question": "b?", "answer": "2"}]
    pairs = import_pairs(Dataset.from_list(rows, features=features))
    assert pairs.without_image == {"the row has no image": 1} and len(pairs.table) == 1
    with pytest.raises(RunError, match="none of the 1 rows has an image"):
        import_pairs(Dataset.from_list(rows[1:], features=features))


def test_an_image_after_a_text_is_refused_by_name():
    item = {"type": Value("string"), "text": Value("string")}
    features = Features({"images": List(Image()), "prompt": List({"role": Value("string"), "content": List(item)})})
    features["completion"] = List(text("role", "content"))
    first = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    completion = [{"role": "assistant", "content": "A dog."}]
    rows = [
        {"images": [png("red")], "prompt": [{"role": "user", "content": items}], "completion": completion}
        for items in (first, first[::-1])
    ]
    table = import_pairs(Dataset.from_list(rows, features=features)).table.to_pydict()
    assert table["prompt"][0] == [{"role": "user", "content": "What?"}]
    assert table["generation_status"] == ["ok", "the prompt has an image after a text; a pair's images come first"]


def test_what_identifies_them():
    features = Features({"image": Image(), **text("question", "answer")})

    def digest(*rows):
        return import_pairs(Dataset.from_list([dict(zip(features, row)) for row in rows], features=features)).digest

    first = digest((png("red"), "a?", "1"))
    assert first == digest((png("red"), "a?", "1"))
    others = [
        digest((png("red"), "a?", "2")),
        digest((png("blue"), "a?", "1")),
        digest((png("red"), "a?", "1"), (None, "", "")),
    ]
    assert len({first, *others}) == 4


def test_wrong_input_is_named():
    with pytest.raises(RunError, match="pairs: cannot find pairs in the columns text"):
        import_pairs(Dataset.from_dict({"text": ["a"]}))
    features = Features({"image": Image(), **text("question", "answer", "pair_id", "image_id")})
    row = {"image": png("red"), "question": "a?", "answer": "1", "pair_id": "p", "image_id": "x"}
    with pytest.raises(RunError, match="'pair_id' must be unique; p is there more than once"):
        import_pairs(Dataset.from_list([row, row], features=features))
    with pytest.raises(RunError, match="row 1 has no image_id"):
        import_pairs(Dataset.from_list([row, {**row, "pair_id": "q", "image_id": None}], features=features))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("kind", ["path", "struct", "image"])
def test_images_as_other_tools_store_them(tmp_path, kind, listed):
    (tmp_path / "a b.png").write_bytes(png("blue")["bytes"])
    values = [str(tmp_path / "a b.png")] * 2 if kind == "path" else [png("blue")] * 2
    column = "images" if listed else "image"
    texts = text("question", "answer")
    rows = {column: [[value] for value in values] if listed else values, "question": ["a?", "b?"], "answer": ["1", "2"]}
    stored = {"path": Value("string"), "struct": {"bytes": Value("binary"), "path": Value("string")}, "image": Image()}
    feature = List(stored[kind]) if listed else stored[kind]
    pairs = import_pairs(Dataset.from_dict(rows, features=Features({column: feature, **texts})))
    assert pairs.first_rows == [0, 2] and len(pairs.images) == 1
    images = pairs.images.dataset[0][image_column(pairs.images.dataset)]
    (image,) = images if isinstance(images, list) else [images]
    assert image.getpixel((0, 0)) == (0, 0, 255)


def test_what_are_no_images_is_named():
    rows = {"image": [1, 2], "question": ["a?", "b?"], "answer": ["1", "2"]}
    with pytest.raises(RunError, match="pairs: column 'image' holds .*int64"):
        import_pairs(Dataset.from_dict(rows))


def test_a_kind_or_another_image_is_another_identity():
    """What selection and curation depend on beside the texts: the type, and which pair is about which image."""
    features = Features({"image": Image(), **text("question", "answer", "image_id", "type")})

    def digest(ids, types=("a", "a", "a")):
        rows = [
            {"image": png("red" if image == "x" else "blue"), "question": f"{n}?", "answer": "1", "image_id": image}
            for n, image in enumerate(ids)
        ]
        rows = [{**row, "type": type} for row, type in zip(rows, types)]
        return import_pairs(Dataset.from_list(rows, features=features)).digest

    assert len({digest("xyx"), digest("xyy"), digest("xyx", ("a", "b", "a"))}) == 3


def test_types_that_are_numbers_and_rows_in_any_order():
    rows = {
        "image": [png(colour) for colour in ("red", "blue", "green", "blue", "red")],
        "question": [f"{n}?" for n in range(5)],
        "answer": ["1"] * 5,
        "type": [3, 4, 5, 6, 7],
    }
    features = Features({"image": Image(), **text("question", "answer"), "type": Value("int64")})
    pairs = import_pairs(Dataset.from_dict(rows, features=features))
    columns = pairs.table.to_pydict()
    assert columns["type"] == ["3", "7", "4", "6", "5"] and columns["image_row"] == [0, 0, 1, 1, 2]
    assert pairs.first_rows == [0, 2, 4, 5]


def test_pictures_are_not_copied():
    """Each image is a row of theirs: selected, not written again."""
    rows = {"image": [png("red"), png("red"), png("blue")], "question": ["a?"] * 3, "answer": ["1"] * 3}
    dataset = Dataset.from_dict(rows, features=Features({"image": Image(), **text("question", "answer")}))
    images = import_pairs(dataset).images.dataset
    assert images["image_id"][:] == ["000000", "000001"]
    assert len(images) == 2 and len(images.data) == 3  # the table below is still that of all rows


def test_pictures_in_two_columns_or_in_the_messages(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / f"{name}.png").write_bytes(png(colour)["bytes"])
    a, b = (str(tmp_path / f"{name}.png") for name in "ab")
    rows = [
        {"image": a, "images": None, "question": "a?", "answer": "1"},
        {"image": None, "images": [a, b], "question": "b?", "answer": "2"},
        {"image": None, "images": None, "question": "c?", "answer": "3"},
        {"image": None, "images": [a, None], "question": "d?", "answer": "4"},
        {"image": a, "images": None, "question": "e?", "answer": "5"},
    ]
    pairs = import_pairs(Dataset.from_list(rows))
    assert pairs.images.dataset.column_names == ["images", "image_id", FILE_STATES] and pairs.first_rows == [0, 2, 3]
    colours = [[image.getpixel((0, 0)) for image in row["images"]] for row in pairs.images.dataset]
    assert colours == [[(255, 0, 0)], [(255, 0, 0), (0, 0, 255)]]
    assert [prompt[0]["content"] for prompt in pairs.table.to_pydict()["prompt"]] == ["a?", "e?", "b?"]
    assert pairs.without_image == {"the row has no image": 1, "images[N] is null; the row has N images": 1}

    item = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64(png("green")["bytes"])}}
    question = {"role": "user", "content": [item, {"type": "text", "text": "What?", "image_url": None}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A dog.", "image_url": None}]}
    pairs = import_pairs(Dataset.from_list([{"messages": [question, answer]}]))
    assert pairs.images.dataset[0]["images"][0].getpixel((0, 0)) == (0, 128, 0)
    assert pairs.table.to_pydict()["prompt"] == [[{"role": "user", "content": "What?"}]]


def base64(content):
    return b64encode(content).decode()
