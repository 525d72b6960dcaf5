"""`rl-lab video` as people run it: real videos that are decoded again, and mistakes in one line each."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from rl_lab.atari import ColourGame
from rl_lab.checkpoint import newest_checkpoint
from rl_lab.cli.main import main
from rl_lab.evaluation import evaluation_seeds
from rl_lab.saved_agent import restore_agent
from rl_lab.viewing import Panel, Saliency, play
from rl_lab.viewing.video import ENCODERS, VideoFile
from tests.processes import RL_LAB, ended, started, wait_until
from tests.runs import train_agents_to_watch
from tests.tiny import PROTOCOL


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_agents_to_watch(tmp_path_factory.mktemp("watch") / "runs")


@pytest.fixture(scope="module")
def run(runs: Path) -> Path:
    return runs / "Breakout" / "tiny" / "seed-0"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


def pictures(run: Path, num_frames: int, *, saliency: bool = False) -> list[NDArray[np.uint8]]:
    """The first ones of the first episode, as they should be shown."""
    agent, _ = restore_agent(newest_checkpoint(run)[0], device="cpu")
    game = ColourGame("Breakout", PROTOCOL, evaluation_seeds(0))
    caption = ["tiny, seed 0", "protocol nature2015(max_frames_per_episode=400)"]
    panel = Panel("Breakout", caption, game.env.actions)
    look = Saliency(agent.action_values) if saliency else lambda observations: None
    steps = play(agent, game, seed=0, episodes=1, look=look)
    shown = (panel.picture(screen, viewed.moment) for viewed in steps for screen in viewed.frames)
    return list(itertools.islice(shown, num_frames))


def decoded(path: Path) -> list[av.VideoFrame]:
    """What is in a video of 60 frames a second."""
    with av.open(path) as container:
        assert container.streams.video[0].average_rate == 60
        return list(container.decode(video=0))


def difference(frame: av.VideoFrame, picture: NDArray[np.uint8]) -> float:
    """Of the mean pixel."""
    return float(np.abs(frame.to_ndarray(format="rgb24").astype(np.int16) - picture).mean())


# Videos


def test_video_holds_every_frame_of_the_play(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", str(run), "--out", "play.mp4", "--threads", "1"]) == 0
    assert re.fullmatch(r"play\.mp4: 6\.7 s, score \d+\n", capsys.readouterr().out)
    shown = decoded(Path("play.mp4"))
    assert len(shown) == 400
    some = slice(None, None, 19)
    expected = pictures(run, 400)[some]
    for frame, picture in zip(shown[some], expected, strict=True):
        assert difference(frame, picture) < 1.5
    assert difference(shown[0], expected[-1]) > 1.5
    assert os.listdir() == ["play.mp4"]


def test_saliency_is_in_the_video(run: Path) -> None:
    command = ["video", str(run), "--out", "play.mp4", "--threads", "1", "--saliency", "--max-seconds", "0.5"]
    assert main(command) == 0
    *_, last = decoded(Path("play.mp4"))
    assert difference(last, pictures(run, 30, saliency=True)[-1]) < 1.5
    assert difference(last, pictures(run, 30)[-1]) > 5


def test_videos_score_is_the_one_of_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--episodes", "1", "--seed", "5", "--threads", "1", "--json"]) == 0
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    assert main(["video", str(run), "--seed", "5", "--out", "play.mp4", "--threads", "1"]) == 0
    assert capsys.readouterr().out == f"play.mp4: 6.7 s, score {score:g}\n"


@pytest.mark.parametrize("suffix", ENCODERS)
def test_every_allowed_suffix_is_a_video_that_can_be_cut(
    suffix: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(f"play{suffix}")
    assert main(["video", str(run), "--out", str(out), "--max-seconds", "0.35", "--threads", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: 0.3 s, cut in episode 1 at score 0\n"
    shown = decoded(out)
    assert len(shown) == 21
    assert difference(shown[-1], pictures(run, 21)[-1]) < 3


def test_episodes_follow_one_another(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["video", str(run), "--episodes", "2", "--out", "play.mp4", "--max-seconds", "7", "--threads", "1"]
    assert main(command) == 0
    assert re.fullmatch(r"play\.mp4: 7\.0 s, score \d+, cut in episode 2 at score 0\n", capsys.readouterr().out)


def test_an_agent_without_values_is_recorded_too(runs: Path) -> None:
    run = runs / "Breakout" / "uniform" / "seed-0"
    assert main(["video", str(run), "--out", "play.mp4", "--max-seconds", "0.2", "--threads", "1"]) == 0
    assert len(decoded(Path("play.mp4"))) == 12


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path("play.mp4")
    out.write_text("precious")
    command = ["video", str(run), "--out", str(out), "--max-seconds", "0.2", "--threads", "1"]
    assert main(command) == 2
    assert capsys.readouterr().err == "rl-lab: play.mp4 exists; give another name, or --overwrite\n"
    assert out.read_text() == "precious"
    assert main([*command, "--overwrite"]) == 0
    assert len(decoded(out)) == 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_old_video(number: signal.Signals, run: Path) -> None:
    Path("play.mp4").write_text("precious")
    command = ["video", run, "--episodes", 1000, "--out", "play.mp4", "--overwrite", "--threads", 1]
    with started(*RL_LAB, *command) as process:
        part = Path(".play.part.mp4")
        wait_until(lambda: part.exists() and part.stat().st_size > 0, process)
        process.send_signal(number)
        status, output, errors = ended(process)
    assert (status, output, errors) == (130, "", "")
    assert os.listdir() == ["play.mp4"]
    assert Path("play.mp4").read_text() == "precious"


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(run: Path) -> None:
    done = subprocess.run(
        [*RL_LAB, "video", str(run), "--out", "play.mp4", "--threads", "1"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "rl-lab: play.mp4 cannot be written: File too large; give --out another folder\n"
    assert (done.returncode, done.stderr) == (2, expected)
    assert not os.listdir()


def test_a_video_file_is_absent_until_it_is_whole() -> None:
    screen = np.zeros((210, 160, 3), np.uint8)
    with VideoFile(Path("play.mp4"), frames_per_second=60, comment="") as video:
        video.write(screen)
        assert not Path("play.mp4").exists()
    assert os.listdir() == ["play.mp4"]


def test_a_video_may_have_a_colon_in_its_name() -> None:
    with VideoFile(Path("12:30.mp4"), frames_per_second=60, comment="") as video:
        video.write(np.zeros((210, 160, 3), np.uint8))
    assert os.listdir() == ["12:30.mp4"]


# Mistakes


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("video RUN", "the following arguments are required: --out"),
        ("video RUN --out play.xyz", "play.xyz has the suffix '.xyz'; allowed is one of .mp4, .mkv, .mov, .webm"),
        ("video RUN --out play", "play has the suffix ''; allowed is one of"),
        ("video RUN --out absent/play.mp4", "there is no folder absent for play.mp4; make it first"),
        ("video RUN --out folder.mp4", "folder.mp4 is a folder; give the name of a file"),
        (f"video RUN --out {'x' * 249}.mp4", "cannot be written: File name too long; give --out another folder"),
        (f"video RUN --out {'x' * 300}.mp4", "cannot be written: File name too long; give --out another folder"),
        ("video RUN --out play.mp4 --episodes 0", "episodes are 0; allowed is 1 or more"),
        ("video RUN --out play.mp4 --seed -1", "the seed is -1; allowed is 0 or more"),
        ("video RUN --out play.mp4 --max-seconds 0", "max-seconds is 0.0; allowed is anything above 0"),
        ("video RUN --out play.mp4 --max-seconds nan", "max-seconds is nan; allowed is anything above 0"),
        ("video RUN --out play.mp4 --game Alien", "the agent was trained with NOOP FIRE RIGHT LEFT, Alien has NOOP"),
        ("video RUN --out play.mp4 --protocol nature", "no protocol 'nature'"),
        ("video UNIFORM --out play.mp4 --saliency", "this agent gives no values of its actions, which --saliency"),
        ("video EMPTY --out play.mp4", "no checkpoint"),
        (
            "video BEGUN --out play.mp4",
            "begun has no checkpoint yet; the first one is written at its first",
        ),
        (f"video {'x' * 300} --out play.mp4", "cannot be looked into: File name too long; give a run or a checkpoint"),
        ("video absent --out play.mp4", "absent is no run and no checkpoint"),
    ],
)
def test_a_mistake_is_one_line_with_status_2_and_leaves_nothing(
    command: str, message: str, run: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.mp4").mkdir()
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "config.toml", tmp_path / "begun")
    names = {"RUN": run, "UNIFORM": runs / "Breakout" / "uniform" / "seed-0"}
    names |= {"EMPTY": tmp_path / "empty", "BEGUN": tmp_path / "begun"}
    assert main([str(names.get(word, word)) for word in command.split()]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert message in errors
    assert errors.count("\n") == 1
    assert os.listdir() == ["folder.mp4"]


def test_without_pyav_a_video_is_refused_with_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["video", str(run), "--out", "play.mp4"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("rl-lab: PyAV, which writes videos, cannot be imported")
    assert errors.endswith("pip install 'rl-lab[video]'\n")
    assert errors.count("\n") == 1


def test_an_encoder_that_pyav_lacks_is_refused_by_name(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ENCODERS, ".mp4", "libx999")
    assert main(["video", str(run), "--out", "play.mp4"]) == 2
    errors = capsys.readouterr().err
    assert "this build of PyAV has no encoder libx999 for .mp4; install PyAV's own build" in errors
    assert errors.count("\n") == 1
