"""How many threads torch computes with, and how they wait: settled before torch is imported, and only where a program starts.

    from textenv.threads import set_threads
    set_threads()          # first thing in a script of one's own; `textenv ...` and `python -m benchmarks...` do it

The library itself never does it on import: threads are the program's. What is asked for comes first (`threads=`, the option
`--threads` of the command line), then TEXTENV_THREADS, then OMP_NUM_THREADS, which is left as it is; else one thread a physical
core that the process may use (its affinity, and the quota of its control group), 8 at most: models that a CPU can train gain
little from more, and wait longer for the slowest.

With them goes a word to the C allocator (`textenv.allocator`).

Threads wait at barriers by spinning for a moment, then sleeping (OMP_WAIT_POLICY=PASSIVE with GOMP_SPINCOUNT=`SPINS`, unless one of
them is set). How long decides: between two small operations a thread that sleeps is woken too late, and one that spins takes the
core from who should work. One iteration of PPO (64 texts of 64 tokens, size S of `benchmarks.ppo` in bfloat16, two threads of an
Intel Xeon), alone and beside one busy neighbour: 1.09 and 18.3 s as GNU's OpenMP does by itself, 1.31 and 2.6 s with 4,000 spins,
1.77 and 2.0 s with none; one thread 1.67 and 1.8 s.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from textenv.allocator import keep_freed_memory

__all__ = ["MOST", "SPINS", "physical_cores", "set_threads"]

MOST = 8
SPINS = 4000
"""Times that GNU's OpenMP, which PyTorch brings on Linux, looks before it sleeps."""
_CPUS, _QUOTA = Path("/sys/devices/system/cpu"), Path("/sys/fs/cgroup/cpu.max")


def set_threads(threads: int | None = None) -> int:
    """Settle the number of threads, say it in a line on stderr if nobody asked for it, and return it.

    Raises:
        ValueError: no positive number, here or in the environment.
    """
    asked, name = _asked(threads)
    keep_freed_memory()
    count = asked or min(physical_cores(), MOST)
    os.environ["OMP_NUM_THREADS"] = str(count)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    waiting = os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if torch := sys.modules.get("torch"):  # it has read the environment already
        torch.set_num_threads(count)
    if name is None:
        of = "thread" if count == 1 else "threads"
        print(f"torch: {count} {of}, waiting {waiting}; TEXTENV_THREADS or OMP_NUM_THREADS say otherwise", file=sys.stderr)
    return count


def _asked(threads: int | None) -> tuple[int | None, str | None]:
    """The number that somebody asked for, and where; (None, None) if nobody did."""
    asked = {"threads": threads, **{name: os.environ.get(name) for name in ("TEXTENV_THREADS", "OMP_NUM_THREADS")}}
    for name, value in asked.items():
        if value is None or value == "":
            continue
        first = str(value).split(",")[0].strip()  # OMP_NUM_THREADS may hold one number a nesting level
        if not (first.isdecimal() and int(first) > 0):
            raise ValueError(f"{name}={value!r} is no number of threads; give 1 or more")
        return int(first), name
    return None, None


def physical_cores() -> int:
    """Cores that this process may use: hyperthreads share one, and a container may have less. Where nobody tells: all CPUs."""
    affinity = getattr(os, "sched_getaffinity", None)
    mine = affinity(0) if affinity else range(os.cpu_count() or 1)
    cores = {_read(_CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in mine}
    quota, _, period = (_read(_QUOTA) or "max").partition(" ")  # microseconds of CPU in each period
    if quota.isdecimal() and period.isdecimal():
        return max(1, min(len(cores), round(int(quota) / int(period))))
    return len(cores)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
