"""Every check of a published dataset or generator finds what it is there to find, and says where."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, Features
from peft import LoraConfig, get_peft_model
from published import FEATURES, IMAGE_FEATURES, facts, finished_run, picture, row
from tiny_models import tiny_llava

from c3l_hf.data.streams import RowStream
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source
from c3l_hf.publishing.cards import RunFacts
from c3l_hf.publishing.export import card_and_manifest, example_pictures, write_dataset
from c3l_hf.publishing.figures import dataset_figures
from c3l_hf.publishing.manifest import CARD_SCHEMA, FileRecord, Manifest
from c3l_hf.publishing.verify import verify_folder
from c3l_hf.scoring.formulas import scores_from_logprobs
from c3l_hf.scoring.scorer import I2CScorer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def dataset(finished, tmp_path):
    return shutil.copytree(finished / "dataset", tmp_path / "dataset")


@pytest.fixture
def generator(finished, tmp_path):
    return shutil.copytree(finished / "generator", tmp_path / "generator")


def results(folder, **options):
    return {check.name: check for check in verify_folder(folder, **options)}


def failures(folder, **options):
    return {name: check.found for name, check in results(folder, **options).items() if not check.ok}


def change_rows(folder, config, change):
    """Rewrites a configuration with changed rows."""
    path = folder / config / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def sign(folder, **facts):
    """A new card and manifest for the folder as it is: what remains are the checks that do not rest on hashes."""
    manifest = Manifest.read(folder)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): FileRecord.of(path) for path in paths}
    told = RunFacts(**{**manifest.facts, **facts})
    for name, content in card_and_manifest(manifest.kind, told, files, manifest.configs).items():
        (folder / name).write_bytes(content)


def test_all_is_well(dataset, generator):
    checks = results(dataset)
    assert list(checks) == "manifest files schema scores selection images figures card".split()
    assert all(check.ok for check in checks.values()), checks
    assert checks["schema"].found == "default 6 rows, images 7 rows, scored 13 rows, pseudo_labels 6 rows"
    assert re.match(r"18 rows recomputed .* at most \de-\d\d; 1 without a score", checks["scores"].found)
    assert checks["images"].found == ("7 different ones, all can be read; 7 images once each, those of all pairs")
    assert checks["figures"].found.split(", ")[0] == "rows"
    checks = results(generator)
    assert list(checks) == "manifest files weights loading card".split()
    assert all(check.ok for check in checks.values()), checks
    assert checks["weights"].found.startswith(f"{sum(p.numel() for p in tiny_llava()[0].parameters()):,} parameters")
    assert checks["loading"].found == "llava, LlavaProcessor with a chat template"


# Files


def test_files(dataset):
    readme = dataset / "README.md"
    readme.write_text(readme.read_text().replace("6 instruction", "9 instruction"))
    assert "README.md is not the file of the manifest" in failures(dataset)["files"]
    # Nothing is read from files that are not those of the manifest.
    assert list(results(dataset)) == ["manifest", "files"]
    readme.unlink()
    assert failures(dataset) == {"files": "README.md is not there"}
    shutil.rmtree(dataset)
    assert "has no manifest.json" in failures(dataset)["manifest"]


def test_other_files(dataset):
    (dataset / "notes.txt").write_text("mine")
    assert "not in the manifest: here.txt, notes.txt" in results(dataset, extra=["here.txt"])["files"].found
    assert not failures(dataset)
    lies = {"files": "data/train-00001-of-00001.parquet lies among the data, but is not in the manifest"}
    assert failures(dataset, extra=["data/train-00001-of-00001.parquet"]) == lies


# Data


def test_rows_are_counted(dataset):
    change_rows(dataset, "scored", lambda rows: rows.pop())
    sign(dataset)
    assert failures(dataset)["schema"] == "configuration scored has 12 rows, 13 in the manifest"


def test_columns(dataset):
    path = dataset / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    number = table.schema.get_field_index("pmi")
    for changed, says in (
        (table.drop_columns("pmi"), "column pmi is None, not Value('float32')"),
        (table.replace_schema_metadata(None), "column images is List("),
        (table.set_column(number, "pmi", table["pmi"].cast("double")), "column pmi is Value('float64'), not"),
    ):
        pq.write_table(changed, path)
        sign(dataset)
        assert says in failures(dataset)["schema"]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("pmi", 0.5, "pmi is 0.5, its tokens give 0.721667"),
        ("i2c", 0.5, "i2c is 0.5, its tokens give 0.721667"),
        ("answer_kl", float("nan"), "answer_kl is nan"),
        ("token_kl_per_token", [0.3, 0.9], "token_kl is 0.4, its tokens give 0.6"),
        ("logprob_per_token", [-0.1], "different numbers of tokens"),
        ("i2c_status", "no image", "i2c_status is 'no image', and yet it has scores"),
        ("pmi", None, "TypeError"),
    ],
)
def test_scores(dataset, column, value, says):
    change_rows(dataset, "scored", lambda rows: rows[3].update({column: value}))
    sign(dataset)
    found = failures(dataset)["scores"]
    assert says in found
    if says != "TypeError":
        assert found.startswith("scored/train-00000-of-00001.parquet, row 3 (pair '1/1')")


def test_scores_of_turns(dataset):
    def two_turns(rows, pmi=None):
        lists = [rows[0][name] for name in ("logprob_per_token", "logprob_blind_per_token", "token_kl_per_token")]
        turns = [scores_from_logprobs(*([values[n]] for values in lists)) for n in range(2)]
        rows[0]["turns"] = [{**turn, "i2c": turn["pmi"], "tokens": 1, "status": "ok"} for turn in turns]
        if pmi is not None:
            rows[0]["turns"][1].update(pmi=pmi)

    change_rows(dataset, "scored", two_turns)
    sign(dataset)
    assert not failures(dataset)
    change_rows(dataset, "scored", lambda rows: two_turns(rows, 0.25))
    sign(dataset)
    assert "pmi of turn 2 is 0.25" in failures(dataset)["scores"]


def test_scores_of_a_turn_without_any(dataset):
    def one_of_two(rows, pmi=None):
        none = {
            **dict.fromkeys(rows[0]["turns"][0], None),
            "tokens": 0,
            "status": "there is no image before the answer",
        }
        rows[0]["turns"] = [{**none, "pmi": pmi}, *rows[0]["turns"][-1:]]

    change_rows(dataset, "scored", one_of_two)
    sign(dataset)
    assert not failures(dataset)
    change_rows(dataset, "scored", lambda rows: one_of_two(rows, 0.25))
    sign(dataset)
    assert "turn 1 is 'there is no image before the answer', and yet it has" in failures(dataset)["scores"]


def test_selection(dataset):
    change_rows(dataset, "data", lambda rows: rows[0].update(pair_id="somewhere else"))
    sign(dataset)
    assert "data/train-00000-of-00001.parquet, row 0: pair 'somewhere else' is not in" in failures(dataset)["selection"]


@pytest.mark.parametrize("column", ["i2c", "completion", "raw", "template", "answer_tokens"])
def test_kept_rows_are_those_of_the_pool_in_every_column(dataset, column):
    other = {"i2c": 0.5, "completion": [{"role": "assistant", "content": "nine"}], "answer_tokens": ["tw", "o"]}
    change_rows(dataset, "data", lambda rows: rows[2].update({column: other.get(column, "other")}))
    sign(dataset)
    says = "data/train-00000-of-00001.parquet, row 2: pair '2/1' is not so in the scored pool"
    assert failures(dataset)["selection"] == says


def test_pairs_are_there_once(dataset):
    change_rows(dataset, "scored", lambda rows: rows.__setitem__(0, rows[1]))
    sign(dataset)
    assert failures(dataset)["selection"] == "scored/train-00000-of-00001.parquet, row 1: pair '0/1' is there twice"
    change_rows(dataset, "data", lambda rows: rows.__setitem__(4, rows[3]))
    sign(dataset)
    assert failures(dataset)["selection"] == "data/train-00000-of-00001.parquet, row 4: pair '3/1' is there twice"


def test_pseudo_labels(dataset):
    change_rows(dataset, "pseudo_labels", lambda rows: rows[2].update(chosen_score=0.0))
    sign(dataset)
    assert "pseudo_labels/train-00000-of-00001.parquet, row 2: a rejected" in failures(dataset)["selection"]


def test_images(dataset):
    change_rows(dataset, "data", lambda rows: rows[1]["images"][0].update(bytes=b"not a picture"))
    sign(dataset)
    assert re.match("data/train-.*, row 1: the image cannot be read", failures(dataset)["images"])
    change_rows(dataset, "images", lambda rows: rows[4]["images"][0].update(bytes=b"not a picture"))
    change_rows(dataset, "data", lambda rows: rows[1]["images"][0].update(rows[0]["images"][0]))
    sign(dataset)
    assert re.match("images/train-.*, row 4: the image cannot be read", failures(dataset)["images"])


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        ("images", lambda rows: rows.__setitem__(1, rows[0]), "images/FILE, row 1: image '0' is there twice"),
        ("images", lambda rows: rows[2].update(image_id=None), "images/FILE, row 2: image None is without a name"),
        # of the one without a pair, of one that is kept, and of one that is not in the compact dataset any more
        (
            "images",
            lambda rows: rows[6].update(image_id="x"),
            "scored/FILE, row 12: images has no picture of its image '6'",
        ),
        ("images", lambda rows: rows[5].update(image_id="x"), "data/FILE, row 5: its image '5' is not in images"),
        ("images", lambda rows: rows[5].update(images=[]), "data/FILE, row 5: its picture is not that of image '5'"),
        ("images", lambda rows: rows[5].update(images=rows[4]["images"]), "data/FILE, row 5: its picture is not that"),
        ("data", lambda rows: rows[5].update(images=rows[4]["images"]), "data/FILE, row 5: its picture is not that"),
        ("data", lambda rows: rows[5].update(images=[]), "data/FILE, row 5: it has no picture"),
        ("data", lambda rows: rows[5].update(image_id="4"), "data/FILE, row 5: it has no picture, or another"),
        (
            "pseudo_labels",
            lambda rows: rows[3].update(image_id="99"),
            "pseudo_labels/FILE, row 3: images has no picture",
        ),
        (
            "scored",
            lambda rows: rows[3].update(image_id=None),
            "scored/FILE, row 3: images has no picture of its image None",
        ),
    ],
)
def test_every_image_is_there_once(dataset, config, change, says):
    change_rows(dataset, config, change)
    sign(dataset)
    assert failures(dataset)["images"].startswith(says.replace("FILE", "train-00000-of-00001.parquet"))


def test_an_image_without_a_picture_may_have_pairs_without_a_score_only(dataset):
    change_rows(dataset, "images", lambda rows: rows[6].update(images=[]))
    sign(dataset)
    assert not failures(dataset)
    # A pair that is scored, and not kept: the compact dataset does not tell.
    change_rows(dataset, "scored", lambda rows: rows[0].update(image_id="6"))
    sign(dataset)
    says = "scored/train-00000-of-00001.parquet, row 0: images has no picture of its image '6'"
    assert failures(dataset)["images"] == says


def test_pairs_without_images_need_a_configuration_with_them(dataset):
    shutil.rmtree(dataset / "images")
    manifest = json.loads((dataset / "manifest.json").read_text())
    del manifest["configs"]["images"]
    manifest["files"] = {path: record for path, record in manifest["files"].items() if not path.startswith("images/")}
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    sign(dataset)
    says = "scored/train-00000-of-00001.parquet: column images is None, not List(Image"
    assert failures(dataset)["schema"].startswith(says)


def test_checks_read_a_few_rows_at_a_time(tmp_path):
    """Of a pool of 40 MB no more than some MB at any time."""
    n, text = 20_000, "x" * 2_000
    lists = {"logprob_per_token": [-0.1], "logprob_blind_per_token": [-0.5], "token_kl_per_token": [0.3]}
    scores = scores_from_logprobs(*lists.values())
    scores["i2c"] = scores["pmi"]
    pair = {
        **row(0),
        **scores,
        **lists,
        "answer_tokens": ["t"],
        "turns": [{**scores, "tokens": 1, "status": "ok"}],
        "raw": text,
    }
    without_images = Features({name: feature for name, feature in FEATURES.items() if name != "images"})

    def tables():
        rows = pa.Table.from_pylist([pair] * 1000, schema=without_images.arrow_schema)
        for start in range(0, n, 1000):
            ids = pa.array([f"{number}" for number in range(start, start + 1000)])
            yield rows.set_column(rows.column_names.index("pair_id"), "pair_id", ids)

    kept = Dataset.from_list([{**pair, "pair_id": "5"}], features=FEATURES)
    tokens = [("regenerate", "served", 90 * n, 7 * n)]
    told = facts(**dataset_figures(kept, [scores["i2c"]] * n), stages=[], truth=None, tokens=tokens)
    images = Dataset.from_list([{"image_id": "0", "images": [picture(0)]}], features=IMAGE_FEATURES)
    parts = {"default": kept, "images": images, "scored": RowStream(without_images, n, tables)}
    write_dataset(parts, tmp_path / "dataset", told, example_pictures(kept, told.examples))

    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    try:
        checks = list(verify_folder(tmp_path / "dataset"))
    finally:
        pa.set_memory_pool(usual)
    assert all(check.ok for check in checks), checks
    assert 1_000_000 < pool.max_memory() < 15_000_000


# The card


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("rows", 7),
        ("type_shares", {"count": 0.4, "where": 0.6}),
        ("score_quantiles", None),
        ("length_correlation", [0.9, 6]),
        ("histogram", [[0.0, 1.0, 13, 6]]),
        ("examples", None),
    ],
)
def test_figures_of_the_card_are_those_of_the_data(dataset, fact, value):
    sign(dataset, **{fact: value})
    assert failures(dataset)["figures"].startswith(f"{fact}: ")
    assert set(failures(dataset)) == {"figures"}


@pytest.mark.parametrize(
    ("stage", "label"),
    [
        ("select", "pseudo-labels"),
        ("regenerate", "pairs"),
        ("regenerate", "no answer"),
        ("rescore", "ok"),
        ("rescore", "no pair"),
        ("curate", "pairs"),
        ("curate", "kept"),
    ],
)
def test_counts_that_follow_from_the_rows(dataset, stage, label):
    stages = Manifest.read(dataset).facts["stages"]
    counts = next(counts for name, counts in stages if name == stage)
    counts[[name for name, _ in counts].index(label)][1] = 999
    sign(dataset, stages=stages)
    found = failures(dataset)
    assert list(found) == ["figures"]
    assert re.fullmatch(rf"{stage}, {label}: 999 on the card, \d+ in the data", found["figures"])


@pytest.mark.parametrize("stage", ["regenerate", "rescore"])
def test_a_status_that_no_row_has_and_one_that_is_left_out(dataset, stage):
    stages = dict(Manifest.read(dataset).facts["stages"])
    for changed in ([*stages[stage], ["invented", 3]], stages[stage][:-1], [*stages[stage], stages[stage][0]]):
        sign(dataset, stages=list({**stages, stage: changed}.items()))
        assert failures(dataset)["figures"].startswith(f"counts of {stage}: ")


@pytest.mark.parametrize("pool", ["pseudo-labels, chosen", "generated again", "curated: the dataset"])
def test_how_many_pairs_were_judged(dataset, pool):
    truth = Manifest.read(dataset).facts["truth"]
    next(values for values in truth if values[0] == pool)[1] = 999
    sign(dataset, truth=truth)
    assert failures(dataset)["figures"].startswith(f"truth, {pool}: 999 on the card")


@pytest.mark.parametrize("row", [0, None])
def test_the_tokens_of_the_second_round(dataset, row):
    tokens = Manifest.read(dataset).facts["tokens"]
    assert tokens == [["regenerate", "served", 90 * 7, sum(2 * (7 + number) for number in range(6)) + 13]]
    more = [["generate", "served", 5, None]]  # of the first round there is nothing to compare it with
    sign(dataset, tokens=tokens + more)
    assert failures(dataset) == {}
    sign(dataset, tokens=more if row is None else [[*tokens[row][:2], 1, tokens[row][3]]])
    assert failures(dataset)["figures"].startswith("tokens of regenerate: [")


def test_the_cards_name_what_is_not_checked(dataset, generator):
    card = (dataset / "README.md").read_text()
    told = "Stated by the run, and not checked: "
    assert f"{told}all other counts of the stages and of tokens, and the shares of true pairs." in card
    assert f"{told}the figures themselves." in (generator / "README.md").read_text()
    sign(dataset, truth=None)
    assert f"{told}all other counts of the stages and of tokens. They" in (dataset / "README.md").read_text()


def test_the_card_says_what_the_manifest_says(dataset):
    card = dataset / "README.md"
    card.write_text(card.read_text().replace("6 instruction", "9 instruction"))
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["files"]["README.md"] = vars(FileRecord.of(card))
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    assert failures(dataset) == {"card": "README.md does not say what the manifest's facts say"}


@pytest.mark.parametrize("part", ["dataset", "generator"])
def test_cards_of_other_schemas(dataset, generator, part):
    """Their figures are looked for, and it is said that their words were not compared."""
    folder = {"dataset": dataset, "generator": generator}[part]
    manifest = json.loads((folder / "manifest.json").read_text())
    original = (folder / "README.md").read_text()

    def check(card, drop=(), **changes):
        (folder / "README.md").write_text(card)
        content = {name: value for name, value in manifest.items() if name not in drop} | changes
        content["files"] = {**manifest["files"], "README.md": vars(FileRecord.of(folder / "README.md"))}
        (folder / "manifest.json").write_text(json.dumps(content))
        return results(folder)["card"]

    other_words = original.replace("## Known limits", "## Limits")
    assert not check(other_words).ok
    newer = check(other_words, card_schema=CARD_SCHEMA + 1)
    assert newer.ok and re.fullmatch(
        rf"of schema {CARD_SCHEMA + 1}, this version writes {CARD_SCHEMA}: its words were not compared; "
        r"the \d\d figures of the facts are in it",
        newer.found,
    )
    first = check(other_words, drop=["card_schema"], format=1, renderer="c0ffee")
    assert first.ok and first.found.startswith("of schema 1, this version writes")
    assert not failures(folder)
    for old, new, says in (
        ("| steps | 3 |", "| steps | 38 |", "train, steps is 3 in the manifest's facts, which README.md does not say"),
        ("80.0 %", "81.0 %", "truth, generated is 80.0 % in the manifest's"),
        ("`7`", "`8`", "seed is 7"),
    ):
        changed = check(other_words.replace(old, new), card_schema=1)
        assert not changed.ok and changed.found.startswith(says)


def test_the_layout_of_metadata_is_up_to_the_library(dataset):
    card = dataset / "README.md"
    _, metadata, text = card.read_text().split("---\n", 2)
    values = yaml.safe_load(metadata)
    for changed, well in ((values, True), ({**values, "license": "mit"}, False)):
        card.write_text(f"---\n{yaml.safe_dump(changed, indent=4, sort_keys=True)}---\n{text}")
        manifest = json.loads((dataset / "manifest.json").read_text())
        manifest["files"]["README.md"] = vars(FileRecord.of(card))
        (dataset / "manifest.json").write_text(json.dumps(manifest))
        assert results(dataset)["card"].ok == well


def test_facts_of_a_stranger(dataset):
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["facts"] = {"ranking": "pmi", "title": "\x1b[2Jhello"}
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    assert set(failures(dataset)) == {"figures", "card"}


# Generators


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_evil.py", "sub/weights.PT"])
def test_only_safetensors(generator, name):
    (generator / name).parent.mkdir(exist_ok=True)
    (generator / name).write_bytes(b"x")
    sign(generator)
    assert failures(generator)["weights"].startswith(name)


def test_a_generator_that_cannot_be_loaded(generator):
    config = json.loads((generator / "config.json").read_text())
    (generator / "config.json").write_text(json.dumps({**config, "model_type": "nothing-known"}))
    sign(generator)
    assert "nothing-known" in failures(generator)["loading"]


def test_weights_are_weights(generator):
    (generator / "model.safetensors").write_bytes(b"\xff" * 100)
    sign(generator)
    assert "weights" in failures(generator)


# Scoring again


def test_rescoring(tmp_path, llava):
    """The scores of a real, tiny model are found again; those of another, or changed ones, are not."""
    run = finished_run(tmp_path / "run")
    model, processor = llava
    for part, seed in (("model", 0), ("other", 1)):
        tiny_llava(seed)[0].save_pretrained(tmp_path / part)
        processor.save_pretrained(tmp_path / part)
    scorer = I2CScorer(model, processor, ranking="pmi")

    def score(rows):
        scored = [pair for pair in rows if pair["i2c_status"] == "ok"]
        images = [[picture(int(pair["image_id"]))] for pair in scored]
        again = scorer.score([{"images": own, **_texts(pair)} for own, pair in zip(images, scored)])
        for pair, scores in zip(scored, again):
            pair.update(scores)

    for config in ("data", "scored"):
        change_rows(run / "dataset", config, score)
    told = {"generator": "mine", "generator_revision": None, "generator_digest": None}
    sign(run / "dataset", **told)
    folder = run / "dataset"
    assert "4 rows by mine" in results(folder, rescore=4, model=str(tmp_path / "model"))["rescoring"].found
    assert "the model gives" in failures(folder, rescore=4, model=str(tmp_path / "other"))["rescoring"]
    assert "give its folder as model" in failures(folder, rescore=1)["rescoring"]
    sign(folder, generator_digest="feed")
    says = "its weights have another digest"
    assert says in failures(folder, rescore=1, model=str(tmp_path / "model"))["rescoring"]
    # Where another model than the generator has scored, it is that one.
    sign(folder, generator_digest=None, scorer="a judge", scorer_digest="feed")
    assert says in failures(folder, rescore=1, model=str(tmp_path / "model"))["rescoring"]
    assert "a local model (a judge)" in failures(folder, rescore=1)["rescoring"]


def test_rescoring_by_adapters(tmp_path):
    """A model by their own folder, as long as it and the model that it names are those of the facts."""
    run = finished_run(tmp_path / "run")
    for part in tiny_llava():
        part.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(tiny_llava()[0], LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapters = tmp_path / "adapters"
    adapted.save_pretrained(adapters)
    scorer = I2CScorer.from_pretrained(adapters, dtype="float32", ranking="pmi")

    def score(rows):
        for pair in rows:
            if pair["i2c_status"] == "ok":
                pair.update(scorer.score([{"images": [picture(int(pair["image_id"]))], **_texts(pair)}])[0])

    for config in ("data", "scored"):
        change_rows(run / "dataset", config, score)
    folder, identity = run / "dataset", find_model(Source(str(adapters)))[1]
    told = {"generator_digest": identity["digest"], "generator_base_digest": identity["base_digest"]}
    sign(folder, generator="mine", generator_revision=None, generator_base="base", **told)
    assert "2 rows by mine" in results(folder, rescore=2, model=str(adapters))["rescoring"].found
    assert "another digest" in failures(folder, rescore=1, model=str(tmp_path / "base"))["rescoring"]
    for changed in ("generator_digest", "generator_base_digest"):
        sign(folder, **{**told, changed: "feed"})
        assert "another digest" in failures(folder, rescore=1, model=str(adapters))["rescoring"]


def test_a_generator_is_whole(generator):
    (generator / "adapter_config.json").write_text("{}")
    sign(generator)
    assert "published whole, with its adapters merged" in failures(generator)["weights"]


def _texts(row):
    return {"prompt": row["prompt"], "completion": row["completion"]}
