"""Clusters of pairs: against a plain k-means, and of all that columns of vectors may hold."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from scored_rows import FEATURES, pair

from c3l_hf.data.schema import CLUSTER, CLUSTER_SIMILARITY
from c3l_hf.selection import clusters as clustering
from c3l_hf.selection.clusters import CLUSTER_FEATURES, cluster_pairs, cluster_vectors
from c3l_hf.selection.curation import curate
from c3l_hf.selection.random_choice import random_selection


def blobs(groups, each, size=8, spread=0.02, seed=0):
    """Vectors around directions that are far from each other, of different lengths, and which direction it is."""
    generator = np.random.default_rng(seed)
    centres = np.linalg.qr(generator.normal(size=(size, size)))[0][:groups]
    truth = generator.permutation(np.repeat(np.arange(groups), each))
    vectors = centres[truth] + spread * generator.normal(size=(len(truth), size))
    return (vectors * generator.uniform(0.1, 50, (len(truth), 1))).astype(np.float32), truth


def plain_kmeans(vectors, clusters):
    """Lloyd's steps from the vectors that are farthest from each other, in loops."""
    units = [vector / np.linalg.norm(vector) for vector in vectors.astype(np.float64)]
    centres = [units[0]]
    while len(centres) < clusters:
        centres.append(max(units, key=lambda unit: min(np.linalg.norm(unit - centre) for centre in centres)))
    for _ in range(20):
        nearest = [min(range(clusters), key=lambda c: np.linalg.norm(unit - centres[c])) for unit in units]
        centres = [
            np.mean([unit for unit, c in zip(units, nearest) if c == number], axis=0) for number in range(clusters)
        ]
    cosines = [unit @ centres[c] / np.linalg.norm(centres[c]) for unit, c in zip(units, nearest)]
    return nearest, cosines


def same_partition(one, other):
    pairs = set(zip(one, other))
    return len(pairs) == len(set(one)) == len(set(other))


def dataset_of(vectors, length=None):
    column = Dataset.from_dict(
        {"vec": vectors}, features=Features({"vec": List(Value("float32"), length=length or -1)})
    )
    return column.add_column("number", list(range(len(column))))


@pytest.fixture
def in_pieces(monkeypatch):
    monkeypatch.setattr(clustering, "_BLOCK", 7)


@pytest.mark.parametrize("how", ["all at once", "in small batches", "a sample"])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_separated_clusters_are_those_of_a_plain_kmeans(groups, how, in_pieces, monkeypatch):
    vectors, truth = blobs(groups, 30)
    if how != "all at once":
        monkeypatch.setattr(clustering, "_ALL_AT_ONCE", 10)
    if how == "a sample":
        monkeypatch.setattr(clustering, "_MOST_NUMBERS", 8 * 15 * groups)
    found, report = cluster_pairs(dataset_of(vectors), clusters=groups, embeddings="vec")
    expected, cosines = plain_kmeans(vectors, groups)
    assert same_partition(expected, truth.tolist()) and same_partition(found[CLUSTER][:], expected)
    close = 1e-5 if how == "all at once" else 5e-3  # the centres of some vectors are not those of all
    np.testing.assert_allclose(found[CLUSTER_SIMILARITY][:], cosines, atol=close)
    assert report.sizes == [30] * groups and report.rows == 30 * groups and sum(report.without.values()) == 0
    assert found.features[CLUSTER] == CLUSTER_FEATURES[CLUSTER] and found["number"][:] == list(range(30 * groups))


def test_the_length_of_a_vector_does_not_count():
    vectors, _ = blobs(4, 20, spread=0.6)
    first, _ = cluster_pairs(dataset_of(vectors), clusters=4, embeddings="vec", seed=3)
    longer = vectors * np.float32(2) ** np.random.default_rng(1).integers(-60, 60, (len(vectors), 1))
    again, _ = cluster_pairs(dataset_of(longer, 8), clusters=4, embeddings="vec", seed=3)
    assert again[CLUSTER][:] == first[CLUSTER][:]  # powers of two change no digit
    other, _ = cluster_pairs(dataset_of(vectors), clusters=4, embeddings="vec", seed=4)
    assert other[CLUSTER][:] != first[CLUSTER][:]


def test_rows_without_a_vector_get_no_cluster_and_are_counted(in_pieces):
    vectors, truth = blobs(3, 10)
    rows = list(vectors)
    rows[2] = rows[9] = None
    rows[4] = [0.0] * 8
    rows[5] = [1.0] * 7 + [float("nan")]
    rows[6] = [float("inf")] + [0.0] * 7
    rows[20] = [1.0, None] + [0.0] * 6
    for length in (None, 8):
        found, report = cluster_pairs(dataset_of(rows, length), clusters=3, embeddings="vec")
        without = [2, 4, 5, 6, 9, 20]
        assert [row for row, cluster in enumerate(found[CLUSTER][:]) if cluster is None] == without
        assert [row for row, value in enumerate(found[CLUSTER_SIMILARITY][:]) if value is None] == without
        assert report.without == {"no vector": 2, "vector not finite": 3, "vector of zeros": 1}
        kept = [row for row in range(30) if row not in without]
        assert same_partition([found[CLUSTER][row] for row in kept], truth[kept].tolist())
        assert "without a cluster: vector not finite" in str(report)


@pytest.mark.filterwarnings("error")
def test_fewer_different_vectors_than_clusters():
    """As of few images with many pairs each."""
    vectors = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    found, report = cluster_pairs(dataset_of(vectors), clusters=10, embeddings="vec")
    assert same_partition(found[CLUSTER][:], [0] * 5 + [1] * 5 + [2] * 5)
    assert report.sizes == [5, 5, 5] and "Fewer clusters than asked for: 3 of 10" in str(report)


def test_types_of_numbers():
    vectors, truth = blobs(2, 5)
    for kind in (pa.float16(), pa.float64(), pa.int32()):
        scaled = vectors if pa.types.is_floating(kind) else (vectors * 1000).astype(np.int32)
        arrays = pa.array([list(vector) for vector in scaled.astype(kind.to_pandas_dtype())], pa.large_list(kind))
        found = cluster_vectors(lambda arrays=arrays: [arrays.slice(0, 3), arrays.slice(3)], 2)
        assert same_partition(found.table[CLUSTER].to_pylist(), truth.tolist())


def test_whole_numbers_that_float32_rounds():
    rows = [[2**24 + 1, 0], [2**40 + 1, 1], [1, 2**24 + 1]]
    found, _ = cluster_pairs(Dataset.from_dict({"vec": rows}), clusters=2, embeddings="vec")
    assert same_partition(found[CLUSTER][:], [0, 0, 1])


def test_wrong_input():
    vectors, _ = blobs(2, 5)
    data = dataset_of(vectors)
    with pytest.raises(ValueError, match="clusters is 11, but only 10 of 10 rows have a vector in 'vec'"):
        cluster_pairs(data, clusters=11, embeddings="vec")
    with pytest.raises(ValueError, match=r"only 1 of 3 rows have a vector in 'vec' \(no vector: 2\)"):
        cluster_pairs(dataset_of([vectors[0], None, None]), clusters=2, embeddings="vec")
    with pytest.raises(ValueError, match="clusters is 0; it must be at least 1"):
        cluster_pairs(data, clusters=0, embeddings="vec")
    with pytest.raises(ValueError, match="no column 'embedding'; found vec, number. Vectors come from PairEmbedder"):
        cluster_pairs(data, clusters=2)
    with pytest.raises(ValueError, match="'number' has values of type int64; it must have lists of numbers"):
        cluster_pairs(data, clusters=2, embeddings="number")
    with pytest.raises(ValueError, match="a vector of length 3 in row 4, before it of length 8"):
        cluster_pairs(dataset_of([*vectors[:4], [1.0] * 3]), clusters=2, embeddings="vec")
    with pytest.raises(ValueError, match="only 0 of 0 rows"):
        cluster_pairs(data.select([]), clusters=1, embeddings="vec")
    with pytest.raises(TypeError, match="DatasetDict; give a Dataset"):
        cluster_pairs(DatasetDict(train=data), clusters=2)
    with pytest.raises(ValueError, match="cluster, cluster_similarity already"):
        cluster_pairs(cluster_pairs(data, clusters=2, embeddings="vec")[0], clusters=2, embeddings="vec")


def test_a_strangers_vectors_from_clusters_to_the_best_of_each():
    """Scored pairs with vectors of another model: the best of each cluster, the most typical, and some at random."""
    vectors, truth = blobs(4, 12)
    pairs = [
        pair(f"i{number:02d}", 0, float(score), question=f"What is w{number}?", answer=f"a{number} b{number} c{number}")
        for number, score in enumerate(np.random.default_rng(5).normal(size=48))
    ]
    scored = Dataset.from_list(pairs, features=FEATURES).add_column("clip", [list(map(float, v)) for v in vectors])
    clustered, _ = cluster_pairs(scored, clusters=4, embeddings="clip")

    def groups(kept):
        found = {}
        for group, name in zip(kept["cluster"], kept["pair_id"]):
            found.setdefault(group, []).append(int(name[1:3]))
        return found

    def best(score, group, count):
        members = [number for number in range(48) if clustered["cluster"][number] == group]
        return sorted(sorted(members, key=lambda number: -score[number])[:count])

    clustered = clustered.remove_columns("images")
    by_score, report = curate(clustered, target_size=12, within_type=False, balance_by="cluster")
    assert report.groups_after == {str(group): 3 for group in range(4)} and report.balance_by == ["cluster"]
    assert groups(by_score) == {group: best(clustered["i2c"], group, 3) for group in range(4)}
    typical, _ = curate(clustered, target_size=12, score=CLUSTER_SIMILARITY, within_type=False, balance_by="cluster")
    assert groups(typical) == {group: best(clustered[CLUSTER_SIMILARITY], group, 3) for group in range(4)}
    assert "groups by cluster" in str(report)

    floored, report = curate(clustered, target_size=48, floors={"pmi": 0.0}, balance_by="cluster")
    assert min(floored["pmi"]) >= 0 and report.dropped["pmi below 0"] == sum(p["pmi"] < 0 for p in pairs)
    at_random = [
        curate(clustered, target_size=12, score="random", floors={"pmi": 0.0}, balance_by="cluster", seed=seed)[0]
        for seed in (0, 0, 1)
    ]
    assert all(min(kept["pmi"]) >= 0 for kept in at_random)
    assert at_random[0]["pair_id"][:] == at_random[1]["pair_id"][:] != at_random[2]["pair_id"][:]
    control = random_selection(clustered, report.groups_after, balance_by="cluster")
    assert {str(group): len(numbers) for group, numbers in groups(control).items()} == report.groups_after
