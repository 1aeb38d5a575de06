"""The evidence in the scenes world: labels, rankings, AUCs, what students are trained on, kept results, the report."""

import json
import math
from pathlib import Path

import evidence
import evidence_pools as pools
import evidence_report as reports
import evidence_scores as found
import evidence_students as students
import evidence_tables as tables
import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import t

from c3l_hf.common.tables import fill_marks
from c3l_hf.models.encoding import encode_row
from c3l_hf.scenes import GENERATOR, Scene, check_pair, load_scenes
from c3l_hf.scenes.templates import TEMPLATES, format_pair
from c3l_hf.scoring.formulas import PMI_K

SMALL = {
    "student": GENERATOR,
    "parts": ["scores", "selection"],
    "seeds": [0],
    "arms": ["random", "truth", "truth_steps", "all"],
    "score_images": 5,
    "pool_images": 10,
    "rows": 15,
    "rows_per_step": 10,
    "test_images": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small experiment's arguments, after it has run."""
    args = evidence.EvidenceArguments(**SMALL, output_dir=str(tmp_path_factory.mktemp("evidence")))
    evidence.main(args)
    return args


@pytest.fixture(scope="module")
def pool(run):
    spec = pools.Pool(GENERATOR, "shifted", SMALL["score_images"], pools.BASELINES, 0)
    return spec, pools.load_pool(Path(run.output_dir) / "pools" / "strong-shifted-0", spec)


@pytest.mark.slow  # with the small experiment
def test_labels_are_the_checkers(pool):
    spec, rows = pool
    labels = found.label(rows.to_dict(), spec)
    scenes = {row["image_id"]: Scene.from_row(row) for row in load_scenes(spec.images, 0, "validation", shifted=True)}
    for row, true in zip(rows, labels.true):
        verdict = row["question"] and check_pair(row["question"], row["answer"], scenes[row["image_id"]])
        assert true == bool(verdict and verdict.true and verdict.type == row["type"])
    assert 0 < labels.true.sum() < len(rows)
    assert not (labels.prior & labels.true).any()


@pytest.mark.slow  # with the small experiment
def test_questions_are_scored_as_they_were_generated(pool):
    spec, rows = pool
    model, processor = pools.load_generator(GENERATOR)
    images = {row["image_id"]: row["images"] for row in pools.scenes_of(spec)}
    row = next(row for row in rows if row["question"])
    prompt = [{"role": "user", "content": TEMPLATES.get(row["template"]).user}]
    encoded = encode_row(processor, prompt, format_pair(row["question"], row["answer"]), images[row["image_id"]])
    logprobs = model(**encoded.inputs).logits[0].double().log_softmax(-1)
    ids = encoded.inputs["input_ids"][0]
    expected = [logprobs[at - 1, ids[at]].item() for at in range(encoded.answer.start, encoded.answer.stop)]
    said = [processor.tokenizer.decode(encoded.answer_ids[:end]).strip() for end in range(len(expected) + 1)]
    begin = said.index("Question:")
    end = said.index(f"Question: {row['question']}")
    assert row["question_logprob"] == pytest.approx(np.mean(expected[begin:end]), abs=1e-4)


@pytest.mark.slow  # with the small experiment
def test_rankings(pool):
    spec, rows = pool
    columns = rows.to_dict()
    ranked = found.rankings(columns, spec.seed)
    for number, row in enumerate(rows):
        if not row["question"]:
            assert math.isnan(ranked["pmi_k"][number]) and math.isnan(ranked["length"][number])
            continue
        p, q = np.array(row["logprob_per_token"]), np.array(row["logprob_blind_per_token"])
        assert ranked["pmi_k"][number] == pytest.approx((PMI_K * p - q).mean(), rel=1e-5)
        assert ranked["min_pmi"][number] == pytest.approx((p - q).min(), rel=1e-5)
        assert ranked["pmi, shuffle"][number] == row["pmi_shuffle"]
        expected = (PMI_K * p - q).mean() + 0.3 * row["question_logprob"]
        assert ranked["pmi_k+question"][number] == pytest.approx(expected, rel=1e-5)
        assert ranked["length"][number] == len(row["answer_tokens"])
    differing = [
        name for name in ("blank", "noise", "shuffle") if not np.allclose(ranked[f"pmi, {name}"], ranked["pmi"])
    ]
    assert differing == ["blank", "noise", "shuffle"]


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, good = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[good] for b in scores[~good]]
    assert found.auc(scores, good) == pytest.approx(np.mean(pairs))
    assert math.isnan(found.auc(scores, np.ones(60, bool)))
    groups = np.array(["a", "b"] * 30)
    inside = [found.auc(scores[groups == group], good[groups == group]) for group in "ab"]
    assert found.mean_auc(scores, good, groups, 3) == pytest.approx(np.mean(inside))
    alone = np.where(groups == "b", True, good)
    assert found.mean_auc(scores, alone, groups, 3) == pytest.approx(inside[0])  # b has no bad pairs


def test_each_label_has_its_own_auc(monkeypatch):
    """Six pairs: true ones score high, the prior-driven error highest, the other error lowest."""
    true, prior = np.array([1, 1, 1, 1, 0, 0], bool), np.array([0, 0, 0, 0, 1, 0], bool)
    monkeypatch.setattr(found, "label", lambda rows, pool: found.Labels(np.ones(6, bool), true, prior))
    scores = np.array([3.0, 4, 5, 6, 9, 1])
    monkeypatch.setattr(found, "rankings", lambda rows, seed: {"some": scores, "length": np.arange(6.0)})
    rows = found.measure({"type": ["t"] * 6, "image_id": list("abcdef")}, pools.Pool("", "usual", 1, (), 0))
    some = {row["label"]: row for row in rows if row["ranking"] == "some"}
    assert {label: row["auc"] for label, row in some.items()} == {"true": 0.5, "prior": 0.0, "true over prior": 0.0}
    assert {label: (row["n"], row["bad"]) for label, row in some.items()} == {
        "true": (6, 2),
        "prior": (6, 1),
        "true over prior": (5, 1),
    }


@pytest.mark.slow  # with the small experiment
def test_students_get_what_their_ranking_keeps(run):
    results = {
        arm: Dataset.from_parquet(str(evidence.result_file(run, "selection", 0, arm)))[0] for arm in SMALL["arms"]
    }
    spec = pools.Pool(GENERATOR, "usual", SMALL["pool_images"], ("drop",), 0, questions=False)
    rows = pools.load_pool(Path(run.output_dir) / "pools" / "students-0", spec)
    labels = found.label(rows.to_dict(), spec)
    everything = [number for number in range(len(rows)) if labels.pair[number]]
    candidates = students.candidates(rows, spec, labels)
    training = students.Training(rows=SMALL["rows"])
    arms = ("bottom", "truth", "pmi", "all", "pmi_k", "pmi_k_half", "pmi_k_image")
    chosen = {arm: students.select(candidates, arm, training, 0) for arm in arms}
    pmi = np.array(candidates["pmi"], dtype=float)
    assert results["all"]["pairs"] == len(everything) and results["truth"]["pairs"] == len(chosen["truth"])
    assert len(chosen["all"]) == len(rows) and len(chosen["pmi"]) <= SMALL["rows"]
    assert np.nanmean(pmi[chosen["bottom"]]) < np.nanmean(pmi[everything]) < np.nanmean(pmi[chosen["pmi"]])
    assert results["truth"]["true"] > results["random"]["true"]
    # any of the better half of each type, not the best of it
    types, pmi_k = np.array(rows["type"]), np.array(candidates["pmi_k"], dtype=float)
    half, best = chosen["pmi_k_half"], chosen["pmi_k"]
    assert len(half) == len(best) and set(half) != set(best) and pmi_k[half].mean() < pmi_k[best].mean()
    images = rows["image_id"]
    for row in chosen["pmi_k_image"]:
        others = [number for number in everything if images[number] == images[row]]
        assert pmi_k[row] == max(pmi_k[others])
    assert len({images[row] for row in chosen["pmi_k_image"]}) == len(chosen["pmi_k_image"])
    texts = {(rows["question"][row], rows["answer"][row]) for row in chosen["truth"]}
    assert (results["truth"]["texts"], results["all"]["images"]) == (len(texts), SMALL["pool_images"])
    assert all(pmi_k[row] >= np.nanmedian(pmi_k[types == types[row]]) for row in half)
    assert results["truth"]["steps"] == math.ceil(results["truth"]["pairs"] / SMALL["rows_per_step"])
    same = ("pairs", "true", "texts", "images")
    assert [results["truth_steps"][name] for name in same] == [results["truth"][name] for name in same]
    assert results["truth_steps"]["steps"] == results["all"]["steps"] > results["truth"]["steps"]


@pytest.mark.slow  # with the small experiment
def test_results_are_kept_and_not_made_again(run, monkeypatch):
    for name in ("load_pool", "train", "measure"):
        monkeypatch.setattr(evidence, name, lambda *_: pytest.fail("made again"))
    evidence.main(run)


@pytest.mark.slow  # with the small experiment
def test_other_options_need_another_folder(run):
    other = evidence.EvidenceArguments(**{**SMALL, "rows": 21}, output_dir=run.output_dir)
    with pytest.raises(SystemExit, match="rows"):
        evidence.main(other)
    folder = Path(run.output_dir) / "pools" / "strong-usual-0"
    with pytest.raises(SystemExit, match="seed"):
        pools.load_pool(folder, pools.Pool(GENERATOR, "usual", SMALL["score_images"], pools.BASELINES, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "nowhere"}, "nowhere has no model"),
        ({"student": None}, "--student is missing"),
        ({"arms": ["best"]}, "--arms best"),
        ({"parts": []}, "--parts"),
        ({"generators": ["scenes"]}, "--generators scenes"),
        ({"rows": 0}, "--rows is 0"),
    ],
)
def test_wrong_calls_end_before_any_work(tmp_path, options, message):
    args = evidence.EvidenceArguments(**{**SMALL, **options}, output_dir=str(tmp_path / "new"))
    with pytest.raises(SystemExit, match=message):
        evidence.main(args)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow  # with the small experiment
def test_report(run, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    marks = "a\n<!-- evidence: scores -->\nold\n<!-- end -->\nb\n<!-- evidence: selection -->\n<!-- end -->\nc\n"
    (tmp_path / "README.md").write_text(marks)
    args = reports.ReportArguments([str(Path(run.output_dir) / "results")], str(kept), [str(tmp_path / "README.md")])
    reports.main(args)
    text = (tmp_path / "README.md").read_text()
    assert "old" not in text and text.startswith("a\n") and text.endswith("c\n")
    scores = Dataset.from_parquet(str(kept / "evidence_scores.parquet")).to_list()
    mean = np.mean([row["auc"] for row in scores if (row["ranking"], row["label"]) == ("pmi", "true")])
    line = next(line for line in text.splitlines() if line.startswith("| `pmi` |"))
    assert line.split("|")[2].strip() == f"{mean:.3f}"
    assert {file.suffix for file in kept.iterdir()} == {".parquet", ".png"}
    again = tmp_path / "README.md"
    reports.main(reports.ReportArguments([], str(kept), [str(again)]))
    assert again.read_text() == text


def test_report_has_intervals_over_seeds():
    values = {0: 0.5, 1: 0.7, 2: 0.75}
    rows = [
        {"arm": arm, "seed": seed, "kind": "usual", "benchmark": benchmark, "by": by, "value": value, **extra}
        for seed, base in values.items()
        for arm, gain in (("random", 0.0), ("pmi", 0.1 + 0.05 * seed))
        for benchmark, by in tables.SUITE
        for value in [(base + gain) * (100 if benchmark == "llava_w" else 1)]
        for extra in [{"pairs": 5, "steps": 1, "true": 0.5}]
    ]
    mean, low, high = tables.interval(list(tables.suite(rows, "random", "usual").values()))
    sample = np.array(list(values.values()))
    assert mean == pytest.approx(sample.mean())
    assert (low, high) == pytest.approx(t.interval(0.95, 2, sample.mean(), sample.std(ddof=1) / math.sqrt(3)))
    assert tables.against(rows, "pmi", "random", "usual") == pytest.approx([0.1, 0.15, 0.2])
    shown = tables.selection_table(rows, tables.SUITE)
    assert "+0.150" in shown and "− all" not in shown
    # the distance to the students of all pairs is over the seeds that have them
    everything = [{**row, "arm": "all", "steps": 9} for row in rows if row["arm"] == "random" and row["seed"] < 2]
    lines = [line.split("|") for line in tables.selection_table(rows + everything, tables.SUITE).splitlines()]
    column = lines[0].index(" − all ")
    of_arm = {line[1].strip(): line for line in lines[2:]}
    assert of_arm["`pmi`"][column].split()[0] == "+0.125" and of_arm["all"][column].strip() == ""
    assert of_arm["all"][2].strip() == "9" and of_arm["all"][-2].strip() == "2"
    assert tables.show([0.5]) == "0.500" and tables.show([]) == "–"


def test_sizes_whose_oracle_is_chance_are_blunt():
    rows = [
        {"arm": arm, "seed": seed, "kind": kind, "benchmark": "seed", "by": "likelihood", "value": value}
        for kind, gaps in (("usual", (0.19, 0.2, 0.21)), ("shifted", (0.3, -0.2, 0.1)))
        for seed, gap in enumerate(gaps)
        for arm, value in (("random", 0.5), ("truth", 0.5 + gap))
    ]
    lines = tables.oracle_table({"some pairs": rows}).splitlines()[2:]
    verdicts = {tuple(line.split(" | ")[1:3]): line.split(" | ")[-1].strip(" |") for line in lines}
    by_likelihood = "SEED-Bench by likelihood"
    assert verdicts[by_likelihood, "usual"] == "sharp" and verdicts[by_likelihood, "shifted"] == "**blunt**"


def test_published_results_are_what_the_pages_say():
    """The tables on the pages are those of the collected results."""
    kept = Path(evidence.__file__).parent
    texts = reports.texts_of(*(reports.read(kept, part) for part in reports.PARTS))
    for folder, name in reports.READMES:
        text = (folder / name).read_text()
        assert "<!-- evidence: " in text
        assert fill_marks(text, texts) == text


def test_results_of_two_experiments(tmp_path):
    """Two sizes have tables of their own; the same result twice is no result."""
    row = {"pool_images": 10, "arm": "random", "seed": 0, "kind": "usual", "benchmark": "pope", "by": "generated"}
    for folder, rows in (("one", 5), ("other", 8), ("copy", 8)):
        evidence.write(tmp_path / folder / "selection-0-random.parquet", [{**row, "rows": rows, "value": rows / 10}])
    with pytest.raises(SystemExit, match="other/selection-0-random.parquet, .*copy/selection-0-random.parquet"):
        reports.collect([str(tmp_path / name) for name in ("other", "one", "copy")], tmp_path)
    assert not (tmp_path / "evidence_selection.parquet").exists()
    reports.collect([str(tmp_path / name) for name in ("one", "other")], tmp_path)
    found = tables.by_size(reports.read(tmp_path, "selection"))
    assert {size: [row["value"] for row in rows] for size, rows in found.items()} == {
        "8 of the pairs about 10 scenes": [0.8],
        "5 of the pairs about 10 scenes": [0.5],
    }
    assert list(found)[0].startswith("8 of")
    with pytest.raises(SystemExit, match=r"has 1 results that are not in these folders \(the first: rows 5, .*--kept"):
        reports.collect([str(tmp_path / "other")], tmp_path)
    with pytest.raises(SystemExit, match="nowhere has no results"):
        reports.collect([str(tmp_path / "one"), str(tmp_path / "nowhere")], tmp_path)
    assert len(reports.read(tmp_path, "selection")) == 2


def test_unfinished_pools_do_not_count(tmp_path, monkeypatch):
    spec = pools.Pool(GENERATOR, "usual", 1, ("drop",), 0, questions=False)
    monkeypatch.setattr(pools, "_make", lambda pool: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pools.load_pool(tmp_path / "pool", spec)
    monkeypatch.undo()
    assert len(pools.load_pool(tmp_path / "pool", spec)) == 5
    assert json.loads((tmp_path / "pool" / "pool.json").read_text()) == spec.identity()
