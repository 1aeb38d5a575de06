"""The reports of a run: beside its results, and within the dataset with nothing but what that has."""

import logging

import pytest
from published import configs, facts, tokens_of
from report_runs import images_of_run, write_stages

from c3l_hf.common.errors import RunError
from c3l_hf.pipeline import reports
from c3l_hf.pipeline.reports import for_the_dataset, keep_run_report
from c3l_hf.publishing.export import example_pictures, write_dataset
from c3l_hf.publishing.figures import dataset_figures
from c3l_hf.publishing.manifest import Manifest
from c3l_hf.publishing.verify import verify_folder


def write(folder):
    parts = configs()
    figures = dataset_figures(parts["default"], parts["scored"]["i2c"][:])
    of_run = {"tokens": tokens_of(parts["scored"]), "options": {"images": "/home/someone/photos"}, "truth": None}
    told = facts(**figures, **of_run, stages=[("curate", [("kept", 6)])])
    pictures = example_pictures(parts["default"], told.examples)
    write_dataset(parts, folder, told, pictures, for_the_dataset(told))
    return folder


def test_a_dataset_has_a_report_and_pictures_for_its_card(tmp_path):
    folder = write(tmp_path / "dataset")
    looked_at = {"figures/scores.png", "figures/types.png", "report.html"}
    assert looked_at <= Manifest.read(folder).files.keys()
    assert not [check for check in verify_folder(folder) if not check.ok]
    card, page = (folder / "README.md").read_text(), (folder / "report.html").read_text()
    assert all(name in card for name in looked_at)
    # A push may state other licences, in the card and not in the page.
    assert "licence" in card.lower() and "licence" not in page
    assert "13 pairs" in page and "/home/someone" not in page and str(tmp_path) not in page
    again = write(tmp_path / "again")
    for name in (*looked_at, "manifest.json"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_a_report_that_is_too_large_for_a_file_has_fewer_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "MOST_PAIRS", 8)
    monkeypatch.setattr("c3l_hf.report.page.MOST_PAIRS", 4)
    folder = write(tmp_path / "dataset")
    assert "The gallery shows 4 of 13 pairs" in (folder / "report.html").read_text()
    assert not (folder / "report_files").exists()
    assert not [check for check in verify_folder(folder) if not check.ok]


@pytest.mark.parametrize(
    ("error", "told"), [(RunError("no ink\nleft"), "no ink left"), (TypeError("no ink"), "TypeError: no ink")]
)
def test_what_is_written_does_not_fail_with_its_report(tmp_path, monkeypatch, caplog, error, told):
    def fail(*_):
        raise error

    monkeypatch.setattr(reports, "write_page", fail)
    with caplog.at_level(logging.WARNING):
        folder = write(tmp_path / "dataset")
        keep_run_report(write_stages(tmp_path / "run", last="generate"), images_of_run())
    assert caplog.text.count(f"the report cannot be made: {told}") == 2
    assert not (folder / "report.html").exists() and "report.html" not in (folder / "README.md").read_text()
    assert not [check for check in verify_folder(folder) if not check.ok]


def test_a_report_of_a_run_lies_beside_its_results(tmp_path):
    folder = write_stages(tmp_path / "run", last="write")
    (folder / "report.html").write_text("of the run before it was finished")
    keep_run_report(folder, images_of_run(), made_of_these=True)
    assert len((folder / "report.html").read_text()) < 100
    keep_run_report(folder, images_of_run())
    page = (folder / "report.html").read_text()
    assert "First: How many dogs" in page and "second round" in page


@pytest.mark.parametrize("evaluation", ["[]", "{}"])
def test_an_evaluation_that_cannot_be_read_is_said(tmp_path, caplog, evaluation):
    folder = write_stages(tmp_path / "run", last="generate")
    (folder / "evaluation" / "pope").mkdir(parents=True)
    (folder / "evaluation" / "pope" / "results.json").write_text(evaluation)
    with caplog.at_level(logging.WARNING):
        keep_run_report(folder, images_of_run())
    assert not (folder / "report.html").exists()
    assert "is not what c3l evaluate writes" in caplog.text
