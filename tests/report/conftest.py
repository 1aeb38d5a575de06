"""A browser for each module of tests, a small report, and someone who looks at it."""

import pytest
from browsers import Reader, started_browser
from report_content import COUNT, UNREADABLE, report_content, shown_pair

from c3l_hf.report.page import write_page

CHOSEN = {0: "chosen", 1: None, 2: "rejected"}  # of the first picture, by number


@pytest.fixture(scope="module")
def browser():
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    rows = [shown_pair(number, role=CHOSEN.get(number)) for number in range(COUNT)]
    rows[8] = shown_pair(8, status="the reply has no answer", turns=(), scores={}, raw="Question: What?")
    content = report_content(rows, alike={0: [3, UNREADABLE]})
    return write_page(content, tmp_path_factory.mktemp("report") / "report.html")[0]


@pytest.fixture
def reader(browser):
    reader = Reader(browser)
    yield reader
    reader.close()
    assert reader.problems == []
    assert [url for url in reader.requests if not url.startswith(("file:", "data:", "blob:"))] == []
