"""Charts' drawings as they may stand in the page: SVG of shapes and texts, and nothing that acts or loads."""

import xml.etree.ElementTree as ElementTree

from c3l_hf.report.content import Chart
from c3l_hf.report.visible import visible

__all__ = ["drawing"]

_SHAPES = frozenset(
    "circle clipPath defs desc ellipse g line linearGradient marker path pattern polygon polyline radialGradient rect "
    "stop svg symbol text textPath title tspan use".split()
)


def drawing(chart: Chart) -> str:
    """A chart's drawing as HTML has it, without what drawing programs write about themselves.

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
    for element in root.iter():
        element.tag = _local(element.tag)
        if element.tag not in _SHAPES:
            raise ValueError(f"the drawing of chart {chart.id!r} has an element {element.tag!r}")
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
        for name, value in element.attrib.items():
            if name.lower().startswith("on") or (name == "href" and not value.startswith("#")):
                raise ValueError(f"the drawing of chart {chart.id!r} has an attribute {name}={value!r}")
    if root.tag != "svg":
        raise ValueError(f"the drawing of chart {chart.id!r} begins with {root.tag!r}, not with svg")
    # One that filters is no picture: its bars are buttons.
    root.attrib |= {"role": "img" if chart.filter is None else "group", "aria-label": visible(chart.text)}
    root.attrib.pop("version", None)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]
