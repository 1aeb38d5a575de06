"""Selection on columns does to the last row and digit what selection pair by pair does."""

import math
import random
from collections import Counter
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from plain_selection import plain_labels, plain_pairs, plain_random

from c3l_hf.data.schema import PAIR_FEATURES, SCORE_FEATURES
from c3l_hf.pipeline.pair_tables import REPEATED
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.selection import columns
from c3l_hf.selection.curation import CURATION_COLUMNS, choose_pairs, curate
from c3l_hf.selection.label_prompts import ASKED_COLUMNS
from c3l_hf.selection.pseudo_labels import LABEL_COLUMNS, LABEL_SCHEMA, choose_labels, select_pseudo_labels
from c3l_hf.selection.random_choice import RANDOM_COLUMNS, choose_random

SCHEMA = pa.schema([PAIR_FEATURES.arrow_schema.field(name) for name in LABEL_COLUMNS if name in PAIR_FEATURES])
SCHEMA = SCHEMA.append(pa.field("i2c_status", pa.string()))
ASKED_SCHEMA = pa.schema([PAIR_FEATURES.arrow_schema.field(name) for name in ASKED_COLUMNS])
# What a generator is asked, and the forms that it replies in; also none, as earlier versions have it.
PROMPTS = [
    None,
    [],
    [{"role": "user", "content": "Ask about it."}],
    [{"role": "system", "content": "Sei kurz."}, {"role": "user", "content": "Frage etwas."}],
]
FORMS = [
    None,
    ReplyForm().to_json(),
    ReplyForm(question=("Frage",), answer=("Antwort",)).to_json(),
    ReplyForm("json", list_key="turns").to_json(),
    ReplyForm(
        "regex", expression=r"(?P<question>[^\n|]+)\|(?P<answer>[^\n|]+)", written="{question}|{answer}"
    ).to_json(),
]
# Words that differ by case, by composition, by what counts as a space, and texts without words.
WORDS = [
    *"a b red Red blue dog cat two Straße STRASSE café cafe\u0301 犬 猫 🐕 it's".split(),
    "b\u00a0c",
    "a\x1cb",
    " ",
]
NO_WORDS = ["", "?", "???", " … ", "!", "\u2003"]
TEMPLATES = [None, *(template.id for template in load_templates("scenes").templates)]
SEEDS = range(120)
READ = [*CURATION_COLUMNS, "i2c", "language", "cluster", "pmi"]


def text(generator, longest):
    if generator.random() < 0.1:
        return generator.choice(NO_WORDS)
    return generator.choice([" ", "  ", "\n"]).join(generator.choices(WORDS, k=generator.randint(1, longest)))


def messages(generator, role, other, text):
    turns = [{"role": role, "content": text}]
    if role == "assistant" and generator.random() < 0.2:  # a conversation; now and then two answers in a row
        for _ in range(generator.randint(1, 3)):
            turns += [{"role": other, "content": "And then?"}] * (generator.random() < 0.9)
            turns += [{"role": role, "content": text}]
    if role == "user" and generator.random() < 0.1:
        turns = [{"role": "system", "content": "Be brief."}, *turns]
    if generator.random() < 0.1:  # an earlier turn, and one that another role follows
        turns = [{"role": role, "content": "earlier"}, *turns, {"role": other, "content": "later"}]
    return [] if generator.random() < 0.02 else turns


def sample(seed):
    """Rows of an awkward pool: ties, nulls, repeated texts, several types to an image, images in pieces."""
    generator = random.Random(seed)
    prompts, forms = (generator.sample(several, generator.randint(1, len(several))) for several in (PROMPTS, FORMS))
    types = generator.sample(["count", "colour", "where", "größe", "犬"], generator.randint(1, 5))
    grid = [generator.gauss(0, 1) for _ in range(generator.randint(1, 12))] + [0.0, -0.0]
    questions = [text(generator, 5) for _ in range(8)]
    answers = [text(generator, 12) for _ in range(8)]
    rows = []
    for image in range(generator.randint(1, 40)):
        image_id = generator.choice(["img", "Bild-ä", "図"]) + str(image)
        repeats = generator.choice([0.0, 0.0, 0.5, 1.0])  # how often a text is that of another pair of the image
        question, answer = generator.choice(questions), generator.choice(answers)
        for k in range(generator.randint(1, 7)):
            has_pair = generator.random() > 0.05
            if generator.random() >= repeats:
                question = generator.choice([generator.choice(questions), text(generator, 5)])
            if generator.random() >= repeats:
                answer = generator.choice([generator.choice(answers), text(generator, 12)])
            score = generator.choice([generator.choice(grid), generator.choice(grid), generator.gauss(0, 1)])
            if generator.random() < 0.1:
                score = generator.choice([None, math.nan, math.inf, -math.inf])
            rows.append(
                {
                    "image_id": image_id,
                    "pair_id": f"{image_id}/{k}",
                    "template": generator.choice(TEMPLATES),
                    "type": generator.choice(types),
                    "language": generator.choice(["en", "de", None]),
                    "cluster": generator.choice([0, 1, 2, 10, 11, None]),
                    "pmi": generator.choice([None, math.nan, -1.0, 0.0, -0.0, 0.5, math.inf]),
                    "prompt": messages(generator, "user", "assistant", question) if has_pair else None,
                    "completion": messages(generator, "assistant", "user", answer) if has_pair else None,
                    "i2c_status": generator.choices(["ok", "no image", None], [20, 1, 1])[0],
                    "i2c": None if score is None else float(np.float32(score)),
                    "generation_prompt": generator.choice(prompts),
                    "reply_form": generator.choice(forms),
                }
            )
    if generator.random() < 0.7:
        generator.shuffle(rows)
    return generator, rows


def table_of(generator, rows):
    """The rows in chunks of any size, some of them empty; what is asked as plain texts, or as dictionaries."""
    schema = SCHEMA.append(pa.field("i2c", generator.choice([pa.float32(), pa.float64()])))
    others = [
        pa.field("language", pa.string()),
        pa.field("cluster", generator.choice([pa.int32(), pa.int64()])),
        pa.field("pmi", pa.float32()),
    ]
    table = pa.Table.from_pylist(rows, pa.schema([*schema, *ASKED_SCHEMA, *others]))
    if generator.random() < 0.5:
        file = pa.BufferOutputStream()
        pq.write_table(table, file, row_group_size=generator.randint(1, 10))
        table = pq.read_table(pa.BufferReader(file.getvalue()), read_dictionary=list(REPEATED))
        assert pa.types.is_dictionary(table["reply_form"].type)
    if all(not row["generation_prompt"] for row in rows):
        table = table.drop_columns(ASKED_COLUMNS)
    cuts = sorted([0, len(rows), *(generator.randint(0, len(rows)) for _ in range(generator.randint(0, 5)))])
    return pa.concat_tables(table.slice(start, end - start) for start, end in zip(cuts[:-1], cuts[1:]))


@pytest.fixture
def block(seed, monkeypatch):
    """Every second sample goes through in blocks of two pairs."""
    if seed % 2:
        monkeypatch.setattr(columns, "_BLOCK", 2)


def same(report, expected):
    """Equal to the last digit; NaN is equal to itself."""
    report = asdict(report)
    for name in {"length_before", "length_after"} & set(report):
        report[name] = tuple(report[name].values())
    assert repr(report) == repr(expected), (report, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_curation(seed, block):
    generator, rows = sample(seed)
    options = {
        "target_size": generator.choice([1, 3, 10, 30, 1000]),
        "score": generator.choice(["i2c", "i2c", "i2c", "random"]),
        "floors": generator.choice([None, {"i2c": -0.5}, {"i2c": 9.0}, {"pmi": 0.0}, {"pmi": 0.25, "i2c": 0.0}]),
        "min_quantile": generator.choice([None, 0.0, 0.25, 0.9]),
        "balance_by": generator.choice([["type"], ["cluster"], ["type", "cluster"], ["language"], []]),
        "within_type": generator.random() < 0.5,
        "near_duplicate_scope": generator.choice(["image", "image", "none", "dataset"]),
        "near_duplicate_threshold": generator.choice([0.2, 0.5, 0.8, 1.0]),
        "max_per_image": generator.choice([None, 1, 2]),
        "keep_types": generator.choice([None, None, ["count", "犬"], ["nowhere"]]),
        "keep_languages": generator.choice([None, None, ["de"], ["en", "fr"]]),
        "seed": generator.choice([0, 1, 12345]),
    }
    kept, report = choose_pairs(table_of(generator, rows).select(READ), **options)
    expected, figures = plain_pairs(rows, **options)
    assert kept.tolist() == expected, options
    same(report, figures)


@pytest.mark.parametrize("seed", SEEDS)
def test_pseudo_labels(seed, block):
    generator, rows = sample(seed)
    options = {
        "within": generator.choice(["type", "all"]),
        "max_rejected": generator.choice([1, 2, 4, 100]),
        "min_margin": generator.choice([0.0, 0.0, 0.5]),
    }
    expected, figures = plain_labels(rows, **options)
    if not expected:
        with pytest.raises(ValueError, match="no image has a pseudo-label"):
            choose_labels(table_of(generator, rows), **options)
        return
    labels, report = choose_labels(table_of(generator, rows), **options)
    assert labels.schema == LABEL_SCHEMA
    assert labels.to_pylist() == expected
    same(report, figures)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_choice(seed, block):
    generator, rows = sample(seed)
    if generator.random() < 0.3:  # the same pair_id twice is no error here
        twice = generator.choice(rows)
        rows += [twice, *({**twice, "image_id": name, "type": type} for name in "zy" for type in ("where", "count"))]
    pairs = [row for row in rows if row["prompt"] is not None and row["completion"] is not None]
    options = {"balance_by": generator.choice([["type"], ["cluster"], []]), "seed": generator.choice([0, 7])}
    if options["balance_by"] == ["cluster"]:
        pairs = [row for row in pairs if row["cluster"] is not None]
    size = generator.randint(0, len(pairs))
    if generator.random() < 0.3 and pairs and options["balance_by"]:
        some = generator.sample(pairs, size)
        (by,) = options["balance_by"]
        size = {str(group): sum(row[by] == group for row in some) for group in {row[by] for row in pairs}}
    table = table_of(generator, rows).select([*RANDOM_COLUMNS, "cluster"])
    assert choose_random(table, size, **options).tolist() == plain_random(rows, size, **options)


def test_the_samples_touch_every_rule():
    reports, assumed = [], []
    for seed in SEEDS:
        _, rows = sample(seed)
        options = {"target_size": 20, "floors": {"i2c": -1}, "min_quantile": 0.1, "max_per_image": 2}
        options["near_duplicate_threshold"] = 0.5
        curated = [plain_pairs(rows, **options, near_duplicate_scope=scope)[1] for scope in ("image", "dataset")]
        kept = {"keep_types": ["count", "where"], "keep_languages": ["de"]}
        curated.append(plain_pairs(rows, target_size=5, balance_by=[], **kept)[1])
        curated.append(plain_pairs(rows, target_size=5, balance_by=["cluster"], floors={"pmi": 0.0})[1])
        labels = plain_labels(rows, min_margin=0.5, max_rejected=2)[1]
        assumed += labels["assumed"]
        counts = [report["dropped"] for report in curated]
        counts += [labels[name] for name in ("pairs_left_out", "rejected_left_out", "images_dropped")]
        reports += [Counter(count) for count in counts]
    totals = sum(reports, Counter())
    assert set(totals) == {rule for report in reports for rule in report} and len(totals) == 26
    assert min(totals.values()) > 15
    for told in ("conversation-1, general-1 of the set instruct", "of the set scenes"):
        assert any(told in line for line in assumed)


@pytest.mark.parametrize("rows", ["whole", "selected"])
@pytest.mark.parametrize("images", [True, False])
def test_datasets_give_the_rows_of_the_tables(rows, images):
    generator, data = sample(3)
    for row in data:  # what is no question with its answer is read like any layout: test_any_layout
        for name, role in (("prompt", "user"), ("completion", "assistant")):
            texts = [m for m in row[name] or () if m["role"] == role and m["content"].strip()]
            row[name] = texts[-1:] or None
    known = {**PAIR_FEATURES, **SCORE_FEATURES, "image_row": Value("int64")}
    features = Features(
        {name: known[name] for name in ("images", *SCHEMA.names, *ASKED_COLUMNS, "language", "i2c", "image_row")}
    )
    data = [
        # not an image at all: whoever decodes it fails
        {**row, "images": [{"bytes": row["image_id"].encode(), "path": None}], "image_row": number}
        for number, row in enumerate(data)
    ]
    dataset = Dataset.from_list([{name: row[name] for name in features} for row in data], features=features)
    if rows == "selected":
        order = generator.sample(range(len(data)), len(data) // 2)
        dataset, data = dataset.select(order), [data[number] for number in order]
    if not images:
        dataset = dataset.remove_columns("images")
    kept, _ = curate(dataset, target_size=20)
    assert kept.features == dataset.features
    assert kept["image_row"][:] == [data[row]["image_row"] for row in plain_pairs(data, target_size=20)[0]]
    labels, _ = select_pseudo_labels(dataset)
    expected = plain_labels(data)[0]
    assert labels["image_row"][:] == [data[label.pop("row")]["image_row"] for label in expected]
    assert labels.select_columns([*LABEL_SCHEMA.names][:-1]).to_list() == expected
    assert ("images" in labels.column_names) == images
    if images:
        stored = labels.with_format("arrow")[:]["images"].to_pylist()
        assert [image[0]["bytes"].decode() for image in stored] == [label["image_id"] for label in expected]
