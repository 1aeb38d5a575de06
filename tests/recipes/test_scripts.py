"""The recipes as scripts: each finds what it imports by its own folder and the installed packages, without tricks."""

import ast
import functools
import importlib.metadata
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "recipes").rglob("*.py"))
# Of an environment of their own.
ELSEWHERE = {"lmms_eval"}


@functools.cache
def installed():
    return {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), "c3l_hf"}


def imported(path):
    """The modules that a script imports, at its beginning or later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports do not work in a script"
            yield node.module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_a_script_imports_packages_and_its_neighbours(path):
    neighbours = {script.stem for script in path.parent.glob("*.py")}
    for module in imported(path):
        name = module.partition(".")[0]
        assert name in installed() | neighbours | ELSEWHERE, f"{module} is neither installed nor in {path.parent}"
    assert "sys.path" not in path.read_text()


def test_no_script_has_the_name_of_a_package():
    """Its folder comes first where it is started: it would be taken for the package."""
    assert not [str(path.relative_to(ROOT)) for path in SCRIPTS if path.stem in installed()]


def test_names_are_told_apart():
    """The tests import them all by their names, see `pythonpath`."""
    helpers = [path.stem for path in (ROOT / "tests" / "helpers").glob("*.py")]
    names = [path.stem for path in SCRIPTS] + helpers
    assert len(names) == len(set(names))
