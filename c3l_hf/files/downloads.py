"""Pictures on the web: fetched into a folder of the cache when somebody asks for it, each once, within limits."""

import io
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import httpx2
import PIL.Image
from tqdm.auto import tqdm

from c3l_hf import __version__
from c3l_hf.common.files import atomic_write
from c3l_hf.common.processes import first_on_each_machine, process_state
from c3l_hf.files.addresses import cache_file, download_problem, downloaded, is_address, kept_problem, shown_address
from c3l_hf.files.decoders import opened
from c3l_hf.files.unreadable import kind_of

__all__ = ["Downloads", "download_images"]

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 10.0  # seconds before a repetition, whatever the server asks for
_GIVE_UP = 10  # connections to a server that fail one after the other, after which it is not asked for other pictures
_AT_ONCE = 1000  # addresses handed to the threads together


@dataclass(frozen=True)
class Downloads:
    """What became of addresses.

    Attributes:
        there: How many were in the cache before.
        fetched: How many were fetched now.
        problems: Why there is no picture, by address. Addresses may have secrets in them: show them with
            `shown_address`.
    """

    there: int
    fetched: int
    problems: dict[str, str]


def download_images(
    addresses: Iterable[str],
    *,
    max_bytes: int = 50_000_000,
    timeout: float = 30.0,
    max_redirects: int = 5,
    workers: int = 8,
    retries: int = 2,
    retry_wait: float = 0.5,
) -> Downloads:
    """Fetch pictures on the web, each once, into the cache of `datasets`: `open_image` finds them by their address.

    What cannot be fetched ends nothing: the reason is kept, and stands in the status of rows with that address. What
    will hardly change (a status such as 404, not a picture, larger than the limit) is not asked for again in a later
    call, unless the limit is higher; what may (a timeout, no connection, a status such as 503) is. A server that cannot
    be reached 10 times in a row is not asked for its other pictures. One process of each machine fetches; every process
    calls this.

    Only http and https are spoken, also by redirects. Addresses of this machine and of local networks are fetched like
    others, since people have servers there: do not ask for addresses of strangers where such servers must be safe from
    requests. A user and password in an address go to its host. Nothing else is sent that tells who asks.

    Args:
        addresses: Addresses, also more than once. What is no http(s) address is passed over.
        max_bytes: The largest picture, in bytes, unpacked.
        timeout: The longest that a picture may take, in seconds, from the connection to its last byte.
        max_redirects: How often an address may lead to another one.
        workers: How many are fetched at the same time.
        retries: How often a picture is asked for again after 408, 429, 5xx or a lost connection.
        retry_wait: Seconds before the first repetition, doubled each time; a `Retry-After` goes first. At most 10.

    Returns:
        What became of them.

    Raises:
        ValueError: If a limit is impossible.
    """
    if max_bytes < 1 or timeout <= 0 or max_redirects < 0 or workers < 1 or retries < 0 or retry_wait < 0:
        raise ValueError(
            f"max_bytes ({max_bytes}), timeout ({timeout}) and workers ({workers}) must be above 0, "
            f"max_redirects ({max_redirects}), retries ({retries}) and retry_wait ({retry_wait}) not below 0"
        )
    wanted = list(dict.fromkeys(address for address in addresses if is_address(address)))
    missing: list[str] = []
    with first_on_each_machine():
        if process_state().is_local_main_process:
            missing = [address for address in wanted if downloaded(address) is None]
            asked = [address for address in missing if not _is_hopeless(address, max_bytes)]
            with _client(timeout, max_redirects) as client:
                fetcher = _Fetcher(client, max_bytes, timeout, retries, retry_wait)
                for _ in tqdm(_in_threads(fetcher, asked, workers), "Downloading", len(asked), False, disable=None):
                    pass
    problems = {address: problem for address in wanted if (problem := download_problem(address)) is not None}
    there = len(wanted) - len(missing)
    fetched = len(missing) - sum(address in problems for address in missing)
    if problems and process_state().is_local_main_process:
        logger.warning("%s", _summary(problems, len(wanted)))
    return Downloads(there, fetched, problems)


def _summary(problems: dict[str, str], count: int, most: int = 5) -> str:
    kinds = Counter(problems.values()).most_common()
    listed = ", ".join(f"{number:,} × {kind}" for kind, number in kinds[:most])
    more = f", and {len(kinds) - most} other reasons" if len(kinds) > most else ""
    first = shown_address(next(iter(problems)))
    return f"{len(problems):,} of {count:,} addresses have no picture: {listed}{more}; first {first}"


def _is_hopeless(address: str, max_bytes: int) -> bool:
    kept = kept_problem(address)
    return kept is not None and bool(kept.get("for_good")) and max_bytes <= (kept.get("max_bytes") or max_bytes)


def _in_threads(fetcher: "_Fetcher", addresses: list[str], workers: int) -> Iterator[None]:
    # Not all at once: each that waits for a thread takes memory, and an interruption would wait for all.
    left = iter(addresses)
    with ThreadPoolExecutor(workers) as pool:
        while part := list(islice(left, _AT_ONCE)):
            yield from pool.map(fetcher, part)


def _server(address: str) -> str:
    return address.split("/", 3)[2].lower()


def _client(timeout: float, max_redirects: int) -> httpx2.Client:
    return httpx2.Client(
        # Some servers refuse clients that do not say what they are.
        headers={"User-Agent": f"c3l-hf/{__version__}", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
        follow_redirects=True,
        max_redirects=max_redirects,
    )


class _Problem(Exception):
    """Why there is no picture at an address.

    Args:
        reason: In a few words, without the address.
        for_good: Whether it will hardly change.
        again: Whether another try at once may help, and after how many seconds the server wants it.
        max_bytes: The limit, if that is the reason.
    """

    def __init__(self, reason: str, for_good: bool = False, again: float | None = None, max_bytes: int | None = None):
        super().__init__(reason)
        self.for_good, self.again, self.max_bytes = for_good, again, max_bytes


class _Fetcher:
    """Fetches an address into its file; or keeps beside it why there is none."""

    def __init__(self, client: httpx2.Client, max_bytes: int, timeout: float, retries: int, retry_wait: float):
        self._client, self._max_bytes, self._timeout = client, max_bytes, timeout
        self._retries, self._retry_wait = retries, retry_wait
        self._lost: Counter[str] = Counter()  # by server, since one of its answers

    def __call__(self, address: str) -> None:
        file = cache_file(address)
        file.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(self._retries + 1):
            try:
                content = self._content(address)
                with atomic_write(file, shared=True) as partial:
                    partial.write_bytes(content)
                file.with_suffix(".json").unlink(missing_ok=True)
                return
            except _Problem as error:
                if error.again is None or attempt == self._retries:
                    kept = {"problem": str(error), "for_good": error.for_good, "max_bytes": error.max_bytes}
                    with atomic_write(file.with_suffix(".json"), shared=True) as partial:
                        partial.write_text(json.dumps(kept), "utf-8")
                    return
                time.sleep(min(max(error.again, self._retry_wait * 2**attempt), _LONGEST_WAIT))

    def _content(self, address: str) -> bytes:
        # Never the texts of errors alone: they have the address in them, with its query.
        ends, server = time.monotonic() + self._timeout, _server(address)
        if self._lost[server] >= _GIVE_UP:
            raise _Problem(f"the server could not be reached {_GIVE_UP} times")
        try:
            with self._client.stream("GET", address) as response:
                self._lost[server] = 0
                if not response.is_success:
                    raise self._refusal(response)
                content = self._read(response, ends)
        except httpx2.ConnectTimeout:
            self._lost[server] += 1
            raise _Problem("the server does not answer") from None
        except httpx2.TimeoutException:
            raise self._too_slow() from None
        except httpx2.TooManyRedirects:
            raise _Problem("it leads to too many other addresses", for_good=True) from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, UnicodeError):
            raise _Problem("it is, or leads to, no http(s) address", for_good=True) from None
        except httpx2.ConnectError:
            self._lost[server] += 1
            raise _Problem("the server cannot be reached", again=0.0) from None
        except httpx2.DecodingError:
            raise _Problem("what the server sends cannot be unpacked", for_good=True) from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise _Problem(f"the connection was lost ({type(error).__name__})", again=0.0) from None
        except _Problem:
            raise
        except Exception as error:  # of addresses and answers that nobody has thought of: one of many, not the end
            raise _Problem(f"it cannot be asked for ({type(error).__name__})", for_good=True) from None
        try:
            opened(io.BytesIO(content)).close()
        except PIL.Image.DecompressionBombError:
            pass  # a picture, of which `open_image` says that it is too large
        except Exception:  # decoders raise errors of many types
            kind = re.sub(r"[^\w./+-]", "", response.headers.get("content-type", "").partition(";")[0])[:40]
            what = kind_of(content[:64]) or kind
            raise _Problem(f"it is not a picture{f' but {what}' if what else ''}", for_good=True) from None
        return content

    def _read(self, response: httpx2.Response, ends: float) -> bytes:
        said = response.headers.get("content-length", "")
        if re.fullmatch(r"[0-9]{1,18}", said) and int(said) > self._max_bytes:
            raise self._too_large()
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > self._max_bytes:
                raise self._too_large()
            if time.monotonic() > ends:
                raise self._too_slow()
        return bytes(content)

    def _too_large(self) -> _Problem:
        return _Problem(f"it has more than {self._max_bytes:,} bytes", for_good=True, max_bytes=self._max_bytes)

    def _too_slow(self) -> _Problem:
        return _Problem(f"it takes longer than {self._timeout:g} s")

    def _refusal(self, response: httpx2.Response) -> _Problem:
        code = response.status_code
        reason = f"the server answers HTTP {code}"
        if code not in (408, 429) and code < 500:
            return _Problem(reason, for_good=True)
        after = response.headers.get("retry-after", "")
        return _Problem(reason, again=float(after) if re.fullmatch(r"[0-9]{1,6}", after) else 0.0)
