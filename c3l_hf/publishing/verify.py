"""Is a published dataset or generator what its manifest and its card say? Every check can be made by anybody."""

import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from transformers import AutoConfig, AutoProcessor

from c3l_hf.common.files import files_digest
from c3l_hf.data.image import image_key, open_image
from c3l_hf.data.schema import PAIR_FEATURES, PSEUDO_LABEL_FEATURES, SCORE_FEATURES, SCORES, STATUS, STATUS_OK, TURNS
from c3l_hf.data.status import generation_counts
from c3l_hf.publishing.cards import GENERATED_AGAIN, RunFacts, renderer
from c3l_hf.publishing.export import CARD, card_and_manifest
from c3l_hf.publishing.figures import dataset_figures
from c3l_hf.publishing.manifest import MANIFEST, DataConfig, FileRecord, FolderError, Manifest
from c3l_hf.scoring.formulas import scores_from_logprobs

__all__ = ["Check", "verify_folder"]

_SCORED = Features({**PAIR_FEATURES, **SCORE_FEATURES})
# Scores are taken in float64 and stored, like the lists they are recomputed from, in float32.
_TOLERANCE = 1e-4
# Of the mean log-probabilities of an answer on another machine, by the model's dtype.
_RESCORE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
# Lists of one answer, from which its scores follow.
_LISTS = ("logprob_per_token", "logprob_blind_per_token", "token_kl_per_token")
# Weights in other formats than safetensors, and code: nothing that is made here has them.
_UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".onnx", ".npz", ".npy", ".py")


@dataclass(frozen=True)
class Check:
    """One check and its result: what was found, in one line."""

    name: str
    ok: bool
    found: str


class _Mismatch(Exception):
    """What a check has found wrong, in one line."""


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
        checks["scores"] = lambda: _check_scores(folder, manifest)
        checks["selection"] = lambda: _check_selection(folder, manifest)
        checks["images"] = lambda: _check_images(folder, manifest)
        checks["figures"] = lambda: _check_figures(folder, manifest)
        if rescore:
            checks["rescoring"] = lambda: _check_rescored(folder, manifest, rescore, model, model_revision)
    else:
        checks["weights"] = lambda: _check_weights(folder, manifest)
        checks["loading"] = lambda: _check_loading(folder)
    checks["card"] = lambda: _check_card(folder, manifest)
    for name, check in checks.items():
        yield _make(name, check)


def _make(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except _Mismatch as error:
        return Check(name, False, str(error))
    except Exception as error:  # whatever a file that somebody has made can bring about
        return Check(name, False, " ".join(f"{type(error).__name__}: {error}".split())[:300])


def _check_files(folder: Path, manifest: Manifest, there: Collection[str]) -> str:
    for path, record in manifest.files.items():
        if not (folder / path).is_file():
            raise _Mismatch(f"{path} is not there")
        found = FileRecord.of(folder / path)
        if found != record:
            raise _Mismatch(
                f"{path} is not the file of the manifest: {found.size:,} bytes, SHA-256 {found.sha256[:12]}…, "
                f"instead of {record.size:,} bytes, {record.sha256[:12]}…"
            )
    others = sorted(set(there) - manifest.files.keys())
    folders = tuple(f"{config.folder}/" for config in manifest.configs.values())
    read_with = [path for path in others if path.startswith(folders)] if folders else []
    if read_with:
        raise _Mismatch(f"{read_with[0]} lies among the data, but is not in the manifest")
    size = sum(record.size for record in manifest.files.values())
    beside = f"; not in the manifest: {', '.join(others)}" if others else ""
    return f"{len(manifest.files)} files, {size:,} bytes, hashes equal{beside}"


def _check_schema(folder: Path, manifest: Manifest) -> str:
    rows = []
    for name, config in manifest.configs.items():
        expected = PSEUDO_LABEL_FEATURES if name == "pseudo_labels" else _SCORED
        total = 0
        for path in config.files:
            file = pq.ParquetFile(folder / path)
            total += file.metadata.num_rows
            found = Features.from_arrow_schema(file.schema_arrow)
            for column, feature in expected.items():
                if found.get(column) != feature:
                    raise _Mismatch(f"{path}: column {column} is {found.get(column)}, not {feature}")
        if total != config.rows:
            raise _Mismatch(f"configuration {name} has {total:,} rows, {config.rows:,} in the manifest")
        rows.append(f"{name} {total:,} rows")
    return ", ".join(rows)


def _check_scores(folder: Path, manifest: Manifest) -> str:
    """Every score of every row and turn from its per-token lists."""
    ranking = manifest.facts["ranking"]
    scored = empty = 0
    largest = 0.0
    for config in _pairs(manifest):
        for where, row in _rows(folder, config, ["pair_id", *SCORE_FEATURES]):
            where = f"{where} (pair {row['pair_id']!r:.60})"
            if row[STATUS] != STATUS_OK:
                empty += 1
                if row["i2c"] is not None or any(row[name] is not None for name in SCORES):
                    raise _Mismatch(f"{where}: {STATUS} is {row[STATUS]!r:.60}, and yet it has scores")
                continue
            scored += 1
            tokens = len(row["answer_tokens"])
            if {tokens} != {len(row[name]) for name in _LISTS} or tokens != sum(t["tokens"] for t in row[TURNS]):
                raise _Mismatch(f"{where}: its lists have different numbers of tokens")
            parts, end = [("", row, 0, tokens)], 0
            for number, turn in enumerate(row[TURNS], 1):
                start, end = end, end + turn["tokens"]
                parts.append((f" of turn {number}", turn, start, end))
            recomputed: dict[tuple[int, int], dict[str, float]] = {}
            for of, scores, start, end in parts:
                if (start, end) not in recomputed:  # a row with one turn has its scores twice
                    expected = scores_from_logprobs(*(row[name][start:end] for name in _LISTS))
                    recomputed[start, end] = {**expected, "i2c": expected[ranking]}
                expected = recomputed[start, end]
                for name, value in expected.items():
                    difference = abs(scores[name] - value) / max(1.0, abs(value))
                    largest = max(largest, difference)
                    if not difference <= _TOLERANCE:
                        raise _Mismatch(f"{where}: {name}{of} is {scores[name]:.6g}, its tokens give {value:.6g}")
    return f"{scored:,} rows recomputed from their tokens, difference at most {largest:.0e}; {empty:,} without a score"


def _check_selection(folder: Path, manifest: Manifest) -> str:
    """The compact dataset is part of the pool; of each pseudo-label the chosen pair has the best score."""
    found = []
    if "scored" in manifest.configs:
        pool = {row["pair_id"]: row["i2c"] for _, row in _rows(folder, manifest.configs["scored"], ["pair_id", "i2c"])}
        for where, row in _rows(folder, manifest.configs["default"], ["pair_id", "i2c"]):
            if row["i2c"] is None or pool.get(row["pair_id"]) != row["i2c"]:
                raise _Mismatch(f"{where}: pair {row['pair_id']!r:.60} is not so in the scored pool")
        found.append("every pair is one of the scored pool")
    if "pseudo_labels" in manifest.configs:
        columns = ["chosen_score", "rejected", "rejected_scores"]
        for where, row in _rows(folder, manifest.configs["pseudo_labels"], columns):
            if len(row["rejected"]) != len(row["rejected_scores"]) or not row["rejected"]:
                raise _Mismatch(f"{where}: {len(row['rejected'])} rejected, {len(row['rejected_scores'])} scores")
            if not max(row["rejected_scores"]) <= row["chosen_score"]:
                raise _Mismatch(f"{where}: a rejected pair has a better score than the chosen one")
        found.append("every chosen pair is the best of its image")
    return "; ".join(found) or "one configuration only"


def _check_images(folder: Path, manifest: Manifest) -> str:
    seen = set()
    for config in manifest.configs.values():
        for where, row in _rows(folder, config, ["images"]):
            for image in row["images"] or ():
                key = image_key(image)
                if key not in seen:
                    try:
                        open_image(image)
                    except ValueError as error:
                        raise _Mismatch(f"{where}: {error}") from None
                    seen.add(key)
    for path in manifest.files:
        if path.startswith("examples/"):
            with PIL.Image.open(folder / path) as picture:
                picture.verify()
    return f"{len(seen):,} different ones, all can be read"


def _check_figures(folder: Path, manifest: Manifest) -> str:
    pool = "scored" if "scored" in manifest.configs else "default"
    curated, pairs = (_table(folder, manifest.configs[name]) for name in ("default", pool))
    figures = json.loads(json.dumps(dataset_figures(curated, pairs)))
    found = [(name, manifest.facts.get(name), value) for name, value in figures.items()]
    for name, stated, value in found + _counts(manifest, pairs):
        if not _close(stated, value):
            raise _Mismatch(f"{name}: {stated!r:.80} on the card, {value!r:.80} in the data")
    return ", ".join([*figures, "counts that follow from the rows"])


def _counts(manifest: Manifest, pairs: Dataset) -> list[tuple[str, Any, Any]]:
    """(which, the count on the card, that of the rows) of every count of a stage or of judged pairs.

    Of the first round only the pseudo-labels are among the rows: where nothing tells a count, it stands for itself.
    """
    rows = {name: config.rows for name, config in manifest.configs.items()}
    told = {("curate", "kept"): rows["default"], ("truth", "curated: the dataset"): rows["default"]}
    whole = {}
    if "scored" in rows:
        whole = {"regenerate": generation_counts(pairs), "rescore": Counter(pairs[STATUS])}
        told |= {("curate", "pairs"): rows["scored"], ("truth", GENERATED_AGAIN): rows["scored"]}
    if "pseudo_labels" in rows:
        labels = rows["pseudo_labels"]
        told |= {("select", "pseudo-labels"): labels, ("truth", "pseudo-labels, chosen"): labels}
    judged = [[pool, number] for pool, number, *_ in manifest.facts["truth"] or ()]
    counts = []
    for name, stated in [*manifest.facts["stages"], ("truth", judged)]:
        if name in whole:
            counts.append((f"counts of {name}", sorted(label for label, _ in stated), sorted(whole[name])))
            told |= {(name, label): number for label, number in whole[name].items()}
        counts += [(f"{name}, {label}", number, told.get((name, label), number)) for label, number in stated]
    return counts


def _check_card(folder: Path, manifest: Manifest) -> str:
    if manifest.renderer != renderer():
        return "not rendered again: it was written by another version of this package"
    facts = RunFacts(**manifest.facts)
    if (folder / CARD).read_bytes() != card_and_manifest(manifest.kind, facts, manifest.files, manifest.configs)[CARD]:
        raise _Mismatch(f"{CARD} does not say what the manifest's facts say")
    return "says what the manifest's facts say"


def _check_weights(folder: Path, manifest: Manifest) -> str:
    unsafe = [path for path in manifest.files if path.lower().endswith(_UNSAFE)]
    if unsafe:
        raise _Mismatch(f"{unsafe[0]}: only safetensors are safe to load, and no code belongs to it")
    parameters = 0
    weights = [path for path in manifest.files if path.endswith(".safetensors")]
    for path in weights:
        with (folder / path).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 100_000_000)))
        parameters += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    if not parameters:
        raise _Mismatch("it has no weights")
    return f"{parameters:,} parameters in safetensors, nothing else"


def _check_loading(folder: Path) -> str:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    if not processor.chat_template:
        raise _Mismatch("the processor has no chat template")
    return f"{config.model_type}, {type(processor).__name__} with a chat template"


def _check_rescored(folder: Path, manifest: Manifest, number: int, model: str | None, revision: str | None) -> str:
    from c3l_hf.scoring.scorer import I2CScorer  # torch and models are loaded only where they are asked for

    facts = manifest.facts
    if model is None:
        model, revision = facts["generator"], facts["generator_revision"]
        if revision is None:
            raise _Mismatch(f"the scores are by a local model ({model}): name its folder with --model")
    if Path(model).is_dir() and facts["generator_digest"] not in (None, files_digest(model, "*.safetensors")):
        raise _Mismatch(f"{model} is not the model that gave the scores: its weights have another digest")
    dtype = str(facts["options"].get("model_dtype", "float32"))
    scorer = I2CScorer.from_pretrained(model, revision=revision, dtype=dtype, ranking=facts["ranking"])
    config = manifest.configs["default"]
    # Spread over the dataset, the same at every call.
    wanted = set(np.unique(np.linspace(0, config.rows - 1, min(number, config.rows)).astype(int)).tolist())
    columns = ["images", "prompt", "completion", "pair_id", "logprob", "logprob_blind", "i2c"]
    rows = [row for index, (_, row) in enumerate(_rows(folder, config, columns)) if index in wanted]
    largest = 0.0
    for row, again in zip(rows, scorer.score([{name: row[name] for name in columns[:3]} for row in rows])):
        if again[STATUS] != STATUS_OK:
            raise _Mismatch(f"pair {row['pair_id']!r:.60}: {again[STATUS]}")
        for name in ("logprob", "logprob_blind"):
            difference = abs(row[name] - again[name])
            largest = max(largest, difference)
            if not difference <= _RESCORE_TOLERANCE.get(dtype, 0.05):
                found = f"{name} is {row[name]:.6g}, the model gives {again[name]:.6g}"
                raise _Mismatch(f"pair {row['pair_id']!r:.60}: {found}")
    return f"{len(rows)} rows by {facts['generator']}, log-probabilities differ by {largest:.0e} at most"


def _pairs(manifest: Manifest) -> list[DataConfig]:
    return [config for name, config in manifest.configs.items() if name != "pseudo_labels"]


def _rows(folder: Path, config: DataConfig, columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it is, the row) of some columns of a configuration, without reading all of it at once."""
    for path in config.files:
        number = 0
        for batch in pq.ParquetFile(folder / path).iter_batches(100, columns=columns):
            for row in batch.to_pylist():
                yield f"{path}, row {number}", row
                number += 1


def _table(folder: Path, config: DataConfig) -> Dataset:
    """A configuration without its images."""
    columns = ["image_id", "pair_id", "type", "prompt", "completion", "i2c", STATUS, "generation_status"]
    tables = [pq.read_table(folder / path, columns=columns) for path in config.files]
    # The metadata describe columns that were not read.
    return Dataset(pa.concat_tables(tables).replace_schema_metadata(None))


def _close(found: Any, expected: Any) -> bool:
    """Equality of JSON values, numbers up to rounding."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(expected)
            and all(_close(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_close, found, expected))
    if isinstance(expected, float) and isinstance(found, float | int):
        return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    return found == expected
