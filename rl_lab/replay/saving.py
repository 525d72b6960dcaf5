"""A replay on disk: segments that are written once, and a tail that each checkpoint writes anew.

Steps are counted for each game from the first one ever. Segment k holds the steps k L to (k + 1) L of every game: once
all games have passed its end it never changes, so later checkpoints name it and write only what came after. What the
ring has overwritten since may stay in a segment's beginning; read in order, newer steps overwrite it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from rl_lab.errors import LabError
from rl_lab.replay.frames import compress, decompress
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.untrusted import TensorSpec, pack_arrays, unpack_arrays

Columns = dict[str, NDArray[Any]]
"""What is stored of n steps, by name: arrays [n, ...] of different types."""

FRAMES = "frames"
"""The column that is compressed, uint8."""
_TAIL = "replay.safetensors"
_SEGMENT_BYTES = 1 << 27
"""Frames of a segment before compression: what saving and loading hold in memory."""
_PIECE_BYTES = 1 << 18
"""Consecutive frames of a game that are compressed together."""
_MOST_STEPS = 1 << 48
"""Of a game, ever: ten million years of play."""


@dataclass(frozen=True)
class Column:
    """Type and shape of what is stored of one step."""

    dtype: str
    """As safetensors calls it."""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """Consecutive steps of one game, read back."""

    game: int
    indices: NDArray[np.int64]
    """[n], counted from the game's first step ever."""
    columns: Columns


def save_steps(
    read: Callable[[int, NDArray[np.int64]], Columns],
    columns: Mapping[str, Column],
    oldest: NDArray[np.int64],
    written: NDArray[np.int64],
    own: Columns,
) -> SavedState:
    """The steps `oldest` to `written` (exclusive) of each game; `read` gives columns for (game, indices).

    `own` are arrays of the replay's own, which go into the tail.
    """
    length = _segment_steps(columns, len(written))
    whole = _whole_segments(oldest, written, length)

    def pack(start: int, ends: NDArray[np.int64]) -> Columns:
        return _pack(read, columns, np.clip(start, oldest, ends), ends)

    def pack_segment(number: int) -> bytes:
        return pack_arrays(pack(number * length, np.full_like(written, (number + 1) * length)))

    tail = {**pack(whole.stop * length, written), "segments": np.array([whole.start, whole.stop]), **own}
    return SavedState({_TAIL: pack_arrays(tail)}, {_segment_name(k): partial(pack_segment, k) for k in whole})


def load_steps(
    files: SavedFiles, columns: Mapping[str, Column], own: Mapping[str, TensorSpec], num_games: int, num_slots: int
) -> tuple[NDArray[np.int64], Columns, Iterator[Part]]:
    """Steps that each game has ever written [games], the replay's own arrays, and the steps, in each game's order.

    LabError for files that no replay of `num_slots` steps a game has saved.
    """
    length = _segment_steps(columns, num_games)
    step_bytes = math.prod(columns[FRAMES].shape) * 65 // 64 + 64  # incompressible frames, and what lies beside them

    def read(name: str, steps: int, more: Mapping[str, TensorSpec]) -> Columns:
        data = files.read(name, max_bytes=step_bytes * steps * num_games + (1 << 20))
        return _unpack(data, columns, num_games, more, name)

    arrays = read(_TAIL, num_slots, {"segments": TensorSpec("I64", (2,)), **own})
    written = arrays["ends"].astype(np.int64)
    oldest = np.maximum(written - num_slots, 0)
    whole = _whole_segments(oldest, written, length)
    is_rest = (arrays["starts"] == np.clip(whole.stop * length, oldest, written)).all()
    if arrays["segments"].tolist() != [whole.start, whole.stop] or not is_rest:
        raise LabError(f"{_TAIL} with its segments has not all steps of a replay of {num_slots} steps a game")

    def parts() -> Iterator[Part]:
        for k in whole:
            name, start, end = _segment_name(k), k * length, (k + 1) * length
            segment = read(name, length, {})
            # It may begin earlier than the ring does now, which has gone on since.
            begins = (segment["starts"] >= start) & (segment["starts"] <= np.clip(oldest, start, end))
            if (segment["ends"] != end).any() or not begins.all():
                raise LabError(f"{name} holds the steps of another segment")
            yield from _parts(segment, columns, name)
        yield from _parts(arrays, columns, _TAIL)

    return written, {name: arrays[name] for name in own}, parts()


def _segment_steps(columns: Mapping[str, Column], num_games: int) -> int:
    return max(_SEGMENT_BYTES // (math.prod(columns[FRAMES].shape) * num_games), 1)


def _whole_segments(oldest: NDArray[np.int64], written: NDArray[np.int64], length: int) -> range:
    """Numbers of the segments that are whole and not overwritten in every game."""
    return range(int(oldest.min()) // length, int(written.min()) // length)


def _segment_name(number: int) -> str:
    return f"replay-{number:08d}.safetensors"


def _pack(
    read: Callable[[int, NDArray[np.int64]], Columns],
    columns: Mapping[str, Column],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> Columns:
    """The steps `starts` to `ends` of each game, game after game, frames compressed in pieces."""
    piece = _piece_steps(columns)
    gathered: dict[str, list[NDArray[Any]]] = {name: [] for name in columns if name != FRAMES}
    compressed: list[bytes] = []
    for game, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        for first in range(start, end, piece):
            stored = read(game, np.arange(first, min(first + piece, end)))
            compressed.append(compress(stored.pop(FRAMES)))
            for name, values in stored.items():
                gathered[name].append(values)
    return {
        "starts": starts,
        "ends": ends,
        "piece_bytes": np.array([len(data) for data in compressed], np.int64),
        FRAMES: np.frombuffer(b"".join(compressed), np.uint8),
        **{name: np.concatenate([_none(columns[name]), *parts]) for name, parts in gathered.items()},
    }


def _unpack(
    data: bytes, columns: Mapping[str, Column], num_games: int, more: Mapping[str, TensorSpec], where: str
) -> Columns:
    """The arrays of a file, with types, shapes and lengths that fit each other."""
    ranges = {"starts": TensorSpec("I64", (num_games,)), "ends": TensorSpec("I64", (num_games,))}
    compressed = {"piece_bytes": TensorSpec("I64", (None,)), FRAMES: TensorSpec("U8", (None,))}
    others = {name: TensorSpec(spec.dtype, (None, *spec.shape)) for name, spec in columns.items() if name != FRAMES}
    arrays = unpack_arrays(data, {**ranges, **compressed, **others, **more}, where)
    starts, ends = arrays["starts"], arrays["ends"]
    if (starts < 0).any() or (ends < starts).any() or (ends > _MOST_STEPS).any():
        raise LabError(f"{where} holds steps {starts.tolist()} to {ends.tolist()}")
    counts = [end - start for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    pieces = sum(-(-count // _piece_steps(columns)) for count in counts)
    lengths = {len(arrays[name]) for name in others}
    if lengths != {sum(counts)} or len(arrays["piece_bytes"]) != pieces:
        raise LabError(f"{where} holds {sum(counts)} steps, but not what belongs to them")
    if (arrays["piece_bytes"] < 0).any() or sum(arrays["piece_bytes"].tolist()) != len(arrays[FRAMES]):
        raise LabError(f"{where} has frames whose sizes do not add up")
    return arrays


def _parts(arrays: Columns, columns: Mapping[str, Column], where: str) -> Iterator[Part]:
    """The steps of each game in order, a piece at a time."""
    piece_steps, shape = _piece_steps(columns), columns[FRAMES].shape
    pieces = iter(np.split(arrays[FRAMES], np.cumsum(arrays["piece_bytes"])))
    done = 0
    for game, (start, end) in enumerate(zip(arrays["starts"].tolist(), arrays["ends"].tolist(), strict=True)):
        for first in range(start, end, piece_steps):
            indices = np.arange(first, min(first + piece_steps, end))
            own = {name: arrays[name][done : done + len(indices)] for name in columns if name != FRAMES}
            own[FRAMES] = _decompress(next(pieces).tobytes(), (len(indices), *shape), where)
            yield Part(game, indices, own)
            done += len(indices)


def _decompress(compressed: bytes, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """LabError unless the data is frames of this shape: its own word for its size is checked before memory is taken."""
    try:
        if zstandard.frame_content_size(compressed) != math.prod(shape):
            raise LabError(f"{where} has frames of another size")
        return decompress(compressed).reshape(shape)
    except (zstandard.ZstdError, ValueError) as error:
        raise LabError(f"{where} has damaged frames: {error}") from error


def _piece_steps(columns: Mapping[str, Column]) -> int:
    return max(_PIECE_BYTES // math.prod(columns[FRAMES].shape), 1)


def _none(column: Column) -> NDArray[Any]:
    dtypes = {"U8": np.uint8, "BOOL": np.bool_, "F32": np.float32, "I64": np.int64}
    return np.zeros((0, *column.shape), dtypes[column.dtype])
