"""What people see in TensorBoard, asked of the real server over HTTP."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from rl_lab.cli.main import main
from rl_lab.errors import LabError, LabWarning
from rl_lab.events import (
    BY_TIME,
    NORMALIZED_BY_TIME_TAG,
    EvaluationPoint,
    EventFile,
    EventWriter,
    Kept,
    game_tag,
    hyperparameters,
)
from rl_lab.records import TUNE_MARK, read_evaluations, read_metrics
from rl_lab.scores import reference, score_table
from rl_lab.tensorboard import (
    Server,
    link_runs,
    overview,
    planned_frames,
    readable_runs,
    record_runs,
    reference_runs,
)
from rl_lab.video import EpisodeVideo
from tests.events import scalars

FRAMES = (0, 4_000, 8_000)
CONFIG = """name = "tiny"
game = "{game}"
seed = 0
total_steps = {total_steps}

[protocol]
frame_skip = 4

[agent]
{agent}
"""
AGENTS = {
    "dqn": 'name = "dqn"\nlearning_rate = 0.00025\ndouble = true',
    "sb3_dqn": 'name = "sb3_dqn"\nlearning_rate = 0.0001\ngradient_steps = 3',
}
PLANNED_FRAMES = 10_000
GAMES = ("Breakout", "Pong")
RUNS = [f"{game}/{agent}/seed-0" for game in GAMES for agent in AGENTS]
# Each with the tag that is written last, and its points. All but the first are scores of an exploring agent.
REFERENCES = {
    "dqn_nature_2015": ("eval/human_normalized_score", 2),
    "cleanrl_dqn_10M": ("rollout/ep_rew_mean", 2),
    "dopamine_dqn_cnn training returns": ("rollout/ep_rew_mean", 1),
}
REFERENCE_NAMES = ["dqn_nature_2015", "cleanrl_dqn_10M", "dopamine_dqn_cnn"]


def evaluation_at(frames: int, score: float, seconds: int | None = None) -> EvaluationPoint:
    """An evaluation at so many frames, 1,000 of them a second unless the seconds are given."""
    return EvaluationPoint(frames, frames // 1_000 if seconds is None else seconds, score, score / 10)


def write_run(folder: Path, evaluations: list[EvaluationPoint], kept: Kept | None = None) -> None:
    """A run at <Game>/<agent>/seed-<n>, with a point of the training curve at each evaluation."""
    game, agent, _ = folder.parts[-3:]
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG.format(game=game, total_steps=2_500, agent=AGENTS[agent])
    (folder / "config.toml").write_text(config)
    (folder / "status.json").write_text("{}")
    hparams = hyperparameters(tomllib.loads(config), protocol="nature2015")
    writer = EventWriter(folder, game=game, config_toml=config, hparams=hparams, kept=kept or Kept())
    for point in evaluations:
        writer.scalars({"rollout/ep_rew_mean": point.mean_score / 2}, point.frames)
        writer.evaluation(point)
        writer.histogram("train/q_values", np.linspace(-1, 1, 100), point.frames)
        writer.gif("eval/first_episode", three_frames(), point.frames)
    writer.close()


def three_frames() -> bytes:
    video = EpisodeVideo()
    for column in range(3):
        frame = np.zeros((84, 84), np.uint8)
        frame[:, 10 * column] = 255
        video.add(frame)
    return video.gif()


def request(server: Server, path: str, body: str | None = None) -> tuple[int, bytes]:
    """Status and answer; past any proxy that the environment has."""
    url = urllib.parse.urlsplit(server.address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    try:
        connection.request("GET" if body is None else "POST", f"/data/{path}", body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def get(server: Server, path: str, body: str | None = None, **query: str) -> Any:
    """The JSON answer, of whatever shape."""
    status, text = request(server, f"{path}?{urllib.parse.urlencode(query)}", body)
    assert status == http.HTTPStatus.OK, text
    return json.loads(text)


def poll(ready: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what TensorBoard loads in the background; the assertion fails after a bounded time."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not so after {seconds} seconds"
        time.sleep(0.1)


def points(server: Server, run: str, tag: str) -> dict[int, float]:
    status, text = request(server, "plugin/scalars/scalars?" + urllib.parse.urlencode({"run": run, "tag": tag}))
    return {step: value for _, step, value in json.loads(text)} if status == http.HTTPStatus.OK else {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents in two games; dqn's score in Pong is 0, 1, 2, and the others' are 10 higher each."""
    folder = tmp_path_factory.mktemp("runs")
    for number, run in enumerate(sorted(RUNS, key=lambda run: run != "Pong/dqn/seed-0")):
        write_run(folder / run, [evaluation_at(frames, 10.0 * number + i) for i, frames in enumerate(FRAMES)])
    return folder


@pytest.fixture(scope="module")
def server(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves the runs and the references as the command does, and has loaded all of them."""
    logdir = tmp_path_factory.mktemp("logdir")
    reference_runs(logdir / "reference", REFERENCE_NAMES, planned_frames(readable_runs(runs).values()))
    overview(readable_runs(runs).values(), logdir)
    link_runs(runs, logdir)
    lengths = {(f"{run}/{BY_TIME}", "eval/human_normalized_score_by_time"): len(FRAMES) for run in RUNS}
    for name, (tag, length) in REFERENCES.items():
        lengths |= {(f"reference/{name}/{game}", game_tag(game, tag)): length for game in GAMES}
    with Server(logdir) as server:
        poll(lambda: all(len(points(server, *curve)) == length for curve, length in lengths.items()))
        yield server


def test_runs_have_the_names_of_their_folders(server: Server) -> None:
    references = [f"reference/{name}/{game}" for name in REFERENCES for game in GAMES]
    assert sorted(get(server, "runs")) == sorted([".", *RUNS, *(f"{run}/{BY_TIME}" for run in RUNS), *references])


def test_scores_stand_at_their_frames(server: Server) -> None:
    assert points(server, "Pong/dqn/seed-0", "eval/mean_reward") == {0: 0.0, 4_000: 1.0, 8_000: 2.0}


def test_the_same_curve_has_a_tag_of_its_game(server: Server) -> None:
    for tag in ("eval/mean_reward", "eval/human_normalized_score", "rollout/ep_rew_mean"):
        curve = points(server, "Breakout/dqn/seed-0", tag)
        assert len(curve) == len(FRAMES)
        assert points(server, "Breakout/dqn/seed-0", game_tag("Breakout", tag)) == curve


def test_the_human_normalized_score_is_drawn_over_seconds_too(server: Server) -> None:
    curve = points(server, f"Pong/dqn/seed-0/{BY_TIME}", "game/Pong/human_normalized_score_by_time")
    assert curve == pytest.approx({0: 0.0, 4: 0.1, 8: 0.2})


def test_layout_has_each_game_once_and_each_chart_finds_both_agents_and_the_references_of_its_game_only(
    server: Server,
) -> None:
    sections = get(server, "plugin/custom_scalars/layout")["category"]
    assert [section["title"] for section in sections] == ["Breakout", "Pong"]
    for section in sections:
        game = section["title"]
        mine = {run for run in RUNS if run.startswith(game)}
        evaluated, *trained = (f"reference/{name}/{game}" for name in REFERENCES)
        over_seconds = {f"{run}/{BY_TIME}" for run in mine}
        found = [
            {
                run
                for run in get(server, "runs")
                for tag in chart["multiline"]["tag"]
                if get(server, "plugin/custom_scalars/scalars", run=run, tag=tag)["tag_to_events"]
            }
            for chart in section["chart"]
        ]
        assert found == [mine | {evaluated}, over_seconds, mine | {evaluated}, mine | {*trained}]


def test_hyperparameters_of_both_agents_and_final_scores_are_the_columns_of_the_table(server: Server) -> None:
    table = get(server, "plugin/hparams/experiment", body="{}")
    columns = {column["name"] for column in table["hparamInfos"]}
    agents = {"agent.name", "agent.learning_rate", "agent.double", "agent.gradient_steps"}
    assert columns == {"game", "seed", "protocol"} | agents
    metrics = [column["displayName"] for column in table["metricInfos"]]
    assert metrics == ["evaluation score", "human-normalized score", "frames"]


def test_hyperparameters_and_final_scores_are_in_the_row_of_their_run(server: Server) -> None:
    question = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_UNKNOWN"]}
    rows = get(server, "plugin/hparams/session_groups", body=json.dumps(question))["sessionGroups"]
    assert sorted(row["name"] for row in rows) == sorted(RUNS)
    row = next(row for row in rows if row["name"] == "Pong/dqn/seed-0")
    agent = {"agent.name": "dqn", "agent.learning_rate": 0.00025, "agent.double": "true"}
    assert row["hparams"] == {"game": "Pong", "seed": 0, "protocol": "nature2015", **agent}
    assert [metric["value"] for metric in row["metricValues"]] == pytest.approx([2.0, 0.2, 8_000])


def test_an_evaluation_has_a_video(server: Server) -> None:
    run = {"run": "Pong/dqn/seed-0", "tag": "eval/first_episode"}
    images = get(server, "plugin/images/images", sample="0", **run)
    assert [image["step"] for image in images] == list(FRAMES)
    status, gif = request(server, f"plugin/images/individualImage?{images[-1]['query']}")
    assert status == http.HTTPStatus.OK
    with Image.open(io.BytesIO(gif)) as video:
        assert isinstance(video, GifImageFile)
        assert (video.n_frames, video.size) == (3, (84, 84))


def test_histograms_stand_at_their_frames(server: Server) -> None:
    histograms = get(server, "plugin/histograms/histograms", run="Pong/dqn/seed-0", tag="train/q_values")
    assert [step for _, step, _ in histograms] == list(FRAMES)
    assert sum(count for _, _, count in histograms[-1][2]) == 100


def test_config_is_shown_as_a_block_of_code(server: Server) -> None:
    (text,) = get(server, "plugin/text/text", run="Pong/dqn/seed-0", tag="config/text_summary")
    assert "<pre><code" in text["text"]
    assert "total_steps = 2500" in text["text"]


@pytest.mark.parametrize("game", ["Pong", "Breakout"])
def test_reference_is_a_constant_line_over_the_planned_frames(server: Server, game: str) -> None:
    run = f"reference/dqn_nature_2015/{game}"
    score = reference("dqn_nature_2015").scores[game]
    normalized = score_table().human_normalized(game, score)
    for tag, value in {"eval/mean_reward": score, "eval/human_normalized_score": normalized}.items():
        line = {0: pytest.approx(value), PLANNED_FRAMES: pytest.approx(value)}
        assert points(server, run, tag) == line
        assert points(server, run, game_tag(game, tag)) == line


def test_nature_dqn_is_drawn_at_its_published_score_in_pong(server: Server) -> None:
    line = points(server, "reference/dqn_nature_2015/Pong", "game/Pong/mean_reward")
    assert list(line.values()) == pytest.approx([18.9, 18.9])


@pytest.mark.parametrize("name", ["cleanrl_dqn_10M", "dopamine_dqn_cnn training returns"])
def test_scores_of_an_exploring_reference_stay_out_of_the_evaluations(server: Server, name: str) -> None:
    tags = get(server, "plugin/scalars/tags")[f"reference/{name}/Pong"]
    assert set(tags) == {"rollout/ep_rew_mean", "game/Pong/ep_rew_mean"}


def test_a_published_training_curve_goes_as_far_as_the_runs(tmp_path: Path) -> None:
    reference_runs(tmp_path, ["dopamine_dqn_cnn"], {"Pong": 6_000_000})
    drawn = scalars(tmp_path / "dopamine_dqn_cnn training returns/Pong", "rollout/ep_rew_mean")
    million = 1_000_000
    published = {1 * million: -20.19, 2 * million: -18.36, 3 * million: -16.12, 5 * million: -11.2, 7 * million: -4.61}
    assert drawn == pytest.approx(published)


def test_published_records_are_shown_though_they_have_no_event_files(tmp_path: Path) -> None:
    published = Path(__file__).parent.parent / "docs" / "results" / "like"
    record_runs(readable_runs(published), published, tmp_path)
    run = "Boxing/dqn-like/seed-0"
    evaluations = {record["frames"]: record["mean_score"] for record in read_evaluations(published / run)}
    assert scalars(tmp_path / run, "game/Boxing/mean_reward") == pytest.approx(evaluations)
    assert list(scalars(tmp_path / run / BY_TIME, "time/frames_by_time").values()) == list(evaluations)
    training = {
        point["frames"]: point["train/loss"] for point in read_metrics(published / run) if "train/loss" in point
    }
    assert scalars(tmp_path / run, "train/loss") == pytest.approx(training)


def test_a_damaged_run_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"runs/Pong/dqn/seed-{seed}", [evaluation_at(4_000, 1.0)])
    (tmp_path / "runs/Pong/dqn/seed-0/config.toml").write_text("game = 3")
    with pytest.warns(LabWarning, match="seed-0/config.toml is no record of a run"):
        configs = readable_runs(tmp_path / "runs")
    assert [run.name for run in configs] == ["seed-1", "seed-2"]

    for run in configs:
        next(run.glob("events.out.tfevents.*")).unlink()
    (tmp_path / "runs/Pong/dqn/seed-1/evaluations.jsonl").write_text("{}\n")
    with pytest.warns(LabWarning, match="seed-1/evaluations.jsonl is no record of a run"):
        record_runs(configs, tmp_path / "runs", tmp_path / "records")
    assert [run.name for run in (tmp_path / "records/Pong/dqn").iterdir()] == ["seed-2"]


def test_a_single_run_is_served_under_its_own_name(tmp_path: Path) -> None:
    run, logdir = tmp_path / "Pong/dqn/seed-0", tmp_path / "logdir"
    write_run(run, [evaluation_at(4_000, 1.0)])
    overview(readable_runs(run).values(), logdir)
    link_runs(run, logdir)
    link_runs(run, logdir)
    assert scalars(logdir / "seed-0", "eval/mean_reward") == {4_000: 1.0}
    assert scalars(logdir / "seed-0" / BY_TIME, NORMALIZED_BY_TIME_TAG) == pytest.approx({4: 0.1})


def test_files_beside_the_runs_are_not_shown(tmp_path: Path) -> None:
    runs, logdir = tmp_path / "runs", tmp_path / "logdir"
    write_run(runs / "Pong/dqn/seed-0", [])
    EventFile(runs).close()
    overview(readable_runs(runs).values(), logdir)
    link_runs(runs, logdir)
    assert [path.relative_to(logdir) for path in logdir.rglob("*") if path.is_symlink()] == [Path("Pong/dqn/seed-0")]


def test_all_runs_but_a_tunes_are_shown_wherever_they_lie(tmp_path: Path) -> None:
    runs, logdir = tmp_path / "runs", tmp_path / "logdir"
    shown = ["mine/Pong/dqn/seed-0", "records/Pong/dqn/seed-0", "reference/Pong/dqn/seed-0"]
    for run in (*shown, "mine/tunes/steady/trial-0/Pong/dqn/seed-0"):
        write_run(runs / run, [])
    (runs / "mine/tunes/steady" / TUNE_MARK).write_text("{}")
    link_runs(runs, logdir)
    assert sorted(str(path.relative_to(logdir)) for path in logdir.rglob("*") if path.is_symlink()) == shown


def test_new_points_and_new_games_appear_in_a_running_server_and_a_resume_breaks_no_curve(tmp_path: Path) -> None:
    runs, logdir, run = tmp_path / "runs", tmp_path / "logdir", "Pong/dqn/seed-0"
    logdir.mkdir()
    kept, *lost = [evaluation_at(8_000, 2.0), evaluation_at(12_000, 3.0), evaluation_at(16_000, 3.5)]
    write_run(runs / run, [evaluation_at(4_000, 1.0), kept, *lost])
    link_runs(runs, logdir)
    with Server(logdir) as server:
        poll(lambda: len(points(server, f"{run}/{BY_TIME}", "eval/human_normalized_score_by_time")) == 4)
        # Resumed from the checkpoint at 8,000 frames, to another score, and slower: later than all that was lost.
        write_run(runs / run, [evaluation_at(12_000, 4.0, seconds=20)], kept=Kept(8_000, 8.5, kept))
        write_run(runs / "Freeway/dqn/seed-0", [evaluation_at(4_000, 5.0)])
        link_runs(runs, logdir)
        by_frames = {4_000: 1.0, 8_000: 2.0, 12_000: 4.0}
        poll(lambda: points(server, run, "eval/mean_reward") == by_frames)
        by_seconds = pytest.approx({4: 0.1, 8: 0.2, 20: 0.4})
        poll(lambda: points(server, f"{run}/{BY_TIME}", "eval/human_normalized_score_by_time") == by_seconds)
        poll(lambda: points(server, "Freeway/dqn/seed-0", "game/Freeway/mean_reward") == {4_000: 5.0})
        sections = get(server, "plugin/custom_scalars/layout")["category"]
        assert [(section["title"], len(section["chart"])) for section in sections] == [("Freeway", 4), ("Pong", 4)]


def test_a_taken_port_is_one_line_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LabError, match=rf"^[^\n]*port {port}\b[^\n]*in use[^\n]*$"):
            Server(tmp_path, port=port)


def test_no_process_is_left_after_closing(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with Server(tmp_path):
        started = set(psutil.Process().children(recursive=True)) - before
        assert started
    _, left = psutil.wait_procs(started, timeout=30)  # the data server ends by itself when its parent has
    assert not left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_runs_and_references_until_it_is_stopped(runs: Path, number: signal.Signals) -> None:
    script = "import sys, rl_lab.cli.main; sys.exit(rl_lab.cli.main.main())"
    command = [sys.executable, "-c", script, "tensorboard", str(runs), "--reference", "dqn_nature_2015"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(re.match(r"TensorBoard at http://localhost:\d+/ ", line) for line in lines)
        servers = psutil.Process(process.pid).children(recursive=True)
        assert servers
        process.send_signal(number)
        assert process.wait(30) == 0
    # Not by the port: another test's server may have it by now.
    _, left = psutil.wait_procs(servers, timeout=30)
    assert not left


@pytest.mark.parametrize(
    ("name", "near"), [("dqn_nature_2016", "dqn_nature_2015"), ("dopamine_dqn_cn", "dopamine_dqn_cnn")]
)
def test_unknown_reference_gets_the_nearest_name(name: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=f"no published agent or curve '{name}'; did you mean '{near}'?"):
        reference_runs(tmp_path, [name], {"Pong": 1_000})


def test_reference_leaves_out_the_games_that_it_has_no_score_for(tmp_path: Path) -> None:
    reference_runs(tmp_path, ["dqn_2013_best"], {"Pong": 1_000, "Freeway": 1_000})
    assert [path.name for path in (tmp_path / "dqn_2013_best").iterdir()] == ["Pong"]


def test_reference_without_any_of_the_games_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="'dqn_2013_best' has no score for Freeway"):
        reference_runs(tmp_path, ["dqn_nature_2015", "dqn_2013_best"], {"Freeway": 1_000})
    assert not list(tmp_path.iterdir())


def test_frames_of_a_game_are_those_of_its_longest_run(tmp_path: Path) -> None:
    for seed, total_steps in enumerate((300, 700, 500)):
        folder = tmp_path / f"Pong/dqn/seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(CONFIG.format(game="Pong", total_steps=total_steps, agent=AGENTS["dqn"]))
        (folder / "status.json").write_text("{}")
    assert planned_frames(readable_runs(tmp_path).values()) == {"Pong": 2_800}


@pytest.mark.parametrize(
    ("line", "damaged", "message"),
    [
        ("learning_rate = 0.00025", "learning_rate = [1]", "agent.learning_rate is [1]; allowed is a string, a number"),
        ("learning_rate = 0.00025", "learning_rate = 1979-05-27", "agent.learning_rate is datetime.date"),
        ("seed = 0", "seed = 0\nnum_games = [1]", "num_games is [1]; allowed is an integer"),
        ("total_steps = 2500", "total_steps = 2305843009213693952", "no run has 2305843009213693952 steps of 4 frames"),
        ("total_steps = 2500", "total_steps = -1", "no run has -1 steps of 4 frames"),
    ],
)
def test_a_config_that_tensorboard_cannot_show_is_one_line(
    line: str, damaged: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.format(game="Pong", total_steps=2_500, agent=AGENTS["dqn"])
    (tmp_path / "config.toml").write_text(config.replace(line, damaged))
    (tmp_path / "status.json").write_text("{}")
    assert main(["tensorboard", str(tmp_path), "--reference", "dqn_nature_2015"]) == LabError.exit_status
    (error,) = capsys.readouterr().err.splitlines()
    assert f"config.toml is no record of a run: {message}" in error


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_folder_without_runs_is_one_line_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["tensorboard", str(tmp_path / folder)]) == LabError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / folder) in line
    assert "`rl-lab train`" in line


@pytest.mark.filterwarnings("always::rl_lab.errors.LabWarning")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_a_host_that_others_reach_is_warned_of(host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorboard", str(tmp_path), "--host", host]) == LabError.exit_status
    assert f"rl-lab: --host {host} shows the runs to all who reach this machine" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_the_machines_own_addresses_need_no_warning(
    host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tensorboard", str(tmp_path), "--host", host]) == LabError.exit_status
    assert "--host" not in capsys.readouterr().err
