"""Marks: pairs that people keep or reject, whatever the score says; and none that is silently not applied."""

import json

import pytest
from datasets import Dataset
from scored_rows import FEATURES, pair

from c3l_hf.selection.curation import curate
from c3l_hf.selection.marks import MARKED_REJECT, read_marks, texts_digest


def rows():
    """Ten pairs about as many images, the later the better."""
    return Dataset.from_list(
        [pair(f"i{k}", 0, float(k), question=f"w{k} x{k}?", answer=f"y{k} z{k}") for k in range(10)], features=FEATURES
    )


def marks_of(tmp_path, *marks, **others):
    file = tmp_path / "marks.json"
    digests = {f"i{k}/0": texts_digest(f"w{k}  x{k}?", f"y{k} z{k}") for k in range(10)}
    content = [
        {"key": "k", "pair_id": name, "digest": digests.get(name, "0"), "stage": "dataset", "mark": mark}
        for name, mark in marks
    ]
    file.write_text(json.dumps({"c3l_marks": 1, "title": "t", "marks": content} | others))
    return file


def test_rejected_pairs_leave_and_kept_ones_stay_whatever_their_score(tmp_path):
    marks = read_marks(marks_of(tmp_path, ("i9/0", "reject"), ("i0/0", "keep")))
    kept, report = curate(rows(), target_size=3, floors={"i2c": 1.0}, min_quantile=0.2, marks=marks)
    assert kept["pair_id"][:] == ["i0/0", "i7/0", "i8/0"]
    assert report.dropped[MARKED_REJECT] == 1 and report.kept == 3
    assert str(report).count("marks: 1 keep, 1 reject; of those to keep 1 are in the result") == 1
    plain, without = curate(rows(), target_size=3, floors={"i2c": 1.0}, min_quantile=0.2)
    assert plain["pair_id"][:] == ["i7/0", "i8/0", "i9/0"]
    assert MARKED_REJECT not in without.dropped and not without.marks


def test_a_kept_pair_stays_beside_a_better_one_that_is_like_it_and_beyond_its_quota(tmp_path):
    same = [pair("i", k, float(k), question="same one?", answer="the same answer") for k in range(3)]
    marks = tmp_path / "marks.json"
    digest = texts_digest("same one?", "the same answer")
    entries = [{"pair_id": f"i/{k}", "digest": digest, "mark": "keep"} for k in (0, 1)]
    marks.write_text(json.dumps({"c3l_marks": 1, "marks": entries}))
    kept, report = curate(Dataset.from_list(same, features=FEATURES), target_size=1, marks=read_marks(marks))
    assert kept["pair_id"][:] == ["i/0", "i/1"]
    assert report.dropped["same instruction about the same image"] == 1


def test_a_mark_does_not_save_a_pair_without_a_score_or_of_another_type(tmp_path):
    pairs = rows().to_list()
    pairs[0] |= {"i2c": None, "i2c_status": "the image cannot be read"}
    pairs[1]["type"] = "colour"
    marks = read_marks(marks_of(tmp_path, ("i0/0", "keep"), ("i1/0", "keep"), ("i2/0", "keep")))
    kept, report = curate(Dataset.from_list(pairs, features=FEATURES), target_size=2, keep_types=["count"], marks=marks)
    assert kept["pair_id"][:] == ["i2/0", "i9/0"]
    assert report.marks == "marks: 3 keep, 0 reject; of those to keep 1 are in the result"


def test_marks_of_other_pairs_are_named(tmp_path):
    file = marks_of(tmp_path, ("i9/0", "reject"), ("gone/0", "keep"))
    content = json.loads(file.read_text())
    content["marks"].append({"pair_id": "i5/0", "digest": "other", "mark": "reject"})
    file.write_text(json.dumps(content))
    kept, report = curate(rows(), marks=read_marks(file))
    assert "i9/0" not in kept["pair_id"][:] and "i5/0" in kept["pair_id"][:]
    assert "not applied, no pair of that id: 1 (gone/0); not applied, its texts are others: 1 (i5/0)" in str(report)
    with pytest.raises(ValueError, match="none of the 1 pairs that are marked is among these rows .gone/0"):
        curate(rows(), marks=read_marks(marks_of(tmp_path, ("gone/0", "keep"))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "marks .*: it is not JSON"),
        ("[]", "it is not a file of marks; export one from a report"),
        ('{"c3l_marks": 2, "marks": []}', "its format is 2, which this version does not read"),
        ('{"c3l_marks": 1, "marks": []}', "there are no marks in it"),
        ('{"c3l_marks": 1, "marks": [{"pair_id": "a", "digest": "b", "mark": "maybe"}]}', "mark 0 must have pair_id"),
        ('{"c3l_marks": 1, "marks": [3]}', "mark 0 must have pair_id"),
        (
            '{"c3l_marks": 1, "marks": [{"pair_id": "a", "digest": "b", "mark": "keep"}, '
            '{"pair_id": "a", "digest": "b", "mark": "reject"}]}',
            "mark 1: the pair 'a' is marked keep and reject",
        ),
    ],
)
def test_what_is_no_file_of_marks(tmp_path, text, message):
    (tmp_path / "marks.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_marks(tmp_path / "marks.json")
