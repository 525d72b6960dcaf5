"""stable-baselines3's DQN on the bench: as much work as our DQN, one learning in pieces, files that are not run."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import random
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN as UpstreamDQN  # noqa: N811 - two classes of this name meet here
from stable_baselines3.common.buffers import ReplayBuffer

from rl_lab.agent import Task, load_agent
from rl_lab.atari import AtariVectorEnv, Episode, Protocol, named_protocol
from rl_lab.errors import LabError
from rl_lab.saved import SavedFiles
from rl_lab.seeding import seed_sequence
from tests.fakes import EveryStep

if TYPE_CHECKING:
    from agents.sb3_dqn import SB3DQN, SB3DQNConfig

BREAKOUT_ACTIONS = 4


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Episodes:
    """An observer that keeps the finished episodes."""

    def __init__(self) -> None:
        self.finished: list[Episode] = []

    def on_steps(self, total_steps: int) -> None:
        """Nothing to keep."""

    def asks_for_pause(self) -> bool:
        return False

    def on_episode(self, episode: Episode) -> None:
        self.finished.append(episode)


def sb3_class() -> type[SB3DQN]:
    """As the lab loads it."""
    return cast("type[SB3DQN]", load_agent("sb3_dqn"))


def small_config() -> SB3DQNConfig:
    """Learns after 16 steps, twice in 8 steps; keeps 400 transitions (23 MB)."""
    return sb3_class().Config(
        name="sb3_dqn",
        replay_capacity=400,
        batch_size=4,
        learning_starts_steps=16,
        update_every_steps=4,
        target_update_steps=20,
        epsilon_decay_steps=100,
    )


def new_agent(
    config: SB3DQNConfig | None = None, *, num_games: int = 1, num_actions: int = BREAKOUT_ACTIONS, seed: int = 0
) -> SB3DQN:
    """Without what only training needs; the budget is 400 steps."""
    task = Task(num_actions=num_actions, num_games=num_games, total_steps=400, seed=seed)
    return sb3_class()(config or small_config(), task)


def ready_agent(config: SB3DQNConfig | None = None, *, num_games: int = 1, seed: int = 0) -> SB3DQN:
    """Ready to train."""
    agent = new_agent(config, num_games=num_games, seed=seed)
    agent.prepare()
    return agent


def breakout(
    num_games: int = 1, *, iteration: int = 0, protocol: Protocol | None = None, observer: Episodes | None = None
) -> AtariVectorEnv:
    """The training games of an iteration, just reset; equal arguments give equal games."""
    env = AtariVectorEnv(
        "Breakout",
        protocol or named_protocol("sb3_zoo"),
        num_games,
        seed_sequence(0, "train", iteration),
        training=True,
        observer=observer,
    )
    env.reset()
    return env


def replay_of(agent: SB3DQN) -> ReplayBuffer:
    """SB3's own replay, [slot, game, ...]."""
    assert agent.model.replay_buffer is not None
    return agent.model.replay_buffer


def some_observations() -> NDArray[np.uint8]:
    """Coarse random pictures: a network's greedy action differs between them, as it does not on fine noise."""
    cells = np.random.default_rng(0).integers(0, 2, (64, 4, 3, 3)) * 255
    return cells.astype(np.uint8).repeat(28, axis=2).repeat(28, axis=3)


def saved(agent: SB3DQN, directory: Path) -> Path:
    """The agent's model.zip."""
    path = directory / "model.zip"
    path.write_bytes(agent.save()["model.zip"])
    return path


def in_folder(directory: Path) -> SavedFiles:
    return SavedFiles({"model.zip": directory / "model.zip"})


def with_member(path: Path, name: str, content: bytes) -> None:
    """Replace one member of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, old_content in (members | {name: content}).items():
            archive.writestr(member, old_content)


class CreatesFile:
    """Unpickling it makes a directory: what a hostile file would do, at its mildest."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._trace),)


# Work


@pytest.mark.parametrize(("num_games", "update_every_steps"), [(1, 4), (2, 4), (4, 4), (8, 4), (2, 1)])
def test_each_iteration_plays_its_steps_and_updates_once_every_so_many(num_games: int, update_every_steps: int) -> None:
    agent = ready_agent(replace(small_config(), update_every_steps=update_every_steps), num_games=num_games)
    log = EveryStep()
    for iteration in range(2):
        env = breakout(num_games, iteration=iteration)
        agent.train(env, 32, log)
        assert env.steps == 32
    assert agent.model.num_timesteps == 64
    agent.train(breakout(num_games), 8, log)
    # A metric is taken before the updates of its own step: the first of the third iteration sees all of the first two.
    assert log.metrics[64 // num_games]["train/n_updates"] == (64 - 16) / update_every_steps


def test_games_that_do_not_fit_the_update_interval_are_refused() -> None:
    with pytest.raises(LabError, match=r"num_games is 3 and update_every_steps 4; allowed .* multiple of num_games"):
        new_agent(num_games=3)


def test_an_iteration_that_ends_between_two_updates_is_refused_before_its_first_frame() -> None:
    agent, env = ready_agent(), breakout()
    with pytest.raises(LabError, match="are 30; allowed is a multiple of 4"):
        agent.train(env, 30, EveryStep())
    assert env.steps == 0


def test_a_start_of_learning_beyond_the_budget_is_refused() -> None:
    with pytest.raises(LabError, match=r"nothing would be learned; use a smaller --agent\.learning-starts-steps"):
        new_agent(replace(small_config(), learning_starts_steps=400))


def test_a_batch_larger_than_the_replay_is_refused() -> None:
    with pytest.raises(LabError, match="batch_size is 32 and replay_capacity 16"):
        replace(small_config(), batch_size=32, replay_capacity=16)


def test_steps_to_a_return_are_at_most_a_thousand() -> None:
    with pytest.raises(LabError, match="n_step is 1001; allowed is 1 to 1000"):
        replace(small_config(), n_step=1_001)


def test_memory_of_a_batch_is_checked_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 100_000_000)
    config = replace(small_config(), replay_capacity=1_000, replay="lean")
    new_agent(config).prepare()
    with pytest.raises(LabError, match=r"with batches of 1,000 and .* needs 0\.5 GB, .* or --agent\.batch-size"):
        new_agent(replace(config, batch_size=1_000)).prepare()


def test_memory_is_checked_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 22_000_000)
    agent = new_agent()
    with pytest.raises(
        LabError, match=r"28,224 bytes each.* needs 0\.0 GB, 0\.0 GB free; use --agent\.replay-capacity"
    ):
        agent.prepare()
    assert replay_of(agent).buffer_size == 1


# One learning in pieces


def exploration_rates(iterations: tuple[int, ...], config: SB3DQNConfig) -> list[object]:
    """SB3's own rate at each step of the given iterations."""
    agent = ready_agent(config)
    log = EveryStep(lambda: agent.model.exploration_rate)
    for iteration, steps in enumerate(iterations):
        agent.train(breakout(iteration=iteration), steps, log)
    return log.seen


def test_epsilon_goes_on_over_iterations_as_over_one() -> None:
    config = replace(small_config(), epsilon_start=0.9, epsilon_end=0.1, epsilon_decay_steps=40)
    in_pieces = exploration_rates((20, 20, 20), config)
    assert in_pieces == exploration_rates((60,), config)
    # The rate of step t was set after step t - 1; the first one is SB3's own 0, in the random play before learning.
    expected = [max(0.9 - 0.8 * step / 40, 0.1) for step in range(60)]
    assert in_pieces[1:] == pytest.approx(expected[1:])


def test_a_decay_longer_than_the_budget_ends_where_it_should() -> None:
    rates = exploration_rates((100,), replace(small_config(), epsilon_end=0.0, epsilon_decay_steps=1_000))
    assert rates[-1] == pytest.approx(1.0 - 99 / 1_000)


def test_no_decay_is_the_final_epsilon_at_once() -> None:
    rates = exploration_rates((8,), replace(small_config(), epsilon_end=0.25, epsilon_decay_steps=0))
    assert rates[1:] == [0.25] * 7


@pytest.mark.parametrize("num_games", [1, 2])
def test_no_transition_crosses_iterations(num_games: int) -> None:
    agent = ready_agent(num_games=num_games)
    for iteration in range(2):
        agent.train(breakout(num_games, iteration=iteration), 24, EveryStep())
    replay, start = replay_of(agent), 24 // num_games
    first_observations = breakout(num_games, iteration=1).observations
    assert np.array_equal(replay.observations[start], first_observations)
    assert not np.array_equal(replay.next_observations[start - 1], first_observations)
    # An end that is a time limit: nothing is lost from the value, and SB3's n-step returns stop there.
    assert replay.dones[start - 1].all()
    assert replay.timeouts[start - 1].all()
    going_on = np.flatnonzero(~replay.dones[: start - 1].any(axis=1))
    assert np.array_equal(replay.next_observations[going_on], replay.observations[going_on + 1])


def test_a_timeout_keeps_its_bootstrap() -> None:
    agent, episodes = ready_agent(), Episodes()
    protocol = Protocol(name="short", fire_reset=True, noop_max=0, max_frames_per_episode=40)
    agent.train(breakout(protocol=protocol, observer=episodes), 40, EveryStep())
    replay = replay_of(agent)
    cuts = [episode.end_step - 1 for episode in episodes.finished]
    assert len(cuts) > 2
    assert np.flatnonzero(replay.dones[:39]).tolist() == [cut for cut in cuts if cut < 39]
    batch = replay.sample(400)
    assert not batch.dones.any()
    # What is bootstrapped from is the cut episode's last observation, not the next one's first.
    assert not np.array_equal(replay.next_observations[cuts[0]], replay.observations[cuts[0] + 1])
    assert np.array_equal(replay.next_observations[cuts[0]][0, :-1], replay.observations[cuts[0]][0, 1:])


def test_a_lost_life_ends_the_return_while_the_game_goes_on() -> None:
    agent, episodes = ready_agent(replace(small_config(), learning_starts_steps=399)), Episodes()
    agent.train(breakout(observer=episodes), 120, EveryStep())
    replay = replay_of(agent)
    game_ends = {episode.end_step - 1 for episode in episodes.finished}
    ends = set(np.flatnonzero(replay.dones[:119, 0] * (1 - replay.timeouts[:119, 0])).tolist())
    lost_lives = sorted(ends - game_ends)
    assert lost_lives
    assert np.array_equal(replay.next_observations[lost_lives], replay.observations[[step + 1 for step in lost_lives]])


def test_two_seeds_play_differently_and_one_seed_alike() -> None:
    def actions(seed: int) -> list[int]:
        agent = ready_agent(seed=seed)
        agent.train(breakout(), 40, EveryStep())
        return cast("list[int]", replay_of(agent).actions[:40, 0, 0].tolist())

    assert actions(1) == actions(1) != actions(2)


# Metrics


def test_metrics_of_learning_start_with_the_first_update() -> None:
    agent, log = ready_agent(), EveryStep()
    agent.train(breakout(), 40, log)
    before = [metrics for metrics in log.metrics if metrics["train/n_updates"] == 0]
    assert len(before) == 20  # 16 steps before learning and a round of 4
    assert all(set(metrics) == {"rollout/exploration_rate", "train/n_updates"} for metrics in before)
    assert set(log.metrics[20]) == {
        *("rollout/exploration_rate", "train/n_updates", "train/loss", "train/q_mean", "train/learning_rate"),
    }
    assert log.metrics[20]["train/learning_rate"] == 1e-4


def test_metrics_of_learning_outlive_the_ends_of_episodes() -> None:
    log, protocol = EveryStep(), Protocol(name="short", noop_max=0, max_frames_per_episode=20)
    ready_agent(replace(small_config(), update_every_steps=8)).train(breakout(protocol=protocol), 80, log)
    updates = [metrics["train/n_updates"] for metrics in log.metrics]
    assert updates == sorted(updates)


def test_exploration_rate_is_one_before_learning_starts() -> None:
    log = EveryStep()
    ready_agent(replace(small_config(), epsilon_start=0.5)).train(breakout(), 20, log)
    rates = [metrics["rollout/exploration_rate"] for metrics in log.metrics]
    assert rates[:15] == [1.0] * 15
    assert rates[16] < 0.5


def test_q_mean_is_the_mean_of_the_greedy_values_of_the_last_batch() -> None:
    # All transitions alike: whatever batch SB3 draws, its greedy value is that of this one observation.
    agent, log = ready_agent(), EveryStep()
    agent.train(breakout(), 20, EveryStep())  # the first update is made at the end of this iteration
    replay = replay_of(agent)
    replay.observations[:] = some_observations()[0]
    with torch.no_grad():
        q_values = agent.model.q_net(torch.from_numpy(some_observations()[:1]))
    agent.model.train(gradient_steps=1, batch_size=4)
    agent.act(some_observations()[1:])  # acting is no update
    agent.action_values(some_observations()[1:])
    agent.train(breakout(iteration=1), 4, log)
    assert log.metrics[0]["train/q_mean"] == pytest.approx(q_values.max().item(), rel=1e-5)


def test_nothing_is_printed_and_nothing_written(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    agent = ready_agent()
    agent.train(breakout(), 40, EveryStep())
    agent.act(some_observations())
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
    assert not list(tmp_path.iterdir())


# Acting and files


def test_the_action_of_the_greatest_value_is_taken() -> None:
    agent = new_agent()
    values = agent.action_values(some_observations())
    assert values.shape == (64, BREAKOUT_ACTIONS)
    assert values.dtype == np.float32
    assert values.argmax(axis=1).tolist() == agent.act(some_observations()).tolist()


def test_act_draws_no_random_number() -> None:
    agent = ready_agent()
    agent.train(breakout(), 24, EveryStep())
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    actions = agent.act(some_observations())
    assert actions.shape == (64,)
    assert actions.dtype == np.int64
    assert np.array_equal(actions, agent.act(some_observations()))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_loaded_agent_acts_like_the_saved_one(tmp_path: Path) -> None:
    agent = ready_agent()
    agent.train(breakout(), 40, EveryStep())
    saved(agent, tmp_path)
    loaded = new_agent(seed=1, num_games=2)
    assert not np.array_equal(loaded.act(some_observations()), agent.act(some_observations()))
    loaded.load(in_folder(tmp_path))
    assert np.array_equal(loaded.act(some_observations()), agent.act(some_observations()))
    loaded.prepare()
    assert np.array_equal(loaded.act(some_observations()), agent.act(some_observations()))


def test_sb3_itself_reads_what_is_saved(tmp_path: Path) -> None:
    agent = ready_agent()
    upstream = UpstreamDQN.load(saved(agent, tmp_path), device="cpu")
    actions, _ = upstream.predict(some_observations(), deterministic=True)
    assert np.array_equal(actions, agent.act(some_observations()))


def test_a_pickle_among_the_saved_settings_does_not_run(tmp_path: Path) -> None:
    agent, trace = new_agent(), tmp_path / "trace"
    path = saved(agent, tmp_path)
    payload = base64.b64encode(pickle.dumps(CreatesFile(trace))).decode()
    with_member(path, "data", json.dumps({"policy_class": {":type:": "x", ":serialized:": payload}}).encode())
    agent.load(in_folder(tmp_path))
    assert not trace.exists()
    with pytest.raises(KeyError):  # the file bites: SB3's own load runs it
        UpstreamDQN.load(path)
    assert trace.exists()


def test_a_pickle_in_place_of_the_weights_does_not_run(tmp_path: Path) -> None:
    agent, trace = new_agent(), tmp_path / "trace"
    path, content = saved(agent, tmp_path), io.BytesIO()
    torch.save(CreatesFile(trace), content)
    with_member(path, "policy.pth", content.getvalue())
    with pytest.raises(LabError, match=r"something else: 'posix mkdir' in place of 'collections OrderedDict'"):
        agent.load(in_folder(tmp_path))
    assert not trace.exists()


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    agent = new_agent()
    path = saved(agent, tmp_path)
    whole = path.read_bytes()
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("readme.txt", "not a model")
    for content in (whole[: len(whole) // 2], b"", b"not a zip", foreign.getvalue()):
        path.write_bytes(content)
        with pytest.raises(LabError, match=r"model\.zip (is damaged|holds an unknown member)") as error:
            agent.load(in_folder(tmp_path))
        assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(LabError, match=r"model\.zip cannot be read"):
        agent.load(in_folder(tmp_path))


def test_weights_of_another_number_of_actions_are_refused_in_one_line(tmp_path: Path) -> None:
    saved(new_agent(num_actions=6), tmp_path)
    with pytest.raises(LabError, match=r"after q_net\.q_net\.0\.weight; allowed is .* with 4 actions") as error:
        new_agent().load(in_folder(tmp_path))
    assert "\n" not in str(error.value)
