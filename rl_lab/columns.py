"""Aligned columns of plain text."""

from __future__ import annotations

from collections.abc import Sequence

from rl_lab.errors import printable


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns two spaces apart, each as wide as its widest cell."""
    lines = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
