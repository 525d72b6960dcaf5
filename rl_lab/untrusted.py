"""Reading files that a stranger may have made: their size, depth and contents are known before memory is spent on them.

What is no such file as the lab writes is a LabError. Nothing here runs code from a file.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from rl_lab.errors import LabError

_MAX_DEPTH = 50
_MAX_INTEGER_BITS = 256
"""The states of numpy's generators have 128."""
_MAX_HEADER_BYTES = 1 << 20
_MAX_RECORDS = 1_000
"""In a file of torch's: one for each tensor, and a few."""

_BYTES_PER_ELEMENT = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor in a file must be."""

    dtype: str
    """As safetensors calls it: F32, BF16, U8, I64, BOOL, ..."""
    shape: tuple[int | None, ...]
    """None is any length."""

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join('any' if length is None else str(length) for length in self.shape)}]"


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """A regular file of at most `max_bytes`; LabError for anything else, of which nothing is read."""
    # Where the platform has them: a link is not followed, and a pipe that nobody writes into does not wait.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():
            raise LabError(f"{path} is a link; allowed is a regular file")
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise LabError(f"{path} is no regular file")
            if status.st_size > max_bytes:
                raise LabError(f"{path} has {status.st_size:,} bytes; allowed are at most {max_bytes:,}")
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise LabError(f"{path} cannot be read: {error}") from error
    if len(data) > max_bytes:
        raise LabError(f"{path} grew beyond {max_bytes:,} bytes while it was read")
    return data


def read_json(path: Path, *, max_bytes: int = 1 << 20) -> dict[str, Any]:
    """The one JSON object in a file; LabError for anything else."""
    return parse_json(read_bytes(path, max_bytes=max_bytes), str(path))


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """One JSON object, in UTF-8 where it is bytes, of finite numbers; LabError for anything else."""
    try:
        table = json.loads(text if isinstance(text, str) else text.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise LabError(f"{where} is nested deeper than {_MAX_DEPTH} levels") from None
    except ValueError as error:
        raise LabError(f"{where} is no readable JSON: {error}") from error
    if not isinstance(table, dict):
        raise LabError(f"{where} is no JSON object")
    check_plain(table, where)
    return table


def check_plain(table: Mapping[str, Any], where: str) -> None:
    """LabError where tables and lists lie too deep, or a value is a number or a string that cannot be shown."""
    level: list[Any] = [table]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
                raise LabError(f"{where} holds an integer of more than {_MAX_INTEGER_BITS} bits")
            elif isinstance(value, float) and not math.isfinite(value):
                raise LabError(f"{where} holds {value}; allowed are finite numbers")
            elif isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise LabError(f"{where} holds half a character")
        if not inner:
            return
        level = inner
    raise LabError(f"{where} is nested deeper than {_MAX_DEPTH} levels")


def check_tensors(data: bytes, expected: Mapping[str, TensorSpec], where: str) -> None:
    """LabError unless the bytes are a whole safetensors file of exactly these tensors. Allocates no tensor."""
    header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header_bytes > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise LabError(f"{where} is no whole safetensors file")
    header = parse_json(data[8 : 8 + header_bytes], f"the header of {where}")
    header.pop("__metadata__", None)
    for name in expected.keys() - header.keys():
        raise LabError(f"{where} lacks the tensor {name!r}: {expected[name]}")
    for name in header.keys() - expected.keys():
        raise LabError(f"{where} holds an unknown tensor {name[:100]!r} (allowed: {', '.join(expected)})")
    ranges = sorted(_byte_range(header[name], spec, f"{where}: {name}") for name, spec in expected.items())
    end = 0
    for start, stop in ranges:
        if start != end:
            raise LabError(f"{where} is damaged: its tensors overlap or leave gaps")
        end = stop
    if end != len(data) - 8 - header_bytes:
        raise LabError(f"{where} is damaged: its tensors have {end:,} bytes, it {len(data) - 8 - header_bytes:,}")


def unpack_arrays(data: bytes, expected: Mapping[str, TensorSpec], where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file; LabError unless it holds exactly those expected."""
    check_tensors(data, expected, where)
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise LabError(f"{where} is damaged: {error}") from error


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A safetensors file."""
    # safetensors writes the memory as it lies, whatever the strides say.
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def check_zip(data: bytes, allowed: Collection[str], *, max_bytes: int, where: str) -> None:
    """LabError unless the bytes are a zip of some of the allowed members that unpack to at most `max_bytes`.

    A member *.pth is torch's, a zip itself, and its records unpack to at most `max_bytes` too.
    """
    members = _members(data, max_bytes, where)
    for name in members.keys() - allowed:
        raise LabError(f"{where} holds an unknown member {name[:100]!r} (allowed: {', '.join(allowed)})")
    for name, content in members.items():
        if name.endswith(".pth"):
            _members(content, max_bytes, f"{where}: {name}")


def _members(data: bytes, max_bytes: int, where: str) -> dict[str, bytes]:
    """The members of a zip that is whole, not compressed and not larger than allowed; LabError for another."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > _MAX_RECORDS or sum(info.file_size for info in infos) > max_bytes:
                raise LabError(f"{where} unpacks to more than {max_bytes:,} bytes or {_MAX_RECORDS:,} members")
            for name, count in Counter(info.filename for info in infos).items():
                if count > 1:
                    raise LabError(f"{where} holds the member {name[:100]!r} twice")
            for info in infos:
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise LabError(f"{where} holds a compressed or encrypted member {info.filename[:100]!r}")
            return {info.filename: _content(archive, info) for info in infos}
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise LabError(f"{where} is no whole zip: {error}") from error


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Reads at most one byte more than the declared size, which nothing vouches for."""
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise LabError(f"the zip's member {info.filename[:100]!r} is not as long as it says")
    return content


def _byte_range(entry: object, spec: TensorSpec, where: str) -> tuple[int, int]:
    """Where the tensor lies, as its dtype and shape have it; LabError unless it is as expected."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise LabError(f"{where} is no tensor; it is {spec}")
    lengths_fit = len(shape) == len(spec.shape) and all(
        type(length) is int and length >= 0 and allowed in (None, length)
        for length, allowed in zip(shape, spec.shape, strict=True)
    )
    if dtype != spec.dtype or not lengths_fit:
        raise LabError(f"{where} is {dtype[:20]} {str(shape)[:100]}; allowed is {spec}")
    if start < 0 or stop - start != math.prod(shape) * _BYTES_PER_ELEMENT[dtype]:
        raise LabError(f"{where} is damaged: {spec} does not fit its place in the file")
    return start, stop


def _refuse_constant(constant: str) -> None:
    """NaN and infinities, which Python's reader takes for numbers though JSON has none."""
    raise ValueError(f"{constant} is no number of JSON")
