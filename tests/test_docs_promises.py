"""docs/promises.md: each promise names the tests that hold it."""

import ast
import re

from pages import ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "promises.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| promise ")
]


def names_in(file):
    return {node.name for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_its_tests():
    assert len(ROWS) > 15
    for promise, *named in ROWS:
        assert len(named) == 1, promise
        tests = re.findall(r"`([\w/]+\.py)::(test_\w+)`", named[0])
        assert tests and len(tests) == named[0].count("`") / 2, promise
        for file, test in tests:
            assert (ROOT / "tests" / file).is_file(), f"{file}: {promise}"
            assert test in names_in(ROOT / "tests" / file), f"{file}::{test}: {promise}"
