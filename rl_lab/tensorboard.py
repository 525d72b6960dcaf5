"""TensorBoard as the view of runs: the published agents beside them, what no single run can say, and its server."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from rl_lab.errors import LabError, LabWarning
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
from rl_lab.scores import GameCurve, Reference, ReferenceCurve, published, score_table

REFERENCES = "reference"
"""The folder of the published agents beside the runs."""
RECORDS = "records"
"""The folder of the runs that came without event files, such as published ones."""
_START_SECONDS = 120  # a cold start reads all of TensorBoard from disk; a warm one takes two seconds


def readable_runs(runs: Path) -> dict[Path, dict[str, Any]]:
    """Run -> its config, of all below `runs`; warns of those that are damaged. LabError where all are, or none is."""
    configs, damages = {}, []
    for directory in find_runs(runs):
        try:
            configs[directory] = read_config(directory)
        except LabError as error:
            damages.append(error)
    if not configs:
        raise damages[0]
    for damage in damages:
        warnings.warn(f"{damage}; TensorBoard shows what the run's event files have", LabWarning, stacklevel=2)
    return configs


def overview(configs: Collection[Mapping[str, Any]], logdir: Path) -> None:
    """Write what no single run can say for all into the logdir: the sections of all games, and the table HPARAMS.

    TensorBoard takes the columns of the table from a single place, as they are when it starts. And where it joins the
    layouts of runs, it loses charts of a game unless the very first layout has the game: this one comes first.
    """
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


def record_runs(configs: Mapping[Path, Mapping[str, Any]], runs: Path, directory: Path) -> None:
    """Write event files for the runs that came without, such as published ones, from their records.

    Warns of damaged records.
    """
    for run, config in configs.items():
        if any(run.glob("events.out.tfevents.*")):
            continue
        try:
            metrics, evaluations = read_metrics(run), read_evaluations(run)
            points = evaluation_points(run, config["game"])
        except LabError as error:
            warnings.warn(f"{error}; TensorBoard cannot show the run", LabWarning, stacklevel=2)
            continue
        protocol = evaluations[-1]["protocol"] if evaluations else ""
        writer = EventWriter(
            directory / run.relative_to(runs),
            game=config["game"],
            config_toml=(run / "config.toml").read_text(encoding="utf-8"),
            hparams=hyperparameters(config, protocol),
            kept=Kept(),
        )
        with closing(writer):
            for record in metrics:
                scalars = {tag: value for tag, value in record.items() if "/" in tag and isinstance(value, float | int)}
                writer.scalars(scalars, record["frames"])
            for point in points:
                writer.evaluation(point)


@dataclass(frozen=True)
class _Drawing:
    """A published agent as TensorBoard is to show it."""

    run: str
    """Its name there."""
    description: str
    games: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
    """By game and tag: frames and value of each point."""


def reference_runs(directory: Path, names: Sequence[str], frames_by_game: Mapping[str, int]) -> dict[str, str]:
    """Write published agents as runs `<name>/<Game>`: scores as lines over the game's frames, and training curves.

    Returns what each is. LabError for an unknown name, and for one that has nothing of any of the games.
    """
    agents, curves = published(names)
    drawings = {agent.name: _drawn_agent(agent, frames_by_game) for agent in agents}
    drawings |= {curve.name: _drawn_curve(curve, frames_by_game) for curve in curves}
    for drawing in drawings.values():
        for game, lines in drawing.games.items():
            _write_lines(directory / drawing.run / game, drawing.description, game, lines)
    return {name: drawing.description for name, drawing in drawings.items()}


def _drawn_agent(agent: Reference, frames_by_game: Mapping[str, int]) -> _Drawing:
    games = _shared(agent.name, frames_by_game, agent.scores)
    levels = {game: _level(agent, game, frames_by_game[game]) for game in games}
    return _Drawing(agent.name, agent.description, levels)


def _drawn_curve(curve: ReferenceCurve, frames_by_game: Mapping[str, int]) -> _Drawing:
    games = _shared(curve.name, frames_by_game, curve.games)
    points = {game: {TRAINING_TAG: _begin_of(curve.games[game], frames_by_game[game])} for game in games}
    # Beside evaluations it must not pass for one.
    return _Drawing(f"{curve.name} training returns", f"{curve.title}; {curve.protocol}", points)


def _shared(name: str, wanted: Mapping[str, object], present: Mapping[str, object]) -> list[str]:
    """The games of both; LabError for none."""
    games = [game for game in wanted if game in present]
    if not games:
        raise LabError(
            f"reference {name!r} has no score for {', '.join(wanted)} (it has {', '.join(sorted(present))}); leave it "
            "out"
        )
    return games


def _level(agent: Reference, game: str, frames: int) -> dict[str, list[tuple[int, float]]]:
    """The agent's scores as constant lines, by tag."""
    score = agent.scores[game]
    normalized = score_table().human_normalized(game, score)
    scores = {TRAINING_TAG: score} if agent.kind == "training" else {EVALUATION_TAG: score}
    if agent.kind == "evaluation" and normalized is not None:
        scores[NORMALIZED_TAG] = normalized
    return {tag: [(0, value), (frames, value)] for tag, value in scores.items()}


def _begin_of(published: GameCurve, frames: int) -> list[tuple[int, float]]:
    """Mean over seeds, to the first point that is not before `frames`: what runs reach, and not 200 million frames."""
    count = bisect_left(published.frames, frames) + 1
    return list(zip(published.frames[:count], published.mean[:count], strict=True))


def _write_lines(
    directory: Path, description: str, game: str, lines: Mapping[str, Sequence[tuple[int, float]]]
) -> None:
    from torch.utils.tensorboard import summary

    with closing(EventFile(directory)) as file:
        file.begin()
        file.add(summary.text("reference", description))  # type: ignore[no-untyped-call]
        for tag, points in lines.items():
            for frames, value in points:
                file.scalar(tag, value, frames)
                file.scalar(game_tag(game, tag), value, frames)


def planned_frames(configs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Game -> emulator frames of its longest run, as planned."""
    frames: dict[str, int] = {}
    for config in configs:
        planned = config["total_steps"] * config["protocol"]["frame_skip"]
        frames[config["game"]] = max(planned, frames.get(config["game"], 0))
    return frames


def link_runs(runs: Path, logdir: Path) -> None:
    """Show all below `runs`, or the one run that it is, in `logdir`, which serves references too.

    Those of tunes below `runs` are left out: they are no results. Call again for runs that came later.
    """
    for run in find_runs(runs):
        link = logdir / (runs.resolve().name if run == runs else run.relative_to(runs))
        if not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(run.resolve())


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
