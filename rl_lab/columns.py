"""Aligned columns of plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from rl_lab.errors import printable


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns two spaces apart, each as wide as its widest cell."""
    lines = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def wrapped(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, ...]]:
    """The row as so many that its cells fit their columns, broken between words, and padded to the widths."""
    cells = [
        textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)
        for cell, width in zip(row, widths, strict=True)
    ]
    rows = zip_longest(*cells, fillvalue="")
    return [tuple(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
