"""Scored rows of every accepted layout: the same choice as of plain messages, rows and pictures as they were."""

import json
import random

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, LargeList, List, Value, load_dataset
from datasets.arrow_writer import ArrowWriter
from plain_selection import plain_labels, plain_pairs
from scored_layouts import COLOURS, LAYOUTS, PAIRS, PNG, assistant, dataset_of, item, llava, scored, stored, user

from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.selection import label_images
from c3l_hf.selection.curation import curate, length_correlation
from c3l_hf.selection.pseudo_labels import select_pseudo_labels
from c3l_hf.selection.random_choice import random_selection

KEPT = [0, 2, 1, 4, 6, 5]  # without row 3; sorted by (image, pair)
ASSUMED = [
    "no column image_id: rows with the same image, by content or path, are about one image",
    "no column type: all pairs count as one type",
]


def check_choice(dataset, colour_of=lambda image: image.getpixel((0, 0)), **options):
    kept, report = curate(dataset)
    assert kept["number"][:] == KEPT and kept.features == dataset.features
    assert report.dropped["same instruction about the same image"] == 1 and report.assumed == ASSUMED
    assert all(line in str(report) for line in ASSUMED) and report.types_after == {"general": 6}
    raw = dataset.with_format("arrow")[:].to_pylist()
    assert kept.with_format("arrow")[:].to_pylist() == [raw[number] for number in KEPT]

    labels, report = select_pseudo_labels(dataset, **options)
    assert labels.features == PSEUDO_LABEL_FEATURES
    texts = [ReplyForm().write([(question, answer)]) for _, question, answer, _ in PAIRS]
    assert [label[0]["content"] for label in labels["chosen"]] == [texts[2], texts[1]]
    rejected = [[messages[0]["content"] for messages in label] for label in labels["rejected"]]
    assert rejected == [[texts[3], texts[0]], [texts[4], texts[6]]]
    assert labels["prompt"][:] == [user(load_templates("instruct").get("general-1").user)] * 2
    assert labels["image_id"][:] == ["000000", "000001"] and labels["chosen_score"][:] == pytest.approx([0.7, 0.9])
    assert [[colour_of(image) for image in images] for images in labels["images"]] == [[(255, 0, 0)], [(0, 128, 0)]]
    assert report.images == 3 and report.images_dropped["fewer than two scored pairs"] == 1
    assert report.assumed == [*ASSUMED, "no generation_prompt: 2 pseudo-labels ask with general-1 of the set instruct"]
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


def test_rows_without_a_type_count_as_those_of_which_none_has_one():
    """As the empty cells of a CSV file are."""
    types = ["count", None, None, "count", None, "general", None]
    dataset = dataset_of("messages of texts").add_column("type", types)
    filled = dataset.remove_columns("type").add_column("type", [type or "general" for type in types])
    for choose in (curate, select_pseudo_labels):
        found, report = choose(dataset)
        expected, plain = choose(filled)
        assert len(found) and found.remove_columns("type")[:] == expected.remove_columns("type")[:]
        line = f"{types.count(None)} rows have no type: they count as general"
        assert [one for one in report.assumed if one not in plain.assumed] == [line]
    assert found["type"][:] == expected["type"][:]
    nothing = dataset.remove_columns("type").add_column("type", [None] * len(PAIRS))
    assert curate(nothing)[1].types_after == {"general": 6}


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


def test_addresses_are_no_images_of_labels():
    rows = [{"image": f"https://example.org/{image}.png", "question": q, "answer": a} for image, q, a, _ in PAIRS]
    dataset = scored(rows, [pair[3] for pair in PAIRS])
    assert curate(dataset)[0]["number"][:] == KEPT
    with pytest.raises(ValueError, match=r"the image https://example.org/0.png is an address, which is not downloaded"):
        select_pseudo_labels(dataset)


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


def test_pictures_of_labels_leave_no_copy(tmp_path, monkeypatch):
    ends = []
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("atexit.register", lambda *call, **options: ends.append((call, options)))
    label_images._scratch.cache_clear()
    try:
        stored_once = Dataset.from_file(str(written(dataset_of("messages of texts"), tmp_path / "rows.arrow")))
        labels, _ = select_pseudo_labels(stored_once, image_folder=tmp_path)
        assert any(tmp_path.glob("c3l_hf-labels-*/*.arrow")) and len(labels["images"]) == len(labels)
    finally:
        label_images._scratch.cache_clear()
    assert [path.name for path in tmp_path.rglob("cache-*.arrow")] == []
    for (function, *arguments), options in ends:  # as when the process ends
        function(*arguments, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.arrow"]


def written(dataset, file):
    with ArrowWriter(features=dataset.features, path=str(file)) as writer:
        writer.write_table(dataset.data.table)
        writer.finalize()
    return file


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
    labels, report = select_pseudo_labels(unknown, within="all")
    assert labels["template"][:] == ["general-1"] * 2 and report.assumed[-1].endswith("that is not known: mine")
    assert len(curate(unknown)[0]) == 7
    with pytest.raises(ValueError, match="column 'type' has values of type list.*; it must have texts or numbers"):
        curate(dataset.add_column("type", [["a"]] * 7))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_beside_ids_no_image_is_read(layout, monkeypatch):
    """Nor has it to be there."""

    def without_images(table, features):
        assert not {"image", "images"} & set(table.column_names)
        return stored_rows(table, features)

    monkeypatch.setattr("c3l_hf.data.pair_columns.stored_rows", without_images)
    dataset = dataset_of(layout).add_column("image_id", [str(image) for image, *_ in PAIRS])
    column = next((name for name in ("image", "images") if name in dataset.column_names), None)
    if column is None:  # they are in the messages
        assert curate(dataset)[0]["number"][:] == KEPT
        return
    broken = [{"bytes": b"no picture", "path": None}] * 7
    kind = dataset.features[column]
    values = [[value] for value in broken] if isinstance(kind, List) else broken
    values = [b"no picture"] * 7 if kind == Value("binary") else values
    dataset = dataset.remove_columns(column).add_column(column, values, feature=kind)
    assert curate(dataset)[0]["number"][:] == KEPT
    bare = dataset.remove_columns(column)
    assert curate(bare)[0]["number"][:] == KEPT
    assert "images" not in select_pseudo_labels(bare)[0].column_names


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
    with pytest.raises(ValueError, match=r"columns missing: i2c_status, i2c; found \(none\)\."):
        curate(Dataset.from_list([]))
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
                "template": None,
                "prompt": user("\n".join(q for q, _ in read)) if read else None,
                "completion": assistant("\n".join(a for _, a in read)) if read else None,
                "talk": None if empty else talk,
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
    whole = [
        {
            **row,
            "prompt": row["talk"] and user(row["talk"][0][0]),
            "completion": row["talk"] and [m for q, a in row["talk"] for m in user(q) + assistant(a)][1:],
        }
        for row in plain
    ]
    labels, _ = plain_labels(whole)
    if not labels:
        with pytest.raises(ValueError, match="no image has a pseudo-label"):
            select_pseudo_labels(dataset)
        return
    made, report = select_pseudo_labels(dataset)
    for name in ("prompt", "chosen", "rejected", "template"):
        assert made[name][:] == [label[name] for label in labels]
    unread = [row for row in plain if row["talk"] is None and row["i2c"] is not None]
    reasons = {key: count for key, count in report.pairs_left_out.items() if "the answer is empty" in key}
    assert sum(reasons.values()) == len(unread)
