"""What people see in TensorBoard, asked of the real server over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.scores import reference, score_table
from rl_lab.tensorboard import EventWriter, Server, game_tag, link_runs, planned_frames, reference_runs

FRAMES = (0, 4_000, 8_000)
CONFIG = """name = "tiny"
game = "{game}"
seed = 0
total_steps = {total_steps}

[protocol]
frame_skip = 4

[agent]
name = "dqn"
"""
HPARAMS: dict[str, dict[str, str | int | float | bool]] = {
    "dqn": {"agent": "dqn", "learning_rate": 0.00025, "double": True},
    "sb3_dqn": {"agent": "sb3_dqn", "learning_rate": 0.0001, "gradient_steps": 3},
}
PLANNED_FRAMES = 10_000
GAMES = ("Breakout", "Pong")
RUNS = [f"{game}/{agent}/seed-0" for game in GAMES for agent in HPARAMS]
# Each with the tag that is written last. The scores of the second are those of the exploring agent.
REFERENCES = {"dqn_nature_2015": "eval/human_normalized_score", "cleanrl_dqn_10M": "rollout/ep_rew_mean"}


def write_run(folder: Path, scores: dict[int, float], kept_frames: int | None = None) -> None:
    """A run at <Game>/<agent>/seed-<n>, with a score at each of some frames."""
    game, agent, _ = folder.parts[-3:]
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG.format(game=game, total_steps=2_500)
    (folder / "config.toml").write_text(config)
    (folder / "status.json").write_text("{}")
    writer = EventWriter(folder, game=game, config_toml=config, hparams=HPARAMS[agent], kept_frames=kept_frames)
    for frames, score in scores.items():
        metrics = {
            "eval/mean_reward": score,
            "eval/human_normalized_score": score / 10,
            "rollout/ep_rew_mean": score / 2,
        }
        writer.scalars(metrics, frames)
    writer.close()


def request(server: Server, path: str, body: str | None = None) -> tuple[int, str]:
    """Status and text; past any proxy that the environment has."""
    url = urllib.parse.urlsplit(server.address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    try:
        connection.request("GET" if body is None else "POST", f"/data/{path}", body)
        response = connection.getresponse()
        return response.status, response.read().decode()
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
        write_run(folder / run, {frames: 10.0 * number + index for index, frames in enumerate(FRAMES)})
    return folder


@pytest.fixture(scope="module")
def server(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves the runs and the references as the command does, and has loaded all of them."""
    logdir = tmp_path_factory.mktemp("logdir")
    reference_runs(logdir / "reference", list(REFERENCES), planned_frames(runs))
    link_runs(runs, logdir)
    lengths = {(run, game_tag(run.partition("/")[0], "rollout/ep_rew_mean")): len(FRAMES) for run in RUNS}
    for name, tag in REFERENCES.items():
        lengths |= {(f"reference/{name}/{game}", game_tag(game, tag)): 2 for game in GAMES}
    with Server(logdir) as server:
        poll(lambda: all(len(points(server, *curve)) == length for curve, length in lengths.items()))
        yield server


def test_runs_have_the_names_of_their_folders(server: Server) -> None:
    references = [f"reference/{name}/{game}" for name in REFERENCES for game in GAMES]
    assert sorted(get(server, "runs")) == sorted(RUNS + references)


def test_scores_stand_at_their_frames(server: Server) -> None:
    assert points(server, "Pong/dqn/seed-0", "eval/mean_reward") == {0: 0.0, 4_000: 1.0, 8_000: 2.0}


def test_the_same_curve_has_a_tag_of_its_game(server: Server) -> None:
    for tag in ("eval/mean_reward", "eval/human_normalized_score", "rollout/ep_rew_mean"):
        curve = points(server, "Breakout/dqn/seed-0", tag)
        assert len(curve) == len(FRAMES)
        assert points(server, "Breakout/dqn/seed-0", game_tag("Breakout", tag)) == curve


def test_layout_has_each_game_once_and_each_chart_finds_both_agents_of_its_game_only(server: Server) -> None:
    sections = get(server, "plugin/custom_scalars/layout")["category"]
    assert sorted(section["title"] for section in sections) == ["Breakout", "Pong"]
    for section in sections:
        assert len(section["chart"]) == 3
        for chart in section["chart"]:
            (pattern,) = chart["multiline"]["tag"]
            found = {
                run
                for run in RUNS
                if get(server, "plugin/custom_scalars/scalars", run=run, tag=pattern)["tag_to_events"]
            }
            assert found == {run for run in RUNS if run.startswith(section["title"])}


def test_hyperparameters_of_both_agents_are_columns_beside_the_evaluation(server: Server) -> None:
    table = get(server, "plugin/hparams/experiment", body="{}")
    columns = {column["name"] for column in table["hparamInfos"]}
    assert columns == {"agent", "learning_rate", "double", "gradient_steps"}
    metrics = {column["name"]["tag"] for column in table["metricInfos"]}
    assert {"eval/mean_reward", "eval/human_normalized_score"} <= metrics


def test_hyperparameters_and_scores_are_in_the_row_of_their_run(server: Server) -> None:
    question = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_UNKNOWN"]}
    rows = get(server, "plugin/hparams/session_groups", body=json.dumps(question))["sessionGroups"]
    assert sorted(row["name"] for row in rows) == sorted(RUNS)
    row = next(row for row in rows if row["name"] == "Pong/dqn/seed-0")
    assert row["hparams"] == {"agent": "dqn", "learning_rate": 0.00025, "double": "true"}
    scores = {metric["name"]["tag"]: metric["value"] for metric in row["metricValues"]}
    assert scores["eval/mean_reward"] == 2.0


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


def test_scores_of_an_exploring_reference_stay_out_of_the_evaluations(server: Server) -> None:
    tags = get(server, "plugin/scalars/tags")["reference/cleanrl_dqn_10M/Pong"]
    assert set(tags) == {"rollout/ep_rew_mean", "game/Pong/ep_rew_mean"}


def test_new_points_and_new_games_appear_in_a_running_server(tmp_path: Path) -> None:
    runs, logdir = tmp_path / "runs", tmp_path / "logdir"
    logdir.mkdir()
    write_run(runs / "Pong/dqn/seed-0", {4_000: 1.0, 8_000: 2.0, 12_000: 3.0})
    link_runs(runs, logdir)
    with Server(logdir) as server:
        poll(lambda: len(points(server, "Pong/dqn/seed-0", "eval/mean_reward")) == 3)
        # Interrupted after 12,000 frames, resumed from the checkpoint at 8,000, to another score.
        write_run(runs / "Pong/dqn/seed-0", {12_000: 4.0}, kept_frames=8_000)
        write_run(runs / "Freeway/dqn/seed-0", {4_000: 5.0})
        link_runs(runs, logdir)
        poll(lambda: points(server, "Pong/dqn/seed-0", "eval/mean_reward") == {4_000: 1.0, 8_000: 2.0, 12_000: 4.0})
        poll(lambda: points(server, "Freeway/dqn/seed-0", "game/Freeway/mean_reward") == {4_000: 5.0})


def test_resuming_hides_what_came_after_the_checkpoint_and_keeps_its_evaluation(tmp_path: Path) -> None:
    run = tmp_path / "Pong/dqn/seed-0"
    write_run(run, {4_000: 1.0, 8_000: 2.0, 12_000: 3.0})
    write_run(run, {}, kept_frames=8_000)
    # The loader of --load_fast=false: the server's other one goes by the next point of the same curve.
    events = EventAccumulator(str(run)).Reload().Tensors("eval/mean_reward")
    assert [event.step for event in events] == [4_000, 8_000]


def test_an_evaluation_is_on_disk_before_the_writer_closes(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, game="Pong", config_toml="", hparams={})
    (events,) = tmp_path.glob("events.out.tfevents.*")
    for evaluation in range(20):  # many, since a thread writes what is not flushed, and may by chance be in time
        writer.scalars({"eval/mean_reward": 1.0, f"eval/last_of_{evaluation}": 1.0}, 4_000 * evaluation)
        assert b"eval/last_of_%d" % evaluation in events.read_bytes()
    writer.close()


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
        address = next(found for line in lines if (found := re.match(r"TensorBoard at http://localhost:(\d+)/", line)))
        process.send_signal(number)
        assert process.wait(30) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", int(address[1])))


def test_unknown_reference_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="did you mean 'dqn_nature_2015'"):
        reference_runs(tmp_path, ["dqn_nature_2016"], {"Pong": 1_000})


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
        (folder / "config.toml").write_text(CONFIG.format(game="Pong", total_steps=total_steps))
        (folder / "status.json").write_text("{}")
    assert planned_frames(tmp_path) == {"Pong": 2_800}


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
