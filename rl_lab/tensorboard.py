"""TensorBoard as the view of runs: the published agents beside them, what no single run can say, and its server."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from rl_lab.errors import LabError
from rl_lab.events import (
    BY_TIME,
    EVALUATION_TAG,
    FRAMES_BY_TIME_TAG,
    NORMALIZED_TAG,
    TRAINING_TAG,
    EventFile,
    EventWriter,
    Hyperparameters,
    Kept,
    evaluation_points,
    game_tag,
    hyperparameters,
    layout,
)
from rl_lab.records import find_runs, read_config, read_evaluations, read_metrics
from rl_lab.scores import Reference, reference, score_table

REFERENCES = "reference"
"""The folder of the published agents beside the runs."""
RECORDS = "records"
"""The folder of the runs that came without event files, such as published ones."""
_START_SECONDS = 120  # a cold start reads all of TensorBoard from disk; a warm one takes two seconds


def overview(runs: Path, logdir: Path) -> None:
    """Write what no single run can say for all into the logdir: the sections of all games, and the table HPARAMS.

    TensorBoard takes the columns of the table from a single place, as they are when it starts. And where it joins the
    layouts of runs, it loses charts of a game unless the very first layout has the game: this one comes first.
    """
    configs = [read_config(directory) for directory in find_runs(runs)]
    with closing(EventFile(logdir)) as file:
        file.begin()
        file.add(layout(sorted({config["game"] for config in configs})))
        file.add(_hparams_columns([hyperparameters(config, "") for config in configs]))


def _hparams_columns(rows: Sequence[Hyperparameters]) -> object:
    """Summary of the whole: a column for each hyperparameter of any run, and three for what the runs came to."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    columns = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        is_number = all(type(value) in (int, float) for value in values)
        kind = api_pb2.DATA_TYPE_FLOAT64 if is_number else api_pb2.DATA_TYPE_STRING
        differs = any(value != values[0] for value in values)
        columns.append(api_pb2.HParamInfo(name=name, type=kind, differs=differs))
    scores = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(group=folder, tag=tag), display_name=title)
        for folder, tag, title in (
            ("", EVALUATION_TAG, "evaluation score"),
            ("", NORMALIZED_TAG, "human-normalized score"),
            (BY_TIME, FRAMES_BY_TIME_TAG, "frames"),
        )
    ]
    experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=scores)
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(experiment=experiment))
    value = Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])


def record_runs(runs: Path, directory: Path) -> None:
    """Write event files for the runs that came without, such as published ones, from their records."""
    for run in find_runs(runs):
        if any(run.glob("events.out.tfevents.*")):
            continue
        config, evaluations = read_config(run), read_evaluations(run)
        protocol = evaluations[-1]["protocol"] if evaluations else ""
        writer = EventWriter(
            directory / run.relative_to(runs),
            game=config["game"],
            config_toml=(run / "config.toml").read_text(encoding="utf-8"),
            hparams=hyperparameters(config, protocol),
            kept=Kept(),
        )
        with closing(writer):
            for point in read_metrics(run):
                metrics = {tag: value for tag, value in point.items() if "/" in tag and type(value) in (int, float)}
                writer.scalars(metrics, point["frames"])
            for evaluation in evaluation_points(run, config["game"]):
                writer.evaluation(evaluation)


def reference_runs(directory: Path, names: Sequence[str], frames_by_game: Mapping[str, int]) -> None:
    """Write published agents as runs `<name>/<Game>`: constant lines from frame 0 to the game's frames.

    LabError for an unknown name, and for an agent that has a score for none of the games.
    """
    published = [reference(name) for name in names]
    for agent in published:
        if not agent.scores.keys() & frames_by_game.keys():
            raise LabError(
                f"reference {agent.name!r} has no score for {', '.join(frames_by_game)} "
                f"(it has {', '.join(sorted(agent.scores))}); leave it out"
            )
    for agent in published:
        for game in agent.scores.keys() & frames_by_game.keys():
            _write_reference(directory / agent.name / game, agent, game, frames_by_game[game])


def _write_reference(directory: Path, agent: Reference, game: str, frames: int) -> None:
    from torch.utils.tensorboard import summary

    score = agent.scores[game]
    normalized = score_table().human_normalized(game, score)
    lines = {TRAINING_TAG: score} if agent.kind == "training" else {EVALUATION_TAG: score}
    if agent.kind == "evaluation" and normalized is not None:
        lines[NORMALIZED_TAG] = normalized
    with closing(EventFile(directory)) as file:
        file.begin()
        file.add(summary.text("reference", agent.description))  # type: ignore[no-untyped-call]
        for tag, value in lines.items():
            for frame in (0, frames):
                file.scalar(tag, value, frame)
                file.scalar(game_tag(game, tag), value, frame)


def planned_frames(runs: Path) -> dict[str, int]:
    """Game -> emulator frames of its longest run, as planned; LabError if there is no run."""
    frames: dict[str, int] = {}
    for directory in find_runs(runs):
        config = read_config(directory)
        planned = config["total_steps"] * config["protocol"]["frame_skip"]
        frames[config["game"]] = max(planned, frames.get(config["game"], 0))
    return frames


def link_runs(runs: Path, logdir: Path) -> None:
    """Show what is in `runs` in `logdir`, which serves references too; call again for games that came later."""
    for entry in runs.resolve().glob("*"):
        link = logdir / entry.name
        if not link.is_symlink() and entry.name not in (REFERENCES, RECORDS):
            link.symlink_to(entry)


class Server:
    """The real TensorBoard server in a child process; leaving the `with` block, however it is left, ends it."""

    address: str
    """Such as http://localhost:6006/; it answers."""

    def __init__(self, logdir: Path, *, host: str = "localhost", port: int | None = None) -> None:
        """Without a port, the first free one from 6006. LabError if the port is taken, or the host is not this one."""
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", host]
        if port is not None:
            command += ["--port", str(port)]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close(), with the child
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT)
        try:
            self.address = self._wait_for_address()
        except BaseException:  # Ctrl-C too: nobody else knows of the child yet
            self.close()
            raise

    def wait(self, seconds: float) -> None:
        """Let it serve; LabError if it ended by itself."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise LabError(f"TensorBoard ended: {self._last_line()}")

    def close(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._output.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for_address(self) -> str:
        """The address that the child prints when it has its port, once it answers there."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                raise LabError(f"{self._last_line()}; give a free --port, or none, and a --host of this machine")
            printed = re.search(r"^TensorBoard \S+ at (http://\S+/) ", self._printed(), re.MULTILINE)
            if printed and _answers(printed[1]):
                return printed[1]
            time.sleep(0.1)
        raise LabError(f"TensorBoard did not answer within {_START_SECONDS} seconds: {self._last_line()}")

    def _printed(self) -> str:
        # pread, since the child writes at the file position that a read would move.
        file = self._output.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def _last_line(self) -> str:
        lines = self._printed().split("\n")
        return next((line.removeprefix("ERROR: ") for line in reversed(lines) if line), "it printed nothing")


def _answers(address: str) -> bool:
    # http.client, since urllib would send a local address through the proxy of the environment.
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
