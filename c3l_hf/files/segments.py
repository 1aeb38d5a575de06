"""JPEG, PNG, WebP and GIF without what is no part of the picture: their parts are copied or left out, nothing is
encoded again, and so no pixel changes.

Each function takes a file's content and the EXIF block that is to be in it (of the orientation alone), or nothing; it
raises a ValueError, an IndexError or a struct.error where the parts do not fit together. What follows the end of the
picture, as a second picture or a film of a telephone, is left out.
"""

import re
import struct
import zlib
from collections.abc import Iterator

__all__ = ["plain_gif", "plain_jpeg", "plain_png", "plain_webp"]

# Of a JPEG: the next marker in compressed data. There 0xFF is followed by 0, by a restart, or by another 0xFF.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_APPLICATIONS, _COMMENT = range(0xE0, 0xF0), 0xFE
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_END, _SCAN = 0xD9, 0xDA

# Chunks of a PNG that change how it looks, or how it moves. Others with a small first letter may be left out.
_PNG_KEPT = frozenset(
    b"tRNS gAMA cHRM sRGB iCCP cICP mDCV cLLI sBIT bKGD pHYs sPLT acTL fcTL fdAT".split(),
)
_WEBP_KEPT = frozenset((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"ANIM", b"ANMF"))
_GIF_KEPT = (b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012")  # how often it is shown, and its colours


def plain_jpeg(content: bytes, exif: bytes = b"") -> bytes:
    """The first picture of a JPEG file, with JFIF's header, its ICC profile and Adobe's note on its colours."""
    kept = [content[:2]]
    if exif:
        kept.append(b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    place = 2
    while True:
        if content[place] != 0xFF:
            raise ValueError("no marker where there must be one")
        while content[place + 1] == 0xFF:  # as many as one likes
            place += 1
        marker = content[place + 1]
        if marker == _END:
            return b"".join([*kept, b"\xff\xd9"])
        if marker in _WITHOUT_LENGTH:
            kept.append(content[place : place + 2])
            place += 2
            continue
        (length,) = struct.unpack_from(">H", content, place + 2)
        end = place + 2 + length
        if length < 2 or end > len(content):
            raise ValueError("a segment is longer than the file")
        segment = _jpeg_segment(marker, content[place:end])
        if marker == _SCAN:
            found = _NEXT_MARKER.search(content, end)
            last, end = end, found.start() if found else len(content)
            segment += content[last:end]
            if not found:  # cut short
                return b"".join([*kept, segment])
        kept.append(segment)
        place = end


def _jpeg_segment(marker: int, segment: bytes) -> bytes:
    """What stays of a segment of a JPEG."""
    said = segment[4:]
    if marker == 0xE0 and said.startswith(b"JFIF\0") and len(said) >= 14:
        # Without its small picture: it may show what was cut off from the large one.
        return segment if len(said) == 14 else b"\xff\xe0\0\x10" + said[:12] + b"\0\0"
    colours = (marker == 0xE2 and said.startswith(b"ICC_PROFILE\0")) or (marker == 0xEE and said.startswith(b"Adobe"))
    return segment if colours or (marker not in _APPLICATIONS and marker != _COMMENT) else b""


def plain_png(content: bytes, exif: bytes = b"") -> bytes:
    """A PNG, moving or not, with the chunks that change how it looks."""
    kept, place, name = [content[:8]], 8, b""
    while name != b"IEND":
        (length,) = struct.unpack_from(">I", content, place)
        name = content[place + 4 : place + 8]
        end = place + 12 + length
        if end > len(content):
            raise ValueError("a chunk is longer than the file")
        if name[:1].isupper() or name in _PNG_KEPT:
            kept.append(content[place:end])
        if name == b"IHDR" and exif:
            data = b"eXIf" + exif.removeprefix(b"Exif\0\0")
            kept.append(struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)))
        place = end
    return b"".join(kept)


def plain_webp(content: bytes, exif: bytes = b"") -> bytes:
    """A WebP, moving or not, with the chunks of its pictures and its ICC profile."""
    (size,) = struct.unpack_from("<I", content, 4)
    if 8 + size > len(content):
        raise ValueError("the file is shorter than it says")
    kept = []
    for name, data in _riff_chunks(content[12 : 8 + size]):
        if name == b"VP8X":
            flags = data[0] & ~0x0C | (0x08 if exif else 0)  # of EXIF and XMP
            data = bytes([flags]) + data[1:]
        if name == b"ANMF":
            frame = [_riff_chunk(*part) for part in _riff_chunks(data[16:]) if part[0] in (b"ALPH", b"VP8 ", b"VP8L")]
            data = data[:16] + b"".join(frame)
        if name in _WEBP_KEPT:
            kept.append(_riff_chunk(name, data))
    if exif:
        kept.append(_riff_chunk(b"EXIF", exif.removeprefix(b"Exif\0\0")))
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _riff_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(content):
        name, length = struct.unpack_from("<4sI", content, place)
        data = content[place + 8 : place + 8 + length]
        if len(data) < length:
            raise ValueError("a chunk is longer than the file")
        yield name, data
        place += 8 + length + length % 2


def _riff_chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def plain_gif(content: bytes, exif: bytes = b"") -> bytes:
    """A GIF, moving or not, without comments and what applications have put there. It has no place for EXIF."""
    place = 13 + _gif_colours(content[10])
    kept = [content[:place]]
    while content[place] != 0x3B:
        start = place
        if content[place] == 0x2C:
            place = _after_blocks(content, place + 11 + _gif_colours(content[place + 9]))
            kept.append(content[start:place])
        elif content[place] == 0x21:
            place = _after_blocks(content, place + 2)
            application = content[start + 1] == 0xFF and content[start + 3 : start + 14] in _GIF_KEPT
            if application or content[start + 1] == 0xF9:
                kept.append(content[start:place])
        else:
            raise ValueError("no block where there must be one")
    return b"".join([*kept, b"\x3b"])


def _gif_colours(flags: int) -> int:
    """The size of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(content: bytes, place: int) -> int:
    while content[place]:
        place += content[place] + 1
    return place + 1
