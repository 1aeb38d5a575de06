"""Thumbnails: small, in their proportions, without what cameras write; a reason where there is none."""

import io

import PIL.Image
from PIL.ExifTags import Base as ExifTag
from report_content import UNREADABLE, picture

from c3l_hf.report.thumbnails import SIDE, thumbnail, thumbnails


def test_the_longer_side_is_drawn_down():
    made = thumbnail(PIL.Image.new("RGB", (1000, 500), "red"), 60)
    assert (made.width, made.height) == (SIDE, SIDE // 2)
    with PIL.Image.open(io.BytesIO(made.webp)) as image:
        assert (image.format, image.size) == ("WEBP", (SIDE, SIDE // 2))
        red, green, blue = image.convert("RGB").getpixel((80, 40))
    assert red > 240 and green < 20 and blue < 20


def test_small_and_narrow_pictures():
    assert (thumbnail(PIL.Image.new("RGB", (64, 48)), 60).width) == 64
    assert (thumbnail(PIL.Image.new("RGB", (5000, 3)), 60).height) == 1


def test_what_a_camera_wrote_is_left_out():
    image = PIL.Image.new("RGB", (300, 300))
    image.getexif()[ExifTag.Make] = "a maker"
    image.info.update({"exif": image.getexif().tobytes(), "icc_profile": b"profile" * 99, "xmp": b"place"})
    made = thumbnail(image, 60)
    assert all(word not in made.webp for word in (b"a maker", b"profile", b"place", b"EXIF"))
    assert image.info["xmp"] == b"place"  # the picture itself is as it was


def test_unreadable_pictures_have_a_reason_in_their_place():
    made = list(thumbnails([picture(number) for number in range(5)], 5))
    assert made[UNREADABLE] == "the image photo.jpg cannot be read: it is empty"
    assert [type(one).__name__ for one in made] == ["Thumbnail", "Thumbnail", "str", "Thumbnail", "Thumbnail"]


def test_many_pictures_have_smaller_files():
    noisy = PIL.Image.effect_noise((300, 300), 80).convert("RGB")
    assert len(thumbnail(noisy, 50).webp) < len(thumbnail(noisy, 72).webp)
