"""Machines that would not make the same run: refused at the start, on all of them, with what differs."""

import os
import shutil

import PIL.Image
import pytest
from ranks import in_ranks

from c3l_hf.cli import main
from c3l_hf.common import nodes
from c3l_hf.pipeline import inputs, method  # noqa: F401  (loaded once, for all processes)
from c3l_hf.scenes import GENERATOR


@pytest.fixture
def machines(tmp_path):
    """A folder for each of two machines, with the same pictures."""
    for rank in (0, 1):
        (tmp_path / str(rank) / "pictures").mkdir(parents=True)
        for number in range(3):
            PIL.Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / str(rank) / "pictures" / f"{number}.png")
    return tmp_path


def run(folder, *words, on_second=(), before=lambda: None):
    """What each of two machines says of a run in `folder/runs`, which each starts in a folder of its own."""

    def work(rank):
        os.chdir(folder / str(rank))
        if rank:
            before()
        options = ["--config", "scenes", "--num_images", "3", "--stages", "generate", "--output_dir", folder / "runs"]
        options += ["--images", "pictures", *words, *(on_second if rank else ())]
        return main(["run", *map(str, options)])

    codes = in_ranks(2, work, folder / "told", ("gpu-1", "gpu-2"))
    return codes, [(folder / "told" / f"{rank}.txt").read_text() for rank in (0, 1)]


def refused(folder, *words, **changed):
    """What is said of a run that both refuse before any work."""
    codes, told = run(folder, *words, **changed)
    lines = [line for text in told for line in text.splitlines() if line.startswith("c3l run: ")]
    said = {line.replace("process 1 of 2, on gpu-2: ", "") for line in lines}  # if it has not heard the other one
    assert codes == [1, 1] and len(said) == 1, told
    assert not (folder / "runs" / "run.json").exists()
    return said.pop()


def test_other_options(machines):
    said = refused(machines, on_second=["--pairs_per_image", "2"])
    assert "the machines differ (pairs_per_image: 5 on gpu-1, 2 on gpu-2)" in said


def test_other_pictures_under_the_same_name(machines):
    PIL.Image.new("RGB", (8, 8), "white").save(machines / "1" / "pictures" / "2.png")
    assert "the machines differ (images: " in refused(machines)


def test_pictures_on_one_machine_only(machines):
    shutil.rmtree(machines / "1" / "pictures")
    assert "(images pictures: there on gpu-1, nothing on gpu-2)" in refused(machines)


def test_another_model_under_the_same_name(machines):
    for rank in (0, 1):
        shutil.copytree(GENERATOR, machines / str(rank) / "model")
    settings = machines / "1" / "model" / "generation_config.json"
    settings.write_text(settings.read_text() + " ")
    said = refused(machines, "--model", "model")
    assert "(model.files: " in said and "model.digest" not in said


def test_another_version(machines, monkeypatch):
    def other():
        versions = nodes.versions() | {"transformers": "4.0.0"}
        monkeypatch.setattr(nodes, "versions", lambda: versions)

    assert "4.0.0 on gpu-2" in refused(machines, before=other)


def test_a_folder_of_each_machine(machines, monkeypatch):
    monkeypatch.setattr(nodes, "_PATIENCE", 0.0)
    said = refused(machines, "--output_dir", "mine")
    assert "--output_dir mine is not the same folder on gpu-1 and gpu-2" in said
    assert not any((machines / str(rank) / "mine").exists() for rank in (0, 1))


def test_the_same_on_both(machines):
    """A dry run goes through all comparisons, and makes nothing."""
    codes, told = run(machines, "--dry_run")
    assert codes == [0, 0], told
    assert not (machines / "runs").exists()
