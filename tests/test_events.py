"""What a run writes for TensorBoard."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from PIL.GifImagePlugin import GifImageFile

from rl_lab.agent import AgentConfig, Task, load_agent
from rl_lab.atari import AtariVectorEnv
from rl_lab.errors import LabError
from rl_lab.evaluation import evaluate
from rl_lab.events import BY_TIME, NORMALIZED_BY_TIME_TAG, EventWriter, Kept, evaluation_points
from rl_lab.records import read_metrics
from rl_lab.seeding import generator
from rl_lab.video import EpisodeVideo
from tests.events import scalars, tensors
from tests.runs import Interrupts, resume, train
from tests.test_resume import tiny_sb3
from tests.test_tensorboard import evaluation_at, write_run
from tests.tiny import PROTOCOL, tiny_dqn, tiny_experiment


def test_resuming_hides_what_came_after_the_checkpoint_and_keeps_its_evaluation(tmp_path: Path) -> None:
    run = tmp_path / "Pong/dqn/seed-0"
    kept = evaluation_at(8_000, 2.0)
    # The last one was lost within the second of the one that is kept.
    write_run(run, [evaluation_at(4_000, 1.0), kept, evaluation_at(12_000, 3.0, seconds=8)])
    write_run(run, [], kept=Kept(8_000, 8.5, kept))
    assert scalars(run, "eval/mean_reward") == {4_000: 1.0, 8_000: 2.0}
    assert scalars(run / BY_TIME, NORMALIZED_BY_TIME_TAG) == pytest.approx({4: 0.1, 8: 0.2})


def test_a_resumed_run_goes_on_in_frames_and_in_seconds_from_what_its_records_say(tmp_path: Path) -> None:
    run = train(tiny_experiment(), tmp_path, reporter=Interrupts(300)).run
    metrics = run / "metrics.jsonl"
    # As if each of the three points of 400 frames had taken 1,000 seconds; in as many bytes as the checkpoint names.
    text = re.sub(r'"time/fps": [0-9.e+-]+', lambda speed: '"time/fps": 0.4'.ljust(len(speed[0])), metrics.read_text())
    metrics.write_text(text)
    resume(run)
    *_, first, second = scalars(run / BY_TIME, NORMALIZED_BY_TIME_TAG)
    assert first == 2_000
    assert 3_000 <= second < 3_100
    assert list(scalars(run, "eval/mean_reward")) == [800, 1_600]


@pytest.mark.parametrize(("frames", "speed"), [(2**70, 100.0), (-4, 100.0), (4, 1e-300)])
def test_records_that_make_no_sense_are_one_line(frames: int, speed: float, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"frames": frames, "time/fps": speed}) + "\n")
    with pytest.raises(LabError, match=r"metrics\.jsonl is no record of a run"):
        evaluation_points(tmp_path, "Pong")


def test_an_evaluation_is_on_disk_before_the_writer_closes(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, game="Pong", config_toml="", hparams={}, kept=Kept())
    (events,) = tmp_path.glob("events.out.tfevents.*")
    for evaluation in range(20):  # many, since a thread writes what is not flushed, and may by chance be in time
        writer.scalars({"eval/mean_reward": 1.0, f"eval/last_of_{evaluation}": 1.0}, 4_000 * evaluation)
        assert b"eval/last_of_%d" % evaluation in events.read_bytes()
    writer.close()


@pytest.mark.parametrize(("agent", "shown"), [(tiny_dqn(), ["q_values", "td_error"]), (tiny_sb3(), ["q_values"])])
def test_what_the_last_update_saw_is_shown_at_each_point_and_recorded_nowhere(
    agent: AgentConfig, shown: list[str], tmp_path: Path
) -> None:
    run = train(tiny_experiment(agent=agent), tmp_path).run
    for name in shown:
        histograms = tensors(run, f"train/{name}")
        assert list(histograms) == [400, 800, 1_200, 1_600]
        for buckets in histograms.values():  # [bucket, (left, right, count)]
            values = 32 * (4 if name == "q_values" else 1)  # a batch; Breakout has four actions
            assert buckets[:, 2].sum() == values
    for point in read_metrics(run):
        assert not {"train/q_values", "train/td_error", "actions/FIRE"} & point.keys()


def test_shares_of_the_actions_are_those_played_since_the_last_point(tmp_path: Path) -> None:
    agent = load_agent("uniform").Config(name="uniform")
    run = train(tiny_experiment(agent=agent, log_every_steps=50), tmp_path, reporter=Interrupts(130)).run
    resume(run)
    env = AtariVectorEnv("Breakout", PROTOCOL, 2, np.random.SeedSequence(0), training=True)
    played = generator(0, "exploration").integers(0, env.num_actions, 400)
    curves = {name: scalars(run, f"actions/{name}") for name in env.actions}
    for action, name in enumerate(env.actions):
        shares = {4 * end: np.mean(played[end - 50 : end] == action) for end in range(50, 401, 50)}
        assert curves[name] == pytest.approx(shares), name


def test_a_video_is_of_the_first_episode_and_leaves_the_evaluation_as_it_is() -> None:
    agent = load_agent("uniform")(AgentConfig(name="uniform"), Task(4, 1, 0, seed=0))
    agent_again = load_agent("uniform")(AgentConfig(name="uniform"), Task(4, 1, 0, seed=0))
    frames: list[NDArray[np.uint8]] = []
    filmed = evaluate(agent, "Breakout", PROTOCOL, episodes=12, seed=0, record=frames.append)
    assert filmed == evaluate(agent_again, "Breakout", PROTOCOL, episodes=12, seed=0)
    assert len(frames) == pytest.approx(PROTOCOL.max_frames_per_episode / PROTOCOL.frame_skip, abs=10)
    assert {frame.shape for frame in frames} == {(84, 84)}


@pytest.mark.parametrize("steps", [1, 300, 301, 27_000])
def test_a_video_of_any_length_has_at_most_300_frames_from_the_first_to_near_the_last(steps: int) -> None:
    video = EpisodeVideo()
    frame = np.zeros((84, 84), np.uint8)
    for step in range(steps):
        frame[0, :2] = divmod(step, 256)  # changes: GIF joins equal frames
        video.add(frame)
    with Image.open(io.BytesIO(video.gif())) as gif:
        assert isinstance(gif, GifImageFile)
        assert min(steps, 150) <= gif.n_frames <= 300
        shown = []
        for index in (0, gif.n_frames - 1):
            gif.seek(index)
            high, low = np.asarray(gif.convert("L"))[0, :2].tolist()
            shown.append(high * 256 + low)
    assert shown[0] == 0
    assert steps - 1 - shown[1] < steps / 150


def test_a_video_plays_in_real_time() -> None:
    video = EpisodeVideo()
    for step in range(150):
        video.add(np.full((84, 84), step, np.uint8))
    with Image.open(io.BytesIO(video.gif())) as gif:
        assert isinstance(gif, GifImageFile)
        assert gif.n_frames == 150
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif)) == 10_000  # milliseconds
