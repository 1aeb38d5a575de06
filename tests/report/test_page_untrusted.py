"""The report in a real browser: hostile texts, names and frames, and what the page's policy forbids."""

import html

import pytest
from browsers import choose, keys, shown
from playwright.sync_api import expect
from report_content import report_content, shown_pair

from c3l_hf.report.content import ShownTurn
from c3l_hf.report.page import write_page


def test_names_that_the_page_has_for_itself(reader, tmp_path):
    rows = [shown_pair(n, scores={"length": float(-n), "near": n / 10}, type=("", "a")[n % 2]) for n in range(4)]
    rows.append(shown_pair(4, scores={"near": 0.1}, kept=None))
    content = report_content(rows, ranking="near", threshold_score="near")
    page = reader.look(write_page(content, tmp_path / "report.html")[0])
    page.locator("#sort").select_option("+length")
    assert keys(page)[0] == "key 3"
    choose(page, "type", "(empty)")
    assert keys(page) == ["key 2", "key 0"]
    page.get_by_role("button", name="Near the threshold").click()
    assert keys(page) == ["key 1", "key 0", "key 2", "key 3", "key 4"]  # the last was no candidate


def test_hostile_texts_stay_texts(reader, tmp_path):
    texts = [
        "<img src=x onerror=alert(1)><script>alert(1)</script>",
        "</script><!--<script>alert(1)//",
        "\u05e9\u05dc\u05d5\u05dd \u202egnorw",
        "half \ud83d of a letter",
        "bell \x07 and null \x00",
        "word " * 20_000,
        "{{ 7 * 7 }} ${7 * 7} __proto__",
    ]
    rows = [shown_pair(number, text) for number, text in enumerate(texts)]
    # The names too, and tokens that are not the answer's.
    rows.append(shown_pair(7, turns=[ShownTurn("q", "a", texts, [1.0] * 7, [1.0] * 7)], type=texts[0], key=texts[0]))
    rows.append(shown_pair(8, scores={"__proto__": 1.0, texts[0]: 2.0}, status=texts[1], raw=texts[0]))
    report = write_page(report_content(rows, title=texts[0], notes=texts, ranking=None), tmp_path / "report.html")[0]
    page = reader.look(report)
    page.on("dialog", lambda dialog: reader.problems.append("a dialog"))
    expect(page.locator("h1")).to_have_text(texts[0], use_inner_text=True)
    for number, shown_text in ((0, texts[0]), (1, texts[1]), (3, "half \ufffd of a letter"), (6, texts[6])):
        page.evaluate("number => goTo(number)", number)
        expect(page.locator(f".pair[data-pair='{number}'] .answer")).to_have_text(shown_text, use_inner_text=True)
    expect(page.locator(".pair[data-pair='4'] .answer")).to_have_text(
        "bell \u2407 and null \u2400", use_inner_text=True
    )
    hebrew = page.locator(".pair[data-pair='2'] .answer")
    assert hebrew.evaluate("text => getComputedStyle(text).direction") == "rtl"
    long = page.locator(".pair[data-pair='5'] .turns > div").last
    assert len(long.locator(".answer").inner_text()) < 1300
    long.get_by_role("button", name="Show all 100,000 characters").click()
    assert len(page.locator(".pair[data-pair='5'] .answer").text_content()) == 100_000
    page.locator(".pair[data-pair='5']").get_by_role("button", name="Show less").click()
    page.evaluate("goTo(7)")
    assert "Show all" in page.locator(".pair[data-pair='7']").inner_text()
    page.evaluate("goTo(8)")
    expect(page.locator(".pair[data-pair='8'] .bad")).to_have_text(texts[1], use_inner_text=True)
    choose(page, "type", texts[0])
    assert shown(page) == "1 of 9 pairs"
    page.locator("#score").select_option("__proto__")
    expect(page.locator("main script, main img[src='x']")).to_have_count(0)


def test_in_the_frame_of_a_notebook(reader, report, tmp_path):
    notebook = tmp_path / "notebook.html"
    sandbox = "allow-scripts allow-downloads"
    document = html.escape(report.read_text("utf-8"))
    notebook.write_text(f'<p>cells<p><iframe sandbox="{sandbox}" width=900 height=600 srcdoc="{document}"></iframe>')
    page = reader.look(notebook, ready=False)
    frame = page.frames[1]
    frame.wait_for_selector("html[data-ready]", state="attached")
    assert frame.locator("#told").inner_text().startswith("This browser does not keep marks")
    frame.get_by_role("link", name="Gallery", exact=True).click()
    frame.get_by_role("button", name="Most negative").click()
    frame.locator(".pair[data-pair='1'] .actions a").click()
    frame.wait_for_selector(".pair[data-pair='1'][data-current]")
    frame.locator(".pair[data-pair='1']").get_by_role("button", name="Reject").click()
    expect(frame.locator("#marked")).to_have_text("0 to keep, 1 to reject", use_inner_text=True)


def test_without_javascript_the_overview_is_there(reader, report):
    page = reader.look(report, ready=False, java_script_enabled=False)
    line = page.locator("noscript p")
    expect(line).to_be_visible()
    assert line.text_content().startswith("The gallery needs JavaScript")
    expect(page.locator("table")).to_be_visible()
    expect(page.locator("#search")).to_be_hidden()


def test_the_policy_forbids_the_network_and_markup(reader, report):
    page = reader.look(report)
    asked = """address => new Promise((resolve) => {
        document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective));
        fetch(address).catch(() => {});
    })"""
    assert page.evaluate(asked, "http://127.0.0.1:9/") == "connect-src"
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>markup</b>'")
    assert len(reader.problems) >= 1 and all(
        "Content Security Policy" in said or "Trusted" in said for said in reader.problems
    )
    reader.problems.clear()
    reader.requests.clear()
