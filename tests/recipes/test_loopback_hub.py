"""The Hub of the tests behaves as the Hub does, as the real clients see it."""

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import loopback_hub
import pytest
from datasets import Dataset, Features, Image, Value
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import close_session
from huggingface_hub.utils.sha import git_hash
from loopback_hub import LoopbackHub, Request
from PIL import Image as PILImage

TOKENS = {"hf_secret": "user", "hf_other": "other"}
CARD = "---\nlicense: mit\ntags:\n- c3l\n---\nA card.\n"
PARQUET = os.urandom(200_000)


@pytest.fixture
def hub(monkeypatch):
    """A hub that clients of this process may use, which do not wait before they try again."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    with LoopbackHub(TOKENS) as hub:
        yield hub
    close_session()


def api_of(hub):
    return HfApi(endpoint=hub.url, token="hf_secret")


@pytest.fixture
def api(hub):
    return api_of(hub)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD, newline="\n")
    (folder / "data" / "train.parquet").write_bytes(PARQUET)
    (folder / "data" / "notes of ünit.txt").write_text("notes")
    return folder


@pytest.fixture
def pushed(api, folder):
    """The dataset user/data, with its commit."""
    api.create_repo("user/data", repo_type="dataset")
    return api.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder).oid


def snapshot(hub, cache, token="hf_secret", **kwargs):
    """{path: bytes} of a repo as a client downloads it."""
    kwargs = {"repo_id": "user/data", "repo_type": "dataset", **kwargs}
    root = Path(huggingface_hub.snapshot_download(endpoint=hub.url, token=token, cache_dir=cache, **kwargs))
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def add(path, data=b"text"):
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)


def commit(api, *operations, **kwargs):
    kwargs = {"repo_id": "user/data", "repo_type": "dataset", "commit_message": "a commit", **kwargs}
    return api.create_commit(operations=operations, **kwargs)


def raw(hub, method, path, body=None, token="hf_secret", **headers):
    """(status, headers, body) of a request exactly as given: clients tidy paths up."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=20)
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    result = answer.status, answer.headers, answer.read()
    connection.close()
    return result


def in_commit(operation, **value):
    """The body of a commit request with one operation."""
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": operation, "value": value}]
    return "\n".join(map(json.dumps, lines))


def run_client(hub, code, home, token="hf_secret", **values):
    """Run a program that uses the hub, with `values` as its names; returns what it prints last, as JSON."""
    program = "import json, sys; globals().update(json.loads(sys.argv[1]))\n" + code
    result = subprocess.run(
        [sys.executable, "-c", program, json.dumps(values)],
        env={**os.environ, **hub.environment(token, home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def made(hub, method, part):
    """Statuses of the requests of a method whose path has `part`."""
    return [request.status for request in hub.requests if request.method == method and part in request.path]


def test_what_is_pushed_comes_back(hub, api, folder, pushed, tmp_path):
    assert api.whoami()["name"] == "user"
    files = snapshot(hub, tmp_path / "cache")
    assert b"*.parquet filter=lfs" in files.pop(".gitattributes")
    assert files == contents(folder)
    info = api.dataset_info("user/data", files_metadata=True)
    assert (info.id, info.author, info.sha, info.private) == ("user/data", "user", pushed, False)
    assert info.card_data.license == "mit" and info.tags == ["c3l"]
    sizes = {sibling.rfilename: (sibling.size, sibling.lfs and sibling.lfs.sha256) for sibling in info.siblings}
    assert sizes["data/train.parquet"] == (len(PARQUET), hashlib.sha256(PARQUET).hexdigest())
    assert sizes["README.md"] == (len(CARD), None)
    assert [c.title for c in api.list_repo_commits("user/data", repo_type="dataset")] == [
        "Upload folder using huggingface_hub",
        "initial commit",
    ]


def test_files_and_folders_are_listed(hub, api, pushed):
    tree = {entry.path: entry for entry in api.list_repo_tree("user/data", repo_type="dataset", recursive=True)}
    assert set(tree) == {".gitattributes", "README.md", "data", "data/notes of ünit.txt", "data/train.parquet"}
    assert tree["README.md"].blob_id == git_hash(CARD.encode()) and tree["README.md"].lfs is None
    assert tree["data/train.parquet"].lfs.sha256 == hashlib.sha256(PARQUET).hexdigest()
    top = [entry.path for entry in api.list_repo_tree("user/data", repo_type="dataset")]
    assert top == [".gitattributes", "README.md", "data"]
    inside = [entry.path for entry in api.list_repo_tree("user/data", "data", repo_type="dataset", recursive=True)]
    assert inside == ["data/notes of ünit.txt", "data/train.parquet"]
    found = api.get_paths_info("user/data", ["data", "README.md", "none"], repo_type="dataset")
    assert [(type(entry).__name__, entry.path) for entry in found] == [
        ("RepoFolder", "data"),
        ("RepoFile", "README.md"),
    ]


def test_the_same_content_is_not_uploaded_or_committed_again(hub, api, folder, pushed):
    hub.requests.clear()
    assert api.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder).oid == pushed
    assert made(hub, "POST", "/preupload/") == [200]
    assert made(hub, "PUT", "") == made(hub, "POST", "/commit/") == []
    # Another path: a commit, but no bytes.
    commit(api, add("copy.parquet", PARQUET))
    assert made(hub, "PUT", "") == [] and made(hub, "POST", "/commit/") == [200]
    assert api.get_paths_info("user/data", "copy.parquet", repo_type="dataset")[0].size == len(PARQUET)


def test_long_listings_come_in_pages(monkeypatch, hub, api):
    monkeypatch.setattr(hub, "page_size", 3)
    for number in range(5):
        api.create_repo(f"user/data{number}", repo_type="dataset")
    paths = [f"folder{number}/{name}.txt" for number in range(4) for name in "ab"]
    commit(api, *map(add, paths), repo_id="user/data0")
    listed = api.list_repo_tree("user/data0", repo_type="dataset", recursive=True)
    assert [e.path for e in listed if e.path.endswith("txt")] == paths
    assert len(made(hub, "GET", "/tree/")) == 5  # 1 + 4 folders + 8 files
    for number in range(3):
        commit(api, add("file", str(number).encode()), repo_id="user/data0")
    assert len(api.list_repo_commits("user/data0", repo_type="dataset")) == 5
    assert [info.id for info in api.list_datasets(author="user")] == [f"user/data{number}" for number in range(5)]
    assert [info.id for info in api.list_datasets(search="DATA3")] == ["user/data3"]
    hub.requests.clear()
    assert [info.id for info in api.list_datasets(limit=4)] == [f"user/data{number}" for number in range(4)]
    assert len(hub.requests) == 2
    assert list(api.list_models()) == list(api.list_datasets(author="nobody")) == []


def test_a_folder_of_hundreds_of_files(hub, api, tmp_path):
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text(str(number))
    api.create_repo("user/data", repo_type="dataset")
    api.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=tmp_path)
    assert made(hub, "POST", "/preupload/") == [200, 200]
    assert len(api.list_repo_files("user/data", repo_type="dataset")) == 301


def test_branches_tags_and_commits(hub, api, pushed, tmp_path):
    def read(revision):
        kwargs = {"repo_type": "dataset", "endpoint": hub.url, "token": "hf_secret", "cache_dir": tmp_path / "cache"}
        return Path(hf_hub_download("user/data", "README.md", revision=revision, **kwargs)).read_bytes()

    repo = {"repo_id": "user/data", "repo_type": "dataset"}
    api.create_tag(**repo, tag="v1.0")
    api.create_branch(**repo, branch="try/this", revision="v1.0")
    changed = CARD.encode() + b"more"
    commit(api, add("README.md", changed), revision="try/this")
    assert [read(revision) for revision in ("main", "v1.0", "try/this")] == [CARD.encode()] * 2 + [changed]
    newer = commit(api, add("README.md", changed + b"!")).oid
    assert [read(revision) for revision in ("main", "v1.0", pushed)] == [changed + b"!", *[CARD.encode()] * 2]
    refs = api.list_repo_refs(**repo)
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1.0": pushed}
    assert {ref.ref for ref in refs.branches} == {"refs/heads/main", "refs/heads/try/this"}
    assert api.dataset_info("user/data").sha == newer and api.dataset_info("user/data", revision="v1.0").sha == pushed
    api.create_tag(**repo, tag="first", revision=pushed)
    assert read("first") == CARD.encode()
    api.create_tag(**repo, tag="v1.0", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="already exists"):
        api.create_tag(**repo, tag="v1.0")
    with pytest.raises(HfHubHTTPError, match="not a branch"):
        commit(api, add("file"), revision="v1.0")
    with pytest.raises(HfHubHTTPError, match="cannot be the name"):
        api.create_tag(**repo, tag="../v2")
    with pytest.raises(HfHubHTTPError, match="main cannot be deleted"):
        api.delete_branch(**repo, branch="main")
    api.delete_branch(**repo, branch="try/this")
    api.delete_tag(**repo, tag="v1.0")
    for revision in ("try/this", "v1.0", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.dataset_info("user/data", revision=revision)
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(**repo, tag="v1.0")


def test_what_is_not_there_is_said_to_be_missing(hub, api, pushed, tmp_path):
    for name in ("user/none", "none", "user/data"):  # user/data is a dataset
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(name)
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(name, "config.json", endpoint=hub.url, token="hf_secret", cache_dir=tmp_path)
    with pytest.raises(RemoteEntryNotFoundError) as raised:
        hf_hub_download("user/data", "none", repo_type="dataset", endpoint=hub.url, cache_dir=tmp_path)
    assert raised.value.response.headers["X-Repo-Commit"] == pushed
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("user/data", "none", repo_type="dataset"))
    with pytest.raises(HfHubHTTPError, match="404"):
        api.get_repo_discussions("user/data", repo_type="dataset").__next__()
    assert not api.repo_exists("user/none") and api.file_exists("user/data", "README.md", repo_type="dataset")


def test_create_again_and_delete(hub, api, folder):
    assert api.create_repo("user/model").url == f"{hub.url}/user/model"
    assert api.create_repo("model", exist_ok=True).repo_id == "user/model"
    with pytest.raises(HfHubHTTPError, match="already created") as raised:
        api.create_repo("user/model")
    assert raised.value.response.status_code == 409
    api.create_repo("user/model", repo_type="dataset")
    api.delete_repo("user/model")
    assert not api.repo_exists("user/model") and api.repo_exists("user/model", repo_type="dataset")
    assert [path.name for path in hub.storage.iterdir() if any(path.glob("*/*"))] == ["datasets"]
    api.delete_repo("user/model", missing_ok=True)


def test_a_private_repo_is_its_owners(hub, api, folder, tmp_path):
    api.create_repo("user/data", repo_type="dataset", private=True)
    api.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder)
    assert len(snapshot(hub, tmp_path / "owner")) == 4
    assert api.dataset_info("user/data").private and len(list(api.list_datasets())) == 1
    for token, status in ((False, 401), ("hf_other", 404)):
        with pytest.raises(RepositoryNotFoundError) as raised:
            snapshot(hub, tmp_path / "others", token=token)
        assert raised.value.response.status_code == status
        with pytest.raises(RepositoryNotFoundError):
            api.list_repo_files("user/data", repo_type="dataset", token=token)
        assert list(api.list_datasets(token=token)) == []
    hub.requests.clear()
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.dataset_info("user/data", token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")
    assert {request.status for request in hub.requests} == {401}


def test_only_its_user_writes_to_a_namespace(hub, api, pushed):
    before = hub.repos["datasets", "user/data"].refs.copy()
    digest = "0" * 64
    for call in (
        lambda token: api.create_repo("user/new", token=token),
        lambda token: commit(api, add("file"), token=token),
        lambda token: api.create_tag("user/data", tag="v2", repo_type="dataset", token=token),
        lambda token: api.create_branch("user/data", branch="new", repo_type="dataset", token=token),
        lambda token: api.delete_repo("user/data", repo_type="dataset", token=token),
    ):
        with pytest.raises(HfHubHTTPError) as raised:
            call("hf_other")
        assert raised.value.response.status_code == 403
        with pytest.raises(HfHubHTTPError) as raised:
            call(False)
        assert raised.value.response.status_code == 401
    for path, body in (
        ("/api/datasets/user/data/commit/main", in_commit("deletedFile", path="README.md")),
        ("/datasets/user/data.git/info/lfs/objects/batch", json.dumps({"objects": [{"oid": digest, "size": 1}]})),
    ):
        assert raw(hub, "POST", path, body, token="hf_other")[0] == 403
        assert raw(hub, "POST", path, body, token=None)[0] == 401
    assert hub.repos["datasets", "user/data"].refs == before and ("models", "user/new") not in hub.repos


def test_commits_change_and_delete(hub, api, pushed):
    commit(api, add("data/b/c.txt"), add("d.txt"), CommitOperationDelete("data/train.parquet"))
    commit(api, CommitOperationDelete("data/"))
    assert api.list_repo_files("user/data", repo_type="dataset") == [".gitattributes", "README.md", "d.txt"]
    for missing in ("none.txt", "none/", "d.txt/"):
        with pytest.raises(EntryNotFoundError):
            commit(api, CommitOperationDelete(missing))
    with pytest.raises(HfHubHTTPError, match="a file and a folder"):
        commit(api, add("d.txt/e.txt"))
    assert len(api.list_repo_commits("user/data", repo_type="dataset")) == 4


def test_a_stale_parent_is_refused(hub, api, pushed):
    commit(api, add("one"), parent_commit=pushed)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as raised:
        commit(api, add("two"), parent_commit=pushed)
    assert raised.value.response.status_code == 412
    assert not api.file_exists("user/data", "two", repo_type="dataset")


def test_two_pushes_at_once(hub, api, pushed):
    hub.before("POST", "/commit/main$", lambda: commit(api, add("theirs")))
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, add("ours"), parent_commit=pushed)
    assert made(hub, "POST", "/commit/") == [200, 200, 412]
    assert "theirs" in api.list_repo_files("user/data", repo_type="dataset")
    # Without a parent both are kept, however many come together.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: commit(api, add(f"file{number}")), range(8)))
    files = api.list_repo_files("user/data", repo_type="dataset")
    assert {f"file{number}" for number in range(8)} < set(files)
    assert len(api.list_repo_commits("user/data", repo_type="dataset")) == 11


def test_uploads_are_what_they_were_said_to_be(hub, api, pushed):
    oid = hashlib.sha256(b"right").hexdigest()

    def batch(size):
        body = json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": size}]})
        answer = json.loads(raw(hub, "POST", "/datasets/user/data.git/info/lfs/objects/batch", body)[2])
        return answer["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.url)

    assert raw(hub, "PUT", batch(5), b"wrong", token=None)[0] == 400
    assert raw(hub, "PUT", batch(4), b"right", token=None)[0] == 400
    assert raw(hub, "PUT", batch(5).partition("?")[0], b"right")[0] == 403
    assert raw(hub, "PUT", batch(5).replace(oid, "0" * 64), b"right")[0] == 403
    body = in_commit("lfsFile", path="a.bin", algo="sha256", oid=oid, size=5)
    status, _, answer = raw(hub, "POST", "/api/datasets/user/data/commit/main", body)
    assert status == 400 and b"file that does not exist" in answer
    assert raw(hub, "PUT", batch(5), b"right", token=None)[0] == 200
    assert raw(hub, "POST", "/api/datasets/user/data/commit/main", body)[0] == 200
    assert raw(hub, "GET", "/datasets/user/data/resolve/main/a.bin")[2] == b"right"
    assert not [path for path in hub.storage.rglob("upload-*")]


def test_which_files_go_by_lfs(hub, pushed):
    files = (("a.parquet", b"text", 4), ("b.txt", b"text", 4), ("c.txt", b"\0", 1), ("d.txt", b"text", 10_000_001))
    files = [{"path": path, "sample": base64.b64encode(sample).decode(), "size": size} for path, sample, size in files]
    path = "/api/datasets/user/data/preupload/main"
    answer = json.loads(raw(hub, "POST", path, json.dumps({"files": files}))[2])
    assert [file["uploadMode"] for file in answer["files"]] == ["lfs", "regular", "lfs", "lfs"]
    assert raw(hub, "POST", path, json.dumps({"files": files, "gitIgnore": "*.txt"}))[0] == 501
    content = base64.b64encode(bytes(10_000_001)).decode()
    body = in_commit("file", path="d.txt", encoding="base64", content=content)
    assert raw(hub, "POST", "/api/datasets/user/data/commit/main", body)[0] == 400


def test_parts_of_files(hub, pushed):
    path = "/datasets/user/data/resolve/main/data/train.parquet"
    size = len(PARQUET)
    for range_, first, last in (
        ("0-9", 0, 10),
        ("100000-", 100_000, size),
        ("-8", size - 8, size),
        ("5-9999999", 5, size),
    ):
        status, headers, body = raw(hub, "GET", path, Range=f"bytes={range_}")
        assert (status, body) == (206, PARQUET[first:last])
        assert headers["Content-Range"] == f"bytes {first}-{last - 1}/{size}"
    status, headers, body = raw(hub, "HEAD", path)
    assert (status, headers["Content-Length"], body) == (200, str(size), b"")
    assert headers["ETag"] == f'"{hashlib.sha256(PARQUET).hexdigest()}"' and headers["X-Repo-Commit"] == pushed
    assert raw(hub, "GET", path, Range=f"bytes={size}-")[0] == 416


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures(hub, api, folder, status, tmp_path):
    api.create_repo("user/data", repo_type="dataset")
    for method, pattern in (
        ("POST", "/preupload/"),
        ("POST", "/lfs/objects/batch"),
        ("PUT", "/lfs/"),
        ("GET", "/tree/"),
    ):
        hub.fail(method, pattern, times=2, status=status, headers={"Retry-After": "0"})
    oid = api.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder).oid
    assert len(snapshot(hub, tmp_path / "cache", revision=oid)) == 4
    assert made(hub, "POST", "/preupload/") == made(hub, "PUT", "/lfs/") == [status, status, 200]
    hub.fail("GET", "/refs$", status=status)
    with pytest.raises(HfHubHTTPError, match=str(status)):
        api.list_repo_refs("user/data", repo_type="dataset")
    assert api.list_repo_refs("user/data", repo_type="dataset")


def test_failures_have_the_headers_that_were_asked_for(hub):
    hub.fail("GET", "whoami", status=429, headers={"Retry-After": "7"})
    status, headers, _ = raw(hub, "GET", "/api/whoami-v2")
    assert (status, headers["Retry-After"]) == (429, "7")
    assert raw(hub, "GET", "/api/whoami-v2")[0] == 200


def test_a_failure_that_stays(hub, api, folder):
    api.create_repo("user/data", repo_type="dataset")
    hub.fail("PUT", "/lfs/", times=100, status=503)
    with pytest.raises(RuntimeError, match=r"uploading 'data/train.parquet'"):
        api.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder)
    assert made(hub, "POST", "/commit/") == []
    assert api.list_repo_files("user/data", repo_type="dataset") == [".gitattributes"]


def test_connections_lost_in_the_middle(monkeypatch, hub, api, folder, tmp_path):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)  # what a client has got in whole pieces, it keeps
    api.create_repo("user/data", repo_type="dataset")
    hub.drop("PUT", "/lfs/", after_bytes=70_000)
    oid = api.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder).oid
    assert made(hub, "PUT", "/lfs/") == [None, 200]
    hub.drop("GET", "train.parquet", after_bytes=150_000)
    assert snapshot(hub, tmp_path / "cache")["data/train.parquet"] == PARQUET
    assert made(hub, "GET", "train.parquet") == [None, 206]
    # A commit whose answer is lost has been made; one that is lost on its way has not.
    for answer, commits in ((True, 3), (False, 3)):
        hub.drop("POST", "/commit/", after_bytes=0, answer=answer)
        with pytest.raises(Exception, match=r"(?i)disconnect|reset|broken pipe"):
            commit(api, add(f"file {answer}"), parent_commit=oid)
        assert len(api.list_repo_commits("user/data", repo_type="dataset")) == commits
        oid = api.dataset_info("user/data").sha
    assert made(hub, "POST", "/commit/") == [200, None, None]


def test_as_many_bytes_get_through_as_was_asked_for(hub, pushed):
    path = "/datasets/user/data/resolve/main/data/train.parquet"
    hub.drop("GET", "train.parquet", after_bytes=1000)
    with pytest.raises(http.client.IncompleteRead) as raised:
        raw(hub, "GET", path)
    assert raised.value.partial == PARQUET[:1000]
    hub.drop("PUT", "/lfs/", after_bytes=5)
    with socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(b"PUT /lfs/ HTTP/1.1\r\nContent-Length: 6\r\n\r\n1234")
        connection.sendall(b"5")
        assert connection.recv(1) == b""


def test_metadata_is_checked(hub, api, pushed):
    for card, message in (
        ("---\nlicense: [mit\n---\n", "not YAML"),
        ("---\n- mit\n---\n", "not a mapping"),
        ("---\nlicense: 5\n---\n", "license"),
        ("---\nbase_model: /home/user/model\n---\n", "base_model"),
    ):
        with pytest.raises(ValueError, match=message):
            commit(api, add("README.md", card.encode()))
        content = base64.b64encode(card.encode()).decode()
        body = in_commit("file", path="README.md", encoding="base64", content=content)
        assert raw(hub, "POST", "/api/datasets/user/data/commit/main", body)[0] == 400
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        commit(api, add("README.md", b"no metadata"))


def test_nothing_is_read_or_written_outside_the_storage(hub, api, pushed):
    (hub.storage / "outside").write_text("secret")
    for path in ("../../../../outside", "..%2F..%2F..%2F..%2Foutside", "objects/../repo.json", "%2Fetc%2Fpasswd"):
        for start in ("/datasets/user/data/resolve/main/", "/", "/api/datasets/user/data/tree/main/", "/lfs/"):
            assert raw(hub, "GET", start + path)[0] == raw(hub, "PUT", start + path)[0] == 404
    before = contents(hub.storage)
    for name, owner in (("..", "user"), ("a/../../b", "user"), (".hidden", "user"), ("a", "..")):
        body = json.dumps({"name": name, "organization": owner, "type": "dataset"})
        assert raw(hub, "POST", "/api/repos/create", body)[0] in (400, 403)
        assert raw(hub, "DELETE", "/api/repos/delete", body)[0] == 404
    for path in ("../escaped", "/escaped", "a/../../escaped", "a//b", "", ".git/config", "a\\b", "a\0b"):
        body = in_commit("file", path=path, encoding="base64", content="eHg=")
        assert raw(hub, "POST", "/api/datasets/user/data/commit/main", body)[0] == 400
    batch = json.dumps({"objects": [{"oid": "../../escaped", "size": 1}]})
    assert raw(hub, "POST", "/datasets/user/data.git/info/lfs/objects/batch", batch)[0] == 400
    assert contents(hub.storage) == before


def test_tokens_are_not_kept(hub, api, pushed):
    commit(api, add("file"))
    kept = repr(hub.requests).encode() + b"".join(contents(hub.storage).values())
    assert Request("PUT", f"/lfs/{hashlib.sha256(PARQUET).hexdigest()}", 200) in hub.requests
    for secret in (*TOKENS, "signature", *hub.uploads):
        assert secret.encode() not in kept


def test_an_error_does_not_add_headers(hub, pushed):
    status, headers, body = raw(hub, "GET", "/api/datasets/user/data/tree/main/%0d%0aX-Injected:%20yes")
    assert status == 404 and b"X-Injected: yes" in body and "X-Injected" not in headers


def test_requests_that_make_no_sense(hub, api, pushed, capfd):
    path = "/api/datasets/user/data/commit/main"
    assert raw(hub, "POST", path, "{")[0] == 500 and "JSONDecodeError" in capfd.readouterr().err
    assert raw(hub, "POST", path, in_commit("rename", path="a"))[0] == 400
    assert raw(hub, "POST", f"{path}?create_pr=1", in_commit("deletedFile", path="README.md"))[0] == 501
    assert raw(hub, "POST", path, "0\r\n\r\n", **{"Transfer-Encoding": "chunked"})[0] == 411
    assert api.dataset_info("user/data").sha == pushed


def test_repos_stay_in_a_given_folder(hub, folder, tmp_path):
    with LoopbackHub(TOKENS, storage=tmp_path / "storage") as first:
        api_of(first).create_repo("user/data", repo_type="dataset", private=True)
        api_of(first).create_tag("user/data", tag="v0", repo_type="dataset")
        oid = api_of(first).upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder).oid
        connection = http.client.HTTPConnection(first.url.removeprefix("http://"))
        connection.request("GET", "/api/datasets")
        connection.getresponse().read()
    connection.request("GET", "/api/datasets")
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        connection.getresponse()
    with LoopbackHub(TOKENS, storage=tmp_path / "storage") as second:
        info = api_of(second).dataset_info("user/data")
        assert (info.sha, info.private) == (oid, True)
        assert len(api_of(second).list_repo_commits("user/data", repo_type="dataset", revision="v0")) == 1
        assert snapshot(second, tmp_path / "cache")["data/train.parquet"] == PARQUET
    with pytest.raises(ValueError, match="must have names"):
        LoopbackHub({"token": "../user"})


DATASETS = """
import datasets
from datasets import load_dataset

datasets.config.USE_PARQUET_EXPORT = False
rows = load_dataset("user/pairs", split="train")
assert rows["question"] == questions and rows[1]["image"].size == (4, 5)
assert rows.features["image"] == datasets.Image()
streamed = list(load_dataset("user/pairs", split="train", streaming=True))
assert [row["question"] for row in streamed] == questions and streamed[0]["image"].getpixel((0, 0)) == (1, 2, 3)
for revision in ("v1", sha):
    assert load_dataset("user/pairs", split="train", revision=revision)["question"] == questions[:2]
    assert len(list(load_dataset("user/pairs", split="train", revision=revision, streaming=True))) == 2
rows.push_to_hub("user/pushed", private=True)
missing = []
for repo, token in (("user/none", None), ("user/pushed", "hf_other"), ("user/pushed", False)):
    try:
        load_dataset(repo, token=token)
    except datasets.exceptions.DatasetNotFoundError:
        missing.append(repo)
assert load_dataset("user/pushed", split="train")["question"] == questions
print(json.dumps(missing))
"""


def test_datasets_loads_streams_and_pushes(hub, api, tmp_path):
    questions = ["What is it?", "Is it red?", "How many?"]
    image = PILImage.new("RGB", (4, 5), (1, 2, 3))
    features = Features({"image": Image(), "question": Value("string")})
    api.create_repo("user/pairs", repo_type="dataset")
    for count in (2, 3):
        rows = Dataset.from_dict({"image": [image] * count, "question": questions[:count]}, features=features)
        rows.to_parquet(tmp_path / "rows.parquet")
        sha = commit(
            api, add("data/train-0.parquet", (tmp_path / "rows.parquet").read_bytes()), repo_id="user/pairs"
        ).oid
        if count == 2:
            api.create_tag("user/pairs", tag="v1", repo_type="dataset")
            first = sha
    assert run_client(hub, DATASETS, tmp_path / "home", questions=questions, sha=first) == [
        "user/none",
        *["user/pushed"] * 2,
    ]
    assert not {status for status in made(hub, "GET", "") if status not in (200, 206, 404)}


MODELS = """
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

def weights(**kwargs):
    model = AutoModelForImageTextToText.from_pretrained("user/tiny", **kwargs)
    return sum(p.double().sum().item() for p in model.parameters())

found = {"main": weights(), "v1": weights(revision="v1"), "sha": weights(revision=sha)}
processor = AutoProcessor.from_pretrained("user/tiny")
assert processor.chat_template == template and processor.tokenizer("a dog").input_ids == ids
try:
    AutoProcessor.from_pretrained("user/tiny", token="hf_other")
except OSError:
    print(json.dumps(found))
"""


def test_transformers_loads_by_branch_tag_and_commit(hub, api, tmp_path):
    from tiny_models import tiny_llava

    expected = []
    api.create_repo("user/tiny", private=True)
    for seed in (0, 1):
        model, processor = tiny_llava(seed)
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        expected.append(sum(p.double().sum().item() for p in model.parameters()))
        sha = api.upload_folder(repo_id="user/tiny", folder_path=tmp_path / "model").oid
        if seed == 0:
            api.create_tag("user/tiny", tag="v1")
            first = sha
    template, ids = processor.chat_template, processor.tokenizer("a dog").input_ids
    found = run_client(hub, MODELS, tmp_path / "home", sha=first, template=template, ids=ids)
    assert expected[0] != expected[1]
    assert found == pytest.approx({"main": expected[1], "v1": expected[0], "sha": expected[0]}, abs=1e-9)


def command_line(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, loopback_hub.__file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )


PROGRAM = """
import os, sys
from huggingface_hub import HfApi, constants
api = HfApi()
api.create_repo("user/made", exist_ok=True)
api.upload_file(repo_id="user/made", path_in_repo="file.txt", path_or_fileobj=sys.argv[1].encode())
print(len(api.list_repo_commits("user/made")), constants.HF_HUB_CACHE, os.environ["HF_TOKEN"])
sys.exit(3)
"""


def test_the_command_line_runs_a_program(tmp_path):
    storage, home = tmp_path / "storage", tmp_path / "home"
    options = ("--storage", storage, "--home", home, "--", sys.executable, "-c", PROGRAM)
    results = [command_line(*options, text) for text in ("one", "two")]
    assert [result.returncode for result in results] == [3, 3], results[0].stderr
    printed = [result.stdout.split() for result in results]
    assert [words[:2] for words in printed] == [["2", str(home / "hub")], ["3", str(home / "hub")]]
    kept = b"".join(contents(storage).values())
    assert b"two" in kept
    for result, (*_, token) in zip(results, printed):
        assert token not in result.stderr and token.encode() not in kept and "kept in" in result.stderr
    result = command_line("--", sys.executable, "-c", "import os; print(os.environ['HF_HOME'])")
    assert result.returncode == 0 and not Path(result.stdout.strip()).exists()


def test_the_command_line_says_what_is_wrong(tmp_path):
    result = command_line()
    assert result.returncode == 2 and "after --" in result.stderr
    result = command_line("--", "no-such-command")
    assert result.returncode == 127 and "cannot run no-such-command" in result.stderr
    result = command_line("--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert result.returncode == 128 + signal.SIGKILL
