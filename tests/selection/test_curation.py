"""Curation: each rule does what it says, counts what it drops, and the result does not depend on row order."""

import math
import random
from collections import Counter

import pytest
from datasets import Dataset, DatasetDict
from scipy.stats import kendalltau
from scored_rows import FEATURES, pair

from c3l_hf.selection.curation import curate, length_correlation
from c3l_hf.selection.quotas import balanced_quotas
from c3l_hf.selection.random_choice import random_selection

SAME = "same instruction about the same image"
NEAR = "near-duplicate about the same image"
QUOTA = "beyond the quota of the type"
WORDS = "the a red blue dog cat ball tree car left right of near two three big small yes no sits runs stands".split()


def dataset_of(*pairs):
    return Dataset.from_list(list(pairs), features=FEATURES)


def keep(*pairs, **options):
    kept, report = curate(dataset_of(*pairs), **options)
    return kept["pair_id"][:], report


def distinct(image_id, k, score, **options):
    """A pair whose words are its own."""
    words = " ".join(f"{image_id}w{k}x{n}" for n in range(5))
    return pair(image_id, k, score, question=words + "?", answer=words[::-1], **options)


def pool(size, types=("count", "colour", "where"), seed=0):
    generator = random.Random(seed)
    return [
        distinct(f"i{n:05d}", 0, generator.gauss(types.index(type), 1), type=type)
        for n in range(size)
        for type in [generator.choice(types)]
    ]


def test_best_of_each_type_are_kept():
    pairs = pool(300)
    ids, report = keep(*pairs, target_size=90)
    expected = []
    for type in ("count", "colour", "where"):
        of_type = sorted((p for p in pairs if p["type"] == type), key=lambda p: -p["i2c"])
        expected += [p["pair_id"] for p in of_type[:30]]
    assert ids == sorted(expected)
    assert report.types_after == dict.fromkeys(["colour", "count", "where"], 30)
    assert report.types_before == report.types_available == dict(sorted(Counter(p["type"] for p in pairs).items()))
    assert report.dropped[QUOTA] == 210


def test_without_balance_types_compete_by_rank_or_by_score():
    pairs = pool(3000)
    by_score, _ = keep(*pairs, target_size=300, balance_by=None, within_type=False)
    best = sorted(pairs, key=lambda p: -p["i2c"])[:300]
    assert by_score == sorted(p["pair_id"] for p in best)
    _, report = keep(*pairs, target_size=300, balance_by=None)
    shares = [report.types_after[type] / report.types_before[type] for type in report.types_before]
    assert max(shares) - min(shares) < 0.005  # the best 10 % of each


def test_columns_and_images_are_as_they_were():
    data = dataset_of(*pool(30)).add_column("extra", list(range(30)))
    kept, _ = curate(data, target_size=10)
    assert kept.column_names == data.column_names and kept.features == data.features
    rows = {row["pair_id"]: row for row in data.with_format("arrow")[:].to_pylist()}
    assert all(rows[row["pair_id"]] == row for row in kept.with_format("arrow")[:].to_pylist())


def test_row_order_does_not_matter_also_with_ties():
    pairs = [distinct(f"i{n:03d}", 0, float(n % 3), type=("count", "where")[n % 2]) for n in range(200)]
    pairs += [
        pair(f"i{n:03d}", 1, 0.0, question="Same here?", answer=f"a b c d e f g h i j {n % 5}") for n in range(50)
    ]
    for scope in ("image", "dataset"):
        expected, _ = keep(*pairs, target_size=70, near_duplicate_scope=scope)
        for order in range(3):
            shuffled = random.Random(order).sample(pairs, len(pairs))
            assert keep(*shuffled, target_size=70, near_duplicate_scope=scope)[0] == expected
    ties = [distinct(f"i{n:03d}", 0, 1.0) for n in range(200)]
    first, second = (set(keep(*ties, target_size=50, seed=seed)[0]) for seed in (0, 1))
    assert first != second, "the seed breaks ties"
    assert sum(id < "i100" for id in first) < 45, "ties must not favour the first images"


def test_rows_without_pair_or_score_are_dropped_and_counted():
    no_pair = distinct("a", 0, None) | {"prompt": None, "completion": None}
    pairs = [no_pair, distinct("a", 1, None), distinct("a", 2, 9.0, status="no image"), distinct("a", 3, math.nan)]
    ids, report = keep(*pairs, distinct("a", 4, math.inf), distinct("a", 5, -1.0))
    assert ids == ["a/5"]
    assert report.dropped["no pair"] == 1 and report.dropped["not scored"] == 2
    assert report.dropped["score not finite"] == 2


def test_score_floors():
    pairs = pool(300)
    ids, report = keep(*pairs, floors={"i2c": 0.5})
    assert ids == sorted(p["pair_id"] for p in pairs if p["i2c"] >= 0.5)
    assert report.dropped["i2c below 0.5"] == 300 - len(ids)
    _, report = keep(*pairs, min_quantile=0.25)
    for type, before in report.types_before.items():
        assert report.types_after[type] == pytest.approx(0.75 * before, abs=1)
    ids, report = keep(*pairs, min_quantile=0.25, within_type=False)
    assert ids == sorted(p["pair_id"] for p in sorted(pairs, key=lambda p: p["i2c"])[75:])
    assert report.types_after["count"] < 0.6 * report.types_before["count"]


def test_same_instruction_about_the_same_image_keeps_the_best():
    pairs = [
        pair("a", 0, 0.1, question="Is there a dog?", answer="Yes, and it is brown."),
        pair("a", 1, 0.3, question="is there a DOG", answer="No."),
        pair("a", 2, 0.2, question="Is there a dog ?", answer="Perhaps a small one."),
        pair("b", 0, 0.0, question="Is there a dog?", answer="No."),
        pair("a", 3, 0.0, question="???", answer="one"),
        pair("a", 4, 0.0, question="!!!", answer="two"),
    ]
    ids, report = keep(*pairs, near_duplicate_scope="none")
    assert ids == ["a/1", "a/3", "a/4", "b/0"]
    assert report.dropped[SAME] == 2


def test_most_pairs_of_an_image_are_its_best():
    pairs = [distinct(image, number, number / 10) for image in "abc" for number in range(4)]
    ids, report = keep(*pairs, max_per_image=2)
    assert ids == ["a/2", "a/3", "b/2", "b/3", "c/2", "c/3"]
    assert report.dropped["beyond 2 about the same image"] == 6
    # near-duplicates take no place, and types share what is left
    pairs = [distinct("a", 0, 0.1), *(pair("a", n, 0.5 + n / 10, question=f"Is there a dog{'?' * n}") for n in (1, 2))]
    assert keep(*pairs, max_per_image=2)[0] == ["a/0", "a/2"]
    pairs = pool(300)
    ids, report = keep(*pairs, max_per_image=1, target_size=40)
    images = [id.rsplit("/", 1)[0] for id in ids]
    assert len(images) == len(set(images)) == report.kept == 40


def test_near_duplicates_of_an_image_keep_the_best():
    long = "a brown dog runs over the green lawn beside the old red house under a cloudy sky in the early evening"
    pairs = [
        pair("a", 0, 0.1, question="Describe the picture.", answer=long),
        pair("a", 1, 0.9, question="Describe this picture.", answer=long),
        pair("a", 2, 0.5, question="Describe the picture please.", answer=long.replace("brown", "black")),
        pair("a", 3, 0.2, question="Is there a dog?", answer="Yes"),
        pair("a", 4, 0.2, question="Is there a cat?", answer="Yes"),
        pair("b", 0, 0.0, question="Describe the picture.", answer=long),
    ]
    ids, report = keep(*pairs, near_duplicate_threshold=0.6)
    assert ids == ["a/1", "a/3", "a/4", "b/0"]
    assert report.dropped[NEAR] == 2
    assert len(keep(*pairs, near_duplicate_scope="none")[0]) == 6
    ids, report = keep(*pairs, near_duplicate_scope="dataset", near_duplicate_threshold=0.6)
    assert ids == ["a/1", "a/3", "a/4"] and report.dropped["near-duplicate in the dataset"] == 3


def test_the_same_text_about_other_images_is_no_duplicate():
    pairs = [pair(f"i{n:05d}", 0, n, question="Is there a dog in the picture?", answer="Yes.") for n in range(2000)]
    ids, report = keep(*pairs, target_size=2000)
    assert len(ids) == 2000 and report.dropped[NEAR] == report.dropped[SAME] == 0
    assert keep(*pairs, near_duplicate_scope="dataset")[0] == ["i01999/0"]


def test_opposite_short_answers_are_no_near_duplicates():
    pairs = [pair(i, 0, 0, question="Is there a dog in the picture?", answer=a) for i, a in (("a", "Yes"), ("b", "No"))]
    assert len(keep(*pairs, near_duplicate_scope="dataset")[0]) == 2


def test_dataset_scope_finds_what_comparing_all_pairs_finds():
    generator = random.Random(3)
    pairs = []
    for n in range(400):
        words = generator.choices(WORDS, k=16)
        pairs.append(pair(f"i{n:04d}", 0, generator.random(), question="What can be seen?", answer=" ".join(words)))
        words[generator.randrange(16)] = "instead"
        pairs.append(pair(f"j{n:04d}", 0, generator.random(), question="What can be seen?", answer=" ".join(words)))

    def shingles(p):
        parts = [("q", ["what", "can", "be", "seen"]), ("a", p["completion"][0]["content"].split())]
        return {(part, *two) for part, words in parts for two in zip(["", *words], [*words, ""])}

    kept = []
    for p in sorted(pairs, key=lambda p: -p["i2c"]):
        mine = shingles(p)
        if all(len(mine & other) / len(mine | other) < 0.7 for _, other in kept):
            kept.append((p["pair_id"], mine))
    ids, _ = keep(*pairs, near_duplicate_scope="dataset", near_duplicate_threshold=0.7)
    expected = {pair_id for pair_id, _ in kept}
    assert len(expected) < 500, "the data should have near-duplicates"
    assert len(expected ^ set(ids)) <= 4


@pytest.mark.parametrize(
    "available, target, expected",
    [
        ({"a": 10, "b": 10, "c": 10}, 9, {"a": 3, "b": 3, "c": 3}),
        ({"a": 10, "b": 10, "c": 10}, 11, {"a": 3, "b": 4, "c": 4}),
        ({"a": 1, "b": 10, "c": 10}, 11, {"a": 1, "b": 5, "c": 5}),
        ({"a": 1, "b": 3, "c": 10}, 12, {"a": 1, "b": 3, "c": 8}),
        ({"a": 1, "b": 3}, 12, {"a": 1, "b": 3}),
        ({"a": 5, "b": 0}, 3, {"a": 3, "b": 0}),
        ({}, 3, {}),
    ],
)
def test_quotas_fill_up_evenly(available, target, expected):
    assert balanced_quotas(available, target) == expected


def test_scarce_types_are_filled_by_the_others_and_too_few_pairs_are_all_kept():
    pairs = [distinct(f"i{n:03d}", 0, n, type="where" if n < 10 else "count") for n in range(100)]
    _, report = keep(*pairs, target_size=60)
    assert report.types_after == {"where": 10, "count": 50}
    assert "left are kept" not in str(report)
    ids, report = keep(*pairs, target_size=101)
    assert len(ids) == 100 and "All 100 that were left are kept: target_size is 101." in str(report)
    ids, report = keep(distinct("a", 0, None), target_size=5)
    assert ids == [] and report.kept == 0 and "No pair was left." in str(report)


def test_every_row_is_counted_once():
    generator = random.Random(5)
    pairs = []
    for n in range(400):
        for k in range(4):
            question, answer = (" ".join(generator.choices(WORDS[:6], k=2)) for _ in range(2))
            score = generator.choice([None, math.nan, *(generator.gauss(0, 1) for _ in range(8))])
            type = generator.choice(["count", "where"])
            pairs.append(pair(f"i{n}", k, score, question=question, answer=answer, type=type))
    ids, report = keep(*pairs, target_size=200, floors={"i2c": -2}, min_quantile=0.1, near_duplicate_threshold=0.4)
    assert report.pairs == len(pairs) == report.kept + sum(report.dropped.values())
    assert report.kept == len(ids) == 200
    touched = {rule for rule, count in report.dropped.items() if count}
    assert touched == set(report.dropped) - {"no pair"}
    assert ids == sorted(ids, key=lambda id: (id.split("/")[0], id))
    for table in str(report).split("\n\n"):
        assert len({len(line) for line in table.splitlines()}) == 1
    assert f"dropped: {QUOTA}" in str(report)


def test_rules_of_the_same_name_are_counted_together():
    dataset = dataset_of(*pool(6)).add_column("cluster", [0, 1, None, 1, None, 0])
    kept, report = curate(dataset, balance_by="cluster", floors={"cluster": 1})
    assert (len(kept), report.dropped["no cluster"], report.dropped["cluster below 1"]) == (2, 2, 2)
    assert report.pairs == report.kept + sum(report.dropped.values())


def test_length_correlation():
    pairs = [pair("a", k, k**3, answer="word " * k) for k in range(1, 30)]
    up = length_correlation(dataset_of(*pairs, pair("a", 99, None)))
    assert up.spearman == pytest.approx(1) and up.pairs == 29
    assert length_correlation(dataset_of(*pairs), "pmi").spearman == pytest.approx(-1)
    generator = random.Random(0)
    mixed = [pair("a", k, generator.random() + k / 30, answer="word " * (k + 1)) for k in range(30)]
    rho = length_correlation(dataset_of(*mixed)).spearman
    assert 0.3 < rho < 1 and rho > kendalltau([p["i2c"] for p in mixed], range(30)).statistic
    flat = length_correlation(dataset_of(*(pair("a", k, k, answer="one word") for k in range(5))))
    assert math.isnan(flat.spearman) and flat.pairs == 5
    _, report = keep(*pairs, target_size=3, near_duplicate_scope="none")
    assert (report.length_before.pairs, report.length_after.pairs) == (29, 3)
    assert report.length_before.spearman == pytest.approx(1)


def test_random_selection_is_a_control():
    pairs = pool(3000) + [distinct("none", 0, 0.0) | {"prompt": None, "completion": None}]
    data = dataset_of(*pairs)
    score = {p["pair_id"]: p["i2c"] for p in pairs}
    _, report = curate(data, target_size=600)
    control = random_selection(data, report.types_after, seed=1)
    assert dict(sorted(Counter(control["type"]).items())) == report.types_after
    ids = control["pair_id"][:]
    assert ids == sorted(set(ids)) and "none/0" not in ids
    # blind to the score: means as in the pool, type by type (standard error 1 / sqrt(200) = 0.07)
    for number, type in enumerate(("count", "colour", "where")):
        scores = [score[row["pair_id"]] for row in control.remove_columns("images") if row["type"] == type]
        assert sum(scores) / len(scores) == pytest.approx(number, abs=0.3)
    assert random_selection(data, 600, seed=1)["pair_id"][:] == ids
    assert random_selection(data, 600, seed=2)["pair_id"][:] != ids
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)
    assert random_selection(data.select(order), 600, seed=1)["pair_id"][:] == ids


def test_random_selection_without_balance_has_the_shares_of_the_pool():
    pairs = [distinct(f"i{n:04d}", 0, 0.0, type="where" if n % 10 == 0 else "count") for n in range(2000)]
    control = random_selection(dataset_of(*pairs), 500, balance_by=None)
    assert len(control) == 500 and 30 < Counter(control["type"])["where"] < 70
    assert Counter(random_selection(dataset_of(*pairs), 300)["type"]) == {"where": 150, "count": 150}
    with pytest.raises(ValueError, match="2001 of 2000"):
        random_selection(dataset_of(*pairs), 2001)
    with pytest.raises(ValueError, match=r"where \(201 of 200\)"):
        random_selection(dataset_of(*pairs), {"where": 201, "count": 1})


def test_wrong_input():
    data = dataset_of(*pool(5))
    with pytest.raises(ValueError, match="columns missing: i2c_status; found images, image_id"):
        curate(data.remove_columns(["pair_id", "type", "i2c_status"]))
    with pytest.raises(ValueError, match="columns missing: beauty; found"):
        curate(data, score="beauty")
    with pytest.raises(TypeError, match="the dataset is DatasetDict; give a Dataset"):
        random_selection(DatasetDict(train=data), 2)
    with pytest.raises(ValueError, match="pair_id.*unique"):
        keep(distinct("a", 0, 1.0), distinct("a", 0, 2.0))
    for name, value in {
        "target_size": 0,
        "min_quantile": 1.0,
        "near_duplicate_threshold": 0.0,
        "max_per_image": 0,
        "near_duplicate_scope": "all",
    }.items():
        with pytest.raises(ValueError, match=name):
            curate(data, **{name: value})


def test_types_and_languages_that_are_not_kept_are_counted():
    rows = [pair("a", number, number / 10, type=type) for number, type in enumerate(("x", "y", "x", "z"))]
    languages = ("en", "de", None, "en")
    dataset = Dataset.from_list([{**row, "language": one} for row, one in zip(rows, languages)], features=FEATURES)

    def kept(**options):
        chosen, report = curate(dataset, **options)
        return [int(pair_id[-1]) for pair_id in chosen["pair_id"]], report.dropped

    assert kept(keep_types=["x", "z"])[0] == [0, 2, 3]
    assert kept(keep_types=["x", "z"])[1]["type not among those to keep"] == 1
    assert kept(keep_languages=["en"])[0] == [0, 3]
    assert kept(keep_languages=["en"])[1]["language not among those to keep"] == 2
    for options, message in (
        ({"keep_types": ["x", "w"]}, "keep_types has w; the pairs have x, y, z"),
        ({"keep_languages": ["fr"]}, "keep_languages has fr; the pairs have de, en"),
        ({"keep_types": []}, "keep_types has .nothing."),
    ):
        with pytest.raises(ValueError, match=message):
            curate(dataset, **options)
    with pytest.raises(ValueError, match="columns missing: language"):
        curate(dataset.remove_columns("language"), keep_languages=["en"])
