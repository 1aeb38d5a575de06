"""`c3l <command> …`: finds the command, reads its settings, calls it, and says in one line what went wrong."""

import contextlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from c3l_hf import __version__
from c3l_hf.cli.command import Command, UsageError
from c3l_hf.cli.failures import expected_failure
from c3l_hf.cli.interruption import Interruption, rank
from c3l_hf.cli.names import nearest
from c3l_hf.cli.options import options_of
from c3l_hf.cli.voice import Voice, is_one_of_several, voice

__all__ = ["COMMANDS", "entry", "main"]

# Command → what it does, and the module that has it; modules are loaded when their command is called.
COMMANDS = {
    "run": ("the whole method: pairs, scores, pseudo-labels, training, new pairs, the compact dataset", "run"),
    "generate": ("images → instruction/answer pairs", "generate"),
    "score": ("pairs of any dataset → their scores (I2C)", "score"),
    "select": ("scored pairs → pseudo-labels: a chosen pair of each image, and rejected ones", "select"),
    "train": ("pseudo-labels → a trained generator", "train"),
    "curate": ("scored pairs → the compact dataset", "curate"),
    "push": ("publish a run's dataset and generator on the Hub", "push"),
    "verify": ("check a published dataset or generator", "verify"),
    "report": ("a page to look at: a run's or a dataset's pairs, their pictures and scores", "report"),
    "evaluate": ("a model on POPE, SEED-Bench, MMBench and LLaVA-Bench", "evaluate"),
    "evaluate compare": ("paired tests between two evaluations", "compare"),
    "templates": ("prompt templates: list, show, check one's own", "templates"),
    "sft": ("fine-tune a student on a dataset", "sft"),
    "convert": ("rows of any layout → another one: LLaVA, ShareGPT, FineVision, OpenAI, WebDataset, …", "convert"),
}
_HELP = ("-h", "--help")
_HELP_ALL = ("--help_all", "--help-all")
_VERSION = ("-V", "--version")
_TRACEBACK = "--traceback"


def entry(argv: Sequence[str] | None = None) -> NoReturn:
    """The console command: `main`, ended within seconds by a signal. From Python call `main`, which takes no signals.

    Args:
        argv: As of `main`.
    """
    interruption = Interruption()
    interruption.install()
    if is_one_of_several():
        # PyTorch reads it when it is loaded. What it prints of lost connections, pages of C++, says less than our line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        code = _main(argv, interruption)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our lines, as `head`, has seen enough. Python would try to write the rest once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:  # after the command has ended
        code = 0
    finally:
        interruption.finish()
    if interruption.number is not None:
        interruption.tell()
        code = interruption.code
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Carries out a command.

    Args:
        argv: The words after `c3l`; by default those of this process.

    Returns:
        The exit code: 0; 1 if it failed, or no row could be used; 2 if the call is wrong; 130 after an interruption.
        An error that nobody expects is raised.
    """
    return _main(argv, Interruption())


def _main(argv: Sequence[str] | None, interruption: Interruption) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in (*_HELP, *_HELP_ALL):
        print(_overview())
        return 0 if words else 2
    if words[0] in _VERSION:
        print(f"c3l_hf {__version__}")
        return 0
    if words[0].startswith("-"):
        return Voice("c3l").fail(f"a command comes first, as in c3l run {words[0]}; see c3l --help", 2)
    name = next((" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in COMMANDS), None)
    if name is None:
        return Voice("c3l").fail(f"there is no command {words[0]}{nearest(words[0], COMMANDS)}; see c3l --help", 2)
    interruption.line = f"c3l {name}: interrupted; nothing has been done yet"
    try:
        return _carry_out(name, words[len(name.split()) :], interruption)
    except KeyboardInterrupt:
        interruption.tell()
        return interruption.code


def all_options() -> set[str]:
    """The options of all commands."""
    return {option for name in COMMANDS for option in options_of(_load(name).groups)}


def _load(name: str) -> Command:
    return importlib.import_module(f"c3l_hf.cli.{COMMANDS[name][1]}").COMMAND


def _carry_out(name: str, words: list[str], interruption: Interruption) -> int:
    asks_help = any(word in (*_HELP, *_HELP_ALL) for word in words)
    if not asks_help and sys.stderr.isatty() and rank() == 0:
        print(f"c3l {name}: loading …", file=sys.stderr, flush=True)  # torch and others take ten seconds
    command = _load(name)
    words = [command.short.get(word, word) for word in words]
    if asks_help:
        from c3l_hf.cli.helptext import format_help

        print(format_help(name, command, everything=any(word in _HELP_ALL for word in words)))
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = [*options_of(command.groups), "config"]
    traced, words = _TRACEBACK in words, [word for word in words if word != _TRACEBACK]
    with contextlib.ExitStack() as stack:
        teller = Voice(f"c3l {name}")
        try:
            teller = stack.enter_context(voice(f"c3l {name}", interruption))
            return _call(command, words, interruption)
        except UsageError as error:
            return teller.fail(_with_flag(f"{error}", options), 2)
        except BrokenPipeError:
            raise  # of the reader of our lines, see `entry`
        except Exception as error:
            if interruption.number is not None:  # what libraries make of an interruption
                raise KeyboardInterrupt from error
            line = expected_failure(error, command.resumes)
            if traced or line is None:
                teller.crash(line)
                raise
            return teller.fail(_with_flag(line, options), 1, error)


def _call(command: Command, words: list[str], interruption: Interruption) -> int:
    from c3l_hf.cli.settings import format_settings, read_settings

    settings = read_settings(command, words, os.environ, all_options)
    if next(group.dry_run for group in settings.groups if hasattr(group, "dry_run")):
        if rank() == 0:
            print(format_settings(command, settings), flush=True)
        if not command.plans:
            return 0
    again = "the same command goes on where it stopped" if command.resumes else "the same command begins anew"
    interruption.line = f"{interruption.line.partition(';')[0]}; {again}"
    interruption.working = True
    config_name = settings.config.name if settings.config else None
    return command.call(*settings.groups, *[config_name] * command.needs_config_name) or 0


def _with_flag(message: str, options: Sequence[str]) -> str:
    """Low modules speak of arguments: a message that begins with an option's name is about its flag."""
    first = re.match(r"\w+", message)
    return f"--{message}" if first and first[0] in options else message


# What to type for one's own pictures.
_EXAMPLES = (
    "  c3l run --config scenes --num_images 200 --output_dir runs/try      a first try: no download, minutes on a CPU",
    "  c3l run --images my_pictures/ --model Qwen/Qwen2.5-VL-3B-Instruct --output_dir runs/mine    your pictures",
    "  c3l run --config qwen25_vl_7b --images my_pictures/                 the same with settings for a model of 17 GB",
    "  c3l score --model llava-hf/llava-1.5-7b-hf --dataset user/pairs --output scored.parquet     pairs that you have",
    "  c3l push runs/mine --license LICENCE --images_license LICENCE       publish it, privately",
)


def _overview() -> str:
    lines = [f"  {name:<18}{summary}" for name, (summary, _) in COMMANDS.items()]
    return "\n".join(
        [
            "c3l COMMAND [options]",
            "",
            "C3L: generate, score and select vision-language instruction-tuning data by how much the image matters.",
            "",
            *_EXAMPLES,
            "",
            *lines,
            "",
            "  c3l COMMAND --help    its options",
        ]
    )
