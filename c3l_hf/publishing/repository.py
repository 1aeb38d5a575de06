"""One repository on the Hub: what it holds, and how it comes to hold something else, in one commit or not at all."""

import contextlib
import errno
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from c3l_hf import _compat
from c3l_hf.common.errors import said_by
from c3l_hf.common.versions import versions
from c3l_hf.common.words import in_one_line
from c3l_hf.publishing.export import CARD
from c3l_hf.publishing.manifest import MANIFEST, FileRecord, FolderError, Manifest

__all__ = ["BARE", "HubError", "HubUnreachable", "Pushed", "Repository", "patiently"]

logger = logging.getLogger(__name__)

# What the Hub itself puts into a new repository.
BARE = frozenset({".gitattributes"})
# Seconds before a push that failed for a passing reason is begun again.
_WAITS = (1, 2, 4, 8)
_PASSING = (429, 500, 502, 503, 504)
_CONFLICT = "{} was changed by somebody else during this push, nothing of which is there: look, and push again"
_Result = TypeVar("_Result")


class HubError(ValueError):
    """Why nothing was pushed or could be fetched, and what to do, in one line."""


class HubUnreachable(HubError):
    """The Hub gave no answer, nor did it when it was asked again."""


@dataclass(frozen=True)
class Pushed:
    """A repository after a push, with the number of files changed and removed: with none, nothing was done."""

    repo_id: str
    url: str
    commit: str
    changed: int
    removed: int

    def __str__(self) -> str:
        done = f"{self.changed} files new or changed, {self.removed} removed"
        done = done if self.changed or self.removed else "as it was: nothing to change"
        return f"{self.url}  commit {self.commit[:12]}  {done}"


@dataclass(frozen=True)
class _State:
    """What a repository holds at a commit."""

    commit: str
    private: bool
    files: Mapping[str, RepoFile]
    manifest: Manifest | None


@dataclass(frozen=True)
class Repository:
    """The repository of a dataset or generator, which need not exist yet.

    Attributes:
        kind: What it is for; generators are in model repositories.
        id: Its name, with the namespace.
        api: The client.
        public: See `hub.Publication`.
        overwrite: See `hub.Publication`.
    """

    kind: Literal["dataset", "generator"]
    id: str
    api: HfApi
    public: bool = False
    overwrite: bool = False

    @property
    def type(self) -> str:
        return "dataset" if self.kind == "dataset" else "model"

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    def check(self, contents: Mapping[str, Path | bytes] | None = None) -> None:
        """Whether a push to it could begin.

        Args:
            contents: As for `push`; without them nothing is known of the files that it would replace or remove.

        Raises:
            HubError: If it holds something that this project has not made, or is public without being asked for so, or
                somebody changed files that the push would replace or remove.
        """

        def check() -> None:
            state = self._state()
            if state is not None:
                self._check_owner(state)
                if contents is not None:
                    self._check_edits(state, *_changes(state, contents))

        patiently(self.id, check)

    def push(self, contents: Mapping[str, Path | bytes]) -> Pushed:
        """Bring it to these contents in one commit on top of what it holds now; made if it does not exist.

        Files of an earlier push that are not among the contents are removed, others stay.

        One commit, so that nobody ever loads half of a dataset: hence not `upload_folder`, the client's way for large
        folders, which makes several. `create_commit` uploads in the same way, big files first, each only if the Hub
        does not have its content yet: what an interrupted push has uploaded is not uploaded again.

        Args:
            contents: Path → file, or content, of everything a push has made there.

        Raises:
            HubError: If there is no permission, somebody else made or changed something, or the Hub keeps failing.
        """
        attempted: tuple[str, int, int] | None = None

        def attempt() -> Pushed:
            nonlocal attempted
            state = self._state() or self._create()
            self._check_owner(state)
            changed, removed = _changes(state, contents)
            if not changed and not removed:
                # Also where an attempt was made whose answer was lost.
                return Pushed(self.id, self.url, state.commit, *(attempted or (None, 0, 0))[1:])
            if attempted and attempted[0] != state.commit:
                raise HubError(_CONFLICT.format(self.id))
            attempted = (state.commit, len(changed), len(removed))
            # Again: somebody may have changed something since `check`.
            self._check_edits(state, changed, removed)
            done = self.api.create_commit(
                self.id,
                [CommitOperationAdd(path, contents[path]) for path in changed]
                + [CommitOperationDelete(path) for path in removed],
                commit_message=f"Push with c3l_hf {versions()['c3l-hf']}",
                repo_type=self.type,
                parent_commit=state.commit,
            )
            if self.public and state.private:
                logger.warning("%s stays private: that of a repository is changed in its settings", self.id)
            return Pushed(self.id, self.url, done.oid, len(changed), len(removed))

        return patiently(self.id, attempt, to="write")

    def fetch(self, path: str, commit: str) -> Path:
        """A file of a commit, in the cache."""
        return Path(self.api.hf_hub_download(self.id, path, repo_type=self.type, revision=commit))

    def _create(self) -> _State:
        self.api.create_repo(self.id, repo_type=self.type, private=not self.public, exist_ok=True)
        state = self._state()
        if state is None:
            raise HubError(f"{self.id}: the token has no permission to read it")
        return state

    def _state(self) -> _State | None:
        try:
            info = self.api.repo_info(self.id, repo_type=self.type)
        except RepositoryNotFoundError:
            return None
        tree = self.api.list_repo_tree(self.id, recursive=True, revision=info.sha, repo_type=self.type)
        files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        manifest = None
        if MANIFEST in files:
            with contextlib.suppress(FolderError):
                manifest = Manifest.from_bytes(self.fetch(MANIFEST, info.sha).read_bytes(), self.id)
        return _State(info.sha, bool(info.private), files, manifest)

    def _check_owner(self, state: _State) -> None:
        if not state.private and not self.public:
            raise HubError(f"{self.id} is public, and public is False: set it to push there, or give another name")
        if self.overwrite or (state.manifest is not None and state.manifest.kind == self.kind):
            return
        found = state.files.keys() - BARE
        if found == {CARD}:
            # What the Hub's form for a new repository leaves there: metadata without a text.
            card = RepoCard(self.fetch(CARD, state.commit).read_text("utf-8"), ignore_metadata_errors=True)
            found = {CARD} if card.text.strip() else set()
        if found:
            some = ", ".join(sorted(found)[:3])
            raise HubError(
                f"{self.id} holds something that c3l_hf has not made ({some}): give another name, or set "
                "overwrite to replace files of the same name"
            )

    def _check_edits(self, state: _State, changed: Collection[str], removed: Collection[str]) -> None:
        """Stops if files that would be replaced or removed are not as they were pushed."""
        if self.overwrite or state.manifest is None:
            return
        for path in sorted(state.files.keys() & {*changed, *removed} - {MANIFEST}):
            record, lfs = state.manifest.files.get(path), state.files[path].lfs
            found = lfs.sha256 if lfs else FileRecord.of(self.fetch(path, state.commit)).sha256
            if record is None or record.sha256 != found:
                raise HubError(
                    f"{self.id}: {path} was not pushed so, somebody changed it on the Hub; set overwrite to replace it"
                )


def _changes(state: _State, contents: Mapping[str, Path | bytes]) -> tuple[list[str], list[str]]:
    """(files that are new or others, files of an earlier push that are no longer there) of a push of these contents."""
    changed = [path for path, source in contents.items() if not _holds(state.files.get(path), source)]
    pushed_before = state.manifest.files.keys() if state.manifest else set()
    return changed, sorted(pushed_before & state.files.keys() - contents.keys())


def _holds(file: RepoFile | None, source: Path | bytes) -> bool:
    """Whether the file of a repository has this content."""
    if file is None or file.size != (len(source) if isinstance(source, bytes) else source.stat().st_size):
        return False
    if file.lfs:
        return file.lfs.sha256 == FileRecord.of(source).sha256
    return file.blob_id == _compat.git_blob_digest(source if isinstance(source, bytes) else source.read_bytes())


def patiently(name: str, attempt: Callable[[], _Result], *, to: Literal["read", "write"] = "read") -> _Result:
    """What `attempt` returns. Where it failed for a passing reason it is begun again, several times.

    Args:
        name: The repository, for messages.
        attempt: What to do there.
        to: What it needs permission for, for messages.

    Raises:
        HubError: For the client's errors, see `_explained`.
    """
    for wait in (*_WAITS, None):
        try:
            with _explained(name, to):
                return attempt()
        except HubError as error:
            if wait is None or error.__cause__ is None or not _is_passing(error.__cause__):
                raise
            logger.warning("%s; again in %d s", error, wait)
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def _explained(name: str, to: str) -> Iterator[None]:
    """A context that raises HubError for the client's errors: what happened to which repository, and what to do.

    Their addresses are left out: those of uploads are as good as a token.
    """
    try:
        yield
    except HubError:
        raise
    except LocalTokenNotFoundError:
        raise HubError("no token: set HF_TOKEN, or log in with `hf auth login`") from None
    except RevisionNotFoundError as error:
        raise HubError(f"{name} has no such revision") from error
    except Exception as error:
        status = _status(error)
        if status == 412:
            raise HubError(_CONFLICT.format(name)) from error
        # Also of a full storage or a gated repository, as the Hub's own words say. It answers 401 to those without a
        # token for what they may not see.
        if status == 403 or isinstance(_cause(error), RepositoryNotFoundError):
            raise HubError(f"{name}: the Hub does not let you {to} there{_server_message(error)}") from error
        if status == 401:
            raise HubError(f"{name}: the Hub does not know the token; log in again with `hf auth login`") from error
        if status is not None:
            raise HubError(f"{name}: the Hub answered with {status}{_server_message(error)}") from error
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise HubError(f"{name}: no space left on the disk of the cache; make room, or set HF_HOME") from error
        if _is_passing(error):
            raise HubUnreachable(
                f"{name}: the connection to the Hub failed ({type(_cause(error)).__name__})"
            ) from error
        if isinstance(error, ValueError | OSError):
            raise HubError(f"{name}: {said_by(error)}") from error
        raise


def _cause(error: BaseException) -> BaseException:
    """The error of a request behind the client's own."""
    while isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException | None) -> int | None:
    error = error and _cause(error)
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_passing(error: BaseException) -> bool:
    if _status(error) is not None:
        return _status(error) in _PASSING
    # The client reads an answer about a card as JSON even when it is a server's error page.
    return isinstance(_cause(error), HTTPError | json.JSONDecodeError | TimeoutError)


def _server_message(error: BaseException) -> str:
    message = getattr(_cause(error), "server_message", None)
    return f": {in_one_line(message, 200)}" if message else ""
