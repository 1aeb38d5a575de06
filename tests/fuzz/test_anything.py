"""Whatever a row, a file, a picture or a reply is: it is read, or refused in the way that callers expect."""

import csv
import io
import json
import math

import PIL.Image
import pytest
from hostile_files import CSV, LINES
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.data.places import MARKER
from c3l_hf.data.status import publishable, reason_kind, without_folders
from c3l_hf.data.turns import to_turns, turn_reason
from c3l_hf.files.image import open_image
from c3l_hf.files.opening import open_dataset

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
TEXT = st.text(max_size=60) | st.sampled_from([MARKER, "</s>", "\0", "\u202e"])
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "image_url", "video"]) | JSON}, optional={"text": TEXT | JSON}
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system"]) | TEXT,
            "content": TEXT | st.lists(ITEMS, max_size=3) | JSON,
        },
        optional={"weight": JSON, "loss": JSON},
    )
    | JSON,
    max_size=4,
)
few = settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def same(value, expected):
    """Whether a value is what JSON said: null for NaN and for what is missing, U+FFFD for half a character."""
    if isinstance(expected, float) and math.isnan(expected):
        return value is None
    if isinstance(expected, float):  # of a column of several kinds `datasets` reads numbers to 15 digits
        return value == pytest.approx(expected, rel=1e-14)
    if isinstance(expected, dict):
        return isinstance(value, dict) and all(same(value.get(whole(key)), item) for key, item in expected.items())
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(same, value, expected))
    return value == whole(expected) if isinstance(expected, str) else value == expected


def whole(text):
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@few
@given(
    rows=st.lists(
        st.dictionaries(st.text("ab", min_size=1, max_size=2), JSON, min_size=1, max_size=3), min_size=1, max_size=5
    )
)
def test_json_lines(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    try:
        dataset = open_dataset(tmp_path / "rows.jsonl")
    except RunError as error:
        assert "\n" not in str(error)
    else:
        assert len(dataset) == len(rows) and all(map(same, dataset.to_list(), rows))


@few
@given(
    rows=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2, max_size=2),
        min_size=1,
        max_size=4,
    )
)
def test_csv(tmp_path, rows):
    """Texts come as they stand, whatever is in them."""
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["question", "answer"], *rows])
    (tmp_path / "rows.csv").write_bytes(file.getvalue().encode())
    read = open_dataset(tmp_path / "rows.csv")
    assert [[row["question"], row["answer"]] for row in read] == [[text or None for text in row] for row in rows]


@few
@given(st.sampled_from(["jsonl", "csv"]), st.binary(max_size=30), st.integers(0, 900), st.integers(0, 40))
def test_bytes_put_into_a_file(tmp_path, ending, content, place, cut):
    before = LINES if ending == "jsonl" else CSV
    (tmp_path / f"rows.{ending}").write_bytes(before[:place] + content + before[place + cut :])
    try:
        open_dataset(tmp_path / f"rows.{ending}")
    except RunError as error:
        assert "\n" not in str(error) and f"rows.{ending}" in str(error)


@settings(few, max_examples=300)
@given(MESSAGES, st.sampled_from(["messages", "conversations", "prompt"]))
def test_messages(messages, name):
    """Turns, or a reason that is one printable line."""
    row = {"images": [b"x"], name: messages} | ({"completion": messages} if name == "prompt" else {})
    try:
        turns = to_turns(row)
    except RowError as error:
        reasons = [str(error)]
    else:
        reasons = [turn_reason(turn, n, len(turns)) for n, turn in enumerate(turns) if isinstance(turn, RowError)]
    for reason in reasons:
        assert reason.isprintable() and 0 < len(reason) <= 300
        assert publishable(reason) and reason_kind(reason) and without_folders(reason)


@settings(few, max_examples=200)
@given(JSON | st.binary(max_size=200))
def test_pictures(value):
    try:
        image = open_image(value)
    except RowError as error:
        assert str(error).isprintable() and len(str(error)) <= 200
    else:
        assert isinstance(image, PIL.Image.Image) and image.mode == "RGB"
