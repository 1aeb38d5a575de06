"""Charts by matplotlib: as SVG whose colours follow the page that it stands in, and as PNG for cards.

A drawing is a function that puts its marks on axes. In SVG its colours are CSS variables, so that dark mode is the
page's affair: `--ink` (texts), `--muted` (axes and ticks), `--grid`, and `--series-1` to `--series-4`. Where a page
does not set them the palette of Okabe and Ito is taken, which colour-blind people can tell apart.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:  # drawing alone needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Drawing", "as_png", "as_svg", "bands", "curves", "histogram", "quantile_bars", "shares"]

# Name → the colour that is drawn where no page says another.
_COLOURS = {
    "ink": "#222222",
    "muted": "#666666",
    "grid": "#dddddd",
    "series-1": "#0072b2",
    "series-2": "#e69f00",
    "series-3": "#009e73",
    "series-4": "#cc79a7",
}
# What stands for them in matplotlib's own output, which knows no variables: colours that nothing else has.
_MARKED = {name: f"#0102{number:02x}" for number, name in enumerate(_COLOURS, 0xA0)}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
_PASSIVE = "passive"  # the id of marks that a click goes through
_WIDTH, _BAR_HEIGHT, _LONGEST_LABEL = 6.4, 0.3, 28

# Gets the axes, and the colour of each name.
Drawing = Callable[["Axes", Mapping[str, str]], None]


def histogram(
    id: str, edges: Sequence[float], counts: Sequence[Sequence[int]], labels: Sequence[str], score: str
) -> Drawing:
    """Bars of numbers of pairs by score; of the first series they have the ids `<id>-bar-<number>`.

    Args:
        id: The chart's.
        edges: Of the bars: one more than there are.
        counts: Of all pairs, and perhaps of some of them, which are drawn within.
        labels: Of the series.
        score: What is drawn.
    """

    def draw(axes: "Axes", colours: Mapping[str, str]) -> None:
        for number, (values, label) in enumerate(zip(counts, labels, strict=True)):
            middles, widths = (np.asarray(edges[:-1]) + edges[1:]) / 2, np.diff(edges) * (0.5 if number else 0.94)
            bars = axes.bar(middles, values, widths, color=colours[f"series-{number + 1}"], label=label)
            for place, bar in enumerate(bars):
                bar.set_gid(f"{id}-bar-{place}" if number == 0 else _PASSIVE)
        axes.set_xlabel(_label(score))
        axes.set_ylabel("pairs")
        _legend(axes, colours, len(labels))

    return draw


def quantile_bars(rows: Sequence[tuple[str, Sequence[float]]], score: str) -> Drawing:
    """For each name five quantiles in rising order: a thin line from the first to the last, a thick one between the
    second and the fourth, and a dot at the middle one."""

    def draw(axes: "Axes", colours: Mapping[str, str]) -> None:
        for place, (_, (least, low, middle, high, most)) in enumerate(rows):
            axes.plot([least, most], [place, place], color=colours["series-1"], linewidth=1)
            axes.plot([low, high], [place, place], color=colours["series-1"], linewidth=6, solid_capstyle="butt")
            axes.plot([middle], [place], "o", color=colours["ink"], markersize=5)
        _names_on_y(axes, [name for name, _ in rows])
        axes.set_xlabel(_label(score))

    return draw


def bands(places: Sequence[float], quantiles: Sequence[Sequence[float]], x: str, y: str) -> Drawing:
    """A line of medians within a band.

    Args:
        places: Where on the x-axis.
        quantiles: Low, middle and high of each place.
        x, y: What the axes show.
    """

    def draw(axes: "Axes", colours: Mapping[str, str]) -> None:
        low, middle, high = np.asarray(quantiles).T
        axes.fill_between(places, low, high, color=colours["series-1"], alpha=0.25, linewidth=0, label="10 to 90 %")
        axes.plot(places, middle, "o-", color=colours["series-1"], markersize=4, label="median")
        axes.set_xlabel(_label(x))
        axes.set_ylabel(_label(y))
        _legend(axes, colours, 2)

    return draw


def shares(names: Sequence[str], series: Mapping[str, Sequence[float]]) -> Drawing:
    """Bars side by side: what share each name has in each series, in [0, 1]."""

    def draw(axes: "Axes", colours: Mapping[str, str]) -> None:
        height = 0.8 / len(series)
        for number, (label, values) in enumerate(series.items()):
            places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * height
            axes.barh(places, np.asarray(values) * 100, height, color=colours[f"series-{number + 1}"], label=label)
        _names_on_y(axes, names)
        axes.set_xlabel("share of the pairs, %")
        _legend(axes, colours, len(series))

    return draw


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> Drawing:
    """Up to four lines: name → places and values."""

    def draw(axes: "Axes", colours: Mapping[str, str]) -> None:
        for number, (label, (places, values)) in enumerate(series.items()):
            style = ("-", "--", "-.", ":")[number]  # not by colour alone
            axes.plot(places, values, style, color=colours[f"series-{number + 1}"], linewidth=2, label=label)
        axes.set_xlabel(_label(x))
        axes.set_ylabel(_label(y))
        _legend(axes, colours, len(series))

    return draw


def as_svg(drawing: Drawing, id: str, text: str, rows: int = 0) -> str:
    """A drawing as an `svg` element without size, background, scripts or styles: equal ones for equal drawings.

    Args:
        drawing: What is drawn.
        id: The chart's: of letters, digits and "-". All ids in the drawing begin with it.
        text: What it shows, for those who do not see it.
        rows: How many names stand on the y-axis, of charts that have them.
    """
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": id, "svg.fonttype": "none"}):
        figure = _figure(drawing, _MARKED, rows)
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(content.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = {value.split("#", 1)[1].rstrip(")") for element in root.iter() for value in _references(element)}
    for element in root.iter():
        _make_plain(element, id, used)
    for name in ("width", "height"):
        root.attrib.pop(name)
    root.attrib |= {"role": "img", "aria-label": _printable(text), "stroke-linejoin": "round"}
    ElementTree.register_namespace("", _SVG)
    svg = ElementTree.tostring(root, encoding="unicode")
    for name, colour in _MARKED.items():
        svg = svg.replace(colour, f"var(--{name}, {_COLOURS[name]})")
    return svg


def as_png(drawing: Drawing, rows: int = 0) -> bytes:
    """A drawing as a PNG on white; `rows` as for `as_svg`."""
    content = io.BytesIO()
    figure = _figure(drawing, _COLOURS, rows)
    figure.savefig(content, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return content.getvalue()


def _figure(drawing: Drawing, colours: Mapping[str, str], rows: int) -> "Figure":
    from matplotlib.figure import Figure  # not `pyplot`, whose figures are the whole process's

    figure = Figure(figsize=(_WIDTH, 0.9 + _BAR_HEIGHT * rows if rows else 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(True, axis="x" if rows else "y", color=colours["grid"], linewidth=0.8)
    axes.tick_params(colors=colours["muted"], length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side == ("left" if rows else "bottom"))
        spine.set_color(colours["muted"])
    drawing(axes, colours)
    axes.xaxis.label.set_color(colours["ink"])
    axes.yaxis.label.set_color(colours["ink"])
    return figure


def _legend(axes: "Axes", colours: Mapping[str, str], series: int) -> None:
    if series > 1:
        # Above the marks, which it would hide.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=series, frameon=False, labelcolor=colours["ink"])


def _names_on_y(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [_label(name, _LONGEST_LABEL) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top


def _label(text: str, longest: int = 80) -> str:
    text = _printable(text)
    # A "$" would begin a formula, of which not every text is one.
    return (text if len(text) <= longest else f"{text[: longest - 1]}…").replace("$", r"\$")


def _printable(text: str) -> str:
    # XML has no place for control characters, not even as entities.
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _references(element: ElementTree.Element) -> list[str]:
    values = [element.get(_XLINK, ""), element.get("clip-path", "")]
    return [value for value in values if "#" in value]


def _make_plain(element: ElementTree.Element, id: str, used: set[str]) -> None:
    """Styles as attributes, which no Content-Security-Policy forbids; ids that no other chart of a page has."""
    for declaration in filter(None, element.attrib.pop("style", "").split(";")):
        name, value = (part.strip() for part in declaration.split(":", 1))
        if name == "font":  # "10px 'DejaVu Sans'": the family is the page's
            name, value = "font-size", value.split()[0]
        if name != "font-family":
            element.set(name, value)
    name = element.get("id", "")
    if name == _PASSIVE:
        element.set("pointer-events", "none")
    if name in used:
        element.set("id", f"{id}-{name}")
    elif not name.startswith(f"{id}-bar-"):
        element.attrib.pop("id", None)
    if (link := element.attrib.pop(_XLINK, None)) is not None:
        element.set("href", f"#{id}-{link[1:]}")
    if "#" in (clip := element.get("clip-path", "")):
        element.set("clip-path", f"url(#{id}-{clip.split('#', 1)[1]}")
    if element.tag == f"{{{_SVG}}}text" and (element.get("fill") in (None, "#000000")):
        element.set("fill", _MARKED["ink"])
