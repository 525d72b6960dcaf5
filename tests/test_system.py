"""Free memory, within the limits of the control groups that the tests write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rl_lab import system
from rl_lab.errors import LabError


def limit_memory(monkeypatch: pytest.MonkeyPatch, folder: Path, limit: str, usage: int, file_cache: int) -> None:
    """A machine with 1,000 bytes free and a control group of version 2."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {file_cache}\n")
    monkeypatch.setattr(system, "_CGROUP_FILES", ((str(folder), "memory.max", "memory.current", "inactive_file"),))
    monkeypatch.setattr("psutil.virtual_memory", _Machine)


class _Machine:
    available = 1_000


def test_this_machine_has_memory() -> None:
    assert system.available_memory_bytes() > 0


def test_a_container_has_what_its_limit_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit_memory(monkeypatch, tmp_path, "500", usage=200, file_cache=0)
    assert system.available_memory_bytes() == 300


def test_file_cache_of_a_container_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit_memory(monkeypatch, tmp_path, "500", usage=490, file_cache=400)
    assert system.available_memory_bytes() == 410


def test_a_container_has_no_more_than_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit_memory(monkeypatch, tmp_path, "5000", usage=200, file_cache=0)
    assert system.available_memory_bytes() == 1_000


def test_a_full_container_has_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit_memory(monkeypatch, tmp_path, "500", usage=600, file_cache=0)
    assert system.available_memory_bytes() == 0


def test_a_container_without_limit_has_what_the_machine_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit_memory(monkeypatch, tmp_path, "max", usage=200, file_cache=0)
    assert system.available_memory_bytes() == 1_000


def test_a_machine_without_control_groups_has_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit_memory(monkeypatch, tmp_path, "500", usage=200, file_cache=0)
    (tmp_path / "memory.current").unlink()
    assert system.available_memory_bytes() == 1_000


def test_memory_that_is_there_is_granted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit_memory(monkeypatch, tmp_path, "500", usage=200, file_cache=0)
    system.require_memory(300, "a replay", "use a smaller one")


def test_memory_that_is_not_there_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "available_memory_bytes", lambda: 2_500_000_000)
    with pytest.raises(LabError, match=r"a replay needs 3\.5 GB, 2\.5 GB free; use a smaller one"):
        system.require_memory(3_500_000_000, "a replay", "use a smaller one")


def test_threads_are_those_asked_for_and_by_default_one_for_each_core() -> None:
    assert system.use_machine("cpu", 1) == ("cpu", 1)
    assert torch.get_num_threads() == 1
    assert 1 <= system.use_machine("cpu", 0)[1] <= (os.cpu_count() or 1)
    with pytest.raises(LabError, match="threads are -1; allowed is 0, for one on each core, to 1024"):
        system.use_machine("cpu", -1)


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_too_small_for_full_precision_are_zero_in_every_thread(threads: int) -> None:
    """In a process of its own: it stays so to its end."""
    program = (
        "import torch; from rl_lab.system import use_machine; tiny = torch.full((1_000_000,), 1e-30)\n"
        "assert (tiny * 1e-10).all()  # the processor has such numbers\n"
        f"use_machine('cpu', {threads})\n"
        "assert not (tiny * 1e-10).any()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "expected"), [("auto", "cuda"), ("cpu", "cpu"), ("cuda", "cuda")])
def test_a_gpu_is_used_unless_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch, name: str, expected: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert system.use_machine(name, 1)[0] == expected


def test_a_gpu_that_is_not_there_is_refused_or_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert system.use_machine("auto", 1)[0] == "cpu"
    with pytest.raises(LabError, match="torch sees no GPU; use --device cpu"):
        system.use_machine("cuda", 1)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(LabError, match="device is 'gpu'; allowed is one of auto, cpu, cuda"):
        system.use_machine("gpu", 1)


def test_bf16_is_fast_where_the_processor_names_an_instruction_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False})
    assert system.has_fast_bf16("cpu")
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": False, "avx2": True, "cpu_name": "bf16"})
    assert not system.has_fast_bf16("cpu")
