"""A report with files beside it, from disk and from a server."""

import functools
import http.server
import shutil
import threading

import pytest
from browsers import Reader
from playwright.sync_api import expect
from report_content import report_content, shown_pair

from c3l_hf.report import page as page_module
from c3l_hf.report.page import write_page

COUNT = 450


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "ä folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "MOST_PAIRS", 100)
        write_page(report_content([shown_pair(number) for number in range(COUNT)]), folder / "my report #1.html")
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(params=["file", "http"])
def address(request, folder):
    if request.param == "file":
        yield (folder / "my report #1.html").as_uri()
        return
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/my%20report%20%231.html"
    server.shutdown()
    server.server_close()


def test_pairs_and_search_of_files_beside_the_page(browser, address):
    reader = Reader(browser)
    page = reader.look(address)
    expect(page.locator("#shown")).to_have_text("450 pairs", use_inner_text=True)
    page.wait_for_selector(".pair[data-pair='0'] .answer")
    page.evaluate("location.hash = 'pair=key+449'")
    page.wait_for_selector(".pair[data-pair='449'][data-current]")
    page.locator("#search").fill("THING449.")
    page.wait_for_function("() => state.q !== '' && order.length === 1")
    expect(page.locator(".answer")).to_have_text("A blue thing449.", use_inner_text=True)
    assert page.locator("#list img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 160
    reader.close()
    own = address.rpartition("/")[0]
    assert reader.problems == []
    assert [url for url in reader.requests if not url.startswith((own, "data:", "blob:"))] == []


def test_a_page_without_its_files_says_so(browser, folder, tmp_path):
    alone = tmp_path / "alone.html"
    alone.write_bytes((folder / "my report #1.html").read_bytes())
    reader = Reader(browser)
    page = reader.look(alone, ready=False)
    page.get_by_text("my report #1_files/columns-0.js is not there; the folder belongs beside this file").wait_for()
    expect(page.locator("table")).to_be_visible()
    reader.close()


def test_files_of_another_report_are_not_shown(browser, folder, tmp_path):
    page_file = tmp_path / "my report #1.html"
    page_file.write_bytes((folder / page_file.name).read_bytes())
    shutil.copytree(folder / "my report #1_files", tmp_path / "my report #1_files")
    reader = Reader(browser)
    page = reader.look(page_file)
    with pytest.MonkeyPatch.context() as patch:  # made again, while somebody looks at it
        patch.setattr(page_module, "MOST_PAIRS", 100)
        write_page(report_content([shown_pair(number + 1) for number in range(COUNT)]), page_file)
    page.evaluate("location.hash = 'pair=key+449'")
    page.get_by_text(".js is not of this report; load the page again").first.wait_for()
    expect(page.get_by_text("thing449")).to_have_count(0)
    page.evaluate("setMark(300, 'keep')")
    page.get_by_role("button", name="Export").click()
    page.get_by_text("Nothing was exported: my report #1_files/texts-3.js is not of this report").wait_for()
    reader.close()
    assert reader.problems == []
