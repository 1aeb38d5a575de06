"""Why a picture cannot be read: what its content is, told by how it begins, and what the decoder's error says."""

import binascii
import errno
import re
import struct
import zlib

import PIL
import PIL.Image

from c3l_hf.files.decoders import MOST_PIXELS, can_heic, closed_format, is_heic

__all__ = ["cause_of", "kind_of"]

# What decoders raise at bytes that are not as they have to be; an OSError of theirs has no number of the system.
_DAMAGED = (SyntaxError, EOFError, ValueError, LookupError, ArithmeticError, TypeError, struct.error, zlib.error)

# How JPEG, PNG, GIF and WebP begin as base64; as a text, not as bytes, it is read.
_BASE64 = re.compile(rb"/9j/|iVBORw0KGgo|R0lGOD|UklGR")
_OF_THE_SYSTEM = {errno.ENOENT: "there is no such file", errno.EISDIR: "it is a folder", errno.EACCES: "no permission"}


def kind_of(beginning: bytes) -> str | None:
    """What a content is that cannot be read, where its first 64 bytes tell."""
    start = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not beginning:
        return "empty"
    if is_heic(beginning):
        return "damaged HEIC" if can_heic() else "HEIC; pip install 'c3l-hf[heic]', or convert it"
    if beginning.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL; convert it to JPEG or PNG"
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page (HTML), perhaps of a download that failed"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "SVG; convert it to PNG"
    if start.startswith(b"<?xml"):
        return "XML, perhaps of a download that failed"
    if beginning.startswith(b"%PDF-"):
        return "PDF; convert it to PNG"
    if beginning.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file; fetch it with git lfs pull"
    if _BASE64.match(beginning):
        return "base64 text in the place of the bytes that it stands for; decode it"
    if kind := closed_format(beginning):
        return f"{kind}, which is not read; convert it to PNG or JPEG"
    return None


def cause_of(error: BaseException) -> str:
    """What an error at reading a picture says, in a text that is the same for all pictures with this fault: without
    the name of the file and the decoder's own words, which are different in each format and release."""
    text = str(error)
    if isinstance(error, PIL.UnidentifiedImageError):
        return "it is no picture"
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"it has more than {MOST_PIXELS:,} pixels"
    if isinstance(error, binascii.Error):
        return "it is not base64"
    if isinstance(error, OSError) and error.errno is not None:
        return _OF_THE_SYSTEM.get(error.errno) or (error.strerror or type(error).__name__).lower()
    if "null byte" in text or "null character" in text:
        return "its name has the character 0"
    if "not a file but" in text:
        return f"it is {text}"
    if "truncated" in text.lower():
        return "it is cut off"
    if isinstance(error, (OSError, *_DAMAGED)):
        return "it is damaged"
    return type(error).__name__
