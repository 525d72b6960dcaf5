"""Aligned columns of plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rl_lab.errors import printable


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under a header, columns two spaces apart, each as wide as its widest cell."""
    lines = [tuple(map(printable, row)) for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
