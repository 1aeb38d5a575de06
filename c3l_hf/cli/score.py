"""`c3l score`: the scores of any dataset's answers."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from c3l_hf.cli.command import CallOptions, Command, set_up_process
from c3l_hf.cli.rows import (
    OutputOptions,
    RowsOptions,
    check_output,
    check_own_names,
    open_rows,
    with_own_names,
    write_rows,
)
from c3l_hf.cli.signals import SignalOptions, check_signals, new_columns, open_signal
from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.memory_errors import told_of_memory
from c3l_hf.common.nodes import check_places
from c3l_hf.common.processes import process_state
from c3l_hf.data.image_files import located
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.reading import PictureOptions, fetch_pictures
from c3l_hf.data.row_images import pictures_of
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.data.stored_rows import stored_row
from c3l_hf.data.unreadable_list import beside, unreadable_images, write_unreadable
from c3l_hf.files.image import open_image
from c3l_hf.models.control_tokens import ControlTokens
from c3l_hf.models.loading import Source
from c3l_hf.pipeline.options import PassOptions, UsedModelOptions
from c3l_hf.scoring.dataset import format_scores, score_dataset
from c3l_hf.scoring.scorer import I2CScorer

__all__ = ["COMMAND", "ScoreOptions", "some_images"]

_ASSUMED = "question: no column generation_prompt says what was asked: the pairs count as replies to a shipped template"


@dataclass
class ScoreOptions(PassOptions, PictureOptions):
    """How answers are scored, and where their images are."""

    path: Literal["auto", "plain"] = field(
        default="auto", metadata={"help": "plain: answers about one image never share a pass."}
    )
    blind: Literal["drop", "blank", "noise", "shuffle"] = field(
        default="drop", metadata={"help": "What takes the image's place in the pass without it."}
    )
    control_tokens: ControlTokens = field(
        default="refuse",
        metadata={"help": "Control tokens written in a text: refuse the row, or read them as letters."},
    )


def score(
    rows: RowsOptions,
    model: UsedModelOptions,
    scoring: ScoreOptions,
    signals: SignalOptions,
    output: OutputOptions,
    _: CallOptions,
) -> int | None:
    """Scores a dataset; see `COMMAND`."""
    set_up_process()
    check_places({"dataset": rows.dataset, "model": model.model, "image_folder": scoring.image_folder})
    path = check_output(output)
    check_signals(signals)
    check_own_names(rows, new_columns(signals.signals))
    dataset = open_rows(rows)
    layout_of(dataset.column_names)
    fetch_pictures(dataset, scoring)
    source = Source.of(model, trust_remote_code=model.trust_remote_code)
    scorer = I2CScorer.from_pretrained(
        source.model_id,
        revision=source.revision,
        dtype=source.dtype,
        device_map=source.device_map,
        attn_implementation=source.attn_implementation,
        quantization_config=source.quantization_config,
        trust_remote_code=source.trust_remote_code,
        base_model=source.base_model,
        ranking=scoring.ranking,
        path=scoring.path,
        blind=scoring.blind,
        blind_images=list(some_images(dataset, scoring.image_folder)) if scoring.blind == "shuffle" else (),
        max_tokens=scoring.scoring_max_tokens,
        image_folder=scoring.image_folder,
        control_tokens=scoring.control_tokens,
    )
    scored, told, without = dataset, [], []
    smaller = f"lower scoring_batch_size, which is {scoring.scoring_batch_size}; what is finished stays"
    for name in signals.signals:
        opened = contextlib.nullcontext() if name == "i2c" else open_signal(name, signals, scorer)
        with opened as signal, told_of_memory(smaller):
            scored = score_dataset(scored, signal or scorer, batch_size=scoring.scoring_batch_size)
        status = signal.status if signal else STATUS
        told.append(("" if name == "i2c" else f"{name}: ") + format_scores(scored, signal))
        if name == "question" and "generation_prompt" not in dataset.column_names:
            told.append(_ASSUMED)
        if STATUS_OK not in scored[status][:]:
            without.append(status)
    if process_state().is_main_process:
        write_rows(with_own_names(scored, rows), output)
        if STATUS in scored.column_names:
            named = "image_id" in scored.column_names
            names = map(str, scored["image_id"]) if named else (f"row {row}" for row in range(len(scored)))
            write_unreadable(beside(path), unreadable_images(zip(names, scored[STATUS])))
        print("\n\n".join([*told, f"{model.model}, {scorer.path} path → {path}"]))
    if without:
        raise RunError(f"none of {len(scored):,} rows has a score; {path} has the reasons in {', '.join(without)}")
    return None


def some_images(dataset: Dataset, folder: str | None, most: int = 64) -> Iterable[Any]:
    """Images of rows spread evenly over the dataset; those that cannot be read are left out."""
    layout = layout_of(dataset.column_names)
    dataset = dataset.select_columns(list(layout.columns))
    for number in np.unique(np.linspace(0, len(dataset) - 1, most).astype(int)) if len(dataset) else ():
        try:
            value = pictures_of(stored_row(dataset, int(number)), layout)[0]
            yield open_image(located(value, folder))
        except RowError:
            continue


COMMAND = Command(
    description="Scores every answer of a dataset by how much its image matters to it (I2C): the likelihood of the "
    "answer with the image and without. Rows may be prompt + completion, messages, question + answer, LLaVA's "
    "conversations and others that public datasets have (docs/layouts.md); LLaVA's JSON is taken as it is, with "
    "--image_folder. Rows that cannot be scored stay, with the reason in i2c_status. --signals finds out "
    "other things about them, also of rows that have scores. After an interruption the same command goes on.",
    examples=(
        "c3l score --model llava-hf/llava-1.5-7b-hf --dataset user/my-pairs --output scored.parquet",
        "c3l score --signals truth question --model … --dataset scored.parquet --output more.parquet",
        "accelerate launch -m c3l_hf score --model … --dataset … --output scored.parquet     (several processes)",
    ),
    groups=(RowsOptions, UsedModelOptions, ScoreOptions, SignalOptions, OutputOptions, CallOptions),
    call=score,
    resumes=True,
)
