"""Contents of pictures that leave: without metadata, unless they are asked for."""

import io

import pyarrow as pa
from datasets import Dataset, Features, Image, List
from PIL import Image as PILImage

from c3l_hf.data.picture_contents import with_contents

FEATURES = Features({"images": List(Image())})


def photo(kind, **options):
    file = io.BytesIO()
    exif = PILImage.Exif()
    exif[0x010E] = "SecretPlace"
    PILImage.linear_gradient("L").convert("RGB").resize((32, 24)).rotate(30).save(file, kind, exif=exif, **options)
    return file.getvalue()


def table(*images):
    return pa.table({"images": pa.array([list(images)], FEATURES.arrow_schema.field("images").type)})


def test_files_and_contents_lose_their_metadata(tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo("JPEG"))
    (tmp_path / "b.tif").write_bytes(photo("TIFF"))
    names = [{"bytes": None, "path": str(tmp_path / name)} for name in ("a.jpg", "b.tif")]
    rows = table(*names, {"bytes": photo("PNG"), "path": None}, {"bytes": photo("WEBP"), "path": "/home/me/c.webp"})
    (stored,) = with_contents(rows, FEATURES)["images"].to_pylist()
    assert [image["path"] for image in stored] == ["a.jpg", "b.tif.png", None, "c.webp"]
    assert not any(b"SecretPlace" in image["bytes"] for image in stored)
    (kept,) = with_contents(rows, FEATURES, keep_metadata=True)["images"].to_pylist()
    assert all(b"SecretPlace" in image["bytes"] for image in kept)
    read = Dataset(with_contents(rows, FEATURES).cast(FEATURES.arrow_schema))[0]["images"]
    assert [image.size for image in read] == [(32, 24)] * 4


def test_what_is_damaged_leaves_its_name_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(photo("PNG")[:200])
    images = [{"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": photo("PNG")[:200], "path": None}]
    (stored,) = with_contents(table(*images), FEATURES)["images"].to_pylist()
    assert stored == [{"bytes": None, "path": "damaged picture: a.png"}, {"bytes": None, "path": "damaged picture"}]
