"""Rows of all kinds in all layouts: what is written is read back as it was, by our own readers, or is left out by
name."""

import io
import json
import random
import tarfile

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Json, List, Value, load_dataset
from PIL import Image as PILImage
from PIL.ExifTags import Base as ExifTag
from scored_rows import png

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.data.conversations import Conversation, read_conversation, turns_apart
from c3l_hf.data.encoded_pictures import PictureReader
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.data.streams import RowStream
from c3l_hf.data.written_layouts import written_rows
from c3l_hf.files.image import open_image
from c3l_hf.files.opening import open_dataset
from c3l_hf.publishing import written_files
from c3l_hf.publishing.conversion import convert

LAYOUTS = ("llava", "sharegpt", "texts", "openai", "jsonl", "csv", "webdataset", "trl")
HOSTILE = [
    'He said "no", twice; a, b\tc',
    "two\nlines\r\nand\rmore",
    "'; DROP TABLE rows; --",
    "None",
    "007",
    "<script>alert(1)</script></s> [INST]",
    "NUL \x00 bell \x07 escape \x1b[31m del \x7f",
    "line\u2028separator\x85next",
    "日本語 😀 עברית \u202eback\u202c e\u0301",
    "[{'role': 'user'",
    "{}",
    "=1+1",
    "x" * 200_000,
]


def jpeg(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


PICTURES = [png(0), jpeg(1), png(2), jpeg(3)]


def user(*parts):
    places = [{"type": "image", "text": None} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": places, "weight": None}


def said(role, text, weight=None):
    return {"role": role, "content": [{"type": "text", "text": text}], "weight": weight}


def answer(text, **options):
    return said("assistant", text, **options)


# Name → messages, numbers of pictures, and the layouts that cannot hold it, each with a part of the reason.
NOT_A_TURN = "the row has several turns"
ELSEWHERE = "a picture stands elsewhere than before the first question"
SYSTEM = "the layout has no messages of the role 'system'"
MARKER = "<image> is in an answer or a system message"
NOT_FIRST = "the picture is not the first in its message"
GIVEN = "is given, not asked for"
CHANGED = "the layout would change the message"
SEVERAL = "the row has several pictures"
KINDS = {
    "plain": ([user(None, "Q?"), answer("A.")], [0], {}),
    "no picture": ([user("Q?"), answer("A.")], [], {}),
    "turns": ([user(None, "Q?"), answer("A."), user("And?"), answer("B.")], [1], {"csv": NOT_A_TURN}),
    "two pictures": ([user(None, None, "Q?"), answer("A.")], [2, 1], {"csv": SEVERAL}),
    "the same picture twice": ([user(None, None, "Q?"), answer("A.")], [0, 0], {"csv": SEVERAL}),
    "eleven pictures": ([user(*[None] * 11, "Q?"), answer("A.")], [0, 1, 2, 3] * 2 + [3, 2, 1], {"csv": SEVERAL}),
    "pictures between": (
        [user("See", None, "and", None, "?"), answer("A.")],
        [0, 3],
        {"texts": ELSEWHERE, "csv": SEVERAL},
    ),
    "picture last": (
        [user("Q?", None), answer("A.")],
        [0],
        {"llava": NOT_FIRST, "sharegpt": NOT_FIRST, "texts": ELSEWHERE, "csv": ELSEWHERE},
    ),
    "picture later": (
        [user("Q?"), answer("A."), user(None, "And?"), answer("B.")],
        [1],
        {"texts": ELSEWHERE, "csv": NOT_A_TURN},
    ),
    "picture each": (
        [user(None, "Q?"), answer("A."), user(None, "And?"), answer("B.")],
        [1, 0],
        {"texts": ELSEWHERE, "csv": SEVERAL},
    ),
    "system": (
        [said("system", "Be brief."), user(None, "Q?"), answer("A.")],
        [2],
        {"llava": SYSTEM, "texts": SYSTEM, "csv": SYSTEM},
    ),
    "system later": (
        [user(None, "Q?"), answer("A."), said("system", "Be brief."), user("And?"), answer("B.")],
        [2],
        {"llava": SYSTEM, "sharegpt": SYSTEM, "texts": SYSTEM, "csv": NOT_A_TURN},
    ),
    "another role": (
        [said("developer", "Be brief."), user(None, "Q?"), answer("A.")],
        [2],
        dict.fromkeys(("llava", "sharegpt", "texts", "csv"), "of the role 'developer'")
        | {"trl": "TRL has no messages of the role 'developer'"},
    ),
    "given": (
        [user(None, "Q?"), answer("A.", weight=0), user("And?"), answer("B.")],
        [0],
        {"llava": GIVEN, "sharegpt": GIVEN, "texts": GIVEN, "csv": NOT_A_TURN},
    ),
    "no turns": (
        [user(None, "Q?"), user("And?"), answer("B.")],
        [0],
        dict.fromkeys(("llava", "sharegpt", "texts", "csv"), "user and assistant do not take turns"),
    ),
    "marker in an answer": (
        [user(None, "Q?"), answer("Write <image> there.")],
        [0],
        {"llava": MARKER, "sharegpt": MARKER},
    ),
    "marker in a system message": (
        [said("system", "<image>"), user(None, "Q?"), answer("A.")],
        [0],
        {"llava": SYSTEM, "sharegpt": MARKER, "texts": SYSTEM, "csv": SYSTEM},
    ),
    "several texts": (
        [user(None, "Q", "?"), answer("A.")],
        [0],
        dict.fromkeys(("llava", "sharegpt", "texts", "csv"), CHANGED),
    ),
    "line breaks beside a picture": (
        [user(None, "\n\nQ?\n"), answer("A.")],
        [0],
        {"llava": CHANGED, "sharegpt": CHANGED},
    ),
    "picture alone": ([user(None), answer("A.")], [0], {"csv": "question is null"}),
    "several pictures alone": ([user(None, None), answer("A.")], [0, 1], {"csv": SEVERAL}),
    "blank answer beside": ([user(None, " Q? "), answer("  A. \n")], [0], {}),
    **{f"hostile {n}": ([user(None, text), answer(text)], [n % 4], {}) for n, text in enumerate(HOSTILE)},
    **{f"hostile text {n}": ([user(text), answer(text)], [], {}) for n, text in enumerate(HOSTILE[:-1])},
}
# A text alone is not to look like messages that some program has written out.
for name in ("hostile 9", "hostile text 9"):
    KINDS[name][2]["csv"] = "is a list of messages written as a text"
for name in ("hostile 6", "hostile text 6"):
    KINDS[name][2]["csv"] = "a text has the character 0"
FEATURES = Features(
    {
        "images": List(Image()),
        "messages": List(
            {
                "role": Value("string"),
                "content": List({"type": Value("string"), "text": Value("string")}),
                "weight": Value("int64"),
            }
        ),
        "pair_id": Value("string"),
        "language": Value("string"),
        "i2c": Value("float32"),
        "answer_tokens": List(Value("string")),
        "thumbnail": Image(),
    }
)


def source():
    rows = []
    for number, (name, (messages, pictures, _)) in enumerate(KINDS.items()):
        images = [{"bytes": PICTURES[picture], "path": f"../../{picture}"} for picture in pictures]
        row = {"images": images, "messages": messages, "pair_id": f"../{name}\n", "language": "日本語"}
        rows.append(row | {"i2c": number / 8, "answer_tokens": ["a\n", '"'], "thumbnail": None})
    return Dataset.from_list(rows, features=FEATURES)


def conversations(dataset, folder=None):
    """Of each row the messages, and the encoded pictures."""
    layout = layout_of(dataset.column_names)
    reader = PictureReader(folder, keep_metadata=True)
    result = []
    for row in stored_rows(dataset.with_format("arrow")[:], dataset.features):
        read = read_conversation({name: row[name] for name in layout.columns})
        result.append((read.messages, [reader.read(image).content for image in read.images]))
    return result


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def converted(dataset, to, folder, **options):
    return convert(RowStream.of(dataset, 7), to, folder, **options)


@pytest.mark.parametrize("to", [*LAYOUTS, "openai files"])
def test_what_is_written_is_read_back_as_it_was(to, tmp_path, caplog):
    to, _, placement = to.partition(" ")
    rows = source()
    result = converted(rows, to, tmp_path / "out", placement=placement or None)

    expected, others, reasons = [], [], {}
    for number, (conversation, (name, (*_, refused))) in enumerate(zip(conversations(rows), KINDS.items())):
        if to in refused:
            reasons[number] = refused[to]
            continue
        parts = [conversation]
        if to == "trl":
            apart = turns_apart(read_conversation({"images": rows[number]["images"], "messages": KINDS[name][0]}))
            parts = [(part.messages, conversation[1][: len(part.images)]) for part in apart]
        expected += parts
        others += [rows.select_columns(["pair_id", "language", "i2c", "answer_tokens"])[number]] * len(parts)

    back = open_dataset(tmp_path / "out")
    assert conversations(back, tmp_path / "out") == expected
    assert (result.read, result.converted, result.written) == (len(rows), len(rows) - len(reasons), len(expected))
    kept = {"openai": [], "csv": ["pair_id", "language", "i2c"]}.get(
        to, ["pair_id", "language", "i2c", "answer_tokens"]
    )
    for name in kept:
        assert back[name][:] == [row[name] for row in others], name
    assert set(result.columns_left_out) == {*others[0], "thumbnail"} - {*kept}

    assert result.left_out.total() == len(reasons)
    listed = (tmp_path / "out" / "left_out.txt").read_text().splitlines() if reasons else []
    assert len(listed) == len(reasons)
    for line, (number, reason) in zip(listed, reasons.items()):
        assert line.startswith(f"row {number} ({f'../{list(KINDS)[number]}' + chr(10)!r}): ") and reason in line
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "cache"}


def random_rows(count):
    """Conversations of any shape, made of parts that are hard to keep apart."""
    draw = random.Random(0)
    parts = [None, None, "Q?", " ", "\n", "a\n", "\nb", "<image 1>", '"', "\r", "<image", ">", "\u2028", "é"]
    rows = []
    for number in range(count):
        messages, pictures = [], 0
        for role in draw.choices(["system", "user", "assistant", "user", "assistant"], k=draw.randint(0, 4)):
            made = [part for part in draw.choices(parts, k=draw.randint(1, 4)) if part or role == "user"]
            made = made if role != "assistant" else ["".join(made) + "."]
            pictures += made.count(None)
            messages.append({**user(*made), "role": role, "weight": draw.choice([None, 1, 0])})
        messages += [user("".join(filter(None, draw.choices(parts, k=3)))), answer(draw.choice(HOSTILE[:-1]))]
        stored = [{"bytes": draw.choice(PICTURES), "path": None} for _ in range(pictures)]
        rows.append(
            {name: None for name in FEATURES} | {"images": stored, "messages": messages, "pair_id": str(number)}
        )
    return Dataset.from_list(rows, features=FEATURES)


def is_read(rows):
    try:
        return bool(conversations(rows))
    except RowError:
        return False


@pytest.mark.parametrize("to", LAYOUTS)
def test_nothing_is_changed_and_nothing_disappears(to, tmp_path):
    rows = random_rows(60)
    result = converted(rows, to, tmp_path / "out")
    lines = (tmp_path / "out" / "left_out.txt").read_text().splitlines()
    left = {int(line.split()[1]) for line in lines}
    assert len(left) == len(lines) == result.left_out.total() == len(rows) - result.converted
    expected = []
    for number in sorted({*range(len(rows))} - left):
        ((messages, contents),) = conversations(rows.select([number]))
        parts = turns_apart(Conversation(messages, tuple(contents)))
        expected += [(part.messages, list(part.images)) for part in parts] if to == "trl" else [(messages, contents)]
    assert conversations(open_dataset(tmp_path / "out"), tmp_path / "out") == expected
    unread = {number for number in range(len(rows)) if not is_read(rows.select([number]))}
    assert unread == left if to in ("openai", "jsonl", "webdataset", "trl") else unread < left
    assert len(unread) < 30 and result.converted > 3


def test_rows_that_cannot_be_used_are_left_out_counted_together_and_listed(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PICTURES[0])
    (tmp_path / "pictures" / "damaged.png").write_bytes(PICTURES[0][:150])
    (tmp_path / "secret.png").write_bytes(PICTURES[2])
    names = ["a.png", "gone.png", "lost.png", "damaged.png", "../secret.png", str(tmp_path / "secret.png"), "a.png"]
    rows = [{"image": name, "question": "Q?", "answer": "A."} for name in names]
    rows[-1]["answer"] = " "
    result = converted(Dataset.from_list(rows), "llava", tmp_path / "out", image_folder=tmp_path / "pictures")
    assert (result.read, result.converted, result.pictures) == (7, 1, 1)
    assert result.left_out == {
        "the image cannot be read (there is no such file)": 2,
        "the image cannot be read (it is cut off)": 1,
        "the image is not in the folder of the images": 2,
        "the answer is empty": 1,
    }
    listed = (tmp_path / "out" / "left_out.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == [f"row {number}" for number in range(1, 7)]
    assert "gone.png" in listed[0] and "lost.png" in listed[1]
    assert [path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()] == [PICTURES[0]]


def test_half_a_character_is_refused_by_name(tmp_path):
    with pytest.raises(RowError, match="half a character"):
        read_conversation({"image": "a.png", "question": "Q\ud83d?", "answer": "A."})
    for to in LAYOUTS:
        (tmp_path / to).mkdir()
        file = written_files.open_rows_file(to, tmp_path / to, Features({"note": Json()}))
        rows = written_rows(read_conversation({"messages": [user("Q?"), answer("A.")]}), to, [])
        with pytest.raises(RowError, match="a column has half a character"):
            file.add(written_files.WrittenRow(rows[0], {"note": "half: \ud83d"}, []))
        file.add(written_files.WrittenRow(rows[0], {"note": "whole"}, []))
        file.close()
        assert len(open_dataset(str(tmp_path / to / file.files))) == 1


def test_pictures_that_openai_does_not_take_are_sent_as_a_model_sees_them(tmp_path):
    content = io.BytesIO()
    PILImage.open(io.BytesIO(PICTURES[0])).save(content, "BMP")
    rows = [{"image": {"bytes": content.getvalue(), "path": None}, "question": "Q?", "answer": "A."}]
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    converted(Dataset.from_list(rows, features=features), "openai", tmp_path / "out")
    ((_, (sent,)),) = conversations(open_dataset(tmp_path / "out"))
    assert sent.startswith(b"\x89PNG")
    assert open_image(sent).tobytes() == open_image(content.getvalue()).tobytes()


def test_places_and_cameras_stay_at_home(tmp_path):
    content, exif = io.BytesIO(), PILImage.Exif()
    exif[ExifTag.Make], exif[ExifTag.Orientation] = "A phone's maker", 6
    PILImage.open(io.BytesIO(PICTURES[1])).save(content, "JPEG", exif=exif)
    rows = [{"image": {"bytes": content.getvalue(), "path": None}, "question": "Q?", "answer": "A."}]
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    for to in LAYOUTS:
        converted(Dataset.from_list(rows, features=features), to, tmp_path / to)
        ((_, (plain,)),) = conversations(open_dataset(tmp_path / to), tmp_path / to)
        assert b"phone" not in plain and open_image(plain).tobytes() == open_image(content.getvalue()).tobytes(), to
    converted(Dataset.from_list(rows, features=features), "llava", tmp_path / "kept", keep_metadata=True)
    (kept,) = (tmp_path / "kept" / "images").iterdir()
    assert kept.read_bytes() == content.getvalue()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for output in (tmp_path / "file", tmp_path / "folder", tmp_path / "link"):
        with pytest.raises(RunError, match="is there already, and nothing is written over"):
            converted(source(), "llava", output)
    with pytest.raises(RunError, match="there is no folder"):
        converted(source(), "llava", tmp_path / "gone" / "out")
    with pytest.raises(RunError, match="pictures is 'embedded'; in the layout llava they are files"):
        converted(source(), "llava", tmp_path / "out", placement="embedded")


@pytest.mark.parametrize("to", LAYOUTS)
def test_what_is_interrupted_or_has_no_row_leaves_nothing(to, tmp_path):
    stream = RowStream.of(source().select(range(9)), 3)

    def interrupted():
        yield next(iter(stream.tables()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(RowStream(stream.features, 9, interrupted), to, tmp_path / "out")
    rows = Dataset.from_list([{"image": "gone.png", "question": "Q?", "answer": "A."}])
    with pytest.raises(
        RunError, match=r"none of 1 rows can be written in the layout \w+: 1 × the image cannot be read"
    ):
        converted(rows, to, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize("to", ["texts", "webdataset", "trl"])
def test_large_files_are_cut(to, tmp_path, monkeypatch):
    monkeypatch.setattr(written_files, "_SHARD_BYTES", 20_000)
    monkeypatch.setattr(written_files, "_GROUP_ROWS", 4)
    rows = source().select([0] * 30)
    result = converted(rows, to, tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").glob(result.files))
    assert len(files) > 2
    assert files[0] == ("shard-000000.tar" if to == "webdataset" else f"train-00000-of-{len(files):05d}.parquet")
    assert conversations(open_dataset(tmp_path / "out")) == conversations(rows)


def test_the_same_rows_give_the_same_files(tmp_path):
    for to in LAYOUTS:
        for name in ("a", "b"):
            converted(source().select(range(6)), to, tmp_path / f"{to}-{name}")
        one, other = (
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (tmp_path / f"{to}-a", tmp_path / f"{to}-b")
        )
        assert one == other, to


@pytest.mark.parametrize("to", LAYOUTS)
def test_datasets_reads_what_is_written(to, tmp_path):
    """By itself, as others will. In tars it wants the same files in each sample."""
    rows = source().select([0, 0] if to == "webdataset" else [0, 2])
    converted(rows, to, tmp_path / "out")
    loaded = load_dataset(str(tmp_path / "out"), split="train")
    assert len(loaded) == {"csv": 1, "trl": 3}.get(to, 2)


def test_names_of_the_source_stay_out_of_names_of_files(tmp_path):
    rows = source().select([0])
    converted(rows, "webdataset", tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "shard-000000.tar") as tar:
        assert tar.getnames() == ["000000000.png", "000000000.json"]
    converted(rows, "llava", tmp_path / "llava")
    (row,) = json.loads((tmp_path / "llava" / "data.json").read_text())
    assert row["id"] == "../plain\n"
    assert set(row) == {"id", "conversations", "image", "pair_id", "language", "i2c", "answer_tokens"}
    (picture,) = (tmp_path / "llava" / "images").iterdir()
    assert row["image"] == f"images/{picture.name}" and picture.stem.isalnum()
