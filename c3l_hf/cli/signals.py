"""The signals of `c3l score` beside the correspondence: which, and how they are asked for."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.common.processes import process_state
from c3l_hf.data.schema import SCORE_FEATURES
from c3l_hf.generation.in_process import ModelWriter
from c3l_hf.generation.server import ServerOptions, ServerWriter
from c3l_hf.scoring.question import QUESTION_FEATURES, question_signal
from c3l_hf.scoring.replies import agreement_signal, judge_signal, reply_features, same_text, token_f1
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.signals import Signal
from c3l_hf.scoring.yes_no import PREMISE_TEXT, TRUTH_TEXT, premise_signal, truth_signal, yes_no_features

__all__ = ["SignalOptions", "check_signals", "new_columns", "open_signal"]

_NAMES = ("i2c", "truth", "premise", "question", "agreement", "judge")
_SAME = {"words": same_text, "f1": token_f1}
# The signals that an option is for.
_OF_SIGNALS = {
    "truth_text": ("truth", "judge"),
    "premise_text": ("premise",),
    "agreement_replies": ("agreement",),
    "agreement_same": ("agreement",),
    "agreement_seed": ("agreement",),
    "judge_url": ("judge",),
    "judge_model": ("judge",),
}


@dataclass
class SignalOptions:
    """What is found out about each pair.

    The key of a judge's server comes from the environment variable C3L_API_KEY."""

    _argument_group_name: ClassVar[str] = "Signals"
    signals: list[str] = field(
        default_factory=lambda: ["i2c"],
        metadata={
            "help": "i2c: the scores. truth: does the model say the answer is right, with the picture and without. "
            "premise: is what the question names there. question: the question's likelihood. agreement: does the model "
            "answer so again. judge: what a model on a server says of the answer."
        },
    )
    truth_text: str = field(
        default=TRUTH_TEXT, metadata={"help": "What truth and judge ask, with {{ question }} and {{ answer }}."}
    )
    premise_text: str = field(
        default=PREMISE_TEXT, metadata={"help": "What premise asks, with {{ question }} or columns of the rows."}
    )
    agreement_replies: int = field(default=5, metadata={"help": "How often agreement asks a question again."})
    agreement_same: Literal["words", "f1"] = field(
        default="words", metadata={"help": "Same words in the same order, or the F1 of the words that are shared."}
    )
    agreement_seed: int = field(default=0, metadata={"help": "Seed of these replies."})
    judge_url: list[str] | None = field(default=None, metadata={"help": "Address of the judge, http://host:8000/v1."})
    judge_model: str | None = field(default=None, metadata={"help": "Its name there; by default the only one."})


def check_signals(options: SignalOptions) -> None:
    """Raises a RunError if the options do not go together."""
    if unknown := [name for name in options.signals if name not in _NAMES]:
        raise RunError(f"signals has {unknown[0]}; there are {', '.join(_NAMES)}")
    if not options.signals or len(set(options.signals)) < len(options.signals):
        raise RunError("signals must name at least one signal, each once")
    if "judge" in options.signals and not options.judge_url:
        raise RunError("judge_url is missing: the signal judge asks a model on a server")
    for one in fields(options):
        takers = _OF_SIGNALS.get(one.name, options.signals)
        if getattr(options, one.name) != one.default and not set(takers) & set(options.signals):
            raise RunError(f"{one.name} is for the signal {' or '.join(takers)}, which is not asked for (signals)")
    if options.agreement_replies < 1:
        raise RunError(f"agreement_replies is {options.agreement_replies}; it must be at least 1")


def new_columns(names: Iterable[str]) -> list[str]:
    """The columns that some signals add."""
    features: dict[str, dict[str, Any]] = {
        "i2c": SCORE_FEATURES,
        "truth": yes_no_features("truth"),
        "premise": yes_no_features("premise"),
        "question": QUESTION_FEATURES,
        "agreement": reply_features("agreement"),
        "judge": reply_features("judge"),
    }
    return [column for name in names for column in features[name]]


@contextlib.contextmanager
def open_signal(name: str, options: SignalOptions, scorer: I2CScorer) -> Iterator[Signal]:
    """A signal other than the scores, by its name.

    Raises:
        RunError: If a text cannot be read, the words for yes and no cannot be told apart by the scorer's model, or the
            judge cannot be asked.
    """
    try:
        with contextlib.ExitStack() as stack:
            yield _signal(name, options, scorer, stack)
    except ValueError as error:
        raise RunError(f"signal {name}: {error}") from None


def _signal(name: str, options: SignalOptions, scorer: I2CScorer, stack: contextlib.ExitStack) -> Signal:
    if name == "truth":
        return truth_signal(scorer, text=options.truth_text)
    if name == "premise":
        return premise_signal(scorer, text=options.premise_text)
    if name == "question":
        return question_signal(scorer)
    if name == "agreement":
        writer = ModelWriter(*scorer.loaded(), seed=options.agreement_seed)
        same = _SAME[options.agreement_same]
        return agreement_signal(writer, k=options.agreement_replies, same=same, image_folder=scorer.image_folder)
    urls = options.judge_url or []
    # Each process writes a file of its own; with those of the others the same command asks for nothing twice.
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"c3l_hf-judge-{digest(urls, options.judge_model)}"
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"replies-{process_state().process_index}.jsonl"
    others = sorted(set(folder.glob("replies-*.jsonl")) - {own})
    server = ServerWriter(ServerOptions(urls, options.judge_model), own, temperature=0.0, others=others)
    return judge_signal(stack.enter_context(server), text=options.truth_text, image_folder=scorer.image_folder)
