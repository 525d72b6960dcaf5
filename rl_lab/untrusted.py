"""Reading files that a stranger may have made: their size, depth and contents are known before memory is spent on them.

What is no such file as the lab writes is a LabError. Nothing here runs code from a file.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import pickletools
import re
import stat
import struct
import zipfile
from collections.abc import Collection, Iterator, Mapping
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
_MAX_MEMBERS = 1_000
"""Of a zip; torch writes one for each tensor, and a few."""
_NO_ZIP = (OSError, EOFError, ValueError, LookupError, RuntimeError, struct.error, zipfile.BadZipFile)
"""What zipfile raises for damaged bytes."""
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_DEVICE = re.compile(r"cpu|(cuda|mps|xpu)(:[0-9]+)?")

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


def read_bytes(path: Path, *, max_bytes: int, follow_links: bool = False) -> bytes:
    """A regular file of at most `max_bytes`; LabError for anything else, of which nothing is read."""
    # Where the platform has them: a link is not followed, and a pipe that nobody writes into does not wait.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        if not follow_links and path.is_symlink():
            raise LabError(f"{path} is a link; allowed is a regular file")
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise LabError(f"{path} is no regular file")
            if status.st_size > max_bytes:
                raise LabError(f"{path} has {status.st_size:,} bytes; allowed are at most {max_bytes:,}")
            return file.read(status.st_size)  # what a live run appends meanwhile is for the next time
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LabError(f"{str(path)!r} is no name of a file: {error}") from error


def files_below(directory: Path) -> Iterator[Path]:
    """All below the directory but folders; links are not followed. LabError where it cannot be read.

    Folders in folders in folders are no call in a call in a call.
    """
    folders = [directory]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    else:
                        yield Path(entry.path)
        except OSError as error:
            raise LabError(f"{error.filename or directory} cannot be read: {error.strerror}") from error


def read_json(path: Path, *, max_bytes: int = 1 << 20) -> dict[str, Any]:
    """The one JSON object in a file; LabError for anything else."""
    return parse_json(read_bytes(path, max_bytes=max_bytes), str(path))


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """One JSON object, in UTF-8 where it is bytes, of finite numbers; LabError for anything else."""
    try:
        text = text if isinstance(text, str) else text.decode()
        table = json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_unique)
    except RecursionError:
        raise LabError(f"{where} is nested deeper than {_MAX_DEPTH} levels") from None
    except ValueError as error:
        raise LabError(f"{where} is no readable JSON: {error}") from error
    if not isinstance(table, dict):
        raise LabError(f"{where} is no JSON object")
    check_plain(table, where)
    return table


def check_plain(table: Mapping[str, Any], where: str) -> None:
    """LabError where tables and lists lie too deep, or where a number or a string cannot be printed."""
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
            elif isinstance(value, str) and not value.isascii() and _HALF_CHARACTER.search(value):
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
        arrays = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise LabError(f"{where} is damaged: {error}") from error
    for name, array in arrays.items():
        # numpy computes with a truth of any other byte as it happens to.
        if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
            raise LabError(f"{where} is damaged: {name} holds bytes that are neither true nor false")
    return arrays


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A safetensors file."""
    # safetensors writes the memory as it lies, whatever the strides say.
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def read_zip(data: bytes, allowed: Collection[str], where: str) -> dict[str, bytes]:
    """The members of a zip; LabError unless each is one of those allowed, there once, and stored uncompressed."""
    members = _stored_members(data, where)
    for name in members.keys() - allowed:
        raise LabError(f"{where} holds an unknown member {name[:100]!r} (allowed: {', '.join(allowed)})")
    return members


def read_torch_storages(data: bytes, like: bytes, where: str) -> list[bytes]:
    """The storages of a file that `torch.save` wrote, if it holds the same objects as `like`, a file of our own.

    Their order and sizes are those in `like`; LabError for another file. No pickle is run: torch's restricted unpickler
    runs no foreign code, but takes 2 GB for a pickle of 40 bytes, and for ever to hash a tuple of tuples of tuples.
    """
    theirs, ours = _stored_members(data, where), _stored_members(like, "our own file")
    # torch before 2.1 did not write it and runs on little-endian machines.
    if theirs.get("archive/byteorder", b"little") != ours["archive/byteorder"]:
        raise LabError(f"{where} is from a machine of another byte order")
    try:
        _compare_pickles(theirs.get("archive/data.pkl", b""), ours["archive/data.pkl"])
    except ValueError as error:
        raise LabError(f"{where} is damaged or holds something else: {error}") from error
    names = [f"archive/data/{index}" for index in range(sum(name.startswith("archive/data/") for name in ours))]
    if any(len(theirs.get(name, b"")) != len(ours[name]) for name in names):
        raise LabError(f"{where} is damaged: a tensor is missing or too short")
    return [theirs[name] for name in names]


def _stored_members(data: bytes, where: str) -> dict[str, bytes]:
    """All members of a zip without compression, which therefore are no larger than the zip; LabError for another."""
    # Counted before zipfile makes an object of each.
    if data.count(b"PK\x01\x02") > _MAX_MEMBERS:
        raise LabError(f"{where} holds more than {_MAX_MEMBERS} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise LabError(f"{where} holds a member twice")
            if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
                raise LabError(f"{where} is compressed or encrypted; allowed is a zip that only stores")
            # The declared sizes are anyone's: several members may even share their bytes.
            if sum(member.file_size for member in members) > len(data):
                raise LabError(f"{where} is damaged: it declares more bytes than it has")
            return {member.filename: archive.read(member) for member in members}
    except _NO_ZIP as error:
        raise LabError(f"{where} is damaged or no zip: {error}") from error


def _compare_pickles(theirs: bytes, ours: bytes) -> None:
    """ValueError where they differ in more than the device and in what the pickler remembered; neither is run."""
    place = "the start"
    for their, our in itertools.zip_longest(_instructions(theirs), _instructions(ours)):
        if their != our:
            raise ValueError(f"{_shown(their)} in place of {_shown(our)} after {place}")
        if our[0] == "BINUNICODE" and "." in our[1]:  # a parameter's name
            place = our[1]


def _instructions(pickled: bytes) -> Iterator[tuple[str, Any]]:
    """What the pickle would do, with each name that it remembers written out, and every device as 'cpu'."""
    remembered: dict[Any, tuple[str, Any]] = {}
    last: tuple[str, Any] = ("", None)
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            remembered[argument] = last
            continue
        last = (opcode.name, argument)
        if opcode.name in ("BINGET", "LONG_BINGET"):
            last = remembered.get(argument, last)
        elif opcode.name == "BINUNICODE" and _DEVICE.fullmatch(str(argument)):
            last = (opcode.name, "cpu")
        yield last


def _shown(instruction: tuple[str, Any] | None) -> str:
    if instruction is None:
        return "the end"
    name, argument = instruction
    return name if argument is None else repr(argument)[:100]


def _byte_range(entry: object, spec: TensorSpec, where: str) -> tuple[int, int]:
    """Where the tensor lies, as its dtype and shape have it; LabError unless it is as expected."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(stop)]}:
            are_integers = all(type(number) is int for number in (*shape, start, stop))  # True is an int too
        case _:
            raise LabError(f"{where} is no tensor; it is {spec}")
    lengths_fit = are_integers and len(shape) == len(spec.shape)
    lengths_fit = lengths_fit and all(
        length >= 0 and allowed in (None, length) for length, allowed in zip(shape, spec.shape, strict=True)
    )
    if dtype != spec.dtype or not lengths_fit:
        raise LabError(f"{where} is {dtype[:20]} {str(shape)[:100]}; allowed is {spec}")
    if start < 0 or stop - start != math.prod(shape) * _BYTES_PER_ELEMENT[dtype]:
        raise LabError(f"{where} is damaged: {spec} does not fit its place in the file")
    return start, stop


def _finite(number: str) -> float:
    """The number; ValueError for NaN, which Python's reader takes though JSON has none, and for 1e999."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:100]} is no finite number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; ValueError where a key comes twice, of which another reader may take the other."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return table
