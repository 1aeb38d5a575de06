"""A server for the time of a stage: a command that serves a model is started, waited for, checked, and stopped."""

import logging
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from accelerate.utils import broadcast_object_list

from c3l_hf.common.endpoint import Endpoint, EndpointClient, NoReply, short
from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.generation.served_model import check_served_model

__all__ = ["Served", "serve"]

logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_GRACE = 20.0  # seconds to end by itself
_SHOWN = 12  # last lines of a log in an error
# What a launcher tells its processes; a server that starts processes of its own would take it for its own.
_OF_LAUNCHERS = ("ACCELERATE_", "TORCHELASTIC_", "GROUP_", "ROLE_")
_OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Served(NamedTuple):
    """A server that has been started.

    Attributes:
        base_url: Its address, for `ServerOptions`.
        model: The name that it has for the model.
    """

    base_url: str
    model: str


@contextmanager
def serve(
    command: str,
    model: str | Path,
    log_file: str | Path,
    *,
    deadline: float = 900.0,
    api_key_variable: str = "C3L_API_KEY",
) -> Iterator[Served]:
    """Start a server of a model on this machine, and stop it at the end, also on errors and signals.

    The command is run as it is, without a shell, in a process group of its own, with `{model}` and `{port}` filled in;
    the port is a free one. It has to listen on 127.0.0.1, and to speak OpenAI's API. Of several processes that a
    launcher has started the main one starts the server, and the others are told its address; the main one stops it when
    all have left. Every process calls this.

    Example:

    ```python
    with serve("vllm serve {model} --port {port}", folder / "generator", folder / "server.log") as served:
        options = ServerOptions([served.base_url], served.model)
    ```

    Args:
        command: For example `vllm serve {model} --port {port}`.
        model: A folder or a name on the Hub, put in the place of `{model}`.
        log_file: Gets what the command writes; replaced if it is there.
        deadline: Seconds until it must answer.
        api_key_variable: Environment variable with the key, if the server wants one.

    Raises:
        ValueError: If the command has no `{model}` or no `{port}`, or cannot be split into words.
        RunError: If it cannot be started, ends, does not answer in time, or serves another model; with the last lines
            of its log.
    """
    words = _words(command)
    state = process_state()
    started: list[Any] = [None]
    process = None
    with _stopped_by_signals(lambda: process and _stop(process)):
        try:
            if state.is_main_process:
                try:
                    process, port = _start(words, str(model), Path(log_file))
                    started = [_wait_for(process, port, str(model), Path(log_file), deadline, api_key_variable)]
                except RunError as error:
                    started = [str(error)]
            if state.num_processes > 1:
                broadcast_object_list(started)
            if isinstance(started[0], str):
                raise RunError(started[0])
            yield Served(*started[0])
            state.wait_for_everyone()
        finally:
            if process:
                _stop(process)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"the command {command!r} cannot be split into words: {error}") from None
    if missing := [name for name in ("{model}", "{port}") if not any(name in word for word in words)]:
        raise ValueError(f"the command {command!r} has no {missing[0]}; as in: vllm serve {{model}} --port {{port}}")
    return words


def _start(words: list[str], model: str, log_file: Path) -> tuple[subprocess.Popen, int]:
    with socket.socket() as taken:
        taken.bind((_HOST, 0))
        port = taken.getsockname()[1]
    words = [word.replace("{port}", str(port)).replace("{model}", model) for word in words]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_RANKS and not name.startswith(_OF_LAUNCHERS)
    }
    logger.info("starting %s", shlex.join(words))
    try:
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # signals of the terminal come to this process alone, which stops the group
            )
    except OSError as error:
        raise RunError(f"the server cannot be started: {words[0]}: {error.strerror or error}") from None
    return process, port


def _wait_for(
    process: subprocess.Popen, port: int, model: str, log_file: Path, deadline: float, api_key_variable: str
) -> Served:
    """The server, once it answers and has the model."""
    ends = time.monotonic() + deadline
    address, reason = f"http://{_HOST}:{port}/v1", "nobody listens at its port"
    endpoint = Endpoint(address, api_key_variable, timeout=min(60.0, deadline), retries=2, retry_wait=0.2)
    try:
        while True:
            if process.poll() is not None:
                raise RunError(f"it has ended with status {process.returncode}")
            if _listens(port):
                with EndpointClient(endpoint) as client:
                    try:
                        return Served(address, check_served_model(client, _name_of(model, client)))
                    except NoReply as answer:  # such as 503, while it loads the model
                        reason = str(answer)
            if time.monotonic() > ends:
                raise RunError(f"it does not answer after {deadline:g} s: {reason}")
            time.sleep(0.1)
    except RunError as error:
        raise RunError(f"the server of {model} cannot be used: {error}{_end_of(log_file)}") from None


def _listens(port: int) -> bool:
    try:
        # By a socket of ours: for a client it would be the end where it finds nobody.
        socket.create_connection((_HOST, port), timeout=5).close()
    except OSError:
        return False
    return True


def _name_of(model: str, client: EndpointClient) -> str:
    """What the server calls the model: commands may name it by its folder's name."""
    try:
        names = client.models() or []
    except NoReply as answer:
        if answer.status != 500:  # see `check_served_model`
            raise
        return model
    return Path(model).name if model not in names and Path(model).name in names else model


def _end_of(log_file: Path) -> str:
    lines = [short(line, 200) for line in log_file.read_text("utf-8", "replace").splitlines() if line.strip()]
    last = "".join(f"\n  {line}" for line in lines[-_SHOWN:])
    return f"\nThe end of its log, {log_file}:{last}" if last else f"; its log, {log_file}, is empty"


def _stop(process: subprocess.Popen) -> None:
    """End the process and all of its group."""
    _signalled(process, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        logger.warning("the server has not ended by itself, and is killed")
    finally:
        # Also what it has left behind. Memory of devices is free only when that is gone.
        ends = time.monotonic() + _GRACE
        while _signalled(process, signal.SIGKILL) and time.monotonic() < ends:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
            time.sleep(0.02)


def _signalled(process: subprocess.Popen, number: int) -> bool:
    """Whether there was anybody in the process's group to get a signal."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextmanager
def _stopped_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Within, SIGTERM stops the server before it does what it did; SIGINT is an exception anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stopping(number: int, _: FrameType | None) -> None:
        signal.signal(number, before)
        stop()
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, stopping)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
