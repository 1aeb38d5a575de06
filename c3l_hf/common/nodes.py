"""Whether a launcher's machines run the same thing and see the same folder: found at the start, named by machine."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

import c3l_hf
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest, remove_left_over
from c3l_hf.common.processes import process_state
from c3l_hf.common.records import flattened
from c3l_hf.common.versions import versions

__all__ = ["check_installation", "check_places", "check_run", "check_same", "check_shared", "wait_for_files"]

# A disk of a network tells another machine's files late: NFS looks again after at most a minute.
_PATIENCE = 60.0
_SHOWN_HOSTS, _SHOWN_FACTS, _LONGEST = 4, 4, 80
_MISSING = "nothing"


def check_installation() -> None:
    """That all processes run the same code of this package, with the same versions of what a result depends on. Every
    process calls this; without others it does nothing.

    Raises:
        RunError: On every process, if they do not.
    """
    if process_state().num_processes > 1:
        package = Path(str(c3l_hf.__file__)).parent
        files = sorted(package.rglob("*.py"))
        code = digest(*(part for file in files for part in (file.relative_to(package), file.read_bytes())))
        check_same(
            {**versions(), "the code of c3l_hf": code},
            "install the same versions on all machines (one environment on a shared disk, or one container)",
        )


def check_places(places: Mapping[str, str | Path | Iterable[str | Path] | None]) -> None:
    """That what an option names as a file or folder is there on all machines or on none, where it may be an id on the
    Hub. Every process calls this, before any of them opens it and fails alone.

    Args:
        places: Option → path or name, or several.

    Raises:
        RunError: On every process, if some see it and others do not.
    """
    named = {
        (name, str(place))
        for name, value in places.items()
        for place in ([value] if isinstance(value, str | Path) else value or ())
    }
    facts = {f"{name} {place}": "there" if os.path.exists(place) else _MISSING for name, place in named}
    check_same(facts, "give a path that all machines see, or copy it to the same path on each")


def check_same(facts: Mapping[str, Any], advice: str) -> None:
    """That all processes have the same facts. Every process calls this; without others it does nothing.

    Args:
        facts: What is compared, by name; mappings in mappings are compared value by value. As JSON has them.
        advice: What to do about a difference.

    Raises:
        RunError: On every process, with what differs, both values, and the machines that have them.
    """
    state = process_state()
    if state.num_processes == 1:
        return
    own = {name: json.dumps(value, default=str) for name, value in flattened(facts).items()}
    every = gather_object([(socket.gethostname(), own)])
    hosts = _names([host for host, _ in every])
    told = []
    for name in sorted({name for _, found in every for name in found}):
        having: dict[str, list[str]] = defaultdict(list)
        for host, (_, found) in zip(hosts, every):
            having[found.get(name, json.dumps(_MISSING))].append(host)
        if len(having) > 1:
            values = ", ".join(f"{_short(value)} on {_list(where)}" for value, where in having.items())
            told.append(f"{name}: {values}")
    if told:
        more = f"; and {len(told) - _SHOWN_FACTS} more" if len(told) > _SHOWN_FACTS else ""
        raise RunError(f"the machines differ ({'; '.join(told[:_SHOWN_FACTS])}{more}); {advice}")


def check_shared(folder: str | Path, name: str) -> None:
    """That a folder is the same one on all machines, and that all may write into it. Every process calls this; without
    others it does nothing. The folder is made if it is not there.

    Each process leaves a file with a random name; all look for those of the others, and wait a while for them.

    Args:
        folder: The folder.
        name: Of the argument that it comes from.

    Raises:
        RunError: On every process, with the machines that do not see each other's files, or cannot write.
    """
    state, folder = process_state(), Path(folder)
    if state.num_processes == 1:
        return
    made, problem = not folder.exists(), None
    own = folder / f".node-{secrets.token_hex(8)}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own.write_text("is this folder the same one on all machines?\n", "utf-8")
        remove_left_over(".node-*.partial", own)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    every = gather_object([(socket.gethostname(), own.name, problem)])
    hosts = _names([host for host, _, _ in every])
    try:
        if failed := [f"{host} ({why})" for host, (_, _, why) in zip(hosts, every) if why]:
            raise RunError(f"{name} {folder} cannot be written on {_list(failed)}; give one that all machines share")
        unseen = _waited(folder, [file for _, file, _ in every], min(_PATIENCE, 20.0))
        blind = gather_object([[hosts[number] for number, (_, file, _) in enumerate(every) if file in unseen]])
        for host, others in zip(hosts, blind):
            if others:
                apart = _list([host, *others])
                raise RunError(f"{name} {folder} is not the same folder on {apart}; give one on a disk that all share")
    except RunError:
        if made:
            _remove(own, folder)
        raise
    finally:
        state.wait_for_everyone()  # all have looked
        _remove(own)


def check_run(output_dir: str | Path, made_from: Mapping[str, Any]) -> None:
    """That all processes make the same in the same folder; see `check_same` and `check_shared`."""
    check_same(made_from, "all need the same options, data and model")
    check_shared(output_dir, "output_dir")


def wait_for_files(files: Iterable[str | Path]) -> None:
    """Wait until this process sees files that another one has written on a disk that they share.

    A disk of a network may tell of them late, and of a name that was looked up before it was there, longest. A listing
    of the folder asks anew.

    Raises:
        RunError: If they do not come.
    """
    for file in map(Path, files):
        if not file.exists() and _waited(file.parent, [file.name], _PATIENCE):
            raise RunError(
                f"{file}, which another process has made, is not seen on {socket.gethostname()}; its folder must be on "
                "a disk that all machines share"
            )


def _waited(folder: Path, names: Sequence[str], patience: float) -> set[str]:
    """Which of some names a folder does not get to have, within so many seconds."""
    until = time.monotonic() + patience
    while True:
        try:
            unseen = set(names) - set(os.listdir(folder))
        except OSError:
            unseen = set(names)
        if not unseen or time.monotonic() >= until:
            return unseen
        time.sleep(min(0.2, patience))


def _remove(file: Path, folder: Path | None = None) -> None:
    # Somebody has something else in the folder; or it cannot be written, as was said.
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
        if folder is not None:
            folder.rmdir()


def _names(hosts: Sequence[str]) -> list[str]:
    """What to call each process: its machine, where there are several."""
    return list(hosts) if len(set(hosts)) > 1 else [f"{host} (process {rank})" for rank, host in enumerate(hosts)]


def _list(hosts: Sequence[str]) -> str:
    hosts = list(dict.fromkeys(hosts))
    more = f" and {len(hosts) - _SHOWN_HOSTS} more" if len(hosts) > _SHOWN_HOSTS else ""
    return " and ".join(hosts) if not more and len(hosts) == 2 else ", ".join(hosts[:_SHOWN_HOSTS]) + more


def _short(value: str) -> str:
    """A value as JSON has it, in short; of a text without its quotes."""
    text = json.loads(value) if value.startswith('"') else value
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
