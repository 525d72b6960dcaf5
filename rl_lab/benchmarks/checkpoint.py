"""Checkpoints of a run with a full replay: what saving adds to an iteration, and what a resume waits for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rl_lab.agent import Agent
from rl_lab.benchmarks.measuring import Report, Row, Settings, seconds
from rl_lab.benchmarks.replays import NUM_GAMES, Recording, fill, memory_bytes, record, those_that_fit
from rl_lab.benchmarks.training import OURS, Training
from rl_lab.checkpoint import CheckpointWriter, saved_files, verify
from rl_lab.replay import STORAGES
from rl_lab.storage import Storage

_GAME = "Breakout"
_ITERATION_STEPS = 50_000


def run(settings: Settings) -> Report:
    """Seconds on this machine's disk, with all that makes a checkpoint safe."""
    fitting, notes = those_that_fit(
        {f"{storage} storage": memory_bytes(storage, settings.transitions) for storage in STORAGES}, at_once=False
    )
    recording = record(_GAME, settings)
    rows = [row for name in fitting for row in _rows(name.partition(" ")[0], settings, recording)]
    turn = f"{settings.transitions:,} transitions of {_GAME} by random play; the first save was made once"
    return Report(rows, turn, notes)


def _rows(storage: str, settings: Settings, recording: Recording) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        first, later = _save(storage, settings, recording, run)
        megabytes = sum(path.stat().st_size for path in (run / "segments").iterdir()) / 1e6
        loads = [seconds(lambda: _load(storage, settings, run)) for _ in range(settings.repetitions)]
    return [
        Row(f"{storage}: the first save", "s", [first]),
        Row(f"{storage}: a save after {_ITERATION_STEPS:,} steps", "s", later),
        Row(f"{storage}: replay on disk", "MB", [megabytes]),
        Row(f"{storage}: a load", "s", loads),
    ]


def _save(storage: str, settings: Settings, recording: Recording, run: Path) -> tuple[float, list[float]]:
    """Seconds of the first checkpoint, and of each that follows an iteration."""
    agent = _agent(storage, settings)
    writer = CheckpointWriter(run, Storage(), {})
    frames = 0

    def save() -> None:
        state = agent.save_state()
        assert state is not None
        files = {f"agent/{name}": data for name, data in agent.save().items()}
        files |= {f"state/{name}": data for name, data in state.files.items()}
        writer.save(frames, files, state.segments)

    fill(agent.replay, recording, settings.transitions)  # type: ignore[attr-defined]  # DQN's
    first, later = seconds(save), []
    for _ in range(settings.repetitions):
        fill(agent.replay, recording, _ITERATION_STEPS)  # type: ignore[attr-defined]
        frames += 4 * _ITERATION_STEPS
        later.append(seconds(save))
    return first, later


def _load(storage: str, settings: Settings, run: Path) -> None:
    """What a resume does before it plays."""
    checkpoint = max((run / "checkpoints").iterdir())
    verify(checkpoint, segments=True)
    agent = _agent(storage, settings)
    agent.load(saved_files(checkpoint, "agent"))
    agent.load_state(saved_files(checkpoint, "state"))


def _agent(storage: str, settings: Settings) -> Agent:
    changes = {"replay_storage": storage, "replay_capacity": settings.transitions}
    return Training(OURS, settings, num_games=NUM_GAMES, **changes).agent
