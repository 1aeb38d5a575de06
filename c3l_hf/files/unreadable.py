"""What a content is that is no picture, or none that Pillow reads, or no rows: told by how it begins."""

from c3l_hf.files.decoders import can_heic, is_heic

__all__ = ["kind_of", "other_than_rows"]

# How files begin → of which kind they are, and what to do.
_ROWS = {
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
_TAR = (257, b"ustar")


def kind_of(beginning: bytes) -> str | None:
    """What a content is that Pillow cannot read, where its first 64 bytes tell."""
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
    return None


def other_than_rows(beginning: bytes, expected: str) -> str | None:
    """What a file of rows is instead of what its name says, and what to do; None if nothing speaks against it.

    Args:
        beginning: Its first 512 bytes or more.
        expected: "parquet", "arrow", "tar" or "text".
    """
    for mark, (kind, what) in _ROWS.items():
        if beginning.startswith(mark) and kind != expected:
            return what
    if expected != "tar" and beginning[_TAR[0] :].startswith(_TAR[1]):
        return "a tar archive; name it .tar"
    return kind_of(beginning) if beginning and not is_heic(beginning) else None
