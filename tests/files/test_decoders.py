"""Formats that Pillow does not read by itself, or reads in another way: HEIC, 16 bits."""

import io
import re

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.files import decoders, image, unreadable
from c3l_hf.files.image import open_image


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
