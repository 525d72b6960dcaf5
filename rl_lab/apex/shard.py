"""A part of the replay memory: the transitions of some actors, drawn in proportion to their priorities.

Each actor's stream goes into a memory of its own, so that frames follow each other and actors need not keep pace.
Whatever holds priorities - a memory, a shard of memories, all shards - lays them end to end, and a draw takes one
transition from each of as many equal parts as the batch has: as from a single tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_lab.apex.chunk import Chunk
from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.replay import Batch, PrioritizedReplayMemory
from rl_lab.replay.frames import bytes_per_frame, compress, decompress


def split(batch_size: int, totals: Sequence[float], rng: np.random.Generator) -> NDArray[np.int64]:
    """How many of a batch's transitions come from each holder [H], by the sum of what each holds.

    A place is drawn in each of `batch_size` equal parts of the sums laid end to end (Schaul et al. 2016, appendix
    B.2.1): a holder gets its exact share on average, and always to within two.
    """
    ends = np.cumsum(totals)
    places = (np.arange(batch_size) + rng.random(batch_size)) * (ends[-1] / batch_size)
    # Rounding may put the last place beyond the end; a holder of nothing has no place of its own.
    places = np.minimum(places, np.nextafter(ends[-1], 0))
    return np.bincount(np.searchsorted(ends, places, side="right"), minlength=len(ends))


@dataclass(frozen=True)
class ShardSettings:
    """All that a shard is, besides what it is sent."""

    num_actors: int
    """Those that send to it."""
    capacity_per_actor: int
    discount: float
    n_step: int
    storage: str
    priority_exponent: float

    @property
    def nbytes(self) -> int:
        """Memory that the shard comes to fill."""
        per_step = bytes_per_frame(self.storage, OBSERVATION_SHAPE[1:]) + PrioritizedReplayMemory.bytes_per_step
        return self.num_actors * self.capacity_per_actor * per_step


class Holding(NamedTuple):
    """What a shard holds, for the learner."""

    steps: int = 0
    """Ever added."""
    total: float = 0.0
    """Sum of what its transitions are drawn in proportion to."""


class Origin(NamedTuple):
    """Where the transitions of a part of a batch are."""

    actors: NDArray[np.int64]
    """[N]"""
    games: NDArray[np.int64]
    indices: NDArray[np.int64]


class Part(NamedTuple):
    """Some transitions of a batch, from one shard."""

    stacks: bytes
    """[2, N, 84, 84, 4] uint8, compressed: observations and next observations, channels last."""
    actions: NDArray[np.int64]
    returns: NDArray[np.float32]
    discounts: NDArray[np.float32]
    shares: NDArray[np.float64]
    """[N], what they were drawn in proportion to."""
    origin: Origin
    holding: Holding

    @property
    def nbytes(self) -> int:
        """Of all that is sent."""
        return len(self.stacks) + sum(array.nbytes for array in (*self[1:5], *self.origin))

    def batch(self) -> Batch:
        """The transitions."""
        count = len(self.actions)
        stacks = decompress(self.stacks).reshape(2, count, 84, 84, 4).transpose(0, 1, 4, 2, 3)
        return Batch(stacks[0], self.actions, self.returns, self.discounts, stacks[1])


class Shard:
    """Memories of the actors that send to it."""

    def __init__(self, settings: ShardSettings) -> None:
        self._settings = settings
        self._streams: dict[int, _Stream] = {}  # by actor
        self._steps = 0

    def add(self, chunk: Chunk) -> Holding:
        """Take the next steps of a stream."""
        stream = self._streams.get(chunk.actor)
        if stream is None:
            stream = self._streams[chunk.actor] = _Stream(self._new_memory(chunk.actions.shape[1]), chunk.stream)
        stream.add(chunk)
        self._steps += chunk.actions.size
        return self.holding

    def sample(self, count: int, rng: np.random.Generator) -> Part:
        """Draw transitions of all actors in proportion to their priorities; some must be complete."""
        actors = sorted(self._streams)
        memories = [self._streams[actor].memory for actor in actors]
        counts = split(count, [memory.total_share for memory in memories], rng)
        drawn = [
            (actor, memory, *memory.draw(number, rng, 0.0))
            for actor, memory, number in zip(actors, memories, counts.tolist(), strict=True)
            if number
        ]
        batch = Batch(*(np.concatenate(columns) for columns in zip(*(batch for *_, batch, _ in drawn), strict=True)))
        draws = [draw for *_, draw in drawn]
        return Part(
            stacks=compress(np.stack([stacks.transpose(0, 2, 3, 1) for stacks in (batch[0], batch[4])])),
            actions=batch.actions,
            returns=batch.returns,
            discounts=batch.discounts,
            shares=np.concatenate([memory.shares(draw.games, draw.indices) for _, memory, _, draw in drawn]),
            origin=Origin(
                np.concatenate([np.full(len(draw.games), actor) for actor, *_, draw in drawn]),
                np.concatenate([draw.games for draw in draws]),
                np.concatenate([draw.indices for draw in draws]),
            ),
            holding=self.holding,
        )

    def update(self, origin: Origin, priorities: NDArray[np.float32]) -> None:
        """Give transitions that were drawn their priorities [N]: absolute TD errors."""
        for actor in np.unique(origin.actors).tolist():
            own = origin.actors == actor
            self._streams[actor].memory.update_priorities(origin.games[own], origin.indices[own], priorities[own])

    @property
    def holding(self) -> Holding:
        """What is there by now."""
        return Holding(self._steps, sum(stream.memory.total_share for stream in self._streams.values()))

    def _new_memory(self, num_games: int) -> PrioritizedReplayMemory:
        settings = self._settings
        return PrioritizedReplayMemory(
            settings.capacity_per_actor,
            num_games,
            discount=settings.discount,
            n_step=settings.n_step,
            storage=settings.storage,
            priority_exponent=settings.priority_exponent,
        )


class _Stream:
    """The memory of an actor, and where in it the stream began that is being written."""

    def __init__(self, memory: PrioritizedReplayMemory, stream: int) -> None:
        self.memory = memory
        self._stream = stream
        self._begin = memory.num_written
        self._next_frames: NDArray[np.uint8] | None = None

    def add(self, chunk: Chunk) -> None:
        """The next steps of the stream, or the first of the next one; what an actor sent before its end may be late."""
        if chunk.stream < self._stream:
            return
        if chunk.stream != self._stream:
            assert self._next_frames is not None
            self.memory.cut(self._next_frames)
            self._stream, self._begin = chunk.stream, self.memory.num_written
        for observations, actions, step in chunk.steps():
            self.memory.add(observations, actions, step)
        self._next_frames = chunk.next_frames()
        games, indices, values = chunk.priorities
        self.memory.update_priorities(games, indices + self._begin[games], values)
