"""TensorBoard as the view of runs: what a run writes for it, published agents as lines, and its server.

The truth is a run's JSON lines; event files may lose their end, and the lab never reads them back. Tags are the same in
all runs, so that agents overlay. A chart over several games would mean nothing, so the main curves are written a second
time under a tag of their game, and a layout for the dashboard CUSTOM SCALARS makes one section a game of these.

torch's writer is imported where something is written: commands import this module, shell completion imports the
commands, and torch takes seconds.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from rl_lab.errors import LabError
from rl_lab.records import find_runs, read_config
from rl_lab.scores import DEFAULT_TABLE, Reference, reference, score_table
from rl_lab.storage import RecordFile

TRAINING_TAG = "rollout/ep_rew_mean"
EVALUATION_TAG = "eval/mean_reward"
NORMALIZED_TAG = "eval/human_normalized_score"

_CHART_TITLES = {
    NORMALIZED_TAG: f"human-normalized ({DEFAULT_TABLE}), evaluation, by frames",
    EVALUATION_TAG: "score, evaluation, by frames",
    TRAINING_TAG: "score, training, by frames",
}
REFERENCES = "reference"
"""The folder of the published agents beside the runs."""
_START_SECONDS = 120  # a cold start reads all of TensorBoard from disk; a warm one takes two seconds


def game_tag(game: str, tag: str) -> str:
    """The tag under which a main curve is written for its game: game/Pong/mean_reward."""
    return f"game/{game}/{tag.rpartition('/')[2]}"


class EventWriter:
    """The event file of one run; every x axis is emulator frames."""

    def __init__(
        self,
        directory: Path,
        *,
        game: str,
        config_toml: str,
        hparams: Mapping[str, str | int | float | bool],
        kept_frames: int | None = None,
    ) -> None:
        """A run that resumes hides what its earlier event files say beyond `kept_frames`, its last point."""
        from torch.utils.tensorboard import summary

        self._game = game
        # purge_step hides its own step too: hence the + 1. The checkpoint's frames would not do: a point that is due
        # there is only written after it. The first one in a folder hides nothing (TensorBoard takes it for the start),
        # so a new run writes one as well.
        with ExitStack() as opened:
            self._file = _EventFile(directory)
            opened.callback(self._file.close)
            self._file.begin(purge_step=0 if kept_frames is None else kept_frames + 1)
            self._file.add(summary.text("config", f"```toml\n{config_toml.strip()}\n```"))  # type: ignore[no-untyped-call]
            self._file.add(summary.custom_scalars(_layout(game)))  # type: ignore[no-untyped-call]  # torch left all untyped
            self._file.add(_hparams_session(hparams))
            opened.pop_all()

    def scalars(self, metrics: Mapping[str, float], frames: int) -> None:
        """Points of the curves, one a tag; OSError where they cannot be written."""
        from torch.utils.tensorboard import summary

        for tag, value in metrics.items():
            for name in (tag, game_tag(self._game, tag)) if tag in _CHART_TITLES else (tag,):
                point = summary.scalar(name, value)  # type: ignore[no-untyped-call]
                self._file.add(point, frames)

    def close(self) -> None:
        self._file.close()


class _EventFile:
    """An event file, written without delay.

    torch's SummaryWriter hands records to a thread, where a full disk ends in a traceback; and it puts the machine's
    name into the file's.
    """

    def __init__(self, directory: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads the files of a folder by name: numbered, and not by a clock, they come in order of writing.
        numbers = (path.name.rpartition(".")[2] for path in directory.glob("events.out.tfevents.*"))
        number = max((int(text) for text in numbers if text.isdecimal()), default=-1) + 1
        self._file = RecordFile(directory / f"events.out.tfevents.{number:06d}", "xb")
        self._records = RecordWriter(self._file)

    def begin(self, *, purge_step: int) -> None:
        """The first of all records."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(file_version="brain.Event:2", step=purge_step)
        self._write(session_log=SessionLog(status=SessionLog.START), step=purge_step)

    def add(self, summary: object, step: int = 0) -> None:
        """A Summary, with its place on the x axis."""
        self._write(summary=summary, step=step)

    def close(self) -> None:
        self._file.close()

    def _write(self, **event: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())


def _hparams_session(hparams: Mapping[str, str | int | float | bool]) -> object:
    """The session's start, of the three summaries that torch's `add_hparams` puts into a sub-run.

    The experiment's summary fixes the columns of the table, and TensorBoard takes the first that it meets: those of
    another agent would be missing. Without one it unites the columns of all runs. The session's end claims success.
    """
    from torch.utils.tensorboard.summary import hparams as hparams_summaries

    # torch would write a bool as the number 1.0.
    values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in hparams.items()}
    _, session_start, _ = hparams_summaries(values, {})  # type: ignore[no-untyped-call]
    return session_start


def _layout(game: str) -> dict[str, dict[str, list[str | list[str]]]]:
    """The section of one game. TensorBoard joins equal sections of many runs, and drops equal charts."""
    charts: dict[str, list[str | list[str]]] = {
        title: ["Multiline", [f"^{game_tag(game, tag)}$"]] for tag, title in _CHART_TITLES.items()
    }
    return {game: charts}


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
    from torch.utils.tensorboard import SummaryWriter

    score = agent.scores[game]
    normalized = score_table().human_normalized(game, score)
    lines = {TRAINING_TAG: score} if agent.kind == "training" else {EVALUATION_TAG: score}
    if agent.kind == "evaluation" and normalized is not None:
        lines[NORMALIZED_TAG] = normalized
    with SummaryWriter(str(directory)) as writer:
        writer.add_text("reference", agent.description)
        for tag, value in lines.items():
            for frame in (0, frames):
                writer.add_scalar(tag, value, frame)
                writer.add_scalar(game_tag(game, tag), value, frame)


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
        if not link.is_symlink() and entry.name != REFERENCES:
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
