"""Where the lab's own files are: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def checkout_folder() -> Path | None:
    """The checkout that this package is run from; None for an installed wheel."""
    return _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None


def shipped_folder(name: str) -> Path:
    """The folder `agents` or `configs`: the checkout's, else the copy in the wheel."""
    checkout = checkout_folder()
    return _PACKAGE / "_shipped" / name if checkout is None else checkout / name
