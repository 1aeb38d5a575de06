"""Charts: the same each time, with nothing that a page must forbid, in colours that follow it."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest

from c3l_hf.report import charts

EDGES = [0.0, 0.5, 1.0, 1.5]
DRAWINGS = {
    "histogram": (charts.histogram("c-1", EDGES, [[3, 0, 5], [1, 0, 2]], ["all", "kept"], "pmi"), 0),
    "quantiles": (charts.quantile_bars([("a", [0, 1, 2, 3, 4]), ("b", [1, 1, 1, 1, 1])], "pmi"), 2),
    "bands": (charts.bands([1, 5, 9], [[0, 1, 2], [1, 2, 3], [0, 0, 0]], "words", "pmi"), 0),
    "shares": (charts.shares(["a", "b"], {"before": [0.4, 0.6], "after": [0.5, 0.5]}), 2),
    "curves": (charts.curves({"loss": ([1, 2], [0.3, 0.1]), "other": ([1, 2], [1, 0])}, "step", "loss"), 0),
}


@pytest.fixture(scope="module", params=DRAWINGS)
def svg(request):
    drawing, rows = DRAWINGS[request.param]
    return charts.as_svg(drawing, "c-1", 'what "it" <shows>', rows)


def test_a_drawing_is_plain_svg_with_its_own_ids(svg):
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("aria-label") == 'what "it" <shows>'
    assert "width" not in root.attrib and root.get("viewBox")
    names = {element.tag.split("}")[1] for element in root.iter()}
    assert names <= {"svg", "g", "path", "text", "use", "defs", "clipPath", "rect"}
    assert not {name for element in root.iter() for name in element.attrib} & {"style", "class", "onload"}
    ids = [element.get("id") for element in root.iter() if "id" in element.attrib]
    assert all(id.startswith("c-1-") for id in ids) and len(set(ids)) == len(ids)
    assert set(re.findall(r"#(c-1-[\w-]+)", svg)) <= set(ids)


def test_colours_follow_the_page(svg):
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg)) - {"none"}
    assert colours and all(re.fullmatch(r"var\(--(ink|muted|grid|series-[1-4]), #[0-9a-f]{6}\)", c) for c in colours)
    # Not one without a colour, which would be black on black.
    root = ElementTree.fromstring(svg)
    assert all(element.get("fill") for element in root.iter() if element.tag.endswith("}text"))


@pytest.mark.parametrize("name", ["histogram", "shares"])
def test_the_same_drawing_is_the_same_file(name):
    drawing, rows = DRAWINGS[name]
    assert charts.as_svg(drawing, "c-1", "", rows) == charts.as_svg(drawing, "c-1", "", rows)
    content = charts.as_png(drawing, rows)
    assert content == charts.as_png(drawing, rows)
    picture = np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))
    assert (picture[0, 0] == 255).all() and {(0, 114, 178), (230, 159, 0)} <= set(map(tuple, picture.reshape(-1, 3)))


def test_bars_have_ids_and_those_drawn_over_them_let_clicks_through():
    root = ElementTree.fromstring(charts.as_svg(DRAWINGS["histogram"][0], "c-1", ""))
    bars = [element for element in root.iter() if element.get("id", "").startswith("c-1-bar-")]
    assert [bar.get("id") for bar in bars] == ["c-1-bar-0", "c-1-bar-1", "c-1-bar-2"]
    assert sum(element.get("pointer-events") == "none" for element in root.iter()) == 3


def test_names_may_be_anything():
    names = ["$x_{", "<b>&\x00", "long " * 50]
    svg = charts.as_svg(charts.shares(names, {"all": [0.1, 0.2, 0.7]}), "c", "\x1f & <", len(names))
    texts = ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter()]
    assert {"$x_{", "<b>& "} <= set(texts) and any(text.endswith("…") for text in texts)
