"""Tables on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rl_lab.columns import aligned


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under a header, in aligned columns."""
    print("\n".join(aligned((header, *rows))))
