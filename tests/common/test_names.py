"""Names that were probably meant, and those that the Hub need not be asked for."""

import pytest

from c3l_hf.common.names import is_not_on_hub, is_repository_name, nearest, nearest_path


@pytest.mark.parametrize("name", ["user/name", "name", "llava-hf/llava-1.5-7b-hf", "a.b_c/d"])
def test_names_of_repositories(name):
    assert is_repository_name(name)


@pytest.mark.parametrize(
    "name", ["./name", "../name", "/data/name", "name/", "~/name", "a/b/c", "a b", "", "...", "C:\\x"]
)
def test_paths_are_no_names_of_repositories(name):
    assert not is_repository_name(name) and is_not_on_hub(name)


def test_a_bare_name_that_is_nearly_that_of_something_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_not_on_hub("my_picture")
    (tmp_path / "my_pictures").mkdir()
    assert is_not_on_hub("my_picture") and is_not_on_hub("my_picture/")
    assert not is_not_on_hub("squad") and not is_not_on_hub("user/my_picture")


def test_the_nearest_file_is_named(tmp_path):
    (tmp_path / "pairs.parquet").touch()
    (tmp_path / ".pairs.parque").touch()
    assert nearest_path(tmp_path / "pair.parquet") == f" (there is {tmp_path / 'pairs.parquet'})"
    assert nearest_path(tmp_path / "something") == ""
    assert nearest_path(tmp_path / "no" / "pairs.parquet") == f" (nor is there a folder {tmp_path / 'no'})"


def test_how_like_a_name_has_to_be():
    assert nearest("scores", ["generate", "score"]) == "; did you mean 'score'?"
    assert nearest("scene", ["scenes"], cutoff=0.85) == "; did you mean 'scenes'?"
    assert nearest("senses", ["scenes"], cutoff=0.85) == ""
