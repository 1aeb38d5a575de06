"""How good a generator is in the scenes world, as a table: its answers by question type, and the pairs it writes."""

from dataclasses import dataclass, field

from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.tables import markdown_table
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.models.loading import Source, load
from c3l_hf.prompts.templates import GENERAL
from c3l_hf.scenes import GENERATOR, Scene, load_scenes
from c3l_hf.scenes.evaluation import Share, answer_accuracy, judge_pairs, pair_texts, type_balanced
from c3l_hf.scenes.templates import QUESTION_TYPES

__all__ = ["MeasurementOptions", "measure", "measurement_table"]


@dataclass
class MeasurementOptions:
    """What is asked of a generator."""

    model: str = field(default=GENERATOR, metadata={"help": "Model folder or Hub id; default: the shipped generator."})
    n: int = field(default=500, metadata={"help": "Questions of each type."})
    pairs: int = field(
        default=700, metadata={"help": "Images to generate pairs about, 5 each (and 5 by the general instruction)."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of the generated pairs."})
    seed: int = field(default=0, metadata={"help": "Seed of the scenes and of the sampling."})
    output: str | None = field(default=None, metadata={"help": "File for the Markdown table."})


def measurement_table(options: MeasurementOptions) -> str:
    """Shares with sample sizes and 95 % intervals, on usual and on shifted scenes of the test split, in Markdown."""
    model, processor = load(Source(options.model, dtype="float32"))
    usual, shifted = (measure(model, processor, options, shifted) for shifted in (False, True))
    rows: list[tuple[object, ...]] = [("measure", "n", "usual scenes", "n", "shifted scenes")]
    for name in usual:
        cells = [(share.total if isinstance(share, Share) else "", share) for share in (usual[name], shifted[name])]
        rows.append((name, *cells[0], *cells[1]))
    return markdown_table(rows)


def measure(
    model: PreTrainedModel, processor: ProcessorMixin, options: MeasurementOptions, shifted: bool
) -> dict[str, Share | str]:
    """Shares of true answers by question type, and of well-formed and true pairs by the type asked for."""
    answers = answer_accuracy(model, processor, options.n, options.seed, shifted=shifted)
    figures: dict[str, Share | str] = {f"answer {type}": share for type, share in answers.items()}
    rows = load_scenes(options.pairs, options.seed, "test", shifted)
    for name, types in (("by type", QUESTION_TYPES), (GENERAL, (GENERAL,))):
        config = PairGenerationConfig(
            "scenes", types=types, temperature=options.temperature, seed=options.seed, batch_size=250
        )
        pairs = generate_pairs(rows.select_columns(["images", "image_id"]), model, processor, config)
        figures |= _of_pairs(pairs, rows, name, types)
    return figures


def _of_pairs(pairs: Dataset, rows: Dataset, name: str, types: tuple[str, ...]) -> dict[str, Share | str]:
    scenes = {row["image_id"]: Scene.from_row(row) for row in rows.remove_columns("images")}
    asked, image_ids = pairs["type"][:], pairs["image_id"][:]
    well, true = judge_pairs(asked, pair_texts(pairs), [scenes[image_id] for image_id in image_ids])
    figures: dict[str, Share | str] = {f"pairs {name}: well-formed": Share(sum(well), len(well))}
    for type in types:
        of_type = [hit for hit, row_type in zip(true, asked) if row_type == type]
        figures[f"pairs {type}: true"] = Share(sum(of_type), len(of_type))
    if name != GENERAL:
        mean, low, high = type_balanced(asked, true, image_ids)
        figures["pairs type-balanced: true"] = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    return figures
