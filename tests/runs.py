"""Whole runs for tests: silent, and compared by what must be the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import zipfile
from pathlib import Path
from typing import Any

from rl_lab.agent import load_agent
from rl_lab.checkpoint import newest_checkpoint, read_manifest
from rl_lab.curves import Progress
from rl_lab.evaluation import Evaluation
from rl_lab.experiment import ExperimentConfig
from rl_lab.records import read_records
from rl_lab.training import Conduct, Outcome, resume_experiment, run_experiment
from tests.tiny import tiny_experiment

_SB3_ZIP = "agent/model.zip"


class Silent:
    """Shows nothing."""

    def on_start(self, run: Path, config: ExperimentConfig) -> None: ...
    def on_progress(self, progress: Progress) -> None: ...
    def on_evaluation(self, progress: Progress, evaluation: Evaluation) -> None: ...
    def on_end(self) -> None: ...


@dataclasses.dataclass
class Interrupts(Silent):
    """Interrupts its own process at the first point of the curves that has so many steps."""

    at_steps: int

    def on_progress(self, progress: Progress) -> None:
        if progress.steps >= self.at_steps:
            os.kill(os.getpid(), signal.SIGINT)


def train(config: ExperimentConfig, runs: Path, *, overwrite: bool = False, **conduct: Any) -> Outcome:
    """A run without a word."""
    return run_experiment(config, runs, overwrite=overwrite, conduct=Conduct(**{"reporter": Silent(), **conduct}))


def train_agents_to_watch(folder: Path) -> Path:
    """Fill the folder with a run of a DQN in Breakout and one of uniform play, which values nothing."""
    short = {"total_steps": 200, "evaluation_episodes": 1}
    train(tiny_experiment(**short), folder)
    train(tiny_experiment(**short, name="uniform", agent=load_agent("uniform").Config(name="uniform")), folder)
    return folder


def resume(run: Path, total_steps: int | None = None, agent_file: str | None = None, **conduct: Any) -> Outcome:
    """The rest of it."""
    conduct = {"reporter": Silent(), **conduct}
    return resume_experiment(run, total_steps=total_steps, agent_file=agent_file, conduct=Conduct(**conduct))


def what_it_came_to(run: Path) -> dict[str, Any]:
    """All that two equal runs share to the byte: what was learned and recorded, but for the clock's own fields."""
    checkpoint, _ = newest_checkpoint(run, resumable=True)
    manifest = read_manifest(checkpoint)
    metrics = read_records(run / "metrics.jsonl")
    return {
        "checkpoint": checkpoint.name,
        # The position counts the bytes of metrics.jsonl; SB3's zip holds the time of its start, and a pickle of the
        # optimizer that depends on which of its strings are one object: the lab's own file of it is compared.
        "files": {k: v for k, v in manifest.files.items() if k not in ("loop/position.json", _SB3_ZIP)},
        "sb3": _sb3_policy(checkpoint / _SB3_ZIP) if _SB3_ZIP in manifest.files else None,
        "segments": manifest.segments,
        "episodes": (run / "episodes.jsonl").read_bytes(),
        "evaluations": (run / "evaluations.jsonl").read_bytes(),
        "metrics": [{k: v for k, v in record.items() if not k.startswith("time/")} for record in metrics],
    }


def rewrite_manifest(checkpoint: Path) -> None:
    """Let the manifest fit the files again, as a stranger would who means harm."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    for key, folder in (("files", checkpoint), ("segments", checkpoint.parent.parent / "segments")):
        for name in manifest[key]:
            data = (folder / name).read_bytes()
            manifest[key][name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def _sb3_policy(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read("policy.pth")
