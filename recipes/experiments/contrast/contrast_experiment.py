"""Does contrastive training of the generator help? An experiment in the scenes world, where the truth is known.

    python recipes/experiments/contrast/contrast_experiment.py --seeds 0 1 2
    python recipes/experiments/contrast/contrast_report.py --results runs/contrast

Every arm starts from one generator, the shipped one or `--generator`, and takes the same number of steps with the same
number of rows; the arms of a second round (`--arms nll_again nll_second c3l_again c3l_second`) take as many again from
a trained one. A seed is everything random: the training scenes (split `validation`, usual or `--shifted`), the sampled
pairs, the order of training and the test scenes, usual and shifted. Arms of a seed are measured on the same scenes with
the same random numbers, so that they can be compared pair by pair.

One JSON file per seed and arm is written to `<output_dir>/results/`; the same command goes on after an interruption.
Several processes may share the folder if each has seeds of its own.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import torch
from contrast_arms import (
    ARMS,
    MAIN,
    SECOND,
    SETTINGS,
    Arm,
    describe,
    generator,
    make_pool,
    scenes_by_id,
    select,
)
from datasets import Dataset, load_from_disk
from transformers import PreTrainedModel, ProcessorMixin
from trl import DPOConfig, DPOTrainer, TrlParser

from c3l_hf.common.files import atomic_folder, files_digest, write_json
from c3l_hf.common.versions import versions
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.models.loading import Source, load
from c3l_hf.prompts.templates import GENERAL
from c3l_hf.scenes import GENERATOR, Scene, check_pair, load_scenes
from c3l_hf.scenes.evaluation import MAX_NEW_TOKENS, answer_accuracy, judge_pairs, pair_texts
from c3l_hf.scenes.priors import premise_absent, prior_driven
from c3l_hf.scenes.templates import QUESTION_TYPES, format_pair
from c3l_hf.training.config import C3LConfig
from c3l_hf.training.trainer import C3LTrainer


@dataclass
class ExperimentArguments:
    output_dir: str = field(default="runs/contrast", metadata={"help": "Folder of pools and results."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds, each with all arms."})
    arms: list[str] = field(
        default_factory=lambda: list(MAIN),
        metadata={
            "help": f"Arms, in this order. Of the comparison: {' '.join(MAIN)}; of a second round: {' '.join(SECOND)}; "
            f"settings: {' '.join(SETTINGS)}."
        },
    )

    generator: str = field(default=GENERATOR, metadata={"help": "Folder of the generator; default: the shipped one."})

    # All from here on is part of what a result is
    shifted: bool = field(default=False, metadata={"help": "Train on pairs about shifted scenes."})
    train_images: int = field(default=1200, metadata={"help": "Scenes to make training pairs about."})
    steps: int = field(default=150, metadata={"help": "Gradient steps of every arm."})
    rows_per_step: int = field(default=8, metadata={"help": "Rows in a step, each an image with its pairs."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Highest learning rate, cosine decay."})
    warmup_steps: int = field(default=10, metadata={"help": "Steps of the learning rate's warm-up."})
    test_images: int = field(
        default=400, metadata={"help": "Usual, and shifted, test scenes to generate 5 pairs of one type about."}
    )
    general_images: int = field(
        default=100,
        metadata={"help": "To so many of these, 5 pairs by the instruction that leaves the type open."},
    )
    questions: int = field(default=60, metadata={"help": "Questions of each type about usual, and shifted, scenes."})

    def sizes(self) -> dict:
        """What must be equal for results to be compared."""
        left_out = ("output_dir", "seeds", "arms", "generator")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def scenes(self, seed: int) -> Dataset:
        """The training scenes of a seed."""
        return load_scenes(self.train_images, seed, "validation", self.shifted)


# Training data


def kept(folder: Path, args: ExperimentArguments, arm: str, save: Callable[[Path], None]) -> Path:
    """The folder, filled by `save` if it is not there yet; it appears only when it is complete.

    Args:
        arm: The trained model on which its content depends; "" for none.
    """
    if not folder.exists():
        made_with = {"options": identity(args), "name": arm, "arm": asdict(ARMS[arm])} if arm else identity(args)
        with atomic_folder(folder) as partial:
            save(partial)
            (partial / "options.json").write_text(json.dumps(made_with))
    return folder


def pool(name: str, args: ExperimentArguments, seed: int, writer: str = "") -> Dataset:
    """The pool from the output folder, made and kept there if it is not there yet."""

    def save(folder: Path) -> None:
        pairs = pool("pairs", args, seed, writer) if name == "answers" else None
        model = trained(writer, args, seed) if writer else None
        make_pool(name, args.scenes(seed), seed, pairs, model, args.generator).save_to_disk(folder)

    of = f"{name}-{writer}" if writer else name
    return load_from_disk(kept(Path(args.output_dir) / "pools" / f"{of}-{seed}", args, writer, save))


def trained(name: str, args: ExperimentArguments, seed: int) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and processor of an arm, trained and kept in the output folder if they are not there yet; of "" the
    generator."""
    if not name:
        return generator(args.generator)

    def save(folder: Path) -> None:
        model, processor, _ = train(ARMS[name], labels_of(ARMS[name], args, seed), args, seed)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    folder = kept(Path(args.output_dir) / "models" / f"{name}-{seed}", args, name, save)
    return load(Source(str(folder), dtype="float32"))


def labels_of(arm: Arm, args: ExperimentArguments, seed: int) -> Dataset:
    """The rows that an arm trains on."""
    return select(arm, pool(arm.pool, args, seed, arm.writer))


# Training


def train(
    arm: Arm, labels: Dataset, args: ExperimentArguments, seed: int
) -> tuple[PreTrainedModel, ProcessorMixin, list[dict]]:
    """The generator, or the model of the arm before, trained on these rows, its processor, and the log."""
    model, processor = trained(arm.after, args, seed)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "output_dir": folder,
            "seed": seed,
            "max_steps": args.steps,
            "per_device_train_batch_size": args.rows_per_step,
            "learning_rate": args.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": args.warmup_steps,
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
            "bf16": False,
            "activation_checkpointing": False,
            "disable_tqdm": True,
        } | dict(arm.options)
        if arm.trainer == "c3l":
            trainer = C3LTrainer(model, C3LConfig(use_lora=False, **options), labels, processing_class=processor)
            trainer.train()
            return trainer.merged_model(), processor, trainer.state.log_history
        # What C3LTrainer trains: the language model with its head. The reference is TRL's: the model as it is loaded.
        model.requires_grad_(False)
        model.get_decoder().requires_grad_(True)
        model.get_output_embeddings().requires_grad_(True)
        config = DPOConfig(max_length=None, use_cpu=not torch.accelerator.is_available(), **options)
        rows = labels.select_columns(["images", "prompt", "chosen"])
        worst = [rejected[0] for rejected in labels["rejected"]]  # `select_pseudo_labels` puts the lowest score first
        rows = rows.add_column("rejected", worst, feature=labels.features["chosen"])
        trainer = DPOTrainer(model, args=config, train_dataset=rows, processing_class=processor)
        trainer.train()
        del model.forward  # TRL's fused LM head; the class's own forward is back
        return model.eval(), processor, trainer.state.log_history


# Measurement


def measure(model: PreTrainedModel, processor: ProcessorMixin, args: ExperimentArguments, seed: int) -> dict:
    """Pairs by type, pairs of open type, and answers, on usual and on shifted test scenes."""
    found = {}
    for name, shifted in (("usual", False), ("shifted", True)):
        rows = load_scenes(args.test_images, seed, "test", shifted)
        scenes = scenes_by_id(rows)
        images = rows.select_columns(["images", "image_id"])
        of_name: dict = {}
        for kind, types, part in (
            ("pairs", QUESTION_TYPES, images),
            (GENERAL, (GENERAL,), images.select(range(min(args.general_images, len(images))))),
        ):
            if not len(part):
                continue
            config = PairGenerationConfig(
                "scenes", types=types, max_new_tokens=MAX_NEW_TOKENS, seed=seed, batch_size=250
            )
            pairs = generate_pairs(part, model, processor, config, progress=False)
            of_name[kind] = count(pairs["image_id"], pairs["type"], pair_texts(pairs), scenes)
        answers = answer_accuracy(model, processor, args.questions, seed, shifted=shifted) if args.questions else {}
        of_name["answers"] = {type: [share.hits, share.total] for type, share in answers.items()}
        found[name] = of_name
    return found


def count(
    image_ids: Sequence[str],
    types: Sequence[str],
    texts: Sequence[tuple[str, str] | None],
    scenes: Mapping[str, Scene],
) -> dict:
    """Counts by image and type asked for (lists of equal length), and over all pairs: distinct texts, types found."""
    well_formed, true = judge_pairs(types, texts, [scenes[image_id] for image_id in image_ids])
    written = [" ".join(format_pair(*text).split()) if text else None for text in texts]
    groups: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(image_ids, types)):
        groups.setdefault(key, []).append(row)
    of_rows = [scenes[image_id] for image_id in image_ids]
    prior = [bool(text and prior_driven(*text, scene)) for text, scene in zip(texts, of_rows)]
    premise = [bool(text and premise_absent(text[0], scene)) for text, scene in zip(texts, of_rows)]
    names = ("image", "type", "pairs", "well_formed", "true", "prior_driven", "premise_absent", "distinct")
    columns: dict[str, list] = {name: [] for name in names}
    for (image_id, type), rows in groups.items():
        values = (
            image_id,
            type,
            len(rows),
            sum(well_formed[row] for row in rows),
            sum(true[row] for row in rows),
            sum(prior[row] for row in rows),
            sum(premise[row] for row in rows),
            len({written[row] for row in rows} - {None}),
        )
        for column, value in zip(columns.values(), values):
            column.append(value)
    found = Counter(check_pair(*text, scenes[id]).type if text else None for id, text in zip(image_ids, texts))
    return {
        "by_image": columns,
        "distinct": len(set(written) - {None}),
        "types_found": {type or "none": number for type, number in sorted(found.items(), key=str)},
    }


# The experiment


def identity(args: ExperimentArguments) -> dict:
    return {"generator": files_digest(args.generator, "*.safetensors"), **args.sizes()}


def result_file(args: ExperimentArguments, seed: int, name: str) -> Path:
    return Path(args.output_dir) / "results" / f"{name}-{seed}.json"


def run_arm(name: str, args: ExperimentArguments, seed: int) -> dict:
    """Trains and measures one arm with one seed."""
    arm, labels_found, log = ARMS[name], None, []
    started = time.monotonic()
    if arm.trainer:
        labels = labels_of(arm, args, seed)
        labels_found = describe(labels, scenes_by_id(args.scenes(seed)))
        model, processor, log = train(arm, labels, args, seed)
    else:
        model, processor = generator(args.generator)
    trained = time.monotonic()
    return {
        "name": name,
        "seed": seed,
        "arm": asdict(arm),
        "options": identity(args),
        "versions": versions(),
        "labels": labels_found,
        "log": log,
        **measure(model, processor, args, seed),
        "seconds": {"training": round(trained - started), "measurement": round(time.monotonic() - trained)},
    }


def check(args: ExperimentArguments) -> None:
    """Ends with one line if the call is wrong, or the folder has something of another experiment."""
    unknown = [name for name in args.arms if name not in ARMS]
    if unknown or not args.arms or not args.seeds:
        sys.exit(f"contrast_experiment: unknown or no --arms ({', '.join(unknown)}), or no --seeds; see --help")
    for name, value in args.sizes().items():
        if value < 0 or value == 0 and name not in ("shifted", "warmup_steps", "general_images", "questions"):
            sys.exit(f"contrast_experiment: --{name} is {value}; it must be above 0")
    folder, wanted = Path(args.output_dir), identity(args)
    for file in sorted([*folder.glob("*/*/options.json"), *folder.glob("results/*.json")]):
        content = json.loads(file.read_text())
        there, expected = content.get("options", content), wanted
        if "arm" in content and content["name"] in ARMS:
            there = there | content["arm"]
            expected = expected | json.loads(json.dumps(asdict(ARMS[content["name"]])))
        different = [key for key in expected | there if there.get(key) != expected.get(key)]
        if different:
            key = different[0]
            sys.exit(
                f"contrast_experiment: {file} was made with {key} {there.get(key)!r}, not {expected.get(key)!r}; "
                "give another --output_dir, or move that file away"
            )


def main(args: ExperimentArguments) -> None:
    check(args)
    datasets.disable_caching()  # pools and results are kept here
    missing = [(seed, name) for seed in args.seeds for name in args.arms if not result_file(args, seed, name).exists()]
    print(f"{len(args.seeds) * len(args.arms) - len(missing)} results are there, {len(missing)} to come", flush=True)
    for seed, name in missing:
        result = run_arm(name, args, seed)
        file = result_file(args, seed, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)
        print(f"seed {seed}, {name}: {true_shares(result)}; {result['seconds']}", flush=True)


def true_shares(result: Mapping) -> str:
    """Of all pairs, for a look while it runs; the report has the balanced figures."""

    def share(columns: Mapping[str, Sequence[int]]) -> float:
        return sum(columns["true"]) / sum(columns["pairs"])

    shares = {name: share(result[name]["pairs"]["by_image"]) for name in ("usual", "shifted")}
    return ", ".join(f"{name} {value:.3f} true" for name, value in shares.items())


if __name__ == "__main__":
    (arguments,) = TrlParser((ExperimentArguments,)).parse_args_and_config()
    main(arguments)
