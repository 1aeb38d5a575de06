"""Is a published dataset or generator what its manifest and its card say? Every check can be made by anybody."""

import json
import math
import re
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from datasets import Features

from c3l_hf.data.layouts import text_layout
from c3l_hf.publishing.cards import RunFacts, stated_figures
from c3l_hf.publishing.export import CARD, card_and_manifest
from c3l_hf.publishing.image_checks import check_images
from c3l_hf.publishing.manifest import CARD_SCHEMA, MANIFEST, DataConfig, FileRecord, FolderError, Manifest
from c3l_hf.publishing.reading import COLUMNS, LATER_COLUMNS, Mismatch, close
from c3l_hf.publishing.row_checks import check_figures, check_rescored, check_scores, check_selection

__all__ = ["Check", "compare_facts", "verify_folder"]

# Weights in other formats than safetensors, and code: nothing that is made here has them.
_UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".onnx", ".npz", ".npy", ".py")

_TEXTS = ("prompt", "completion")


@dataclass(frozen=True)
class Check:
    """One check and its result: what was found, in one line."""

    name: str
    ok: bool
    found: str


def verify_folder(
    folder: str | Path,
    *,
    extra: Collection[str] = (),
    rescore: int = 0,
    model: str | None = None,
    model_revision: str | None = None,
) -> Iterator[Check]:
    """Check a dataset or generator that was downloaded, or is about to be pushed.

    Args:
        folder: The folder with manifest.json.
        extra: Files that are in the repository beside those of the manifest, where the folder does not have them.
        rescore: Score so many rows of a dataset again, and compare.
        model: The model to do that with: a folder or Hub id, by default the one that the manifest names.
        model_revision: Its revision.

    Yields:
        The checks one by one, as they are made. Nothing found wrong raises: it is a check that is not ok. If the
        manifest cannot be read or files are not those of the manifest, there are no further ones.
    """
    folder = Path(folder)
    try:
        manifest = Manifest.read(folder)
    except FolderError as error:
        yield Check("manifest", False, str(error))
        return
    yield Check("manifest", True, f"a {manifest.kind}, made by c3l_hf {manifest.c3l_hf}")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    check = _make("files", lambda: _check_files(folder, manifest, (there | set(extra)) - {MANIFEST}))
    yield check
    if not check.ok:
        return
    checks: dict[str, Callable[[], str]] = {}
    if manifest.kind == "dataset":
        checks["schema"] = lambda: _check_schema(folder, manifest)
        checks["scores"] = lambda: check_scores(folder, manifest)
        checks["selection"] = lambda: check_selection(folder, manifest)
        checks["images"] = lambda: check_images(folder, manifest)
        checks["figures"] = lambda: check_figures(folder, manifest)
        if rescore:
            checks["rescoring"] = lambda: check_rescored(folder, manifest, rescore, model, model_revision)
    else:
        checks["weights"] = lambda: _check_weights(folder, manifest)
        checks["loading"] = lambda: _check_loading(folder)
    checks["card"] = lambda: _check_card(folder, manifest)
    for name, make in checks.items():
        yield _make(name, make)


def compare_facts(dataset: Manifest, generator: Manifest) -> Check:
    """Whether the cards of a run's dataset and generator tell the same of the run."""
    facts, others = dataset.facts, generator.facts
    differing = [name for name in {**facts, **others} if not close(facts.get(name), others.get(name))]
    if differing:
        return Check("run", False, f"dataset and generator are not of one run, they differ in {', '.join(differing)}")
    return Check("run", True, f"{len(facts)} facts, the same of dataset and generator")


def _make(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except Mismatch as error:
        return Check(name, False, str(error))
    except Exception as error:  # whatever a file that somebody has made can bring about
        return Check(name, False, " ".join(f"{type(error).__name__}: {error}".split())[:300])


def _check_files(folder: Path, manifest: Manifest, there: Collection[str]) -> str:
    for path, record in manifest.files.items():
        if not (folder / path).is_file():
            raise Mismatch(f"{path} is not there")
        found = FileRecord.of(folder / path)
        if found != record:
            raise Mismatch(
                f"{path} is not the file of the manifest: {found.size:,} bytes, SHA-256 {found.sha256[:12]}…, "
                f"instead of {record.size:,} bytes, {record.sha256[:12]}…"
            )
    others = sorted(set(there) - manifest.files.keys())
    folders = tuple(f"{config.folder}/" for config in manifest.configs.values())
    read_with = [path for path in others if path.startswith(folders)] if folders else []
    if read_with:
        raise Mismatch(f"{read_with[0]} lies among the data, but is not in the manifest")
    size = sum(record.size for record in manifest.files.values())
    beside = f"; not in the manifest: {', '.join(others)}" if others else ""
    return f"{len(manifest.files)} files, {size:,} bytes, hashes equal{beside}"


def _check_schema(folder: Path, manifest: Manifest) -> str:
    rows = []
    for name, config in manifest.configs.items():
        expected = COLUMNS.get(name, COLUMNS["default"])
        total = 0
        for path in config.files:
            file = pq.ParquetFile(folder / path)
            total += file.metadata.num_rows
            found = Features.from_arrow_schema(file.schema_arrow)
            elsewhere = {"images"} if "images" in manifest.configs and name in ("scored", "pseudo_labels") else set()
            for column in [column for column in expected if column in found or column not in elsewhere]:
                if column in _TEXTS and name != "pseudo_labels":
                    continue  # texts may be in any layout that is read
                if column in LATER_COLUMNS and column not in found:
                    continue
                if found.get(column) != expected[column]:
                    raise Mismatch(f"{path}: column {column} is {found.get(column)}, not {expected[column]}")
        if name in ("default", "scored"):
            _check_layout(config, found)
        if total != config.rows:
            raise Mismatch(f"configuration {name} has {total:,} rows, {config.rows:,} in the manifest")
        rows.append(f"{name} {total:,} rows")
    return ", ".join(rows)


def _check_layout(config: DataConfig, features: Features) -> None:
    try:
        text_layout(features)
    except ValueError as error:
        raise Mismatch(f"{config.folder}: {error}") from None


def _check_card(folder: Path, manifest: Manifest) -> str:
    """The card says what the facts say: all of it if it is of our schema, else its figures."""
    card = (folder / CARD).read_text("utf-8")
    if manifest.card_schema == CARD_SCHEMA:
        facts = RunFacts(**manifest.facts)
        rendered = card_and_manifest(manifest.kind, facts, manifest.files, manifest.configs)[CARD].decode()
        if _metadata_and_text(card) != _metadata_and_text(rendered):
            raise Mismatch(f"{CARD} does not say what the manifest's facts say")
        return "says what the manifest's facts say"
    figures = stated_figures(manifest.facts, manifest.kind)
    lines = card.splitlines()
    for name, label, figure in figures:
        # As a whole: 12 is not found in 1,123 or 0.12.
        pattern = re.compile(rf"(?<![\d.,]){re.escape(figure)}(?![\d%]|[.,]\d)")
        if not any(label.lower() in line.lower() and pattern.search(line) for line in lines):
            raise Mismatch(f"{name} is {figure} in the manifest's facts, which {CARD} does not say")
    return (
        f"of schema {manifest.card_schema}, this version writes {CARD_SCHEMA}: its words were not compared; the "
        f"{len(figures)} figures of the facts are in it"
    )


def _metadata_and_text(card: str) -> tuple[object, str]:
    """Metadata as values: how YAML lays them out is up to a library."""
    _, metadata, text = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(metadata), text


def _check_weights(folder: Path, manifest: Manifest) -> str:
    unsafe = [path for path in manifest.files if path.lower().endswith(_UNSAFE)]
    if unsafe:
        raise Mismatch(f"{unsafe[0]}: only safetensors are safe to load, and no code belongs to it")
    if "adapter_config.json" in manifest.files:
        raise Mismatch("it has adapters: a generator is published whole, with its adapters merged")
    parameters = 0
    weights = [path for path in manifest.files if path.endswith(".safetensors")]
    for path in weights:
        with (folder / path).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 100_000_000)))
        parameters += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    if not parameters:
        raise Mismatch("it has no weights")
    return f"{parameters:,} parameters in safetensors, nothing else"


def _check_loading(folder: Path) -> str:
    from transformers import AutoConfig, AutoProcessor  # with torch: only where a generator is checked

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    if not processor.chat_template:
        raise Mismatch("the processor has no chat template")
    return f"{config.model_type}, {type(processor).__name__} with a chat template"
