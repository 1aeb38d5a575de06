"""Pictures that are replaced, removed or written again while a run works."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, List
from datasets import Image as ImageFeature
from PIL import Image

from c3l_hf.common.errors import RunError
from c3l_hf.data.file_states import FILE_STATES, with_file_states
from c3l_hf.data.imported_pairs import import_pairs
from c3l_hf.data.sources import load_images
from c3l_hf.data.stored_images import WithImages, images_of_rows, stored_images
from c3l_hf.generation.asking import requests_of
from c3l_hf.prompts.template_files import load_templates

SAYS = "pictures were changed or removed while the run worked: b.png; put the old ones back"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 6), colour).save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def of_a_folder(folder):
    return load_images(str(folder)).dataset


def of_a_dataset(folder):
    """Whose images are files that somebody else may change."""
    rows = {"images": [[str(folder / name)] for name in ("a.png", "b.png")], "image_id": ["a", "b"]}
    rows = Dataset.from_dict(rows).cast_column("images", List(ImageFeature()))
    (folder.parent / "saved").mkdir()
    pq.write_table(rows.with_format("arrow")[:].cast(rows.features.arrow_schema), folder.parent / "saved" / "a.parquet")
    return load_images(str(folder.parent / "saved")).dataset


def of_pairs(folder):
    rows = {"image": ["a.png", "b.png"], "question": ["Colour?"] * 2, "answer": ["Red.", "Blue."]}
    return import_pairs(Dataset.from_dict(rows), image_folder=folder).images.dataset


def replaced(file):
    os.utime(file, ns=(1, 1))
    stat = file.stat()
    Image.new("RGB", (8, 6), "green").save(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replaced_with_one_of_its_size(file):
    """The time that can be set is set back."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES = {"replaced": replaced, "of its size": replaced_with_one_of_its_size, "removed": os.unlink}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("source", [of_a_folder, of_a_dataset, of_pairs])
def test_a_picture_that_is_another_ends_the_run_by_name(folder, source, change):
    images, templates = source(folder), load_templates("scenes")
    assert len(stored_images(images, [1, 0, 1])) == 3 and len(WithImages(images)({"image_row": [0, 1]})["images"]) == 2
    CHANGES[change](folder / "b.png")
    assert len(stored_images(images, [0])) == 1  # the others are as they were
    for read in (images_of_rows, stored_images):
        with pytest.raises(RunError, match=SAYS):
            read(images, [0, 1])
    with pytest.raises(RunError, match=SAYS):
        list(requests_of(images, templates, [templates.types[0]], pairs_per_image=1, types_per_image=1, seed=0))


def test_a_file_that_was_written_again_is_the_same_picture(folder):
    """As by a backup that is put back, or other rights of the file; a state without a digest cannot tell."""
    images = of_a_folder(folder)
    (folder / "b.png").chmod(0o600)
    content = (folder / "b.png").read_bytes()
    (folder / "b.png").unlink()
    (folder / "b.png").write_bytes(content)
    os.utime(folder / "b.png", ns=(1, 1))
    assert len(stored_images(images, [0, 1])) == 2


def test_what_has_its_content_in_it_has_no_state(folder, tmp_path):
    content = (folder / "a.png").read_bytes()
    rows = Dataset.from_dict({"image": [{"bytes": content, "path": str(folder / "a.png")}, None]})
    rows = rows.cast_column("image", ImageFeature())
    assert with_file_states(rows, "image").column_names == ["image"]
    mixed = Dataset.from_dict({"image": [{"bytes": content, "path": None}, {"bytes": None, "path": "gone.png"}, None]})
    mixed = with_file_states(mixed.cast_column("image", ImageFeature()), "image")
    states = mixed.with_format("arrow")[FILE_STATES][:].to_pylist()
    assert [row[0] is None for row in states] == [True, False, True]
    assert len(stored_images(mixed, [0, 1, 2])) == 3  # what was not there is still not there
    assert with_file_states(mixed, "image").column_names == ["image", FILE_STATES]


def test_a_picture_that_could_not_be_read_is_what_it_was(folder):
    (folder / "c.jpg").write_bytes(b"no picture")
    images = of_a_folder(folder)
    assert pa.types.is_list(images.data.schema.field(FILE_STATES).type)
    assert len(stored_images(images, [2])) == 1
