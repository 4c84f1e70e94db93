"""Ours and the peers on one work unit, in turn, in one run: ratios of medians with their spread.

    python -m benchmarks.compare --trl-python TRL/bin/python                        # S and M, 1 and 4 epochs, 3 rounds; limits
    python -m benchmarks.compare --trl-python TRL/bin/python --grpo-python GRPO/bin/python --sb3-python SB3/bin/python
    python -m benchmarks.compare --trl-python TRL/bin/python --sizes S --epochs 1 --rounds 1 --iterations 2 --no-limits
    python -m benchmarks.compare --device cuda                                      # ours alone: 124 M and 1.1 B

`benchmarks.peers` says what to install for whom; every interpreter runs this checkout's files. A round runs each contender once, in
a fresh process: the level of a machine drifts, ratios within a round hold. Ours are bf16 and fp32 with the value on the policy's
trunk, and fp32 with a separate value model, which is TRL's algorithm. SB3 by hand is compared at S, 1 epoch, with the step-by-step
road (`benchmarks.stepping`), and runs fewer iterations: one is half a minute.

tokens/s, seconds and memory are medians over the undisturbed iterations of all rounds (`benchmarks.stopwatch`); "× TRL PPO" is the
median over rounds of the ratio within a round, and in brackets the least and the largest. "of bound" as in `benchmarks.ppo`. At the
end stands what the library has promised itself, and what it reached (`benchmarks.limits`).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import limits
from benchmarks.arguments import count, counts, device, interpreter
from benchmarks.processes import Result, rate, ratio, run, share_of_bound
from benchmarks.stopwatch import PHASES, median, quiet
from benchmarks.work_unit import SIZES
from textenv.threads import set_threads

OURS = (("bf16", "states"), ("fp32", "states"), ("fp32", "separate"))
Command = tuple[str, list[str]]


def contenders(given: argparse.Namespace, size: str, epochs: int) -> list[Command]:
    """(who, command line) of one cell of the table."""
    case = ["--size", size, "--epochs", str(epochs), *(["--device", given.device] if given.device != "cpu" else []), "--iterations"]
    of_module = {"TRL PPO": ("trl_ppo", given.trl_python), "TRL GRPO": ("trl_grpo", given.grpo_python)}
    found: list[Command] = []
    for precision, value in OURS:
        options = ["--precision", precision, "--value", value, "--json"]
        command = [sys.executable, "-m", "benchmarks.ppo", *case, str(given.iterations), *options]
        found.append((f"textenv {precision} {value}", command))
    for who, (module, python) in of_module.items():
        if python:
            found.append((who, [python, "-m", f"benchmarks.peers.{module}", *case, str(given.iterations)]))
    if given.sb3_python and (size, epochs) == ("S", 1):
        few = str(min(2, given.iterations))
        found.append(("textenv, SB3 PPO", [sys.executable, "-m", "benchmarks.stepping", *case, few]))
        found.append(("SB3 PPO by hand", [given.sb3_python, "-m", "benchmarks.peers.sb3_ppo", *case, few]))
    return found


def row(results: Sequence[Result], against: Sequence[Result] | None) -> list[str]:
    """A contender's cells, of all its rounds."""
    iterations = [iteration for result in results for iteration in result["iterations"]]
    kept = quiet(iterations)
    memory = statistics.median(result["peak_mib"] for result in results)
    share = f"{share_of_bound(results):.0%}" if "flops" in results[0] else ""
    memory_ratio = ""
    if against:
        memory_ratio = f"{memory / statistics.median(result['peak_mib'] for result in against):.2f}"
    return [
        f"{median(kept, 'tokens/s'):,.0f}", f"{median(kept, 'tokens/cpu'):,.0f}", *(f"{median(kept, p):.3f}" for p in PHASES),
        share, f"{memory:,.0f}", ratio(results, against) if against else "", memory_ratio,
        f"{len(iterations) - len(quiet(iterations, 0))} of {len(iterations)}",
    ]  # fmt: skip


def table(cells: dict[tuple[str, int], dict[str, list[Result]]]) -> Table:
    """One row a contender and cell; ratios against TRL PPO, and of the step-by-step road against SB3 by hand."""
    out = Table(title="PPO over tokens: one iteration", box=None)
    names = ("size", "epochs", "who", "tokens/s", "/CPU s", *PHASES, "of bound", "MiB", "× TRL PPO", "memory ×", "disturbed")
    for name in names:
        out.add_column(name, justify="left" if name == "who" else "right", no_wrap=True)
    for (size, epochs), found in cells.items():
        by_hand = found.get("SB3 PPO by hand")
        for who, results in found.items():
            out.add_row(size, str(epochs), who, *row(results, found.get("TRL PPO")))
        for who in ("textenv bf16 states", "textenv, SB3 PPO") if by_hand else ():
            out.add_row(size, str(epochs), f"{who} × SB3 by hand: {ratio(found[who], by_hand or [])}")
        out.add_section()
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trl-python", type=interpreter, help="an interpreter with trl==1.12.0")
    parser.add_argument("--grpo-python", type=interpreter, help="an interpreter with trl==1.16.0")
    parser.add_argument("--sb3-python", type=interpreter, help="an interpreter with stable-baselines3; default: this one")
    parser.add_argument("--sizes", help=f"of {', '.join(SIZES)}, separated by commas; default: S,M, on a GPU 124M,1.1B")
    parser.add_argument("--epochs", type=counts, default=[1, 4], help="separated by commas (default: 1,4)")
    parser.add_argument("--device", type=device, default="cpu", help="cpu; or cuda, without the peers, whose scripts are of a CPU")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--iterations", type=count, default=4, help="of each process, after one warm-up")
    parser.add_argument("--threads", type=count, help="of every contender; default: textenv.threads")
    parser.add_argument("--no-limits", action="store_true", help="leave out what has no peer, and the table of limits (8 minutes)")
    parser.add_argument("--out", type=Path, help="append every result to this file, a line of JSON each")
    given = parser.parse_args(arguments)
    if given.device != "cpu" and (given.trl_python or given.grpo_python or given.sb3_python):
        parser.error("the peers' scripts are of a CPU; leave their interpreters out, or --device")
    if given.device == "cpu":
        given.sb3_python = given.sb3_python or sys.executable
    sizes = (given.sizes or ("S,M" if given.device == "cpu" else "124M,1.1B")).split(",")
    if unknown := sorted(set(sizes) - set(SIZES)):
        parser.error(f"unknown sizes {', '.join(unknown)}; there are {', '.join(SIZES)}")
    threads = set_threads(given.threads)  # every process inherits it
    keys = [(size, epochs) for size in sizes for epochs in given.epochs]
    cells: dict[tuple[str, int], dict[str, list[Result]]] = {key: {} for key in keys}
    console = Console(width=190, highlight=False)
    for round_ in range(given.rounds):
        for key, found in cells.items():
            for who, command in contenders(given, *key):
                (result,) = run(who, command)
                found.setdefault(who, []).append(result)
                console.print(f"round {round_ + 1}, {key[0]}, {key[1]} epoch(s): {who} {rate([result]):,.0f} tokens/s")
                if given.out:
                    with given.out.open("a") as file:
                        file.write(json.dumps(result) + "\n")
    console.print(table(cells))
    if given.device == "cpu" and not given.no_limits:
        console.print(limits.table([*limits.of_cells(cells), *limits.alone(console.print)]))
    last = next(iter(cells.values()))["textenv bf16 states"][-1]
    peaks = ", ".join(f"{name} {peak / 1e9:,.0f}" for name, peak in last["matmul_peaks"].items())
    console.print(f"{time.strftime('%Y-%m-%d')}, {_processor()}, {threads} thread(s); best products in GFLOP/s: {peaks}")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
