"""The page as a file: what is in it, what is beside it, and what is refused."""

import json
import re
from dataclasses import replace

import pytest
from report_content import bars, report_content, shown_pair

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.report import charts, page
from c3l_hf.report.content import Chart, Picture, ShownTurn
from c3l_hf.report.page import page_html, write_page


@pytest.fixture(scope="module")
def pairs():
    return [shown_pair(number) for number in range(12)]


def test_one_file_with_all_in_it(pairs, tmp_path):
    content = report_content(pairs)
    written = write_page(content, tmp_path / "made" / "report.html")
    assert written == [tmp_path / "made" / "report.html"]
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["report.html"]
    text = written[0].read_text("utf-8")
    assert text == page_html(content)
    assert "A small report" in text and "a copy" in text and "thing11" in text
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text), "the page refers to something outside"


def test_more_pairs_than_a_file_takes_lie_beside_it(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_PAIRS", 11)
    path = tmp_path / "report.html"
    written = write_page(report_content(pairs), path)
    names = ["texts-0.js", "pictures-0.js", "columns-0.js"]
    assert written == [path, *(tmp_path / "report_files" / name for name in names)]
    assert "thing11" not in path.read_text() and "thing11" in written[1].read_text()
    monkeypatch.undo()
    assert write_page(report_content(pairs), path) == [path]  # a smaller one takes its place
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_more_bytes_than_a_file_takes_lie_beside_it(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 100)
    assert len(write_page(report_content(pairs), tmp_path / "report.html")) == 4


def test_what_others_put_beside_it_stays(pairs, tmp_path):
    (tmp_path / "report_files").mkdir()
    theirs = tmp_path / "report_files" / "style.css"
    theirs.write_text("p {}")
    with pytest.raises(RunError, match="with 'style.css' in it, and no report made it; give the report another name"):
        write_page(report_content(pairs), tmp_path / "report.html")
    assert theirs.read_text() == "p {}" and not (tmp_path / "report.html").exists()


def test_links_and_empty_folders_beside_it_stay(pairs, tmp_path):
    (tmp_path / "report_files").mkdir()
    write_page(report_content(pairs), tmp_path / "report.html")
    assert (tmp_path / "report_files").is_dir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "texts-0.js").write_text("of another report")
    (tmp_path / "other_files").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="no report made it; give the report another name"):
        write_page(report_content(pairs), tmp_path / "other.html")
    assert (tmp_path / "elsewhere" / "texts-0.js").is_file()


def test_texts_of_the_overview_stay_texts(pairs):
    hostile = "</script><script>alert(1)</script>\ud800"
    text = page_html(report_content(pairs, title=hostile, facts=[(hostile, hostile)], notes=[hostile]))
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;\ufffd") == 5


def test_labels_of_charts_stay_texts(pairs):
    hostile = "<b>\ud800\x00 $\\frac$"
    svg = charts.as_svg(charts.curves({"a": ([1, 2], [1, 2])}, hostile, hostile * 50), "one", hostile)
    text = page_html(report_content(pairs, charts=[Chart("one", hostile, hostile, svg)]))
    text.encode("utf-8")
    assert "<b>" not in text and "$\\frac$" in svg and "…" in svg


def test_texts_of_the_pairs_stay_texts():
    hostile = "</script><script>alert(1)</script><!--\u2028\ud800"
    text = page_html(report_content([shown_pair(0, hostile, type=hostile, key=hostile, raw=hostile)]))
    text.encode("utf-8")
    assert "<script>alert" not in text and "<!--" not in text and "\u2028" not in text
    found = re.search(r'<script type="application/json" id="c3l-texts-0">(.*?)</script>', text)[1]
    assert json.loads(found)[0][2] == [[hostile, hostile]]


def test_the_policy_names_the_script_and_the_styles(pairs):
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page_html(report_content(pairs)))[1]
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#39;", "'").split("; "))
    assert rules["default-src"] == "'none'" and "connect-src" not in rules
    assert rules["script-src"].count("sha256-") == 1 and "self" not in rules["script-src"]
    assert rules["style-src-elem"].count("sha256-") == 1 and "self" not in rules["style-src-elem"]
    assert rules["img-src"] == "data: blob:"


def test_two_charts_of_one_id_are_refused(pairs):
    with pytest.raises(ValueError, match="two charts have the same id: hist, hist"):
        page_html(report_content(pairs, charts=[bars(), bars()]))


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("<script>1</script>", "has an element 'script'"),
        ("<style>* {}</style>", "has an element 'style'"),
        ("<image href='#a'/>", "has an element 'image'"),
        ("<use href='http://a/b.svg#c'/>", "has an attribute href='http://a/b.svg#c'"),
        ("<rect onclick='a()'/>", r"has an attribute onclick='a\(\)'"),
        ("<rect>", "is not SVG"),
    ],
)
def test_drawings_that_act_or_load_are_refused(pairs, inside, message):
    chart = Chart("one", "One", "one", f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>')
    with pytest.raises(ValueError, match=f"the drawing of chart 'one' {message}"):
        page_html(report_content(pairs, charts=[chart]))


def test_what_a_drawing_program_says_of_itself_is_left_out(pairs):
    svg = (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        '<metadata>made by a program</metadata><use xlink:href="#a"/></svg>'
    )
    text = page_html(report_content(pairs, charts=[Chart("one", "One", "<what>", svg)]))
    assert "made by a program" not in text and '<use href="#a" />' in text
    assert 'role="img" aria-label="&lt;what&gt;"' in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"key": "key 0"}, "two pairs have the key 'key 0'"),
        ({"picture": 9}, "pair 'key 1' is about picture 9, and there are 1"),
        ({"turns": [ShownTurn("q", "a b", ("a", " b"), (1.0,))]}, "pair 'key 1' has 2 tokens and 1 numbers"),
    ],
)
def test_contents_that_contradict_themselves_are_refused(wrong, message, tmp_path):
    content = report_content([shown_pair(0)])
    rows = [shown_pair(0), shown_pair(1, **wrong)]
    content = report_content(rows, pictures=content.pictures)
    with pytest.raises(ValueError, match=message):
        write_page(content, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_texts_of_the_overview_turn_nothing_round_and_have_no_control_characters():
    hostile = "a\u202eb\x00\x1b[31m\x7f"
    chart = replace(bars(), title=hostile, text=hostile)
    text = page_html(report_content([], title=hostile, notes=[hostile], charts=[chart]))
    assert text.count("a\ufffdb\u2400\u241b[31m\u2421") >= 4
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e]", re.sub("<script.*?</script>", "", text, flags=re.S))


def test_pictures_that_cannot_be_shown_are_counted():
    def gone(number):
        def fail():
            raise RowError(f"the image /here/{number}.png cannot be read: there is no such file")

        return Picture(f"image-{number}", fail)

    content = report_content([shown_pair(number) for number in range(12)])
    pictures = [*map(gone, range(3)), *content.pictures[3:]]
    everything = "the image cannot be read: there is no such file"
    told = f"3 of 4 pictures cannot be shown: {everything}; is image_folder"
    assert len(pictures) == 4 and told in page_html(replace(content, pictures=pictures))
    assert "1 of 4 pictures cannot be shown" in page_html(content)
    # What is said of all pictures is not counted once more.
    assert "3 of 4 pictures" not in page_html(replace(content, pictures=pictures, notes=[everything]))
