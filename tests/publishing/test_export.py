"""What a run writes: folders that load back as they were, and appear complete or not at all."""

import json
import re
import shutil

import datasets.features
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Audio, Dataset, Features, Image, List, Value, concatenate_datasets, load_dataset
from peft import LoraConfig, get_peft_model
from published import FEATURES, IMAGE_FEATURES, configs, facts, pairs, picture, row, unscored_row, write_run
from safetensors.torch import load_file, save_file
from tiny_models import tiny_llava
from tiny_training import make_trainer, moved
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

import c3l_hf.publishing.export as export
from c3l_hf import _compat, join_images
from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES
from c3l_hf.data.streams import RowStream
from c3l_hf.files.image import open_image
from c3l_hf.publishing.cards import dataset_card, model_card
from c3l_hf.publishing.export import example_pictures, write_dataset, write_generator
from c3l_hf.publishing.manifest import CARD_SCHEMA, FolderError, Manifest

BARE = {"examples": None}


def python_code(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def write(dataset, folder, **changes):
    write_dataset({"default": dataset}, folder, facts(rows=len(dataset), **{**BARE, **changes}))


def load(folder, name=None, **options):
    return load_dataset(str(folder), name, split="train", **options)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_every_configuration_loads_back(tmp_path):
    parts = configs()
    folder = write_run(tmp_path / "run") / "dataset"
    assert set(load_dataset(str(folder))) == {"train"}
    for name, dataset in parts.items():
        for loaded in (
            load(folder, name),
            Dataset.from_list(list(load(folder, name, streaming=True)), dataset.features),
        ):
            assert loaded.features == dataset.features
            for column in dataset.column_names:
                if column != "images":
                    assert loaded[column][:] == dataset[column][:]
                else:
                    assert loaded[0]["images"][0].tobytes() == picture(0).tobytes()
    assert load(folder)["pair_id"][:] == parts["default"]["pair_id"][:]
    assert [name for name, dataset in parts.items() if "images" in dataset.column_names] == ["default", "images"]
    assert load(folder, "pseudo_labels").features == Features(
        {name: feature for name, feature in PSEUDO_LABEL_FEATURES.items() if name != "images"}
    )


def test_rows_of_every_configuration_find_their_images(tmp_path):
    folder = write_run(tmp_path / "run") / "dataset"
    images = load(folder, "images")
    for name in ("scored", "pseudo_labels"):
        joined = join_images(load(folder, name), images)
        assert len(joined) == len(load(folder, name))
        for pair in joined:
            assert pair["images"][0].tobytes() == picture(int(pair["image_id"])).tobytes()


def test_what_is_in_the_folders(tmp_path):
    run = write_run(tmp_path / "run")
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    data = {f"dataset/{name}/train-00000-of-00001.parquet" for name in ("data", "images", "scored", "pseudo_labels")}
    both = ("README.md", "manifest.json", "config.yaml", "examples/0.png", "examples/1.png")
    words = {f"{part}/{name}" for part in ("dataset", "generator") for name in both}
    model = {f"generator/{name}" for name in ("config.json", "generation_config.json", "model.safetensors")}
    assert data | words | model <= files
    assert {path.split("/")[0] for path in files - data - words - model} == {"generator"}
    for part in ("dataset", "generator"):
        manifest = Manifest.read(run / part)
        assert set(manifest.files) | {"manifest.json"} == {
            path.relative_to(run / part).as_posix() for path in (run / part).rglob("*") if path.is_file()
        }
        assert yaml.safe_load((run / part / "config.yaml").read_text()) == manifest.facts["options"]


def test_folders_of_one_name_load_their_own_rows(tmp_path):
    for number in range(2):
        folder = tmp_path / f"run{number}" / "dataset"
        write(pairs(2).select([number]), folder)
        assert load(folder)["image_id"][:] == [str(number)]


def test_dataset_keeps_the_order_of_rows_and_the_code_in_the_card_runs(tmp_path, monkeypatch, capsys):
    write(pairs(5).select([4, 0, 2]), tmp_path / "dataset")
    assert load(tmp_path / "dataset")["image_id"][:] == ["4", "0", "2"]
    monkeypatch.chdir(tmp_path)
    exec(python_code((tmp_path / "dataset/README.md").read_text()), {})
    assert "How many dogs are there in 4, please?" in capsys.readouterr().out


def test_images_given_as_files_are_embedded(tmp_path):
    originals = tmp_path / "originals"
    originals.mkdir()
    rows = []
    for number in range(3):
        picture(number).save(originals / f"{number}.png")
        rows.append({**row(number), "images": [str(originals / f"{number}.png")]})
    write(Dataset.from_list(rows, features=FEATURES), tmp_path / "dataset")
    shutil.rmtree(originals)

    loaded = load(tmp_path / "dataset")
    assert [row["images"][0].tobytes() for row in loaded] == [picture(number).tobytes() for number in range(3)]
    # Nor does a path of this machine stay behind.
    stored = pq.read_table(tmp_path / "dataset/data/train-00000-of-00001.parquet")["images"].to_pylist()
    assert [images[0]["path"] for images in stored] == ["0.png", "1.png", "2.png"]


def test_a_missing_image_is_named_and_nothing_is_left(tmp_path):
    rows = [row(0), {**row(1), "images": [str(tmp_path / "gone.png")]}]
    dataset = Dataset.from_list([{"images": r["images"]} for r in rows], features=Features({"images": List(Image())}))
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        write(dataset, tmp_path / "out" / "dataset")
    assert list((tmp_path / "out").iterdir()) == []


def test_images_that_cannot_be_read_leave_rows_without_a_score(tmp_path):
    broken = [{"bytes": b"not a picture", "path": None}]
    rows = [row(0), {**unscored_row(1), "images": broken}, unscored_row(2)]
    write(Dataset.from_list(rows, features=FEATURES), tmp_path / "dataset")
    loaded = load(tmp_path / "dataset")
    assert [len(images) for images in loaded["images"]] == [1, 0, 1]
    assert loaded["i2c_status"][:] == ["ok", "no pair", "no pair"] and loaded.features == FEATURES


def test_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_SHARD_BYTES", 1)
    monkeypatch.setattr(export, "_ROW_GROUP", 2)
    write(pairs(5), tmp_path / "dataset")
    names = sorted(path.name for path in (tmp_path / "dataset/data").iterdir())
    assert names == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert load(tmp_path / "dataset")["image_id"][:] == list("01234")
    (config,) = Manifest.read(tmp_path / "dataset").configs.values()
    assert (config.rows, config.files) == (5, [f"data/{name}" for name in names])


def test_same_run_same_bytes(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    files = [path for path in first.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path.name


def test_nothing_is_overwritten(tmp_path, llava):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is not empty: remove it"):
            write(pairs(1), tmp_path / name)
        with pytest.raises(FileExistsError, match=f"{name} exists and is not empty: remove it"):
            write_generator(*llava, tmp_path / name, facts(**BARE))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "precious.txt"]


def test_empty_folder_and_leftovers_of_a_killed_run(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / ".dataset.partial" / "data").mkdir(parents=True)
    (tmp_path / ".dataset.partial" / "data" / "train-00000-of-00009.parquet").write_text("half")
    write(pairs(1), tmp_path / "dataset")
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert len(list((tmp_path / "dataset/data").iterdir())) == 1


def test_empty_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'scored' has no rows"):
        write_dataset({"default": pairs(1), "scored": pairs(1).select([])}, tmp_path / "dataset", facts(**BARE))
    assert list(tmp_path.iterdir()) == []


# An image is stored once


def test_an_image_with_several_pairs_is_stored_once(tmp_path):
    rng = np.random.default_rng(0)
    contents = [rng.bytes(100_000) for _ in range(2)]
    images = Features({"images": List(Image(decode=False)), "image_id": Value("string")})
    for n, pictures in ((1, contents[:1] * 5), (2, [contents[0]] * 40 + [contents[1]] * 60)):
        rows = [{"images": [{"bytes": content, "path": None}], "image_id": "a"} for content in pictures]
        write(Dataset.from_list(rows, features=images), tmp_path / str(n))
        path = tmp_path / str(n) / "data/train-00000-of-00001.parquet"
        assert n * 100_000 < path.stat().st_size < n * 105_000
        assert [row["images"][0]["bytes"] for row in pq.read_table(path).to_pylist()] == pictures
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        assert column.has_offset_index


def test_more_different_pictures_than_a_default_dictionary_holds(tmp_path):
    """Past its limit, a Parquet dictionary is given up, and every value is stored where it stands."""
    rng = np.random.default_rng(0)
    contents = [rng.bytes(100_000) for _ in range(30)] * 3
    rows = [{"images": [{"bytes": content, "path": None}]} for content in contents]
    write(Dataset.from_list(rows, features=Features({"images": List(Image(decode=False))})), tmp_path / "dataset")
    assert (tmp_path / "dataset/data/train-00000-of-00001.parquet").stat().st_size < 31 * 100_000


# Streams


def test_a_stream_is_written_as_its_rows_would_be(tmp_path):
    parts = configs(20)
    told = facts(rows=20, **BARE)
    write_dataset(parts, tmp_path / "rows", told)
    for size in (1, 7, 1000):
        streams = {name: rows if name == "default" else RowStream.of(rows, size) for name, rows in parts.items()}
        write_dataset(streams, tmp_path / str(size), told)
        for path in (tmp_path / "rows").rglob("*.parquet"):
            again = tmp_path / str(size) / path.relative_to(tmp_path / "rows")
            assert again.read_bytes() == path.read_bytes(), (size, path)


def test_a_stream_is_never_in_memory_as_a_whole(tmp_path):
    """Of 400 MB of pictures, no more than some row groups at any time."""
    allocated = []

    def tables():
        rng = np.random.default_rng(0)
        for number in range(40):
            allocated.append(pa.total_allocated_bytes())
            rows = [
                {"image_id": f"{number}/{n}", "images": [{"bytes": rng.bytes(100_000), "path": None}]}
                for n in range(100)
            ]
            yield pa.Table.from_pylist(rows, schema=IMAGE_FEATURES.arrow_schema)

    before = pa.total_allocated_bytes()
    stream = RowStream(IMAGE_FEATURES, 4000, tables)
    # Of noise it takes long to say that it is no picture.
    write_dataset({"default": stream}, tmp_path / "dataset", facts(**BARE | {"options": {"keep_metadata": True}}))
    assert pq.read_metadata(tmp_path / "dataset/data/train-00000-of-00001.parquet").num_row_groups == 40
    assert max(allocated) - before < 60_000_000


def test_a_stream_that_breaks_off_is_found(tmp_path):
    rows = pairs(3)
    stream = RowStream(rows.features, 4, RowStream.of(rows).tables)
    with pytest.raises(ValueError, match="the dataset 'default' gave 3 rows instead of 4"):
        write_dataset({"default": stream}, tmp_path / "dataset", facts(**BARE))
    assert list(tmp_path.iterdir()) == []


def test_images_that_cannot_be_read_keep_their_rows(tmp_path, monkeypatch):
    """In `images` every image has a row. Only those are opened about which no pair has a score."""
    parts = configs(3)
    broken, missing = {"bytes": b"not a picture", "path": None}, {"bytes": None, "path": str(tmp_path / "gone.png")}
    more = [{"image_id": name, "images": [image]} for name, image in (("broken", broken), ("missing", missing))]
    parts["images"] = concatenate_datasets([parts["images"], Dataset.from_list(more, features=IMAGE_FEATURES)])
    opened = []
    monkeypatch.setattr(export, "open_image", lambda image: opened.append(image) or open_image(image))
    write_dataset(parts, tmp_path / "dataset", facts(rows=3, **BARE))
    loaded = load(tmp_path / "dataset", "images")
    assert loaded["image_id"][:] == ["0", "1", "2", "3", "broken", "missing"]
    assert [len(row["images"]) for row in loaded] == [1, 1, 1, 1, 0, 0]
    assert len(opened) == 3


def test_pictures_of_examples_are_small_and_those_of_the_rows(tmp_path):
    rows = [row(0), {**row(1), "images": [picture(1).resize((600, 300))]}]
    dataset = Dataset.from_list(rows, features=FEATURES)
    told = facts(rows=2, examples=[("q", "a", "t", 1.0, f"{number}/0") for number in (1, 0)])
    write_dataset({"default": dataset}, tmp_path / "dataset", told, example_pictures(dataset, told.examples))
    pictures = [PIL.Image.open(tmp_path / f"dataset/examples/{number}.png") for number in (0, 1)]
    assert pictures[0].size == (256, 128) and pictures[1].tobytes() == picture(0).tobytes()
    with pytest.raises(ValueError, match="0 pictures of examples, and 2 examples"):
        write_dataset({"default": dataset}, tmp_path / "again", told)
    with pytest.raises(ValueError, match="the example '1/0' is not among the rows"):
        example_pictures(dataset.select([0]), told.examples)
    assert example_pictures(dataset, None) == []


def test_generator_loads_back(tmp_path, monkeypatch, capsys):
    model, processor = tiny_llava()
    model.generation_config.max_new_tokens = 11
    # As in a run: read from a folder first, whose path must not be written on.
    write_generator(model, processor, tmp_path / "first", facts(**BARE))
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "first")
    processor_again = AutoProcessor.from_pretrained(tmp_path / "first")
    write_generator(again, processor_again, tmp_path / "generator", facts(**BARE))
    shutil.rmtree(tmp_path / "first")

    folder = tmp_path / "generator"
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(loaded) is type(model)
    assert loaded.generation_config.max_new_tokens == 11
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert AutoProcessor.from_pretrained(folder).chat_template == processor.chat_template
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
        assert str(tmp_path) not in path.read_text(), path.name

    monkeypatch.chdir(tmp_path)
    picture(0).resize((32, 32)).save("picture.png")
    exec(python_code((folder / "README.md").read_text()), {})
    assert capsys.readouterr().out


def test_adapters_must_be_merged(tmp_path):
    model, processor = tiny_llava()
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*language_model.*q_proj"))
    with pytest.raises(TypeError, match="merge_and_unload"):
        write_generator(adapted, processor, tmp_path / "generator", facts(**BARE))
    # As transformers loads a folder of adapters.
    model = tiny_llava()[0]
    model.add_adapter(LoraConfig(target_modules=r".*language_model.*q_proj"))
    with pytest.raises(TypeError, match="merge_and_unload"):
        write_generator(model, processor, tmp_path / "generator", facts(**BARE))
    assert list(tmp_path.iterdir()) == []


def test_dataset_goes_into_sft_trainer(tmp_path):
    write(pairs(2), tmp_path / "dataset")
    model, processor = tiny_llava()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = SFTConfig(
        output_dir=str(tmp_path / "sft"),
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        report_to="none",
        save_strategy="no",
    )
    SFTTrainer(model, config, train_dataset=load(tmp_path / "dataset"), processing_class=processor).train()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_pseudo_labels_and_their_images_go_into_the_trainer(tmp_path):
    """What was published can be trained on again; checks of the rows and the collator find the pictures."""
    folder = write_run(tmp_path / "run") / "dataset"
    labels = join_images(load(folder, "pseudo_labels"), load(folder, "images"))
    trainer = make_trainer(tmp_path / "c3l", train_dataset=labels, max_steps=1)
    assert len(trainer.train_dataset) == 6 and moved(trainer)


def test_the_card_can_be_rendered_again_from_the_manifest(tmp_path):
    run = write_run(tmp_path / "run", images="/home/someone/pictures, 6 images")
    dataset, generator = (Manifest.read(run / part) for part in ("dataset", "generator"))
    card = dataset_card(facts().__class__(**dataset.facts), dataset.configs, dataset.files)
    assert card == (run / "dataset/README.md").read_text() and "someone" not in card
    assert model_card(facts().__class__(**generator.facts)) == (run / "generator/README.md").read_text()


# Manifests


def manifest_of(tmp_path, **changes):
    write(pairs(1), tmp_path / "dataset")
    content = json.loads((tmp_path / "dataset/manifest.json").read_text())
    return json.dumps({**content, **changes}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"made_by": "somebody"},
        {"kind": "space"},
        {"files": {"../../etc/passwd": {"sha256": "0", "size": 1}}},
        {"files": {"/etc/passwd": {"sha256": "0", "size": 1}}},
        {"files": {"a": {"sha256": "0"}}},
        {"files": []},
        {"configs": {"default": {"folder": "data", "rows": 1, "shards": 10**12}}},
        {"configs": {"default": {"folder": "..", "rows": 1, "shards": 1}}},
        {"facts": []},
        {"card_schema": "new"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_manifest_of_others_is_refused(tmp_path, changes):
    with pytest.raises(FolderError, match="user/name: manifest.json is not one that c3l_hf has written"):
        Manifest.from_bytes(manifest_of(tmp_path, **changes), "user/name")


def test_manifests(tmp_path):
    content = manifest_of(tmp_path)
    assert Manifest.from_bytes(content, "x") == Manifest.read(tmp_path / "dataset")
    assert Manifest.from_bytes(content, "x").card_schema == CARD_SCHEMA
    with pytest.raises(FolderError, match="another version of c3l_hf"):
        Manifest.from_bytes(manifest_of(tmp_path / "again", format=3), "x")
    for nothing in (b"", b"[]", b"[" * 10_000, b"\xff"):
        with pytest.raises(FolderError, match="not one that"):
            Manifest.from_bytes(nothing, "x")
    with pytest.raises(FolderError, match="empty has no manifest.json: .* the run is not finished"):
        Manifest.read(tmp_path / "empty")


def test_weights_keep_the_names_of_the_checkpoint_they_come_from(tmp_path):
    """Servers look for the names of published checkpoints, which transformers calls otherwise in memory."""
    llava = tiny_llava()  # saving a model changes its configuration
    for part in llava:
        part.save_pretrained(tmp_path / "published")
    file = tmp_path / "published" / "model.safetensors"
    weights = {
        name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in load_file(file).items()
    }
    assert weights.keys() != load_file(file).keys()
    save_file(weights, file, metadata={"format": "pt"})
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "published")
    write_generator(model, llava[1], tmp_path / "generator", facts(**BARE))
    written = load_file(tmp_path / "generator" / "model.safetensors")
    assert written.keys() == weights.keys()
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "generator").state_dict()
    assert all(torch.equal(again[name], value) for name, value in llava[0].state_dict().items())


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/a.png", "hf://datasets/u/d/a.png", "zip://a.png::http://x/a.zip"])
def test_nothing_is_fetched_when_a_dataset_is_written(path, tmp_path, monkeypatch):
    """`datasets` opens an address where it stores a picture, and so would send requests to whoever the rows name."""
    monkeypatch.setattr(datasets.features.image, "xopen", lambda *_, **__: pytest.fail("fetched"))
    rows = [{"images": [{"bytes": None, "path": path}]}]
    dataset = Dataset.from_list(rows, features=Features({"images": List(Image())}))
    with pytest.raises(FileNotFoundError, match=re.escape(path)):
        write(dataset, tmp_path / "dataset")
    with_status = dataset.select([0, 0]).add_column("i2c_status", ["ok", "the image is an address"]).select([1])
    write(with_status, tmp_path / "dataset")
    assert load(tmp_path / "dataset")["images"][:] == [[]]


def test_sounds_beside_pictures_are_not_fetched(monkeypatch):
    monkeypatch.setattr(datasets.features.audio, "xopen", lambda *_, **__: pytest.fail("fetched"))
    sounds = Dataset.from_list([{"sound": {"bytes": None, "path": "http://127.0.0.1:9/a.wav"}}])
    table = _compat.embed_images(sounds.cast_column("sound", Audio()).with_format("arrow")[:])
    assert table["sound"].to_pylist() == [{"bytes": None, "path": "http://127.0.0.1:9/a.wav"}]
