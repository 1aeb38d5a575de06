"""What is published of a picture: nothing of where, when and with what it was taken, and every pixel."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from c3l_hf.common.errors import RowError
from c3l_hf.files.image import open_image
from c3l_hf.files.metadata import without_metadata

# What must not be there afterwards: a place, the telephone, its maker's notes, names, words.
SECRETS = (b"SecretPhone", b"SecretNotes", b"SecretPlace", b"SecretWords", b"SecretTail", b"SecretThumb")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><p>SecretPlace</p></x:xmpmeta>'


def photo(size=(40, 24), mode="RGB"):
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def exif(orientation=1):
    block = Image.Exif()
    block[0x010F] = "SecretPhone"
    block[0x0112] = orientation
    gps = block.get_ifd(0x8825)
    gps[1], gps[2], gps[29] = "N", (48.0, 8.0, 15.25), "SecretPlace"
    block.get_ifd(0x8769)[0x927C] = b"SecretNotes"
    return block


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(**options):
    content = saved(
        photo(), "JPEG", exif=exif(6), xmp=XMP, comment=b"SecretWords", icc_profile=PROFILE, quality=90, **options
    )
    thumb = b"\xff\xe0" + struct.pack(">H", 8 + 11) + b"JFXX\0\x10SecretThumb"
    iptc = b"\xff\xed" + struct.pack(">H", 2 + 11) + b"SecretWords"
    return content[:2] + thumb + iptc + content[2:] + b"SecretTail"


def png(mode="RGB", exif_block=None, **options):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "SecretWords")
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    texts.add_text("zipped", "SecretWords", zip=True)
    content = saved(
        photo(mode=mode), "PNG", pnginfo=texts, exif=exif_block or exif(6), icc_profile=PROFILE, dpi=(72, 72), **options
    )
    return content + b"SecretTail"


def png_with_exif_behind_its_pixels():
    content = saved(photo(), "PNG")
    data = b"eXIf" + exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return content[:-12] + chunk + content[-12:]


def moving(kind, **options):
    frames = [photo(), photo().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], loop=3, duration=50, **options)


def gif():
    content = moving("GIF", comment=b"SecretWords")
    assert b"SecretWords" in content
    application = b"\x21\xff\x0bXMP DataXMP\x0bSecretPlace\0"
    return content[:-1] + application + b"\x3b" + b"SecretTail"


def mpo():
    return saved(photo(), "MPO", save_all=True, append_images=[photo()], exif=exif(3))


def tiff(mode="RGB", **options):
    return saved(photo(mode=mode), "TIFF", exif=exif(), description="SecretWords", icc_profile=PROFILE, **options)


def sixteen():
    grey = Image.fromarray(np.linspace(0, 65_535, 960).reshape(24, 40).astype(np.uint16))
    return saved(grey, "TIFF", description="SecretWords")


def heic():
    file = io.BytesIO()
    image = pillow_heif.from_pillow(photo((64, 48)))
    image.save(file, quality=90, exif=exif().tobytes(), xmp=XMP)
    return file.getvalue()


COPIED = {
    "JPEG": jpeg(),
    "JPEG, progressive": jpeg(progressive=True),
    "JPEG, restarts": jpeg(restart_marker_blocks=1),
    "JPEG, CMYK": saved(photo(mode="CMYK"), "JPEG", exif=exif(8), comment=b"SecretWords"),
    "MPO": mpo(),
    "PNG": png(),
    "PNG, palette": png("P"),
    "PNG, EXIF last": png_with_exif_behind_its_pixels(),
    "PNG, moving": moving("PNG", exif=exif(6)),
    "WebP": saved(photo(), "WEBP", exif=exif(6), xmp=XMP, icc_profile=PROFILE, quality=80),
    "WebP, lossless": saved(photo(mode="RGBA"), "WEBP", exif=exif(5), xmp=XMP, lossless=True),
    "WebP, moving": moving("WEBP", exif=exif(), xmp=XMP),
    "GIF": gif(),
}
AGAIN = {
    "TIFF": tiff(),
    "TIFF, grey": tiff("L"),
    "TIFF, clear": tiff("RGBA"),
    "TIFF, CMYK": tiff("CMYK"),
    "TIFF, LAB": saved(photo(), "TIFF", description="SecretWords"),
    "TIFF, black and white": tiff("1"),
    "TIFF, 16 bits": sixteen(),
    "AVIF": saved(photo((64, 48)), "AVIF", exif=exif(6), xmp=XMP),
    "HEIC": heic(),
    "JPEG 2000": saved(photo(), "JPEG2000", comment="SecretWords"),
}
ALL = COPIED | AGAIN


@pytest.mark.parametrize("kind", ALL)
def test_nothing_is_left_but_the_pixels(kind):
    content = ALL[kind]
    assert any(secret in content for secret in SECRETS)
    plain = without_metadata(content)
    assert not [secret for secret in SECRETS if secret in plain.content]
    np.testing.assert_array_equal(np.asarray(open_image(plain.content)), np.asarray(open_image(content)))
    with Image.open(io.BytesIO(plain.content)) as image:
        image.load()
        found = dict(image.getexif())
        assert found.keys() <= {0x0112} or image.format == "TIFF"
        assert not image.getexif().get_ifd(0x8825) and not getattr(image, "text", {})
        assert not {"comment", "xmp", "photoshop"} & image.info.keys()
    assert without_metadata(plain.content).content == plain.content or plain.ending == ".tiff"


@pytest.mark.parametrize("kind", COPIED)
def test_what_is_copied_is_not_encoded_again(kind):
    """The data of the pixels are those of the file, and what there was of colours, frames and times stays."""
    content, plain = COPIED[kind], without_metadata(COPIED[kind])
    assert plain.ending == "" and len(plain.content) < len(content)
    with Image.open(io.BytesIO(content)) as before, Image.open(io.BytesIO(plain.content)) as after:
        frames = 1 if before.format == "MPO" else getattr(before, "n_frames", 1)
        assert getattr(after, "n_frames", 1) == frames and after.mode == before.mode
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        assert after.info.get("loop") == before.info.get("loop")
        for frame in range(frames):
            before.seek(frame), after.seek(frame)
            assert before.convert("RGBA").tobytes() == after.convert("RGBA").tobytes()
            assert after.info.get("duration") == before.info.get("duration")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_picture_without_metadata_stays_as_it_is(kind):
    content = saved(photo(), kind)
    assert without_metadata(content) == (content, "")


def test_an_avif_without_metadata_stays_as_it_is():
    content = saved(photo((64, 48)), "AVIF")
    assert without_metadata(content) == (content, "")


@pytest.mark.parametrize(("orientation", "flag"), [(1, 0), (6, 0x08)])
def test_the_header_of_a_webp_says_what_is_in_it(orientation, flag):
    content = saved(photo(), "WEBP", exif=exif(orientation), xmp=XMP)
    plain = without_metadata(content).content
    assert content[12:16] == plain[12:16] == b"VP8X"
    assert (content[20] & 0x0C, plain[20] & 0x0C) == (0x0C, flag) and (b"EXIF" in plain) is bool(flag)


def test_colours_keep_their_profile_where_a_picture_is_encoded_again():
    with Image.open(io.BytesIO(without_metadata(tiff()).content)) as image:
        assert image.format == "PNG" and image.info["icc_profile"] == PROFILE
    with Image.open(io.BytesIO(without_metadata(tiff("CMYK")).content)) as image:
        assert (image.format, image.mode) == ("TIFF", "CMYK") and image.info["icc_profile"] == PROFILE
    with Image.open(io.BytesIO(without_metadata(sixteen()).content)) as image:
        assert (image.format, image.mode) == ("PNG", "I;16")


BROKEN = b"Exif\0\0MM\0*SecretPhone and no directory"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", [BROKEN, b"Exif\0\0SecretPhone", b"Exif\0\0"])
def test_broken_metadata_do_not_matter(kind, block):
    content = saved(photo(), kind, exif=block)
    plain = without_metadata(content)
    assert b"SecretPhone" not in plain.content
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    for one in (content, plain.content):
        np.testing.assert_array_equal(np.asarray(open_image(one)), np.asarray(expected))


def test_segments_that_do_not_fit_together():
    """Pillow passes over what is between segments; then the picture is encoded again."""
    content = jpeg()
    place = content.index(b"\xff\xdb")
    odd = content[:place] + b"SecretWords" + content[place:]
    plain = without_metadata(odd)
    assert plain.ending == ".png" and b"SecretWords" not in plain.content
    np.testing.assert_array_equal(np.asarray(open_image(plain.content)), np.asarray(open_image(odd)))


@pytest.mark.parametrize(
    "content",
    [jpeg()[:60], png()[:80], heic()[:200], tiff()[:-60], jpeg()[1:]],
    ids=["JPEG", "PNG", "HEIC", "TIFF", "first byte"],
)
def test_what_may_have_metadata_and_cannot_be_read_is_refused(content):
    with pytest.raises(RowError, match="cannot be read"):
        without_metadata(content)


@pytest.mark.parametrize("content", [b"", b"no picture", b"<html>404</html>"])
def test_what_is_no_picture_stays(content):
    assert without_metadata(content) == (content, "")


def test_every_cut_and_every_damage_is_plain_or_refused():
    """Whatever a file is like, nothing else than a RowError comes, and nothing private goes out."""
    rng = np.random.default_rng(0)
    for content in (COPIED["JPEG"], COPIED["PNG"], COPIED["WebP"], COPIED["GIF"]):
        for _ in range(60):
            damaged = bytearray(content[: int(rng.integers(20, len(content)))])
            damaged[int(rng.integers(12, len(damaged)))] ^= 0xFF
            try:
                plain = without_metadata(bytes(damaged))
            except RowError:
                continue
            assert not [secret for secret in (b"SecretNotes", b"SecretTail") if secret in plain.content]
