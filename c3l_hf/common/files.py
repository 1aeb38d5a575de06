"""Files: digests of their contents."""

import hashlib
from pathlib import Path

__all__ = ["files_digest"]


def files_digest(folder: str | Path, *patterns: str) -> str:
    """SHA-256 over the names and contents of the files of a folder (not below it), sorted by name; of all its files
    without patterns."""
    digest = hashlib.sha256()
    found = {path for pattern in patterns or ("*",) for path in Path(folder).glob(pattern) if path.is_file()}
    for path in sorted(found):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
