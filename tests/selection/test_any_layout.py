"""Scored rows of every accepted layout: the same choice as of plain messages, rows and pictures as they were."""

import io
import json
import random
from base64 import b64encode

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, LargeList, List, Value, load_dataset
from PIL import Image as PILImage
from plain_selection import plain_labels, plain_pairs

from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES
from c3l_hf.generation.templates import format_pair, get_template
from c3l_hf.selection.curation import curate, length_correlation, random_selection
from c3l_hf.selection.pseudo_labels import select_pseudo_labels

COLOURS = ["red", "green", "blue"]
# (image, question, answer, score): image 0 has two pairs that read alike, image 2 one pair.
PAIRS = [
    (0, "How many dogs?", "There are two dogs on the grass.", 0.5),
    (1, "What is it?", "A cat that sleeps on a chair.", 0.9),
    (0, "Which colour?", "It is as red as it can be.", 0.7),
    (0, "how many dogs", "There are three.", 0.1),
    (1, "Where is it?", "On the left, near the door.", 0.2),
    (2, "Who is there?", "Nobody is to be seen.", 0.4),
    (1, "What is near it?", "An old lamp.", 0.3),
]
KEPT = [0, 2, 1, 4, 6, 5]  # without row 3; sorted by (image, pair)
ASSUMED = [
    "no column image_id: rows with the same image, by content or path, are about one image",
    "no column type: all pairs count as one type",
]


def content(colour):
    file = io.BytesIO()
    PILImage.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


PNG = list(map(content, COLOURS))


def stored(image):
    return {"bytes": PNG[image], "path": None}


def user(value):
    return [{"role": "user", "content": value}]


def assistant(value):
    return [{"role": "assistant", "content": value}]


def item(text):
    return [{"type": "text", "text": text}]


def items(text):
    return [{"type": "image", "text": None}, *item(text)]


def url(text, image):
    address = {"url": "data:image/png;base64," + b64encode(PNG[image]).decode()}
    return [{"type": "image_url", "image_url": address}, {"type": "text", "text": text}]


def llava(question, answer):
    return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]


LAYOUTS = {
    "messages of texts": lambda i, q, a: {"images": [stored(i)], "prompt": user(q), "completion": assistant(a)},
    "markers": lambda i, q, a: {"images": [stored(i)], "prompt": user(f"<image>\n{q}"), "completion": assistant(a)},
    "a system message": lambda i, q, a: {
        "image": stored(i),
        "prompt": [{"role": "system", "content": "Be short."}, *user(q)],
        "completion": assistant(a),
    },
    "texts": lambda i, q, a: {"image": stored(i), "prompt": q, "completion": a},
    "items": lambda i, q, a: {"images": [stored(i)], "prompt": user(items(q)), "completion": assistant(item(a))},
    "question, answer": lambda i, q, a: {"image": PNG[i], "question": f"<image>{q}", "answer": a},
    "one of answers": lambda i, q, a: {"image": stored(i), "question": q, "answers": [a]},
    "conversations": lambda i, q, a: {"image": stored(i), "conversations": llava(q, a)},
    "messages in columns": lambda i, q, a: {
        "images": [stored(i)],
        "messages": {"role": ["user", "assistant"], "content": [q, a]},
    },
    "messages": lambda i, q, a: {"images": [stored(i)], "messages": user(q) + assistant(a)},
    "pictures in messages": lambda i, q, a: {"messages": user(url(q, i)) + assistant(item(a))},
    "FineVision": lambda i, q, a: {"images": [stored(i)], "texts": [{"user": q, "assistant": a}]},
    "prompt, response": lambda i, q, a: {"image": stored(i), "prompt": q, "response": a},
    "query, response": lambda i, q, a: {"images": [stored(i)], "query": f"<image>{q}", "response": a, "history": []},
    "instruction, output": lambda i, q, a: {"image": stored(i), "instruction": q, "input": "", "output": a},
}


def types_of(value, name=""):
    """The type of a column by a value, images as images."""
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return Image()
    if name == "history":
        return List(List(Value("string")))
    if isinstance(value, list):
        return List(types_of(value[0]))
    return {key: types_of(inner) for key, inner in value.items()} if isinstance(value, dict) else None


def scored(rows, values):
    """Rows as `score_dataset` gives them back, with the number of each."""
    rows = [
        {**row, "number": number, "i2c": score, "i2c_status": "no" if score is None else "ok"}
        for number, (row, score) in enumerate(zip(rows, values))
    ]
    plain = Dataset.from_list([{k: v for k, v in row.items() if not _has_image(v)} for row in rows])
    features = Features({k: plain.features[k] if k in plain.features else types_of(v) for k, v in rows[0].items()})
    return Dataset.from_list(rows, features=features)


def _has_image(value):
    value = value[0] if isinstance(value, list) and value else value
    return isinstance(value, dict) and "bytes" in value


def dataset_of(layout, pairs=PAIRS):
    return scored([LAYOUTS[layout](*pair[:3]) for pair in pairs], [pair[3] for pair in pairs])


def check_choice(dataset, colour_of=lambda image: image.getpixel((0, 0)), **options):
    kept, report = curate(dataset)
    assert kept["number"][:] == KEPT and kept.features == dataset.features
    assert report.dropped["same instruction about the same image"] == 1 and report.assumed == ASSUMED
    assert all(line in str(report) for line in ASSUMED) and report.types_after == {"general": 6}
    raw = dataset.with_format("arrow")[:].to_pylist()
    assert kept.with_format("arrow")[:].to_pylist() == [raw[number] for number in KEPT]

    labels, report = select_pseudo_labels(dataset, **options)
    assert labels.features == PSEUDO_LABEL_FEATURES
    texts = [format_pair(question, answer) for _, question, answer, _ in PAIRS]
    assert [label[0]["content"] for label in labels["chosen"]] == [texts[2], texts[1]]
    rejected = [[messages[0]["content"] for messages in label] for label in labels["rejected"]]
    assert rejected == [[texts[3], texts[0]], [texts[4], texts[6]]]
    assert labels["prompt"][:] == [user(get_template("general-1").text)] * 2
    assert labels["image_id"][:] == ["000000", "000001"] and labels["chosen_score"][:] == pytest.approx([0.7, 0.9])
    assert [[colour_of(image) for image in images] for images in labels["images"]] == [[(255, 0, 0)], [(0, 128, 0)]]
    assert report.images == 3 and report.images_dropped["fewer than two scored pairs"] == 1
    assert report.assumed == [*ASSUMED, "no column template: the instruction is that of general-1"]
    assert report.assumed[-1] in str(report)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_choice_of_plain_messages(layout):
    dataset = dataset_of(layout)
    check_choice(dataset)
    order = [len(PAIRS) - 1, *range(len(PAIRS) - 1)]
    moved = dataset.select(order)  # rows in another order than they are stored
    assert sorted(curate(moved)[0]["number"]) == sorted(KEPT)
    assert length_correlation(dataset) == length_correlation(dataset_of("messages of texts"))
    assert sorted(random_selection(dataset, 7)["number"]) == list(range(7))


@pytest.mark.parametrize(
    "kind", ["paths", "folder", "lists of paths", "both columns", "large lists", "fixed lists", "late"]
)
def test_images_in_every_form_load(tmp_path, kind):
    for image, colour in enumerate(COLOURS):
        (tmp_path / f"{colour}.png").write_bytes(PNG[image])
    paths = [str(tmp_path / f"{COLOURS[image]}.png") for image, *_ in PAIRS]
    names = [f"{COLOURS[image]}.png" for image, *_ in PAIRS]
    columns = {
        "paths": {"image": paths},
        "folder": {"image": names},
        "lists of paths": {"images": [[path] for path in paths]},
        "both columns": {
            "image": [None if image == 1 else stored(image) for image, *_ in PAIRS],
            "images": [[stored(1)] if image == 1 else None for image, *_ in PAIRS],
        },
        "large lists": {"images": [[stored(image)] for image, *_ in PAIRS]},
        "fixed lists": {"images": [[stored(image)] for image, *_ in PAIRS]},
        "late": {"image": [stored(image) for image, *_ in PAIRS]},
    }[kind]
    types = {
        "both columns": {"image": Image(), "images": List(Image())},
        "large lists": {"images": LargeList(Image())},
        "fixed lists": {"images": List(Image(), length=1)},
        "late": {"image": Image(decode=False)},
    }.get(kind)
    rows = {
        "number": list(range(7)),
        "question": [pair[1] for pair in PAIRS],
        "answer": [pair[2] for pair in PAIRS],
        "i2c": [pair[3] for pair in PAIRS],
        "i2c_status": ["ok"] * 7,
    }
    dataset = Dataset.from_dict({**rows, **columns})
    if types:
        dataset = Dataset.from_dict({**rows, **columns}, features=Features({**dataset.features, **types}))
    if kind == "folder":
        with pytest.raises(ValueError, match=r"the image red\.png is not there; say where \(image_folder\)"):
            select_pseudo_labels(dataset)
        check_choice(dataset, image_folder=tmp_path)
        with pytest.raises(ValueError, match=r"red\.png is not there in "):
            select_pseudo_labels(dataset, image_folder=tmp_path / "elsewhere")
        (tmp_path / "inner").mkdir()
        outside = dataset.map(lambda row: {"image": f"../{row['image']}"})
        with pytest.raises(ValueError, match=r"\.\./red\.png is not in the folder"):
            select_pseudo_labels(outside, image_folder=tmp_path / "inner")
    else:
        check_choice(dataset)
        with_ids = dataset.add_column("image_id", [str(image) for image, *_ in PAIRS])
        assert curate(with_ids)[0]["number"][:] == KEPT


def test_items_beside_texts_as_files_have_them(tmp_path):
    """The commonest habit: the user's content is a list, the assistant's a text; `datasets` makes it a Json column."""
    for image, colour in enumerate(COLOURS):
        (tmp_path / f"{colour}.png").write_bytes(PNG[image])
    rows = [
        {
            "image": str(tmp_path / f"{COLOURS[image]}.png"),
            "messages": user([{"type": "image"}, *item(question)]) + assistant(answer),
            "number": number,
            "i2c": score,
            "i2c_status": "ok",
        }
        for number, (image, question, answer, score) in enumerate(PAIRS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = str(tmp_path / "rows.jsonl")
    dataset = load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert "Json" in str(dataset.features["messages"])
    check_choice(dataset)


def test_ids_and_kinds_that_are_there_count():
    dataset = dataset_of("texts")
    ids = ["x" if number % 2 else "y" for number in range(7)]
    with_ids = dataset.add_column("image_id", ids).add_column("type", [1, 2] * 3 + [1])
    kept, report = curate(with_ids)
    assert report.assumed == [] and report.types_after == {"1": 4, "2": 3}
    assert kept["image_id"][:] == ["x"] * 3 + ["y"] * 4  # row 3 is about another image than row 0 now
    labels, _ = select_pseudo_labels(with_ids, within="all")
    assert labels["image_id"][:] == ["y", "x"] and labels["type"][:] == ["1", "2"]
    unknown = with_ids.add_column("template", ["mine"] * 7)
    with pytest.raises(ValueError, match="no template 'mine'; the templates are"):
        select_pseudo_labels(unknown, within="all")
    assert len(curate(unknown)[0]) == 7
    with pytest.raises(ValueError, match="column 'type' has values of type list.*; it must have texts or numbers"):
        curate(dataset.add_column("type", [["a"]] * 7))


@pytest.mark.parametrize("layout", ["texts", "conversations", "items", "question, answer"])
def test_beside_ids_no_image_is_read(layout):
    """Nor has it to be there, but for items that are places of images."""
    dataset = dataset_of(layout).add_column("image_id", [str(image) for image, *_ in PAIRS])
    column = next(name for name in ("image", "images") if name in dataset.column_names)
    broken = [{"bytes": b"no picture", "path": None}] * 7
    kind = dataset.features[column]
    values = [[value] for value in broken] if isinstance(kind, List) else broken
    values = [b"no picture"] * 7 if kind == Value("binary") else values
    dataset = dataset.remove_columns(column).add_column(column, values, feature=kind)
    assert curate(dataset)[0]["number"][:] == KEPT
    if layout == "items":
        _, report = curate(dataset.remove_columns(column))
        assert report.dropped["the messages have places for N images, the row has N"] == 7
    else:
        bare = dataset.remove_columns(column)
        assert curate(bare)[0]["number"][:] == KEPT
        assert "images" not in select_pseudo_labels(bare)[0].column_names


def test_conversations_are_one_row_for_curation_and_none_for_labels():
    def talk(*turns):
        return [message for question, answer in turns for message in llava(question, answer)]

    def rows(*talks):
        talks = [[{**m, "value": m["value"].replace("<image>\n", "")} for m in talk] for talk in talks]
        return scored([{"image": stored(0), "conversations": talk} for talk in talks], [0.9, 0.8, 0.7, 0.6, 0.5])

    first, second = ("How many dogs?", "Two dogs."), ("Where are they?", "They lie on a red sofa.")
    other = ("Is it day?", "It is late at night, the lamps are on.")
    # The last questions are the same in rows 0 and 1, the talks are not; row 2 repeats row 0 but for case.
    dataset = rows(
        talk(first, second),
        talk(other, second),
        talk((first[0].upper(), first[1]), second),
        talk(first),
        talk(other),
    )
    kept, report = curate(dataset)
    assert kept["number"][:] == [0, 1, 3, 4] and report.dropped["same instruction about the same image"] == 1
    words = [len(f"{a} {b}".split()) for a, b in ((first[1], second[1]), (other[1], second[1]))]
    assert words == [8, 15] and report.length_before.pairs == 5
    labels, report = select_pseudo_labels(dataset)
    assert report.pairs_left_out["a conversation of several answers, not a pair"] == 3
    assert "a conversation of several answers, not a pair" in str(report)
    assert labels["chosen"][0][0]["content"] == format_pair(*first)
    assert labels["rejected"][0] == [assistant(format_pair(*other))]


def test_turns_without_a_score_leave_the_others():
    """What the scorer passes over, selection passes over: the row has a score."""
    talk = llava("What?", "A dog.") + [
        {"from": "human", "value": "And?"},
        {"from": "gpt", "value": " "},
        {"from": "human", "value": "What else?"},
        {"from": "gpt", "value": "A cat."},
    ]
    dataset = scored([{"image": stored(0), "conversations": talk}], [0.5])
    turn = {"i2c": 0.5, "status": "ok"}
    dataset = dataset.add_column("turns", [[turn, {"i2c": None, "status": "the answer is empty"}, turn]])
    kept, report = curate(dataset)
    assert kept["number"][:] == [0] and report.length_before.pairs == 1 and kept.features == dataset.features


def test_rows_that_cannot_be_read_are_counted_with_their_reason():
    rows = [LAYOUTS["messages"](*pair[:3]) for pair in PAIRS]
    rows[0]["messages"] = user("What?")
    rows[3]["messages"] = user("What?") + assistant(" ")
    rows[4]["messages"] = user("<image> <image>?") + assistant("Two.")
    rows[5]["messages"] = None
    dataset = scored(rows, [pair[3] for pair in PAIRS])
    kept, report = curate(dataset)
    assert kept["number"][:] == [2, 1, 6]
    assert {reason: count for reason, count in report.dropped.items() if count} == {
        "no pair": 1,
        "the answer is empty": 1,
        "the messages have places for N images, the row has N": 1,
        "there is no answer of the assistant (roles: user)": 1,
    }
    assert sum(report.dropped.values()) + report.kept == report.pairs == 7
    # Without a score that is the reason, whatever else there is to say.
    dataset = scored(rows, [None] * 7)
    for choose, counts in ((curate, "dropped"), (select_pseudo_labels, "pairs_left_out")):
        try:
            _, report = choose(dataset)
        except ValueError as error:
            assert choose is select_pseudo_labels and "no image has a pseudo-label" in str(error)
            assert "not scored" in str(error)
        else:
            assert getattr(report, counts)["not scored"] == 6 and report.kept == 0


def test_plain_messages_that_are_read_are_only_the_odd_ones():
    """Markers, several answers and no content in some rows: the others stay as they are, each in its place."""
    rows = [LAYOUTS["messages of texts"](*pair[:3]) for pair in PAIRS * 2]
    rows[1] = LAYOUTS["markers"](*PAIRS[1][:3])
    rows[2]["completion"] = None
    rows[4]["completion"] = assistant(None)
    rows[12]["completion"] = assistant("First.") + user("And?") + assistant("Second.")
    dataset = scored(rows, [pair[3] - less for less in (0, 0.01) for pair in PAIRS])
    _, report = select_pseudo_labels(dataset)
    assert report.pairs_left_out == {
        "no pair": 1,
        "not scored": 0,
        "score not finite": 0,
        "a conversation of several answers, not a pair": 1,
        "the answer is not a text but NoneType": 1,
    }
    kept, report = curate(dataset)
    assert kept["number"][:] == [0, 9, 1, 6, 11, 5, 12]


def test_questions_with_pictures_between_their_texts_are_no_pseudo_labels():
    rows = [
        {"images": [stored(0), stored(1)], "question": question, "answer": answer}
        for question, answer in (
            ("Is <image> or <image> red?", "The first."),
            ("<image><image>Which is red?", "The first of them."),
            ("Which is blue?<image><image>", "None is."),
        )
    ]
    dataset = scored(rows, [0.9, 0.5, 0.1])
    labels, report = select_pseudo_labels(dataset)
    assert report.pairs_left_out["the question has an image between its texts"] == 1
    assert labels["chosen"][0][0]["content"] == "Question: Which is red?\nAnswer: The first of them."
    assert [len(images) for images in labels["images"]] == [2]
    assert len(curate(dataset)[0]) == 3


@pytest.mark.parametrize("layout", ["messages of texts", "texts"])
def test_questions_without_text_are_no_pseudo_labels(layout):
    pairs = [(0, " ", "A dog.", 0.9), (0, "What?", "A cat.", 0.5), (0, "Who?", "Nobody.", 0.1)]
    labels, report = select_pseudo_labels(dataset_of(layout, pairs))
    assert report.pairs_left_out["the question has no text"] == 1
    assert labels["chosen"][0][0]["content"] == "Question: What?\nAnswer: A cat."
    assert len(curate(dataset_of(layout, pairs))[0]) == 3


def test_formats_and_transforms_of_a_dataset_do_not_matter():
    dataset = dataset_of("texts")
    for shown in (dataset.with_format("numpy"), dataset.with_transform(lambda rows: {"i2c": [0.0] * len(rows["i2c"])})):
        kept, _ = curate(shown)
        assert kept.with_format(None)["number"][:] == KEPT
        labels, _ = select_pseudo_labels(shown)
        assert labels.features == PSEUDO_LABEL_FEATURES
        assert labels[0]["images"][0].getpixel((0, 0)) == (255, 0, 0)


def test_small_and_empty_datasets_are_named():
    dataset = dataset_of("texts")
    for empty in (dataset.select([]), dataset_of("messages of texts").select([])):
        kept, report = curate(empty)
        assert len(kept) == 0 and report.pairs == 0 and kept.features == empty.features
        with pytest.raises(ValueError, match="no image has a pseudo-label"):
            select_pseudo_labels(empty)
    kept, report = curate(dataset.select([3]))
    assert kept["number"][:] == [3] and report.kept == 1
    with pytest.raises(ValueError, match="no image has a pseudo-label"):
        select_pseudo_labels(dataset.select([3]))
    with pytest.raises(ValueError, match="cannot find pairs in the columns number, i2c, i2c_status"):
        curate(dataset.remove_columns(["image", "prompt", "completion"]))
    with pytest.raises(ValueError, match="no row has an image, nor is there a column image_id.*row 0: the row has no"):
        curate(dataset_of("messages").remove_columns("images"))
    for choose in (curate, select_pseudo_labels, lambda rows: random_selection(rows, 1)):
        with pytest.raises(TypeError, match="the dataset is DatasetDict; give a Dataset"):
            choose(DatasetDict(train=dataset))


def test_random_choice_says_what_it_assumed(caplog):
    rows = [LAYOUTS["messages"](*pair[:3]) for pair in PAIRS]
    rows[0]["messages"] = user("What?")
    dataset = scored(rows, [pair[3] for pair in PAIRS]).remove_columns(["i2c", "i2c_status"])
    assert sorted(random_selection(dataset, 6)["number"]) == [1, 2, 3, 4, 5, 6]
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == ASSUMED and said[2].startswith("1 rows cannot be read and are never chosen; the first: there is")


@pytest.mark.parametrize("seed", range(25))
def test_any_rows_in_any_layout_are_chosen_as_the_plain_way_chooses(seed):
    """Conversations of any length about any pictures, some unreadable, against selection written for plain pairs."""
    generator = random.Random(seed)
    write = {
        "conversations": lambda talk: [m for q, a in talk for m in llava(q, a)],
        "messages": lambda talk: [m for q, a in talk for m in user(q) + assistant(a)],
        "texts": lambda talk: [{"user": q, "assistant": a} for q, a in talk],
    }
    column = generator.choice(list(write))
    words = "a red dog cat runs sits two of them here".split()
    rows, plain, numbers, pairs_of = [], [], {}, {}
    for number in range(generator.randint(1, 60)):
        image, turns = generator.randint(0, 5), generator.choice([1, 1, 1, 2, 3])
        talk = [
            tuple(" ".join(generator.choices(words, k=generator.randint(1, 4))) for _ in range(2)) for _ in range(turns)
        ]
        score = generator.choice([None, float("nan"), *np.round(np.random.default_rng(number).normal(size=6), 1)])
        empty = generator.random() < 0.1  # the last answer: of several turns it is passed over
        shown = [*talk[:-1], (talk[-1][0], " ")] if empty else talk
        told = write[column](shown)
        if column == "conversations":  # a marker in the first turn, or none
            told = [
                {
                    **m,
                    "value": m["value"]
                    if place == 0 and image < 3 and number % 2
                    else m["value"].replace("<image>\n", ""),
                }
                for place, m in enumerate(told)
            ]
        rows.append({"images": [stored(image % 3)] * (1 + image // 3), column: told})
        key = numbers.setdefault(image, len(numbers))
        read = talk[:-1] if empty else talk
        name = f"{key:06d}"
        plain.append(
            {
                "image_id": name,
                "pair_id": f"{name}/{pairs_of.setdefault(image, 0)}",
                "type": "general",
                "template": "general-1",
                "prompt": user("\n".join(q for q, _ in read)) if read else None,
                "completion": assistant("\n".join(a for _, a in read)) if read else None,
                "i2c_status": "no" if score is None else "ok",
                "i2c": score,
                "turns": turns,
            }
        )
        pairs_of[image] += 1
    dataset = scored(rows, [row["i2c"] for row in plain])
    if dataset.features["i2c"].dtype == "null":
        dataset = dataset.cast_column("i2c", Value("float32"))
    options = {"target_size": generator.choice([3, 100]), "near_duplicate_threshold": generator.choice([0.3, 0.8])}
    kept, report = curate(dataset, **options)
    expected, figures = plain_pairs(plain, **options)
    assert kept["number"][:] == expected
    assert sum(report.dropped.values()) + report.kept == len(plain)
    if not np.isnan(report.length_before.spearman):
        assert report.length_before.spearman == pytest.approx(figures["length_before"][0])
    single = [row if row["turns"] == 1 else {**row, "completion": None} for row in plain]
    labels, _ = plain_labels(single)
    if not labels:
        with pytest.raises(ValueError, match="no image has a pseudo-label"):
            select_pseudo_labels(dataset)
        return
    made, report = select_pseudo_labels(dataset)
    assert [row["chosen"] for row in made] == [label["chosen"] for label in labels]
    assert [row["rejected"] for row in made] == [label["rejected"] for label in labels]
    assert report.pairs_left_out.get("a conversation of several answers, not a pair", 0) == sum(
        row["turns"] > 1 and row["i2c"] is not None for row in plain
    )
