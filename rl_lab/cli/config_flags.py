"""Command-line flags from configuration dataclasses: one a field, with the field's docstring as its help."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TypeVar

from rl_lab.config import PLAIN_TYPES, field_docs, field_types
from rl_lab.errors import LabError

_Config = TypeVar("_Config")


def add_flags(parser: argparse.ArgumentParser, config: object, *, prefix: str = "", skip: tuple[str, ...] = ()) -> None:
    """A flag such as --agent.learning-rate for each plain field of the config; its value is the default shown.

    `skip` has fields with their prefix, such as agent.name.
    """
    docs = field_docs(type(config))
    group = parser.add_argument_group(prefix.rstrip(".") or "experiment")
    for name, field_type in field_types(type(config)).items():
        if prefix + name in skip or dataclasses.is_dataclass(field_type):
            continue
        if field_type not in PLAIN_TYPES:
            raise LabError(
                f"{type(config).__name__}.{name} is of type {field_type}; allowed are int, float, bool and str"
            )
        default = getattr(config, name)
        help_text = f"{docs.get(name, '')} (default: {default})".replace("%", "%%").strip()
        flag = f"--{prefix}{name.replace('_', '-')}"
        if field_type is bool:
            group.add_argument(
                flag, dest=prefix + name, action=argparse.BooleanOptionalAction, default=None, help=help_text
            )
        else:
            group.add_argument(
                flag, dest=prefix + name, type=field_type, default=None, help=help_text, metavar=_METAVARS[field_type]
            )


def apply_flags(config: _Config, values: argparse.Namespace, *, prefix: str = "") -> _Config:
    """The config with the given flags' values in place of its own; LabError where a value is out of range."""
    given = {
        name: value for name in field_types(type(config)) if (value := getattr(values, prefix + name, None)) is not None
    }
    return dataclasses.replace(config, **given)  # type: ignore[type-var]  # every config is a dataclass


_METAVARS = {int: "INTEGER", float: "NUMBER", str: "NAME"}
