"""Conversations about several images, in several languages, published; and datasets of the versions before them."""

import pytest
from datasets import Dataset, Features, load_dataset
from published import FEATURES, configs, facts, picture, row, tokens_of
from tiny_models import tiny_llava

from c3l_hf.data.row_texts import messages_of_turns
from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.publishing.export import example_pictures, write_dataset
from c3l_hf.publishing.figures import dataset_figures, token_sums
from c3l_hf.publishing.reading import LATER_COLUMNS
from c3l_hf.publishing.verify import verify_folder
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.selection.pseudo_labels import select_pseudo_labels

TALKS = [
    [("Was liegt da?", "Der Hund."), ("Und dort?", "Der rote Ball.")],
    [("Welches Bild?", "Das zweite."), ("Sicher?", "Ja."), ("Warum?", "Darum.")],
]
USAGE = Features({"usage": PAIR_FEATURES["usage"]})
ASKED = [{"role": "system", "content": "Sei genau."}, {"role": "user", "content": "Schreibe zwei Fragen."}]


def talks(images=3):
    """Two conversations about each image, which has two pictures, from one reply."""
    rows = []
    for number in range(images):
        for place, turns in enumerate(TALKS):
            prompt, completion = messages_of_turns(turns)
            pair = {**row(number, place), "pair_id": f"{number}/0.{place}", "type": "conversation", "language": "de"}
            pair |= {"prompt": prompt, "completion": completion, "images": [picture(number), picture(number + 10)]}
            asked = {"generation_prompt": ASKED, "reply_form": ReplyForm(question=("Frage",)).to_json()}
            rows.append({**pair, **asked, "template": "gespraech-1"})
    return rows


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of a dataset, and that of the model that gave its scores."""
    folder, llava = tmp_path_factory.mktemp("talks"), tiny_llava()
    for part in llava:
        part.save_pretrained(folder / "model")
    rows = talks()
    names = ("images", "prompt", "completion")
    scored = I2CScorer(*llava, ranking="pmi").score([{name: one[name] for name in names} for one in rows])
    assert all(len(scores["turns"]) == len(one["completion"] + [0]) // 2 for one, scores in zip(rows, scored))
    pool = Dataset.from_list([{**one, **scores} for one, scores in zip(rows, scored)], features=FEATURES)
    labels, _ = select_pseudo_labels(pool)
    parts = {
        "default": pool.select([0, 3, 4]),
        "images": pool.select([0, 2, 4]).select_columns(["image_id", "images"]),
        "scored": pool.remove_columns("images"),
        "pseudo_labels": labels.remove_columns("images"),
    }
    figures = dataset_figures(parts["default"], pool["i2c"][:])
    stages = [("regenerate", [("pairs", 6), ("ok", 6)]), ("rescore", [("ok", 6)]), ("select", [("pseudo-labels", 3)])]
    told = facts(
        **figures, stages=stages, truth=None, tokens=tokens_of(pool), generator="mine", generator_revision=None
    )
    write_dataset(parts, folder / "dataset", told, example_pictures(parts["default"], told.examples))
    return folder


def test_conversations_are_checked_and_scored_again(published):
    checks = {one.name: one for one in verify_folder(published / "dataset", rescore=3, model=str(published / "model"))}
    assert all(check.ok for check in checks.values()), checks
    assert checks["scores"].found.startswith("9 rows") and checks["rescoring"].found.startswith("3 rows by mine")
    rows = load_dataset(str(published / "dataset"), split="train", cache_dir=str(published / "cache"))
    assert [len(one["images"]) for one in rows] == [2] * 3 and rows["pair_id"][1] == "1/0.1"
    assert set(rows["language"]) == {"de"}


def test_the_card_of_conversations(published):
    card = (published / "dataset" / "README.md").read_text()
    assert "language:\n- de\n" in card and "| conversation | 100.0 % |" in card
    shown = [line for line in card.splitlines() if line.startswith("| ![](examples/0.png)")]
    assert any(
        f"| {'<br>'.join(q for q, _ in talk)} | {'<br>'.join(a for _, a in talk)} |" in shown[0] for talk in TALKS
    )
    assert "| regenerate | served | 270 | 48 |" in card


def test_labels_of_conversations_are_published_as_replies(published):
    folder, cache = str(published / "dataset"), str(published / "cache")
    labels = load_dataset(folder, "pseudo_labels", split="train", cache_dir=cache)
    assert labels["prompt"][:] == [ASKED] * 3 and labels["template"][:] == ["gespraech-1"] * 3
    written = {ReplyForm(question=("Frage",)).write(talk) for talk in TALKS}
    for label in labels:
        assert {label["chosen"][0]["content"], label["rejected"][0][0]["content"]} == written
        assert label["chosen"][0]["content"].startswith("Frage: ") and "\nAnswer: " in label["chosen"][0]["content"]


@pytest.mark.parametrize("left", [[], ["language"]])
def test_datasets_of_earlier_versions_are_checked_too(left, tmp_path):
    """Which had not all of today's columns."""
    gone = [name for name in LATER_COLUMNS if name not in left]
    assert set(gone) <= set(PAIR_FEATURES)
    parts = configs()
    for name in ("default", "scored"):
        parts[name] = parts[name].remove_columns(gone)
    figures = dataset_figures(parts["default"], parts["scored"]["i2c"][:])
    assert (figures["languages"] is None) == (not left)
    told = facts(**figures, stages=[], truth=None, tokens=None, templates=None, token_prices=None)
    write_dataset(parts, tmp_path / "dataset", told, example_pictures(parts["default"], told.examples))
    checks = list(verify_folder(tmp_path / "dataset"))
    assert len(checks) == 8 and all(check.ok for check in checks), checks


def test_sums_of_tokens():
    def usage(*rows):
        names = ("served_model", "prompt_tokens", "completion_tokens")
        table = Dataset.from_list([{"usage": row and dict(zip(names, row))} for row in rows], features=USAGE)
        return table.data.table["usage"]

    some = usage(("b", 5, None), None, (None, 1, 2), ("b", None, None), (None, None, None))
    assert token_sums([some, usage(("a", None, 4), (None, 10, None))]) == [
        (None, 11, 2),
        ("a", None, 4),
        ("b", 5, None),
    ]
    assert token_sums([usage((None, None, None), None)]) == [] == token_sums([])
