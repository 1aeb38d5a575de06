"""Whether files are still what was written: checksums of a folder's files, and the file in which they are kept."""

from collections.abc import Mapping
from pathlib import Path

import xxhash

from c3l_hf.common.files import read_json, write_json

__all__ = ["CHECKSUMS", "checksum", "checksums_of", "damage", "seal", "seal_damage"]

CHECKSUMS = "checksums.json"
_AT_ONCE = 1 << 20


def checksum(path: str | Path) -> str:
    """A file's content in short: XXH3 with 128 bits, which a disk is slower than. It finds accidents, not forgery."""
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_AT_ONCE):
            state.update(block)
    return state.hexdigest()


def checksums_of(folder: str | Path) -> dict[str, str]:
    """Path below a folder → checksum, of all its files at any depth; without `CHECKSUMS` itself and hidden files, which
    are parts of files that somebody is writing."""
    root = Path(folder)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: checksum(path) for name, path in names.items() if name != CHECKSUMS}


def damage(folder: str | Path, checksums: Mapping[str, str]) -> dict[str, str]:
    """Which files of a folder are not what was written, and what was found: {} if all are whole.

    Args:
        folder: The folder.
        checksums: Those of its files when they were written, see `checksums_of`. Other files are not looked at.
    """
    found: dict[str, str] = {}
    for name, expected in checksums.items():
        path = Path(folder, name)
        if not path.is_file():
            found[name] = "is missing"
        else:
            try:
                if checksum(path) != expected:
                    found[name] = "is not what was written"
            except OSError as error:
                found[name] = f"cannot be read ({error.strerror or type(error).__name__})"
    return found


def seal(folder: str | Path) -> None:
    """Note the checksums of all files in `checksums.json` beside them: the last thing that is written to a folder."""
    write_json(Path(folder, CHECKSUMS), checksums_of(folder))


def seal_damage(folder: str | Path) -> dict[str, str] | None:
    """The damage to a sealed folder (see `damage`); None if it has no seal, as of something that was cut short."""
    file = Path(folder, CHECKSUMS)
    if not file.is_file():
        return None
    try:
        checksums = read_json(file)
        if not isinstance(checksums, dict):
            raise ValueError
    except (ValueError, OSError):
        return {CHECKSUMS: "cannot be read"}
    return damage(folder, checksums)
