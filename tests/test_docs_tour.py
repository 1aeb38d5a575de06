"""docs/tour.ipynb runs from top to bottom, and what is stored in it is what it shows."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from package_messages import ROOT

NOTEBOOK = ROOT / "docs" / "tour.ipynb"


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(stored, tmp_path_factory):
    """The notebook after a run in a folder of its own; an error in a cell ends the test with that cell."""
    folder = tmp_path_factory.mktemp("tour")
    there = {"TMPDIR": str(folder), "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    there |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])), "MPLBACKEND": ""}
    notebook = nbformat.from_dict(stored)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with client.setup_kernel(env={**os.environ, **there}):
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
    return notebook


def outputs(notebook):
    """Of each cell of code the text that it printed, and the kinds of what it displayed."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            text = "".join(out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stdout")
            yield text, {kind for out in cell.outputs if "data" in out for kind in out.data if kind != "image/jpeg"}


def test_the_tour_runs_and_shows_what_is_stored(executed, stored):
    *cells, (_, report) = zip(outputs(executed), outputs(stored), strict=True)
    for (text, shown), (before, stored_kinds) in cells:
        assert len(text.splitlines()) == len(before.splitlines())
        assert stored_kinds <= shown
    assert not report[0] and not report[1]  # as large as the report is, it is not kept
    assert any("data" in out for out in executed.cells[-1].outputs)
    printed = "\n".join(text for text, _ in outputs(executed))
    assert "pseudo-label" in printed and "120 rows, " in printed
    losses = [float(line.split()[0]) for line in printed.splitlines() if "  contrast " in line]
    assert len(losses) == 6 and all(0 < loss < 1 for loss in losses)  # a training in 16 bits ends in the hundreds


def test_what_is_stored_is_small_and_names_no_machine(stored):
    text = NOTEBOOK.read_text()
    assert len(text) < 300_000
    assert sum("image/png" in kinds for _, kinds in outputs(stored)) >= 2
    assert not [out for cell in stored.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]
    assert str(ROOT) not in text and "site-packages" not in text
    assert all("execution" not in cell.metadata for cell in stored.cells)
