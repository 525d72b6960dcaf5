"""The actors and shards of a run, as its learner sees them; it is the process that has the `Cluster`.

Actors send chunks straight to their shard and tell the learner only what the bench is to count. Weights go through the
object store: one copy a machine, however many actors are there. What dies is replaced, by this module and not by Ray: a
new actor begins new games; a new shard is empty, and its actors begin new games too, as it lacks what came before.
Steps of which no report arrives are not counted, and are played anew.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from rl_lab.apex.acting import ActorSettings, Played
from rl_lab.apex.processes import LOST, ActorProcess, Report, ShardProcess, connected
from rl_lab.apex.shard import Holding, Part, ShardSettings, split
from rl_lab.atari import AtariVectorEnv
from rl_lab.errors import LabError, LabWarning, ResumableError
from rl_lab.replay import Batch

_PLAYS_UNDER_WAY = 2
"""Of an actor: it begins the next one while the learner reads of the last."""
_MOST_DEATHS = 3
"""Of one actor or shard, without a sign of life between them."""
_PLACING_SECONDS = 300
_LEAST_OBJECT_STORE_BYTES = 100 << 20


@dataclass
class _Actor:
    settings: ActorSettings
    handle: Any  # Ray makes the class as it goes
    deaths: int = 0
    """Since the last sign of life."""
    stream: int = 0
    """The last one that was begun."""
    begun: Any = None
    """Ray's reference to that: what went wrong with it is told by the steps that follow."""


@dataclass
class _Shard:
    settings: ShardSettings
    handle: Any
    deaths: int = 0
    holding: Holding = field(default_factory=Holding)
    """When last heard of."""


@dataclass(frozen=True)
class _Play:
    """Some steps that an actor was asked for."""

    actor: int
    steps: int
    shard_handle: Any
    """Where it sends them."""


@dataclass
class _Request:
    """A batch that shards were asked for, part by part."""

    shards: list[int]
    handles: list[Any]
    parts: list[Part | None]


class Sampled(NamedTuple):
    """A batch from all shards."""

    batch: Batch
    shares: NDArray[np.float64]
    """[B], what the transitions were drawn in proportion to."""
    sources: list[tuple[Any, Part]]
    """Handle and part of each shard, in the batch's order."""


class Cluster:
    """Starts the processes, asks them for steps and batches, and replaces them."""

    def __init__(
        self,
        address: str,
        actors: Sequence[ActorSettings],
        shards: Sequence[ShardSettings],
        *,
        prefetch_bytes: int,
    ) -> None:
        """Start all processes, on a cluster of their own (`LOCAL`) or on that at `address`.

        LabError where there is none, or where it has no room. `prefetch_bytes` may wait in the object store.
        """
        self._joined = ExitStack()
        self._assembler = ThreadPoolExecutor(1)
        self._plays: dict[Any, _Play] = {}  # by Ray's reference
        self._parts: dict[Any, tuple[_Request, int]] = {}  # by Ray's reference: which part of the request it is
        self._placing: dict[Any, float] = {}  # by Ray's reference: since when a replacement looks for its place
        self._batches: deque[Future[Sampled]] = deque()
        self._version = 0
        self._weights: Any = None
        self._env: AtariVectorEnv | None = None
        self.replaced = 0
        """Actors and shards so far."""
        try:
            object_store_bytes = max(prefetch_bytes, _LEAST_OBJECT_STORE_BYTES)
            self._joined.enter_context(connected(address, len(actors) + len(shards), object_store_bytes))
            self._new_actor = ray.remote(num_cpus=1)(ActorProcess)
            self._new_shard = ray.remote(num_cpus=1)(ShardProcess)
            self._shards = [_Shard(settings, self._new_shard.remote(settings)) for settings in shards]
            self._actors = [_Actor(settings, self._new_actor.remote(settings)) for settings in actors]
            self._wait_for_all()
        except BaseException:
            self.close()
            raise

    @property
    def steps_under_way(self) -> int:
        """Agent steps that actors were asked for and have not reported."""
        return sum(play.steps for play in self._plays.values())

    @property
    def held_steps(self) -> int:
        """Agent steps that the shards were sent; those that a full one has dropped still count."""
        return sum(shard.holding.steps for shard in self._shards)

    @property
    def num_requested(self) -> int:
        """Batches that were asked for and not taken."""
        return len(self._batches) + len({id(request) for request, _ in self._parts.values()})

    @property
    def has_batch(self) -> bool:
        """Whether `next_batch` has one."""
        return bool(self._batches)

    def begin(self, env: AtariVectorEnv, stream: int) -> None:
        """Every actor begins games that are siblings of `env`, unless it plays such already.

        Streams are numbered from `stream` on, or from the last one on where that is later: other numbers are other
        games.
        """
        if env is not self._env:
            self._env = env
            for index, actor in enumerate(self._actors):
                actor.stream = max(actor.stream, stream)
                self._begin(index)

    def publish(self, weights: NDArray[np.float32]) -> None:
        """Hand out weights [N], to each actor with the next steps that it is asked for."""
        self._version += 1
        self._weights = ray.put(weights)

    def idle_actors(self) -> list[int]:
        """The actors to ask for steps, once for each time that they are named; the idlest first."""
        under_way = [0] * len(self._actors)
        for play in self._plays.values():
            under_way[play.actor] += 1
        free = [(place, index) for index, taken in enumerate(under_way) for place in range(taken, _PLAYS_UNDER_WAY)]
        return [index for _, index in sorted(free)]

    def play(self, index: int, num_rounds: int, num_games: int) -> None:
        """Ask an actor for so many steps of each of its games."""
        actor, handle = self._actors[index], self._shard_of(index).handle
        ref = actor.handle.play.remote(num_rounds, self._version, self._weights, handle, actor.begun)
        self._plays[ref] = _Play(index, num_rounds * num_games, handle)

    def request(self, batch_size: int, rng: np.random.Generator) -> None:
        """Ask for a batch that `rng` draws, unless no shard is known to hold anything."""
        totals = [shard.holding.total for shard in self._shards]
        if not any(totals):
            return
        counts = split(batch_size, totals, rng).tolist()
        shards = [index for index, count in enumerate(counts) if count]
        handles = [self._shards[index].handle for index in shards]
        request = _Request(shards, handles, [None] * len(shards))
        for place, (handle, own_rng) in enumerate(zip(handles, rng.spawn(len(shards)), strict=True)):
            self._parts[handle.sample.remote(counts[shards[place]], own_rng)] = (request, place)

    def collect(self, timeout_seconds: float) -> list[Played]:
        """Wait for anything that was asked for; what actors have played.

        ResumableError where what replaces a lost process finds no place.
        """
        waiting = [*self._plays, *self._parts, *self._placing]
        if waiting:
            ray.wait(waiting, num_returns=1, timeout=timeout_seconds)
            waiting, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        played = []
        for ref in waiting:
            # What was under way with a process that was replaced is forgotten by now.
            if ref in self._plays and (report := self._take_report(ref)) is not None:
                played.append(report.played)
            elif ref in self._parts:
                self._take_part(ref)
            elif self._placing.pop(ref, None) is not None:
                with suppress(*LOST):  # whoever asks it for something hears of that, too
                    _result(ref)
        self._require_places()
        return played

    def next_batch(self) -> Sampled | None:
        """The batch that has waited longest; None where none is whole."""
        return self._batches.popleft().result() if self._batches else None

    def update_priorities(self, sampled: Sampled, priorities: NDArray[np.float32]) -> None:
        """Tell the shards the absolute TD errors [B] of a batch; one that was replaced meanwhile does not hear it."""
        start = 0
        for handle, part in sampled.sources:
            end = start + len(part.actions)
            handle.update.remote(part.origin, priorities[start:end])
            start = end

    def close(self) -> None:
        """End all processes, and the cluster if it is the run's own."""
        self._assembler.shutdown(cancel_futures=True)
        self._joined.close()

    def _wait_for_all(self) -> None:
        """LabError unless all processes come up."""
        handles = [*(shard.handle for shard in self._shards), *(actor.handle for actor in self._actors)]
        refs = [handle.ready.remote() for handle in handles]
        ready, missing = ray.wait(refs, num_returns=len(refs), timeout=_PLACING_SECONDS)
        if missing:
            raise LabError(
                f"{len(missing)} of {len(refs)} actors and shards found no place on the Ray cluster within "
                f"{_PLACING_SECONDS} s: others use it; try later, or use fewer --agent.actors or --agent.shards"
            )
        try:
            for ref in ready:
                _result(ref)
        except LOST as error:
            raise LabError(f"an actor or shard died as it began: {error}") from error

    def _require_places(self) -> None:
        """ResumableError unless all that replaces what was lost has its place, or may yet find it."""
        if self._placing and time.monotonic() - min(self._placing.values()) > _PLACING_SECONDS:
            raise ResumableError(
                f"what replaces a lost actor or shard found no place on the Ray cluster within {_PLACING_SECONDS} s; "
                "add machines to it, then resume the run"
            )

    def _shard_of(self, actor: int) -> _Shard:
        return self._shards[actor % len(self._shards)]

    def _begin(self, index: int) -> None:
        """Let an actor begin new games."""
        assert self._env is not None
        actor = self._actors[index]
        actor.stream += 1
        actor.begun = actor.handle.begin.remote(self._env.sibling(index, actor.stream), actor.stream)

    def _take_report(self, ref: Any) -> Report | None:
        play = self._plays.pop(ref)
        try:
            report: Report = _result(ref)
        except LOST as error:
            self._replace_actor(play.actor, error)
            return None
        self._actors[play.actor].deaths = 0
        shard = self._shard_of(play.actor)
        if play.shard_handle is shard.handle:
            if report.shard_is_lost:
                self._replace_shard(play.actor % len(self._shards), "an actor cannot reach it")
            elif report.holding is not None:
                shard.holding, shard.deaths = report.holding, 0
        return report

    def _take_part(self, ref: Any) -> None:
        request, place = self._parts.pop(ref)
        index, handle = request.shards[place], request.handles[place]
        try:
            part: Part = _result(ref)
        except LOST as error:
            self._forget(request)
            if handle is self._shards[index].handle:
                self._replace_shard(index, error)
            return
        self._shards[index].holding, self._shards[index].deaths = part.holding, 0
        request.parts[place] = part
        parts = [part for part in request.parts if part is not None]
        if len(parts) == len(request.parts):
            self._batches.append(self._assembler.submit(_assemble, list(zip(request.handles, parts, strict=True))))

    def _replace_actor(self, index: int, cause: object) -> None:
        actor = self._actors[index]
        self._tell(f"actor {index}", actor, cause)
        ray.kill(actor.handle)  # it may only be out of reach
        self._plays = {ref: play for ref, play in self._plays.items() if play.actor != index}
        actor.handle = self._new_actor.remote(actor.settings)
        self._placing[actor.handle.ready.remote()] = time.monotonic()
        self._begin(index)

    def _replace_shard(self, index: int, cause: object) -> None:
        shard = self._shards[index]
        self._tell(f"shard {index}", shard, cause)
        ray.kill(shard.handle)
        for request, _ in list(self._parts.values()):
            if index in request.shards:
                self._forget(request)
        shard.handle, shard.holding = self._new_shard.remote(shard.settings), Holding()
        self._placing[shard.handle.ready.remote()] = time.monotonic()
        for actor in range(index, len(self._actors), len(self._shards)):
            self._begin(actor)

    def _forget(self, request: _Request) -> None:
        self._parts = {ref: part for ref, part in self._parts.items() if part[0] is not request}

    def _tell(self, name: str, lost: _Actor | _Shard, cause: object) -> None:
        """LabWarning of a death; ResumableError where there is no use in another life."""
        lost.deaths += 1
        self.replaced += 1
        reason = str(cause).partition("\n")[0]
        if lost.deaths > _MOST_DEATHS:
            raise ResumableError(
                f"{name} died {lost.deaths} times in a row without doing anything ({reason}); see to its machine, then "
                "resume the run"
            )
        warnings.warn(
            f"{name} was lost ({reason}): replaced, the {self.replaced}. of this run", LabWarning, stacklevel=2
        )


def _result(ref: Any) -> Any:
    """What a process answers; a LabError of its own, or of one that it asked in turn, as if it were of this one."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        cause: Exception = error
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, LabError):
            raise cause from error
        raise


def _assemble(sources: list[tuple[Any, Part]]) -> Sampled:
    """One batch of all parts; in a thread, while the learner learns from another."""
    parts = [part for _, part in sources]
    batches = [part.batch() for part in parts]
    batch = Batch(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))
    return Sampled(batch, np.concatenate([part.shares for part in parts]), sources)
