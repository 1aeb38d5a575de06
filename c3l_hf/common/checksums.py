"""Whether files are still what was written: checksums of files, and where they are kept."""

from pathlib import Path

import xxhash

from c3l_hf.common.files import atomic_write, read_json, write_json

__all__ = [
    "CHECKSUMS",
    "checksum",
    "checksums_of",
    "damage_of_file",
    "note",
    "note_of",
    "noted",
    "noted_damage",
    "seal",
    "seal_damage",
]

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
    are parts of files that somebody is writing. Of a file that has a note the checksum is the noted one: what was
    written, and not what the disk has made of it since."""
    root = Path(folder)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: noted(path) or checksum(path) for name, path in names.items() if name != CHECKSUMS}


def note_of(path: str | Path) -> Path:
    """Where the checksum of a single file is noted: in a hidden file beside it."""
    path = Path(path)
    return path.with_name(f".{path.name}.xxh3")


def note(path: str | Path, value: str) -> None:
    """Note the checksum of a single file beside it, before or after the file is there."""
    with atomic_write(note_of(path)) as partial:
        partial.write_text(value, "ascii")


def noted(path: str | Path) -> str | None:
    """The noted checksum of a file; None if there is none, or none that can be read."""
    try:
        return note_of(path).read_text("ascii") or None
    except (OSError, ValueError):
        return None


def damage_of_file(path: str | Path, expected: str | None) -> str | None:
    """What is wrong with a file; None if it is whole.

    Args:
        path: The file.
        expected: Its checksum when it was written; None if nobody knows.
    """
    if not Path(path).is_file():
        return "is missing"
    if expected is None:
        return "has no checksum"
    try:
        return None if checksum(path) == expected else "is not what was written"
    except OSError as error:
        return f"cannot be read ({error.strerror or type(error).__name__})"


def noted_damage(path: str | Path) -> str | None:
    """What is wrong with a single file; None if it is whole, or nobody has noted what was written."""
    return damage_of_file(path, noted(path)) if note_of(path).exists() else None


def seal(folder: str | Path) -> None:
    """Note the checksums of all files in `checksums.json` beside them: the last thing that is written to a folder."""
    write_json(Path(folder, CHECKSUMS), checksums_of(folder))


def seal_damage(folder: str | Path) -> dict[str, str] | None:
    """File of a sealed folder → what is wrong with it, see `damage_of_file`; {} if all are whole.

    Files that are not in the seal are not looked at. None if there is no seal, as in what was cut short."""
    file = Path(folder, CHECKSUMS)
    if not file.is_file():
        return None
    try:
        checksums = read_json(file)
        if not isinstance(checksums, dict):
            raise ValueError
    except (ValueError, OSError):
        return {CHECKSUMS: "cannot be read"}
    found = {name: damage_of_file(Path(folder, name), expected) for name, expected in checksums.items()}
    return {name: told for name, told in found.items() if told is not None}
