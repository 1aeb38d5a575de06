"""Files: written whole or not at all, digests of contents, and what is shipped beside the package."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import c3l_hf

__all__ = [
    "atomic_folder",
    "atomic_write",
    "code_digest",
    "digest",
    "file_sha256",
    "files_digest",
    "move",
    "read_json",
    "remove_left_over",
    "shipped",
    "sync_below",
    "sync_folder",
    "write_json",
]

_LEFT_OVER = 3600.0  # seconds after which nobody still writes a file
_SHARED = "shared-"
_cleared: set[Path] = set()


@contextlib.contextmanager
def atomic_write(path: str | Path, shared: bool = False) -> Iterator[Path]:
    """A temporary path to write a file to; it takes the name `path` when all went well, and is removed when not.

    A file of that name is replaced. The content is on the disk before it has its name, and the name before this
    returns, so that a file that is there is whole, also after a crash of the machine.

    Example:

    ```python
    with atomic_write("table.parquet") as partial:
        dataset.to_parquet(partial)
    ```

    Args:
        path: The file.
        shared: Whether other processes may write it at the same time, as in a cache; the last one stays.
    """
    path = Path(path)
    # One name where that will do, so that what a killed process has left is written over. Where it will not do, a
    # random one: two containers that share a disk may have processes of the same number.
    own = f"{_SHARED}{secrets.token_hex(8)}." if shared else ""
    partial = path.with_name(f".{path.name}.{own}partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if shared and path.parent not in _cleared:  # once: it may have a million files
            _cleared.add(path.parent)
            remove_left_over(f".*.{_SHARED}*.partial", partial)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        # A full disk is told without the file that had no place on it.
        error.filename = error.filename or str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # of a disk that fails, it is the first error that tells why
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to write into; it takes the name `path` when all went well, and is removed when not.

    A folder of that name is replaced, once the new one is complete and on the disk.
    """
    path = Path(path)
    # One name, so that what a killed run has left is removed by the next.
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_below(partial)
        if path.is_dir():
            shutil.rmtree(path)
        move(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_left_over(pattern: str, own: Path) -> None:
    """Remove what processes have left that were killed: the files beside one's own that nobody has written for an hour.

    Args:
        pattern: Of their names.
        own: Just written; the disk's clock is read from it.
    """
    now = own.stat().st_mtime
    for file in own.parent.glob(pattern):
        with contextlib.suppress(OSError):  # another one was faster
            if now - file.stat().st_mtime > _LEFT_OVER:
                file.unlink()


def sync_below(folder: str | Path) -> None:
    """All files of a folder, at any depth, are on the disk when this returns."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(root)


def sync_folder(folder: str | Path) -> None:
    """The names in a folder are on the disk when this returns, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            error.filename = str(folder)
            raise
    finally:
        os.close(descriptor)


def move(source: str | Path, target: str | Path) -> None:
    """Give a file or folder another name on the same disk, in a folder that exists.

    Raises:
        OSError: If it is not there, or the target is a folder that is not empty.
    """
    source, target = Path(source), Path(target)
    os.rename(source, target)
    for folder in {source.parent, target.parent}:
        sync_folder(folder)


def write_json(path: str | Path, content: Any, shared: bool = False) -> None:
    """Write JSON, whole or not at all; see `atomic_write`."""
    with atomic_write(path, shared) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: str | Path) -> Any:
    """What a JSON file has.

    Raises:
        ValueError: If it is none; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); it may be damaged") from None


def digest(*parts: object, size: int = 16) -> str:
    """What identifies values: a hex digest (BLAKE2b) of bytes, or of other values as text. Their lengths count, which
    keeps ("a", "bc") apart from ("ab", "c").

    Args:
        parts: The values.
        size: Of the digest, in bytes.
    """
    blake = hashlib.blake2b(digest_size=size)
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        blake.update(f"{len(content)}:".encode() + content)
    return blake.hexdigest()


def file_sha256(path: str | Path) -> bytes:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def files_digest(folder: str | Path, *patterns: str, content: Callable[[Path], bytes] = file_sha256) -> str:
    """SHA-256 over the names and contents of the files of a folder (not below it), sorted by name.

    Args:
        folder: The folder.
        patterns: Which files; by default all.
        content: A file's path → the SHA-256 of its content, where that is known without reading it.
    """
    sha = hashlib.sha256()
    paths = {path for pattern in patterns or ("*",) for path in Path(folder).glob(pattern) if path.is_file()}
    for path in sorted(paths):
        sha.update(path.name.encode() + b"\0")
        sha.update(content(path))
    return sha.hexdigest()


def code_digest(*modules: ModuleType) -> str:
    """What identifies the code of modules: a digest of their sources."""
    return digest(*(Path(str(module.__file__)).read_bytes() for module in modules))


def shipped(name: str) -> Path:
    """A folder that lies at the top level of a checkout, and in the package once installed.

    Args:
        name: "hub_cards" or "configs".
    """
    package = Path(str(c3l_hf.__file__)).parent
    beside = {"hub_cards": package.parent / "hub_cards", "configs": package.parent / "recipes" / "configs"}[name]
    return package / name if (package / name).is_dir() else beside
