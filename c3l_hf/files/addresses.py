"""Addresses of pictures on the web: how messages show them, and what downloading them has left in the cache."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import datasets

from c3l_hf.common.files import read_json

__all__ = ["cache_file", "download_problem", "downloaded", "is_address", "kept_problem", "shown_address"]

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_LONGEST_SHOWN = 80


def is_address(value: object) -> bool:
    """Whether a value is an address on the web, http or https."""
    return isinstance(value, str) and _ADDRESS.match(value) is not None


def shown_address(address: str) -> str:
    """An address as messages may have it: without user, password, query and fragment, of at most 80 characters."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
        text = f"{parts.scheme}://{host}{parts.path}" + ("?…" if parts.query else "")
    except ValueError:
        return f"{address.partition(':')[0][:5]}://…"
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN // 2]}…{text[1 - _LONGEST_SHOWN // 2 :]}"


def downloaded(address: str) -> Path | None:
    """The file in the cache that `download_images` has fetched from an address, or None."""
    file = cache_file(address)
    return file if file.is_file() else None


def download_problem(address: str) -> str | None:
    """Why the last try to download an address brought no picture; None if there was no try, or there is a picture."""
    if downloaded(address) is not None:
        return None
    kept = kept_problem(address)
    return None if kept is None else str(kept["problem"])


def cache_file(address: str) -> Path:
    """Where a downloaded picture is kept; why there is none is kept beside it, with the ending `.json`."""
    name = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "c3l_hf-downloads" / name[:2] / name


def kept_problem(address: str) -> dict | None:
    """What the last try to download left, if it brought no picture."""
    try:
        kept = read_json(cache_file(address).with_suffix(".json"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and "problem" in kept else None
