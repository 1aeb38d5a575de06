"""Cards: what they say, what they leave out, and that hostile text cannot break them."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from published import FEATURES, HIDDEN, TRAINING, facts

from c3l_hf.common.files import digest
from c3l_hf.common.versions import versions
from c3l_hf.data.schema import SCORES
from c3l_hf.publishing.cards import RunFacts, dataset_card, model_card, stated_figures
from c3l_hf.publishing.manifest import CARD_SCHEMA, DataConfig, FileRecord
from c3l_hf.scoring.formulas import SCORE_DESCRIPTIONS

HOSTILE = (
    "a | b\n---\nlicense: evil\n# heading </script><img src=x onerror=alert(1)> {{ 7 * 7 }} {% raw %} `code` ```\n"
    "[link](javascript:x) ![](https://evil.example/x.png) **bold** $$x$$ @user \\| \x00\u202e\u2028 \ud800"
)


LOOKED_AT = ("figures/scores.png", "figures/types.png", "report.html")


def table(card: str, first_header: str) -> list[list[str]]:
    """The cells of the table with this first header, as a Markdown reader splits them."""
    lines = card.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_header} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_dataset_card_metadata():
    data = DatasetCard(dataset_card(facts())).data.to_dict()
    assert data == {
        "pretty_name": "C3L pairs",
        "license": "apache-2.0",
        "language": ["en"],
        "task_categories": ["image-text-to-text", "visual-question-answering"],
        "size_categories": ["1K<n<10K"],
        "tags": ["c3l", "i2c", "vision-language-instruction-tuning"],
    }


@pytest.mark.parametrize(
    "rows, size", [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**5, "100K<n<1M"), (10**6, "n>1M")]
)
def test_size_category(rows, size):
    assert DatasetCard(dataset_card(facts(rows=rows))).data.size_categories == [size]


def test_model_card_metadata():
    card = ModelCard(model_card(facts()))
    data = yaml.safe_load(card.content.split("---")[1])
    assert card.data.to_dict() == data and data == {
        "base_model": "org/vlm",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "apache-2.0",
        "language": ["en"],
        "tags": ["c3l", "i2c", "vision-language-instruction-tuning", "trl"],
        "model-index": [
            {
                "name": "generator",
                "results": [
                    {
                        "task": {"type": "image-text-to-text"},
                        "dataset": {"name": "scenes, 3,000 images", "type": "scenes"},
                        "metrics": [
                            {
                                "type": "accuracy",
                                "value": 0.9,
                                "name": "share of true pairs, each type of question counting the same",
                            }
                        ],
                    }
                ],
            }
        ],
    }
    assert "model-index" not in model_card(facts(truth=None))
    local = facts(generator="/home/someone/models/mine", generator_revision=None, generator_digest="feed", license=None)
    data = ModelCard(model_card(local)).data.to_dict()
    assert "base_model" not in data and "license" not in data


def test_a_generator_that_was_adapters():
    """The metadata name its model, and the adapters after it; the text tells which was which."""
    told = {"generator": "user/lora", "generator_base": "org/vlm", "generator_base_revision": "beef"}
    data = ModelCard(model_card(facts(**told))).data.to_dict()
    assert data["base_model"] == ["org/vlm", "user/lora"] and data["base_model_relation"] == "finetune"
    says = "`user/lora`, revision `0123abc`: adapters, merged into `org/vlm`, revision `beef`"
    for card in (model_card(facts(**told)), dataset_card(facts(**told))):
        assert says in card
    # Local ones are not taken for models of the Hub, and no path of this machine is told.
    local = {"generator": "/home/someone/lora", "generator_revision": None, "generator_digest": "feed"}
    data = ModelCard(model_card(facts(**{**told, **local}))).data.to_dict()
    assert data["base_model"] == "org/vlm" and data["base_model_relation"] == "finetune"
    local |= {"generator_base": "/home/someone/<vlm>`", "generator_base_digest": "c0de"}
    for card in (model_card(facts(**local)), dataset_card(facts(**local))):
        assert (
            "`lora`, weights `feed`: adapters, merged into `<vlm>'`, weights `c0de`" in card and "someone" not in card
        )
    assert "base_model" not in ModelCard(model_card(facts(**local))).data.to_dict()
    scorer = {"scorer": "org/judge", "scorer_revision": "1", "scorer_base": "org/vlm", "scorer_base_revision": "2"}
    says = "- **Scored by:** `org/judge`, revision `1`: adapters, merged into `org/vlm`, revision `2`\n"
    assert says in dataset_card(facts(**scorer)) and "adapters, merged into" not in dataset_card(facts())


def test_configurations_are_told_apart_by_their_content():
    def described(sha256):
        configs = {"default": DataConfig("data", 5000, 2), "scored": DataConfig("scored", 15_000, 1)}
        files = {path: FileRecord(sha256, 1) for config in configs.values() for path in config.files}
        return dataset_card(facts(), configs, files)

    card = described("a" * 64)
    assert "| `default` | 5,000 | the compact dataset |\n| `scored` | 15,000 | all pairs" in card
    configs = DatasetCard(card).data.configs
    assert [(config["config_name"], config["data_files"]) for config in configs] == [
        ("default", [{"split": "train", "path": "data/train-*-of-00002.parquet"}]),
        ("scored", [{"split": "train", "path": "scored/train-*-of-00001.parquet"}]),
    ]
    others = DatasetCard(described("b" * 64)).data.configs
    assert all(one["description"] != other["description"] for one, other in zip(configs, others))


def test_names_on_the_hub():
    names = {"dataset_repo": "user/my_c3l-5k", "generator_repo": "user/_gen.1"}
    dataset, model = dataset_card(facts(**names)), model_card(facts(**names))
    assert 'name = "user/my_c3l-5k"\n' in dataset and 'name = "user/_gen.1"\n' in model
    assert "](https://huggingface.co/datasets/user/my_c3l-5k)" in model
    assert ModelCard(model).data.datasets == ["user/my_c3l-5k"]
    assert "**Generator after training:** [" in dataset and "huggingface.co/user/" in dataset
    for card in (dataset_card(facts()), model_card(facts())):
        assert "huggingface.co" not in card and "the name of its repository" in card


@pytest.mark.parametrize("render", [dataset_card, model_card])
def test_what_every_card_says(render):
    card = render(facts())
    for text in (
        "C3L as implemented here",
        "*Chosen",
        "arXiv:2405.12752",
        "Ma, Ji and Suo, Wei and Wang, Peng and Zhang, Yanning",
    ):
        assert text in card
    assert "says that the image *matters* to the answer, not that the answer is *true*" in card
    assert "small synthetic world" in card
    assert "`pmi`" in card and "(1/N) sum_t [ln p_t(a_t) - ln q_t(a_t)]" in card
    assert "`org/vlm`, revision `0123abc`\n- **" in card
    assert "**Seed:** `7`\n" in card
    assert "**Images:** scenes, 3,000 images, content `c0ffee`\n- **Source of the images:** https&#58;//images" in card
    assert "**Licence of the images:** Apache-2.0\n" in card
    assert "| pairs | 15,000 |\n| ok | 14,801 |" in card
    assert "| generated | 14,801 | 80.0 % | 79.0 % to 81.0 % |" in card
    assert "`config.yaml`" in card and "`recipes/configs/scenes.yaml`" in card and "`c3l verify <folder" in card
    assert "![](examples/0.png) | How many dogs? | two | count | 1.5 |" in card
    options = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert options == {"images": "scenes", "types": ["count", "where"], "temperature": 1.0}
    assert dict(table(card, "package")[2:]) == versions()
    # Blank lines around every block: a table right under a text is not a table.
    assert not re.search(r"\n\n\n", card)
    assert not re.search(r"^[^|\n].*\n\|", card, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "says", "does_not_say"),
    [
        (
            {},
            "trained contrastively|λ = 1, τ = 0.3|mean log-likelihood of the tokens of a pseudo-label c, given image "
            "and instruction|The paper names this loss, not the similarity",
            "cosine|head|hidden",
        ),
        (
            HIDDEN,
            "trained contrastively|log-likelihood per token plus λ times|-ln [ exp(s(a,p)/τ)|\nwith λ = 1, τ = 0.1, and"
            "|anchor (image and instruction)|names this loss, not the similarity|the last hidden states: their "
            "mean|head (`linear_relu`, 256 numbers)"
            "|these learned: LoRA adapters of the language model's blocks (rank 16), which are merged.",
            "weighted|σ|batch|the vision tower",
        ),
        (
            {"contrastive_weight": 0.0, "weight_column": "weight"},
            "fine-tuned on its own best pairs|per token (the rows weighted by `weight`); the negative ones took no",
            "contrastively|λ|τ|cosine|representation",
        ),
        (
            HIDDEN
            | {"nll_weight": 0.0, "contrastive_weight": 0.5, "contrastive_loss": "sigmoid"}
            | {"in_batch_negatives": True},
            "The loss is λ times|-( ln σ(s(a,p)/τ) + sum_n|negatives, λ = 0.5, τ|among them the positives of the other",
            "-ln [|likelihood per token",
        ),
        (
            HIDDEN
            | {"anchor": "image", "pooling": "last", "hidden_layer": 3, "projection": "none", "temperature": 0.2},
            "anchor (the image's tokens)|after block 3: that of the last token, without a projection head|τ = 0.2",
            "their mean|last hidden states|through a projection",
        ),
        (
            HIDDEN
            | {"anchor": "text", "hidden_layer": 0, "use_lora": False, "train_projector": True, "nll_weight": 0.5},
            "without the image's)|made of the embeddings|is 0.5 times the positive's|model; the projector.",
            "LoRA|merged",
        ),
        (
            {"train_language_model": False, "train_vision_tower": True},
            "these learned: the vision tower.",
            "LoRA|all weights of the language model",
        ),
    ],
)
def test_the_model_card_tells_the_training_that_there_was(options, says, does_not_say):
    card = model_card(facts(training=TRAINING | options))
    told = card[card.index("# Generator of") : card.index("```yaml")]
    for text in says.split("|"):
        assert text in told, text
    for text in does_not_say.split("|"):
        assert text not in told, text
    assert not re.search(r"\n\n\n|[^\n]\n    -|^ ?[;.,]", told, re.MULTILINE)


def test_the_dataset_card_tells_the_training_and_curation_that_there_were():
    configs = {"default": DataConfig("data", 5000, 1), "pseudo_labels": DataConfig("pseudo_labels", 900, 1)}
    files = {path: FileRecord("a" * 64, 1) for config in configs.values() for path in config.files}

    def told(near_duplicate_scope="image", **options):
        told = facts(training=TRAINING | options, near_duplicate_scope=near_duplicate_scope)
        return dataset_card(told, configs, files)

    assert "by their likelihood and by a contrastive loss against" in told() and "which took no" not in told()
    assert "labels, by a contrastive loss against the negative ones." in told(nll_weight=0.0)
    card = told(contrastive_weight=0.0)
    assert "by their likelihood; the negative ones take no part." in card and "contrastive loss" not in card
    assert "one `chosen`, some `rejected`, which took no part, and their scores" in card
    assert "without a score and near-duplicates leave" in told(near_duplicate_scope="image")
    assert "without a score leave" in told(near_duplicate_scope="none")
    assert "their likelihood and by" in told() and "weighted by what the image adds" not in model_card(facts())
    assert "likelihood (the tokens weighted by what the image adds to each: `cal`) and by" in told(token_weights="cal")
    weighted = model_card(facts(training=TRAINING | {"token_weights": "vig"}))
    assert "per token, the tokens weighted by what the image adds to each (`vig`)" in weighted


def test_the_dataset_card_tells_the_rules_that_were_asked_for():
    rules = {
        "retries": 2,
        "retry_floor": 0.5,
        "floors": ["pmi=0"],
        "clusters": 50,
        "balance_by": ["cluster", "language"],
        "decontaminate": ["pope", "seed"],
        "near_duplicate_images": "similar",
    }
    card = dataset_card(facts(options=rules))
    for says in (
        "   While an image has no pair with a `pmi` of at least 0.5, it is asked about again, 2 times at most.\n   *",
        "near-duplicates leave, as do those below a floor (pmi=0); of the others the best are kept, equally many of "
        "each cluster and language as far as there are enough (50 clusters of like pairs).\n   Pairs about pictures",
        "   Pairs about pictures, or with texts, of `pope`, `seed` leave, too.\n   Of images that look alike only",
    ):
        assert says in card, says
    without = dataset_card(facts(options={"retries": 0, "near_duplicate_images": "none", "floors": None}))
    for text in ("asked about again,", "below a floor", "cluster", "leave, too", "Of images"):
        assert text not in without, text


def test_figures_of_the_dataset_card():
    card = dataset_card(facts())
    assert table(card, "quantile")[2:] == [["5 %", "-0.5"], ["50 %", "1.25"]]
    assert table(card, "type asked for")[2:] == [["count", "25.0 %"], ["where", "75.0 %"]]
    assert table(card, "i2c")[2:] == [
        ["0.000 to 0.500", "300", "0", "░" * 15],
        ["0.500 to 1.000", "600", "200", "█" * 10 + "░" * 20],
    ]
    assert [row[0] for row in table(card, "score")[2:]] == [f"`{name}`" for name in SCORES]
    assert "answer's length in words: +0.12, over 5,000 pairs." in card
    described = {name for row in table(card, "column")[2:] for name in re.findall(r"`(\w+)`", row[0])}
    assert described == set(FEATURES)


@pytest.mark.parametrize("render", [dataset_card, model_card])
def test_what_was_not_measured_is_absent(render):
    optional = {field.name: None for field in dataclasses.fields(RunFacts) if field.default is None}
    card = render(facts(**optional, options={}, synthetic_images=False))
    absent = (
        "None",
        "nan",
        "revision",
        "weights `",
        "quantile",
        "Spearman",
        "## Types",
        "## Truth",
        "## Examples",
        "examples/",
        "| scored | kept |",
        "content `",
        "Source of",
        "model-index",
        "yaml",
        "synthetic",
    )
    for text in (*absent, "config.yaml"):
        assert text not in card, text
    assert "**Licence of the images:** not stated" in card
    assert "not stated." in card.split("## Known limits")[1]
    assert not re.search(r"\n\n\n", card)


def test_correlation_that_does_not_exist_is_absent():
    assert "Spearman" not in dataset_card(facts(length_correlation=(float("nan"), 5)))


@pytest.mark.parametrize("render, reader", [(dataset_card, DatasetCard), (model_card, ModelCard)])
def test_hostile_text_breaks_nothing(render, reader):
    plain = render(facts())
    card = render(
        facts(
            title=HOSTILE,
            images=HOSTILE,
            images_source=HOSTILE,
            images_license=HOSTILE,
            options={"prompt": HOSTILE + "\n```\n"},
            stages=[(HOSTILE, [(HOSTILE, 1)])],
            templates=HOSTILE,
            tokens=[(HOSTILE, HOSTILE, 5, None)],
            type_shares={HOSTILE: 1.0},
            truth=[(HOSTILE, 1, 1.0, 1.0, 1.0), ("generated again", 5000, 0.9, 0.89, 0.91)],
            examples=[(HOSTILE, HOSTILE, HOSTILE, 1.0, HOSTILE), ("long " * 10_000, "x" * 100_000, "count", 2.0, "b")],
        )
    )
    card.encode("utf-8")
    data, expected = reader(card).data.to_dict(), reader(plain).data.to_dict()
    assert data.pop("pretty_name", "").startswith("a | b --- license: evil") or render is model_card
    expected.pop("pretty_name", None)
    if render is model_card:
        measured = [values["model-index"][0]["results"][0].pop("dataset") for values in (data, expected)]
        assert measured[0]["name"].startswith("a | b --- license: evil") and measured[0].keys() == measured[1].keys()
    assert data == expected

    # Without the two blocks of YAML, in which text stands as it was.
    body = card.split("\n---\n", 1)[1].split("```yaml")[0] + card.split("## Citation")[1]
    for evil in (
        "<img",
        "</script",
        "**bold**",
        "](javascript",
        "![](https",
        "$$",
        "@user",
        "https://evil",
        "\x00",
        "\u202e",
        "\u2028",
    ):
        assert evil not in body, evil
    for line in card.splitlines():
        assert line != "license: evil" and not line.startswith(("# heading", "<"))
    assert "49" not in re.sub(r"&#\d+;", "", body.split("## How to load it")[0])

    options = yaml.safe_load(re.search(r"^(`{3,})yaml\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)[2])
    assert options["prompt"].startswith("a | b\n---\n")
    if render is dataset_card:
        rows = [line for line in card.splitlines() if line.startswith("| ![](")]
        examples = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]] for line in rows]
        assert [len(row) for row in examples] == [4] * 2
        assert len(examples[1][1]) == 300 and examples[1][1].endswith("…")
        assert examples[0][0].startswith(
            "a &#124; b<br>---<br>license: evil<br>&#35; heading &#60;/script&#62;&#60;img"
        )


def test_no_path_of_this_machine():
    changes = {
        "generator": "/home/someone/models/mine",
        "generator_revision": None,
        "images": "/data/pictures",
        "config_file": "/home/someone/my.yaml",
        "options": {
            "output_dir": Path("/home/someone/out"),
            "nested": [{"a": "~/secret"}],
            "b": r"C:\Users\someone\run",
        },
    }
    for render in (dataset_card, model_card):
        card = render(facts(**changes))
        assert "`mine`" in card and "`my.yaml`" in card and "pictures" in card
        assert "output_dir: out\n" in card and "a: secret\n" in card and "b: run\n" in card
        assert "someone" not in card and "~" not in card and "/data" not in card.replace("data/train", "")


def test_same_facts_same_card():
    for render in (dataset_card, model_card):
        assert render(facts()) == render(facts())
    assert dataset_card(facts()) != dataset_card(facts(seed=8))


def test_facts_that_no_card_can_tell_are_refused():
    with pytest.raises(ValueError, match="ranking is 'clip'; it must be one of answer_kl, token_kl"):
        facts(ranking="clip")
    with pytest.raises(ValueError, match="training must have the options of TRAINING_FACTS.*differs in anchor$"):
        facts(training={name: value for name, value in TRAINING.items() if name != "anchor"})
    with pytest.raises(ValueError, match="differs in bf16$"):
        facts(training={**TRAINING, "bf16": True})
    with pytest.raises(ValueError, match="near_duplicate_scope is 'all'; it must be one of image, dataset, none"):
        facts(near_duplicate_scope="all")


def test_another_scorer_and_pairs_of_others():
    scorer = {"scorer": "org/judge", "scorer_revision": "feed01"}
    card = dataset_card(facts(**scorer, pairs_source="my <pairs>"))
    assert "- **Scored by:** `org/judge`, revision `feed01`\n" in card
    assert "The pairs of the first round were there already: my &#60;pairs&#62;. Later ones" in card
    card = model_card(facts(**scorer, pairs_source="my <pairs>"))
    assert "p_t and q_t the predictions of `org/judge` of the answer's" in card
    assert "began with several pairs about each image: my &#60;pairs&#62;. Each was scored by how" in card
    for card in (dataset_card(facts()), model_card(facts())):
        assert "Scored by" not in card and "already" not in card and "began with" not in card
    assert "The model wrote several pairs about each image. Each was scored by how" in model_card(facts())


# Pictures


def test_a_dataset_card_shows_the_figures_that_are_there_and_names_the_report():
    shown = dataset_card(facts(), {}, dict.fromkeys(LOOKED_AT, FileRecord("a" * 64, 1)))
    plain = dataset_card(facts())
    for name in LOOKED_AT:
        assert name in shown and name not in plain
    assert "by i2c, all of them and those that were kept](figures/scores.png)\n\nAll scored pairs by `i2c`" in shown
    assert not re.search(r"\n\n\n", shown)
    (only,) = (name for name in LOOKED_AT if name in dataset_card(facts(), {}, {LOOKED_AT[1]: FileRecord("a" * 64, 1)}))
    assert only == LOOKED_AT[1]


# Schema


def test_a_card_whose_words_change_has_another_schema():
    """Published cards are rendered again, to see whether they say what their facts say. Whoever changes a template, or
    what it prints, raises `CARD_SCHEMA` and notes the new digests here; before the first release with that schema, the
    digests alone."""
    bases = {"generator_base": "org/base", "scorer_base": "base", "scorer_base_digest": "feed"}
    told = facts(versions={"c3l-hf": "0.0"}, scorer="org/judge", pairs_source="a file", **bases)
    configs = {name: DataConfig(name, 10, 1) for name in ("default", "images", "scored", "pseudo_labels")}
    files = {path: FileRecord("a" * 64, 1) for config in configs.values() for path in config.files}
    files |= dict.fromkeys(LOOKED_AT, FileRecord("a" * 64, 1))
    cards = dataset_card(told, configs, files), model_card(told)
    digests = [digest(card.split("\n---\n", 1)[1], size=4) for card in cards]
    assert {CARD_SCHEMA: digests} == {3: ["c596c8af", "54a38dcf"]}


def test_tokens_and_their_price():
    card = dataset_card(facts())
    assert "- **Prompt templates:** scenes" in card
    assert table(card, "stage") == [
        ["stage", "model", "tokens of prompts", "tokens of replies", "cost"],
        ["---", "---", "---:", "---", "---"],
        ["generate", "served", "1,350,000", "not reported", "0.6750"],
        ["regenerate", "in the run's own process", "90,000", "12,345", ""],
    ]
    assert "and not checked: all other counts of the stages and of tokens, and" in card
    assert table(dataset_card(facts(token_prices=None)), "stage")[2][-1] == "not reported"
    without = dataset_card(facts(tokens=None))
    assert "Tokens" not in without and "all other counts of the stages, and" in without
    assert ("tokens, generate", "generate", "1,350,000") in stated_figures(facts().to_dict(), "dataset")


def test_turns_of_an_example_stand_on_lines_of_their_own():
    told = [("How many | dogs?\nWhere?", "two\n\nthere " + "so " * 200, "talk", 1.5, "0/0")]
    row = table(dataset_card(facts(examples=told)).split("## Examples")[1], "")[2]
    assert row[1] == "How many &#124; dogs?<br>Where?" and row[2].startswith("two<br>there so so ")
    assert row[2].endswith("…") and len(row[2]) < 320


def test_figures_are_written_as_the_cards_write_them():
    told = facts(histogram=[(0.0, 0.5, 30_000, 0), (0.5, 1.0, 6_543, 2_109)]).to_dict()
    for kind, card in (("dataset", dataset_card(facts(**told))), ("generator", model_card(facts(**told)))):
        figures = stated_figures(told, kind)
        assert len(figures) > 6
        for _, label, figure in figures:
            assert any(label.lower() in line.lower() and figure in line for line in card.splitlines()), (label, figure)
        assert ("truth, generated again", "generated again", "90.0 %") in figures
    assert ("histogram", "", "2,109") in stated_figures(told, "dataset")
    assert ("curate, kept", "kept", "5,000") in stated_figures(told, "generator")
    # Of others' facts, what can be read.
    strange = {"rows": "many", "stages": [3, ["a", [["b", 4]]]], "truth": None, "seed": {}, "type_shares": [1]}
    assert stated_figures(strange, "dataset") == [("a, b", "b", "4")]


# Scores


def test_every_score_is_described_once_and_on_the_page_of_the_method():
    assert tuple(SCORE_DESCRIPTIONS) == SCORES
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text("utf-8")
    rows = table(page, "column | formula")[2:]
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row[0])] == list(SCORES)


def test_cards_and_checks_load_no_models():
    """Whoever verifies or pushes a dataset waits for neither torch nor the trainer."""
    code = (
        "import sys, c3l_hf.publishing.cards, c3l_hf.publishing.verify, c3l_hf.publishing.hub\n"
        "print([name for name in ('torch', 'transformers', 'trl', 'peft', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
