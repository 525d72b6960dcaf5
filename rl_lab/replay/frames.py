"""Where replay keeps its frames: a ring of single frames for each parallel game, as they are or compressed.

Both storages write frames one by one and read stacks of them. Stacks come out with the channels last in memory, the
layout in which convolutions are quickest: interleaving bytes here takes half the time that torch takes to do it later.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict

import numpy as np
import zstandard
from numpy.typing import NDArray

STORAGES = ("raw", "zstd")
_ZSTD_LEVEL = 1
"""Level 3 took 15 % less to 5 % more memory on thirteen games, mostly within 3 % of this."""
_ZSTD_BYTES_PER_FRAME = 1_000
"""The worst game that was measured, Krull by random play; most take 50 to 350."""
DEFAULT_CHUNK_FRAMES = 16
"""Consecutive frames of a game compressed together: see docs/benchmarks.md."""
_OPENED_CHUNKS = 64
"""Chunks kept open: all that a batch of 32 needs, in 7 MB, a quarter of a usual cache."""


class Frames(ABC):
    """Single frames by (game, slot)."""

    @abstractmethod
    def write(self, games: NDArray[np.int64], slots: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        """Put one frame into each (game, slot); frames have shape [N, height, width]."""

    @abstractmethod
    def read(self, games: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Stacks [N, S, height, width], channels last in memory, for games [N] and slots [N, S]."""


def build_frames(
    storage: str, num_games: int, num_slots: int, frame_shape: tuple[int, int], chunk_frames: int
) -> Frames:
    """Room for `num_slots` frames of each game in one of `STORAGES`."""
    if storage == "raw":
        return RawFrames(num_games, num_slots, frame_shape)
    return ZstdFrames(num_games, num_slots, frame_shape, chunk_frames)


def bytes_per_frame(storage: str, frame_shape: tuple[int, int]) -> int:
    """Memory that a frame takes; compressed, what it took in the worst game that was measured."""
    return math.prod(frame_shape) if storage == "raw" else _ZSTD_BYTES_PER_FRAME


def compress(frames: NDArray[np.uint8]) -> bytes:
    """Frames as Zstandard data (RFC 8878), in memory of its own size."""
    # zstandard returns the short end of a large allocation: between many of these, memory would lie waste.
    return bytes(memoryview(zstandard.compress(frames.tobytes(), _ZSTD_LEVEL)))


def decompress(compressed: bytes) -> NDArray[np.uint8]:
    """The bytes [N] that were compressed; without the GIL, so that the network learns meanwhile."""
    return np.frombuffer(zstandard.decompress(compressed), np.uint8)


class RawFrames(Frames):
    """Uncompressed frames of shape [games, slots, height, width], uint8."""

    def __init__(self, num_games: int, num_slots: int, frame_shape: tuple[int, int]) -> None:
        # np.zeros takes memory from the system only as the ring fills.
        self._frames = np.zeros((num_games, num_slots, *frame_shape), np.uint8)

    def write(self, games: NDArray[np.int64], slots: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        self._frames[games, slots] = frames

    def read(self, games: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        stacks = np.empty((len(games), *self._frames.shape[2:], slots.shape[1]), np.uint8)
        _fill(stacks, self._frames, np.broadcast_to(games[:, None], slots.shape), slots)
        return stacks.transpose(0, 3, 1, 2)


class ZstdFrames(Frames):
    """Chunks of consecutive frames of one game, compressed by Zstandard (RFC 8878).

    A game's newest chunk stays open until its last frame is written. Chunks opened for reading stay open while there is
    room, those not read for longest making way.
    """

    def __init__(self, num_games: int, num_slots: int, frame_shape: tuple[int, int], chunk_frames: int) -> None:
        num_chunks = -(-num_slots // chunk_frames)
        self._chunk_frames = chunk_frames
        self._chunks = [[b""] * num_chunks for _ in range(num_games)]  # b"": never closed
        # One row for the newest chunk of each game, then those for the chunks that were opened for reading.
        self._open = np.zeros((num_games + _OPENED_CHUNKS, chunk_frames, *frame_shape), np.uint8)
        self._newest = [0] * num_games
        self._rows: OrderedDict[tuple[int, int], int] = OrderedDict()  # (game, chunk) -> row; least recently read first
        self._free_rows = list(range(num_games, len(self._open)))

    def write(self, games: NDArray[np.int64], slots: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        for game, slot, frame in zip(games.tolist(), slots.tolist(), frames, strict=True):
            chunk, place = divmod(slot, self._chunk_frames)
            if chunk != self._newest[game]:
                self._begin_chunk(game, chunk)
            self._open[game, place] = frame

    def read(self, games: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        stacks = np.empty((len(games), *self._open.shape[2:], slots.shape[1]), np.uint8)
        block = max(_OPENED_CHUNKS // slots.shape[1], 1)  # stacks that fit into the open rows, whatever they need
        for start in range(0, len(games), block):
            part = slice(start, start + block)
            chunks, places = np.divmod(slots[part], self._chunk_frames)
            _fill(stacks[part], self._open, self._open_rows(games[part], chunks), places)
        return stacks.transpose(0, 3, 1, 2)

    def _begin_chunk(self, game: int, chunk: int) -> None:
        """Close the newest chunk of the game and make `chunk` the newest; its old frames stay until overwritten."""
        self._chunks[game][self._newest[game]] = compress(self._open[game])
        self._newest[game] = chunk
        self._decompress(game, chunk, row=game)
        if (game, chunk) in self._rows:
            self._free_rows.append(self._rows.pop((game, chunk)))

    def _open_rows(self, games: NDArray[np.int64], chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of `_open` [N, S] that hold the chunks [N, S] of the games [N]."""
        num_chunks = len(self._chunks[0])
        keys, places = np.unique(games[:, None] * num_chunks + chunks, return_inverse=True)
        rows = np.array([self._open_row(*divmod(key, num_chunks)) for key in keys.tolist()], np.int64)
        rows_of_chunks: NDArray[np.int64] = rows[places.reshape(chunks.shape)]
        return rows_of_chunks

    def _open_row(self, game: int, chunk: int) -> int:
        if chunk == self._newest[game]:
            return game
        if (game, chunk) in self._rows:
            self._rows.move_to_end((game, chunk))
            return self._rows[game, chunk]
        row = self._free_rows.pop() if self._free_rows else self._rows.popitem(last=False)[1]
        self._decompress(game, chunk, row)
        self._rows[game, chunk] = row
        return row

    def _decompress(self, game: int, chunk: int, row: int) -> None:
        compressed = self._chunks[game][chunk]
        if not compressed:
            self._open[row] = 0
            return
        self._open[row] = decompress(compressed).reshape(self._open.shape[1:])


def _fill(
    stacks: NDArray[np.uint8], frames: NDArray[np.uint8], rows: NDArray[np.int64], places: NDArray[np.int64]
) -> None:
    """Write frames[row, place], rows and places [N, S], into stacks [N, height, width, S]."""
    for k in range(places.shape[1]):
        stacks[..., k] = frames[rows[:, k], places[:, k]]
