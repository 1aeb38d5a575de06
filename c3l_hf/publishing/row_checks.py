"""Checks of a published dataset's rows: scores, selection, and the figures and counts that its card states."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features

from c3l_hf.common.files import digest
from c3l_hf.data.layouts import IMAGE_COLUMNS, layout_of, text_layout
from c3l_hf.data.schema import LANGUAGE, SCORE_FEATURES, SCORES, STATUS, STATUS_OK, TURNS
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.publishing.cards import GENERATED_AGAIN
from c3l_hf.publishing.figures import dataset_figures, token_sums
from c3l_hf.publishing.manifest import DataConfig, Manifest
from c3l_hf.publishing.reading import Mismatch, close, columns_of, read_batches, read_rows
from c3l_hf.scoring.formulas import scores_from_logprobs

if TYPE_CHECKING:  # checks do without models
    from c3l_hf.models.loading import Source

__all__ = ["check_figures", "check_rescored", "check_scores", "check_selection"]

# Scores are taken in float64 and stored, like the lists they are recomputed from, in float32.
_TOLERANCE = 1e-4
# Of the mean log-probabilities of an answer on another machine, by the model's dtype.
_RESCORE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
# Lists of one answer, from which its scores follow.
_LISTS = ("logprob_per_token", "logprob_blind_per_token", "token_kl_per_token")


def check_scores(folder: Path, manifest: Manifest) -> str:
    """Every score of every row and turn from its per-token lists."""
    ranking = manifest.facts["ranking"]
    scored = empty = 0
    largest = 0.0
    for config in (config for name, config in manifest.configs.items() if name not in ("images", "pseudo_labels")):
        for where, row in read_rows(folder, config, ["pair_id", *SCORE_FEATURES]):
            where = f"{where} (pair {row['pair_id']!r:.60})"
            if row[STATUS] != STATUS_OK:
                empty += 1
                if row["i2c"] is not None or any(row[name] is not None for name in SCORES):
                    raise Mismatch(f"{where}: {STATUS} is {row[STATUS]!r:.60}, and yet it has scores")
                continue
            scored += 1
            tokens = len(row["answer_tokens"])
            if {tokens} != {len(row[name]) for name in _LISTS} or tokens != sum(t["tokens"] for t in row[TURNS]):
                raise Mismatch(f"{where}: its lists have different numbers of tokens")
            parts, end = [("", row, 0, tokens)], 0
            for number, turn in enumerate(row[TURNS], 1):
                start, end = end, end + turn["tokens"]
                if turn.get("status", STATUS_OK) == STATUS_OK:  # earlier ones have none
                    parts.append((f" of turn {number}", turn, start, end))
                elif turn["tokens"] or any(turn[name] is not None for name in ("i2c", *SCORES)):
                    raise Mismatch(f"{where}: turn {number} is {turn['status']!r:.60}, and yet it has scores")
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
                        raise Mismatch(f"{where}: {name}{of} is {scores[name]:.6g}, its tokens give {value:.6g}")
    return f"{scored:,} rows recomputed from their tokens, difference at most {largest:.0e}; {empty:,} without a score"


def check_selection(folder: Path, manifest: Manifest) -> str:
    """The compact dataset is part of the pool; of each pseudo-label the chosen pair has the best score."""
    found = []
    if "scored" in manifest.configs:
        _check_part_of_pool(folder, manifest.configs["default"], manifest.configs["scored"])
        found.append("every pair is one of the scored pool")
    if "pseudo_labels" in manifest.configs:
        columns = ["chosen_score", "rejected", "rejected_scores"]
        for where, row in read_rows(folder, manifest.configs["pseudo_labels"], columns):
            if len(row["rejected"]) != len(row["rejected_scores"]) or not row["rejected"]:
                raise Mismatch(f"{where}: {len(row['rejected'])} rejected, {len(row['rejected_scores'])} scores")
            if not max(row["rejected_scores"]) <= row["chosen_score"]:
                raise Mismatch(f"{where}: a rejected pair has a better score than the chosen one")
        found.append("every chosen pair is the best of its image")
    return "; ".join(found) or "one configuration only"


def _check_part_of_pool(folder: Path, default: DataConfig, scored: DataConfig) -> None:
    """Rows of the compact dataset are rows of the pool, in all columns but the images."""
    columns = [name for name in columns_of(folder, default) if name not in IMAGE_COLUMNS]
    if missing := sorted(set(columns) - set(columns_of(folder, scored))):
        raise Mismatch(f"the scored pool has no column {', '.join(missing)}, which the compact dataset has")
    kept: dict[str, tuple[str, str]] = {}
    for where, row in read_rows(folder, default, columns):
        if row["i2c"] is None or row["pair_id"] in kept:
            reason = "has no score" if row["i2c"] is None else "is there twice"
            raise Mismatch(f"{where}: pair {row['pair_id']!r:.60} {reason}")
        kept[row["pair_id"]] = where, digest(*row.values())
    kept_ids = pa.array(list(kept), pa.string())
    for path, start, batch in read_batches(folder, scored, columns):
        numbers = pc.indices_nonzero(pc.is_in(batch["pair_id"], value_set=kept_ids))
        for number, row in zip(numbers.to_pylist(), batch.take(numbers).to_pylist()):
            if row["pair_id"] not in kept:
                raise Mismatch(f"{path}, row {start + number}: pair {row['pair_id']!r:.60} is there twice")
            where, content = kept.pop(row["pair_id"])
            if content != digest(*row.values()):
                raise Mismatch(f"{where}: pair {row['pair_id']!r:.60} is not so in the scored pool")
    for pair_id, (where, _) in kept.items():
        raise Mismatch(f"{where}: pair {pair_id!r:.60} is not in the scored pool")


def check_figures(folder: Path, manifest: Manifest) -> str:
    pool = manifest.configs["scored" if "scored" in manifest.configs else "default"]
    scores = pa.chunked_array([batch["i2c"] for *_, batch in read_batches(folder, pool, ["i2c"])], pa.float32())
    figures = json.loads(
        json.dumps(dataset_figures(_without_images(folder, manifest.configs["default"]), scores.to_numpy()))
    )
    found = [(name, manifest.facts.get(name), value) for name, value in figures.items()]
    for name, stated, value in found + _counts(folder, manifest) + _tokens(folder, manifest):
        if not close(stated, value):
            raise Mismatch(f"{name}: {stated!r:.80} on the card, {value!r:.80} in the data")
    return ", ".join([*figures, "counts that follow from the rows"])


def _counts(folder: Path, manifest: Manifest) -> list[tuple[str, Any, Any]]:
    """(which, the count on the card, that of the rows) of every count of a stage or of judged pairs.

    Of the first round only the pseudo-labels are among the rows: where nothing tells a count, it stands for itself.
    """
    rows = {name: config.rows for name, config in manifest.configs.items()}
    told = {("curate", "kept"): rows["default"], ("truth", "curated: the dataset"): rows["default"]}
    whole: dict[str, Mapping[str, int]] = {}
    if "scored" in rows:
        statuses: dict[str, Counter[str]] = {name: Counter() for name in ("generation_status", STATUS)}
        for *_, batch in read_batches(folder, manifest.configs["scored"], list(statuses)):
            for name, counter in statuses.items():
                counter.update({e["values"]: e["counts"] for e in pc.value_counts(batch[name]).to_pylist()})
        whole = {
            "regenerate": {"pairs": rows["scored"], "ok": 0, **statuses["generation_status"]},
            "rescore": statuses[STATUS],
        }
        told |= {("curate", "pairs"): rows["scored"], ("truth", GENERATED_AGAIN): rows["scored"]}
    if "pseudo_labels" in rows:
        labels = rows["pseudo_labels"]
        told |= {("select", "pseudo-labels"): labels, ("truth", "pseudo-labels, chosen"): labels}
    judged = [[pool, number] for pool, number, *_ in manifest.facts["truth"] or ()]
    counts: list[tuple[str, Any, Any]] = []
    for name, stated in [*manifest.facts["stages"], ("truth", judged)]:
        if name in whole:
            counts.append((f"counts of {name}", sorted(label for label, _ in stated), sorted(whole[name])))
            told |= {(name, label): number for label, number in whole[name].items()}
        counts += [(f"{name}, {label}", number, told.get((name, label), number)) for label, number in stated]
    return counts


def _tokens(folder: Path, manifest: Manifest) -> list[tuple[str, Any, Any]]:
    """The tokens of the second round, whose pairs are all there."""
    pool = manifest.configs.get("scored")
    if pool is None or "usage" not in columns_of(folder, pool):
        return []
    stated = [row for row in manifest.facts.get("tokens") or () if row[0] == "regenerate"]
    sums = token_sums(batch["usage"] for *_, batch in read_batches(folder, pool, ["usage"]))
    return [("tokens of regenerate", stated, [["regenerate", *row] for row in sums])]


def _without_images(folder: Path, config: DataConfig) -> Dataset:
    """A configuration without its images and lists of tokens."""
    features = Features.from_arrow_schema(pq.read_schema(folder / config.files[0]))
    layout = text_layout(features)
    columns = list(dict.fromkeys([*layout.text, *layout.further, "image_id", "pair_id", "type", "i2c", STATUS]))
    columns += [LANGUAGE] * (LANGUAGE in features)
    batches = [batch for *_, batch in read_batches(folder, config, columns)]
    # Of the metadata those of the columns that were read.
    kept = Features({name: features[name] for name in columns})
    return Dataset(pa.Table.from_batches(batches).replace_schema_metadata(kept.arrow_schema.metadata))


def check_rescored(folder: Path, manifest: Manifest, number: int, model: str | None, revision: str | None) -> str:
    # torch and models are loaded only where they are asked for
    from c3l_hf.models.loading import Source, load
    from c3l_hf.scoring.scorer import I2CScorer

    facts = manifest.facts
    name = "scorer" if facts.get("scorer") else "generator"
    dtype = str(facts.get("scorer_dtype") or facts["options"].get("model_dtype", "float32"))
    if model is None:
        model, revision = facts[name], facts[f"{name}_revision"]
        if revision is None:
            raise Mismatch(f"the scores are by a local model ({model}): give its folder as model")
    source = Source(model, revision, dtype)
    if model == facts[name] and facts.get(f"{name}_base_revision"):
        # Adapters, whose model may have moved on.
        base, base_revision = facts[f"{name}_base"], facts[f"{name}_base_revision"]
        source = replace(source, base_model=base, base_revision=base_revision)
    if Path(model).is_dir():
        _check_identity(source, {part: facts.get(f"{name}_{part}") for part in ("digest", "base_digest")})
    scorer = I2CScorer(*load(source), ranking=facts["ranking"])
    config = manifest.configs["default"]
    # Spread over the dataset, the same at every call.
    wanted = np.unique(np.linspace(0, config.rows - 1, min(number, config.rows)).astype(int)).tolist()
    features = Features.from_arrow_schema(pq.read_schema(folder / config.files[0]))
    layout = layout_of(features).columns
    columns = [*layout, "pair_id", "logprob", "logprob_blind", "i2c"]
    rows, start = [], 0
    for *_, batch in read_batches(folder, config, columns):
        there = batch.take([number - start for number in wanted if start <= number < start + len(batch)])
        rows += stored_rows(pa.Table.from_batches([there]), features)
        start += len(batch)
    largest = 0.0
    for row, again in zip(rows, scorer.score([{name: row[name] for name in layout} for row in rows])):
        if again[STATUS] != STATUS_OK:
            raise Mismatch(f"pair {row['pair_id']!r:.60}: {again[STATUS]}")
        for score in ("logprob", "logprob_blind"):
            difference = abs(row[score] - again[score])
            largest = max(largest, difference)
            if not difference <= _RESCORE_TOLERANCE.get(dtype, 0.05):
                found = f"{score} is {row[score]:.6g}, the model gives {again[score]:.6g}"
                raise Mismatch(f"pair {row['pair_id']!r:.60}: {found}")
    return f"{len(rows)} rows by {facts[name]}, log-probabilities differ by {largest:.0e} at most"


def _check_identity(source: "Source", stated: Mapping[str, str | None]) -> None:
    """A local model, and the model of adapters, have the weights that the facts tell of."""
    from c3l_hf.models.finding import find_model

    identity = find_model(source)[1]
    for part, told in stated.items():
        if told is not None and identity.get(part) != told:
            raise Mismatch(f"{source.model_id} is not the model that gave the scores: its weights have another digest")
