"""Strict TOML for frozen dataclasses of plain values: a mistake is one line with file, key and nearest key."""

from __future__ import annotations

import dataclasses
import io
import itertools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import docstring_parser
import tomlkit
from tomlkit.container import Container
from tomlkit.items import Comment, InlineTable, Item, Table

from rl_lab.errors import LabError, did_you_mean
from rl_lab.untrusted import check_plain, read_bytes

_Config = TypeVar("_Config")
_MAX_TOML_BYTES = 1 << 16
_MAX_TOML_LINE = 1_000
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
    """The tables of a TOML file; LabError where it is missing, is no TOML or larger than any experiment."""
    data = read_bytes(path, max_bytes=_MAX_TOML_BYTES, follow_links=True)  # one's own experiments may be links
    # A key of 32,000 parts with dots in one line would keep tomllib busy for a quarter of a minute.
    if len(max(data.splitlines(), key=len, default=b"")) > _MAX_TOML_LINE:
        raise LabError(f"{path} has a line of more than {_MAX_TOML_LINE} bytes; break it")
    try:
        # As text is read, which turns the line ends of other systems into plain ones.
        table = tomllib.loads(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read())
    except RecursionError:
        raise LabError(f"{path} is nested too deeply for an experiment") from None
    except ValueError as error:  # of tomllib, of UTF-8, or of an integer with too many digits
        raise LabError(f"{path} is no readable TOML file: {error}") from error
    check_plain(table, str(path))
    return table


def from_table(config_type: type[_Config], table: Mapping[str, Any], where: str) -> _Config:
    """The dataclass from a table; LabError for an unknown, missing or mistyped key. `where` names file and table."""
    types = field_types(config_type)
    for key in table:
        if key not in types:
            raise LabError(f"{where}: unknown key {key[:99]!r}{did_you_mean(key, types)} (allowed: {', '.join(types)})")
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
        raise LabError(f"{where} is {repr(value)[:200]}; allowed is {_type_word(expected)}")
    return value


def to_toml(table: Mapping[str, Any]) -> str:
    """TOML text that `read_toml` reads back equal."""
    return tomlkit.dumps(table)


def toml_comments(path: Path) -> dict[str, str]:
    """Key, such as agent.double -> the comment beside it, which may be empty; "" -> the comment that opens the file.

    Of a file that `read_toml` could read.
    """
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    opening = itertools.takewhile(lambda item: isinstance(item, Comment), (item for _, item in document.body))
    return {"": "\n".join(_comment(item) for item in opening), **_comments(document, "")}


def value_text(value: object) -> str:
    """A plain value as the configs have it, without quotation marks."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"{value:_}"
    return str(value)


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


def _comments(table: Container, prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, item in table.body:
        if key is None:  # blank lines and comments
            continue
        name = f"{prefix}{key.key}"
        if isinstance(item, Table | InlineTable):
            found |= _comments(item.value, f"{name}.")
        else:
            found[name] = _comment(item)
    return found


def _comment(item: Item) -> str:
    return item.trivia.comment.lstrip("#").strip()


def _type_word(expected: type) -> str:
    return _TYPE_WORDS.get(get_origin(expected) or expected, "a table")
