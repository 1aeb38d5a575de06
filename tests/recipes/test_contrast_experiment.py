"""The experiment on contrastive training: what each arm trains on, that results are kept, and the report's numbers."""

import json
from dataclasses import replace
from pathlib import Path

import contrast_arms as arms
import contrast_experiment as experiment
import contrast_report as reports
import numpy as np
import pytest
import torch
from scipy.stats import t
from trl import DPOConfig, DPOTrainer

from c3l_hf.common.tables import fill_marks
from c3l_hf.data.schema import SCORES
from c3l_hf.models.encoding import encode_row
from c3l_hf.prompts.parsing import parse_pair
from c3l_hf.scenes import check_pair, load_scenes
from c3l_hf.scenes.evaluation import answer_questions, pair_texts
from c3l_hf.scenes.questions import ask
from c3l_hf.scenes.templates import QUESTION_TYPES, TEMPLATES
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.training.config import C3LConfig

SMALL = {
    "train_images": 8,
    "steps": 2,
    "rows_per_step": 4,
    "warmup_steps": 0,
    "test_images": 3,
    "general_images": 1,
    "questions": 1,
}


def arguments(folder, **changes):
    return experiment.ExperimentArguments(output_dir=str(folder), **(SMALL | {"seeds": [7]} | changes))


@pytest.fixture(scope="module")
def rows():
    return load_scenes(30, 7, "validation")


@pytest.fixture(scope="module")
def candidates(rows):
    return arms.make_pool("pairs", rows, 7)


@pytest.fixture(scope="module")
def answers(rows, candidates):
    return arms.make_pool("answers", rows, 7, candidates)


def verdict(messages, scene):
    return check_pair(*parse_pair(messages[0]["content"]), scene)


def test_truth_chooses_true_pairs_and_rejects_false_ones(rows, candidates):
    scenes = arms.scenes_by_id(rows)
    labels = arms.select(arms.ARMS["truth_c3l"], candidates)
    for row in labels.remove_columns("images"):
        chosen = verdict(row["chosen"], scenes[row["image_id"]])
        assert chosen.true and chosen.type == row["type"]
        assert row["rejected"] and len(row["rejected"]) == len(row["rejected_scores"])
        for pair in row["rejected"]:
            found = verdict(pair, scenes[row["image_id"]])
            assert not found.true or found.type != row["type"]

    # images that have both, and no others
    both = {image_id: set() for image_id in rows["image_id"]}
    texts = pair_texts(candidates)
    for image_id, type, text in zip(candidates["image_id"], candidates["type"], texts):
        if text:
            found = check_pair(*text, scenes[image_id])
            both[image_id].add(bool(found.true) and found.type == type)
    assert labels["image_id"][:] == [image_id for image_id, found in both.items() if len(found) == 2]
    assert 3 < len(labels) < 30


def test_random_is_reproducible_and_not_the_rankings_choice(rows, candidates):
    random, ranked = (arms.select(arms.ARMS[name], candidates) for name in ("random_nll", "nll"))
    # the same images in the same order: arms of a seed see the same batches
    assert random["image_id"][:] == ranked["image_id"][:] and len(ranked) > 20
    same = np.mean([a == b for a, b in zip(random["chosen"], ranked["chosen"])])
    assert same < 0.75  # pairs of an image often read alike
    of_pair = dict(zip(candidates["pair_id"], candidates["pmi"]))
    by_image = {}
    for pair_id, score in of_pair.items():
        by_image.setdefault(pair_id.rsplit("/", 1)[0], []).append(score)
    assert all(s == max(by_image[i]) for i, s in zip(ranked["image_id"], ranked["chosen_score"]))

    again = arms.make_pool("pairs", rows.select(range(6)), 7)
    first = candidates.select(range(30))
    for column in ("raw", "random", "true"):
        assert again[column][:] == first[column][:]
    assert len(set(candidates["random"])) == len(candidates)


def test_answers_of_a_row_are_to_one_question(rows, candidates, answers):
    scenes, asked = arms.scenes_by_id(rows), {}
    for image_id, text in zip(candidates["image_id"], pair_texts(candidates)):
        asked.setdefault(image_id, set()).add(text and text[0])
    texts = pair_texts(answers)
    for image_id, type, text, true in zip(answers["image_id"], answers["type"], texts, answers["true"]):
        if text:
            assert text[0] in asked[arms.scene_id(image_id)]
            found = check_pair(*text, scenes[arms.scene_id(image_id)])
            assert true == (bool(found.true) and found.type == type)
    labels = arms.select(arms.ARMS["c3l_answers_pmi"], answers)
    assert len(labels) > 5
    for row in labels.remove_columns("images"):
        pairs = [parse_pair(messages[0]["content"]) for messages in (row["chosen"], *row["rejected"])]
        assert len({question for question, _ in pairs}) == 1
        assert len({answer for _, answer in pairs}) == len(pairs) > 1
        assert row["prompt"][0]["content"] == TEMPLATES.get(row["template"]).user


def test_sampled_answers_are_the_models_own(candidates):
    """At temperature 1 most answers are the greedy ones: image, question and template are where they belong."""
    model, processor = arms.generator()
    few = candidates.select(range(25))
    sampled = arms.sample_answers(few, model, processor, 7)
    texts = pair_texts(sampled)
    assert sampled["pair_id"][:5] == [f"{sampled['image_id'][0]}/{number}" for number in range(5)]
    images = [images[0] for images in sampled["images"]]
    greedy = answer_questions(model, processor, [text[0] for text in texts], images)
    assert np.mean([answer == text[1] for answer, text in zip(greedy, texts)]) > 0.6


def test_the_description_of_rows_counts_truth(rows, candidates):
    scenes = arms.scenes_by_id(rows)
    truth = arms.describe(arms.select(arms.ARMS["truth_c3l"], candidates), scenes)
    assert truth["chosen"] == [truth["rows"]] * 2 and truth["rejected"][0] == 0 < truth["rejected"][1]
    ranked = arms.describe(arms.select(arms.ARMS["c3l"], candidates), scenes)
    assert ranked["rows"] == sum(ranked["types"].values()) and 0 < ranked["rejected"][0] < ranked["rejected"][1]


def test_every_arm_is_one_that_can_run(tmp_path):
    for name, arm in arms.ARMS.items():
        assert arm.control in arms.ARMS or name == "before", name
        assert {arm.after, arm.writer} <= {"", *arms.MAIN} - {"before"}, name
        assert arm.pool in arms.POOLS and arm.ranking in (*SCORES, "random", "true"), name
        config = {"c3l": C3LConfig, "dpo": DPOConfig}.get(arm.trainer)
        if config:
            config(str(tmp_path), report_to="none", bf16=False, **arm.options)
        control = arms.ARMS.get(arm.control)
        if control and control.trainer and not arm.after and arm.options.get("contrastive_weight") != 0:
            # What differs from the control is the loss: the rows and the learning rate are the same.
            assert rows_of(arm) == rows_of(control), name
            assert arm.options.get("learning_rate") == control.options.get("learning_rate"), name


def rows_of(arm):
    return arm.ranking, arm.pool, arm.within


def test_a_second_round_goes_on_from_the_first(tmp_path, monkeypatch):
    """What is trained further is the first round's model; its rows are that model's new pairs, scored by the shipped
    generator; the control's rows are those of the first round."""
    args = arguments(tmp_path, arms=["nll", "nll_again", "nll_second"], train_images=12)
    measured = made_up("", 7, [1, 2])  # what is measured of the models is another test's
    monkeypatch.setattr(experiment, "measure", lambda *_: {split: measured[split] for split in ("usual", "shifted")})
    experiment.main(args)
    again, second = (arms.ARMS[name] for name in args.arms[1:])
    shipped, first = arms.generator()[0].state_dict(), experiment.trained("nll", args, 7)[0].state_dict()
    assert any(not torch.equal(shipped[name], first[name]) for name in shipped)
    assert experiment.trained("", args, 7)[0].state_dict().keys() == first.keys()

    still = replace(again, options=again.options | {"learning_rate": 0.0})
    unmoved, _, _ = experiment.train(still, experiment.labels_of(again, args, 7), args, 7)
    assert all(torch.equal(value, first[name]) for name, value in unmoved.state_dict().items())

    rows = [experiment.labels_of(arm, args, 7) for arm in (arms.ARMS["nll"], again, second)]
    assert rows[0]["chosen"][:] == rows[1]["chosen"][:] != rows[2]["chosen"][:]
    pairs, new = experiment.pool("pairs", args, 7), experiment.pool("pairs", args, 7, "nll")
    assert pairs["image_id"][:] == new["image_id"][:] and pairs["raw"][:] != new["raw"][:]
    scored = I2CScorer(*arms.generator()).score(new.select(range(10)).to_list())
    assert [row["pmi"] for row in scored] == pytest.approx(new["pmi"][:10], abs=1e-4)
    results = [json.loads((tmp_path / "results" / f"{name}-7.json").read_text()) for name in args.arms]
    assert len({result["log"][-1]["train_loss"] for result in results}) == 3


def test_a_model_of_an_arm_that_has_changed_is_not_trained_further(tmp_path, monkeypatch):
    args = arguments(tmp_path, arms=["nll_again"], train_images=4)
    experiment.trained("nll", args, 7)
    monkeypatch.setitem(experiment.ARMS, "nll", replace(arms.ARMS["nll"], ranking="logprob"))
    with pytest.raises(SystemExit, match="options.json was made with ranking 'pmi', not 'logprob'"):
        experiment.main(args)


@pytest.mark.parametrize("name", ["c3l", "contrastive", "dpo"])
def test_training_moves_the_language_model_only(name, candidates, tmp_path):
    labels = arms.select(arms.ARMS[name], candidates).select(range(8))
    before = arms.generator()[0].state_dict()
    model, _, log = experiment.train(arms.ARMS[name], labels, arguments(tmp_path), 7)
    after = model.state_dict()
    assert before.keys() == after.keys() and log[-1]["step"] == 2
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(moved) > 20 and all("language_model" in name or name == "lm_head.weight" for name in moved)
    assert "forward" not in vars(model)


@pytest.mark.parametrize("contrast, alone", [("c3l", "contrastive"), ("likelihood", "likelihood_alone")])
def test_nll_and_contrast_differ_by_the_loss_alone(candidates, tmp_path, contrast, alone):
    labels = arms.select(arms.ARMS[contrast], candidates).select(range(8))
    args = arguments(tmp_path, steps=1)
    names = ("nll", contrast, alone)
    logs = {name: experiment.train(arms.ARMS[name], labels, args, 7)[2][-1] for name in names}
    nll = logs["nll"]["loss/nll"]
    contrastive = logs[contrast]["loss/contrastive"]
    assert [logs[name]["loss/nll"] for name in names] == pytest.approx([nll] * 3, abs=1e-5)
    assert logs[alone]["loss/contrastive"] == pytest.approx(contrastive, abs=1e-5)
    losses = [logs[name]["train_loss"] for name in names]
    assert losses == pytest.approx([nll, nll + contrastive, contrastive], abs=1e-4)


def test_dpo_sees_the_tokens_of_the_other_arms(candidates, tmp_path, monkeypatch):
    """TRL's batch of the first row: image, prompt and chosen as they are encoded here, and the worst pair rejected."""
    seen = {}

    def stop(self):
        seen["batch"] = self.data_collator([self.train_dataset[0]])
        seen["reference"] = {name: value.clone() for name, value in self.ref_model.state_dict().items()}

    monkeypatch.setattr(DPOTrainer, "train", stop)
    labels = arms.select(arms.ARMS["dpo"], candidates)
    experiment.train(arms.ARMS["dpo"], labels, arguments(tmp_path), 7)
    model, processor = arms.generator()
    row = labels[0]
    scores = dict(zip([pair[0]["content"] for pair in row["rejected"]], row["rejected_scores"]))
    worst = min(scores, key=scores.get)
    for number, text in enumerate((row["chosen"][0]["content"], worst)):
        expected = encode_row(processor, row["prompt"], text, row["images"])
        mask = seen["batch"]["attention_mask"][number].bool()
        assert seen["batch"]["input_ids"][number][mask].tolist() == expected.inputs["input_ids"][0].tolist()
        completion = seen["batch"]["completion_mask"][number][mask]
        # the answer and the end of the turn
        assert completion.nonzero()[:, 0].tolist() == list(range(expected.answer.start, expected.answer.stop + 1))
        torch.testing.assert_close(seen["batch"]["pixel_values"][number], expected.inputs["pixel_values"][0])
    start = model.state_dict()
    assert all(torch.equal(seen["reference"][name], start[name]) for name in start)


def test_counts_by_image():
    scenes = arms.scenes_by_id(load_scenes(2, 3, "test"))
    (first, scene), (second, other) = scenes.items()
    rng = np.random.default_rng(0)
    true = ask(scene, "colour", rng)
    false = "What colour is the background?", "The background is nice."
    wrong = next(c for c in ("red", "blue") if c != other.background)
    untrue = "What colour is the background?", f"The background is {wrong}."
    ids = [first] * 3 + [second] * 3
    types = ["colour"] * 3 + ["colour", "colour", "count"]
    spaced = true[0], f"  {true[1]} "
    found = experiment.count(ids, types, [true, spaced, None, untrue, false, untrue], scenes)
    assert found["by_image"] == {
        "image": [first, second, second],
        "type": ["colour", "colour", "count"],
        "pairs": [3, 2, 1],
        "well_formed": [2, 1, 0],
        "true": [2, 0, 0],
        "prior_driven": [0, 0, 0],
        "premise_absent": [0, 0, 0],
        "distinct": [1, 2, 1],
    }
    assert found["types_found"] == {"colour": 5, "none": 1}
    assert found["distinct"] == len({" ".join(" ".join(pair).split()) for pair in (true, untrue, false)})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    experiment.main(arguments(folder, arms=["before", "nll", "c3l"]))
    return folder


def test_results_are_complete_and_not_made_twice(finished, monkeypatch, capsys):
    files = {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}
    assert {file.name for file in files if file.parent.name == "results"} == {
        "before-7.json",
        "nll-7.json",
        "c3l-7.json",
    }
    result = json.loads((finished / "results" / "c3l-7.json").read_text())
    assert result["labels"]["rows"] <= 8 and result["log"] and result["versions"]["trl"]
    for split in ("usual", "shifted"):
        assert sum(result[split]["pairs"]["by_image"]["pairs"]) == 15
        assert sum(result[split]["general"]["by_image"]["pairs"]) == 5
        asked = [total for type, (_, total) in result[split]["answers"].items() if type in QUESTION_TYPES]
        assert set(asked) == {1} and len(asked) >= 6  # two scenes may have no relation to ask about
    before = json.loads((finished / "results" / "before-7.json").read_text())
    for split in ("usual", "shifted"):  # the arms are measured on the same images
        for column in ("image", "type"):
            assert before[split]["pairs"]["by_image"][column] == result[split]["pairs"]["by_image"][column]

    def fail(*args):
        raise AssertionError("made twice")

    monkeypatch.setattr(experiment, "make_pool", fail)
    monkeypatch.setattr(experiment, "run_arm", fail)
    experiment.main(arguments(finished, arms=["before", "nll", "c3l"]))
    assert "3 results are there, 0 to come" in capsys.readouterr().out
    assert files == {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}
    asked = []
    monkeypatch.setattr(experiment, "run_arm", lambda name, args, seed: asked.append((seed, name)) or fail())
    with pytest.raises(AssertionError):
        experiment.main(arguments(finished, arms=["nll", "contrastive"]))
    assert asked == [(7, "contrastive")]
    assert files.keys() == {file for file in finished.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"steps": 3}, "steps 2, not 3"),
        ({"arms": ["c3l", "c4l"]}, "c4l"),
        ({"test_images": 0}, "--test_images is 0"),
        ({"seeds": []}, "--seeds"),
    ],
)
def test_a_wrong_call_ends_with_one_line(finished, changes, says):
    files = {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit) as stop:
        experiment.main(arguments(finished, **changes))
    assert says in stop.value.code and "\n" not in stop.value.code
    assert files == {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}


def test_results_of_an_arm_that_has_changed_are_not_used(finished, monkeypatch):
    monkeypatch.setitem(experiment.ARMS, "c3l", replace(arms.ARMS["c3l"], max_rejected=2))
    with pytest.raises(SystemExit) as stop:
        experiment.main(arguments(finished))
    assert "c3l-7.json was made with max_rejected 4, not 2" in stop.value.code


# The report, from hand-made results


def made_up(name, seed, true, control="before", types=("presence", "count"), options=None):
    """A result with pairs of 5, image after image of alternating type; `true` has the number of true ones of each."""
    kinds = [types[number % len(types)] for number in range(len(true))]
    columns = {
        "image": [f"{seed}-{number}" for number in range(len(true))],
        "type": kinds,
        "pairs": [5] * len(true),
        "well_formed": [5] * len(true),
        "true": list(true),
        "distinct": [3] * len(true),
    }
    counted = {"by_image": columns, "distinct": 2 * len(true), "types_found": {"presence": 3, "none": 1}}
    general = counted | {"by_image": columns | {"type": ["general"] * len(true)}}
    answers = {type: [seed, 10] for type in QUESTION_TYPES}
    split = {"pairs": counted, "general": general, "answers": answers}
    labels = {"rows": 4, "types": {"count": 1, "group": 3}, "chosen": [3, 4], "rejected": [2, 8]}
    return {
        "name": name,
        "seed": seed,
        "arm": {"control": control},
        "options": options or {"generator": "0123456789abcdef", "steps": 2},
        "labels": labels if control else None,
        "usual": split,
        "shifted": split,
    }


def write(folder, *results):
    (folder / "results").mkdir(exist_ok=True)
    for result in results:
        (folder / "results" / f"{result['name']}-{result['seed']}.json").write_text(json.dumps(result))


def numbers(line):
    return [part.strip() for part in line.strip("|").split("|")]


def line_of(text, heading, first):
    section = text.split(f"### {heading}")[1].split("###")[0]
    return next(numbers(line) for line in section.splitlines() if line.startswith(f"| {first} |"))


def test_the_reports_numbers(tmp_path):
    # seed 1: presence (5 + 3) / 10, count (0 + 2 + 4) / 15; seed 2: presence 1, count 0
    before = [made_up("before", 1, [5, 0, 3, 2, 4, 4][:4] + [3, 4], ""), made_up("before", 2, [5, 0, 5, 0], "")]
    c3l = [made_up("c3l", 1, [5, 5, 5, 5, 5, 5]), made_up("c3l", 2, [5, 0, 5, 0])]
    write(tmp_path, *before, *c3l)
    text = reports.report(reports.read_results(tmp_path, None, ["before", "c3l"]))
    start = np.mean([np.mean([11 / 15, 6 / 15]), np.mean([1, 0])])
    row = line_of(text, "Generated pairs", "before")
    assert row[1] == "2" and row[2].startswith(f"{start:.3f} [") and row[4] == "1.000 [1.000, 1.000]"
    assert row[5].startswith("0.600") and row[6] == "0.400"  # 3 of 5, and 2 texts an image of 5 pairs
    gain = line_of(text, "Differences", "c3l − before")
    assert gain[1] == "2" and gain[2].startswith(f"{0.75 - start:+.3f}")
    each = np.array([1 - np.mean([11 / 15, 6 / 15]), 0.0])
    half = t.ppf(0.975, 1) * each.std(ddof=1) / np.sqrt(2)
    assert gain[3] == f"[{each.mean() - half:+.3f}, {each.mean() + half:+.3f}]"
    kinds = line_of(text, "True pairs by the type asked for, shifted", "before")
    assert kinds[1].startswith(f"{np.mean([11 / 15, 1]):.3f}") and kinds[2].startswith("0.200") and kinds[3] == "–"
    assert line_of(text, "Greedy answers, shifted", "c3l")[1:3] == ["0.150", "0.150 [0.052, 0.360]"]  # Wilson, 3 of 20
    assert line_of(text, "Pairs of open type, usual", "c3l")[2:4] == ["0.75", "0.00"]
    trained = line_of(text, "Training rows", "c3l")
    assert trained[1:4] == ["4", "0.750", "0.250"] and trained[5] == "0.25"
    assert "Seeds 1, 2; steps 2." in text and "| before | 4 |" not in text.split("### Training rows")[1]


def shares(text):
    return [float(part) for part in text.replace("[", "").replace("]", "").replace(",", "").split()]


def test_intervals_are_paired_by_image_and_as_wide_as_they_should_be():
    rng = np.random.default_rng(0)
    lower = rng.integers(0, 5, size=400)
    low, high = (
        [reports.counts_of(made_up("x", 1, (lower + more).tolist(), types=("count",)), "usual", "true")]
        for more in (0, 1)
    )
    estimate, bottom, top = reports.mean_over_seeds([low])
    error = (lower / 5).std() / np.sqrt(400)
    assert (estimate - bottom, top - estimate) == pytest.approx([1.96 * error] * 2, rel=0.15)
    # one more true pair about every image: a difference without any doubt
    assert reports.mean_over_seeds([high, low]) == pytest.approx((0.2, 0.2, 0.2))
    # two seeds with the same spread halve the variance
    estimate, bottom, top = reports.mean_over_seeds([low * 2])
    assert top - bottom == pytest.approx(2 * 1.96 * error / np.sqrt(2), rel=0.15)


def test_only_seeds_that_both_arms_have_are_compared(tmp_path):
    write(tmp_path, made_up("before", 1, [0, 0, 0, 0], ""), made_up("before", 2, [5, 5, 5, 5], ""))
    write(tmp_path, made_up("c3l", 2, [5, 4, 5, 4]))
    gain = line_of(reports.report(reports.read_results(tmp_path, None, None)), "Differences", "c3l − before")
    assert gain[1] == "1" and shares(gain[2])[0] == pytest.approx(-0.1) and gain[3] == "–"


def test_results_of_other_options_are_not_mixed(tmp_path):
    write(tmp_path, made_up("before", 1, [0, 0], ""), made_up("c3l", 1, [0, 0], options={"generator": "0", "steps": 9}))
    with pytest.raises(ValueError, match="different options"):
        reports.read_results(tmp_path, None, None)
    with pytest.raises(ValueError, match="no result of dpo; it has before"):
        reports.read_results(write_one(tmp_path / "other"), None, ["dpo"])
    with pytest.raises(SystemExit, match="no results"):
        reports.main(reports.ReportArguments(results=str(tmp_path / "nowhere")))


def write_one(folder):
    folder.mkdir()
    write(folder, made_up("before", 1, [1, 2], ""))
    return folder


def test_report_and_plot_of_a_run(finished, tmp_path, capsys):
    reports.main(reports.ReportArguments(results=str(finished), differences=["c3l:before"]))
    text = capsys.readouterr().out
    assert "| c3l − nll |" in text and "| c3l − before |" in text and "nan" not in text
    plot = tmp_path / "plot.png"
    reports.main(reports.ReportArguments(results=str(finished), plot=str(plot)))
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_kept_results_say_the_same(finished, tmp_path):
    kept, readme = tmp_path / "contrast.parquet", tmp_path / "README.md"
    reports.main(reports.ReportArguments(results=str(finished), keep=str(kept)))
    results = reports.read_results(finished, None, None)
    assert reports.read_results(kept, None, None) == results
    readme.write_text("a\n<!-- evidence: contrast -->\n<!-- end -->\nb\n<!-- evidence: all -->\n<!-- end -->\n")
    reports.main(reports.ReportArguments(results=str(kept), readmes=[str(readme)], mark="all"))
    before, shown, after = readme.read_text().partition(reports.short(results, reports.FIRST))
    assert before == "a\n<!-- evidence: contrast -->\n" and shown
    assert after.partition("all -->\n") == (
        "\n<!-- end -->\nb\n<!-- evidence: ",
        "all -->\n",
        reports.report(results).rstrip() + "\n<!-- end -->\n",
    )
    with pytest.raises(SystemExit, match="nothing.parquet is not there"):
        reports.main(reports.ReportArguments(results=str(tmp_path / "nothing.parquet")))


def test_the_short_tables_numbers(tmp_path):
    write(tmp_path, made_up("nll", 1, [2, 2, 2, 2]), made_up("nll", 2, [2, 2, 2, 2]))
    write(tmp_path, made_up("nll_again", 1, [3, 3, 3, 3], "nll"), made_up("nll_again", 2, [4, 4, 4, 4], "nll"))
    lines = reports.short(reports.read_results(tmp_path, None, ["nll", "nll_again"]), reports.SECOND).splitlines()
    assert numbers(lines[2])[1:3] == ["0.400 [0.400, 0.400]", ""] and numbers(lines[2])[-1] == "2"
    half = t.ppf(0.975, 1) * 0.1
    row = numbers(lines[3])
    assert row[1] == "0.700 [0.700, 0.700]" and row[2] == f"+0.300 [{0.3 - half:+.3f}, {0.3 + half:+.3f}]" == row[4]


def test_the_pages_show_what_was_found():
    folder = Path(arms.__file__).parent
    files = {"tables": "contrast", "settings": "contrast_settings"}
    files |= {name: name for name in ("prior_heavy", "prior_heavy_tuning")}
    found = {mark: reports.read_results(folder / f"{file}.parquet", None, None) for mark, file in files.items()}
    assert len(found["tables"]["c3l"]) > 1 and len(found["prior_heavy"]["likelihood"]) > 1
    further = {"prior_heavy": ["likelihood:dpo", "likelihood:c3l"]}
    texts = {mark: reports.report(results, further.get(mark, ())).rstrip() for mark, results in found.items()}
    texts |= reports.short_texts(found["tables"]) | reports.short_texts(found["prior_heavy"], "prior_heavy_")
    shown = (
        (folder.parents[2] / "docs" / "evidence.md", ("contrast", "second", "prior_heavy_errors")),
        (folder / "README.md", tuple(files)),
    )
    for readme, names in shown:
        text = readme.read_text()
        assert fill_marks(text, texts) == text and all(f"<!-- evidence: {name} -->" in text for name in names)
