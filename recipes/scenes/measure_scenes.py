"""Measure a generator in the scenes world: its answers by question type, and the pairs it generates.

    python recipes/evaluate_scenes.py --model c3l_hf/scenes/generator --n 500 --pairs 700

Prints shares with sample sizes and 95 % intervals, on fresh scenes of the test split and on shifted ones, and writes
them as a Markdown table where `--output` says.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import TrlParser

from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.generation.templates import GENERAL, QUESTION_TYPES
from c3l_hf.scenes import GENERATOR, Scene, load_scenes
from c3l_hf.scenes.evaluation import Share, answer_accuracy, judge_pairs, type_balanced


@dataclass
class EvaluateScenesArguments:
    model: str = field(default=GENERATOR, metadata={"help": "Model folder or Hub id; default: the shipped generator."})
    n: int = field(default=500, metadata={"help": "Questions of each type."})
    pairs: int = field(
        default=700, metadata={"help": "Images to generate pairs about, 5 each (and 5 by the general instruction)."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of the generated pairs."})
    seed: int = field(default=0, metadata={"help": "Seed of the scenes and of the sampling."})
    output: str | None = field(default=None, metadata={"help": "File for the Markdown table."})


def generated(model, processor, args: EvaluateScenesArguments, shifted: bool) -> dict[str, Share | str]:
    """Shares of well-formed and of true pairs, by the type asked for."""
    rows = load_scenes(args.pairs, args.seed, "test", shifted)
    scenes = {row["image_id"]: Scene.from_row(row) for row in rows.remove_columns("images")}
    figures: dict[str, Share | str] = {}
    for name, types in (("by type", QUESTION_TYPES), (GENERAL, (GENERAL,))):
        config = PairGenerationConfig(types=types, temperature=args.temperature, seed=args.seed, batch_size=250)
        made = generate_pairs(rows.select_columns(["images", "image_id"]), model, processor, config)
        made = made.remove_columns("images").to_list()
        pairs = [
            (row["prompt"][0]["content"], row["completion"][0]["content"]) if row["prompt"] else None for row in made
        ]
        well, true = judge_pairs([row["type"] for row in made], pairs, [scenes[row["image_id"]] for row in made])
        figures[f"pairs {name}: well-formed"] = Share(sum(well), len(well))
        for type in types:
            at = [i for i, row in enumerate(made) if row["type"] == type]
            figures[f"pairs {type}: true"] = Share(sum(true[i] for i in at), len(at))
        if name != GENERAL:
            mean, low, high = type_balanced([row["type"] for row in made], true, [row["image_id"] for row in made])
            figures["pairs type-balanced: true"] = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    return figures


def main(args: EvaluateScenesArguments) -> None:
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).eval()
    columns = {}
    for shifted in (False, True):
        answers = answer_accuracy(model, processor, args.n, args.seed, shifted=shifted)
        columns[shifted] = {f"answer {type}": share for type, share in answers.items()}
        columns[shifted] |= generated(model, processor, args, shifted)

    lines = ["| measure | n | usual scenes | n | shifted scenes |", "|---|---|---|---|---|"]
    for name, usual in columns[False].items():
        cells = [(share.total if isinstance(share, Share) else "", share) for share in (usual, columns[True][name])]
        lines.append(f"| {name} | " + " | ".join(f"{n} | {share}" for n, share in cells) + " |")
    print("\n".join(lines))
    if args.output:
        Path(args.output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    (arguments,) = TrlParser((EvaluateScenesArguments,)).parse_args_and_config()
    main(arguments)
