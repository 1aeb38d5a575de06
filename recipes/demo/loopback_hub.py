"""A Hub on this machine: the part of the Hub's HTTP API that pushing, pulling and streaming need, for the real clients.

In Python:

    with LoopbackHub(tokens={"secret": "user"}) as hub:
        subprocess.run(command, env={**os.environ, **hub.environment("secret", home=tmp_path)})

From the command line, for any program that uses the Hub: python recipes/demo/loopback_hub.py -- some command ...

Files are stored as by git and LFS. There is no Xet, and there are no organisations, pull requests or .gitignore rules.
"""

import argparse
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode

import yaml

_CHUNK = 1 << 16
_REGULAR_BYTES = 10_000_000
_LFS = "*.arrow *.bin *.gif *.gz *.jpeg *.jpg *.npy *.npz *.parquet *.png *.pt *.safetensors *.tar *.webp *.zip".split()
_REPO_NAME = re.compile(r"(?!.*(--|\.\.))[a-zA-Z0-9_]([\w.-]{0,94}[a-zA-Z0-9_])?", re.ASCII)
_REF_NAME = re.compile(r"(?!.*(\.\.|//))[\w-][\w./-]*(?<![./])", re.ASCII)


class Request(NamedTuple):
    """A request: its path without the query, and the status of the answer (None: the connection was lost)."""

    method: str
    path: str
    status: int | None


@dataclass
class _Rule:
    kind: str
    method: str
    pattern: str
    times: int
    what: Any


class _HubError(Exception):
    """An answer other than success. Clients choose the class of their exceptions by `code`."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] = {}, **body: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        # Messages quote requests, which must not get among the headers as they are.
        self.headers = {"X-Error-Message": re.sub(r"[^ -~]", "?", message), **headers}
        self.headers |= {"X-Error-Code": code} if code else {}


class _Dropped(Exception):
    """The connection is to be closed here."""


class LoopbackHub:
    """A Hub on a free port of 127.0.0.1, from `with` to its end.

    Args:
        tokens: Token → user. The namespace of a user has the user's name, and nobody else writes there.
        storage: Folder of the repos, which stay; without one they are in a temporary folder.
        page_size: Most entries of an answer; the client has to ask for the next page.

    Attributes:
        url: The address, without a slash at the end.
        storage: Folder of the repos: models|datasets|spaces/namespace/name/, each with repo.json and objects/.
        requests: The `Request`s so far, in the order of the answers.
    """

    def __init__(self, tokens: Mapping[str, str], storage: str | Path | None = None, page_size: int = 1000) -> None:
        if not all(map(_REPO_NAME.fullmatch, tokens.values())):
            raise ValueError(f"users must have names that repos may have, not {', '.join(map(repr, tokens.values()))}")
        self.tokens, self.page_size, self.requests = dict(tokens), page_size, []
        self.storage = Path(storage) if storage is not None else None
        self.repos: dict[tuple[str, str], _Repo] = {}
        self.uploads: dict[str, tuple[_Repo, str, int]] = {}
        self.lock, self.closed = threading.RLock(), False
        self._rules: list[_Rule] = []

    def __enter__(self) -> "LoopbackHub":
        self._stack = contextlib.ExitStack()
        self.storage = self.storage or Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        )
        for file in self.storage.glob("*/*/*/repo.json"):
            kind, name = file.parent.relative_to(self.storage).as_posix().split("/", 1)
            self.repos[kind, name] = _Repo(file.parent, **json.loads(file.read_text("utf-8")))
        server = _Server(("127.0.0.1", 0), _Handler)
        server.hub, self.url = self, f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        self._stack.close()

    def environment(self, token: str | None, home: str | Path) -> dict[str, str]:
        """Variables that make a client use this Hub; they must be set before it imports anything.

        Args:
            token: The token it signs in with; with None it does not.
            home: Folder of its caches.
        """
        home = Path(home).absolute()
        # Each of these would go before HF_HOME, if the caller's environment has it.
        folders = {"HUB_CACHE": "hub", "DATASETS_CACHE": "datasets", "ASSETS_CACHE": "assets", "TOKEN_PATH": "token"}
        folders |= {"MODULES_CACHE": "modules", "STORED_TOKENS_PATH": "stored_tokens"}
        variables = {f"HF_{variable}": str(home / name) for variable, name in folders.items()}
        variables |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token or "",
            "HUGGING_FACE_HUB_TOKEN": "",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        }
        variables |= dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "0")
        return variables | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")

    def fail(
        self, method: str, pattern: str, times: int = 1, status: int = 500, headers: Mapping[str, str] | None = None
    ) -> None:
        """Refuse the next `times` requests of `method` in whose path `pattern`, a regular expression, is found."""
        self._rules.append(_Rule("fail", method, pattern, times, (status, headers or {})))

    def drop(self, method: str, pattern: str, after_bytes: int, times: int = 1, answer: bool | None = None) -> None:
        """Close the connection in the middle of such requests.

        Args:
            method: The request's method.
            pattern: As of `fail`.
            after_bytes: How much of the body gets through. At its end at the latest, the connection is closed.
            times: How many requests.
            answer: Whether the body is the answer's. By default it is for GET and HEAD only. A request is carried out
                before it is answered: with 0 bytes the client does not know that it was.
        """
        answer = method in ("GET", "HEAD") if answer is None else answer
        self._rules.append(_Rule("drop", method, pattern, times, (after_bytes, answer)))

    def before(self, method: str, pattern: str, function: Callable[[], object], times: int = 1) -> None:
        """Call `function`, which may use the Hub itself, before such requests are handled."""
        self._rules.append(_Rule("before", method, pattern, times, function))

    def take(self, kind: str, method: str, path: str) -> Any:
        """What the first rule of a kind that is not used up has for a request; None if there is none."""
        with self.lock:
            for rule in self._rules:
                if rule.times and (rule.kind, rule.method) == (kind, method) and re.search(rule.pattern, path):
                    rule.times -= 1
                    return rule.what
        return None

    def page_of(self, kind: str, name: str) -> str:
        return f"{self.url}/{name}" if kind == "models" else f"{self.url}/{kind}/{name}"


class _Repo:
    """A git repo: commits, each with all its files {path: {oid, size, sha256 or None}}, and refs to commits."""

    def __init__(self, folder: Path, private: bool, refs: dict[str, str], commits: dict[str, dict[str, Any]]) -> None:
        self.folder, self.private, self.refs, self.commits = folder, private, refs, commits
        (folder / "objects").mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        state = {"private": self.private, "refs": self.refs, "commits": self.commits}
        _write(self.folder / "repo.json", json.dumps(state, indent=1).encode())

    def object(self, oid: str) -> Path:
        return self.folder / "objects" / oid

    def find(self, revision: str) -> str:
        """The commit that a branch, a tag or a full SHA means."""
        if sha := self.refs.get(f"refs/heads/{revision}") or self.refs.get(f"refs/tags/{revision}"):
            return sha
        if revision in self.commits:
            return revision
        raise _HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add_commit(self, branch: str, parent: str | None, files: dict, title: str, message: str, author: str) -> str:
        record = {"parent": parent, "title": title, "message": message, "author": author, "files": files}
        record["date"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        sha = hashlib.sha1(json.dumps(record, sort_keys=True).encode()).hexdigest()
        self.commits[sha] = record
        self.refs[f"refs/heads/{branch}"] = sha
        self.save()
        return sha

    def add_regular(self, data: bytes) -> dict[str, Any]:
        _write(self.object(_git_oid(data)), data)
        return {"oid": _git_oid(data), "size": len(data), "sha256": None}

    def uploaded(self, sha256: str) -> dict[str, Any]:
        if not re.fullmatch("[0-9a-f]{64}", sha256) or not self.object(sha256).exists():
            raise _HubError(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        size = self.object(sha256).stat().st_size
        return {"oid": _git_oid(_pointer(sha256, size)), "size": size, "sha256": sha256}

    def metadata(self, sha: str) -> dict[str, Any]:
        card = self.commits[sha]["files"].get("README.md")
        return _card(self.object(card["sha256"] or card["oid"]).read_bytes())[0] if card else {}


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    hub: LoopbackHub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        """Nothing: `LoopbackHub.requests` has what may be known."""

    def _serve(self) -> None:
        self.hub = self.server.hub
        self.route, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        self.recorded, self.dropping, self.incoming = False, None, self._incoming()
        try:
            if self.hub.closed:
                raise _Dropped
            if function := self.hub.take("before", self.command, self.route):
                function()
            self.dropping = self.hub.take("drop", self.command, self.route)
            try:
                if fault := self.hub.take("fail", self.command, self.route):
                    raise _HubError(fault[0], "a failure that was asked for", headers=fault[1])
                self._dispatch()
            except _HubError as error:
                self._json(error.body, error.status, error.headers)
        except (_Dropped, ConnectionError):
            self._record(None)
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self.close_connection = True
            if not self.recorded:
                self._json({"error": "the loopback Hub itself has failed; its stderr says why"}, 500)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _dispatch(self) -> None:
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise _HubError(411, "the loopback Hub wants the Content-Length of requests")
        for methods, pattern, handle in _ROUTES:
            if self.command in methods.split() and (found := re.fullmatch(pattern, self.route)):
                return handle(self, **{name: unquote(value or "") for name, value in found.groupdict().items()})
        raise _HubError(404, f"the loopback Hub does not know {self.command} {self.route}")

    # Bodies, in and out

    def _incoming(self) -> Iterator[bytes]:
        after_bytes, answer = self.dropping or (0, True)
        length = int(self.headers.get("Content-Length", 0))
        left = length if answer else min(length, after_bytes)
        while left:
            piece = self.rfile.read(min(left, _CHUNK))
            if not piece:
                raise ConnectionError("the client has gone")
            left -= len(piece)
            yield piece
        if not answer:
            raise _Dropped

    def _body(self) -> Any:
        return json.loads(b"".join(self.incoming) or b"{}")

    def _record(self, status: int | None) -> None:
        if not self.recorded:
            self.hub.requests.append(Request(self.command, self.route, status))
        self.recorded = True

    def _send(self, status: int, content: BinaryIO, size: int, headers: Mapping[str, str]) -> None:
        # The next request on this connection is after what nobody has read of this one.
        for _ in self.incoming:
            pass
        after_bytes, answer = self.dropping or (0, False)
        left = 0 if self.command == "HEAD" else min(size, after_bytes) if answer else size
        if answer and not left:
            raise _Dropped
        self._record(None if answer else status)
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        while left and (piece := content.read(min(left, _CHUNK))):
            self.wfile.write(piece)
            left -= len(piece)
        if answer:
            raise _Dropped

    def _json(self, value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        data = json.dumps(value, default=str).encode()
        self._send(status, io.BytesIO(data), len(data), {"Content-Type": "application/json", **headers})

    def _page(self, items: list[Any]) -> None:
        first = int(self.query.get("cursor", ["0"])[0])
        last = first + min(int(self.query.get("limit", [self.hub.page_size])[0]), self.hub.page_size)
        query = urlencode({**self.query, "cursor": last}, doseq=True)
        link = {"Link": f'<{self.hub.url}{self.route}?{query}>; rel="next"'} if last < len(items) else {}
        self._json(items[first:last], headers=link)

    def _is_set(self, option: str) -> bool:
        return self.query.get(option, ["false"])[0].lower() in ("true", "1")

    # Who asks, and for what

    def _user(self, needed: bool = False) -> str | None:
        header = self.headers.get("Authorization")
        user = self.hub.tokens.get(header.removeprefix("Bearer ")) if header else None
        if header and not user:
            raise _HubError(401, "Invalid credentials in Authorization header")
        if needed and not user:
            raise _HubError(401, "Invalid username or password.")
        return user

    def _repo(self, kind: str, name: str, write: bool = False) -> _Repo:
        user, owner, repo = self._user(), name.partition("/")[0], self.hub.repos.get((kind or "models", name))
        # Who may not read a private repo is not told that there is one.
        if repo is None or (repo.private and user != owner) or (write and not user):
            raise _HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != owner:
            raise _HubError(403, f"{user} may not write to {name}")
        if "create_pr" in self.query:
            raise _HubError(501, "the loopback Hub has no pull requests")
        return repo

    def whoami(self) -> None:
        user = self._user(needed=True)
        access = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
        self._json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": access})

    # Repos

    def create_or_delete(self) -> None:
        body, user = self._body(), self._user(needed=True)
        kind, owner = f"{body.get('type') or 'model'}s", body.get("organization") or user
        name = f"{owner}/{body['name']}"
        with self.hub.lock:
            if self.command == "DELETE":
                shutil.rmtree(self._repo(kind, name, write=True).folder)
                del self.hub.repos[kind, name]
                return self._json({})
            if owner != user:
                raise _HubError(403, f'You don\'t have the rights to create a repo under the namespace "{owner}"')
            if kind not in ("models", "datasets", "spaces") or not all(map(_REPO_NAME.fullmatch, name.split("/", 1))):
                raise _HubError(400, f"{name!r} cannot be the name of one of the {kind}")
            url = self.hub.page_of(kind, name)
            if (kind, name) in self.hub.repos:
                raise _HubError(409, f"You already created this repo: {name}", url=url)
            repo = _Repo(self.hub.storage / kind / name, body.get("visibility") == "private", {}, {})
            lines = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LFS)
            repo.add_commit(
                "main", None, {".gitattributes": repo.add_regular(lines.encode())}, "initial commit", "", user
            )
            self.hub.repos[kind, name] = repo
        self._json({"url": url, "name": name})

    def list_repos(self, kind: str) -> None:
        user, found = self._user(), []
        for (other, name), repo in sorted(self.hub.repos.items()):
            if other == kind and (not repo.private or name.partition("/")[0] == user):
                info = self._describe(kind, name, repo, "main")
                if all(author == info["author"] for author in self.query.get("author", [])) and all(
                    text.lower() in name.lower() for text in self.query.get("search", [])
                ):
                    found.append(info)
        self._page(found)

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        info, wanted = self._describe(kind, name, self._repo(kind, name), revision), self.query.get("expand")
        self._json({key: info[key] for key in info if not wanted or key in ("id", *wanted)})

    def _describe(self, kind: str, name: str, repo: _Repo, revision: str) -> dict[str, Any]:
        sha, siblings = repo.find(revision), []
        for path, blob in sorted(repo.commits[sha]["files"].items()):
            details = {"blobId": blob["oid"], "size": blob["size"], **_lfs(blob)} if self._is_set("blobs") else {}
            siblings.append({"rfilename": path, **details})
        card = repo.metadata(sha)
        info = {"id": name, "author": name.partition("/")[0], "sha": sha, "private": repo.private, "gated": False}
        info |= {
            "lastModified": repo.commits[sha]["date"],
            "tags": _list(card.get("tags")),
            "cardData": card,
            "siblings": siblings,
        }
        return info | {key: card[key] for key in ("library_name", "pipeline_tag") if key in card and kind == "models"}

    # Files, as they are in a commit

    def list_tree(self, kind: str, name: str, revision: str, path: str) -> None:
        repo, folder = self._repo(kind, name), path.strip("/")
        files = repo.commits[repo.find(revision)]["files"]
        inside = {file for file in files if not folder or file.startswith(f"{folder}/")}
        if folder and not inside:
            raise _HubError(404, f"{name} has no folder {folder} at {revision}", "EntryNotFound")
        inside |= {str(parent) for file in inside for parent in PurePosixPath(file).parents}
        inside -= {".", folder, *map(str, PurePosixPath(folder).parents)}
        if not self._is_set("recursive"):
            inside = {entry for entry in inside if str(PurePosixPath(entry).parent) == (folder or ".")}
        self._page([_entry(files, entry) for entry in sorted(inside)])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repo, form = self._repo(kind, name), parse_qs(b"".join(self.incoming).decode())
        files = repo.commits[repo.find(revision)]["files"]
        entries = [_entry(files, path.strip("/")) for path in form.get("paths", [])]
        self._json([entry for entry in entries if entry])

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self._repo(kind, name)
        sha = repo.find(revision)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if (blob := repo.commits[sha]["files"].get(path)) is None:
            raise _HubError(404, f"{name} has no file {path} at {revision}", "EntryNotFound", {"X-Repo-Commit": sha})
        oid, size, status = blob["sha256"] or blob["oid"], blob["size"], 200
        headers["ETag"], first, last = f'"{oid}"', 0, size - 1
        if found := re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", self.headers.get("Range", "")):
            first = int(found[1]) if found[1] else max(0, size - int(found[3]))
            last = min(last, int(found[2])) if found[2] else last
            if first > last:
                raise _HubError(416, "the range is not in the file", headers={"Content-Range": f"bytes */{size}"})
            status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{size}"
        with open(repo.object(oid), "rb") as file:
            file.seek(first)
            self._send(status, file, last - first + 1, headers)

    # Branches, tags, history

    def list_refs(self, kind: str, name: str) -> None:
        answer: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        for ref, sha in self._repo(kind, name).refs.items():
            group = "branches" if ref.startswith("refs/heads/") else "tags"
            answer[group].append({"name": ref.split("/", 2)[2], "ref": ref, "targetCommit": sha})
        self._json(answer)

    def change_ref(self, kind: str, name: str, group: str, revision: str) -> None:
        repo, body = self._repo(kind, name, write=True), self._body()
        # The address has a branch's own name, with where it starts in the body; for a tag it is the other way round.
        new, start = (revision, body.get("startingPoint", "main")) if group == "branch" else (body.get("tag"), revision)
        folder = "refs/heads/" if group == "branch" else "refs/tags/"
        with self.hub.lock:
            if self.command == "DELETE":
                if folder + revision == "refs/heads/main":
                    raise _HubError(403, "the branch main cannot be deleted")
                if repo.refs.pop(folder + revision, None) is None:
                    raise _HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            elif not _REF_NAME.fullmatch(new):
                raise _HubError(400, f"{new!r} cannot be the name of a {group}")
            elif folder + new in repo.refs:
                raise _HubError(409, f"Reference already exists: {folder}{new}")
            else:
                repo.refs[folder + new] = repo.find(start)
            repo.save()
        self._json({})

    def list_commits(self, kind: str, name: str, revision: str) -> None:
        repo, found = self._repo(kind, name), []
        sha = repo.find(revision)
        while sha:
            record = repo.commits[sha]
            shown = {key: record[key] for key in ("title", "message", "date")}
            found.append({"id": sha, "authors": [{"user": record["author"]}], **shown})
            sha = record["parent"]
        self._page(found)

    # A push: how each file is to come, the big ones, and the commit

    def validate_yaml(self) -> None:
        _, errors, warnings = _card(self._body()["content"].encode())
        answer = {
            "errors": [{"message": text} for text in errors],
            "warnings": [{"message": text} for text in warnings],
        }
        self._json(answer, 400 if errors else 200)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo, body, answers = self._repo(kind, name, write=True), self._body(), []
        if body.get("gitIgnore"):
            raise _HubError(501, "the loopback Hub does not know the rules of .gitignore")
        files = repo.commits[repo.find(revision)]["files"]
        for file in body["files"]:
            lfs = any(PurePosixPath(file["path"]).match(pattern) for pattern in _LFS)
            lfs = lfs or file["size"] > _REGULAR_BYTES or b"\0" in base64.b64decode(file["sample"])
            answers.append({"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False})
            if blob := files.get(file["path"]):
                answers[-1]["oid"] = blob["sha256"] or blob["oid"]
        self._json({"files": answers})

    def lfs_batch(self, kind: str, name: str) -> None:
        repo, objects = self._repo(kind, name, write=True), []
        for wanted in self._body()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            if not re.fullmatch("[0-9a-f]{64}", oid):
                raise _HubError(400, f"{oid!r} is not a SHA-256")
            objects.append({"oid": oid, "size": size})
            if not repo.object(oid).exists():
                # The upload itself comes without a token: whoever knows its address may make it.
                signature = secrets.token_urlsafe()
                self.hub.uploads[signature] = (repo, oid, size)
                objects[-1]["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{oid}?signature={signature}"}}
        self._json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        repo, *expected = self.hub.uploads.get(self.query.get("signature", [""])[0], (None, None, None))
        if repo is None or expected[0] != oid:
            raise _HubError(403, "this is not the address of an upload")
        digest, unfinished = hashlib.sha256(), repo.folder / f"upload-{secrets.token_hex(8)}"
        try:
            with open(unfinished, "wb") as file:
                for piece in self.incoming:
                    digest.update(piece)
                    file.write(piece)
                found = [digest.hexdigest(), file.tell()]
            if found != expected:
                raise _HubError(400, f"the upload should have SHA-256 and size {expected}, but has {found}")
            os.replace(unfinished, repo.object(oid))
        finally:
            unfinished.unlink(missing_ok=True)
        self._json({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name, write=True)
        header, *lines = map(json.loads, b"".join(self.incoming).splitlines())
        header = header["value"]
        with self.hub.lock:
            head = repo.find(revision)
            if f"refs/heads/{revision}" not in repo.refs:
                raise _HubError(400, f"{revision} is not a branch: nothing can be committed to it")
            if header.get("parentCommit", head) != head:
                raise _HubError(412, "A commit has happened since. Please refresh and try again.")
            files = _edited(repo, dict(repo.commits[head]["files"]), lines)
            sha = repo.add_commit(
                revision, head, files, header["summary"], header.get("description", ""), self._user(needed=True)
            )
        url = f"{self.hub.page_of(kind, name)}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "pullRequestUrl": None})


def _edited(repo: _Repo, files: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The files after the operations of a commit."""
    for line in lines:
        operation, value = line["key"], line["value"]
        path = value["path"].removesuffix("/") if operation == "deletedFolder" else value["path"]
        if re.search(r"[\\\0]", path) or {"", ".", "..", ".git"} & set(path.split("/")):
            raise _HubError(400, f"{path!r} cannot be a path of a repo")
        if operation == "file":
            data = base64.b64decode(value["content"])
            if len(data) > _REGULAR_BYTES:
                raise _HubError(400, f"{path} has {len(data)} bytes: it must be uploaded by LFS")
            if path == "README.md" and (errors := _card(data)[1]):
                raise _HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
            files[path] = repo.add_regular(data)
        elif operation == "lfsFile":
            files[path] = repo.uploaded(value["oid"])
        elif operation in ("deletedFile", "deletedFolder"):
            gone = {file for file in files if file == path or file.startswith(f"{path}/")}
            if not gone or (path in gone) != (operation == "deletedFile"):
                raise _HubError(404, f"A {operation[7:].lower()} with this name doesn't exist: {path}", "EntryNotFound")
            files = {file: blob for file, blob in files.items() if file not in gone}
        else:
            raise _HubError(400, f"the loopback Hub does not know the operation {operation!r}")
    if both := files.keys() & {str(parent) for file in files for parent in PurePosixPath(file).parents}:
        raise _HubError(400, f"{min(both)} would be a file and a folder")
    return files


def _write(path: Path, data: bytes) -> None:
    """All of a file, or nothing."""
    unfinished = path.with_name(f".{secrets.token_hex(8)}")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _pointer(sha256: str, size: int) -> bytes:
    """What git has in place of a file that LFS has."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _lfs(blob: Mapping[str, Any]) -> dict[str, Any]:
    if not blob["sha256"]:
        return {}
    sha256, size = blob["sha256"], blob["size"]
    # The listings of files call it oid, the description of a repo sha256.
    return {"lfs": {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": len(_pointer(sha256, size))}}


def _entry(files: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """A file or folder as the listings have it; None if it is not there."""
    if blob := files.get(path):
        return {"type": "file", "path": path, "oid": blob["oid"], "size": blob["size"], **_lfs(blob)}
    inside = [(file, blob["oid"]) for file, blob in sorted(files.items()) if file.startswith(f"{path}/")]
    oid = hashlib.sha1(json.dumps(inside).encode()).hexdigest()
    return {"type": "directory", "path": path, "oid": oid, "size": 0} if inside else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _card(data: bytes) -> tuple[dict[str, Any], list[str], list[str]]:
    """(metadata, errors, warnings) of a README.md, by those of the Hub's rules that are easily broken."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*?(?:\n|\Z)", data.decode("utf-8", "replace"), re.DOTALL)
    if found is None:
        return {}, [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return {}, [f"the metadata is not YAML: {error}"], []
    if not isinstance(metadata, dict):
        return {}, ["the metadata is not a mapping"], []
    errors = []
    for key in ("license", "language", "tags", "task_categories", "size_categories", "base_model"):
        if not all(isinstance(value, str) for value in _list(metadata.get(key))):
            errors.append(f'"{key}" must be a string or a list of strings')
    if not all(re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)) for model in _list(metadata.get("base_model"))):
        errors.append(
            f'"base_model" with value {metadata["base_model"]!r} is not valid: use the id of a model on the Hub'
        )
    return metadata, errors, []


_KIND = "/api/(?P<kind>models|datasets|spaces)"
_REPO = f"{_KIND}/(?P<name>[^/]+(?:/[^/]+)?)"
_FILES = "/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+(?:/[^/]+)?)"
_REVISION = "(?P<revision>[^/]+)"
# On the path as it comes: a branch with slashes is quoted.
_ROUTES = (
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create_or_delete),
    ("DELETE", "/api/repos/delete", _Handler.create_or_delete),
    ("GET", _KIND, _Handler.list_repos),
    ("GET", _REPO, _Handler.info),
    ("GET", f"{_REPO}/revision/{_REVISION}", _Handler.info),
    ("GET", f"{_REPO}/tree/{_REVISION}(?P<path>/.*)?", _Handler.list_tree),
    ("POST", f"{_REPO}/paths-info/{_REVISION}", _Handler.paths_info),
    ("GET HEAD", f"{_FILES}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
    ("GET", f"{_REPO}/refs", _Handler.list_refs),
    ("POST DELETE", f"{_REPO}/(?P<group>branch|tag)/{_REVISION}", _Handler.change_ref),
    ("GET", f"{_REPO}/commits/{_REVISION}", _Handler.list_commits),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", rf"{_FILES}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    ("POST", f"{_REPO}/commit/{_REVISION}", _Handler.commit),
)


def main(arguments: list[str]) -> int:
    """Run a command with a Hub of its own; returns the command's exit code."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--storage FOLDER] [--home FOLDER] -- command ...",
        description="Run a command with a Hub of its own on this machine, which it can push to and pull from.",
    )
    parser.add_argument("--storage", type=Path, help="folder that keeps the Hub's repos; default: a temporary one")
    parser.add_argument("--home", type=Path, help="the command's HF_HOME, with all caches; default: a temporary one")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:cut]), arguments[cut + 1 :]
    if not command:
        parser.error("give the command to run after --")
    token = secrets.token_urlsafe()
    with LoopbackHub({token: "user"}, options.storage) as hub, tempfile.TemporaryDirectory() as temporary:
        where = f"kept in {options.storage}" if options.storage else "removed when the command ends"
        print(f'A Hub of our own is at {hub.url}; the user is "user", and its repos are {where}.', file=sys.stderr)
        try:
            child = subprocess.Popen(command, env={**os.environ, **hub.environment(token, options.home or temporary)})
        except OSError as error:
            print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
            return 127
        # Ctrl-C reaches the command as well, which ends in its own way.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
