"""Selection written the plain way: a Python object for each pair, every rule a loop over all of them.

`c3l_hf.selection` works on columns and image by image; its tests and the benchmark beside this file compare it with
this. It needs some 10 kB of memory a pair. `curate` and `select_pseudo_labels` describe the rules and the arguments.
Nothing is checked here but what the rules need.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.stats import rankdata, spearmanr

from c3l_hf.common.errors import RowError
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.template_files import load_templates

__all__ = ["plain_labels", "plain_pairs", "plain_random"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TOO_FEW, _UNFIT, _IDENTICAL, _MARGIN = (
    "fewer than two scored pairs",
    "fewer than two that fit the form of the reply",
    "all texts identical to the chosen one",
    "margin too small",
)
_EARLIER = "the question follows earlier turns"
_LEFT_OUT = (
    "same text as the chosen one",
    "same text as another",
    "above max_rejected",
    "does not fit the form of the reply",
)


@dataclass(frozen=True)
class _Pair:
    row: int
    image_id: str
    pair_id: str
    type: str
    turns: tuple[tuple[str, str], ...]
    score: float
    form: str | None

    @property
    def question(self) -> str:
        return "\n".join(question for question, _ in self.turns)

    @property
    def answer(self) -> str:
        return "\n".join(answer for _, answer in self.turns)


def plain_pairs(
    rows: Sequence[dict],
    *,
    target_size: int = 5000,
    score: str = "i2c",
    floors: Mapping[str, float] | None = None,
    min_quantile: float | None = None,
    balance_by: Sequence[str] = ("type",),
    within_type: bool = True,
    near_duplicate_scope: str = "image",
    near_duplicate_threshold: float = 0.8,
    max_per_image: int | None = None,
    keep_types: Collection[str] | None = None,
    keep_languages: Collection[str] | None = None,
    seed: int = 0,
) -> tuple[list[int], dict]:
    """The row numbers that `curate` keeps, and the fields of its report."""
    if score == "random":
        rows = [{**values, "random": 0.0} for values in rows]
    scored, dropped = _read(rows, score)
    ranks = _ranks(scored)
    value = {pair.pair_id: ranks[pair.pair_id] if within_type else pair.score for pair in scored}
    pairs = sorted(scored, key=lambda pair: (-value[pair.pair_id], _hash(seed, pair.pair_id)))

    def drop(rule: str, keep: Callable[[_Pair], bool]) -> None:
        nonlocal pairs
        kept = [pair for pair in pairs if keep(pair)]
        dropped[rule] = len(pairs) - len(kept)
        pairs = kept

    if keep_types is not None:
        drop("type not among those to keep", lambda pair: pair.type in keep_types)
    if keep_languages is not None:
        drop("language not among those to keep", lambda pair: rows[pair.row]["language"] in keep_languages)
    if set(balance_by) - {"type"}:
        drop(f"no {' or '.join(balance_by)}", lambda pair: _group(rows, pair.row, balance_by) is not None)
    for name, least in (floors or {}).items():
        values = [math.nan if row[name] is None else row[name] for row in rows]
        if name != score:
            drop(f"no {name}", lambda pair, values=values: not math.isnan(values[pair.row]))
        drop(f"{name} below {least:g}", lambda pair, values=values, least=least: values[pair.row] >= least)
    if min_quantile is not None and pairs:
        floors = _floors(scored, min_quantile, within_type)
        drop(f"score in the lowest {min_quantile:.0%}", lambda pair: pair.score >= floors[pair.type])
    drop("same instruction about the same image", _first(1, lambda pair: (pair.image_id, _normal(pair.question))))
    if near_duplicate_scope == "image":
        drop(
            "near-duplicate about the same image", _NearDuplicates(near_duplicate_threshold, lambda pair: pair.image_id)
        )
    elif near_duplicate_scope == "dataset":
        drop("near-duplicate in the dataset", _NearDuplicates(near_duplicate_threshold))
    if max_per_image is not None:
        drop(f"beyond {max_per_image} about the same image", _first(max_per_image, lambda pair: pair.image_id))
    available, groups = _type_counts(pairs), _group_counts(rows, pairs, balance_by)
    rule = f"beyond the quota of the {' and '.join(balance_by)}" if balance_by else "beyond target_size"
    drop(rule, _within_quota(_quotas(groups, target_size), lambda pair: _group(rows, pair.row, balance_by)))

    pairs.sort(key=lambda pair: (pair.image_id, pair.pair_id))
    return [pair.row for pair in pairs], {
        "pairs": len(rows),
        "dropped": dropped,
        "kept": len(pairs),
        "target_size": target_size,
        "types_before": _type_counts(scored),
        "types_available": available,
        "types_after": _type_counts(pairs),
        "balance_by": list(balance_by),
        "groups_available": groups,
        "groups_after": _group_counts(rows, pairs, balance_by),
        "length_before": _length_correlation(scored),
        "length_after": _length_correlation(pairs),
        "assumed": [],
        "marks": "",
    }


def plain_random(
    rows: Sequence[dict], size: int | Mapping[str, int], *, balance_by: Sequence[str] = ("type",), seed: int = 0
) -> list[int]:
    """The row numbers that `random_selection` chooses."""
    pairs = [
        (_hash(seed, values["pair_id"]), values["type"], values["image_id"], values["pair_id"], row)
        for row, values in enumerate(rows)
        if values["prompt"] is not None and values["completion"] is not None
        if _group(rows, row, balance_by) is not None
    ]
    quotas = size
    if not isinstance(size, Mapping):
        quotas = _quotas(Counter(_group(rows, pair[-1], balance_by) for pair in pairs), size)
    chosen = []
    for group, quota in quotas.items():
        chosen += sorted(pair for pair in pairs if _group(rows, pair[-1], balance_by) == group)[:quota]
    return [pair[-1] for pair in sorted(chosen, key=lambda pair: pair[2:])]


def plain_labels(
    rows: Sequence[dict],
    *,
    score: str = "i2c",
    within: str = "type",
    max_rejected: int = 4,
    min_margin: float = 0.0,
) -> tuple[list[dict], dict]:
    """The rows of `select_pseudo_labels` with `row`, that of the chosen pair, and the fields of its report."""
    scored, left_out = _read(rows, score, for_labels=True)
    groups: dict[str, dict[str, list[_Pair]]] = {values["image_id"]: {} for values in rows}
    for pair in scored:
        groups[pair.image_id].setdefault(pair.type if within == "type" else "", []).append(pair)
    rank = _ranks(scored)

    candidates, dropped = [], dict.fromkeys((_TOO_FEW, _UNFIT, _IDENTICAL, _MARGIN), 0)
    rejected_left_out = dict.fromkeys(_LEFT_OUT, 0)
    for by_type in groups.values():
        outcomes = [_candidates(pairs, max_rejected, min_margin) for pairs in by_type.values()]
        kept = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        if kept:
            chosen, rejected, removed = min(kept, key=lambda kept: (-rank[kept[0].pair_id], kept[0].pair_id))
            candidates.append((chosen, rejected))
            for reason, count in zip(rejected_left_out, removed):
                rejected_left_out[reason] += count
        else:
            dropped[max(outcomes, key=list(dropped).index, default=_TOO_FEW)] += 1

    weights = _ranks([chosen for chosen, _ in candidates])
    asked = [_asked(rows[chosen.row], len(chosen.turns)) for chosen, _ in candidates]
    labels = [
        _label(chosen, rejected, template, prompt, 2 * weights[chosen.pair_id])
        for (chosen, rejected), (_, template, prompt) in zip(candidates, asked)
    ]
    assumed = []
    for name in ("instruct", "scenes"):
        ids = [template for source, template, _ in asked if source == name]
        if ids:
            known = sorted(set(ids))
            more = f" and {len(known) - 10} more" if len(known) > 10 else ""
            told = ", ".join(known[:10]) + more
            assumed.append(f"no generation_prompt: {len(ids):,} pseudo-labels ask with {told} of the set {name}")
    return labels, {
        "images": len(groups),
        "labels": len(candidates),
        "pairs": len(rows),
        "pairs_left_out": left_out,
        "rejected_left_out": rejected_left_out,
        "images_dropped": dropped,
        "types": dict(sorted(Counter(chosen.type for chosen, _ in candidates).items())),
        "quantiles": _quantiles(candidates) if candidates else {},
        "assumed": assumed,
    }


def _read(rows: Sequence[dict], score: str, for_labels: bool = False) -> tuple[list[_Pair], dict[str, int]]:
    pairs, left_out = [], dict.fromkeys(("no pair", "not scored", "score not finite"), 0)
    for row, values in enumerate(rows):
        if values["prompt"] is None or values["completion"] is None:
            left_out["no pair"] += 1
        elif values["i2c_status"] != "ok" or values[score] is None:
            left_out["not scored"] += 1
        elif for_labels and any(message["role"] == "assistant" for message in values["prompt"]):
            left_out[_EARLIER] = left_out.get(_EARLIER, 0) + 1
        elif not math.isfinite(values[score]):
            left_out["score not finite"] += 1
        else:
            pairs.append(
                _Pair(
                    row,
                    *(values[name] for name in ("image_id", "pair_id", "type")),
                    _turns(values["prompt"], values["completion"]),
                    values[score],
                    values.get("reply_form") if values.get("generation_prompt") else None,
                )
            )
    return pairs, left_out


def _turns(prompt: Sequence[dict], completion: Sequence[dict]) -> tuple[tuple[str, str], ...]:
    """Question and answer of each answer of the completion; the first question is the prompt's last."""
    turns, asked = [], ""
    for message in prompt:
        if message["role"] == "user":
            asked = message["content"]
    for message in completion:
        if message["role"] == "assistant":
            turns.append((asked, message["content"]))
            asked = ""
        elif message["role"] == "user":
            asked = asked + "\n" + message["content"] if asked else message["content"]
    return tuple(turns) or ((asked, ""),)


def _ranks(pairs: Sequence[_Pair]) -> dict[str, float]:
    by_type = defaultdict(list)
    for pair in pairs:
        by_type[pair.type].append(pair)
    ranks = {}
    for members in by_type.values():
        quantiles = (rankdata([pair.score for pair in members]) - 0.5) / len(members)
        ranks.update(zip((pair.pair_id for pair in members), quantiles.tolist()))
    return ranks


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def _group(rows: Sequence[dict], row: int, columns: Sequence[str]) -> str | None:
    """The name of a row's group; none if one of the columns is null."""
    values = [rows[row][name] for name in columns]
    return None if None in values else " / ".join(map(str, values))


def _group_counts(rows: Sequence[dict], pairs: Sequence[_Pair], columns: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(_group(rows, pair.row, columns) for pair in pairs).items()))


def _type_counts(pairs: Sequence[_Pair]) -> dict[str, int]:
    return dict(sorted(Counter(pair.type for pair in pairs).items()))


def _floors(pairs: Sequence[_Pair], quantile: float, within_type: bool) -> dict[str, float]:
    scores = defaultdict(list)
    for pair in pairs:
        scores[pair.type].append(pair.score)
    if not within_type:
        return dict.fromkeys(scores, float(np.quantile([pair.score for pair in pairs], quantile)))
    return {type: float(np.quantile(values, quantile)) for type, values in scores.items()}


def _quotas(available: Mapping[str, int], target: int) -> dict[str, int]:
    """One place after the other to the type with fewest places that can fill one more; of equals, the largest type."""
    quotas = dict.fromkeys(available, 0)
    for _ in range(min(target, sum(available.values()))):
        open_types = [type for type in available if quotas[type] < available[type]]
        # Of equals the type of which there is most, then the last by name.
        type = min(sorted(open_types, reverse=True), key=lambda type: (quotas[type], -available[type]))
        quotas[type] += 1
    return quotas


def _first(count: int, key: Callable[[_Pair], object]) -> Callable[[_Pair], bool]:
    seen: Counter = Counter()

    def keep(pair: _Pair) -> bool:
        seen[key(pair)] += 1
        return seen[key(pair)] <= count

    return keep


def _within_quota(quotas: Mapping, key: Callable[[_Pair], object]) -> Callable[[_Pair], bool]:
    left = Counter(quotas)

    def keep(pair: _Pair) -> bool:
        left[key(pair)] -= 1
        return left[key(pair)] >= 0

    return keep


def _length_correlation(pairs: Sequence[_Pair]) -> tuple[float, int]:
    scores = [pair.score for pair in pairs]
    words = [len(pair.answer.split()) for pair in pairs]
    if len(set(scores)) < 2 or len(set(words)) < 2:
        return float("nan"), len(pairs)
    return float(spearmanr(scores, words).statistic), len(pairs)


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()


def _shingles(pair: _Pair) -> frozenset[tuple[str, str, str]]:
    shingles = set()
    for part, text in (("q", pair.question), ("a", pair.answer)):
        words = ["", *_normal(text).split(), ""]
        shingles.update((part, *two) for two in zip(words[:-1], words[1:]))
    return frozenset(shingles)


def _jaccard(first: Collection, second: Collection) -> float:
    common = len(first & second)
    return common / (len(first) + len(second) - common)


class _NearDuplicates:
    """Whether a pair is like none that was kept before; within a group, such as the image."""

    def __init__(self, threshold: float, group: Callable[[_Pair], object] = lambda pair: None):
        self.threshold, self.group = threshold, group
        self.kept: dict[object, list[frozenset]] = defaultdict(list)

    def __call__(self, pair: _Pair) -> bool:
        shingles, kept = _shingles(pair), self.kept[self.group(pair)]
        if any(_jaccard(shingles, other) >= self.threshold for other in kept):
            return False
        kept.append(shingles)
        return True


def _candidates(pairs: list[_Pair], max_rejected: int, min_margin: float) -> tuple | str:
    ranked = sorted(pairs, key=lambda pair: (-pair.score, pair.pair_id))
    # The best of those that fit into a reply is chosen; the last one is not tried, as nothing would be left.
    if len(ranked) < 2:
        return _TOO_FEW
    unfit = next((n for n, pair in enumerate(ranked[:-1]) if _reply(pair, pair)), len(ranked) - 1)
    if len(ranked) - unfit < 2:
        return _UNFIT
    chosen, *others = ranked[unfit:]
    different = [pair for pair in others if _text(pair) != _text(chosen)]
    by_text: dict[str, _Pair] = {}
    for pair in sorted(different, key=lambda pair: (pair.score, pair.pair_id)):
        by_text.setdefault(_text(pair), pair)
    rejected: list[_Pair] = []
    left = list(by_text.values())
    while left and len(rejected) < max_rejected:
        pair = left.pop(0)
        if _reply(pair, chosen):
            rejected.append(pair)
        else:
            unfit += 1
    if not rejected:
        return _UNFIT if by_text else _IDENTICAL
    if chosen.score - rejected[0].score < min_margin:
        return _MARGIN
    return chosen, rejected, (len(others) - len(different), len(different) - len(by_text), len(left), unfit)


def _text(pair: _Pair) -> str:
    return "\n".join(" ".join(text.split()) for turn in pair.turns for text in turn)


def _reply(pair: _Pair, chosen: _Pair) -> str | None:
    """As the generator of the chosen one writes it; None if it would be read as something else."""
    form = ReplyForm() if chosen.form is None else ReplyForm.from_json(chosen.form)
    try:
        return form.write(pair.turns)
    except RowError:
        return None


def _asked(row: dict, turns: int) -> tuple[str | None, str | None, list[dict]]:
    """The set and the template that a pair is asked for with, and the messages; no set if the row has them."""
    if row.get("generation_prompt"):
        return None, row["template"], row["generation_prompt"]
    if row["template"] is not None and turns == 1:
        source, template = "scenes", load_templates("scenes").get(row["template"])
    else:
        source, template = "instruct", load_templates("instruct").get("general-1" if turns == 1 else "conversation-1")
    return source, template.id, [{"role": "user", "content": template.user.replace("{{ turns }}", str(turns))}]


def _assistant(pair: _Pair, chosen: _Pair) -> list[dict[str, str | None]]:
    return [{"role": "assistant", "content": _reply(pair, chosen)}]


def _label(chosen: _Pair, rejected: list[_Pair], template: str | None, prompt: list[dict], weight: float) -> dict:
    return {
        "image_id": chosen.image_id,
        "prompt": prompt,
        "chosen": _assistant(chosen, chosen),
        "rejected": [_assistant(pair, chosen) for pair in rejected],
        "chosen_score": float(np.float32(chosen.score)),
        "rejected_scores": [float(np.float32(pair.score)) for pair in rejected],
        "weight": float(np.float32(weight)),
        "type": chosen.type,
        "template": template,
        "row": chosen.row,
    }


def _quantiles(candidates: list[tuple[_Pair, list[_Pair]]]) -> dict[str, tuple[float, ...]]:
    chosen = [best for best, _ in candidates]
    rejected = list(chain.from_iterable(others for _, others in candidates))
    values = {
        "chosen score": [pair.score for pair in chosen],
        "rejected score": [pair.score for pair in rejected],
        "margin (best - worst)": [best.score - others[0].score for best, others in candidates],
        "chosen answer, words": [len(pair.answer.split()) for pair in chosen],
        "rejected answer, words": [len(pair.answer.split()) for pair in rejected],
    }
    return {name: tuple(np.quantile(series, _QUANTILES).tolist()) for name, series in values.items()}
