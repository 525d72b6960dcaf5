"""What pictures are made of: panels of lines or of intervals, as data, and how each is drawn into matplotlib's axes.

Contenders are told apart by colour, by marker and by dashes, so that each of these may be lost: colours are Okabe and
Ito's and Paul Tol's, the lighter ones darkened to a contrast of 3 on white. The HTML page replaces every colour that is
named here by one of its light or dark scheme. Imports no matplotlib.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl_lab.errors import printable
from rl_lab.report.standings import Estimate
from rl_lab.statistics import Array, Band

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

INK = "#1f2328"
GRID = "#d9dde2"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#997700", "#6b6b6b")
_MARKERS = "osD^vPX"
_DASHES = ("solid", (0, (6, 1.2)), (0, (6, 1.2, 1.5, 1.2)), (0, (2, 1)))
_MARKERS_A_LINE = 8
_LONGEST_LABEL = 48
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_WORD = re.compile(r"[^-, ]+")
"""Of a label, such as a key or a value of a sweep's matrix."""

Legend = Sequence[tuple["Artist", str]]


def short(label: str, longest: int = _LONGEST_LABEL) -> str:
    """The label as it fits into a picture, without its middle if it is long."""
    label = printable(label)
    half = longest // 2 - 1
    return label if len(label) <= longest else f"{label[:half]}{_ELLIPSIS}{label[-half:]}"


def told_apart(labels: Iterable[str], longest: int = _LONGEST_LABEL) -> dict[str, str]:
    """Each label as it fits into a picture, and no two alike.

    Those that `short` makes alike lose words that all of these have, the longest first; what is still alike then gets a
    number.
    """
    names = {label: printable(label) for label in labels}
    alike: defaultdict[str, list[set[str]]] = defaultdict(list)
    for name in names.values():
        alike[short(name, longest)].append(set(_WORD.findall(name)))
    taken: set[str] = set()
    for label, name in sorted(names.items(), key=lambda item: len(item[1]) > longest):  # what fits stays as it is
        words = alike[short(name, longest)]
        common = set.intersection(*words) if len(words) > 1 else ()
        for word in sorted(common, key=lambda word: (-len(word), word)):
            name = name if len(name) <= longest else _without(name, word)
        text, number = short(name, longest), 1
        while text in taken:
            number += 1
            text = f"{short(name, longest - len(f' ({number})'))} ({number})"
        taken.add(text)
        names[label] = text
    return names


def versus(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Both labels of each pair as they fit into the place of one."""
    names = told_apart((label for pair in pairs for label in pair), (_LONGEST_LABEL - len(" > ")) // 2)
    return [f"{names[first]} > {names[second]}" for first, second in pairs]


def magnitude(value: float) -> str:
    """A round number in few characters: 160k, 1.8M, 200M."""
    size, letter = next(((s, le) for s, le in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= s), (1.0, ""))
    return f"{value / size:.4g}{letter}"


@dataclass(frozen=True)
class Line:
    """A contender's curve."""

    label: str
    style: int
    """Which colour, marker and dashes: the contender's number in the whole report."""
    x: Array
    y: Array
    band: Band | None
    """None for a single seed, whose line is thin."""


@dataclass(frozen=True)
class Level:
    """A published score, a dashed line through the whole panel."""

    label: str
    style: int
    y: float


@dataclass(frozen=True)
class Row:
    """A contender's number, with an interval unless it is of a single seed."""

    label: str
    style: int
    estimate: Estimate | None
    """None leaves the row empty: the panel beside it has something there."""


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis."""

    title: str
    alternative: str
    """What is seen, for those who do not see it."""
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...] = ()
    is_fraction: bool = False
    """Whether y goes from 0 to 1, over an x that need not begin at 0."""

    def size_inches(self, *, is_first: bool) -> tuple[float, float]:
        """Without the legend: half a page is wide."""
        return 3.45, 2.6

    def draw(self, axes: Axes, *, is_first: bool) -> Legend:
        """Into the axes; what the legend is to say, in full."""
        legend = [entry for line in self.lines for entry in _draw_line(axes, line)]
        for level in self.levels:
            drawn = axes.axhline(level.y, color=_colour(level.style), linestyle="dashed", linewidth=0.9, zorder=1.5)
            legend.append((drawn, level.label))
        axes.set(title=short(self.title), xlabel=self.x_label, ylabel=self.y_label)
        axes.xaxis.set_major_formatter(lambda value, _: magnitude(value))
        if self.is_fraction:
            axes.set_ylim(-0.02, 1.02)
            axes.margins(x=0)
        else:
            axes.yaxis.set_major_formatter(lambda value, _: magnitude(value))
            axes.set_xlim(0, 1.02 * max(1e-3, *(float(line.x[-1]) for line in self.lines)))
        axes.grid(color=GRID, linewidth=0.6)
        return legend


@dataclass(frozen=True)
class Forest:
    """A row a contender: an interval as a bar, its number as a line across, a single seed as a diamond."""

    title: str
    alternative: str
    x_label: str
    rows: tuple[Row, ...]
    mark: float | None = None
    """Where a line stands that means something, such as chance."""

    def size_inches(self, *, is_first: bool) -> tuple[float, float]:
        """The first panel has the names of the rows."""
        names = 0.075 * max(map(len, self._names())) if is_first else 0
        return 1.75 + names, 0.75 + 0.26 * len(self.rows)

    def draw(self, axes: Axes, *, is_first: bool) -> Legend:
        """Into the axes; no legend is needed."""
        for height, row in enumerate(reversed(self.rows)):
            if row.estimate is not None:
                _draw_estimate(axes, row.estimate, height, _colour(row.style))
        if self.mark is not None:
            axes.axvline(self.mark, color=INK, linestyle="dotted", linewidth=1, zorder=0.5)
        axes.set(title=short(self.title), xlabel=self.x_label, ylim=(-0.6, len(self.rows) - 0.4))
        axes.set_yticks(range(len(self.rows)), self._names()[::-1])
        axes.tick_params(axis="y", length=0, labelleft=is_first)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.use_sticky_edges = False  # else bars begin at the frame
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=4)
        return ()

    def _names(self) -> list[str]:
        """Of the rows, as they fit."""
        names = told_apart(row.label for row in self.rows)
        return [names[row.label] for row in self.rows]


Panel = Chart | Forest


def _without(label: str, word: str) -> str:
    """The label with an ellipsis for the word and for what follows up to the next one."""
    cut = _WORD.sub(lambda match: _ELLIPSIS if match[0] == word else match[0], label)
    return re.sub(rf"{_ELLIPSIS}[-, {_ELLIPSIS}]+", _ELLIPSIS, cut)


def _colour(style: int) -> str:
    return COLOURS[style % len(COLOURS)]


def _draw_line(axes: Axes, line: Line) -> Legend:
    colour = _colour(line.style)
    (drawn,) = axes.plot(
        line.x,
        line.y,
        color=colour,
        linestyle=_DASHES[line.style % len(_DASHES)],
        linewidth=0.9 if line.band is None else 1.5,
        marker=_MARKERS[line.style % len(_MARKERS)],
        markersize=3.2,
        markevery=max(1, -(-len(line.x) // _MARKERS_A_LINE)),
    )
    if line.band is not None and len(line.x) == 1:  # which has no area to shade
        axes.vlines(line.x, *line.band, color=colour, alpha=0.45, linewidth=4)
    elif line.band is not None:
        axes.fill_between(line.x, *line.band, color=colour, alpha=0.2, linewidth=0)
    return [(drawn, line.label)]


def _draw_estimate(axes: Axes, estimate: Estimate, height: float, colour: str) -> None:
    if estimate.interval is None:
        axes.plot([estimate.value], [height], marker="D", markersize=4.5, color=colour, linestyle="none")
        return
    low, high = estimate.interval
    axes.barh(height, high - low, left=low, height=0.56, color=colour, alpha=0.45, linewidth=0)
    axes.plot([estimate.value] * 2, [height - 0.28, height + 0.28], color=colour, linewidth=2.2)
