"""Checkpoints and runs from strangers, with manifests that fit: they load and train on, or are refused in one line."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rl_lab.agent import AgentConfig, Task, load_agent
from rl_lab.atari import AtariVectorEnv
from rl_lab.checkpoint import newest_checkpoint, saved_files, verify
from rl_lab.errors import LabError, LabWarning
from rl_lab.experiment import ExperimentConfig
from rl_lab.position import Position
from rl_lab.replay import ReplayMemory, saving
from rl_lab.saved import SavedFiles
from rl_lab.saved_agent import restore_agent
from rl_lab.untrusted import pack_arrays
from tests.hostile import is_read, little_is_spent, mutations
from tests.runs import Interrupts, train
from tests.tiny import PROTOCOL, tiny_dqn, tiny_experiment

pytestmark = pytest.mark.timeout(60)  # a generator that numpy asks for ever hears no Ctrl-C

SB3: dict[str, Any] = {"learning_starts_steps": 32, "replay_capacity": 100, "replay": "lean", "batch_size": 8}
AGENTS: dict[str, AgentConfig] = {
    "dqn": tiny_dqn(learning_starts_steps=32, replay_capacity=150, replay_storage="zstd", batch_size=8),
    "sb3": load_agent("sb3_dqn").Config(name="sb3_dqn", **SB3),
    "uniform": load_agent("uniform").Config(name="uniform"),
}
EXTREMES: list[Any] = [0, -1, 2**62, 2**63, 2**200, 0.5, -1e308, "nan", "\x1b[2J\n", None, True, [], {}]
NUM_ACTIONS = 4


def experiment(agent: str) -> ExperimentConfig:
    return tiny_experiment(
        agent=AGENTS[agent], total_steps=240, iteration_steps=120, evaluation_episodes=1, log_every_steps=10
    )


@pytest.fixture(scope="module", autouse=True)
def _small_segments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "_SEGMENT_BYTES", 20 * 2 * 84 * 84)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A real run of each agent, stopped in its second iteration, where it has learned and has segments."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(experiment(name), folder / name, reporter=Interrupts(190)).run for name in AGENTS}


@pytest.fixture
def take(runs: Mapping[str, Path], tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """A copy of a run, to be damaged, and its checkpoint."""

    def copied(agent: str) -> tuple[Path, Path]:
        run = shutil.copytree(runs[agent], tmp_path / agent / "seed-0")
        return run, newest_checkpoint(run, resumable=True)[0]

    return copied


@functools.cache
def games() -> AtariVectorEnv:
    return AtariVectorEnv("Breakout", PROTOCOL, 2, np.random.SeedSequence(0), training=True)


class FiniteMetrics:
    """Refuses what the training curves refuse."""

    def due(self) -> bool:
        return True

    def __call__(self, metrics: Mapping[str, float]) -> None:
        if not all(math.isfinite(value) for value in metrics.values()):
            raise LabError("learning diverged")

    def histogram(self, tag: str, values: NDArray[np.floating[Any]]) -> None:
        if not np.isfinite(values).all():
            raise LabError("learning diverged")


def load_and_go_on(agent_name: str, checkpoint: Path) -> None:
    """Load all of a checkpoint without looking at its digests, then train a little, act and save."""
    config = experiment(agent_name)
    task = Task(NUM_ACTIONS, config.num_games, config.total_steps, config.seed, iteration_steps=config.iteration_steps)
    agent = load_agent(config.agent.name)(config.agent, task)
    agent.load(saved_files(checkpoint, "agent"))
    agent.prepare()
    agent.load_state(saved_files(checkpoint, "state"))
    Position.read(saved_files(checkpoint, "loop"), config)
    env = games()
    env.reset()
    env.steps = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LabWarning)
        agent.train(env, 16, FiniteMetrics())
    agent.act(env.observations)
    agent.save_state()


def with_each_extreme(table: dict[str, Any], extremes: list[Any]) -> Iterator[bytes]:
    """The JSON object with one value replaced, for each value and each extreme; long lists at their ends only."""
    for *parents, last in _places(table):
        for extreme in extremes:
            changed = copy.deepcopy(table)
            inner: Any = changed
            for key in parents:
                inner = inner[key]
            inner[last] = extreme
            yield json.dumps(changed).encode()


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys if len(keys) < 50 else [*keys][:1] + [*keys][-3:]:
        yield (key,)
        yield from ((key, *place) for place in _places(value[key]))


def read_each(path: Path, versions: Iterator[bytes], load: Callable[[], object]) -> list[bool]:
    """Whether each version of the file is read; any error but a LabError is the test's. The file is put back."""
    whole = path.read_bytes()
    read = []
    for version in versions:
        path.write_bytes(version)
        read.append(is_read(load))
    path.write_bytes(whole)
    load()
    return read


# Every file of a checkpoint, damaged

STATES = [
    *(("dqn", name) for name in ("agent/weights.safetensors", "state/learner.safetensors", "state/counters.json")),
    *(("dqn", name) for name in ("state/replay.safetensors", "loop/position.json", "loop/played.safetensors")),
    *(("sb3", name) for name in ("state/learner.safetensors", "state/state.json", "state/replay.safetensors")),
    ("uniform", "state/generator.json"),
]


@pytest.mark.parametrize(("agent", "name"), STATES)
def test_a_damaged_file_of_a_checkpoint_is_refused_or_trains_on(
    agent: str, name: str, take: Callable[[str], tuple[Path, Path]]
) -> None:
    _, checkpoint = take(agent)
    damaged = mutations((checkpoint / name).read_bytes(), 4)
    assert not all(read_each(checkpoint / name, damaged, lambda: load_and_go_on(agent, checkpoint)))


@pytest.mark.parametrize("agent", ["dqn", "sb3"])
def test_a_damaged_segment_is_refused_or_trains_on(agent: str, take: Callable[[str], tuple[Path, Path]]) -> None:
    run, checkpoint = take(agent)
    segment = max((run / "segments").iterdir())
    damaged = mutations(segment.read_bytes(), 4)
    assert not all(read_each(segment, damaged, lambda: load_and_go_on(agent, checkpoint)))


@pytest.mark.parametrize(
    ("agent", "name", "extremes"),
    [
        ("dqn", "state/counters.json", EXTREMES),
        ("dqn", "loop/position.json", EXTREMES),
        ("uniform", "state/generator.json", EXTREMES),
        ("sb3", "state/state.json", [-1, 2**62, None]),
    ],
)
def test_an_extreme_value_in_a_state_is_refused_or_trains_on(
    agent: str, name: str, extremes: list[Any], take: Callable[[str], tuple[Path, Path]]
) -> None:
    _, checkpoint = take(agent)
    table = json.loads((checkpoint / name).read_text())
    versions = with_each_extreme(table, extremes)
    assert not all(read_each(checkpoint / name, versions, lambda: load_and_go_on(agent, checkpoint)))


def test_an_extreme_value_in_a_description_is_refused_or_acts(take: Callable[[str], tuple[Path, Path]]) -> None:
    _, checkpoint = take("dqn")
    path = checkpoint / "agent" / "agent.json"
    versions = with_each_extreme(json.loads(path.read_text()), EXTREMES)
    with little_is_spent(seconds=30, megabytes=50):
        read_each(path, versions, lambda: restore_agent(checkpoint, device="cpu"))


def test_a_damaged_manifest_is_refused(take: Callable[[str], tuple[Path, Path]]) -> None:
    _, checkpoint = take("dqn")
    path = checkpoint / "manifest.json"
    whole = path.read_bytes()
    versions = [*mutations(whole, 40), *with_each_extreme(json.loads(whole), [0, 2**62, "../../..", None, [], {}])]
    assert not all(read_each(path, iter(versions), lambda: verify(checkpoint, segments=True)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["starts", "ends", "segments"]),
        st.tuples(*[st.integers(-2, 200) | st.sampled_from([2**31, 2**48, 2**62, 2**63 - 1, -(2**63)])] * 2),
        min_size=1,
    )
)
def test_a_replay_of_any_ranges_is_refused_or_gives_batches(
    runs: Mapping[str, Path], tmp_path: Path, ranges: dict[str, tuple[int, int]]
) -> None:
    checkpoint, _ = newest_checkpoint(runs["dqn"])
    tail = tmp_path / "replay.safetensors"
    shutil.copy(checkpoint / "state" / tail.name, tail)
    edit_arrays(tail, lambda arrays: arrays.update({name: np.array(ends) for name, ends in ranges.items()}))
    files = SavedFiles(
        {tail.name: tail, **{path.name: path for path in (checkpoint.parents[1] / "segments").iterdir()}}
    )
    replay = ReplayMemory(150, 2, discount=0.99)

    def load() -> None:
        replay.load(files, NUM_ACTIONS)
        replay.sample(8, np.random.default_rng(0))

    is_read(load)


# Single values that would crash, hang or take gigabytes


def edit_arrays(path: Path, edit: Callable[[dict[str, NDArray[Any]]], object]) -> None:
    arrays = {name: array.copy() for name, array in safetensors.numpy.load(path.read_bytes()).items()}
    edit(arrays)
    path.write_bytes(pack_arrays(arrays))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text())
    edit(table)
    path.write_text(json.dumps(table))


def declare_gigabytes(arrays: dict[str, NDArray[Any]]) -> None:
    """The first piece says that it is 16 GB of zeros."""
    frame = bytearray(zstandard.compress(bytes(1 << 33 >> 20)))  # a whole frame, of which only the header is replaced
    piece = b"\x28\xb5\x2f\xfd\xe0" + (1 << 34).to_bytes(8, "little") + bytes(frame[6:])
    rest = arrays[saving.FRAMES][arrays["piece_bytes"][0] :].tobytes()
    arrays["piece_bytes"][0] = len(piece)
    arrays[saving.FRAMES] = np.frombuffer(piece + rest, np.uint8)


def odd_truth(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["is_transition"].view(np.uint8)[:] = 2


SEGMENT = "../../segments/replay-00000020.safetensors"
Edit = Callable[[dict[str, Any]], object]
ARRAYS: list[tuple[str, str, Edit, str]] = [
    ("dqn", "state/replay.safetensors", declare_gigabytes, "frames of another size"),
    ("dqn", "state/replay.safetensors", odd_truth, "neither true nor false"),
    ("dqn", "state/replay.safetensors", lambda it: it["ages"].fill(255), "ages of 4 or more"),
    ("dqn", "state/replay.safetensors", lambda it: it["next_ages"].fill(4), "ages of 4 or more"),
    ("dqn", "state/replay.safetensors", lambda it: it["ends"].fill(2**63 - 1), "holds steps"),
    ("dqn", "state/replay.safetensors", lambda it: it["actions"].fill(4), "has actions or rewards"),
    ("dqn", "state/replay.safetensors", lambda it: it["rewards"].fill(np.nan), "has actions or rewards"),
    (
        "sb3",
        SEGMENT,
        lambda it: it["actions"].fill(-1),
        "has actions or rewards",
    ),
    (
        "sb3",
        SEGMENT,
        lambda it: it["actions"].fill(2**40),
        "has actions or rewards",
    ),
    (
        "dqn",
        "loop/played.safetensors",
        lambda it: it.update(actions=np.zeros((60_000_000, 2), np.uint8)),
        "allowed are at most",
    ),
    ("dqn", "loop/played.safetensors", lambda it: it["actions"].fill(200), "was not played in this experiment"),
]
OBJECTS: list[tuple[str, str, Edit, str]] = [
    ("dqn", "state/counters.json", lambda table: table["replay"].update(state=0, inc=0), "inc is even"),
    ("uniform", "state/generator.json", lambda table: table.update(state=0, inc=0), "inc is even"),
    ("dqn", "state/counters.json", lambda table: table.update(steps=2**60), "do not fit each other"),
    ("sb3", "state/state.json", lambda table: table["numpy"].__setitem__(624, 2**30), "no state of its global"),
    ("sb3", "state/state.json", lambda table: table["numpy"].__setitem__(624, -1), "no state of its global"),
    ("sb3", "state/state.json", lambda table: table.update(numpy=[0] * 10), "no state of its global"),
    ("sb3", "state/state.json", lambda table: table.update(logged={"train/loss": "nan"}), "was logged last"),
    ("sb3", "state/state.json", lambda table: table.update(num_timesteps=2**62), "rows"),
    ("dqn", "loop/position.json", lambda table: table.update(begin_steps=121), "do not fit each other"),
    ("dqn", "loop/position.json", lambda table: table.update(written_steps=2**60), "do not fit each other"),
    ("dqn", "loop/position.json", lambda table: table.update(unwritten_seconds=1e300), "allowed is 0.0 to 100000000.0"),
]


@pytest.mark.parametrize(("agent", "name", "edit", "message"), ARRAYS, ids=range(len(ARRAYS)))
def test_arrays_that_would_crash_or_take_gigabytes_are_refused(
    agent: str, name: str, edit: Edit, message: str, take: Callable[[str], tuple[Path, Path]]
) -> None:
    _, checkpoint = take(agent)
    edit_arrays(checkpoint / name, edit)
    with little_is_spent(megabytes=400), pytest.raises(LabError, match=message):
        load_and_go_on(agent, checkpoint)


@pytest.mark.parametrize(("agent", "name", "edit", "message"), OBJECTS, ids=range(len(OBJECTS)))
def test_numbers_that_would_crash_or_hang_are_refused(
    agent: str, name: str, edit: Edit, message: str, take: Callable[[str], tuple[Path, Path]]
) -> None:
    _, checkpoint = take(agent)
    edit_json(checkpoint / name, edit)
    with little_is_spent(megabytes=400), pytest.raises(LabError, match=message):
        load_and_go_on(agent, checkpoint)


@pytest.mark.parametrize("name", ["agent/weights.safetensors", "state/counters.json", "loop/played.safetensors"])
def test_a_terabyte_of_nothing_is_not_read(name: str, take: Callable[[str], tuple[Path, Path]]) -> None:
    _, checkpoint = take("dqn")
    os.truncate(checkpoint / name, 1 << 40)
    with little_is_spent(megabytes=50):
        assert not is_read(lambda: load_and_go_on("dqn", checkpoint))


def test_a_network_of_more_actions_than_a_game_has_is_not_built(take: Callable[[str], tuple[Path, Path]]) -> None:
    _, checkpoint = take("dqn")
    edit_json(checkpoint / "agent" / "agent.json", lambda table: table.update(actions=["A"] * 200_000))
    with little_is_spent(megabytes=50), pytest.raises(LabError, match="allowed are 1 to 18 names"):
        restore_agent(checkpoint, device="cpu")
