"""How long the library takes to start: `import textenv`, and `textenv --help`, each in fresh processes.

    python -m benchmarks.startup                    # medians over 9 fresh processes each

Wall-clock seconds, the interpreter's own start included in all three rows, and CPU seconds, which a busy neighbour distorts less.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

CASES = {
    "python": ["-c", "pass"],
    "import textenv": ["-c", "import textenv"],
    "textenv --help": ["-m", "textenv", "--help"],
}


def once(arguments: Sequence[str]) -> tuple[float, float]:
    """(wall-clock, CPU) seconds of a fresh Python."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds(name: str, processes: int) -> tuple[float, float]:
    """Medians (wall clock, CPU) over so many fresh processes, after one that warms the disk."""
    once(CASES[name])
    wall, cpu = (statistics.median(of) for of in zip(*(once(CASES[name]) for _ in range(processes)), strict=True))
    return wall, cpu


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=9, help="fresh processes a case, after one that warms the disk")
    given = parser.parse_args(arguments)
    for name in CASES:
        wall, cpu = seconds(name, given.processes)
        print(f"{name:16} {wall:.3f} s  (CPU {cpu:.3f} s)")


if __name__ == "__main__":
    main()
