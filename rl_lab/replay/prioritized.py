"""Prioritized experience replay, proportional variant (Schaul et al. 2016, arXiv 1511.05952, algorithm 1).

A transition gets the largest priority so far when it becomes complete: n steps later, or at the end of its return. What
is no complete transition, or no longer one, weighs nothing in the tree, so that none is drawn and nothing is rejected.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari.vector_env import Step
from rl_lab.errors import LabError
from rl_lab.replay.frames import DEFAULT_CHUNK_FRAMES
from rl_lab.replay.memory import STACK, Batch, Draw, ReplayMemory
from rl_lab.replay.sum_tree import SumTree
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.untrusted import TensorSpec, pack_arrays, unpack_arrays

_PRIORITIES = "priorities.safetensors"
_LEAST_PRIORITY = 1e-6
"""Added to every priority, so that none is lost for ever: Schaul's epsilon, with the value of OpenAI Baselines, as the
paper gives none."""


def importance_weights(shares: NDArray[np.float64], exponent: float) -> NDArray[np.float32]:
    """Weights in the loss [N] of transitions drawn in proportion to `shares`; the largest is 1.

    (N P(i)) ** -exponent over the largest of the batch, as in DQN Zoo and Dopamine; the paper says "1 / max w" and not
    over what. N cancels out, and so does the sum that makes shares probabilities.
    """
    weights: NDArray[np.float64] = (shares / shares.min()) ** -exponent
    return weights.astype(np.float32)


class PrioritizedReplayMemory(ReplayMemory):
    """The newest transitions of each game, sampled in proportion to priority ** `priority_exponent`.

    Between `draw` and `update_priorities` steps may be added, and other batches may be drawn.
    """

    bytes_per_step: ClassVar[int] = ReplayMemory.bytes_per_step + 9
    """With the sum tree: 8 of a leaf, and less than 1 of the sums above it."""

    def __init__(
        self,
        capacity: int,
        num_games: int,
        *,
        discount: float,
        priority_exponent: float,
        n_step: int = 1,
        storage: str = "raw",
        chunk_frames: int = DEFAULT_CHUNK_FRAMES,
    ) -> None:
        """As ReplayMemory; at `priority_exponent` 0 sampling is uniform, at 1 in proportion to the priorities."""
        super().__init__(
            capacity, num_games, discount=discount, n_step=n_step, storage=storage, chunk_frames=chunk_frames
        )
        self._priority_exponent = priority_exponent
        # Leaf game * num_slots + slot: its priority to the power of the exponent, rounded as it is saved, to float32.
        self._tree = SumTree(num_games * self.num_slots)
        self._largest = np.float32(1)  # weight of a new transition; algorithm 1 starts at priority 1

    def add(self, observations: NDArray[np.uint8], actions: NDArray[np.int64], step: Step) -> None:
        """One step of every game; what it completes gets the largest priority."""
        before = self._written.copy()
        super().add(observations, actions, step)
        self._follow(before, step.terminated | step.episode_ends)

    def cut(self, observations: NDArray[np.uint8]) -> None:
        """Every game stops here, which completes its newest steps."""
        before = self._written.copy()
        super().cut(observations)
        self._follow(before, self._written > before)

    def draw(self, batch_size: int, rng: np.random.Generator, importance_exponent: float) -> tuple[Batch, Draw]:
        """One transition from each of `batch_size` equal parts of the sum of priorities (Schaul, appendix B.2.1).

        LabError where there is no transition yet.
        """
        total = self._tree.total
        if total == 0:
            raise LabError(
                "the replay memory holds no complete transition yet; use a larger --agent.learning-starts-steps"
            )
        leaves = self._tree.find((np.arange(batch_size) + rng.random(batch_size)) * (total / batch_size))
        games, slots = np.divmod(leaves, self.num_slots)
        newest = self._written[games] - 1
        indices = newest - (newest - slots) % self.num_slots
        weights = importance_weights(self._tree.leaves[leaves], importance_exponent)
        return self.gather(games, indices), Draw(games, indices, weights)

    def update_priorities(
        self, games: NDArray[np.int64], indices: NDArray[np.int64], priorities: NDArray[np.float32]
    ) -> None:
        """Give complete transitions their priorities [N]: absolute TD errors.

        Those overwritten meanwhile are left out; of one drawn twice the last counts. LabError unless all are finite.
        """
        if not np.isfinite(priorities).all():
            raise LabError("a TD error is not finite: learning diverged; use a smaller learning rate")
        assert (priorities >= 0).all()
        leaves = games * self.num_slots + indices % self.num_slots
        in_memory = (indices >= self._written[games] - self.num_slots) & (self._tree.leaves[leaves] > 0)
        weights = (priorities.astype(np.float64) + _LEAST_PRIORITY) ** self._priority_exponent
        # Backwards, as np.unique tells where each comes first.
        leaves, last = np.unique(leaves[in_memory][::-1], return_index=True)
        rounded = weights[in_memory][::-1][last].astype(np.float32)
        self._largest = rounded.max(initial=self._largest)
        self._tree.write(leaves, rounded.astype(np.float64))

    @property
    def total_share(self) -> float:
        """Sum of the `shares` of all transitions."""
        return self._tree.total

    def shares(self, games: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """[N], what transitions in memory are drawn in proportion to: their priorities to the power of the exponent."""
        shares: NDArray[np.float64] = self._tree.leaves[games * self.num_slots + indices % self.num_slots]
        return shares

    def save(self) -> SavedState:
        """As ReplayMemory, and the priorities: 4 MB for a million slots, anew each time, as any may have changed."""
        saved = super().save()
        arrays = {"priorities": self._tree.leaves.astype(np.float32), "largest": np.array([self._largest])}
        return SavedState({**saved.files, _PRIORITIES: pack_arrays(arrays)}, saved.segments)

    def load(self, files: SavedFiles, num_actions: int) -> None:
        """As ReplayMemory; LabError too where priorities are not those of the transitions."""
        super().load(files, num_actions)
        num_leaves = len(self._tree.leaves)
        specs = {"priorities": TensorSpec("F32", (num_leaves,)), "largest": TensorSpec("F32", (1,))}
        arrays = unpack_arrays(files.read(_PRIORITIES, max_bytes=4 * num_leaves + (1 << 20)), specs, _PRIORITIES)
        priorities, largest = arrays["priorities"], arrays["largest"][0]
        # Comparisons with nan are false.
        if not (0 < largest < np.inf and ((priorities >= 0) & (priorities <= largest)).all()):
            raise LabError(f"{_PRIORITIES} holds priorities that are not between 0 and the largest one")
        games, indices = self.transitions()
        complete = np.zeros(num_leaves, np.bool_)
        complete[games * self.num_slots + indices % self.num_slots] = True
        if ((priorities > 0) != complete).any():
            raise LabError(f"{_PRIORITIES} holds priorities of other transitions than the saved replay has")
        self._tree.fill(priorities.astype(np.float64))
        self._largest = np.float32(largest)

    def _follow(self, before: NDArray[np.int64], ended: NDArray[np.bool_]) -> None:
        """Weigh what became complete, and no longer what was overwritten or lost its stack, since `before` [games].

        `ended` [games]: the step ended the return or the episode, so that no transition waits for further steps.
        """
        games, written = self._games[:, None], self._written[:, None]
        # All that waited for its n steps or was written now, and what has lost its stack if it had a whole one.
        newest = before[:, None] + np.arange(-self.n_step, 2)
        oldest = np.maximum(written - self.num_slots, 0) + np.arange(STACK - 1)
        indices = np.concatenate([newest, oldest], axis=1)  # [games, n + 5]
        slots = indices % self.num_slots
        leaves = games * self.num_slots + slots
        held = self._tree.leaves[leaves]
        own = np.where(indices < before[:, None], held, 0)  # not what a new step has overwritten
        has_future = (own > 0) | ended[:, None] | (indices + self.n_step < written)
        complete = self._is_transition[games, slots] & self._has_stack(games, indices) & has_future
        weights = np.where(complete, np.where(own > 0, own, self._largest), 0)
        changed = (weights != held) & (indices < written)
        self._tree.write(leaves[changed], weights[changed])
