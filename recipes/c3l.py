"""C3L, the whole method: images → pairs → scores → pseudo-labels → training → new pairs → scores → the compact dataset.

    accelerate launch recipes/c3l.py --config recipes/configs/scenes.yaml

Every stage is written to `<output_dir>/stages/` with the options that made it. The same command again goes on after an
interruption and makes nothing twice; other options need another `--output_dir`. Results: `<output_dir>/dataset`
(`load_dataset`) and `<output_dir>/generator` (`from_pretrained`), with their cards; `--push_to_hub` publishes them.
With several processes, each generates and scores its part of the images, and training is data-parallel.
"""

import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import torch
import yaml
from c3l_options import STAGES, C3LArguments
from datasets import Dataset
from trl import TrlParser

from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import Run
from c3l_hf.common.tables import format_table
from c3l_hf.common.versions import versions
from c3l_hf.data.schema import STATUS
from c3l_hf.data.sources import images_digest, load_images
from c3l_hf.data.status import generation_counts
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.models.loading import Source, find_model, load
from c3l_hf.pipeline.summary import Pool, format_summary, pool_of_labels, pool_of_pairs, scenes_of
from c3l_hf.publishing.cards import GENERATED_AGAIN, RunFacts, plain
from c3l_hf.publishing.export import write_dataset, write_generator
from c3l_hf.publishing.figures import dataset_figures
from c3l_hf.publishing.hub import HubError, Publication, check_access, push
from c3l_hf.scoring.dataset import score_rows, with_scores
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.selection.curation import curate, random_selection
from c3l_hf.selection.pseudo_labels import select_pseudo_labels
from c3l_hf.training.checkpoints import last_checkpoint, remove_checkpoints, training_folder, training_options
from c3l_hf.training.config import C3LConfig
from c3l_hf.training.trainer import C3LTrainer

_GENERATION = (
    "pairs_per_image",
    "types",
    "types_per_image",
    "sampling_temperature",
    "top_p",
    "max_new_tokens",
    "model_dtype",
)
_RESULTS = ("dataset", "generator", "config.yaml")
_CURATION = ("target_size", "near_duplicate_scope", "near_duplicate_threshold", "max_per_image")
# What the cards say and no stage reads.
_WORDS = ("images_license", "images_source", "license")
# What does not change the results, and so is not part of their configuration.
_HOW = ("stages", "hub_namespace", "hub_dataset_name", "hub_generator_name", "public", "overwrite")
# The trainer's own way to the Hub: a repository of checkpoints, and a token as an option.
_TRAINERS_HUB = ("hub_token", "hub_model_id", "hub_revision", "hub_private_repo")
_SCENES = ("scenes", "scenes-shifted")
# One after the other, stages use the same model.
load_model = functools.lru_cache(maxsize=1)(load)


def format_counts(counts: Mapping[str, int]) -> str:
    return "\n".join(f"{name}: {count:,}" for name, count in counts.items())


def format_training(report: dict) -> str:
    """The logged metrics of the first and the last steps, side by side."""
    log = [entry for entry in report["log"] if "loss/nll" in entry]
    names = [
        name for name in ("loss", "loss/nll", "loss/contrastive", "contrastive_accuracy") if log and name in log[0]
    ]
    rows = [(f"{report['steps']} steps", "first logged", "last logged")]
    rows += [(name, f"{float(log[0][name]):.3f}", f"{float(log[-1][name]):.3f}") for name in names]
    return format_table(rows)


class C3L:
    """The stages of one run, a method each, in order; each finds what it needs in what the ones before have left."""

    def __init__(self, args: C3LArguments, training: C3LConfig, config_file: str | None):
        self.args, self.training, self.config_file = args, training, config_file
        # All inputs are checked before any work.
        args.check()
        if args.images in _SCENES:
            args.images_license = args.images_license or "apache-2.0"  # of the artwork, see c3l_hf/scenes/NOTICE
        self.publication = self._publication()
        self.generation = PairGenerationConfig(
            pairs_per_image=args.pairs_per_image,
            types=tuple(args.types),
            types_per_image=args.types_per_image,
            temperature=args.sampling_temperature,
            top_p=args.top_p,
            max_new_tokens=args.max_new_tokens,
            batch_size=args.generation_batch_size,
        )
        self.model_folder, self.model_identity = find_model(args.model, args.model_revision, training.trust_remote_code)
        self.images = load_images(args.images, split=args.images_split, limit=args.num_images, seed=training.seed)
        inputs = {"images": images_digest(self.images), "model": self.model_identity, "seed": training.seed}
        self.run = Run(Path(training.output_dir), inputs | {"c3l_hf": versions()["c3l-hf"]})
        generate, score = args.options(*_GENERATION), args.options("ranking")
        trainer = training_options(training)
        # The run as a configuration file.
        self.settings = {name: value for name, value in asdict(args).items() if name not in _HOW} | trainer
        self.run.plan(
            {
                "generate": generate,
                "score": score,
                "select": args.options("within", "max_rejected", "min_margin"),
                "train": trainer,
                "regenerate": generate,
                "rescore": score,
                "curate": args.options(*_CURATION),
                "write": args.options(*_WORDS),
            },
            args.stages,
        )
        for name in _RESULTS:
            if not self.run.is_done("write") and (self.run.folder / name).exists():
                raise RunError(f"{self.run.folder / name} is in the way; move it, or give another --output_dir")

    def generate(self) -> str:
        self.pairs = self._generate("generate", self.model_folder)
        return format_counts(generation_counts(self.pairs))

    def score(self) -> str:
        self.scored = self._score("score", self.pairs)
        return format_counts(Counter(self.scored[STATUS]))

    def select(self) -> str:
        def make() -> tuple[Dataset, dict]:
            labels, report = select_pseudo_labels(
                self.scored, **self.args.options("within", "max_rejected", "min_margin")
            )
            left_out = (report.images_dropped, report.pairs_left_out, report.rejected_left_out)
            dropped = [(f"dropped: {rule}", count) for counts in left_out for rule, count in counts.items() if count]
            counts = [("images", report.images), ("pairs", report.pairs), *dropped, ("pseudo-labels", report.labels)]
            return labels, {"table": str(report), "counts": counts}

        self.labels, report = self.run.dataset("select", make)
        return report["table"]

    def train(self) -> str:
        checkpoints = training_folder(self.run, "train")

        def make(folder: Path) -> dict:
            model, processor = self._load(self.model_folder)
            load_model.cache_clear()  # from here on it is another model
            self.training.output_dir = str(checkpoints)
            trainer = C3LTrainer(model, self.training, self.labels, processing_class=processor)
            trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
            trained = trainer.merged_model()
            if process_state().is_main_process:
                trained.save_pretrained(folder / "generator")
                processor.save_pretrained(folder / "generator")
            return {"steps": trainer.state.global_step, "log": trainer.state.log_history}

        report = self.run.complete("train", make)
        if process_state().is_main_process:
            remove_checkpoints(checkpoints)
        self.trained_folder = self.run.path("train") / "generator"
        return format_training(report)

    def regenerate(self) -> str:
        self.pairs_again = self._generate("regenerate", self.trained_folder)
        return format_counts(generation_counts(self.pairs_again))

    def rescore(self) -> str:
        self.scored_again = self._score("rescore", self.pairs_again)
        return format_counts(Counter(self.scored_again[STATUS]))

    def curate(self) -> str:
        def make() -> tuple[Dataset, dict]:
            curated, report = self._curate(self.scored_again)
            if not report.kept:
                raise RunError(f"no pair is left for the dataset:\n{report}")
            dropped = [(f"dropped: {rule}", count) for rule, count in report.dropped.items()]
            return curated, {"table": str(report), "counts": [("pairs", report.pairs), *dropped, ("kept", report.kept)]}

        self.curated, self.curation_report = self.run.dataset("curate", make)
        return self.curation_report["table"]

    def write(self) -> str:
        def make(folder: Path) -> dict:
            if not process_state().is_main_process:
                return {}
            pools = self._pools()
            facts = self._facts(pools)
            configs = {"default": self.curated, "scored": self.scored_again, "pseudo_labels": self.labels}
            write_dataset(configs, folder / "dataset", facts)
            model, processor = self._load(self.trained_folder)
            write_generator(model, processor, folder / "generator", facts, self.curated)
            (folder / "config.yaml").write_text(yaml.safe_dump(self.settings, sort_keys=False))
            return {"pools": [asdict(pool) for pool in pools]}

        pools = [Pool(**values) for values in self.run.complete("write", make)["pools"]]
        if process_state().is_main_process:
            # To their places, now that all are complete.
            for name in _RESULTS:
                if (self.run.path("write") / name).exists():
                    os.rename(self.run.path("write") / name, self.run.folder / name)
        return (
            f"{format_summary(pools, self.args.ranking)}\n\ndataset    {self.run.folder / 'dataset'}\n"
            f"generator  {self.run.folder / 'generator'}"
        )

    def push(self) -> str:
        return "\n".join(map(str, push(self.run.folder, self.publication)))

    def _publication(self) -> Publication | None:
        """Where the results are to be published, checked before any work; None if they are not."""
        given = [name for name in _TRAINERS_HUB if getattr(self.training, name) is not None]
        if given:
            raise RunError(
                f"--{given[0]} is not used here: see --hub_namespace, --hub_dataset_name, --hub_generator_name and "
                "--public; the token comes from HF_TOKEN or `hf auth login`"
            )
        if not self.training.push_to_hub:
            return None
        # Else the trainer would push its checkpoints.
        self.training.push_to_hub = False
        args = self.args
        if self.training.trust_remote_code:
            raise RunError("--push_to_hub publishes no code, which the generator would need with --trust_remote_code")
        for name in ("images_license", "license"):
            if not getattr(args, name):
                raise RunError(f"--push_to_hub needs --{name}: what is published says so on its cards")
        if "write" not in args.stages:
            raise RunError("--push_to_hub needs the stage write among --stages")
        words = args.options(*_WORDS, "public", "overwrite")
        publication = Publication(args.hub_namespace, args.hub_dataset_name, args.hub_generator_name, **words)
        if process_state().is_main_process:
            check_access(publication)
        return publication

    def _load(self, folder: Path):
        return load_model(
            Source(str(folder), dtype=self.args.model_dtype, trust_remote_code=self.training.trust_remote_code)
        )

    def _generate(self, stage: str, folder: Path) -> Dataset:
        # Every random choice depends on (seed, stage, row).
        config = replace(self.generation, seed=self.training.seed + 1_000_003 * STAGES.index(stage))
        return self.run.in_pieces(stage, self.images, lambda part: generate_pairs(part, *self._load(folder), config))

    def _score(self, stage: str, pairs: Dataset) -> Dataset:
        @functools.cache
        def scorer() -> I2CScorer:
            # Both rounds with the generator as it was before training: one measure for both.
            model, processor = self._load(self.model_folder)
            return I2CScorer(model, processor, ranking=self.args.ranking, max_tokens=self.args.scoring_max_tokens)

        def scored(part: Dataset) -> Dataset:
            return with_scores(part, score_rows(part, scorer(), self.args.scoring_batch_size, desc="Scoring pairs"))

        return self.run.in_pieces(stage, pairs, scored, piece_size=500 * self.args.pairs_per_image)

    def _curate(self, scored: Dataset):
        return curate(scored, **self.args.options(*_CURATION), seed=self.training.seed)

    def _pools(self) -> list[Pool]:
        """Figures of every stage's pairs, with selections of the same size from the first round and at random."""
        scenes = scenes_of(self.images)
        return [
            pool_of_pairs("generated", self.scored, scenes),
            pool_of_labels("  pseudo-labels, chosen", self.labels, "chosen", scenes),
            pool_of_labels("  pseudo-labels, rejected", self.labels, "rejected", scenes),
            pool_of_pairs("  curated from these", self._curate(self.scored)[0], scenes),
            pool_of_pairs("  random of that size", self._random(self.scored), scenes),
            pool_of_pairs(GENERATED_AGAIN, self.scored_again, scenes),
            pool_of_pairs("  curated: the dataset", self.curated, scenes),
            pool_of_pairs("  random of that size", self._random(self.scored_again), scenes),
        ]

    def _random(self, scored: Dataset) -> Dataset:
        # The first round may have fewer usable pairs than were kept of the second.
        size = min(len(self.curated), generation_counts(scored)["ok"])
        return random_selection(scored, size, seed=self.training.seed)

    def _facts(self, pools: list[Pool]) -> RunFacts:
        args = self.args
        synthetic = args.images in _SCENES
        return RunFacts(
            title="C3L pairs about scenes" if synthetic else "C3L pairs",
            generator="c3l_hf scenes generator" if args.model == "scenes" else args.model,
            generator_revision=self.model_identity.get("revision"),
            generator_digest=self.model_identity.get("digest"),
            images=f"{plain(args.images)}, {len(self.images):,} images",
            images_digest=self.run.inputs["images"],
            images_license=args.images_license,
            images_source=args.images_source or ("the embedded world of c3l_hf" if synthetic else None),
            license=args.license,
            synthetic_images=synthetic,
            seed=self.training.seed,
            ranking=args.ranking,
            options=self.settings,
            config_file=Path(self.config_file).name if self.config_file else None,
            stages=[
                ("generate", list(generation_counts(self.pairs).items())),
                ("score", list(Counter(self.scored[STATUS]).items())),
                ("select", self.run.report("select")["counts"]),
                ("train", [("steps", self.run.report("train")["steps"])]),
                ("regenerate", list(generation_counts(self.pairs_again).items())),
                ("rescore", list(Counter(self.scored_again[STATUS]).items())),
                ("curate", self.curation_report["counts"]),
            ],
            truth=[(pool.name.strip(), pool.pairs, *pool.true) for pool in pools if pool.true] or None,
            **dataset_figures(self.curated, self.scored_again),
        )


def main(job: C3L) -> None:
    started = time.monotonic()
    datasets.disable_caching()  # stages keep their results themselves
    state = process_state()
    if state.device.type == "cpu":
        # `accelerate launch` gives every process one thread unless told otherwise.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // state.num_processes))
    for stage in STAGES[: 1 + max(STAGES.index(stage) for stage in job.args.stages)]:
        state.print(f"\n== {stage}", flush=True)
        state.print(getattr(job, stage)(), flush=True)
    if job.publication and state.is_main_process:
        print("\n== push", flush=True)
        try:
            print(job.push(), flush=True)
        except HubError as error:
            sys.exit(f"c3l: {error}\nThe run is complete; the same command again goes on with the push.")
    state.print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    config = sys.argv[sys.argv.index("--config") + 1] if "--config" in sys.argv[:-1] else None
    try:
        job = C3L(*TrlParser((C3LArguments, C3LConfig)).parse_args_and_config(), config)
    except (RunError, OSError, ValueError, yaml.YAMLError) as error:
        # Nothing has been done yet: one line says what is wrong with the call.
        sys.exit(f"c3l: {error}")
    main(job)
