"""A Slurm of one machine: small commands of its names that run what sbatch is given, so far as submitit uses them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_SBATCH = """
import os, re, subprocess, sys
script = open(sys.argv[1]).read()
number = 1 + len(os.listdir("slurm"))
open(f"slurm/{number}", "w").close()
count = re.search(r"--array=0-(\\d+)%", script)
for index in range(int(count[1]) + 1 if count else 1):
    of_array = {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(index)} if count else {}
    name = f"{number}_{index}" if count else str(number)
    open(f"queue/{name}", "w").close()
    started = "timeout 400 bash -c 'until [ -e start ]; do sleep 0.05; done'"
    subprocess.Popen(
        ["bash", "-c", f"{started} && bash {sys.argv[1]}; rm queue/{name}"],
        env={**os.environ, **of_array, "SLURM_JOB_ID": str(number)},
        stdin=subprocess.DEVNULL, stdout=open(f"output-{name}", "w"), stderr=subprocess.STDOUT,
    )
print(f"Submitted batch job {number}")
"""
_SRUN = """
import os, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    del words[: 1 if words[0] == "--unbuffered" else 2]
os.execvp(words[0], words)
"""
_SQUEUE = """
import os
print(*os.listdir("queue"), sep="\\n")
"""


def install_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put its commands in PATH; jobs wait until there is a file `start` in the working folder."""
    (folder / "bin").mkdir()
    for name, code in {"sbatch": _SBATCH, "srun": _SRUN, "squeue": _SQUEUE}.items():
        command = folder / "bin" / name
        command.write_text(f"#!{sys.executable} -S{code}")
        command.chmod(0o755)
    for name in ("slurm", "queue"):
        (folder / name).mkdir()
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
