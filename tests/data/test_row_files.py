"""What a cache has to know of the files that rows name, wherever they name them."""

import os

import pytest
from datasets import Dataset, Features, Image, Json, LargeList, List, Value

from c3l_hf.data.image_files import row_files_state
from c3l_hf.data.layouts import layout_of

ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "b"}]}


def in_messages(item):
    return {"messages": [{"role": "user", "content": [item, {"type": "text", "text": "a"}]}, ANSWER]}


@pytest.mark.parametrize(
    ("row", "feature"),
    [
        ({"image": "FILE"}, None),
        ({"image": "FILE"}, {"image": Image()}),
        ({"images": ["FILE"]}, {"images": LargeList(Image())}),
        ({"images": [{"url": "FILE"}]}, None),
        ({"images": [{"image": "file://FILE"}]}, None),
        ({"image": '{"path": "FILE"}'}, {"image": Json()}),
        (in_messages({"type": "image", "image": "FILE"}), None),
        (in_messages({"type": "image_url", "image_url": {"url": "FILE"}}), None),
        ({"messages": '[{"role": "user", "content": [{"type": "image", "path": "FILE"}]}]'}, {"messages": Json()}),
        ({"messages": [{"image": "FILE"}]}, {"messages": List({"image": Image()})}),
    ],
)
def test_a_file_that_changes_or_comes(tmp_path, row, feature):
    def with_name(value):
        if isinstance(value, str):
            return value.replace("FILE", str(tmp_path / "a.png"))
        if isinstance(value, dict):
            return {name: with_name(item) for name, item in value.items()}
        return [with_name(item) for item in value]

    row = {**with_name(row), **({} if "messages" in row else {"question": "a", "answer": "b"})}
    features = None if feature is None else Features({name: feature.get(name, Value("string")) for name in row})
    rows = Dataset.from_list([row], features=features)
    states = [row_files_state(rows, layout_of(rows.column_names))]
    for content in ("one", "longer"):
        (tmp_path / "a.png").write_text(content)
        states += [row_files_state(rows, layout_of(rows.column_names))]
    os.utime(tmp_path / "a.png", ns=(1, 1))
    states.append(row_files_state(rows, layout_of(rows.column_names)))
    assert len(set(states)) == 4
    assert row_files_state(rows, layout_of(rows.column_names)) == states[-1]


def test_texts_are_no_files(tmp_path):
    (tmp_path / "a").write_text("x")
    rows = Dataset.from_list([{"image": {"bytes": b"x", "path": str(tmp_path / "a")}, "question": "a", "answer": "a"}])
    before = row_files_state(rows, layout_of(rows.column_names), tmp_path)
    (tmp_path / "a").write_text("longer")
    assert row_files_state(rows, layout_of(rows.column_names), tmp_path) == before
