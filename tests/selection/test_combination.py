"""Several scores as one: ranks within the type, weights, and rows that lack a score."""

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import rankdata

from c3l_hf.selection.combination import combine_scores, weights_of


def dataset(seed=0, rows=60):
    rng = np.random.default_rng(seed)
    return Dataset.from_dict(
        {
            "a": rng.normal(size=rows).round(1).tolist(),
            "b": (rng.standard_cauchy(rows) * 1000).tolist(),
            "type": [f"type {kind}" for kind in rng.integers(0, 3, rows)],
        }
    )


def test_weighted_mean_of_ranks_within_the_type():
    data = dataset()
    found, missing = combine_scores(data, {"a": 2, "b": -0.5})
    assert missing == {"a": 0, "b": 0} and found.column_names == ["a", "b", "type", "combined"]
    for kind in set(data["type"][:]):
        rows = [n for n, one in enumerate(data["type"][:]) if one == kind]
        a, b = ((rankdata(np.array(data[name][:])[rows]) - 0.5) / len(rows) for name in "ab")
        assert np.array(found["combined"][:])[rows] == pytest.approx((2 * a - 0.5 * b) / 2.5, abs=1e-6)


def test_units_do_not_matter():
    data = dataset()
    stretched = data.remove_columns("b").add_column("b", np.arcsinh(data["b"][:]).tolist())
    one, other = (combine_scores(rows, {"a": 1, "b": 1})[0]["combined"][:] for rows in (data, stretched))
    assert one == other
    everywhere = combine_scores(data, {"a": 1}, within_type=False)[0]["combined"][:]
    without = combine_scores(data.remove_columns("type"), {"a": 1})[0]["combined"][:]
    assert everywhere == without and everywhere == pytest.approx((rankdata(data["a"][:]) - 0.5) / 60, abs=1e-6)


def test_rows_that_lack_a_score_have_none_and_change_nothing():
    data = dataset(rows=9)
    a = data["a"][:]
    more = {name: [*data[name][:], *data[name][:3]] for name in data.column_names}
    more["a"][9:], more["b"][11] = [None, float("nan"), 5.0], None
    found, missing = combine_scores(Dataset.from_dict(more), {"a": 1, "b": 1})
    assert missing == {"a": 2, "b": 1} and found["combined"][9:] == [None] * 3
    assert found["combined"][:9] == combine_scores(data, {"a": 1, "b": 1})[0]["combined"][:] and a == data["a"][:]
    nothing, missing = combine_scores(Dataset.from_dict({"a": [None, None]}), {"a": 1})
    assert nothing["combined"][:] == [None, None] and missing == {"a": 2}
    assert combine_scores(data.select([]), {"a": 1})[0].column_names == ["a", "b", "type", "combined"]


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({}, "there is no weight"),
        ({"a": 0}, "the weight of a is 0"),
        ({"a": float("inf")}, "the weight of a is inf"),
        ({"aa": 1}, "there is no column 'aa' to combine; did you mean 'a'"),
        ({"type": 1}, "column 'type' has values of type string"),
    ],
)
def test_what_cannot_be_combined_is_named(weights, says):
    with pytest.raises(ValueError, match=says):
        combine_scores(dataset(), weights)
    with pytest.raises(ValueError, match="has a column b already"):
        combine_scores(dataset(), {"a": 1}, name="b")


def test_weights_as_words():
    assert weights_of(["pmi=1", "a=b=-0.5"]) == {"pmi": 1, "a=b": -0.5}
    for word in ("pmi", "=1", "pmi=x", "pmi=nan"):
        with pytest.raises(ValueError, match="is not COLUMN=WEIGHT"):
            weights_of([word])
    with pytest.raises(ValueError, match="pmi is given twice"):
        weights_of(["pmi=1", "pmi=2"])
