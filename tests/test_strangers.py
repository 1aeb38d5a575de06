"""Strangers' rows through every consumer: the same scores, examples, choices and pairs as the plain rows give."""

import io

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from scored_rows import assert_same
from strangers import ANSWERS, KINDS, QUESTION, plain_rows, rgba
from tiny_models import tiny_llava

from c3l_hf import I2CScorer, curate, score_dataset, select_pseudo_labels
from c3l_hf.cli.dispatch import main
from c3l_hf.data.imported_pairs import import_pairs
from c3l_hf.data.schema import SCORE_COLUMNS
from c3l_hf.files.opening import open_dataset
from c3l_hf.finetuning.examples import DataCollatorForAnswers, encode_examples
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.row_checks import check_rows

DAMAGED = 6  # the row whose picture cannot be read


@pytest.fixture(scope="module")
def plain(llava):
    """What the plain rows give, from each consumer."""
    scorer = I2CScorer(*llava)
    scores = scorer.score(plain_rows())
    features = Features({"image": Image(decode=False), "question": Value("string"), "answer": Value("string")})
    return {"scores": scores, "rows": Dataset.from_list(plain_rows(), features=features)}


@pytest.fixture(scope="module", params=KINDS)
def rows(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return KINDS[request.param](folder)


@pytest.fixture(scope="module")
def dataset(rows):
    return open_dataset(rows)


@pytest.fixture(scope="module")
def scored(llava, dataset, tmp_path_factory):
    return score_dataset(dataset, I2CScorer(*llava), cache_dir=tmp_path_factory.mktemp("scores"))


def score_columns(scored):
    return [dict(zip(SCORE_COLUMNS, values)) for values in zip(*(scored[name][:] for name in SCORE_COLUMNS))]


def assert_same_scores(scored, plain):
    assert_same(scored[:DAMAGED], plain["scores"][:DAMAGED])
    assert len(scored) == DAMAGED + 1 and scored[DAMAGED]["i2c"] is None
    assert "cannot be read: " in scored[DAMAGED]["i2c_status"]


def test_score_dataset(scored, plain):
    assert_same_scores(score_columns(scored), plain)


def undecoded(dataset):
    """As docs/scoring.md says for `map`, where a picture is damaged."""
    for name in ("image", "images"):
        if name in dataset.features:
            kind = dataset.features[name]
            if isinstance(kind, Image):
                dataset = dataset.cast_column(name, Image(decode=False))
            elif isinstance(getattr(kind, "feature", None), Image):
                dataset = dataset.cast_column(name, List(Image(decode=False)))
    return dataset


def test_map(llava, dataset, plain):
    scorer = I2CScorer(*llava)
    undamaged = undecoded(dataset)
    mapped = undamaged.map(scorer, batched=True, features=Features({**undamaged.features, **scorer.features}))
    assert_same_scores(score_columns(mapped), plain)
    assert_same([scorer(undamaged[0])], plain["scores"][:1])


def test_stream(llava, dataset, plain):
    scored = score_dataset(dataset.to_iterable_dataset(), I2CScorer(*llava), batch_size=3)
    assert_same_scores([{name: row[name] for name in SCORE_COLUMNS} for row in scored], plain)


def test_sft(llava, dataset, plain):
    theirs, ours = (encode_examples(rows, llava[1]) for rows in (dataset, plain["rows"]))
    assert theirs.index["row"][:] == ours.index["row"][:] == list(range(DAMAGED))
    assert theirs.rejected.keys() == {DAMAGED} and "cannot be read: " in theirs.rejected[DAMAGED]
    one, other = (DataCollatorForAnswers(examples)(list(examples.index)) for examples in (theirs, ours))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_selection_and_training(llava, scored, plain):
    """Chosen and rejected answers, pictures and scores as of the plain rows; and what the trainer makes of them."""
    columns = Dataset.from_list(plain["scores"]).select_columns(list(SCORE_COLUMNS)).to_dict()
    ours = plain["rows"]
    for name, values in columns.items():
        ours = ours.add_column(name, values, feature=scored.features[name])
    one, other = (select_pseudo_labels(rows)[0] for rows in (scored, ours))
    assert len(one) == 2
    for name in ("prompt", "chosen", "rejected", "type", "template"):
        assert one[name][:] == other[name][:], name
    collator = DataCollatorForC3L(llava[1])
    assert len(check_rows("labels", one, collator, drop=False, num_proc=None)) == 2
    batches = [collator(list(labels)) for labels in (one, other)]
    for name in ("input_ids", "pixel_values", "answer_mask"):
        assert torch.equal(batches[0][name], batches[1][name])


def test_curate(scored):
    kept, report = curate(scored, target_size=2, max_per_image=1)
    assert len(kept) == 2 and kept.features == scored.features
    best = sorted(max(range(3 * image, 3 * image + 3), key=scored["i2c"][:].__getitem__) for image in range(2))
    assert sorted(kept["i2c"][:]) == sorted(scored["i2c"][:][row] for row in best)
    assert "not scored" in str(report)


def test_import(dataset, plain):
    theirs, ours = import_pairs(dataset), import_pairs(plain["rows"])
    texts = ["prompt", "completion", "image_row", "generation_status"]
    assert theirs.table.select(texts) == ours.table.select(texts) and theirs.first_rows == ours.first_rows
    assert theirs.without_image == ours.without_image == {}


def test_the_command(rows, dataset, scored, tmp_path, tmp_path_factory, capsys):
    model = tmp_path_factory.mktemp("model")
    for part in tiny_llava():
        part.save_pretrained(model)
    output = tmp_path / "scored.parquet"
    assert main(["score", "--model", str(model), "--dataset", str(rows), "--output", str(output)]) == 0
    assert "7 rows, 6 with scores, 1 without" in capsys.readouterr().out
    written = open_dataset(output)
    assert written.column_names == scored.column_names
    assert_same(score_columns(written), score_columns(scored))
    assert (
        main(["curate", "--dataset", str(output), "--target_size", "2", "--output", str(tmp_path / "kept.parquet")])
        == 0
    )
    assert main(["select", "--dataset", str(output), "--output", str(tmp_path / "labels.parquet")]) == 0
    assert len(open_dataset(tmp_path / "labels.parquet")) == 2


def test_transparent_pictures(llava, tmp_path):
    """Each consumer sees them on white, as the model's own processor would."""
    pictures = rgba()
    rows = [
        {"image": encoded(image), "question": QUESTION, "answer": answer} for image in pictures for answer in ANSWERS
    ]
    features = Features({"image": Image(decode=False), "question": Value("string"), "answer": Value("string")})
    dataset = Dataset.from_list(rows, features=features)
    scored = score_dataset(dataset, I2CScorer(*llava), cache_dir=tmp_path)
    clear, white = score_columns(scored)[:3], score_columns(scored)[3:]
    assert_same(clear, white)
    examples = encode_examples(dataset, llava[1])
    batch = DataCollatorForAnswers(examples)(list(examples.index))
    assert torch.equal(batch["pixel_values"][:3], batch["pixel_values"][3:])
    labels = select_pseudo_labels(scored)[0]
    one, other = (DataCollatorForC3L(llava[1])([row])["pixel_values"] for row in labels)
    assert torch.equal(one, other)


def test_control_tokens_as_letters(llava):
    """Refused, or read as letters, and never as the token: by the scorer and by a student alike."""
    row = {"image": plain_rows()[0]["image"], "question": "What does <s> mean?", "answer": "<s>bold</s>"}
    refused, escaped = (I2CScorer(*llava, control_tokens=how)(row) for how in ("refuse", "escape"))
    assert "control token" in refused["i2c_status"] and refused["i2c"] is None
    assert escaped["i2c_status"] == "ok" and "".join(escaped["answer_tokens"]).strip() == row["answer"]
    dataset = Dataset.from_list([row])
    with pytest.raises(ValueError, match="control token"):
        encode_examples(dataset, llava[1])
    example = encode_examples(dataset, llava[1], control_tokens="escape").encoded(0, 0)
    assert len(example.answer_ids) == len(escaped["answer_tokens"]) + 1  # and the token that ends it


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}
