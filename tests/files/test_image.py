"""Images as datasets and files give them, and those that cannot be read."""

import base64
import io
import math
import os
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import transformers.models
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

from c3l_hf.common.errors import RowError
from c3l_hf.files import image as images
from c3l_hf.files.image import image_key, is_inline, open_image
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
        "dict in a dict": {"path": None, "image": {"bytes": png(image), "path": None}},
        "dict beside nulls": {"image": {"bytes": None, "path": None}, "path": str(folder / "a b.png")},
    }


KINDS = (
    "bytes, bytearray, Arrow buffer, base64, base64 in lines, data URL, file URL, array, dict with bytes, "
    "dict with url, dict with image, dict with data URL, dict in a dict, dict beside nulls"
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
    if "file" not in kind and kind not in ("dict with url", "dict beside nulls"):
        (inside,) = I2CScorer(*llava, image_folder=tmp_path).score(rows[:1])
        assert inside["i2c_status"] == "ok"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("https://example.com/a.png", "is an address, https://example.com/a.png, which is not fetched"),
        (np.zeros((4, 4, 3)), "the image is an array of float64, shape \\(4, 4, 3\\); give uint8"),
        (b"", "the image cannot be read"),
        ("data:image/png;base64,no!", "the image cannot be read: it is not base64"),
        ("QUJD" * 4000, "the image is a text of 16,000 characters, neither a path nor a picture"),
        ("", "the image is an empty text, neither a path nor a picture"),
        ({"path": ""}, "the image is an empty text, neither a path nor a picture"),
        ("iVBORw0KGgo" + "QUJD" * 4000 + "Q", "the image cannot be read: "),
        ({"bytes": None, "path": None}, "the image is null"),
        (7.5, "the image is a number"),
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
    with pytest.raises(RowError, match=f"the image {name} cannot be read: there is no such file"):
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
        ({"bytes": b"", "path": None}, "cannot be read: it is empty"),
        ({"bytes": b"not an image", "path": None}, "cannot be read"),
        ({"bytes": png(picture())[:200], "path": None}, "cannot be read"),
        ("/nowhere/a.png", "image /nowhere/a.png cannot be read: there is no such file"),
        ({"bytes": None, "path": None}, "is null"),
        ({"src": "/nowhere/a.png", "height": 4}, "is a dict without bytes, image, path or url"),
        (3, "is a number"),
        (Image.new("I", (4, 4)), "mode I; convert"),
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
    values = [red, blue, turned, Image.new("RGBA", (4, 6), "red"), Image.new("L", (4, 6))]
    opened = [(open_image(image).size, open_image(image).tobytes()) for image in values]
    keys = [image_key(image) for image in values]
    for one in range(len(values)):
        for other in range(len(values)):
            assert (keys[one] == keys[other]) == (opened[one] == opened[other])


def test_reasons_that_are_kept_name_no_folder(tmp_path):
    """They go into datasets and onto cards: see `generate_pairs`."""
    Image.new("F", (4, 4)).save(tmp_path / "deep.tif")
    with pytest.raises(RowError) as error:
        open_image(tmp_path / "deep.tif")
    assert error.value.__cause__ is None and str(tmp_path) not in str(error.value)


def test_an_animation_is_its_first_frame():
    frames = [picture(seed).quantize() for seed in range(3)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    opened = open_image({"bytes": content, "path": None})
    assert opened.tobytes() == frames[0].convert("RGB").tobytes()


def wave(width, height):
    """A picture that is smooth, so that every good way to make it smaller gives the same."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 9, height))
    return np.stack([128 + 100 * np.sin(x), 128 + 100 * np.cos(y), 128 + 100 * np.sin(x + y)], -1).astype(np.uint8)


@pytest.fixture
def small_bound(monkeypatch):
    """The bound for pictures of a size that tests can afford."""
    monkeypatch.setattr(images, "MAX_PIXELS", 200 * 300)
    monkeypatch.setattr(images, "_SHORT_SIDE", 50)


def test_no_processor_takes_more_than_the_bound():
    """By their classes' defaults; a processor that takes more would lose detail."""
    most = {}
    for file in Path(transformers.models.__file__).parent.glob("*/image_processing_pil_*.py"):
        text = file.read_text()
        for edge in re.findall(r'^    size = .*"longest_edge": ([\d *]+)', text, re.MULTILINE):
            value = math.prod(int(factor) for factor in edge.split("*"))
            # Of some it is a number of pixels, of others the length of a side.
            most[file.name] = value if "max_pixels" in text else value**2
    assert len(most) > 10 and max(most.values()) <= images.MAX_PIXELS, most


@pytest.mark.parametrize("size", [(4096, 4096), (64, 1000), (8192, 2048)])
def test_a_picture_up_to_the_bound_keeps_every_pixel(size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    assert open_image(picture).tobytes() == picture.tobytes()


HUGE = [
    *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
    *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(("TIFF", mode) for mode in ("RGB", "RGBA", "L", "P", "CMYK")),
    *(("memory", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr")),
]


@pytest.mark.parametrize(("kind", "mode"), HUGE)
def test_a_huge_picture_is_drawn_down_as_a_whole_one_would_be(kind, mode, small_bound):
    plain = Image.fromarray(wave(800, 1200))
    picture = plain.convert("L").convert(mode) if mode in ("1", "LA") else plain.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.linear_gradient("L").resize(plain.size))
    options = {"quality": 98} if kind == "JPEG" else {}
    value = picture if kind == "memory" else encoded(picture, kind, **options)
    opened = open_image(value)
    assert opened.mode == "RGB" and opened.size == (200, 300)
    whole = picture.convert("RGBA") if mode in ("RGBA", "LA") else picture.convert("RGB")
    if mode in ("RGBA", "LA"):
        whole = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    expected = np.asarray(whole.resize((200, 300), Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(np.asarray(opened) - expected)
    assert difference.max() <= (4 if kind == "JPEG" else 1)  # strips meet without a seam


def test_a_huge_picture_of_few_colours_with_a_clear_one(small_bound):
    palette = Image.new("P", (800, 1200), 0)
    palette.putpalette([0, 0, 0, 200, 30, 30])
    palette.paste(1, (0, 600, 800, 1200))
    opened = open_image(encoded(palette, transparency=0))
    assert opened.getpixel((100, 50)) == (255, 255, 255) and opened.getpixel((100, 250)) == (200, 30, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_huge_picture_is_upright(kind, orientation, small_bound):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(wave(800, 1200))
    content = encoded(picture, kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {}))
    opened = open_image(content)
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert opened.size == ((200, 300) if orientation < 5 else (300, 200))
    expected = np.asarray(whole.resize(opened.size, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(opened) - expected).max() <= 4


def test_a_long_strip_keeps_its_shorter_side(small_bound):
    """Which is what processors go by that cut out the middle."""
    assert open_image(Image.new("RGB", (6000, 100))).size == (3000, 50)
    assert open_image(Image.new("RGB", (6000, 40))).size == (6000, 40)
    assert open_image(Image.new("L", (60, 30_000))).size == (50, 25_000)


def test_huge_pictures_that_look_alike_have_one_key(small_bound):
    first, second = Image.fromarray(wave(800, 1200)), Image.fromarray(wave(800, 1200)[::-1].copy())
    assert image_key(first) == image_key(first.copy()) != image_key(second)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_memory_of_a_batch_of_huge_pictures(kind, tmp_path):
    """Pictures of 9,000 × 9,000 in one batch; as they are, a single one takes 324 MB, and thrice that to convert."""
    code = (
        "import resource, sys; from PIL import Image; from tiny_models import tiny_llava; "
        "from c3l_hf.scoring.scorer import I2CScorer\n"
        "picture = Image.linear_gradient('L').resize((9000, 9000)).convert('RGB')\n"
        "if sys.argv[1].endswith('png'): picture.putalpha(100)\n"
        "picture.save(sys.argv[1], compress_level=1); del picture\n"
        "for number in range(1, 3): open(f'{number}{sys.argv[1]}', 'wb').write(open(sys.argv[1], 'rb').read())\n"
        "names = [sys.argv[1], *(f'{number}{sys.argv[1]}' for number in range(1, 3))]\n"
        "rows = [{'image': name, 'question': 'What is it?', 'answer': 'a dog'} for name in names]\n"
        "assert {row['i2c_status'] for row in I2CScorer(*tiny_llava()).score(rows)} == {'ok'}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "tests" / "helpers")])
    done = subprocess.run(
        [sys.executable, "-c", code, f"a.{kind}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 <= 1.5e9


KINDS_OF_FILES = {
    "AVIF": (encoded(picture(), "AVIF"), None),
    "JPEG 2000": (encoded(picture(), "JPEG2000"), None),
    "CMYK": (encoded(picture().convert("CMYK"), "JPEG"), None),
    "stereo": (encoded(picture(), "MPO", save_all=True, append_images=[picture(1)]), None),
    "12 bits of 16": (encoded(Image.fromarray(np.full((8, 8), 4_000, dtype=np.uint16))), "fewer bits may be meant"),
    "32 bits, TIFF": (encoded(Image.fromarray(np.full((8, 8), 40_000, dtype=np.int32)), "TIFF"), "has mode I; convert"),
    "cut off": (encoded(picture(), "JPEG")[:-200], "cannot be read: it is cut off"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "it is damaged HEIC"),
    "JPEG XL": (b"\xff\x0a" + bytes(64), "it is JPEG XL; convert it to JPEG or PNG"),
    "SVG": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "it is SVG; convert it to PNG"),
    "a page": (b"\n<!DOCTYPE HTML><html>404</html>", "it is a web page (HTML)"),
    "XML": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "it is XML, perhaps of a download that failed"),
    "PDF": (b"%PDF-1.7", "it is PDF; convert it to PNG"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "it is a pointer of Git LFS"),
    "nothing": (b"", "it is empty"),
    "EPS": (encoded(picture(), "EPS"), "the image is EPS, which is not read; convert it to PNG or JPEG"),
}


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_files_of_every_kind_are_read_or_named(kind, tmp_path):
    content, reason = KINDS_OF_FILES[kind]
    (tmp_path / "a.jpg").write_bytes(content)
    for value in (content, tmp_path / "a.jpg", (tmp_path / "a.jpg").as_uri()):
        if reason is None:
            assert open_image(value).tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()
        else:
            with pytest.raises(RowError, match=re.escape(reason) if isinstance(value, bytes) else None) as refused:
                open_image(value)
            assert len(str(refused.value)) <= 200


def test_the_colours_of_sixteen_bits_are_scaled():
    """Not cut off: 0xb234 of 0xffff is 0xb2 of 0xff."""
    row = b"\0" + np.full((8, 3), 0xB234, dtype=">u2").tobytes()
    content = b"\x89PNG\r\n\x1a\n"
    parts = b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0), b"IDAT" + zlib.compress(row * 8), b"IEND"
    for chunk in parts:
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert set(np.asarray(open_image(content)).ravel()) == {0xB2}


def test_a_moving_webp_is_its_first_frame():
    content = encoded(picture(), "WEBP", save_all=True, append_images=[picture(1)], lossless=True)
    assert open_image(content).tobytes() == picture().tobytes()


def test_the_reason_is_told_also_of_a_file_with_a_long_name(tmp_path):
    folder = tmp_path / ("a" * 150) / ("b" * 150)
    folder.mkdir(parents=True)
    (folder / "c.png").write_bytes(b"")
    for name, kind in (("c.png", "it is empty"), ("gone.png", "there is no such file")):
        with pytest.raises(RowError, match=f"{name} cannot be read: {kind}"):
            open_image(folder / name)


def test_a_file_url_of_another_machine():
    with pytest.raises(RowError, match=r"file://server/a\.png is on another machine"):
        open_image("file://server/a.png")


def test_a_picture_too_large_to_open_is_not_opened():
    with pytest.raises(RowError, match="cannot be read: it has more than"):
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
        "32 bits": {"bytes": encoded(Image.fromarray(np.full((8, 8), 40_000, dtype=np.int32)), "TIFF"), "path": None},
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
        assert result["i2c"] is None and ("cannot be read" in result["i2c_status"] or name == "32 bits"), name
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
    assert str(error.value) == "the image cannot be read: it is no picture"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_one_huge_picture_at_a_time_whatever_the_threads(small_bound, monkeypatch):
    """Near-duplicates are looked for in threads: eight pictures of 9,000 × 9,000 took 3 GB."""
    active, most, lock = [0], [], threading.Lock()
    drawn_down = images._drawn_down

    def counted(image, size):
        with lock:
            active[0] += 1
            most.append(active[0])
        time.sleep(0.005)
        result = drawn_down(image, size)
        with lock:
            active[0] -= 1
        return result

    monkeypatch.setattr(images, "_drawn_down", counted)
    content = png(picture(size=(400, 300)))
    with ThreadPoolExecutor(8) as pool:
        sizes = [image.size for image in pool.map(open_image, [content] * 16)]
    assert len(set(sizes)) == 1 and len(most) == 16 and max(most) == 1
    if (child := os.fork()) == 0:  # as a loader's workers are made: it does not have the thread
        os._exit(0 if open_image(content).size == sizes[0] else 1)
    assert os.waitpid(child, 0)[1] == 0
