"""`rl-lab watch` as people run it: in a real terminal, and in a real window where X is."""

from __future__ import annotations

import dataclasses
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageGrab, features

from rl_lab.cli.main import main
from rl_lab.viewing import Moment, Panel
from tests.processes import RL_LAB, ended, started, wait_until
from tests.runs import train_agents_to_watch

if TYPE_CHECKING:
    from rl_lab.viewing.window import Window

needs_xvfb = pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no Xvfb")
_TIMEOUT_SECONDS = 120


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_agents_to_watch(tmp_path_factory.mktemp("watch") / "runs")


@pytest.fixture(scope="module")
def run(runs: Path) -> Path:
    return runs / "Breakout" / "tiny" / "seed-0"


@pytest.fixture(autouse=True)
def in_an_empty_folder_without_a_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DISPLAY", raising=False)


# Mistakes


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("watch absent", "absent is no run and no checkpoint"),
        ("watch EMPTY", "no checkpoint"),
        ("watch RUN --speed 0", "speed is 0.0; allowed is 0.01 to 1000"),
        ("watch RUN --speed 1e-300", "speed is 1e-300; allowed is 0.01 to 1000"),
        ("watch RUN --speed nan", "speed is nan; allowed is 0.01 to 1000"),
        ("watch RUN --speed inf", "speed is inf; allowed is 0.01 to 1000"),
        ("watch RUN --episodes 0", "episodes are 0; allowed is 1 or more"),
        ("watch UNIFORM --saliency", "this agent gives no values of its actions, which --saliency"),
        ("watch RUN", "there is no terminal to play in: the output goes to a file or a pipe"),
        ("watch RUN --terminal", "there is no terminal to play in: the output goes to a file or a pipe"),
    ],
)
def test_a_mistake_is_one_line_with_status_2(
    command: str, message: str, run: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    names = {"RUN": run, "UNIFORM": runs / "Breakout" / "uniform" / "seed-0", "EMPTY": tmp_path / "empty"}
    assert main([str(names.get(word, word)) for word in command.split()]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert message in errors
    assert errors.count("\n") == 1


def test_pyav_is_not_needed_to_watch_nor_tkinter_to_record() -> None:
    code = "import sys, rl_lab.cli.watch, rl_lab.cli.video; sys.exit(bool({'av', 'tkinter'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The terminal


class InTerminal:
    """A process in a terminal of 100 columns and 30 lines."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.output = b""
        words = [*RL_LAB, "watch", *map(str, arguments), "--threads", "1"]
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.execve(words[0], words, {**os.environ, "COLUMNS": "100", "LINES": "30", **environment})

    def read_until(self, end: bytes) -> None:
        """Until the process has written `end`."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while end not in self.output:
            assert time.monotonic() < deadline
            self.output += os.read(self._terminal, 1 << 16)

    def press(self, key: bytes) -> None:
        os.write(self._terminal, key)

    def end(self) -> int:
        """Read all that is left; the exit status."""
        try:
            while data := os.read(self._terminal, 1 << 16):
                self.output += data
        except OSError:  # so Linux says that the other side is gone
            pass
        finally:
            os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


BEGIN_FRAME, LEAVE = b"\x1b[?2026h", b"\x1b[?25h\x1b[?1049l"


@pytest.mark.parametrize("flags", [(), ("--saliency",)], ids=["plain", "saliency"])
def test_without_a_screen_it_plays_in_the_terminal_until_ctrl_c(flags: tuple[str, ...], run: Path) -> None:
    terminal = InTerminal(run, *flags)
    terminal.read_until(b"step 20,")
    terminal.press(b"\x03")
    assert terminal.end() == 0
    begin, *frames = terminal.output.split(BEGIN_FRAME)
    assert begin.endswith(b"\x1b[?1049h\x1b[?25l")
    assert frames[0].count("▀".encode()) > 500
    assert all(text in frames[0] for text in (b"Breakout", b"score 0", b"RIGHT", b"LEFT"))
    assert terminal.output.rstrip().endswith(LEAVE)
    assert b"Traceback" not in terminal.output


def test_a_play_of_so_many_episodes_ends_with_the_scores(run: Path) -> None:
    terminal = InTerminal(run, "--episodes", "2", "--speed", "100")
    assert terminal.end() == 0
    assert re.fullmatch(rb"scores: \d+, \d+\s*", terminal.output.rpartition(LEAVE)[2])


def test_frames_come_in_real_time(run: Path) -> None:
    terminal = InTerminal(run, "--episodes", "1")
    terminal.read_until(b"step 1,")
    begin = time.monotonic()
    terminal.read_until(b"step 31,")
    seconds = time.monotonic() - begin
    terminal.press(b"\x03")
    assert terminal.end() == 0
    # 30 steps of 4 frames are 2 seconds; a busy machine takes longer. Less where this process comes to read late: some
    # frames wait in the terminal, and a play that is a quarter of a second late catches up.
    assert seconds > 1.4


def test_without_tkinter_it_says_so_and_plays_in_the_terminal(run: Path, tmp_path: Path) -> None:
    (tmp_path / "tkinter.py").write_text("raise ImportError(\"No module named '_tkinter'\")\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    terminal = InTerminal(run, "--episodes", "1", "--speed", "100", DISPLAY=":0", PYTHONPATH=path)
    assert terminal.end() == 0
    assert b"rl-lab: no window without tkinter, which this Python lacks (No module named '_tkinter')" in terminal.output
    assert BEGIN_FRAME in terminal.output


# The window


A_MOMENT = Moment(
    episode=1,
    step=1,
    score=0.0,
    lives=5,
    action=2,
    explores=False,
    values=np.array([0, 1, 2, 1], np.float32),
    saliency=None,
)


def new_panel() -> Panel:
    return Panel("Breakout", ["tiny, seed 0"], ("NOOP", "FIRE", "RIGHT", "LEFT"))


def new_window() -> Window:
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    from rl_lab.viewing.window import Window

    return Window(new_panel(), "rl-lab")


def test_without_a_screen_there_is_no_window() -> None:
    with pytest.raises(Exception, match="no display") as error:
        new_window()
    assert error.type.__name__ == "NoScreenError"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A screen in memory; one for all tests, since Tk ends a process whose first screen is gone."""
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    if not features.check("xcb"):
        pytest.skip("this Pillow cannot read a screen")
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        with os.fdopen(reader) as lines:
            name = f":{lines.readline().strip()}"
        try:
            yield name
        finally:
            process.terminate()


@pytest.fixture
def display(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where windows open."""
    monkeypatch.setenv("DISPLAY", server)
    return server


def on_the_screen(display: str) -> NDArray[np.uint8]:
    """The upper left part, where a window without a window manager is."""
    return np.asarray(ImageGrab.grab(xdisplay=display))[:630, :840]


@needs_xvfb
def test_window_shows_the_picture_of_the_moment(display: str) -> None:
    with new_window() as window:
        for seed in range(3):
            screen = np.random.default_rng(seed).integers(0, 256, (210, 160, 3), np.uint8)
            window.show(screen, dataclasses.replace(A_MOMENT, step=seed))
            expected = new_panel().picture(screen, dataclasses.replace(A_MOMENT, step=seed))
            assert np.array_equal(on_the_screen(display), expected)


@needs_xvfb
@pytest.mark.parametrize("event", ["<q>", "<Escape>", "WM_DELETE_WINDOW"])
def test_window_is_closed_by_a_key_or_by_its_frame(event: str, display: str) -> None:
    screen = np.zeros((210, 160, 3), np.uint8)
    with new_window() as window:
        import tkinter

        window.show(screen, A_MOMENT)
        assert not window.closed
        root = tkinter.Frame().winfo_toplevel()
        root.focus_force()
        if event.startswith("<"):
            root.event_generate(event)
        else:
            root.tk.call(*root.tk.splitlist(root.tk.call("wm", "protocol", root, event)))
        window.show(screen, A_MOMENT)
        assert window.closed


@needs_xvfb
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_a_screen_is_it_plays_in_a_window_until_a_signal(number: signal.Signals, display: str, run: Path) -> None:
    with started(*RL_LAB, "watch", run, "--saliency", "--threads", "1") as process:
        wait_until(lambda: bool((on_the_screen(display)[:, 480:] == (230, 159, 0)).all(axis=2).any()), process)
        before = on_the_screen(display)
        wait_until(lambda: not np.array_equal(on_the_screen(display), before), process)
        process.send_signal(number)
        assert ended(process) == (0, "", "")


@needs_xvfb
def test_terminal_is_played_in_on_request_though_there_is_a_screen(display: str, run: Path) -> None:
    terminal = InTerminal(run, "--terminal", "--episodes", "1", "--speed", "100")
    assert terminal.end() == 0
    assert BEGIN_FRAME in terminal.output
