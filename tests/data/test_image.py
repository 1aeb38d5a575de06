"""Images as datasets and files give them, and those that cannot be read."""

import base64
import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from c3l_hf.common.errors import RowError
from c3l_hf.data.image import image_key, is_inline, open_image
from c3l_hf.scoring.scorer import I2CScorer


def picture(seed=0, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(image):
    return encoded(image)


def png_that_claims(width, height):
    """The header of a picture of this size, and next to nothing else."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, data):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


def test_open_image_takes_what_datasets_give(tmp_path):
    image = picture()
    path = tmp_path / "a.png"
    image.save(path)
    values = [image, {"bytes": png(image), "path": None}, {"bytes": None, "path": str(path)}, path, str(path)]
    for value in values:
        assert open_image(value).tobytes() == image.tobytes()
    assert image_key(values[1]) == image_key({"bytes": png(image), "path": "elsewhere"})
    assert image_key(image) == image_key(image.copy()) != image_key(picture(1))
    assert image_key(values[2]) == image_key(path)


def kinds(folder):
    """What people put into an image column, and where it is a file."""
    image = picture()
    (folder / "a b.png").write_bytes(png(image))
    text = base64.b64encode(png(image)).decode()
    return {
        "bytes": png(image),
        "bytearray": bytearray(png(image)),
        "Arrow buffer": {"bytes": pa.py_buffer(png(image)), "path": None},
        "base64": text,
        "base64 in lines": "\n".join(text[start : start + 76] for start in range(0, len(text), 76)) + "\n",
        "data URL": f"data:image/png;base64,{text}",
        "file URL": (folder / "a b.png").as_uri(),
        "array": np.asarray(image),
        "dict with bytes": {"bytes": png(image)},
        "dict with url": {"url": str(folder / "a b.png")},
        "dict with image": {"image": image},
        "dict with data URL": {"url": f"data:image/png;base64,{text}"},
    }


KINDS = (
    "bytes, bytearray, Arrow buffer, base64, base64 in lines, data URL, file URL, array, dict with bytes, "
    "dict with url, dict with image, dict with data URL"
).split(", ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_put_into_an_image_column(kind, tmp_path, llava):
    assert list(kinds(tmp_path)) == KINDS
    value = kinds(tmp_path)[kind]
    assert open_image(value).tobytes() == picture().tobytes()
    assert image_key(value) == image_key(kinds(tmp_path)[kind]) and len(str(image_key(value))) < 200
    question = {"question": "What is it?", "answer": "a dog"}
    rows = [{**question, "image": value}, {**question, "images": [value]}, {**question, "image": picture()}]
    first, second, third = I2CScorer(*llava).score(rows)
    assert first["i2c_status"] == second["i2c_status"] == "ok"
    assert first["pmi"] == second["pmi"] == pytest.approx(third["pmi"], abs=1e-5)
    # In a folder of pictures what is no path is not looked for there.
    if "file" not in kind and kind != "dict with url":
        (inside,) = I2CScorer(*llava, image_folder=tmp_path).score(rows[:1])
        assert inside["i2c_status"] == "ok"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("https://example.com/a.png", "is an address, https://example.com/a.png, which is not fetched"),
        (np.zeros((4, 4, 3)), "the image is an array of float64, shape \\(4, 4, 3\\); give uint8"),
        (b"", "the image cannot be read"),
        ("data:image/png;base64,no!", "the image cannot be read: Error"),
        ("QUJD" * 4000, "the image is a text of 16,000 characters, neither a path nor a picture"),
        ("iVBORw0KGgo" + "QUJD" * 4000 + "Q", "the image cannot be read: "),
        ({"bytes": None, "path": None}, "the image is NoneType"),
        (7.5, "the image is float"),
    ],
)
def test_what_is_no_image_is_named_in_one_line_without_its_data(value, says):
    with pytest.raises(RowError, match=says) as refused:
        open_image(value)
    assert len(str(refused.value)) <= 200 and "QUJD" not in str(refused.value)


def test_a_file_that_is_named_by_a_hash(tmp_path, llava):
    """Letters and digits alone are no content, also where the folder is another one."""
    name = "ab" * 64
    (tmp_path / name).write_bytes(png(picture()))
    row = {"question": "What is it?", "answer": "a dog", "image": name}
    (scored,) = I2CScorer(*llava, image_folder=tmp_path).score([row])
    assert scored["i2c_status"] == "ok" and open_image(tmp_path / name).size == (32, 32)
    with pytest.raises(RowError, match=f"the image {name} cannot be read: FileNotFoundError"):
        open_image(name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_base64_of_every_format(kind):
    text = base64.b64encode(encoded(picture(), kind)).decode()
    assert is_inline(text) and open_image(text).size == (32, 32)


def test_a_reason_is_one_printable_line():
    reason = str(RowError("the message\n\x1b[31m has " + 1000 * "x"))
    assert len(reason) == 200 and reason.isprintable() and reason.startswith("the message [31m has xxx")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_open_image_converts(mode):
    source = picture().convert("RGB").convert("L").convert(mode) if mode in ("1", "LA") else picture().convert(mode)
    image = open_image(source)
    assert image.mode == "RGB" and image.size == (32, 32)


def transparent():
    """Pictures of every kind of transparency: a black square on nothing, soft edges, a palette with a clear colour."""
    drawing = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (6, 6, 18, 18))
    soft = picture(size=(24, 24)).convert("RGBA")
    soft.putalpha(Image.linear_gradient("L").resize((24, 24)))
    palette = Image.new("P", (24, 24), 0)
    palette.putpalette([0, 0, 0, 0, 0, 0, 200, 30, 30])
    palette.paste(1, (6, 6, 18, 18))
    return {
        "RGBA": encoded(drawing),
        "LA": encoded(drawing.convert("LA")),
        "palette": encoded(palette, transparency=0),
        "soft": encoded(soft),
        "WebP": encoded(soft, "WEBP", lossless=True),
        "grey with a clear tone": encoded(drawing.convert("L"), transparency=0),
    }


@pytest.mark.parametrize("kind", transparent())
def test_what_is_transparent_is_put_on_white(kind):
    """The pixels are those that transformers makes of the file, not ours."""
    content = transparent()[kind]
    ours = np.asarray(open_image({"bytes": content, "path": None}))
    theirs = convert_to_rgb(Image.open(io.BytesIO(content)), return_numpy=True)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.max() == 255  # not a black drawing on black


def test_a_picture_without_transparency_keeps_its_pixels():
    image = picture()
    np.testing.assert_array_equal(np.asarray(open_image(image.convert("RGBA"))), np.asarray(image))


def test_open_image_turns_it_upright():
    image = picture(size=(20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    upright = open_image({"bytes": file.getvalue(), "path": None})
    assert upright.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"bytes": b"", "path": None}, "cannot be read: UnidentifiedImageError"),
        ({"bytes": b"not an image", "path": None}, "cannot be read"),
        ({"bytes": png(picture())[:200], "path": None}, "cannot be read"),
        ("/nowhere/a.png", "image /nowhere/a.png cannot be read: FileNotFoundError"),
        ({"bytes": None, "path": None}, "is NoneType"),
        (3, "is int"),
        (Image.new("I;16", (4, 4)), "mode I;16"),
        (Image.new("F", (4, 4)), "mode F"),
    ],
)
def test_open_image_reasons(value, reason):
    with pytest.raises(RowError) as error:
        open_image(value)
    assert reason in str(error.value)
    image_key(value)


def test_a_key_for_what_the_model_sees():
    """The bytes of a PIL image have neither its palette nor its orientation."""
    red, blue = (Image.new("RGB", (4, 6), colour).quantize(2) for colour in ("red", "blue"))
    assert red.tobytes() == blue.tobytes()
    turned = Image.new("RGB", (4, 6), "red")
    turned.getexif()[0x0112] = 6
    images = [red, blue, turned, Image.new("RGBA", (4, 6), "red"), Image.new("L", (4, 6))]
    opened = [(open_image(image).size, open_image(image).tobytes()) for image in images]
    keys = [image_key(image) for image in images]
    for one in range(len(images)):
        for other in range(len(images)):
            assert (keys[one] == keys[other]) == (opened[one] == opened[other])


def test_reasons_that_are_kept_name_no_folder(tmp_path):
    """They go into datasets and onto cards: see `generate_pairs`."""
    Image.new("I;16", (4, 4)).save(tmp_path / "deep.png")
    with pytest.raises(RowError) as error:
        open_image(tmp_path / "deep.png")
    assert error.value.__cause__ is None and str(tmp_path) not in str(error.value)


def test_an_animation_is_its_first_frame():
    frames = [picture(seed).quantize() for seed in range(3)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    opened = open_image({"bytes": content, "path": None})
    assert opened.tobytes() == frames[0].convert("RGB").tobytes()


def test_a_picture_too_large_to_open_is_not_opened():
    with pytest.raises(RowError, match="cannot be read: DecompressionBombError"):
        open_image({"bytes": png_that_claims(20_000, 20_000), "path": None})


def test_odd_images_keep_their_place_among_the_others(family):
    _, processor = family
    question, answer = "Is there a dog?", "Yes, there is."
    images = {
        "1 x 1": picture(1, (1, 1)),
        "1 x 300": picture(2, (1, 300)),
        "CMYK": {"bytes": encoded(picture(3).convert("CMYK"), "JPEG"), "path": None},
        "palette": {"bytes": encoded(picture(4).quantize()), "path": None},
        "turned": {"bytes": encoded(picture(5, (20, 40)), "JPEG", exif=_turned()), "path": None},
        "animated": {"bytes": encoded(picture(6).quantize(), "GIF"), "path": None},
    }
    bad = {
        "16 bits": {"bytes": encoded(Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16))), "path": None},
        "truncated": {"bytes": png(picture(7))[:150], "path": None},
        "empty": {"bytes": b"", "path": None},
        "huge": {"bytes": png_that_claims(20_000, 20_000), "path": None},
        "missing": "/nowhere/a.png",
    }
    normal = [picture(8), picture(9)]
    values = [normal[0], *images.values(), *bad.values(), normal[1]]
    scorer = I2CScorer(*family)
    results = scorer.score([{"image": value, "question": question, "answer": answer} for value in values])
    alone = scorer.score([{"image": value, "question": question, "answer": answer} for value in normal])
    for one, other in zip((results[0], results[-1]), alone):
        assert one["pmi"] == pytest.approx(other["pmi"], rel=1e-4, abs=1e-5)
    for name, result in zip(bad, results[1 + len(images) : -1]):
        assert result["i2c"] is None and ("cannot be read" in result["i2c_status"] or name == "16 bits"), name
    assert "convert it to 8 bits" in results[1 + len(images)]["i2c_status"]
    for name, result in zip(images, results[1 : 1 + len(images)]):
        # an image processor may refuse a picture of one pixel; it then says so
        status = result["i2c_status"]
        assert status == "ok" or (name.startswith("1 x") and "refuses the row" in status), name


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_a_reason_does_not_depend_on_the_run():
    with pytest.raises(RowError) as error:
        open_image({"bytes": b"not an image", "path": None})
    assert str(error.value) == "the image cannot be read: UnidentifiedImageError: cannot identify image file"
