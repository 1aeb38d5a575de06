"""What can be set for an evaluation, beside the model; and what of it excludes each other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from c3l_hf.common.errors import RunError
from c3l_hf.data.worlds import WORLDS
from c3l_hf.evaluation.answerer import PredictionConfig
from c3l_hf.evaluation.benchmarks import BENCHMARKS

__all__ = ["PUBLISHED", "EvaluateOptions", "check_options", "prediction_configs"]

PUBLISHED = "published"  # in place of a world: the benchmarks as they are published
# Long enough for an answer with its reason; a model that knows what is asked ends after a word.
_MAX_NEW_TOKENS = {"pope": 32, "seed": 32, "mmbench": 32, "llava_w": 1024}
_MAX_NEW_TOKENS_IN_WORLDS = dict.fromkeys(_MAX_NEW_TOKENS, 96)
_WITH_OPTIONS = ("seed", "mmbench")
# Its 60 answers take as long as thousands of others: several processes share them, and an interruption loses few.
_LONG_ANSWERS = {"part_size": 16}


@dataclass
class EvaluateOptions:
    """An evaluation of one model."""

    output_dir: str = field(metadata={"help": "Folder of this evaluation: one model, any benchmarks."})
    benchmarks: list[str] = field(
        default_factory=lambda: list(BENCHMARKS), metadata={"help": f"Of: {' '.join(BENCHMARKS)}; or with commas."}
    )

    # Questions
    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "benchmark=file, folder or Hub id: as published on the Hub, by its authors or by VLMEvalKit."
        },
    )
    image_folders: list[str] = field(
        default_factory=list,
        metadata={"help": "benchmark=folder of the pictures that rows name by file; by default beside the file."},
    )
    world: str = field(
        default=PUBLISHED,
        metadata={"help": f"{PUBLISHED}, or {', '.join(WORLDS)}: the same benchmarks in the embedded world."},
    )
    num_images: int = field(default=500, metadata={"help": "Images of each benchmark on an embedded world."})
    seed: int = field(
        default=0, metadata={"help": "Seed of an embedded world, and of sampling at a temperature above 0."}
    )
    bare_questions: bool = field(
        default=False,
        metadata={"help": "Ask without options and request for a letter or word, for models that know neither."},
    )
    mmbench_split: str = field(default="dev", metadata={"help": "dev, or test: no figures, but a file to submit."})
    mmbench_circular: bool = field(default=True, metadata={"help": "Ask with all rotations of the options."})
    limit: int | None = field(
        default=None,
        metadata={"help": "Only so many questions of each, spread evenly; the results say so."},
    )

    # Answers
    likelihood: bool = field(default=True, metadata={"help": "Also answer by the likelihoods of the options."})
    max_new_tokens: list[str] = field(
        default_factory=list,
        metadata={"help": "Longest answer, in tokens: a number, or benchmark=number. Models that reason need more."},
    )
    temperature: float = field(default=0.0, metadata={"help": "Sampling temperature; 0 is greedy."})
    batch_size: int = field(default=32, metadata={"help": "Answers written at once."})

    # Judge of LLaVA-Bench
    judge_base_url: str | None = field(
        default=None, metadata={"help": "An OpenAI-compatible endpoint, https://host/v1."}
    )
    judge_model: str | None = field(default=None, metadata={"help": "The judge's name there."})
    judge_temperature: float = field(
        default=0.2,
        metadata={"help": "Temperature of its replies; below 0: none is sent (some models have their own)."},
    )
    judge_max_tokens: int = field(default=1024, metadata={"help": "Its longest reply, in tokens; 0: none is sent."})
    judge_extra_body: str | None = field(
        default=None,
        metadata={"help": "Further fields of requests to it, JSON: '{\"max_completion_tokens\": 4096}'; no secrets."},
    )
    judge_timeout: float = field(default=120.0, metadata={"help": "Seconds without a byte of its reply."})
    judge_both_orders: bool = field(default=False, metadata={"help": "Ask in both orders of the answers, and average."})
    judge_max_errors: float | None = field(
        default=None, metadata={"help": "Largest share of failed judgements; more end the run. By default they count."}
    )

    @property
    def names(self) -> list[str]:
        """The benchmarks, each for itself."""
        return [name for part in self.benchmarks for name in part.split(",") if name]

    @property
    def sources(self) -> dict[str, str]:
        """Benchmark → where its data are, of those for which it was said."""
        return dict(_assignment("data", item) for item in self.data)

    @property
    def folders(self) -> dict[str, str]:
        """Benchmark → where the pictures are that its rows name, of those for which it was said."""
        return dict(_assignment("image_folders", item) for item in self.image_folders)


def check_options(options: EvaluateOptions) -> None:
    """What is wrong with the options by themselves, before any work.

    Raises:
        RunError: The message names the option, what it is and what it may be.
    """
    if not options.names:
        raise RunError(f"benchmarks has nothing; there are {', '.join(BENCHMARKS)}")
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        raise RunError(f"benchmarks has {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    worlds = (PUBLISHED, *WORLDS)
    if options.world not in worlds:
        raise RunError(f"world is {options.world!r}; it must be one of {', '.join(worlds)}")
    if options.sources and options.world != PUBLISHED:
        raise RunError(f"data is for the {PUBLISHED} benchmarks, not for the world {options.world}")
    if unused := [name for name in options.folders if name not in options.sources]:
        raise RunError(f"image_folders has {', '.join(unused)}, for which data says no file; say data too")


def prediction_configs(options: EvaluateOptions) -> dict[str, PredictionConfig]:
    """How each of the benchmarks is put to the model.

    Raises:
        RunError: If `max_new_tokens` cannot be read.
        ValueError: If a value is impossible.
    """
    longest = dict(_MAX_NEW_TOKENS if options.world == PUBLISHED else _MAX_NEW_TOKENS_IN_WORLDS)
    longest |= _token_limits(options.max_new_tokens, longest)
    parts: Mapping[str, Mapping[str, int]] = {"llava_w": _LONG_ANSWERS} if options.world == PUBLISHED else {}
    return {
        name: PredictionConfig(
            max_new_tokens=longest[name],
            likelihood=options.likelihood and name in _WITH_OPTIONS,
            temperature=options.temperature,
            seed=options.seed,
            batch_size=options.batch_size,
            **parts.get(name, {}),
        )
        for name in options.names
    }


def _token_limits(items: Iterable[str], benchmarks: Iterable[str]) -> dict[str, int]:
    """ "7" is for all benchmarks, "pope=7" for one; the later ones win."""
    limits: dict[str, int] = {}
    for item in items:
        name, number = _assignment("max_new_tokens", item) if "=" in item else (None, item)
        if not number.isdecimal():
            raise RunError(f"max_new_tokens has {item!r}: {number!r} is not a number")
        limits |= dict.fromkeys(benchmarks if name is None else [name], int(number))
    return limits


def _assignment(option: str, item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not value or name not in BENCHMARKS:
        raise RunError(f"{option} has {item!r}; it must be benchmark=value, with one of {', '.join(BENCHMARKS)}")
    return name, value
