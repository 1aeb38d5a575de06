"""The cards of dataset and generator from the facts of a run; their wording is in `hub_cards/*.md`."""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from c3l_hf.common.choices import check_choice, check_choices
from c3l_hf.common.files import shipped
from c3l_hf.common.plain import plain
from c3l_hf.common.versions import versions
from c3l_hf.data.schema import SCORES
from c3l_hf.publishing.manifest import DataConfig, FileRecord, digest_of
from c3l_hf.publishing.markdown import (
    as_code,
    as_examples,
    as_histogram,
    as_number,
    as_percent,
    as_table,
    as_text,
    as_tokens,
    as_yaml,
    one_line,
)
from c3l_hf.scoring.formulas import SCORE_DESCRIPTIONS

__all__ = ["GENERATED_AGAIN", "TRAINING_FACTS", "RunFacts", "dataset_card", "model_card", "stated_figures"]

# The pool of pairs in `RunFacts.truth` that tells how good the trained generator is.
GENERATED_AGAIN = "generated again"

# What of the training the cards tell: options of `training.config.C3LConfig`.
TRAINING_FACTS = (
    "anchor",
    "contrastive_loss",
    "contrastive_weight",
    "hidden_layer",
    "in_batch_negatives",
    "lora_r",
    "nll_weight",
    "pooling",
    "projection",
    "projection_dim",
    "similarity",
    "temperature",
    "token_weights",
    "train_language_model",
    "train_projector",
    "train_vision_tower",
    "use_lora",
    "weight_column",
)

_TAGS = ["c3l", "i2c", "vision-language-instruction-tuning"]
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class RunFacts:
    """What the cards say about a run. What was not measured is None, and the card has no word about it.

    Absolute paths of this machine never reach a card: of a value that is one, the last part stands there. As JSON the
    facts are part of the manifest, from which the card can be rendered again and compared.

    Attributes:
        title: Heading of the card.
        generator: The model that generation started from: a Hub id, or the name of a folder.
        images: The images in words: "scenes world, 3,000 images", the name of a folder, a dataset's id.
        rows: Rows of the curated dataset.
        seed: The run's seed.
        ranking: The score that `i2c` is, one of `data.schema.SCORES`.
        options: The run's configuration, as plain values.
        training: What the training was set to, defaults included: all of `TRAINING_FACTS`, by name.
        near_duplicate_scope: Among which pairs near-duplicates were left out: "image", "dataset", or "none".
        stages: (name, [(label, number), …]) of each stage in the order of the run.
        generator_revision: Commit of the generator on the Hub. Without one it is taken for a local model, which the
            metadata must not name as a base model on the Hub.
        generator_digest: Digest of a local generator's weights.
        generator_base: Where the generator was adapters: the model that they were merged into.
        generator_base_revision: Its commit on the Hub.
        generator_base_digest: Digest of its weights, if it is a local one.
        scorer: The model that gave the scores, where it was not the generator before its training.
        scorer_revision: Its commit on the Hub.
        scorer_digest: Digest of its weights, if it is a local one.
        scorer_base: Where the scorer was adapters: the model that they were merged into.
        scorer_base_revision: Its commit on the Hub.
        scorer_base_digest: Digest of its weights, if it is a local one.
        scorer_dtype: The dtype in which the scores were taken, e.g. "bfloat16".
        pairs_source: Where the pairs of the first round come from, if the generator did not write them.
        images_digest: Digest of the images.
        images_license: Licence of the images; the card says so when it is not stated.
        images_source: Where the images come from, in words or as an address.
        license: Licence of what is published (an identifier of the Hub), for the metadata.
        dataset_repo: Name of the dataset on the Hub; None before it is pushed.
        generator_repo: Name of the generator there.
        synthetic_images: The images are a small synthetic world, whose limits the card names.
        config_file: Name of the configuration file.
        templates: What the generator was asked by: the name of a set of prompt templates, or of their file.
        tokens: (stage, model as its server called it or None of one in the run's own process, tokens of prompts, tokens
            of replies) of each stage that generated, as those who wrote the replies counted them; None if they did not.
        token_prices: Price of a million tokens of prompts, and of replies, at the servers; either may be None.
        languages: Languages of the curated dataset (ISO 639-1), as far as its templates say.
        type_shares: Question type → its share of the curated dataset, in [0, 1].
        score_quantiles: Name of the quantile → `i2c` of the curated dataset.
        length_correlation: (Spearman's correlation of `i2c` with the answer's length in words, pairs it is taken over).
        truth: (which pairs, how many were judged, share of true ones, lower and upper bound of its 95 % interval).
        histogram: (lower bound, upper bound, scored pairs, of these in the curated dataset) by `i2c`.
        examples: (question, answer, type, i2c, pair_id) of a few rows. The texts are not trusted. Their pictures are
            `examples/0.png` and so on.
        versions: Package → version.
    """

    title: str
    generator: str
    images: str
    rows: int
    seed: int
    ranking: str
    options: Mapping[str, Any]
    training: Mapping[str, Any]
    near_duplicate_scope: Literal["image", "dataset", "none"]
    stages: Sequence[tuple[str, Sequence[tuple[str, float]]]]
    generator_revision: str | None = None
    generator_digest: str | None = None
    generator_base: str | None = None
    generator_base_revision: str | None = None
    generator_base_digest: str | None = None
    scorer: str | None = None
    scorer_revision: str | None = None
    scorer_digest: str | None = None
    scorer_base: str | None = None
    scorer_base_revision: str | None = None
    scorer_base_digest: str | None = None
    scorer_dtype: str = "float32"
    pairs_source: str | None = None
    images_digest: str | None = None
    images_license: str | None = None
    images_source: str | None = None
    license: str | None = None
    dataset_repo: str | None = None
    generator_repo: str | None = None
    synthetic_images: bool = False
    config_file: str | None = None
    templates: str | None = None
    tokens: Sequence[tuple[str, str | None, int | None, int | None]] | None = None
    token_prices: tuple[float | None, float | None] | None = None
    languages: Sequence[str] | None = None
    type_shares: Mapping[str, float] | None = None
    score_quantiles: Mapping[str, float] | None = None
    length_correlation: tuple[float, int] | None = None
    truth: Sequence[tuple[str, int, float, float, float]] | None = None
    histogram: Sequence[tuple[float, float, int, int]] | None = None
    examples: Sequence[tuple[str, str, str, float, str]] | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    def __post_init__(self) -> None:
        check_choice("ranking", self.ranking, SCORES)
        if self.training.keys() != set(TRAINING_FACTS):
            wrong = ", ".join(sorted(self.training.keys() ^ set(TRAINING_FACTS)))
            raise ValueError(f"training must have the options of TRAINING_FACTS and no others; it differs in {wrong}")
        check_choices(self)
        # A correlation that does not exist (all scores equal) was not measured.
        if self.length_correlation is not None and math.isnan(self.length_correlation[0]):
            object.__setattr__(self, "length_correlation", None)
        told = ("generator", "generator_base", "scorer", "scorer_base", "pairs_source", "images", "images_source")
        for name in (*told, "templates", "tokens", "config_file", "options", "training", "stages"):
            object.__setattr__(self, name, plain(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON has them: `RunFacts(**facts.to_dict())` gives the same card."""
        return json.loads(json.dumps(asdict(self), default=lambda number: number.item()))


def dataset_card(
    facts: RunFacts, configs: Mapping[str, DataConfig] | None = None, files: Mapping[str, FileRecord] | None = None
) -> str:
    """README.md of the curated dataset: metadata and text. Equal facts give an equal card.

    Args:
        facts: Facts of the run.
        configs: The configurations to load the dataset by, "default" among them.
        files: Records of their shards, and of what else is in the folder: of figures the card has those that are there.
    """
    metadata = DatasetCardData(
        pretty_name=one_line(facts.title),
        license=facts.license,
        language=list(facts.languages) if facts.languages else None,
        task_categories=["image-text-to-text", "visual-question-answering"],
        size_categories=[next((name for limit, name in _SIZES if facts.rows < limit), "n>1M")],
        tags=_TAGS,
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": "train", "path": f"{config.folder}/train-*-of-{config.shards:05d}.parquet"}],
                # In datasets 5.2 a local folder's cache is named after its name and its configurations. Without the
                # digest two runs' datasets, both in a folder "dataset", would be taken for one and the same.
                "description": f"{config.rows} rows, sha256 {digest_of(config, files or {})}",
            }
            for name, config in (configs or {}).items()
        ]
        or None,
    )
    return _render("dataset_card.md", facts, metadata, configs=configs or {}, files=files or {})


def model_card(facts: RunFacts) -> str:
    """README.md of the trained generator: metadata and text. Equal facts give an equal card."""
    measured = [
        EvalResult(
            task_type="image-text-to-text",
            # For a dataset on the Hub its id, as the Hub wants it.
            dataset_type=one_line(facts.images).partition(",")[0],
            dataset_name=one_line(facts.images),
            metric_type="accuracy",
            metric_name="share of true pairs, each type of question counting the same",
            metric_value=round(share, 4),
        )
        for pairs, _, share, _, _ in facts.truth or ()
        if pairs == GENERATED_AGAIN
    ]
    name = (facts.generator_repo or "generator").rsplit("/", 1)[-1]
    metadata = ModelCardData(
        base_model=_base_models(facts),
        base_model_relation="finetune" if _base_models(facts) else None,
        datasets=[facts.dataset_repo] if facts.dataset_repo else None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license=facts.license,
        language=list(facts.languages) if facts.languages else None,
        tags=[*_TAGS, "trl"],
        **({"model_name": name, "eval_results": measured} if measured else {}),
    )
    return _render("model_card.md", facts, metadata)


def _base_models(facts: RunFacts) -> str | list[str] | None:
    """The models on the Hub that a generator comes from, as its metadata have them: adapters after their model."""
    stated = (
        (facts.generator_base, facts.generator_base_revision),
        (facts.generator, facts.generator_revision),
    )
    names = [name for name, revision in stated if name is not None and revision]
    return names if len(names) > 1 else next(iter(names), None)


def stated_figures(facts: Mapping[str, Any], kind: Literal["dataset", "generator"]) -> list[tuple[str, str, str]]:
    """The figures among facts, whichever version of this package they are of.

    Args:
        facts: Of a manifest. What is not there, or not as this version has it, gives no figure.
        kind: Whose card.

    Returns:
        (what it is, what stands in the same line of the card or "", how a card writes the figure) of each.
    """
    figures: list[tuple[str, str, str]] = []

    def add(name: str, values: Any, of: Callable[[Any], Iterable[tuple[str, str]]]) -> None:
        with contextlib.suppress(TypeError, ValueError, AttributeError, LookupError):
            figures.extend((f"{name}{label}", as_text(label), figure) for label, figure in of(values))

    add("", facts.get("seed"), lambda seed: [("seed", str(int(seed)))])
    add("length correlation", facts.get("length_correlation"), lambda pair: [("", f"{pair[0]:+.2f}")])
    for stage in facts.get("stages") or ():
        name = f"{stage[0]}, " if isinstance(stage, Sequence) and stage else ""
        add(name, stage, lambda stage: [(label, as_number(number)) for label, number in stage[1]])
    for judged in facts.get("truth") or ():
        add("truth, ", judged, lambda row: [(row[0], as_number(row[1])), *((row[0], as_percent(x)) for x in row[2:5])])
    if kind == "dataset":
        add("rows", facts.get("rows"), lambda rows: [("", as_number(rows))])
        add(
            "share of ",
            facts.get("type_shares"),
            lambda shares: [(t, as_percent(share)) for t, share in shares.items()],
        )
        add("quantile ", facts.get("score_quantiles"), lambda values: [(q, as_number(v)) for q, v in values.items()])
        for row in facts.get("tokens") or ():
            add("tokens, ", row, lambda row: [(row[0], as_number(count)) for count in row[2:4] if count is not None])
        for bin in facts.get("histogram") or ():
            add("histogram", bin, lambda bin: [("", as_number(bin[2])), ("", as_number(bin[3]))])
    return figures


def _render(template: str, facts: RunFacts, metadata: DatasetCardData | ModelCardData, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(shipped("hub_cards")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Whatever a template prints is escaped, unless one of the functions below has made Markdown of it.
        finalize=lambda value: value if isinstance(value, Markup) else as_text(value),
    )
    environment.globals |= {
        "table": as_table,
        "yaml_block": as_yaml,
        "histogram": as_histogram,
        "examples": as_examples,
    }
    environment.globals |= {"tokens": as_tokens}
    environment.filters |= {"code": as_code, "python": lambda text: Markup(json.dumps(one_line(text)))}
    # For words of the template itself.
    environment.filters |= {"markdown": Markup, "percent": as_percent}
    values |= {"facts": facts, "scores": SCORE_DESCRIPTIONS, "training": facts.training}
    return environment.get_template(template).render(metadata=Markup(metadata.to_yaml()), **values)
