"""Pushing and fetching with the real client, on a Hub of our own that fails, drops connections, and has other users."""

import contextlib
import errno
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import PIL.Image
import published
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants
from huggingface_hub.utils import close_session
from loopback_hub import LoopbackHub
from PIL.ExifTags import Base as ExifTag
from published import configs, finished_run
from tiny_models import tiny_llava

from c3l_hf.publishing import export
from c3l_hf.publishing.cards import RunFacts
from c3l_hf.publishing.export import example_pictures, write_dataset
from c3l_hf.publishing.hub import HubError, Publication, push, verify
from c3l_hf.publishing.manifest import MANIFEST, Manifest

TOKEN, OTHER = "hf_oursecret", "hf_theirsecret"
DATASET, GENERATOR = "user/c3l-pairs", "user/c3l-generator"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run; do not change it."""
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """Another run, with other rows."""
    return finished_run(tmp_path_factory.mktemp("another"), n=4)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub which everything in this process takes for the real one, with `user` signed in and nothing cached."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # The client and the push wait before they try again.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    close_session()
    with LoopbackHub({TOKEN: "user", OTHER: "other"}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template[template.index("/{repo_id}") :]
        )
        yield hub
    close_session()


def commits(repo_id, repo_type="dataset"):
    return [commit.commit_id for commit in HfApi().list_repo_commits(repo_id, repo_type=repo_type)]


def files(repo_id, repo_type="dataset"):
    """Path → content of what is in a repository now."""
    api = HfApi()
    names = [name for name in api.list_repo_files(repo_id, repo_type=repo_type) if name != ".gitattributes"]
    sha = api.repo_info(repo_id, repo_type=repo_type).sha
    return {
        name: Path(api.hf_hub_download(repo_id, name, repo_type=repo_type, revision=sha)).read_bytes() for name in names
    }


def commit(repo_id, contents, repo_type="dataset", private=True):
    """Somebody writes into a repository by other means."""
    api = HfApi()
    api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
    return api.create_commit(repo_id, operations, commit_message="by hand", repo_type=repo_type).oid


def writes(hub):
    """Requests that could have changed something."""
    harmless = ("/api/validate-yaml", "/preupload/")
    return [r for r in hub.requests if r.method in ("POST", "PUT", "DELETE") and not any(h in r.path for h in harmless)]


# Push


def test_a_push_and_what_it_leaves(hub, finished, caplog):
    caplog.set_level(logging.DEBUG)
    pushed = push(finished, Publication())
    assert [result.repo_id for result in pushed] == [DATASET, GENERATOR]
    assert pushed[0].url == f"{hub.url}/datasets/{DATASET}" and pushed[1].url == f"{hub.url}/{GENERATOR}"
    for result, part, repo_type in zip(pushed, ("dataset", "generator"), ("dataset", "model")):
        info = HfApi().repo_info(result.repo_id, repo_type=repo_type)
        assert info.private and info.sha == result.commit
        # one commit on that with which the Hub begins
        assert len(commits(result.repo_id, repo_type)) == 2
        there = files(result.repo_id, repo_type)
        assert len(there) == result.changed and result.removed == 0
        local = {p.relative_to(finished / part).as_posix(): p for p in (finished / part).rglob("*") if p.is_file()}
        assert there.keys() == local.keys()
        # the card knows the names of both, and so the manifest its hash
        assert {name for name in there if there[name] != local[name].read_bytes()} == {"README.md", MANIFEST}
        assert DATASET.encode() in there["README.md"] and GENERATOR.encode() in there["README.md"]
        assert Manifest.from_bytes(there[MANIFEST], "x").facts["dataset_repo"] == DATASET
    assert ModelCard(files(GENERATOR, "model")["README.md"].decode()).data.datasets == [DATASET]
    assert "arxiv" in HfApi().dataset_info(DATASET).card_data.to_dict().get("arxiv", "arxiv")
    everything = [
        path.read_bytes() for folder in (finished, hub.storage) for path in folder.rglob("*") if path.is_file()
    ]
    for token in (TOKEN, OTHER):
        assert token not in caplog.text and not any(token.encode() in content for content in everything)


def test_a_second_push_changes_nothing(hub, finished):
    first = push(finished, Publication())
    before = len(writes(hub))
    again = push(finished, Publication())
    assert [result.commit for result in again] == [result.commit for result in first]
    assert not any(result.changed or result.removed for result in again)
    assert "nothing to change" in str(again[0])
    assert len(writes(hub)) == before and len(commits(DATASET)) == 2


def test_pictures_of_an_older_version_say_nothing_unless_asked_for(hub, tmp_path, monkeypatch):
    """Older versions published the pictures as they were."""

    def photograph(number):
        file, exif = io.BytesIO(), PIL.Image.Exif()
        exif[ExifTag.Make] = "A phone's maker"
        PIL.Image.new("RGB", (12, 10), (number, 90, 30)).save(file, "JPEG", exif=exif)
        return {"bytes": file.getvalue(), "path": None}

    monkeypatch.setattr(published, "picture", photograph)
    with monkeypatch.context() as older:
        older.setattr(export, "with_contents", lambda table, *_: table)
        run = finished_run(tmp_path / "older")
    with pytest.raises(
        HubError, match=r"older/dataset: .*, row 0: the picture may say where.*; write the dataset again"
    ):
        push(run, Publication())
    assert not writes(hub)
    assert push(run, Publication(keep_metadata=True))
    assert push(finished_run(tmp_path / "newer"), Publication(dataset_name="new", generator_name="newer"))


def test_words_given_to_the_push_are_on_the_cards(hub, tmp_path):
    run = finished_run(tmp_path / "run", license=None, images_license=None, images_source=None)
    push(run, Publication(license="mit", images_license="cc-by-4.0", images_source="a flea market"))
    for repo_id, repo_type in ((DATASET, "dataset"), (GENERATOR, "model")):
        card = files(repo_id, repo_type)["README.md"].decode()
        assert "\nlicense: mit\n" in card and "images:** cc-by-4.0\n" in card and "a flea market" in card
        assert verify(repo_id)


def test_another_run_replaces_what_was_pushed_and_nothing_else(hub, finished, another, tmp_path, monkeypatch):
    monkeypatch.setattr("c3l_hf.publishing.export._SHARD_BYTES", 1)
    monkeypatch.setattr("c3l_hf.publishing.export._ROW_GROUP", 2)
    many = finished_run(tmp_path / "many")
    push(many, Publication())
    assert "data/train-00002-of-00003.parquet" in files(DATASET)
    commit(DATASET, {"notes.txt": b"mine"})
    (result, _) = push(another, Publication())
    there = files(DATASET)
    assert {name for name in there if name.startswith("data/")} == {"data/train-00000-of-00001.parquet"}
    assert there["notes.txt"] == b"mine" and result.removed > 3
    assert verify(DATASET) and len(commits(DATASET)) == 4
    # what was there before is still there to be had
    assert verify(DATASET, revision=commits(DATASET)[2])


def test_revisions_and_tags(hub, finished, another, capsys):
    push(finished, Publication())
    HfApi().create_tag(DATASET, tag="v1", repo_type="dataset")
    push(another, Publication())
    for revision, rows in (("v1", 6), ("main", 4), (commits(DATASET)[1], 6)):
        assert verify(DATASET, revision=revision)
        assert f"default {rows} rows" in capsys.readouterr().out
    with pytest.raises(HubError, match="no such revision"):
        verify(DATASET, revision="v2")


# Repositories of others


def test_somebody_elses_repository_is_left_alone(hub, finished):
    mine = {"thesis.txt": b"years of work", "README.md": b"# My thesis\n"}
    commit(GENERATOR, mine, "model")
    before = len(writes(hub))
    with pytest.raises(HubError, match=f"{GENERATOR} holds something that c3l_hf has not made .README.md, thesis.txt."):
        push(finished, Publication())
    # nor is the other one made
    assert len(writes(hub)) == before and files(GENERATOR, "model") == mine
    push(finished, Publication(overwrite=True))
    assert files(GENERATOR, "model")["thesis.txt"] == b"years of work" and verify(GENERATOR)


def test_a_manifest_of_something_else_is_somebody_elses(hub, finished):
    commit(DATASET, {MANIFEST: b'{"name": "my app"}'})
    with pytest.raises(HubError, match="holds something that c3l_hf has not made"):
        push(finished, Publication())


def test_a_repository_made_on_the_website_is_free(hub, finished):
    commit(DATASET, {"README.md": b"---\nlicense: mit\n---\n"})
    commit(GENERATOR, {"README.md": b"---\nlicense: mit\n---\nMy plans for this model."}, "model")
    with pytest.raises(HubError, match=f"{GENERATOR} holds"):
        push(finished, Publication())
    push(finished, Publication(overwrite=True))
    assert verify(DATASET)


def test_edits_on_the_hub_are_not_lost(hub, finished, another):
    push(finished, Publication())
    card = files(DATASET)["README.md"] + b"\nFound a mistake in row 3.\n"
    commit(DATASET, {"README.md": card})
    for run in (finished, another):
        with pytest.raises(HubError, match="README.md was not pushed so, somebody changed it on the Hub"):
            push(run, Publication())
    assert files(DATASET)["README.md"] == card
    push(another, Publication(overwrite=True))
    assert verify(DATASET)


@pytest.mark.parametrize(("repo_id", "repo_type"), [(DATASET, "dataset"), (GENERATOR, "model")])
def test_edits_in_one_repository_keep_both_as_they_are(hub, finished, another, repo_id, repo_type):
    push(finished, Publication())
    commit(repo_id, {"README.md": files(repo_id, repo_type)["README.md"] + b"\nMy notes.\n"}, repo_type)
    before = len(writes(hub))
    with pytest.raises(HubError, match=f"{repo_id}: README.md was not pushed so, somebody changed it on the Hub"):
        push(another, Publication())
    assert len(writes(hub)) == before


def test_edits_between_the_check_and_the_push(hub, finished, another):
    push(finished, Publication())
    card = files(GENERATOR, "model")["README.md"] + b"\nMy notes.\n"
    hub.before("POST", f"/api/datasets/{DATASET}/commit/", lambda: commit(GENERATOR, {"README.md": card}, "model"))
    with pytest.raises(HubError, match=f"{GENERATOR}: README.md was not pushed so"):
        push(another, Publication())
    assert files(GENERATOR, "model")["README.md"] == card


def test_private_unless_public(hub, finished, caplog):
    push(finished, Publication())
    push(finished, Publication(public=True))
    assert HfApi().dataset_info(DATASET).private
    push(finished, Publication(dataset_name="open", generator_name="open", public=True))
    assert not HfApi().dataset_info("user/open").private
    with pytest.raises(HubError, match="user/open is public, and public is False: set it"):
        push(finished, Publication(dataset_name="open", generator_name="open"))


# Failures on the way


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "whoami", 429),
        ("GET", "/api/datasets/user/c3l-pairs$", 500),
        ("POST", "/api/repos/create", 503),
        ("POST", "/preupload/", 500),
        ("POST", "/lfs/objects/batch", 503),
        ("PUT", "/lfs/", 500),
        ("POST", "/api/validate-yaml", 503),
        ("POST", "/commit/", 429),
        ("POST", "/commit/", 500),
        ("POST", "/commit/", 503),
    ],
)
def test_passing_failures(hub, finished, method, path, status):
    hub.fail(method, path, status=status)
    pushed = push(finished, Publication())
    assert any(r.status == status for r in hub.requests)
    assert [len(commits(DATASET)), len(commits(GENERATOR, "model"))] == [2, 2]
    assert files(DATASET)[MANIFEST] and pushed[0].changed == len(files(DATASET))


def test_a_commit_whose_answer_is_lost_is_made_once(hub, finished):
    hub.drop("POST", "/commit/", after_bytes=0, answer=True)
    (result, _) = push(finished, Publication())
    assert len(commits(DATASET)) == 2 and result.commit == commits(DATASET)[0] and result.changed == len(files(DATASET))


def test_a_dropped_upload_is_continued(hub, finished):
    hub.drop("PUT", "/lfs/", after_bytes=1000, times=2)
    push(finished, Publication())
    assert any(r.status is None for r in hub.requests) and verify(DATASET) and verify(GENERATOR)


def test_an_interrupted_push_leaves_the_old_revision_and_continues(hub, finished, another):
    push(finished, Publication())
    before = files(DATASET)
    hub.fail("POST", "/commit/", status=503, times=5)
    with pytest.raises(HubError, match=f"{DATASET}: the Hub answered with 503"):
        push(another, Publication())
    assert files(DATASET) == before and len(commits(DATASET)) == 2 and verify(DATASET)
    so_far = len(hub.requests)
    assert any(r.method == "PUT" for r in hub.requests)
    push(another, Publication())
    # the dataset's files are there already, and the generator's weights are those of the first run
    assert not [r for r in hub.requests[so_far:] if r.method == "PUT"]
    assert verify(DATASET) and len(commits(DATASET)) == 3


def test_two_pushes_at_once(hub, finished, another):
    push(finished, Publication())
    hub.before("POST", "/commit/", lambda: push(another, Publication(), api=HfApi(endpoint=hub.url, token=TOKEN)))
    changed = Publication(license="mit")
    with pytest.raises(HubError, match=f"{DATASET} was changed by somebody else during this push, nothing of which"):
        push(finished, changed)
    assert "default 4 rows" in _printed(DATASET) and len(commits(DATASET)) == 3
    push(finished, changed)
    assert "default 6 rows" in _printed(DATASET) and len(commits(DATASET)) == 4


def _printed(repo_id):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert verify(repo_id)
    return out.getvalue()


def test_somebody_pushes_while_this_push_waits_to_try_again(hub, finished, another, monkeypatch):
    push(finished, Publication())
    others = [lambda: push(another, Publication())]
    monkeypatch.setattr(time, "sleep", lambda seconds: others and others.pop()())
    hub.fail("POST", "/commit/", status=503)
    with pytest.raises(HubError, match=f"{DATASET} was changed by somebody else during this push"):
        push(finished, Publication(license="mit"))
    assert "default 4 rows" in _printed(DATASET)


def test_two_first_pushes_at_once(hub, finished, another):
    hub.before("POST", "/commit/", lambda: push(another, Publication(), api=HfApi(endpoint=hub.url, token=TOKEN)))
    with pytest.raises(HubError, match="was changed by somebody else during this push"):
        push(finished, Publication())
    assert "default 4 rows" in _printed(DATASET)


# Bad input: one line, and nothing has happened


def refused(hub, folder, says, **options):
    before = len(writes(hub))
    with pytest.raises(HubError, match=says) as error:
        push(folder, Publication(**options))
    assert "\n" not in str(error.value) and TOKEN not in str(error.value)
    assert len(writes(hub)) == before and not [r for r in hub.requests if "/preupload/" in r.path]


def test_tokens(hub, finished, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    refused(hub, finished, "does not know the token")
    monkeypatch.delenv("HF_TOKEN")
    refused(hub, finished, "no token: set HF_TOKEN, or log in")
    monkeypatch.setenv("HF_TOKEN", OTHER)
    refused(hub, finished, "no permission to write to user; it may write to other", namespace="user")
    user = {"name": "user", "auth": {"accessToken": {"role": "read"}}}
    monkeypatch.setattr(HfApi, "whoami", lambda self: user)
    refused(hub, finished, "the token may only read")


def test_no_permission_to_create(hub, finished):
    hub.fail("POST", "/api/repos/create", status=403)
    with pytest.raises(HubError, match=f"{DATASET}: the Hub does not let you write there: a failure that was"):
        push(finished, Publication())
    assert not hub.repos


@pytest.mark.parametrize("path", ["/api/repos/create", "/lfs/objects/batch", "/commit/"])
def test_a_full_storage(hub, finished, path):
    full = "Private repository storage limit reached, please upgrade your plan"
    hub.fail("POST", path, status=403, headers={"X-Error-Message": full})
    with pytest.raises(HubError, match=f"{DATASET}: the Hub does not let you write there: {full}") as error:
        push(finished, Publication())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["two/slashes", "with space", "..", "x" * 120, "-dash-", ""])
def test_names(hub, finished, name):
    refused(hub, finished, "cannot be the name of a repository", dataset_name=name)
    refused(hub, finished, "cannot be the name of a repository", generator_name=name)


def test_licences(hub, tmp_path):
    run = finished_run(tmp_path / "run", license=None, images_license=None)
    refused(hub, run, "^images_license is not stated: license is", license="mit")
    refused(hub, run, "^license is not stated: ", images_license="mit")
    refused(hub, run, "^license and images_license are not stated: ")
    # As an example has them.
    for words in ("...", "…", "LICENCE", "<your-license>"):
        refused(hub, run, f"^license [(]{re.escape(words)}[)] is not stated: ", license=words, images_license="mit")


def test_a_card_that_the_hub_refuses(hub, finished):
    hub.fail("POST", "/api/validate-yaml", status=400)
    with pytest.raises(HubError, match=f"{DATASET}: Invalid metadata in README.md"):
        push(finished, Publication(license="a licence that there is not"))
    assert not [r for r in hub.requests if r.method == "PUT"]


def test_parts_of_two_runs(hub, finished, another, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished / "dataset", run / "dataset")
    shutil.copytree(another / "generator", run / "generator")
    says = "dataset and generator are not of one run, they differ in rows, stages, tokens, score_quantiles"
    assert not verify(str(run))
    printed = capsys.readouterr().out
    assert printed.count("all is as it should be") == 2 and f"FAIL  run        {says}" in printed
    refused(hub, run, says)


def test_cards_of_another_schema_are_not_pushed(hub, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    manifest = json.loads((run / "generator" / MANIFEST).read_text())
    (run / "generator" / MANIFEST).write_text(json.dumps({**manifest, "card_schema": 99}))
    refused(hub, run, "another version of c3l_hf .the card of the generator has schema 99, not ")


def test_unfinished_runs(hub, finished, tmp_path):
    refused(hub, tmp_path / "nowhere", "nowhere: there is no such folder: nothing to push")
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "generator")
    refused(hub, run, "run/generator has no manifest.json")
    (run / "dataset" / MANIFEST).write_text("{}")
    refused(hub, run, "manifest.json is not one that c3l_hf has written")
    manifest = json.loads((finished / "dataset" / MANIFEST).read_text())
    (run / "dataset" / MANIFEST).write_text(json.dumps({**manifest, "facts": {"unknown": 1}}))
    shutil.copytree(finished / "generator", run / "generator")
    refused(hub, run, "is of another version of c3l_hf .*: nothing to push")


def test_files_that_were_changed_or_cannot_be_read(hub, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    with (run / "dataset/README.md").open("a") as card:
        card.write("more words")
    refused(hub, run, "run/dataset: files: README.md is not the file of the manifest")
    parts = configs()
    broken = parts["default"].to_list()
    broken[2]["images"] = [{"bytes": b"not a picture", "path": None}]
    parts["default"] = parts["default"].from_list(broken, parts["default"].features)
    shutil.rmtree(run / "dataset")
    told = RunFacts(**Manifest.read(run / "generator").facts)
    write_dataset(parts, run / "dataset", told, example_pictures(configs()["default"], told.examples))
    refused(hub, run, "run/dataset: images: data/train-.*, row 2: the image cannot be read")


def test_offline(hub, finished, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    refused(hub, finished, "offline mode is enabled")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    close_session()
    refused(hub, finished, "the connection to the Hub failed .ConnectError.")


# Fetching


def test_verify_needs_permission(hub, finished, monkeypatch):
    push(finished, Publication())
    hidden = f"{DATASET} is neither a folder nor a repository that this token"
    for token, says in ((OTHER, hidden), ("", hidden), ("hf_unknown", "the Hub does not know the token")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubError, match=says):
            verify(DATASET)


@pytest.mark.parametrize("status", [401, 403])
def test_verify_of_a_gated_repository(hub, finished, status):
    push(finished, Publication())
    gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted and you are not in the list"}
    hub.fail("HEAD", MANIFEST, status=status, headers=gated)
    with pytest.raises(HubError, match=f"{DATASET}: the Hub does not let you read there: Access is restricted and"):
        verify(DATASET)


def test_verify_of_other_things(hub, finished):
    commit("user/plain", {"data.txt": b"x"})
    with pytest.raises(HubError, match="user/plain has no manifest.json: it was not made by c3l_hf"):
        verify("user/plain")
    with pytest.raises(HubError, match="neither a folder nor a repository"):
        verify("user/nothing")
    with pytest.raises(HubError, match="neither a folder nor a repository|cannot|must"):
        verify("not a name at all/")
    push(finished, Publication(dataset_name="same", generator_name="same"))
    with pytest.raises(HubError, match="user/same is a dataset and a model: say which, as repo_type"):
        verify("user/same")
    assert verify("user/same", repo_type="model") and verify("user/same", repo_type="dataset")


def test_verify_finds_what_was_changed_on_the_hub(hub, finished, capsys):
    push(finished, Publication())
    commit(DATASET, {"data/train-00007-of-00001.parquet": b"x"})
    assert not verify(DATASET)
    assert "FAIL  files      data/train-00007-of-00001.parquet lies among the data" in capsys.readouterr().out
    commit(DATASET, {"\x1b[2Jnotes.txt": b"x"})
    verify(DATASET)
    assert "\x1b" not in capsys.readouterr().out
    commit(DATASET, {"config.yaml": b"seed: 1\n"})
    assert not verify(DATASET)
    assert "FAIL  files      config.yaml is not the file of the manifest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "path", "status", "times"),
    [
        # for files more often than the client itself tries
        ("HEAD", "manifest.json", 503, 8),
        ("HEAD", "train-00000", 500, 8),
        ("GET", "train-00000", None, 8),
        ("GET", "/api/datasets/", 503, 3),
        ("GET", "/api/datasets/", None, 3),
    ],
)
def test_passing_failures_of_a_download(hub, finished, method, path, status, times):
    push(finished, Publication())
    if status:
        hub.fail(method, path, status=status, times=times)
    else:
        hub.drop(method, path, after_bytes=100, times=times)
    assert verify(DATASET, repo_type="dataset")
    assert sum(r.status == status for r in hub.requests) == times


def test_rescoring_by_a_model_on_the_hub(hub, tmp_path, capsys):
    for part in tiny_llava():
        part.save_pretrained(tmp_path / "base")
    HfApi().create_repo("user/base", private=True)
    sha = HfApi().upload_folder(repo_id="user/base", folder_path=tmp_path / "base").oid
    push(finished_run(tmp_path / "run", generator="user/base", generator_revision=sha), Publication())
    # It is fetched, and finds that the scores of these rows, which were made up, are not its own.
    assert not verify(DATASET, rescore=2)
    assert "the model gives" in capsys.readouterr().out


def test_a_full_disk(hub, finished, monkeypatch):
    """The disk fills up in the middle of the largest file; with room again, the rest is fetched."""
    push(finished, Publication())
    fetch, room = huggingface_hub.file_download.http_get, [True]

    def http_get(url, temp_file, **options):
        if room and "parquet" in url:
            temp_file.write(b"PAR1")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fetch(url, temp_file, **options)

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", http_get)
    with pytest.raises(HubError, match=f"{DATASET}: no space left on the disk of the cache"):
        verify(DATASET)
    room.clear()
    assert verify(DATASET)


# Folders, and the libraries of those who use what was published


def test_a_folder_can_be_verified_without_a_hub(finished, capsys):
    for part in ("dataset", "generator"):
        assert verify(str(finished / part))
    assert "all is as it should be" in capsys.readouterr().out


def test_the_folder_of_a_run_is_verified_in_both_parts(finished, tmp_path, capsys):
    assert verify(str(finished))
    printed = capsys.readouterr().out
    for part in ("dataset", "generator"):
        assert f"{finished / part}: all is as it should be" in printed
    assert re.search(rf"\n{finished}\n  ok    run        \d+ facts, the same of dataset and generator\n", printed)
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "dataset" / "config.yaml").write_text("seed: 8")
    assert not verify(str(run))
    printed = capsys.readouterr().out
    assert f"{run / 'dataset'}: failed: files" in printed and f"{run / 'generator'}: all is" in printed
    shutil.rmtree(run / "generator")
    assert not verify(str(run)) and "run/generator has no manifest.json" in capsys.readouterr().out


USER = """
import json, sys
import torch
from datasets import load_dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from trl import SFTConfig, SFTTrainer

from c3l_hf import join_images

name, generator, folder = sys.argv[1:]
rows = {}
for config in (None, "default", "images", "scored", "pseudo_labels"):
    loaded, streamed = load_dataset(name, config), load_dataset(name, config, streaming=True)
    assert list(loaded) == list(streamed) == ["train"]
    assert loaded["train"].features == streamed["train"].features
    ids = [row["image_id"] for row in streamed["train"]]
    assert ids == loaded["train"]["image_id"][:]
    rows[str(config)] = len(ids)
train = load_dataset(name, split="train")
assert train[0]["images"][0].size == (10, 12)
pool = join_images(load_dataset(name, "scored", split="train"), load_dataset(name, "images", split="train"))
assert len(pool) == 13 and {row["images"][0].size for row in pool} == {(10, 12)}
model = AutoModelForImageTextToText.from_pretrained(generator, dtype=torch.float32)
processor = AutoProcessor.from_pretrained(generator)
before = model.lm_head.weight.clone()
config = SFTConfig(folder, max_steps=1, per_device_train_batch_size=2, learning_rate=1e-2, bf16=False, use_cpu=True,
                   max_length=None, report_to="none", save_strategy="no")
SFTTrainer(model, config, train_dataset=train, processing_class=processor).train()
assert not torch.equal(model.lm_head.weight, before)
pipe = pipeline("image-text-to-text", model=generator)
content = [{"type": "image", "image": Image.new("RGB", (32, 32))}, {"type": "text", "text": "Is there a dog?"}]
(answer,) = pipe(text=[{"role": "user", "content": content}], max_new_tokens=3, return_full_text=False)
assert isinstance(answer["generated_text"], str)
print(json.dumps(rows))
"""


def test_the_libraries_load_it_by_name(finished, tmp_path):
    with LoopbackHub({TOKEN: "user"}) as hub:
        environment = {**os.environ, **hub.environment(TOKEN, tmp_path / "home")}
        code = "import sys; from c3l_hf.publishing.hub import Publication, push; push(sys.argv[1], Publication())"
        push_command = [sys.executable, "-c", code, str(finished)]
        pushed = subprocess.run(push_command, env=environment, capture_output=True, text=True)
        assert pushed.returncode == 0, pushed.stderr[-3000:]
        assert TOKEN not in pushed.stdout + pushed.stderr
        command = [sys.executable, "-c", USER, DATASET, GENERATOR, str(tmp_path / "sft")]
        used = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert used.returncode == 0, used.stderr[-3000:]
    rows = {"None": 6, "default": 6, "images": 7, "scored": 13, "pseudo_labels": 6}
    assert json.loads(used.stdout.splitlines()[-1]) == rows
