"""Where a run's numbers come from: enough to repeat it, nothing private (no environment variables, no host name)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rl_lab.atari import rom_md5
from rl_lab.experiment import ExperimentConfig
from rl_lab.files import checkout_folder, shipped_folder

_PACKAGES = ("rl-lab", "ale-py", "gymnasium", "numpy", "stable-baselines3", "torch")


def provenance(config: ExperimentConfig, *, device: str, threads: int) -> dict[str, Any]:
    """Command, code version, package versions, processor, threads, ROM and protocol of a run about to start."""
    return {
        # Python has a byte that is no character as half of one, which no reader of JSON need take.
        "command": ["rl-lab", *(word.encode(errors="backslashreplace").decode() for word in sys.argv[1:])],
        "git": _git_state(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "device": device,
        "threads": threads,
        "rom_md5": rom_md5(config.game),
        "protocol": config.protocol.label,
        "protocol_fingerprint": config.protocol.fingerprint,
        **({} if config.agent.repeatable else {"repeatable": False}),
    }


def software() -> dict[str, str]:
    """What results depend on besides config and machine: versions, and a fingerprint of the lab's own code."""
    code = hashlib.sha256()
    for folder in (Path(__file__).parent, shipped_folder("agents")):
        for path in sorted(folder.rglob("*.py")):
            if "_shipped" not in path.relative_to(folder).parts:
                code.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"Python": platform.python_version(), **packages, "rl-lab's code": code.hexdigest()[:12]}


def processor_name() -> str:
    """The processor as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor()


def _git_state() -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it; None for an installed wheel or where git is missing."""
    checkout = checkout_folder()
    if checkout is None:
        return None
    try:
        head = _git(checkout, "rev-parse", "HEAD")
        changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": head, "modified": bool(changes)}


def _git(folder: Path, *arguments: str) -> str:
    # Otherwise `git status` writes to the index, which locks the user out for that time, or for good if it is killed.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
