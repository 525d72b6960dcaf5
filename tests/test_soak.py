"""A long run takes no more than a short one: memory, file handles, threads and files."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from tests.processes import ended, started, write_config
from tests.tiny import PROTOCOL, tiny_dqn

ITERATIONS = 200
MEASURE = """
import sys
from pathlib import Path
import psutil
from rl_lab.cli.main import main
from rl_lab.cli.progress import LineReporter

process, run = psutil.Process(), Path(sys.argv[1])

def measure(self, progress, evaluation):
    files = sum(path.is_file() for path in run.rglob("*"))
    print("measured", process.memory_info().rss, process.num_fds(), process.num_threads(), files, flush=True)

LineReporter.on_evaluation = measure
sys.exit(main(sys.argv[2:]))
"""
ALLOWED_GROWTH_BYTES = 8 << 20
"""From iterations 51 to 100 to iterations 151 to 200: the allocator's own ups and downs, by a checkpoint's buffers, are
as large. A network (2.6 MB) that each iteration keeps would make it 260 MB, one stack of frames (28 kB) less."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="counts file descriptors")
def test_memory_handles_threads_and_files_stay_flat_over_200_iterations(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        total_steps=20 * ITERATIONS,
        iteration_steps=20,
        num_games=1,
        evaluation_episodes=1,
        log_every_steps=10,
        protocol=dataclasses.replace(PROTOCOL, max_frames_per_episode=80, noop_max=0),
        agent=tiny_dqn(replay_capacity=200, replay_storage="zstd"),  # overwritten twenty times
    )
    run = tmp_path / "Breakout" / "tiny" / "seed-0"
    with started(sys.executable, "-c", MEASURE, run, "train", config, "--runs", tmp_path) as process:
        status, output, errors = ended(process)
    assert (status, errors) == (0, "")
    lines = [line.split()[1:] for line in output.splitlines() if line.startswith("measured")]
    memory, handles, threads, files = zip(*([int(word) for word in line] for line in lines), strict=True)
    assert len(memory) == ITERATIONS
    print(f"memory {[size >> 10 for size in memory[::10]]} kB, handles {handles[::10]}, files {files[::10]}")
    assert min(memory[150:]) - min(memory[50:100]) < ALLOWED_GROWTH_BYTES
    assert len(set(handles[50:])) == len(set(threads[50:])) == 1
    assert max(files[50:]) <= max(files[:50])
