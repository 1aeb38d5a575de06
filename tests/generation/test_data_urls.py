"""Pictures as a server gets them: nothing of where and with what they were taken."""

import base64
import io

import pytest
from PIL import Image

from c3l_hf.generation.data_urls import data_urls


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_server_is_told_no_place(kind, orientation):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif.get_ifd(0x8825)[29] = "SecretPhone", orientation, "SecretPlace"
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((40, 30)).save(file, kind, exif=exif)
    assert b"Secret" in file.getvalue()
    (url,) = data_urls([{"bytes": file.getvalue(), "path": None}])
    content = base64.b64decode(url.partition("base64,")[2])
    assert b"Secret" not in content
    assert Image.open(io.BytesIO(content)).size == ((40, 30) if orientation == 1 else (30, 40))
