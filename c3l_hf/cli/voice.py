"""One line of what went wrong, by one process: of those of a launcher all may fail, for one reason or one another's."""

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from c3l_hf.cli.failures import is_of_peers
from c3l_hf.cli.interruption import Interruption, rank
from c3l_hf.common.words import printable

if TYPE_CHECKING:  # it loads torch
    from c3l_hf.common.heartbeat import Heartbeat

__all__ = ["Voice", "is_one_of_several", "voice"]


class Voice:
    """Tells how a command has failed.

    Args:
        title: The command.
        beats: Of a process that is one of several.
    """

    def __init__(self, title: str, beats: "Heartbeat | None" = None) -> None:
        self._title, self._beats = title, beats

    def fail(self, message: str, code: int, error: BaseException | None = None) -> int:
        """One line; tables that belong to the message stand before it.

        Returns:
            The exit code that was given.
        """
        who = self._who()
        if error is not None and self._beats is not None and is_of_peers(error) and (lost := self._beats.name_lost()):
            who, message = "", f"{lost};{message.rpartition(';')[2]}"
        if self._begins(code):
            first, *details = message.splitlines()
            for line in [*details, f"{self._title}: {who}{' '.join(first.split())}"]:
                # Names and texts of others must not reach the terminal as commands to it.
                print(printable(line), file=sys.stderr, flush=True)
        self._end_others()
        return code

    def crash(self, line: str | None) -> None:
        """Before an error is raised with its traceback: of several processes one prints it, and all end.

        Args:
            line: What is told of it otherwise; None if nobody expects it.
        """
        if self._beats is None:
            return
        if self._begins(1):
            traceback.print_exc()
            told = line or "an error that nobody expects; please report it"
            print(printable(f"{self._title}: {self._who()}{told}"), file=sys.stderr, flush=True)
        self._end_others()
        sys.exit(1)

    def _begins(self, code: int) -> bool:
        """Whether this process tells it. Before the processes have met none knows whether another one tells the same:
        rather twice than never, but for a wrong call, which is wrong for all."""
        return self._beats is None or self._beats.first_to_tell() or not (self._beats.met or code == 2)

    def _who(self) -> str:
        """Which process it is, where it is the only one that has failed."""
        if not rank():
            return ""
        return f"process {rank()} of {os.environ.get('WORLD_SIZE', '?')}, on {socket.gethostname()}: "

    def _end_others(self) -> None:
        if self._beats is not None:
            self._beats.fail()


def is_one_of_several() -> bool:
    """Whether a launcher has started several processes."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextlib.contextmanager
def voice(title: str, interruption: Interruption) -> Iterator[Voice]:
    """Within, the process gives signs of life to the others of its launcher, if there are any, and ends with them.

    Raises:
        RunError: If the environment variable C3L_PATIENCE is wrong.
    """
    if not (interruption.installed and is_one_of_several()):
        yield Voice(title)
        return
    from c3l_hf.common.heartbeat import heartbeat

    def ended_by(line: str) -> None:
        again = interruption.line.partition(";")[2]
        interruption.end(line and f"{title}: {line};{again}", 1)

    with heartbeat(ended_by) as beats:
        if beats is None:
            yield Voice(title)
            return
        interruption.speaks, interruption.leaves = beats.first_to_tell, beats.fail
        try:
            yield Voice(title, beats)
        except KeyboardInterrupt:
            interruption.tell()
            beats.fail()
            raise
