"""What a file of rows is instead of what its name says: told by how it begins."""

from c3l_hf.files.unreadable import kind_of

__all__ = ["other_than_rows"]

# How files begin → of which kind they are, and what to do.
_KINDS = {
    b"PAR1": ("parquet", "a Parquet file; name it .parquet"),
    b"ARROW1\0\0": ("arrow", "an Arrow file; name it .arrow"),
    b"\xff\xff\xff\xff": ("arrow", "an Arrow file; name it .arrow"),
    b"\x1f\x8b": ("gzip", "compressed by gzip; unpack it, or, if it is a text or a tar, let its name end in .gz"),
    b"PK\x03\x04": ("zip", "a ZIP archive or a spreadsheet; unpack it, or save it as CSV"),
    b"BZh91AY&SY": ("bzip2", "compressed by bzip2; unpack it"),
    b"\xfd7zXZ\0": ("xz", "compressed by xz; unpack it"),
    b"(\xb5/\xfd": ("zstd", "compressed by Zstandard; unpack it"),
    b"\x89PNG": ("picture", "a picture, and no rows"),
    b"\xff\xd8\xff": ("picture", "a picture, and no rows"),
}
_TAR, _TAR_PLACE = b"ustar", 257
# What downloads leave in the place of a file; pictures' own marks are words that a text may begin with.
_DOWNLOADS = (b"<", b"%PDF-", b"version https://git-lfs")


def other_than_rows(beginning: bytes, expected: str) -> str | None:
    """What a file is instead of rows of a kind, and what to do; None if nothing speaks against it.

    Args:
        beginning: Its first 512 bytes or more.
        expected: "parquet", "arrow", "tar", "gzip" or "text".
    """
    for mark, (kind, what) in _KINDS.items():
        if beginning.startswith(mark) and kind != expected:
            return what
    if expected != "tar" and beginning[_TAR_PLACE:].startswith(_TAR):
        return "a tar archive; name it .tar"
    return kind_of(beginning) if beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_DOWNLOADS) else None
