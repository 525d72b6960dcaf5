"""What this machine is and has: its name and boot, memory checked before it is taken, devices, threads."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from rl_lab.errors import LabError

_CGROUP_FILES = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where containers and cluster schedulers set limits (control groups, version 2 and 1): the folder, its files for limit
and usage, and the name of the file cache in its memory.stat."""

DEVICES = ("auto", "cpu", "cuda")
MAX_THREADS = 1_024

_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")

_claims: list[int] = []
"""Bytes that were granted in this process for what fills later."""

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def end_by_keyboard_interrupt() -> None:
    """Let the signals that end a command be Ctrl-C, so that what it opened is closed.

    Service managers stop with SIGTERM, and a script's background jobs start with SIGINT ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None], numbers: Iterable[int]) -> Iterator[None]:
    """These signals go to the handler, unless ignored (nohup) or not Python's; afterwards to whoever had them."""
    heeded = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def host_name() -> str:
    """What this machine calls itself."""
    return platform.node()


@functools.cache
def boot_id() -> str:
    """What stays the same until the machine restarts: a random number on Linux, the time of the boot elsewhere."""
    try:
        return _BOOT_ID_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def available_memory_bytes() -> int:
    """Memory that can still be taken without swapping: the machine's, or the container's where that is less."""
    available = int(psutil.virtual_memory().available)
    for folder, limit_file, usage_file, cache_name in _CGROUP_FILES:
        try:
            limit = Path(folder, limit_file).read_text().strip()
            usage = int(Path(folder, usage_file).read_text())
            statistics = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if limit != "max":
            # The usage counts file cache that the kernel gives back on demand: a container that read much is not full.
            available = min(available, max(int(limit) - usage + int(statistics[cache_name]), 0))
    return available


def require_memory(needed_bytes: int, purpose: str, advice: str, *, fills_later: bool = False) -> None:
    """LabError unless this machine has `needed_bytes` free."""
    free_bytes = available_memory_bytes()
    if needed_bytes > free_bytes:
        raise LabError(f"{purpose} needs {needed_bytes / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB free; {advice}")
    if fills_later:
        _claims.append(needed_bytes)


def claimed_memory_bytes() -> int:
    """All that `require_memory` granted in this process for what fills later, such as a replay."""
    return sum(_claims)


def use_machine(device: str, threads: int) -> tuple[str, int]:
    """Set torch up for this process; the device (cpu or cuda) and the number of threads that `auto` and 0 stand for.

    LabError for a device that is not there. Numbers too small for full precision become 0, and frees of large tensors
    keep their memory in the process: see below.
    """
    import torch  # only where tensors are

    if device not in DEVICES:
        raise LabError(f"device is {device!r}; allowed is one of {', '.join(DEVICES)}")
    if not 0 <= threads <= MAX_THREADS:
        raise LabError(f"threads are {threads}; allowed is 0, for one on each core, to {MAX_THREADS}")
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise LabError("device is 'cuda', but torch sees no GPU; use --device cpu, or install a CUDA build of torch")
    threads = threads or num_cores()
    # Numbers below 1e-38, as Adam's averages of gradients that have died out, take many times as long as others: with
    # them a step of Adam on data-efficient Rainbow took 9 to 15 ms in place of 1.3. Threads started later do the same.
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    _keep_freed_memory()
    return "cuda" if has_gpu and device != "cpu" else "cpu", threads


def has_fast_bf16(device: str) -> bool:
    """Whether the processor or GPU multiplies bf16 numbers itself; without, bf16 is no quicker than fp32."""
    import torch  # only where tensors are

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any("bf16" in name and has_it is True for name, has_it in torch.cpu.get_capabilities().items())


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next ones; elsewhere nothing.

    By default it hands blocks of megabytes back to the system and takes them anew in each layer of each update: 78,000
    page faults a second, a fifth of the time of training with the network of 2013 on two cores.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
