"""What a content is that is no picture, or none that Pillow reads: told by how it begins."""

from c3l_hf.files.decoders import can_heic, is_heic

__all__ = ["kind_of"]


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
