"""The contract between the bench and its agents, and how an agent's file is found and loaded.

An agent is one Python file that defines one subclass of `Agent`. Files are loaded by path, like recipes: a package
named `agents` on the import path would collide with one on PyPI.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import AtariVectorEnv
from rl_lab.errors import LabError, did_you_mean
from rl_lab.files import shipped_folder
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.switches import Switch, Value


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What every agent's configuration has; subclasses add the hyperparameters and check them in `__post_init__`."""

    name: str
    """The agent: a name from `rl-lab list agents`, or the path of a Python file."""

    switches: ClassVar[tuple[Switch, ...]] = ()
    """What the agent can be trained without."""

    repeatable: ClassVar[bool] = True
    """Whether a run with the same seed, on the same machine, comes to the same bytes; the records say so if not."""

    @property
    def switches_on(self) -> tuple[Switch, ...]:
        """Those that this configuration turns on."""
        return tuple(switch for switch in self.switches if switch.is_on(self))

    def turn_off(self, names: Iterable[str]) -> dict[str, dict[str, Value]]:
        """What changes without these switches: name -> field -> value, in the order of their declaration.

        LabError for one that is unknown or off already, with those that are on.
        """
        on = {switch.name: switch for switch in self.switches_on}
        chosen = set(names)
        for name in sorted(chosen - on.keys()):
            known = [switch.name for switch in self.switches]
            mistake = "is off already" if name in known else f"is no switch of {self.name}{did_you_mean(name, known)}"
            raise LabError(f"{name!r} {mistake} (on: {', '.join(on) or 'none'})")
        return {name: switch.turned_off(self) for name, switch in on.items() if name in chosen}


@dataclass(frozen=True)
class Task:
    """What an agent is built for."""

    num_actions: int
    num_games: int
    """Parallel games in training."""
    total_steps: int
    """Agent steps of the whole experiment, over all games: the horizon of schedules."""
    seed: int
    """The root seed: see rl_lab.seeding."""
    device: str = "cpu"
    """A torch device: cpu or cuda."""
    iteration_steps: int = 0
    """Agent steps of each call of `train` but the last, which may be shorter; 0 outside of training."""


class MetricLog(Protocol):
    """Where an agent reports how it learns; the bench adds the frames."""

    def due(self) -> bool:
        """Whether the interval between metrics is over: ask before computing them."""

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Record metrics by their TensorBoard tags, such as train/loss; LabError for a tag without a slash."""

    def histogram(self, tag: str, values: NDArray[np.floating[Any]]) -> None:
        """Show in TensorBoard, and nowhere else, how values of any shape are distributed."""


class Agent(ABC):
    """Learns by acting in parallel Atari games; owns its own learning loop."""

    Config: ClassVar[type[AgentConfig]] = AgentConfig

    @abstractmethod
    def __init__(self, config: AgentConfig, task: Task) -> None:
        """Take what acting needs; what only training needs is taken in `prepare`."""

    def prepare(self) -> None:  # noqa: B027 - an agent that learns nothing needs nothing
        """Take what training needs (replay, optimizer), once, before `train`; LabError where the machine lacks it."""

    def close(self) -> None:  # noqa: B027 - what is in this process needs no closing
        """Give back what `prepare` took outside of this process; called however training ends, and if none begins."""

    @abstractmethod
    def train(self, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """Play and learn until `env.steps` is exactly `steps`, over all games, from `env.observations`.

        An agent that can be saved between any two steps returns early when `env.pause_requested`; it is called again,
        maybe in another process, with the games where they stood. One that cannot ignores it. Other processes may play
        for it, in each `env.sibling`, if what they play is handed to `env.count`: of these games none goes on.
        """

    @abstractmethod
    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Greedy actions [B] for observations [B, 4, 84, 84]; must not change what is learned, however often asked."""

    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """What each action is worth [B, A], of which `act` takes the greatest; None: this agent values none.

        Only for those who watch; like `act`, it must not change what is learned.
        """
        return None

    @abstractmethod
    def save(self) -> dict[str, bytes]:
        """What acting needs, as files by name; never a pickle."""

    @abstractmethod
    def load(self, files: SavedFiles) -> None:
        """Take what `save` gave; LabError for files that are damaged or foreign."""

    def save_state(self) -> SavedState | None:
        """What going on needs besides `save`: optimizer, replay, counters, generators. None: it cannot be resumed."""
        return None

    def load_state(self, files: SavedFiles) -> None:
        """After `prepare` and `load`: take what `save_state` gave, segments included; LabError as in `load`."""
        raise LabError(
            "this agent keeps no state to go on from; start the run anew with --overwrite, or define save_state and "
            "load_state"
        )


def agent_names() -> tuple[str, ...]:
    """The agents that come with the lab."""
    return tuple(sorted(path.stem for path in shipped_folder("agents").glob("*.py")))


def agent_path(name: str) -> Path:
    """The file of a name from `agent_names`, or an existing path ending in .py; LabError otherwise."""
    if name.endswith(".py"):
        if not os.path.isfile(name):  # pathlib raises for names that no file can have
            raise LabError(f"no agent file {name}; give the path of a Python file that defines an Agent")
        return Path(name)
    if name not in agent_names():
        raise LabError(
            f"no agent {name!r}{did_you_mean(name, agent_names())} (allowed: {', '.join(agent_names())}, "
            "or the path of a .py file)"
        )
    return shipped_folder("agents") / f"{name}.py"


def load_agent(name: str) -> type[Agent]:
    """The agent class of a name from `agent_names` or of the path of a Python file; one class for one file.

    LabError for an unknown name, a missing file, or a file without exactly one agent. A file is code: it is run.
    """
    return _load_file(agent_path(name).resolve())


def keeps_state(name: str) -> bool:
    """Whether a run of the agent can go on from a checkpoint: its class has both methods for that of its own."""
    agent = load_agent(name)
    return agent.save_state is not Agent.save_state and agent.load_state is not Agent.load_state


@functools.cache
def _load_file(path: Path) -> type[Agent]:
    """Run the file as a module of its own."""
    module_name = f"rl_lab_agent_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up while the file runs
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise LabError(f"{path} cannot be run: {error}") from error
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Agent) and value.__module__ == module_name
    ]
    if len(found) != 1:
        names = ", ".join(agent.__name__ for agent in found) or "none"
        raise LabError(f"{path} defines {names}; an agent file defines exactly one subclass of rl_lab.agent.Agent")
    return found[0]
