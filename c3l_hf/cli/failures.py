"""Which errors users can meet, and the line that tells them; all others are bugs until shown otherwise."""

import errno
import os
import re
from collections.abc import Iterator

from c3l_hf.common.errors import RunError, said_by
from c3l_hf.common.memory_errors import is_out_of_memory

__all__ = ["expected_failure", "is_of_peers"]

# Of the machine, not of the call: what to do before the same command goes on.
_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "use a disk that takes larger files",
    errno.EIO: "look after the disk",
    errno.EROFS: "make it writable",
    errno.ESTALE: "make the disk available again",
    errno.ENOTCONN: "make the disk available again",
    errno.ENODEV: "make the disk available again",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files",
    errno.ENOMEM: "make memory free",
}
# Writers in other languages have a number in their text only: SafetensorError, and what pyarrow wraps.
_NUMBER = re.compile(r"\b(?:os error|errno) (\d+)\b", re.IGNORECASE)
# How `torch.save` says that it could not write.
_TORCH_WRITER = re.compile(r"PytorchStreamWriter|inline_container", re.IGNORECASE)
# How gloo and NCCL say that another process has gone.
_NO_PEER = re.compile(r"connection (closed|reset) by peer|broken pipe|remote process exited|timed out waiting", re.I)


def expected_failure(error: BaseException, resumes: bool) -> str | None:
    """What is told of an error, the important part in its first line; None if it is a bug until shown otherwise.

    Args:
        error: What a command has raised.
        resumes: Whether the same command goes on.
    """
    if isinstance(error, RunError):
        return str(error).strip() or type(error).__name__
    goes_on = "the same command goes on" if resumes else "give the same command again"
    for cause in _causes(error):
        if (number := _number_of(cause)) in _REMEDIES:
            return f"{_where(cause)}{os.strerror(number)}; {_REMEDIES[number]}, and {goes_on}"
        if is_out_of_memory(cause):
            remedy = "give smaller batches (the options that end in batch_size)"
            return f"memory has run out ({said_by(cause)}); {remedy}, and {goes_on}"
        if isinstance(cause, RuntimeError) and _TORCH_WRITER.search(str(cause)):
            return f"a file cannot be written ({said_by(cause)}); make room on the disk, and {goes_on}"
    if is_of_peers(error):
        return f"the connection to another process was lost: it has died or cannot be reached; {goes_on}"
    if (host := _host_of(error)) is not None:
        return f"the connection to {host} was lost ({said_by(error)}); {goes_on}"
    if isinstance(error, ValueError | OSError):
        return str(error).strip() or type(error).__name__
    return None


def is_of_peers(error: BaseException) -> bool:
    """Whether an error says that another process of the launcher has gone; those of servers have other types."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in kinds or (type(error) is RuntimeError and _NO_PEER.search(str(error)) is not None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was made of."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _number_of(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, OSError) or type(error).__module__.startswith("safetensors"):
        found = _NUMBER.search(str(error))
        return int(found[1]) if found else 0
    return 0


def _where(error: BaseException) -> str:
    names = [getattr(error, name, None) for name in ("filename", "filename2")]
    name = next((name for name in names if isinstance(name, str | bytes | os.PathLike)), None)
    return f"{os.fsdecode(name)}: " if name else ""


def _host_of(error: BaseException) -> str | None:
    """The server that an error of its client speaks of. Only its name: an address may have a key in it."""
    kinds = [kind for kind in type(error).__mro__ if kind.__name__ == "TransportError"]
    if not any(kind.__module__.startswith("httpx") for kind in kinds):
        return None
    try:
        return str(error.request.url.host)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # httpx raises the second where it knows no request
        return "a server"
