"""manifest.json: what a published folder holds (files, hashes, rows, facts of the run), so that it can be checked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from c3l_hf.common.versions import versions

__all__ = ["CARD_SCHEMA", "MANIFEST", "DataConfig", "FileRecord", "FolderError", "Manifest", "digest_of"]

MANIFEST = "manifest.json"
_FORMAT = 2
# What a card's facts are called and how the card words them: raised whenever a template, or what it is given, changes
# what a reader sees. Cards of one schema can be rendered again and compared; of others the facts are looked for.
CARD_SCHEMA = 3


class FolderError(ValueError):
    """A folder or repository that is not what it should be: which, what was found, and what to do, in one line."""


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of a file."""

    sha256: str
    size: int

    @classmethod
    def of(cls, source: Path | bytes) -> "FileRecord":
        if isinstance(source, bytes):
            return cls(hashlib.sha256(source).hexdigest(), len(source))
        with source.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest(), source.stat().st_size)


@dataclass(frozen=True)
class DataConfig:
    """One configuration of a dataset: parquet shards `folder/train-*-of-*.parquet` with so many rows in all."""

    folder: str
    rows: int
    shards: int

    @property
    def files(self) -> list[str]:
        return [f"{self.folder}/train-{shard:05d}-of-{self.shards:05d}.parquet" for shard in range(self.shards)]


@dataclass(frozen=True)
class Manifest:
    """What a folder made by this project holds.

    Attributes:
        kind: "dataset" or "generator".
        facts: What its card was rendered from, see `cards.RunFacts`.
        files: Path within the folder → its record; all files but the manifest itself.
        configs: Name → configuration of a dataset; none of a generator.
        card_schema: `CARD_SCHEMA` of the version that wrote it.
        c3l_hf: Version of this package that wrote it.
    """

    kind: Literal["dataset", "generator"]
    facts: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    configs: Mapping[str, DataConfig]
    card_schema: int = CARD_SCHEMA
    c3l_hf: str = field(default_factory=lambda: versions()["c3l-hf"])

    def to_bytes(self) -> bytes:
        """The content of manifest.json: the same for the same content, without times."""
        content = {"format": _FORMAT, "made_by": "c3l_hf", **asdict(self)}
        content["files"] = dict(sorted(content["files"].items()))
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> "Manifest":
        """Reads a manifest, which may have been written by anybody.

        Args:
            content: What manifest.json holds.
            where: Names the folder or repository in messages.

        Raises:
            FolderError: If it is not a manifest of this project, or one whose paths leave the folder.
        """
        try:
            values = json.loads(content)
            if values.pop("made_by") != "c3l_hf" or values["kind"] not in ("dataset", "generator"):
                raise ValueError
            if values["format"] == 1:  # it had a digest of the code that rendered the card
                values |= {"format": _FORMAT, "card_schema": 1}
                del values["renderer"]
            if values.pop("format") != _FORMAT:
                raise FolderError(f"{where}: {MANIFEST} has another format; it needs another version of c3l_hf")
            values["files"] = {path: FileRecord(**record) for path, record in values["files"].items()}
            values["configs"] = {name: DataConfig(**config) for name, config in values["configs"].items()}
            manifest = cls(**values)
            if not isinstance(manifest.card_schema, int) or not isinstance(manifest.facts, dict):
                raise ValueError
            if not all(map(_stays_inside, manifest.files)):
                raise ValueError
            for config in manifest.configs.values():
                if config.shards > len(manifest.files) or not manifest.files.keys() >= set(config.files):
                    raise ValueError
        except FolderError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise FolderError(f"{where}: {MANIFEST} is not one that c3l_hf has written") from None
        return manifest

    @classmethod
    def read(cls, folder: str | Path) -> "Manifest":
        """The manifest of a folder.

        Raises:
            FolderError: If there is none, as in the folder of an unfinished run, or as for `from_bytes`.
        """
        path = Path(folder) / MANIFEST
        try:
            content = path.read_bytes()
        except OSError:
            raise FolderError(
                f"{folder} has no {MANIFEST}: it was not made by c3l_hf, or the run is not finished"
            ) from None
        return cls.from_bytes(content, str(folder))


def digest_of(config: DataConfig, files: Mapping[str, FileRecord]) -> str:
    """SHA-256 over the shards of a configuration, in order."""
    return hashlib.sha256("".join(files[path].sha256 for path in config.files).encode()).hexdigest()


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not PurePosixPath(path).is_absolute() and "\\" not in path
