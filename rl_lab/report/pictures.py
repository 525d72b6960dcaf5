"""Figures drawn by matplotlib: PNG and SVG files for papers, and SVG for the HTML page. Import it only to draw.

The same figure gives the same bytes: no dates, no random ids. Nothing of matplotlib's global state is used or left.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing

from rl_lab.report.figures import Figure
from rl_lab.report.output import write_file
from rl_lab.report.panels import COLOURS, GRID, INK, Panel, told_apart

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.typing import RcKeyType

_PNG_DPI = 300
_STYLE: dict[RcKeyType, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on all machines
    "font.size": 8.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
}
_LEGEND_ROW_INCHES = 0.17
_CHARACTER_INCHES = 0.068
_PIXELS_A_POINT = 1.7
"""On the page, where letters of 8.5 points are then nearly as large as the text."""
_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"


def write_pictures(figures: Sequence[Figure], folder: Path) -> None:
    """Each figure as PNG and as SVG in an existing folder; LabError where a file cannot be written."""
    for figure in figures:
        write_file(folder / f"{figure.name}.png", png(figure))
        write_file(folder / f"{figure.name}.svg", svg(figure))


def png(figure: Figure) -> bytes:
    """For slides and web pages: 300 dots an inch on white."""
    with _drawn(figure.panels) as drawing:
        FigureCanvasAgg(drawing)
        file = io.BytesIO()
        drawing.savefig(file, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return file.getvalue()


def svg(figure: Figure) -> bytes:
    """For papers: letters are outlines, so that they look the same everywhere."""
    with _drawn(figure.panels) as drawing:
        return _as_svg(drawing, figure.name, letters="path", transparent=False)


def inline_svg(panel: Panel, name: str) -> str:
    """An <svg> element for the HTML page: its ids begin with the name, its colours are those of the page's scheme."""
    with _drawn((panel,)) as drawing:
        root = ElementTree.fromstring(_as_svg(drawing, name, letters="none", transparent=True))
    width, height = root.attrib["viewBox"].split()[2:]
    _adapt(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    root.attrib |= {
        name: f"{float(size) * _PIXELS_A_POINT:.0f}" for name, size in (("width", width), ("height", height))
    }
    for index, (tag, text) in enumerate((("title", panel.title), ("desc", panel.alternative))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(index, element)
    return ElementTree.tostring(root, encoding="unicode")


@contextmanager
def _drawn(panels: Sequence[Panel]) -> Iterator[Drawing]:
    """The panels side by side, the legend below; saving must be done within, in the same style."""
    sizes = [panel.size_inches(is_first=index == 0) for index, panel in enumerate(panels)]
    width, height = sum(size[0] for size in sizes), max(size[1] for size in sizes)
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # in the names of strangers' games
        drawing = Drawing(figsize=(width, height), layout="constrained")
        legend: dict[str, Artist] = {}
        for index, panel in enumerate(panels):
            axes = drawing.add_subplot(1, len(panels), index + 1)
            legend |= {label: artist for artist, label in panel.draw(axes, is_first=index == 0)}
        if legend:
            names = list(told_apart(legend).values())
            columns = max(1, min(len(names), int(width / (0.5 + _CHARACTER_INCHES * max(map(len, names))))))
            drawing.set_size_inches(width, height + _LEGEND_ROW_INCHES * -(-len(names) // columns) + 0.1)
            drawing.legend(legend.values(), names, loc="outside lower center", ncols=columns, handlelength=3)
        yield drawing


def _as_svg(drawing: Drawing, name: str, *, letters: str, transparent: bool) -> bytes:
    FigureCanvasSVG(drawing)
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": letters, "svg.hashsalt": name}):
        drawing.savefig(file, format="svg", transparent=transparent, metadata=_NO_METADATA)
    return file.getvalue()


def _adapt(root: ElementTree.Element, name: str) -> None:
    """Make matplotlib's SVG part of a page: no style attributes, no ids or rules of its own, few digits."""
    for parent in list(root.iter()):
        parent.tag = parent.tag.removeprefix(f"{{{_SVG}}}")
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
        # Attributes, because the page's Content-Security-Policy forbids inline styles.
        declarations = [part.split(":", 1) for part in parent.attrib.pop("style", "").split(";") if part]
        attributes = {key.strip(): value.strip() for key, value in declarations} | parent.attrib
        attributes.pop("font-family", None)
        if _XLINK in attributes:
            attributes["href"] = attributes.pop(_XLINK)
        parent.attrib = {key: _adapted(key, value, name) for key, value in attributes.items()}
        if parent.tag != "text":
            parent.text = parent.tail = None
        else:
            parent.tail = None


def _adapted(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value[1:]}"
    if value.startswith("url(#"):
        return f"url(#{name}-{value[5:]}"
    if key in ("fill", "stroke"):
        return _SCHEME.get(value, value)
    return re.sub(r"(\.\d\d)\d+", r"\1", value)


_SCHEME = {
    INK: "currentColor",
    GRID: "var(--grid)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(COLOURS)},
}
