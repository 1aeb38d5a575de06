"""Selection in the prior-heavy regime: labels, what arms keep, students, kept results, the report."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import selection_experiment as experiment
import selection_pools as pools
import selection_report as reports
import selection_students as students
from datasets import Dataset
from evidence_pools import Pool
from scipy.stats import t

from c3l_hf.common.tables import fill_marks
from c3l_hf.scenes import GENERATOR, check_pair
from c3l_hf.scenes.priors import premise_absent, prior_driven
from c3l_hf.scenes.templates import QUESTION_TYPES
from c3l_hf.scenes.world import sample_scenes

SMALL = {
    "student": GENERATOR,
    "generators": [f"some={GENERATOR}"],
    "seeds": [0],
    "arms": ["before", "random", "clusters_pmi", "truth", "all"],
    "shares": [0.4],
    "pool_images": 6,
    "rows_per_step": 10,
    "clusters": 2,
    "questions": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small experiment's arguments, after it has run."""
    args = experiment.SelectionArguments(**SMALL, output_dir=str(tmp_path_factory.mktemp("selection")))
    experiment.main(args)
    return args


@pytest.fixture(scope="module")
def found(run):
    spec = Pool(GENERATOR, "shifted", SMALL["pool_images"], ("drop",), 0, False)
    return pools.load_candidates(Path(run.output_dir) / "pools" / "some-0", spec, SMALL["clusters"])


@pytest.fixture(scope="module")
def results(run):
    files = (Path(run.output_dir) / "results").glob("*.parquet")
    rows = [Dataset.from_parquet(str(file))[0] for file in files]
    return {(row["arm"], row["steps_rule"]): row for row in rows}


@pytest.mark.slow  # with the small experiment
def test_labels(found):
    scenes = {scene.image_id: scene for scene in sample_scenes(SMALL["pool_images"], 0, "validation", shifted=True)}
    for row in found.table:
        question, answer, scene = row["prompt"][0]["content"], row["completion"][0]["content"], scenes[row["image_id"]]
        verdict = check_pair(question, answer, scene)
        assert found.labels["true"][row["row"]] == bool(verdict.true and verdict.type == row["type"])
        assert found.labels["prior"][row["row"]] == bool(prior_driven(question, answer, scene))
        assert found.labels["premise"][row["row"]] == bool(premise_absent(question, scene))
    assert {name: len(values) for name, values in found.labels.items()} == dict.fromkeys(pools.LABELS, 30)


@pytest.mark.slow  # with the small experiment
def test_what_is_said_without_the_picture(found):
    """What the blind answers are by hand: one question at a time, without padding."""
    model, processor = pools.load_generator(GENERATOR)
    questions = ["Is there a dog in the picture?", "Describe the picture.", "How many cups are there?"]
    together = pools.blind_answers(model, processor, questions)
    assert [pools.blind_answers(model, processor, [one])[one] for one in questions] == list(together.values())
    same = [
        pools.blind_answers(model, processor, [row["prompt"][0]["content"]])[row["prompt"][0]["content"]]
        == row["completion"][0]["content"]
        for row in found.table
    ]
    assert same == found.labels["blind"][found.table["row"][:]].tolist()
    assert 0 < sum(same) < len(same)


@pytest.mark.slow  # with the small experiment
def test_embeddings_are_means_over_the_text(found):
    model, processor = pools.load_generator(GENERATOR)
    embeddings = pools.embed(model, found.examples, 30)
    one = found.examples.index[3]
    inputs = found.examples.encoded(one["row"], one["turn"]).inputs
    ids = inputs["input_ids"][0]
    hidden = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    expected = hidden[ids != image].mean(0).detach().numpy()
    assert embeddings[one["row"]] == pytest.approx(expected, abs=1e-4)


def test_clusters_are_of_directions():
    rng = np.random.default_rng(0)
    centres = np.eye(3, 5)[rng.integers(0, 3, 60)]
    vectors = (centres + 0.02 * rng.normal(size=(60, 5))) * rng.uniform(0.1, 10, (60, 1))
    names = pools.cluster(vectors, 3, seed=0)
    assert len(set(zip(names, centres.argmax(1)))) == 3
    assert names == pools.cluster(vectors, 3, seed=0)


@pytest.mark.slow  # with the small experiment
def test_arms_keep_what_they_say(found):
    # What the shipped generator writes is all supported by the picture: lowered, so that the floor drops something.
    lowered = (np.array(found.table["pmi"]) - np.quantile(found.table["pmi"], 0.3)).tolist()
    found = replace(found, table=found.table.remove_columns("pmi").add_column("pmi", lowered))
    rows = {row["row"]: row for row in found.table}
    assert min(lowered) < 0
    chosen = {arm: students.select(found, arm, 12, seed=0) for arm in (*students.ARMS, "all")}
    assert chosen["all"] == list(rows) and all(len(set(of)) == len(of) <= 12 for of in list(chosen.values())[:-1])
    for arm, (_, _, floor) in students.ARMS.items():
        assert floor is None or min(rows[row]["pmi"] for row in chosen[arm]) >= floor
    means = {arm: np.mean([rows[row]["pmi"] for row in chosen[arm]]) for arm in ("pmi", "random")}
    assert means["pmi"] > means["random"]
    few = students.select(found, "clusters_random", 6, seed=0)
    sizes = [sum(rows[row]["cluster"] == name for row in few) for name in set(found.table["cluster"])]
    assert sizes == [3, 3]


@pytest.mark.slow  # with the small experiment
def test_students(run, found, results):
    assert set(results) == {("before", "equal"), ("all", "equal"), ("all", "epoch")} | {
        (arm, rule) for arm in ("random", "clusters_pmi", "truth") for rule in ("equal", "epoch")
    }
    pool = len(found.table)
    truth, everything = results["truth", "epoch"], results["all", "epoch"]
    assert truth["true"] > results["random", "epoch"]["true"]
    assert truth["steps"] == math.ceil(truth["pairs"] / 10) and everything["steps"] == math.ceil(pool / 10)
    assert {row.get("steps") for (_, rule), row in results.items() if rule == "equal"} == {
        math.ceil(0.2 * pool / 10),
        None,
    }
    kept = students.select(found, "truth", round(0.4 * pool), 0)
    assert truth["premise"] == pytest.approx(found.labels["premise"][kept].mean())
    assert {len(row["right"]) for row in results.values()} == {len(QUESTION_TYPES)}


def test_the_student_goes_further_the_same_way(tmp_path):
    model, processor = pools.load_generator(GENERATOR)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    moved = model.lm_head.weight
    moved.data[0] += 1.0
    model.save_pretrained(tmp_path / "prior")
    found, _ = students.make_student(str(tmp_path / "prior"), 2.5)
    for name, weight in found.state_dict().items():
        far = (weight - before[name]).abs()
        same = far[1:] if weight.shape == moved.shape else far
        assert same.max() < 1e-6
    assert (found.lm_head.weight[0] - before["lm_head.weight"][0]).detach().numpy() == pytest.approx(2.5, abs=1e-5)


def test_answers_are_judged(monkeypatch):
    asked = students.make_questions(2, 0, shifted=True)
    assert [one.type for one in asked] == [type for type in QUESTION_TYPES for _ in range(2)]
    assert len({one.scene.image_id for one in asked}) == 14
    said = ["There is nothing to say." for _ in asked]
    at = next(number for number, one in enumerate(asked) if one.type == "colour")
    said[at] = f"The background is {asked[at].scene.background}."
    monkeypatch.setattr(students, "answer_questions", lambda model, processor, questions, images: said)
    found = students.answer(None, None, asked)
    assert [number for number, right in enumerate(found["right"]) if right] == [at] and not any(found["prior_driven"])


@pytest.mark.slow  # with the small experiment
def test_results_are_kept_and_not_made_again(run, monkeypatch):
    for name in ("load_candidates", "train", "answer"):
        monkeypatch.setattr(experiment, name, lambda *_: pytest.fail("made again"))
    experiment.main(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "nowhere"}, "nowhere has no model"),
        ({"arms": ["best"]}, "--arms best"),
        ({"shares": [1.0]}, "--shares 1"),
        ({"steps": ["some"]}, "--steps some"),
        ({"generators": ["scenes"]}, "--generators scenes"),
        ({"clusters": 0}, "--clusters is 0"),
    ],
)
def test_wrong_calls_end_before_any_work(tmp_path, options, message):
    args = experiment.SelectionArguments(**{**SMALL, **options}, output_dir=str(tmp_path / "new"))
    with pytest.raises(SystemExit, match=message):
        experiment.main(args)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow  # with the small experiment
def test_other_options_need_another_folder(run):
    other = experiment.SelectionArguments(**{**SMALL, "clusters": 3}, output_dir=run.output_dir)
    with pytest.raises(SystemExit, match="clusters"):
        experiment.main(other)


@pytest.mark.slow  # with the small experiment
def test_report(run, results, tmp_path):
    readme, kept = tmp_path / "README.md", tmp_path / "selection.parquet"
    readme.write_text("a\n<!-- evidence: students -->\nold\n<!-- end -->\nb\n")
    reports.main(reports.ReportArguments([str(Path(run.output_dir) / "results")], str(kept), str(readme)))
    text = readme.read_text()
    assert "old" not in text and text.count("blunt") == 4  # one seed has no interval
    line = next(line for line in text.splitlines() if line.startswith("| truth |")).split("|")
    row = results["truth", "epoch" if "epoch" in text.partition("| truth |")[0] else "equal"]
    assert line[3].strip() == f"{np.mean(row['right']):.3f}"
    reports.main(reports.ReportArguments([], str(kept), str(readme)))
    assert readme.read_text() == text
    with pytest.raises(SystemExit, match="nowhere"):
        reports.collect(["nowhere"], kept)
    (tmp_path / "other").mkdir()
    row = {**results["truth", "equal"], "seed": 1}
    experiment.write(tmp_path / "other" / "students-1.parquet", [row])
    with pytest.raises(SystemExit, match="results that are not in these folders"):
        reports.collect([str(tmp_path / "other")], kept)
    experiment.write(tmp_path / "other" / "students-2.parquet", [row])
    with pytest.raises(SystemExit, match="more than once"):
        reports.collect([str(tmp_path / "other")], kept)


def made_up(gap):
    """Students of some seeds: random ones get half of ten questions, those of true pairs more by the gap of a seed;
    what is not right is prior-driven."""
    about = {"generator": "some", "share": 0.2, "steps_rule": "equal", "steps": 5, "wanted": 20, "pool": 100}
    shares = dict.fromkeys(("pairs", "true", "prior", "premise", "blind", "texts", "images", "cpu_seconds"), 0.5)
    return [
        {**about, **shares, "seed": seed, "arm": arm, "right": right, "prior_driven": np.logical_not(right).tolist()}
        for seed, more in enumerate(gap)
        for arm, right in (("random", [True, False] * 5), ("truth", [True] * (5 + more) + [False] * (5 - more)))
    ]


def test_differences_have_both_intervals():
    (one,) = reports.comparisons(made_up([1, 2, 3]))
    found = one.difference("truth")
    value, low, high = reports.over_seeds(found)
    sample = [0.1, 0.2, 0.3]
    assert value == pytest.approx(0.2)
    assert (low, high) == pytest.approx(t.interval(0.95, 2, 0.2, np.std(sample, ddof=1) / math.sqrt(3)))
    below, above = reports.over_questions(found)
    rng = np.random.default_rng(1)
    drawn = [np.mean([rng.choice(of, len(of)).mean() for of in found]) for _ in range(4000)]
    assert (below, above) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)


def test_a_comparison_whose_oracle_is_chance_is_blunt():
    sharp, blunt = (reports.texts_of(made_up(gap)) for gap in ([2, 2, 3], [-2, 3, 1]))
    assert sharp["students"].count("sharp") == sharp["oracle"].count("sharp") == 2
    assert blunt["students"].count("blunt") == blunt["oracle"].count("**blunt**") == 2
    assert "+0.200 [" in reports.texts_of(made_up([1, 2, 3]))["oracle"]
    assert "not known: blunt" in reports.texts_of([r for r in made_up([1, 1]) if r["arm"] == "random"])["students"]


def test_published_results_are_what_the_page_says():
    """The tables of SELECTION.md are those of the collected results."""
    text = (reports.HERE / "SELECTION.md").read_text()
    assert "<!-- evidence: students -->" in text
    assert fill_marks(text, reports.texts_of(reports.read_results(reports.HERE / "selection.parquet"))) == text
