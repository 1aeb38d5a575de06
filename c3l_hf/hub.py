"""What a run leaves behind, in the shape in which the Hub takes it: the dataset, the generator, and their cards."""

import contextlib
import importlib.metadata
import math
import numbers
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow.parquet as pq
import yaml
from datasets import Dataset
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCardData, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin

from .schema import SCORES

__all__ = ["RunFacts", "dataset_card", "model_card", "versions", "write_dataset", "write_generator"]

_SHARD_BYTES = 500_000_000
# Few enough for the Hub's viewer and for streaming, which read whole row groups, images included.
_ROW_GROUP = 100

_PACKAGES = (
    "c3l-hf",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "numpy",
    "peft",
    "pillow",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)

# The templates lie beside the package in a checkout, and in it once installed.
_TEMPLATES = FileSystemLoader([Path(__file__).parent / "hub_cards", Path(__file__).parents[1] / "hub_cards"])
_TEXT_LIMIT = 300
# As numeric references these are text wherever they stand: no table, emphasis, link, code, mathematics, html, mention.
# An underscore within a word is text anyhow.
_MARKDOWN = re.compile(r"[&<>|\\`*\[\]~#$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)")

# With p_t, q_t: predictions of token t with and without the image; a_t, t = 1 … N: the answer's tokens (i2c.py).
_SCORES = {
    "answer_kl": (
        "sum_t P_t ln(P_t / Q_t), P_t = p_t(a_t) / sum_s p_s(a_s), Q_t alike",
        "divergence between the answer's scores, normalised over the answer",
    ),
    "token_kl": ("(1/N) sum_t sum_v p_t(v) ln(p_t(v) / q_t(v))", "divergence over the whole vocabulary, per token"),
    "pmi": ("(1/N) sum_t [ln p_t(a_t) - ln q_t(a_t)]", "how much likelier the image makes this answer, per token"),
    "ppl_ratio": ("exp(pmi)", "perplexity without the image by that with it"),
    "logprob": ("(1/N) sum_t ln p_t(a_t)", "with the image, per token"),
    "logprob_blind": ("(1/N) sum_t ln q_t(a_t)", "without it, per token"),
}

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a run's result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


@dataclass(frozen=True)
class RunFacts:
    """What the cards say about a run. What was not measured is None, and the card has no word about it.

    Absolute paths of this machine never reach a card: of a value that is one, the last part stands there.

    Attributes:
        title: Heading of the card.
        generator: The model that generation started from: a Hub id, or the name of a folder.
        images: The images in words: "scenes world, 3,000 images", the name of a folder, a dataset's id.
        rows: Rows of the curated dataset.
        seed: The run's seed.
        ranking: The score that `i2c` is, one of `schema.SCORES`.
        options: The run's configuration, as plain values.
        stages: (name, [(label, number), …]) of each stage in the order of the run.
        generator_revision: Commit of the generator on the Hub. Without one it is taken for a local model, which the
            metadata must not name as a base model on the Hub.
        generator_digest: Digest of a local generator's weights.
        images_license: Licence of the images; the card says so when it is not stated.
        license: Licence of what is published (an identifier of the Hub), for the metadata.
        synthetic_images: The images are a small synthetic world, whose limits the card names.
        config_file: Name of the configuration file.
        type_shares: Question type → its share of the curated dataset, in [0, 1].
        score_quantiles: Name of the quantile → `i2c` of the curated dataset.
        length_correlation: (Spearman's correlation of `i2c` with the answer's length in words, pairs it is taken over).
        truth: (which pairs, how many were judged, share of true ones, lower and upper bound of its 95 % interval).
        examples: (question, answer, type, i2c) of a few rows. The texts are not trusted.
        versions: Package → version.
    """

    title: str
    generator: str
    images: str
    rows: int
    seed: int
    ranking: str
    options: Mapping[str, Any]
    stages: Sequence[tuple[str, Sequence[tuple[str, float]]]]
    generator_revision: str | None = None
    generator_digest: str | None = None
    images_license: str | None = None
    license: str | None = None
    synthetic_images: bool = False
    config_file: str | None = None
    type_shares: Mapping[str, float] | None = None
    score_quantiles: Mapping[str, float] | None = None
    length_correlation: tuple[float, int] | None = None
    truth: Sequence[tuple[str, int, float, float, float]] | None = None
    examples: Sequence[tuple[str, str, str, float]] | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    def __post_init__(self) -> None:
        if self.ranking not in SCORES:
            raise ValueError(f"ranking must be one of {', '.join(SCORES)}, not {self.ranking!r}")
        # A correlation that does not exist (all scores equal) was not measured.
        if self.length_correlation is not None and math.isnan(self.length_correlation[0]):
            object.__setattr__(self, "length_correlation", None)
        for name in ("generator", "images", "config_file", "options"):
            object.__setattr__(self, name, _plain(getattr(self, name)))


def write_dataset(dataset: Dataset, folder: str | Path, *, card: str) -> None:
    """Write a dataset as a folder that `load_dataset(folder)` and the Hub read: parquet shards and README.md.

    Columns and features stay as they are. The bytes of all images are in the shards, also where rows refer to files.

    Args:
        dataset: Any dataset with at least one row.
        folder: Made, with `data/train-00000-of-0000N.parquet` (up to about 500 MB each) in it. It appears when it is
            complete, or not at all.
        card: The text of README.md.

    Raises:
        FileExistsError: If the folder exists and is not empty.
        FileNotFoundError: If a file that a row refers to is not there; the message names it.
        ValueError: If the dataset has no rows.
    """
    if not len(dataset):
        raise ValueError(f"the dataset has no rows: nothing to write to {folder}")
    schema = dataset.features.arrow_schema
    tables = dataset.with_format("arrow").iter(_ROW_GROUP)
    with _complete_or_nothing(folder) as made:
        data = made / "data"
        data.mkdir()
        shards: list[Path] = []
        table = next(tables, None)
        while table is not None:
            shards.append(data / f"{len(shards)}.unfinished")
            size = 0
            # Chunks cut by content: on the Hub, shards that are equal in part are stored once.
            with pq.ParquetWriter(
                shards[-1], schema, use_content_defined_chunking=True, write_page_index=True
            ) as writer:
                while table is not None and size < _SHARD_BYTES:
                    table = embed_table_storage(table)
                    writer.write_table(table)
                    size += table.nbytes
                    table = next(tables, None)
        for number, shard in enumerate(shards):
            shard.rename(data / f"train-{number:05d}-of-{len(shards):05d}.parquet")
        _write_card(made, card)


def write_generator(model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path, *, card: str) -> None:
    """Write a generator as a folder that `AutoModelForImageTextToText` and `AutoProcessor` load, with README.md.

    Args:
        model: The model with its adapters merged; saved as safetensors in its dtype, with its generation settings.
        processor: Its processor, with the chat template.
        folder: Made; it appears when it is complete, or not at all.
        card: The text of README.md.

    Raises:
        FileExistsError: If the folder exists and is not empty.
        TypeError: If the model has an adapter that is not merged.
    """
    if isinstance(model, PeftModel):
        raise TypeError("the model has an adapter that is not merged: give model.merge_and_unload()")
    with _complete_or_nothing(folder) as made:
        model.save_pretrained(made)
        processor.save_pretrained(made)
        _write_card(made, card)


def dataset_card(facts: RunFacts) -> str:
    """README.md of the curated dataset: metadata and text. Equal facts give an equal card."""
    # No `configs`: `load_dataset` finds data/train-* without, and with them it takes two local folders of one name,
    # like the datasets of two runs, for the same, and returns the rows it has cached for the first (datasets 5.2).
    metadata = DatasetCardData(
        pretty_name=_one_line(facts.title),
        license=facts.license,
        language=["en"],
        task_categories=["image-text-to-text", "visual-question-answering"],
        size_categories=[next((name for limit, name in _SIZES if facts.rows < limit), "n>1M")],
        tags=["c3l", "i2c", "vision-language-instruction-tuning"],
    )
    return _render("dataset_card.md", facts, metadata)


def model_card(facts: RunFacts) -> str:
    """README.md of the trained generator: metadata and text. Equal facts give an equal card."""
    metadata = ModelCardData(
        base_model=facts.generator if facts.generator_revision else None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license=facts.license,
        language=["en"],
        tags=["c3l", "i2c", "vision-language-instruction-tuning", "trl"],
    )
    return _render("model_card.md", facts, metadata)


@contextlib.contextmanager
def _complete_or_nothing(folder: str | Path) -> Iterator[Path]:
    """A new folder beside `folder` to write into, which takes its name when all went well."""
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: remove it, or give another folder")
    # One name, so that what a killed run has left is removed by the next.
    made = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        if folder.is_dir():
            folder.rmdir()
        os.rename(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _write_card(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")


def _render(template: str, facts: RunFacts, metadata: DatasetCardData | ModelCardData) -> str:
    environment = Environment(
        loader=_TEMPLATES,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Whatever a template prints is escaped, unless one of the functions below has made Markdown of it.
        finalize=lambda value: value if isinstance(value, Markup) else _text(value),
    )
    environment.globals |= {"table": _table, "yaml_block": _yaml_block}
    environment.filters |= {"code": _code, "percent": lambda share: f"{100 * share:.1f} %"}
    return environment.get_template(template).render(facts=facts, scores=_SCORES, metadata=Markup(metadata.to_yaml()))


def _plain(value: Any) -> Any:
    """A configuration value as YAML knows it, without absolute paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    value = str(value)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(value).is_absolute() or value.startswith("~"):
            return kind(value).name
    return value


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _number(value: numbers.Real) -> str:
    return f"{value:,}" if isinstance(value, numbers.Integral) else f"{value:.4g}"


def _text(value: object) -> str:
    """Any value as text on one line that Markdown and html leave alone; long texts end in "…"."""
    if isinstance(value, numbers.Real):
        return _number(value)
    text = _one_line(str(value))
    if len(text) > _TEXT_LIMIT:
        text = text[: _TEXT_LIMIT - 1] + "…"
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", text)


def _code(value: object) -> Markup:
    return Markup("`" + _one_line(str(value)).replace("`", "'") + "`")


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A Markdown table: the first column to the left, the others to the right where they hold numbers."""
    rules = ["---"] + [
        "---:" if all(isinstance(row[i], numbers.Real) for row in rows) else "---" for i in range(1, len(header))
    ]
    cells = [header, rules, *([cell if isinstance(cell, Markup) else _text(cell) for cell in row] for row in rows)]
    return Markup("\n".join(f"| {' | '.join(row)} |" for row in cells))


def _yaml_block(values: Mapping[str, Any]) -> Markup:
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    fence = "```"
    while fence in text:
        fence += "`"
    return Markup(f"{fence}yaml\n{text}{fence}")
