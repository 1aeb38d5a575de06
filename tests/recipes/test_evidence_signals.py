"""What the signals find: what questions name, combinations, contrasts, kept results, the report."""

from pathlib import Path

import evidence
import evidence_pools as pools
import evidence_signals as signals
import numpy as np
import pytest
import signals_report as reports
from datasets import Dataset, load_from_disk

from c3l_hf.common.tables import fill_marks
from c3l_hf.scenes import GENERATOR
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.yes_no import premise_signal

NAN = float("nan")


@pytest.mark.parametrize(
    ("question", "things"),
    [
        ("Is the dog left or right of the ball?", ("a dog", "a ball")),
        ("How many buses can you see?", ("a bus", None)),
        ("Is the dog above the dog?", ("a dog", None)),
        ("What colour is the background?", (None, None)),
        (None, (None, None)),
    ],
)
def test_what_a_question_names(question, things):
    assert signals.named(question) == things


def made_up(**columns):
    """Four pairs of one type and a row without a pair: `pmi` rises, `question_pmi` falls."""
    numbers = dict.fromkeys(("premise_logodds", "first_logodds", "second_one_logodds", *signals._COLUMNS), [0.0] * 5)
    tokens = [[float(number)] for number in range(4)]
    return {
        "type": ["where"] * 5,
        "question": ["Where is it?"] * 4 + [None],
        "object": ["a dog"] * 4 + [None],
        **numbers,
        **dict.fromkeys(("answer_kl", "token_kl", "pmi", "logprob"), [0.0, 1.0, 2.0, 3.0, None]),
        "logprob_per_token": [*tokens, None],
        "logprob_blind_per_token": [[0.0]] * 4 + [None],
        "question_pmi": [3.0, 2.0, 1.0, 0.0, None],
        **columns,
    }


def test_the_lower_of_two_premises_and_combinations():
    rows = made_up(
        object=["a dog", "a dog", "a dog", None, None],
        first_logodds=[2.0, 3.0, 1.0, None, None],
        second_one_logodds=[-4.0, None, 5.0, None, None],
    )
    found = signals.signals_of(rows, 0)
    assert found["premise_object"] == pytest.approx([-4, 3, 1, NAN, NAN], nan_ok=True)
    # ranks 0 … 3 of pmi and 0, 2, 1, 3 of the premise: what names nothing comes first
    assert found["pmi + premise_object"] == pytest.approx([1 / 8, 4 / 8, 4 / 8, 7 / 8, NAN], nan_ok=True)
    assert found["pmi + question_pmi"] == pytest.approx([0.5] * 4 + [NAN], nan_ok=True)
    assert set(signals.SIGNALS) < set(found)


def test_each_contrast_has_its_own_pairs(monkeypatch):
    """Eight pairs of a type with enough of either kind; of the other type there are too few."""
    labels = {
        "true": np.array([1, 1, 0, 0, 0, 0, 1, 0], bool),
        "prior": np.array([0, 0, 1, 1, 0, 0, 0, 1], bool),
        "premise": np.array([0, 0, 0, 1, 0, 1, 0, 0], bool),
    }
    rows = {"type": ["a"] * 6 + ["b"] * 2, "question": ["?"] * 8}
    rows |= dict.fromkeys(("truth_mass", "premise_mass", "first_mass"), [0.5] * 7 + [None])
    monkeypatch.setattr(signals, "LEAST_OF_TYPE", 2)
    monkeypatch.setattr(signals, "load_signals", lambda folder, pool: Dataset.from_dict(rows))
    monkeypatch.setattr(signals, "labels_of", lambda rows, pool: labels)
    values = np.array([3.0, 4, 1, 5, 0, 2, 9, 0])
    monkeypatch.setattr(signals, "signals_of", lambda rows, seed: {"some": values})
    found = {row["contrast"]: row for row in signals.signal_results(Path(), pools.Pool("", "usual", 1, (), 0))}
    assert {name: (row["n"], row["bad"], row["types"]) for name, row in found.items()} == {
        "true": (8, 5, 1),
        "prior": (8, 3, 1),
        "true over prior": (6, 3, 1),
        "premise": (8, 2, 1),
    }
    # of type a: 3, 4 over 1, 5, 0, 2; 3, 4, 0, 2 over 1, 5; 3, 4 over 1, 5; 3, 4, 1, 0 over 5, 2
    expected = {"true": 6 / 8, "prior": 3 / 8, "true over prior": 2 / 4, "premise": 2 / 8}
    assert {name: row["auc"] for name, row in found.items()} == expected
    assert (found["true"]["prior"], found["true"]["truth_mass"]) == (3 / 8, 0.5)


def test_a_small_run(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "KINDS", ("shifted",))
    args = evidence.EvidenceArguments(
        parts=["signals"], seeds=[0], score_images=2, generators=["some=scenes"], output_dir=str(tmp_path)
    )
    evidence.main(args)
    results = Dataset.from_parquet(str(evidence.result_file(args, "signals", "some", "shifted", 0))).to_list()
    assert {row["signal"] for row in results} > set(signals.SIGNALS)
    # the object is what the model was asked about
    rows = load_from_disk(tmp_path / "pools" / "signals-some-shifted-0")
    number = next(number for number, name in enumerate(rows["object"]) if name)
    spec = pools.Pool(GENERATOR, "shifted", 2, ("drop",), 0)
    model, processor = pools.load_generator(GENERATOR)
    pair = pools.written(spec, model, processor)[number]
    asked = premise_signal(I2CScorer(model, processor), text="Is there {{ thing }} in the picture?")
    (alone,) = asked.score([{**pair, "thing": rows["object"][number]}])
    assert alone["premise_logodds"] == pytest.approx(rows["first_logodds"][number], abs=1e-3)
    monkeypatch.setattr(evidence, "signal_results", lambda *_: pytest.fail("made again"))
    evidence.main(args)


def results(seed, **aucs):
    """Rows of a pool: signal → AUC in every contrast."""
    about = {"generator": "some", "kind": "shifted", "seed": seed, "pairs": 9, "true": 0.5, "prior": 0.2}
    about |= {"premise": 0.1, **dict.fromkeys(reports.MASSES, 0.5)}
    return [
        {**about, "signal": signal.replace("__", " + "), "contrast": contrast, "auc": auc}
        for signal, auc in aucs.items()
        for contrast in signals.CONTRASTS
    ]


def test_report_leaves_tuning_seeds_out_and_says_who_reaches_the_target():
    found = [
        *results(0, pmi=0.8, question_pmi=0.9, pmi__question_pmi=0.7),
        *results(1, pmi=0.88, question_pmi=NAN, pmi__question_pmi=0.7),
        *results(90, pmi=0.1, question_pmi=0.1, pmi__question_pmi=0.6, pmi_k__question_pmi=0.65),
    ]
    texts = reports.texts_of(found)
    lines = {line.split(" | ")[0]: line.split(" | ")[1:] for line in texts["signals"].splitlines() if " | " in line}
    assert lines["| `pmi`"][0].startswith("0.840 [") and lines["| `question_pmi`"][0] == "**0.900** (1 of 2 seeds)"
    assert "| true over false | some, shifted | `question_pmi` | **0.900** | – |" in texts["target"]
    combinations = texts["combinations"].splitlines()[2:]
    assert [line.split(" | ")[-1] for line in combinations] == ["0.650 |", "0.600 |"]
    assert texts["signal pools"].splitlines()[-1].endswith("| 2 |")


def test_published_results_are_what_the_file_says():
    kept = Path(evidence.__file__).parent
    text = (kept / "SIGNALS.md").read_text()
    texts = reports.texts_of(reports.read(kept, "signals"))
    assert all(f"<!-- evidence: {name} -->" in text for name in texts)
    assert fill_marks(text, texts) == text
