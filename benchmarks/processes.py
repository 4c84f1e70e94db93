"""A benchmark's contender in a process of its own, and the rates and ratios of what several printed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.stopwatch import median, quiet

__all__ = ["ROOT", "Result", "rate", "ratio", "ratios", "run", "share_of_bound"]

ROOT = Path(__file__).resolve().parents[1]
Result = dict[str, Any]


def run(who: str, command: Sequence[str], lines: int = 1) -> list[Result]:
    """The lines of JSON that a contender prints, so many.

    Raises:
        RuntimeError: it failed, or printed another number of them.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith('{"who"')]
    if done.returncode or len(found) != lines:
        raise RuntimeError(f"{who} failed ({done.returncode}): {' '.join(command)}\n{done.stderr[-2000:]}")
    return [{**json.loads(line), "who": who} for line in found]


def rate(results: Sequence[Result]) -> float:
    """Tokens a second over the iterations of some runs of one contender."""
    return median(quiet([iteration for result in results for iteration in result["iterations"]]), "tokens/s")


def ratios(ours: Sequence[Result], theirs: Sequence[Result]) -> list[float]:
    """Of the rates, within each round."""
    return [rate([a]) / rate([b]) for a, b in zip(ours, theirs, strict=True)]


def ratio(ours: Sequence[Result], theirs: Sequence[Result]) -> str:
    """Median over rounds of the ratio within a round, least and largest."""
    found = ratios(ours, theirs)
    return f"{statistics.median(found):.2f} ({min(found):.2f} – {max(found):.2f})"


def share_of_bound(results: Sequence[Result]) -> float:
    """What arithmetic needs at least, by what was taken; of the runs of one contender that says what it needs.

    The peak is the highest of them: a neighbour only slows products.
    """
    needed = statistics.median(sum(result["flops"].values()) for result in results)
    iterations = quiet([iteration for result in results for iteration in result["iterations"]])
    return float(needed / max(result["peak_flops"] for result in results) / median(iterations, "wall"))
