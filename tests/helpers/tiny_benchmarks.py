"""Folders in the published layouts of the four benchmarks, as small as wanted, with pictures made in memory.

Each `write_...` takes the rows themselves, or a number of them, and makes a folder that `load_dataset(folder)` reads
(MMBench: `load_dataset(folder, "en")`) with the column names and types of the published dataset.
"""

import io
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

_TEXT, _PICTURE = Value("string"), Image()

POPE = Features(
    {
        **dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), _TEXT),
        "image": _PICTURE,
        "category": _TEXT,
    }
)
SEED = Features(
    {
        **dict.fromkeys(("answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_id", "data_type"), _TEXT),
        **dict.fromkeys(("question", "question_id"), _TEXT),
        "question_type_id": Value("int16"),
        "image": List(_PICTURE),
        "segment": List(Value("int64")),
    }
)
MMBENCH = Features(
    {
        "index": Value("int64"),
        **dict.fromkeys(("question", "hint", "answer", "A", "B", "C", "D", "category"), _TEXT),
        "image": _PICTURE,
        **dict.fromkeys(("source", "L2-category", "comment", "split"), _TEXT),
    }
)
LLAVA_BENCH = Features(
    {
        **dict.fromkeys(("question_id", "question", "caption", "gpt_answer", "category", "image_id"), _TEXT),
        "image": _PICTURE,
    }
)
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 220), "yellow": (230, 220, 40)}


def picture(number: int) -> dict:
    """A 32 x 32 PNG in one of the colours, other for every number, as `datasets` stores it."""
    colour = list(COLOURS.values())[number % len(COLOURS)]
    noise = np.random.default_rng(number).integers(-15, 16, (32, 32, 3))
    file = io.BytesIO()
    PILImage.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{number}.png"}


def pope_rows(n: int) -> list[dict]:
    """Three categories in turn; each numbers its questions anew from 1, as published; three questions to a picture."""
    names = list(COLOURS)
    return [
        {
            "id": str(i),
            "question_id": str(i // 3 + 1),
            "question": f"Is there a {names[(i // 3 + i % 2) % 4]} square in the image?",
            "answer": "no" if i % 2 else "yes",
            "image_source": f"picture-{i // 3}",
            "image": picture(i // 3),
            "category": ("adversarial", "popular", "random")[i % 3],
        }
        for i in range(n)
    ]


def seed_rows(n: int, videos: int = 0) -> list[dict]:
    """Four options each, dimensions 1 to 9 in turn, two questions to a picture; the videos come last."""
    rows = []
    for i in range(n + videos):
        names = [list(COLOURS)[(i + shift) % 4] for shift in range(4)]
        pictures = [picture(i // 2)] if i < n else [picture(100 + i + frame) for frame in range(3)]
        rows.append(
            {
                "answer": "ABCD"[names.index(list(COLOURS)[i // 2 % 4])],
                **{f"choice_{letter}": name.capitalize() for letter, name in zip("abcd", names)},
                "data_id": f"picture-{i // 2}" if i < n else f"video-{i}",
                "data_type": "image" if i < n else "video",
                "question": "What is the colour of this picture?",
                "question_id": str(101 + i),
                "question_type_id": i % 9 + 1 if i < n else i % 3 + 10,
                "image": pictures,
                "segment": None if i < n else [0, 3],
            }
        )
    return rows


def mmbench_rows(n: int, *, circular: bool = False, split: str = "dev") -> list[dict]:
    """Two to four options in turn, every other question with a hint.

    Args:
        n: Questions.
        circular: Also the rotated copies, at index + 1,000,000 * rotation, as in the published rows.
        split: "test" has no answers.
    """
    rows = []
    for i in range(n):
        names = list(COLOURS)[: 2 + i % 3]
        for rotation in range(len(names) if circular else 1):
            rotated = names[rotation:] + names[:rotation]
            answer = "ABCD"[rotated.index(names[i % len(names)])]
            rows.append(
                {
                    "index": 241 + i + 1_000_000 * rotation,
                    "question": "Which colour is it?",
                    "hint": "The picture has one colour." if i % 2 else "nan",
                    "answer": answer if split == "dev" else "nan",
                    **{letter: rotated[p] if p < len(names) else "nan" for p, letter in enumerate("ABCD")},
                    "category": ("image_scene", "object_localization")[i % 2],
                    "image": picture(names.index(names[i % len(names)]) + 4 * i),
                    "source": "made",
                    "L2-category": ("coarse_perception", "finegrained_perception (instance-level)")[i % 2],
                    "comment": "nan",
                    "split": split,
                }
            )
    return sorted(rows, key=lambda row: row["index"])


def llava_bench_rows(n: int) -> list[dict]:
    """The three categories in turn, three questions to a picture."""
    return [
        {
            "question_id": str(i),
            "question": ("What colour is it?", "Describe this photo in detail.", "Why could it be so?")[i % 3],
            "caption": f"A square of one colour, number {i // 3}.",
            "gpt_answer": f"It is {list(COLOURS)[i // 3 % 4]}.",
            "category": ("conv", "detail", "complex")[i % 3],
            "image_id": f"{i // 3:03d}",
            "image": picture(i // 3),
        }
        for i in range(n)
    ]


def write_pope(folder: str | Path, rows: int | list[dict] = 12) -> Path:
    """POPE: split test."""
    return _write(folder, POPE, {"data/test": pope_rows(rows) if isinstance(rows, int) else rows})


def write_seed(folder: str | Path, rows: int | list[dict] = 8, videos: int = 0) -> Path:
    """SEED-Bench: split test."""
    return _write(folder, SEED, {"data/test": seed_rows(rows, videos) if isinstance(rows, int) else rows})


def write_mmbench(folder: str | Path, rows: int | list[dict] = 6, *, circular: bool = True) -> Path:
    """MMBench: configuration en, splits dev and test (without answers); rows that are given become split dev."""
    dev = mmbench_rows(rows, circular=circular) if isinstance(rows, int) else rows
    test = mmbench_rows(rows if isinstance(rows, int) else 2, circular=circular, split="test")
    folder = _write(folder, MMBENCH, {"en/dev": dev, "en/test": test})
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n"
        "  - split: dev\n    path: en/dev-*\n  - split: test\n    path: en/test-*\n---\n"
    )
    return folder


def write_llava_bench(folder: str | Path, rows: int | list[dict] = 6) -> Path:
    """LLaVA-Bench in the wild: split train."""
    return _write(folder, LLAVA_BENCH, {"data/train": llava_bench_rows(rows) if isinstance(rows, int) else rows})


def _write(folder: str | Path, features: Features, files: dict[str, list[dict]]) -> Path:
    for name, rows in files.items():
        file = Path(folder) / f"{name}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        # With a batch size it does not look for the pictures' files, which a test may have missing.
        Dataset.from_list(rows, features=features).to_parquet(file, batch_size=100)
    return Path(folder)
