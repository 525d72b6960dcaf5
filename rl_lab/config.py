"""Strict TOML for frozen dataclasses of plain values: a mistake is one line with file, key and nearest key."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import docstring_parser
import tomlkit

from rl_lab.errors import LabError, did_you_mean

_Config = TypeVar("_Config")
PLAIN_TYPES: tuple[type, ...] = (int, float, bool, str)
_TYPE_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "a table",
}


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; LabError where it is missing or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{path} is no readable TOML file: {error}") from error


def from_table(config_type: type[_Config], table: Mapping[str, Any], where: str) -> _Config:
    """The dataclass from a table; LabError for an unknown, missing or mistyped key. `where` names file and table."""
    types = field_types(config_type)
    for key in table:
        if key not in types:
            raise LabError(f"{where}: unknown key {key!r}{did_you_mean(key, types)} (allowed: {', '.join(types)})")
    for field in dataclasses.fields(config_type):  # type: ignore[arg-type]  # every config is a dataclass
        if field.name not in table and field.default is dataclasses.MISSING:
            raise LabError(f"{where}: the key {field.name!r} is missing; it is {_type_word(types[field.name])}")
    values = {key: typed(value, types[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return config_type(**values)
    except LabError as error:
        raise LabError(f"{where}: {error}") from error


def typed(value: object, expected: type, where: str) -> object:
    """The value if it has the expected type, where an integer serves as a number; LabError with `where` otherwise."""
    if expected is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise LabError(f"{where} is an integer too large for a number") from None
    kind = get_origin(expected) or expected
    if kind in _TYPE_WORDS and type(value) is not kind:
        raise LabError(f"{where} is {value!r}; allowed is {_type_word(expected)}")
    return value


def to_toml(table: Mapping[str, Any]) -> str:
    """TOML text that `read_toml` reads back equal."""
    return tomlkit.dumps(table)


def field_types(config_type: type) -> dict[str, type]:
    """Field name -> type, in order."""
    hints = get_type_hints(config_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_type)}


def field_docs(config_type: type) -> dict[str, str]:
    """Field name -> the docstring under it, over all base classes."""
    docs: dict[str, str] = {}
    for base in reversed(config_type.__mro__[:-1]):
        for parameter in docstring_parser.parse_from_object(base).params:
            docs[parameter.arg_name] = " ".join((parameter.description or "").split())
    return docs


def _type_word(expected: type) -> str:
    return _TYPE_WORDS.get(get_origin(expected) or expected, "a table")
