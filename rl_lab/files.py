"""Where the lab's own files are: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rl_lab.errors import LabError, did_you_mean

_PACKAGE = Path(__file__).parent


def checkout_folder() -> Path | None:
    """The checkout that this package is run from; None for an installed wheel."""
    return _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None


def shipped_folder(name: str) -> Path:
    """The folder `agents` or `configs`: the checkout's, else the copy in the wheel."""
    checkout = checkout_folder()
    return _PACKAGE / "_shipped" / name if checkout is None else checkout / name


def toml_path(name: str, kind: str, names: Collection[str], folder: Path) -> Path:
    """The file in `folder` of one of `names`, or a path ending in .toml; LabError with the nearest name otherwise.

    `kind` is what the message calls it, such as config.
    """
    if name.endswith(".toml"):
        return Path(name)
    if name not in names:
        raise LabError(
            f"no {kind} {name!r}{did_you_mean(name, names)} (allowed: {', '.join(names)}, or the path of a .toml file)"
        )
    return folder / f"{name}.toml"
