"""Charts' drawings as they may stand in the page: SVG of shapes and texts, and nothing that acts or loads."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass

from c3l_hf.report.content import Chart
from c3l_hf.report.visible import visible

__all__ = ["Drawing", "drawing"]

_SHAPES = frozenset(
    "circle clipPath defs desc ellipse g line linearGradient marker path pattern polygon polyline radialGradient rect "
    "stop style svg symbol text textPath title tspan use".split()
)


@dataclass(frozen=True)
class Drawing:
    """A drawing for the page.

    Attributes:
        svg: The `svg` element as HTML has it.
        styles: Texts of its `style` elements, which the page's policy has to name.
    """

    svg: str
    styles: Sequence[str]


def drawing(chart: Chart) -> Drawing:
    """A chart's drawing, without what drawing programs write about themselves.

    Raises:
        ValueError: If it is not SVG, or has elements or references that a drawing does not need.
    """
    try:
        root = ElementTree.fromstring(chart.svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"the drawing of chart {chart.id!r} is not SVG: {error}") from error
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) == "metadata":
                parent.remove(child)
    styles = []
    for element in root.iter():
        element.tag = _local(element.tag)
        if element.tag not in _SHAPES:
            raise ValueError(f"the drawing of chart {chart.id!r} has an element {element.tag!r}")
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
        for name, value in element.attrib.items():
            if name.lower().startswith("on") or (name == "href" and not value.startswith("#")):
                raise ValueError(f"the drawing of chart {chart.id!r} has an attribute {name}={value!r}")
        if element.tag == "style":
            styles.append(element.text or "")
    if root.tag != "svg":
        raise ValueError(f"the drawing of chart {chart.id!r} begins with {root.tag!r}, not with svg")
    # One that filters is no picture: its bars are buttons.
    root.attrib |= {"role": "img" if chart.filter is None else "group", "aria-label": visible(chart.text)}
    root.attrib.pop("version", None)
    return Drawing(ElementTree.tostring(root, encoding="unicode"), styles)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
