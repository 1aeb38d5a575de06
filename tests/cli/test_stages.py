"""The stages as commands, one after the other, on the embedded world."""

import json

import PIL.Image
import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf.cli import main
from c3l_hf.data.sources import load_images
from c3l_hf.files.opening import open_dataset

TRAINING = (
    "--max_steps 1 --per_device_train_batch_size 2 --use_lora false --bf16 false --gradient_checkpointing false "
    "--report_to none --save_strategy no --disable_tqdm true --dtype float32"
).split()


def call(*words):
    return main([*map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with the files of all stages, and what each command printed is tested below."""
    folder = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        images = ["--images", "scenes", "--images_split", "validation", "--num_images", 6, "--seed", 3]
        how = ["--model", "scenes", "--dtype", "float32"]
        options = ["--pairs_per_image", 3, "--max_new_tokens", 64]
        assert call("generate", *images, *how, *options, "--output", folder / "pairs.parquet") == 0
        scored = folder / "scored.parquet"
        assert call("score", "--dataset", folder / "pairs.parquet", *how, "--output", scored) == 0
        assert call("select", "--dataset", scored, "--within", "all", "--output", folder / "labels.parquet") == 0
        assert call("curate", "--dataset", scored, "--target_size", 5, "--output", folder / "curated.parquet") == 0
    return folder


def test_pairs_with_their_images(made):
    pairs = load_dataset("parquet", data_files=str(made / "pairs.parquet"), split="train")
    assert len(pairs) == 18 and pairs["generation_status"][:].count("ok") >= 12
    assert pairs[0]["images"][0].size == (64, 64)
    ids = load_images("scenes", split="validation", limit=6, seed=3).dataset["image_id"]
    assert list(dict.fromkeys(pairs["image_id"])) == list(ids)


def test_scores_labels_and_the_compact_dataset(made):
    scored = open_dataset(made / "scored.parquet")
    assert scored["i2c_status"][:].count("ok") >= 12 and scored["i2c"][0] == scored["pmi"][0]
    labels = open_dataset(made / "labels.parquet")
    assert 1 <= len(labels) <= 6 and labels[0]["images"][0].size == (64, 64)
    assert all(scores[0] <= chosen for scores, chosen in zip(labels["rejected_scores"], labels["chosen_score"]))
    assert 1 <= len(open_dataset(made / "curated.parquet")) <= 5


def test_reports_are_printed(made, tmp_path, capsys):
    assert call("curate", "--dataset", made / "scored.parquet", "--target_size", 5, "--output", tmp_path / "c/") == 0
    printed = capsys.readouterr().out
    assert "beyond the quota of the type" in printed and f"pairs → {tmp_path / 'c'}" in printed
    assert open_dataset(tmp_path / "c")["pair_id"][:] == open_dataset(made / "curated.parquet")["pair_id"][:]
    assert (
        call("select", "--dataset", made / "scored.parquet", "--output", tmp_path / "l.jsonl", "--within", "all") == 0
    )
    assert f"pseudo-labels → {tmp_path / 'l.jsonl'}" in capsys.readouterr().out
    assert "images" not in open_dataset(tmp_path / "l.jsonl").column_names


def test_generation_goes_on_with_the_shards_that_are_there(made, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", made / "cache")
    monkeypatch.setattr("c3l_hf.cli.generate.load", lambda source: pytest.fail("loaded again"))
    images = ["--images", "scenes", "--images_split", "validation", "--num_images", 6, "--seed", 3]
    how = ["--model", "scenes", "--dtype", "float32", "--pairs_per_image", 3, "--max_new_tokens", 64]
    again = [*images, *how, "--generation_batch_size", 2, "--output", tmp_path / "pairs.parquet"]
    assert call("generate", *again) == 0
    assert (tmp_path / "pairs.parquet").read_bytes() == (made / "pairs.parquet").read_bytes()


def test_images_are_asked_about_again(made, tmp_path, monkeypatch, capsys):
    """A floor that no pair reaches, and one that all do."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    images = ["--images", "scenes", "--images_split", "validation", "--num_images", 2, "--seed", 3]
    words = ["generate", *images, "--model", "scenes", "--dtype", "float32", "--pairs_per_image", 3]
    words += ["--max_new_tokens", 64, "--retries", 1]
    first = [row for row in open_dataset(made / "pairs.parquet").remove_columns("images")][:6]
    for floor, attempts in ((1e6, [0, 0, 0, 1, 1, 1] * 2), (-1e6, [0] * 6)):
        file = tmp_path / f"{floor}.parquet"
        assert call(*words, "--retry_floor", floor, "--output", file) == 0
        pairs = list(open_dataset(file).remove_columns("images"))
        assert [row["attempt"] for row in pairs] == attempts
        assert [row for row in pairs if not row["attempt"]] == first
        assert len({row["pair_id"] for row in pairs}) == len(pairs)
        asked_again = "images asked about again, attempt 1" in capsys.readouterr().out
        assert asked_again == (floor > 0)


def test_pictures_of_a_folder_go_with_their_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "pictures").mkdir()
    source = load_images("scenes", split="test", limit=2).dataset
    place = PIL.Image.Exif()
    place[0x010F] = "SecretPhone"
    for number, row in enumerate(source):
        row["images"][0].save(tmp_path / "pictures" / f"{number}.png")
    content = (tmp_path / "pictures" / "0.png").read_bytes()
    source[0]["images"][0].save(tmp_path / "pictures" / "0.png", exif=place)
    (tmp_path / "pictures" / "empty.png").touch()
    options = ["--images", tmp_path / "pictures", "--model", "scenes", "--pairs_per_image", 2]
    for output in ("pairs.parquet", "pairs/"):
        assert call("generate", *options, "--output", f"{tmp_path}/{output}") == 0
        # Nobody looks into the cache again: pictures would stay in it for ever.
        kept = [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
        assert kept and all(path.name.startswith(("c3l_hf-", "parquet")) for path in kept)
        assert output == "pairs/" or not (tmp_path / "cache" / "parquet").exists()
        for shard in (tmp_path / "cache").glob("c3l_hf-pair-texts-*/*/*.parquet"):
            assert "images" not in pq.read_schema(shard).names
        pairs = open_dataset(tmp_path / output).cast_column("images", [ImageFeature(decode=False)])
        assert pairs["image_id"][:] == ["0.png", "0.png", "1.png", "1.png", "empty.png", "empty.png"]
        assert pairs[0]["images"][0]["bytes"] == content  # without the camera
        assert str(tmp_path) not in str(pairs[0]["images"][0]["path"])
        header, *named = (tmp_path / "pairs.unreadable.csv").read_text().splitlines()
        assert header == "image,reason" and len(named) == 1 and "empty.png,the image" in named[0]


def test_training_makes_a_generator_once(made, tmp_path, capsys):
    output = tmp_path / "out"
    train = ["train", "--dataset", made / "labels.parquet", "--model", "scenes", *TRAINING, "--output_dir", output]
    assert call(*train) == 0
    printed = capsys.readouterr().out
    assert "1 steps" in printed and f"generator  {output / 'generator'}" in printed
    AutoProcessor.from_pretrained(output / "generator")
    AutoModelForImageTextToText.from_pretrained(output / "generator")
    before = (output / "generator" / "model.safetensors").stat().st_mtime_ns
    assert call(*train) == 0  # the same again makes nothing
    assert (output / "generator" / "model.safetensors").stat().st_mtime_ns == before
    assert capsys.readouterr().out.splitlines()[-1] == printed.splitlines()[-1]
    assert call(*train, "--seed", 7) == 1
    assert "holds another run's result" in capsys.readouterr().err


def test_labels_without_images_find_them(made, tmp_path, capsys):
    labels = open_dataset(made / "labels.parquet")
    labels.remove_columns("images").to_parquet(tmp_path / "bare.parquet")
    train = ["train", "--dataset", tmp_path / "bare.parquet", "--model", "scenes", *TRAINING]
    assert call(*train, "--output_dir", tmp_path / "a") == 1
    assert "the pseudo-labels have no column images: name the images" in capsys.readouterr().err
    train += ["--seed", 3, "--images", "scenes", "--images_split", "validation"]
    assert call(*train, "--num_images", 1, "--output_dir", tmp_path / "b") == 1
    assert "--images scenes lacks" in capsys.readouterr().err and not (tmp_path / "b").exists()
    assert call(*train, "--num_images", 6, "--output_dir", tmp_path / "c") == 0
    assert call(
        "train", "--dataset", made / "labels.parquet", "--model", "scenes", *TRAINING, "--seed", 3,
        "--output_dir", tmp_path / "d",
    ) == 0  # fmt: skip
    weights = [(tmp_path / name / "generator" / "model.safetensors").read_bytes() for name in "cd"]
    assert weights[0] == weights[1]


def test_preference_rows_of_others(made, tmp_path, capsys):
    """By paths in a column of their own name, or in the messages: the training is that of the labels with pictures."""
    labels, rows = open_dataset(made / "labels.parquet").select_columns(["images", "prompt", "chosen", "rejected"]), []
    labels.to_parquet(tmp_path / "labels.parquet")
    for number, row in enumerate(labels):
        row.pop("images")[0].save(tmp_path / f"{number}.png")
        rows.append({**row, "bild": str(tmp_path / f"{number}.png")})
    (tmp_path / "paths.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for row in rows:
        content = [{"type": "image", "image": row.pop("bild")}, {"type": "text", "text": row["prompt"][0]["content"]}]
        row["prompt"] = [{"role": "user", "content": content}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    calls = {"labels.parquet": [], "paths.jsonl": ["--columns", "image=bild"], "items.jsonl": []}
    weights = []
    for number, (name, options) in enumerate(calls.items()):
        output = tmp_path / f"out{number}"
        train = ["train", "--dataset", tmp_path / name, "--model", "scenes", *TRAINING, *options]
        assert call(*train, "--output_dir", output) == 0
        weights.append((output / "generator" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    # The pictures that the messages name are part of what identifies the training.
    Image.new("RGB", (64, 64), "red").save(tmp_path / "0.png")
    assert call(*train, "--output_dir", output) == 1
    assert "holds another run's result" in capsys.readouterr().err


def test_other_weights_are_another_training(made, tmp_path, capsys):
    labels = open_dataset(made / "labels.parquet")
    train = ["train", "--model", "scenes", *TRAINING, "--weight_column", "mine", "--output_dir", tmp_path / "out"]
    for value, code in ((1.0, 0), (2.0, 1)):
        file = tmp_path / f"{value}.parquet"
        labels.add_column("mine", [value] * len(labels)).to_parquet(file)
        assert call(*train, "--dataset", file) == code
    assert "holds another run's result" in capsys.readouterr().err


def test_weights_of_tokens(made, tmp_path, capsys):
    """From c3l score by c3l select to c3l train; and from c3l score to c3l sft."""
    labels = open_dataset(made / "labels.parquet")
    assert all(any(piece["gain"] is not None for piece in pieces) for pieces in labels["chosen_tokens"])
    train = ["train", "--dataset", made / "labels.parquet", "--model", "scenes", *TRAINING, "--output_dir"]
    assert call(*train, tmp_path / "cal", "--token_weights", "cal") == 0
    assert call(*train, tmp_path / "cal") == 1
    assert "token_weights" in capsys.readouterr().err
    labels.remove_columns("chosen_tokens").to_parquet(tmp_path / "bare.parquet")
    train[2] = tmp_path / "bare.parquet"
    assert call(*train, tmp_path / "bare", "--token_weights", "cal") == 1
    assert "no column 'chosen_tokens', which token_weights needs and c3l select makes" in capsys.readouterr().err
    sft = ["sft", "--dataset", made / "scored.parquet", "--model", "scenes", *TRAINING]
    assert call(*sft, "--token_weights", "vig", "--output_dir", tmp_path / "vig") == 0
    made_by = json.loads((tmp_path / "vig" / "student" / "training.json").read_text())
    assert made_by["options"]["token_weights"] == "vig" and made_by["report"]["examples"] > 6


def test_nothing_that_could_be_used_is_a_failure(made, tmp_path, capsys):
    scored = open_dataset(made / "scored.parquet")
    null = scored.map(lambda row: {"i2c_status": "no", "i2c": None}, features=scored.features)
    null.to_parquet(tmp_path / "null.parquet")
    for command, says in (("select", "no image has a pseudo-label"), ("curate", "no pair is left for the dataset")):
        assert call(command, "--dataset", tmp_path / "null.parquet", "--output", tmp_path / "a.parquet") == 1
        lines = capsys.readouterr().err.splitlines()
        # The report stands before the one line.
        assert lines[-1].startswith(f"c3l {command}: {says}") and any(
            "no pair" in line or "no" in line for line in lines[:-1]
        )
    assert not (tmp_path / "a.parquet").exists()
    images = ["--images", "scenes", "--num_images", 1, "--model", "scenes", "--max_new_tokens", 1]
    assert call("generate", *images, "--output", tmp_path / "none.parquet") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("c3l generate: none of 5 texts is a pair; ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("select --dataset {made}/scored.parquet --max_rejected 0", "c3l select: --max_rejected must be at least 1"),
        ("curate --dataset {made}/scored.parquet --target_size 0", "c3l curate: --target_size must be at least 1"),
        (
            "curate --dataset {made}/scored.parquet --near_duplicate_distance 256",
            "c3l curate: --near_duplicate_distance is 256; it must be from 0 to 255",
        ),
        ("select --dataset {made}/labels.parquet", "c3l select: "),
        ("select --dataset {made}/nothing.parquet", "nothing.parquet: there is no such file or folder"),
        ("select --dataset {made}/scored.parquet --split test --dataset_config x", "which has no configurations"),
        ("generate --model scenes", "c3l generate: --images is missing: name a folder of pictures"),
        ("generate --images scenes --model scenes", "c3l generate: --images scenes needs num_images"),
        ("generate --images {made} --model scenes", "c3l generate: {made} cannot be read: "),
        ("generate --images scenes --num_images 1 --model {made}", "c3l generate: --model {made} has no config.json"),
        ("generate --images scenes --num_images 1 --model scenes --types smell", "smell"),
        (
            "generate --images scenes --num_images 1 --model scenes --retries -1",
            "--retries is -1; it must not be negative",
        ),
        (
            "generate --images scenes --num_images 1 --model scenes --retry_floor 0.5",
            "--retry_floor is 0.5, but retries is 0: no image would be asked about again",
        ),
        ("generate --images scenes --num_images 1 --model scenes --load_in_4bit --load_in_8bit", "are both set"),
        ("generate --images scenes --num_images 1 --model scenes --load_in_4bit", "needs the package bitsandbytes"),
    ],
)
def test_wrong_calls_end_in_one_line(made, tmp_path, capsys, words, says):
    call_words = [word.format(made=made) for word in words.split()]
    assert call(*call_words, "--output", tmp_path / "a.parquet") in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and says.format(made=made) in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--load_in_8bit", "load_in_4bit and load_in_8bit are not for training"),
        ("--push_to_hub", "--push_to_hub is not used here"),
        ("--temperature 0", "--temperature is 0.0; it must be above 0"),
        ("--save_only_model", "save_only_model"),
    ],
)
def test_trainings_that_are_refused(made, tmp_path, capsys, options, says):
    train = ["train", "--dataset", made / "labels.parquet", "--model", "scenes", *TRAINING]
    assert call(*train, *options.split(), "--output_dir", tmp_path / "out") in (1, 2)
    assert says in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "out").exists()


def test_preference_rows_of_trl_are_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for number, row in enumerate(load_images("scenes", split="test", limit=2).dataset):
        row["images"][0].save(tmp_path / f"{number}.png")
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is there?"}]}]
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("a red car", "a blue dog"))
    first = {"images": [str(tmp_path / "0.png")], "prompt": prompt, "chosen": chosen, "rejected": rejected}
    second = {"image": str(tmp_path / "1.png"), "prompt": "What is it?", "chosen": "a car", "rejected": ["a dog"]}
    for rows in ([first] * 2, [second] * 2, [{**second, "w": 2.0}] * 2, [{**second, "w": 1.0}] * 2):
        weight = ["--weight_column", "w"] if "w" in rows[0] else []
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        train = ["train", "--dataset", tmp_path / "rows.jsonl", "--model", "scenes", *TRAINING, *weight]
        output = tmp_path / ("w" if weight else next(iter(rows[0])))
        result = call(*train, "--output_dir", output)
        printed = capsys.readouterr()
        if rows[0].get("w") == 1.0:  # other weights are other labels
            assert result == 1 and "holds another run's result" in printed.err
        else:
            assert result == 0 and "1 steps" in printed.out, printed.err
