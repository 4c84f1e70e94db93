"""Iterations on the clock: phases, CPU seconds, and what other processes burnt meanwhile. Without torch: peers run it too.

An iteration during which other processes kept more than `DISTURBED` cores busy is left out of the medians, where enough others
are left; what is left out is counted. CPU seconds tell what a busy neighbour distorts least.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from typing import Any

__all__ = ["DISTURBED", "PHASES", "Stopwatch", "median", "peak_memory", "quiet"]

PHASES = ("sample", "score", "update")
DISTURBED = 0.15  # cores
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Stopwatch:
    """Seconds of each iteration by phase; `lap("sample")` gives a phase what passed since the last lap."""

    def __init__(self) -> None:
        self.iterations: list[dict[str, float]] = []
        self._phases = dict.fromkeys(PHASES, 0.0)
        self._began = self._last = _now()

    def begin(self) -> None:
        """Start the clock again: what passed since the last iteration is nobody's."""
        self._began = self._last = _now()
        self._phases = dict.fromkeys(PHASES, 0.0)

    def lap(self, phase: str) -> None:
        """All since the last lap was this phase."""
        now = _now()
        self._phases[phase] += now["wall"] - self._last["wall"]
        self._last = now

    def end(self, tokens: int, phases: dict[str, float] | None = None) -> None:
        """The iteration is over; `phases`, if they were measured elsewhere."""
        now = _now()
        passed = {name: now[name] - self._began[name] for name in now}
        others = max(0.0, passed["all"] - passed["cpu"]) / passed["wall"]
        kept = {**self._phases, **(phases or {}), "wall": passed["wall"], "cpu": passed["cpu"], "others": others}
        self.iterations.append({**kept, "tokens": tokens})
        self.begin()

    def report(self, **case: Any) -> None:
        """Print a line of JSON: the case, and its iterations but the first."""
        print(json.dumps({**case, "peak_mib": peak_memory(), "iterations": self.iterations[1:]}), flush=True)


def quiet(iterations: list[dict[str, float]], at_least: int = 3) -> list[dict[str, float]]:
    """Those without a busy neighbour; all, where fewer than `at_least` are left."""
    found = [iteration for iteration in iterations if iteration["others"] < DISTURBED]
    return found if len(found) >= at_least else iterations


def median(iterations: list[dict[str, float]], name: str) -> float:
    """Over all that are given; "tokens/s" and "tokens/cpu" are rates."""
    if name in ("tokens/s", "tokens/cpu"):
        clock = {"tokens/s": "wall", "tokens/cpu": "cpu"}[name]
        return statistics.median(iteration["tokens"] / max(iteration[clock], 1e-9) for iteration in iterations)
    return statistics.median(iteration[name] for iteration in iterations)


def peak_memory() -> float:
    """MiB that were resident in this process at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _now() -> dict[str, float]:
    """Wall-clock seconds, CPU seconds of this process, and of the whole machine (on Linux)."""
    cpu = time.process_time()
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, soft, stolen = map(int, file.readline().split()[1:9])
        all_of_it = (user + nice + system + irq + soft + stolen) / _TICKS
    except (OSError, ValueError):
        all_of_it = cpu
    return {"wall": time.perf_counter(), "cpu": cpu, "all": all_of_it}
