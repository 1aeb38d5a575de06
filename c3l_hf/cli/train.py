"""`c3l train`: the contrastive training of a generator on pseudo-labels."""

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, concatenate_datasets

from c3l_hf.cli.command import CallOptions, Command, set_up_process
from c3l_hf.cli.rows import RowsOptions, open_rows
from c3l_hf.cli.training_help import SHOWN_TRAIN
from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.files import digest
from c3l_hf.common.nodes import check_places, check_run
from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.versions import versions
from c3l_hf.data.image_files import row_files_state
from c3l_hf.data.layouts import Layout
from c3l_hf.data.preferences import preference_columns, read_candidates
from c3l_hf.data.schema import CHOSEN_TOKENS
from c3l_hf.data.sources import image_column, load_images
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.files.inventory import cached
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source, load
from c3l_hf.pipeline.options import ImageOptions, ModelOptions
from c3l_hf.pipeline.progress import format_training
from c3l_hf.training.checkpoints import remove_checkpoints, training_folder, training_options
from c3l_hf.training.config import C3LConfig
from c3l_hf.training.run import train_generator

__all__ = ["COMMAND", "with_images"]


@dataclass
class LabelImageOptions(ImageOptions):
    """The images of pseudo-labels that have none themselves."""

    _argument_group_name: ClassVar[str] = "Images, if the pseudo-labels have none (they are found by image_id)"


def train(
    rows: RowsOptions, images: LabelImageOptions, model: ModelOptions, training: C3LConfig, _: CallOptions
) -> None:
    """Trains a generator; see `COMMAND`."""
    set_up_process()
    check_places({"dataset": rows.dataset, "images": images.images, "model": model.model})
    if model.load_in_4bit or model.load_in_8bit:
        raise RunError("load_in_4bit and load_in_8bit are not for training: the trained model is saved whole")
    if training.push_to_hub:
        raise RunError("push_to_hub is not used here: c3l run publishes a generator together with its dataset")
    source, identity = find_model(Source.of(model, trust_remote_code=training.trust_remote_code))
    options = source.loading() | training_options(training)
    labels = with_images(open_rows(rows), images, training.seed)
    inputs = {
        "model": identity,
        "labels": _digest(labels, (training.weight_column, CHOSEN_TOKENS if training.token_weights else None)),
        "seed": training.seed,
        "c3l_hf": versions()["c3l-hf"],
    }
    check_run(training.output_dir, inputs | options)
    run = RunFolder(Path(training.output_dir), inputs, results=("generator",))
    run.plan({"train": options}, ["train"])
    run.claim()
    checkpoints = training_folder(run, "train")

    def make(folder: Path) -> dict:
        return train_generator(*load(source), labels, training, checkpoints, folder / "generator")

    report = run.complete("train", make)
    if process_state().is_main_process:
        remove_checkpoints(checkpoints)
        run.move_results()  # now that it is complete
        print(f"{format_training(report)}\n\ngenerator  {run.folder / 'generator'}")


def with_images(labels: Dataset, images: LabelImageOptions, seed: int) -> Dataset:
    """Pseudo-labels, or rows of a preference dataset, with their images beside them or in their messages.

    Raises:
        RunError: If columns are missing, or images of some rows.
    """
    try:
        layout = preference_columns(labels.column_names)
    except ValueError as error:
        raise RunError(f"the pseudo-labels have {error}; c3l select makes them") from None
    if layout.images or (images.images is None and _holds_pictures(labels, layout)):
        return labels
    if images.images is None or "image_id" not in labels.column_names:
        raise RunError("the pseudo-labels have no column images: name the images, which are found by image_id")
    source = load_images(
        images.images,
        split=images.images_split,
        limit=images.num_images,
        seed=seed,
        inventory=cached("images", os.path.abspath(images.images), images.images_split, images.num_images, seed),
    ).dataset
    rows = {image_id: row for row, image_id in enumerate(source["image_id"])}
    unknown = [image_id for image_id in labels["image_id"] if image_id not in rows]
    if unknown:
        raise RunError(
            f"images {images.images} lacks {len(unknown):,} of the pseudo-labels' images, first {unknown[0]!r}"
        )
    pictures = source.select_columns([image_column(source)]).select([rows[name] for name in labels["image_id"]])
    return concatenate_datasets([pictures, labels], axis=1)


def _holds_pictures(labels: Dataset, layout: Layout) -> bool:
    """Whether the messages of any row have pictures of their own."""
    used = labels.select_columns(list(layout.columns))
    for table in used.with_format("arrow").iter(1000):
        for row in stored_rows(table, used.features):
            with contextlib.suppress(RowError):
                read_candidates(row)  # has at least one
                return True
    return False


def _digest(labels: Dataset, others: Collection[str | None]) -> str:
    """What tells these labels from others: their contents, of images in files their sizes and times."""
    layout = preference_columns(labels.column_names)
    used = labels.select_columns([*layout.columns, *[name for name in labels.column_names if name in others]])
    tables = used.with_format("arrow").iter(50)
    return digest(*(digest(repr(table.to_pylist())) for table in tables), row_files_state(used, layout))


COMMAND = Command(
    description="Trains a generator on pseudo-labels, as c3l select writes them, or on TRL's preference rows, by the "
    "likelihood of the chosen pair and its contrast with the rejected ones. The result is <output_dir>/generator "
    "(from_pretrained), adapters merged. The same command again goes on after an interruption.",
    examples=(
        "c3l train --dataset labels.parquet --model llava-hf/llava-1.5-7b-hf --output_dir runs/train",
        "accelerate launch -m c3l_hf train …                                                   (several processes)",
    ),
    groups=(RowsOptions, LabelImageOptions, ModelOptions, C3LConfig, CallOptions),
    call=train,
    shown={C3LConfig: SHOWN_TRAIN},
    resumes=True,
)
