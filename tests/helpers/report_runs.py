"""The folder of a run as its stages leave it, without any model: for reports, which read such folders."""

from pathlib import Path

from datasets import Dataset, Features
from published import FEATURES, picture, row, unscored_row, write_run

from c3l_hf.common.files import write_json
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import PAIR_TABLE_FEATURES, PSEUDO_LABEL_FEATURES, SCORE_FEATURES
from c3l_hf.data.sources import Images
from c3l_hf.selection.pseudo_labels import select_pseudo_labels

STAGES = ("generate", "score", "select", "train", "regenerate", "rescore", "curate", "write")


def rows_of_run(n: int = 6) -> list[dict]:
    """A round's rows, about n images with two pairs each, and one image without a pair."""
    rows = [{"image_row": number, **row(number, pair)} for number in range(n) for pair in range(2)]
    return [*rows, {"image_row": n, **unscored_row(n)}]


def images_of_run(n: int = 6) -> Images:
    images = [{"image_id": str(number), "images": [picture(number)]} for number in range(n + 1)]
    return Images(Dataset.from_list(images, features=Features({k: FEATURES[k] for k in ("image_id", "images")})), "0")


def write_stages(folder: Path, last: str = "curate", n: int = 6) -> Path:
    """A run that has come so far. The pairs of its first round are those of the second, in other words."""
    second = rows_of_run(n)
    first = [
        {**one, "prompt": one["prompt"] and [{"role": "user", "content": f"First: {one['prompt'][0]['content']}"}]}
        for one in second
    ]
    pool = Dataset.from_list([{k: v for k, v in one.items() if k != "image_row"} for one in first], features=FEATURES)
    labels = select_pseudo_labels(pool)[0].remove_columns(["images", "chosen_tokens"])
    label_features = Features({k: v for k, v in PSEUDO_LABEL_FEATURES.items() if k != "images"})
    kept = [one for one in second if one["pair_id"].endswith("/1")]
    scored = Features({**PAIR_TABLE_FEATURES, **SCORE_FEATURES})
    log = [
        {"step": step, "loss": 1.0 / step, "loss/nll": 0.5 / step, "contrastive_accuracy": 0.5} for step in (1, 2, 3)
    ]
    counts = {"pairs": 2 * n + 1, "ok": 2 * n, "no answer": 1}
    dropped = {"dropped: no pair": 1, "dropped: beyond the quota of the type": n}
    made = {
        "generate": (first, PAIR_TABLE_FEATURES, {"counts": counts}),
        "score": (first, SCORE_FEATURES, {"counts": {"ok": 2 * n, "no pair": 1}}),
        "select": (labels.to_list(), label_features, {"counts": {"images": n + 1, "pairs": 2 * n + 1} | _labels(n)}),
        "train": (None, None, {"steps": 3, "log": log}),
        "regenerate": (second, PAIR_TABLE_FEATURES, {"counts": counts}),
        "rescore": (second, SCORE_FEATURES, {"counts": {"ok": 2 * n, "no pair": 1}}),
        "curate": (kept, scored, {"counts": {"pairs": 2 * n + 1, **dropped, "kept": n}}),
        "write": (None, None, {"pools": [{"name": "generated", "pairs": 13, "true": [0.8, 0.7, 0.9]}]}),
    }
    for number, (stage, (rows, features, report)) in enumerate(made.items(), 1):
        path = folder / "stages" / f"{number}_{stage}"
        path.mkdir(parents=True)
        if rows is not None:
            table = Dataset.from_list([{name: one[name] for name in features} for one in rows], features=features)
            Shards(path, 1).write(0, [table.data.table], features.arrow_schema)
        options = {"curation_score": "pmi_k"} if stage == "curate" else {}
        usage = {"seconds": 12.5, "peak_memory_bytes": 3 << 30}
        write_json(path / "stage.json", {"stage": stage, "options": options, "report": report, **usage})
        if stage == last:
            break
    stages = {stage: {"templates": "none"} for stage in STAGES}
    write_json(folder / "run.json", {"inputs": {}, "stages": stages, "versions": {"c3l-hf": "0"}})
    return folder


def _labels(n: int) -> dict[str, int]:
    return {"dropped: fewer than two scored pairs": 1, "dropped: same text as another": 0, "pseudo-labels": n}


def write_finished(folder: Path) -> Path:
    """A finished run with its dataset."""
    write_stages(folder, last="write")
    written = write_run(folder.parent / "written")
    (written / "dataset").rename(folder / "dataset")
    return folder
