"""`c3l push` and `c3l verify` with the real client, on a Hub of our own."""

import time

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from loopback_hub import LoopbackHub
from published import finished_run

from c3l_hf.cli import main

TOKEN = "hf_oursecret"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub which everything in this process takes for the real one, with `user` signed in and nothing cached."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client and the push wait before they try again
    close_session()
    with LoopbackHub({TOKEN: "user"}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template[template.index("/{repo_id}") :]
        )
        yield hub
    close_session()


def test_a_run_is_pushed_and_verified(hub, tmp_path, capsys):
    finished = finished_run(tmp_path / "run")
    assert main(["push", str(finished), "--hub_namespace", "other"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("c3l push: the token has no permission to write to other")
    names = ["--hub_dataset_name", "c3l-5k", "--hub_generator_name", "gen"]
    assert main(["push", str(finished), "--hub_namespace", "user", *names]) == 0
    captured = capsys.readouterr()
    assert f"{hub.url}/datasets/user/c3l-5k" in captured.out and "new or changed" in captured.out
    assert TOKEN not in captured.out + captured.err
    assert main(["verify", "user/c3l-5k"]) == 0
    printed = capsys.readouterr().out
    assert "\n  ok  " in printed and "FAIL" not in printed and "all is as it should be" in printed


def test_own_pictures_need_licences_and_the_whole_command_is_shown(hub, tmp_path, capsys):
    run = finished_run(tmp_path / "run", license=None, images_license=None)
    capsys.readouterr()  # bars of datasets, unless another test has switched them off
    assert main(["push", str(run)]) == 1
    line = capsys.readouterr().err.strip()
    command = f"c3l push {run} --license LICENCE --images_license LICENCE"
    assert line.startswith("c3l push: --license and images_license are not stated: ") and line.endswith(command)
    # As it stands it publishes nothing.
    assert main(command.split()[1:]) == 1
    assert "license (LICENCE) and images_license (LICENCE) are not stated" in capsys.readouterr().err
    assert not [request for request in hub.requests if request.method != "GET"]
    assert main(["push", str(tmp_path / "rum"), "--license", "mit"]) == 1
    assert capsys.readouterr().err == (
        f"c3l push: {tmp_path / 'rum'}: there is no such folder (there is {run}): nothing to push\n"
    )


def test_what_was_changed_fails(tmp_path, capsys):
    finished = finished_run(tmp_path / "run")
    assert main(["verify", str(finished)]) == 0
    card = finished / "dataset" / "README.md"
    card.write_text(card.read_text() + "\nTrust me.\n")
    assert main(["verify", str(finished / "dataset")]) == 1
    assert "FAIL" in capsys.readouterr().out
