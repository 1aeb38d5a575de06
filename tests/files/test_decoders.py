"""Which formats are opened, how large pictures may be; HEIC and 16 bits, which Pillow reads in another way or not."""

import base64
import contextlib
import io
import os
import re
import socket
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from datasets import Dataset
from datasets import Image as DatasetsImage
from PIL import EpsImagePlugin, Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.encoded_pictures import PictureReader
from c3l_hf.data.picture_contents import with_contents
from c3l_hf.data.sources import images_digest, load_images
from c3l_hf.files import decoders, image, unreadable
from c3l_hf.files.image import open_image
from c3l_hf.files.inventory import list_files, sha256_of
from c3l_hf.files.metadata import without_metadata
from c3l_hf.generation.data_urls import data_urls
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.selection.image_sketches import sketch_images


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def heic():
    file = io.BytesIO()
    grey = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    pillow_heif.from_pillow(grey).save(file, quality=95)
    return file.getvalue()


def test_heic_is_read_whatever_it_is_called(tmp_path):
    (tmp_path / "IMG_1.jpg").write_bytes(heic())
    for value in (heic(), tmp_path / "IMG_1.jpg", {"bytes": heic(), "path": None}):
        assert open_image(value).size == (64, 48)
    levels = np.asarray(open_image(heic())).astype(int)
    assert np.abs(levels - np.asarray(Image.linear_gradient("L").resize((64, 48)).convert("RGB"))).max() < 12


def test_without_the_package_heic_is_named_with_what_to_install(tmp_path, monkeypatch):
    for module in (decoders, unreadable):
        monkeypatch.setattr(module, "can_heic", lambda: False)

    def as_without_it(source, formats=None):
        return Image.open(source, formats=formats or [name for name in Image.OPEN if name != "HEIF"])

    monkeypatch.setattr(image, "opened", as_without_it)
    (tmp_path / "a.heic").write_bytes(heic())
    for value in (heic(), tmp_path / "a.heic"):
        with pytest.raises(RowError, match=re.escape("it is HEIC; pip install 'c3l-hf[heic]'")):
            open_image(value)


VALUES = np.linspace(0, 65_535, 96).reshape(8, 12).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("order", ["I;16", "I;16B"])
def test_grey_of_sixteen_bits_is_scaled(kind, order):
    content = saved(Image.frombytes(order, (12, 8), VALUES.astype("<u2" if order == "I;16" else ">u2").tobytes()), kind)
    assert Image.open(io.BytesIO(content)).mode.startswith("I;16")
    expected = np.round(VALUES / 257).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(open_image(content))[..., 0], expected)
    assert expected[0, 0] == 0 and expected[-1, -1] == 255


def test_what_is_transparent_among_sixteen_bits_is_put_on_white():
    content = saved(Image.fromarray(VALUES), "PNG", transparency=int(VALUES[0, 0]))
    levels = np.asarray(open_image(content))[..., 0]
    assert levels[0, 0] == 255 and levels[0, 1] == round(VALUES[0, 1] / 257)


def test_a_huge_picture_of_sixteen_bits(monkeypatch):
    """It is scaled and judged as a whole, not strip by strip, of which the first ones are nearly black."""
    monkeypatch.setattr(image, "MAX_PIXELS", 200 * 150)
    monkeypatch.setattr(image, "_SHORT_SIDE", 50)
    wide = np.repeat(np.linspace(0, 65_535, 600).astype(np.uint16)[:, None], 400, axis=1)
    levels = np.asarray(open_image(saved(Image.fromarray(wide), "TIFF")))
    assert levels.shape[0] * levels.shape[1] <= 200 * 150 and levels[0].max() < 3 and levels[-1].min() > 252


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_fewer_bits_within_sixteen_are_refused_by_name(bits, kind):
    few = (VALUES >> (16 - bits)).astype(np.uint16)
    with pytest.raises(RowError, match="16 bits per channel and uses less than a quarter of their range"):
        open_image(saved(Image.fromarray(few), kind))


def test_black_is_black():
    assert np.asarray(open_image(saved(Image.fromarray(VALUES * 0), "PNG"))).max() == 0


# --- what is opened at all

CLOSED = {
    "EPS": saved(Image.new("RGB", (8, 8)), "EPS"),
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + bytes(60),
    "PSD": b"8BPS\0\1" + bytes(60),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(60),
    "ICO": saved(Image.new("RGB", (16, 16)), "ICO"),
    "ICNS": saved(Image.new("RGB", (16, 16)), "ICNS"),
    "QOI": saved(Image.new("RGB", (8, 8)), "QOI"),
    "DDS": saved(Image.new("RGB", (8, 8)), "DDS"),
    "FITS": b"SIMPLE  =" + bytes(60),
    "SGI": saved(Image.new("RGB", (8, 8)), "SGI"),
    "PCX": saved(Image.new("RGB", (8, 8)), "PCX"),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "FPX": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(60),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_other_formats_are_named_and_not_opened(kind, tmp_path):
    (tmp_path / "a.jpg").write_bytes(CLOSED[kind])
    name = kind.partition(" ")[0]
    for value, shown in ((CLOSED[kind], "the image"), (tmp_path / "a.jpg", f"the image {tmp_path / 'a.jpg'}")):
        with pytest.raises(RowError) as refused:
            open_image(value)
        assert str(refused.value) == f"{shown} is {name}, which is not read; convert it to PNG or JPEG"
    with pytest.raises(RowError):  # it may say more than how it looks
        without_metadata(CLOSED[kind])


@pytest.mark.parametrize("kind", ["TGA", "XBM", "SPIDER", "MSP"])
def test_formats_without_a_signature_are_no_pictures(kind):
    picture = Image.new({"XBM": "1", "MSP": "1", "SPIDER": "F"}.get(kind, "RGB"), (8, 8))
    with pytest.raises(RowError, match="cannot be read: it is no picture"):
        open_image(saved(picture, kind))


def test_every_format_of_the_list_is_opened():
    Image.init()
    for kind in set(decoders.FORMATS) - {"HEIF", "DIB"}:
        assert open_image(saved(Image.new("RGB", (16, 16), "red"), kind)).size == (16, 16)
    assert set(decoders.FORMATS) <= {*Image.OPEN, "MPO", "HEIF"}


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of this name that leaves a trace."""
    folder, trace = tmp_path / "bin", tmp_path / "trace"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\necho started >> '{trace}'\nexit 1\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return trace


def test_no_picture_starts_a_program(ghostscript, tmp_path, llava):
    """Whatever it is called, and whoever hands it to us: a folder, a row, `map` of `datasets`, Pillow itself."""
    content, folder = CLOSED["EPS"], tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (48, 40), "red").save(folder / "a.png")
    (folder / "b.jpg").write_bytes(content)
    stored = {"bytes": content, "path": "b.jpg"}
    for value in (content, folder / "b.jpg", stored, Image.open(io.BytesIO(content)), base64_url(content)):
        with pytest.raises(RowError, match="EPS, which is not read"):
            open_image(value)
    assert load_images(str(folder)).dataset["image_id"][:] == ["a.png", "b.jpg"]
    with contextlib.suppress(RowError):
        PictureReader().read(stored)
    assert "EPS, which is not read" in sketch_images([(7, stored)]).unreadable[7]
    rows = {"image": [{"path": str(folder / "a.png")}, stored], "question": ["What?"] * 2, "answer": ["Red."] * 2}
    dataset = Dataset.from_dict(rows).cast_column("image", DatasetsImage())
    scored = dataset.map(I2CScorer(*llava), batched=True)["i2c_status"][:]
    assert scored == ["ok", "the image is EPS, which is not read; convert it to PNG or JPEG"]
    assert not ghostscript.exists()
    with pytest.raises(Exception, match="gs"):  # what Pillow does by itself
        Image.open(io.BytesIO(content)).load()
    assert ghostscript.exists()


def base64_url(content):
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def test_pillow_is_asked_in_one_place():
    """Pictures of strangers are opened by `decoders.opened` alone; the world has its own."""
    root = Path(decoders.__file__).parents[1]
    asking = re.compile(r"Image\.open\(|load_image\(|imread\(|decode_example\(")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if asking.search(path.read_text())}
    assert found == {"files/decoders.py", "scenes/world.py"}


# --- how large, and what never ends


def test_the_limit_of_pixels_holds_whatever_pillow_is_told(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(decoders, "MOST_PIXELS", 16 * 15)
    monkeypatch.setattr(image, "MOST_PIXELS", 16 * 15)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"):
        assert open_image(saved(Image.new("RGB", (16, 15)), kind)).size == (16, 15)
        with pytest.raises(RowError, match="it has more than 178,956,970 pixels"):
            open_image(saved(Image.new("RGB", (16, 16)), kind))
    with pytest.raises(RowError, match="more than 240 pixels; draw it down"):
        open_image(Image.new("RGB", (16, 16)))


def text_of(size):
    chunk = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(size))
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_a_text_that_unpacks_to_gigabytes_is_not_unpacked():
    png = saved(Image.new("RGB", (8, 8), "red"), "PNG")
    bomb = png[:33] + text_of(200_000_000) + png[33:]
    assert len(bomb) < 300_000
    with pytest.raises(RowError, match="cannot be read: it is damaged"):
        open_image(bomb)
    tracemalloc.start()
    with contextlib.suppress(RowError):
        open_image(bomb)
    with contextlib.suppress(RowError):
        without_metadata(bomb)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_of_many_frames_the_first_is_decoded(monkeypatch):
    frames = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(200)]
    for kind in ("GIF", "WEBP", "PNG"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=1)
        with Image.open(io.BytesIO(content)) as animation:
            assert animation.is_animated
            monkeypatch.setattr(type(animation), "seek", lambda *_: pytest.fail("another frame"))
        assert open_image(content).size == (8, 8) and len(data_urls([{"bytes": content, "path": None}])) == 1


def test_what_never_ends_is_not_read(tmp_path):
    """Opening a pipe that nobody writes to waits for ever; a device gives zeros without end."""
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("/dev/zero")
    (tmp_path / "c.jpg").symlink_to("c.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        with contextlib.chdir(tmp_path):  # its path may be too long for a socket
            bound.bind("d.jpg")
        Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
        notes = []
        assert [file.name for file in list_files(tmp_path, notes)] == ["good.png"]
        assert "pipes, devices and sockets, passed over: 3 (a.jpg, b.jpg, d.jpg)" in notes
        assert "links that lead nowhere: 1 (c.jpg)" in notes
        for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
            with pytest.raises(RowError, match=f"{name} cannot be read: (it is not a file but a pipe|too many)"):
                open_image(tmp_path / name)
            with pytest.raises(RowError):
                PictureReader().read(str(tmp_path / name))
            assert len(sha256_of(tmp_path / name)) == 32
        rows = Dataset.from_dict({"image": [str(tmp_path / "a.jpg")], "image_id": ["a"]})
        rows = rows.cast_column("image", DatasetsImage())
        assert len(images_digest(rows)) == 64
        table = with_contents(rows.with_format("arrow")[:], rows.features)
        assert table["image"].to_pylist() == [{"bytes": None, "path": str(tmp_path / "a.jpg")}]
