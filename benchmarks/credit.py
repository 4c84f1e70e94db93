"""Does dense credit help? `sparse`, `critic_span`, and the same total paid at the end, each tuned, over five seeds.

    python -m benchmarks.credit [--tasks detox sentiment] [--tokens 28 72] [--seeds 0 1 2 3 4] [--out runs/credit.jsonl]

`end` pays the sum of `critic_span`'s credit on the last token: what it lacks against `critic_span` is placement alone, what
it has beyond `sparse` is magnitude. How runs are tuned and kept: `benchmarks.runs`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.table import Table

from benchmarks.runs import BATCH, GRID, TUNING_SEED, Key, best_cell, cell_of, key_of, run_all, spread, train
from textenv import Episode, RewardWrapper

ENVIRONMENTS = {"detox": "textenv/Detox-v0", "sentiment": "textenv/Sentiment-v0"}
METHODS = ("sparse", "critic_span", "end")
EPISODES = {28: 1280, 72: 768}
TARGETS = {"detox": (0.9, 0.95), "sentiment": (0.75, 0.9)}  # of the mean score of three iterations (192 texts)


class TotalAtEnd(RewardWrapper):
    """The same return as inside, all of it on the last token."""

    keeps_return, causal = True, False

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike]:
        out = []
        for episode in episodes:
            total = np.zeros(len(episode))
            total[-1:] = episode.rewards.sum()
            out.append(total)
        return out


def run(key: Key) -> Key:
    """One training run."""
    reward: dict[str, Any] = {"sparse": "sparse", "critic_span": "critic_span", "end": ["critic_span", TotalAtEnd]}
    return train(key, ENVIRONMENTS[key["task"]], reward[key["method"]], "textenv/tiny")


def crossing(curve: Sequence[float], target: float) -> float:
    """Episodes until the mean score of three iterations reaches the target; infinite if it never does."""
    for i in range(2, len(curve)):
        if np.mean(curve[i - 2 : i + 1]) >= target:
            return BATCH * (i + 1)
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(ENVIRONMENTS), default=list(ENVIRONMENTS))
    parser.add_argument("--tokens", nargs="+", type=int, choices=list(EPISODES), default=list(EPISODES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/credit.jsonl"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    cells = [(task, tokens, method) for tokens in options.tokens for task in options.tasks for method in METHODS]
    tuning = [key_of(cell, rate, kl, TUNING_SEED, EPISODES[cell[1]] // 2) for cell in cells for rate, kl in GRID]
    done = run_all(run, tuning, options.out, options.processes, "tuning")
    chosen = {cell: best_cell([r for r in done if cell_of(r) == cell]) for cell in cells}
    keys = [key_of(cell, *chosen[cell], seed, EPISODES[cell[1]]) for cell in cells for seed in options.seeds]
    final = run_all(run, keys, options.out, options.processes, "seeds")
    console = Console(width=150)
    console.print(grid_table(done, cells, chosen))
    console.print(result_table(final, cells, chosen))


def grid_table(runs: Sequence[dict[str, Any]], cells: Sequence[Any], chosen: dict[Any, Any]) -> Table:
    table = Table("task", "tokens", "credit", *(f"lr {rate:g}, kl {kl:g}" for rate, kl in GRID), title="Tuning: mean score (ppl)")
    for cell in cells:
        row = []
        for rate, kl in GRID:
            r = next(r for r in runs if cell_of(r) == cell and (r["rate"], r["kl"]) == (rate, kl))
            mark = " *" if chosen[cell] == (rate, kl) else ""
            row.append(f"{np.mean(r['curve']):.3f} ({r['perplexity']:.2f}){mark}")
        table.add_row(cell[0], str(cell[1]), cell[2], *row)
    return table


def result_table(runs: Sequence[dict[str, Any]], cells: Sequence[Any], chosen: dict[Any, Any]) -> Table:
    names = ("task", "tokens", "credit", "lr, kl", "episodes to target", "final score", "reference KL", "perplexity", "length")
    table = Table(*names, title="Median episodes (seeds that got there); mean ± standard deviation over seeds")
    for cell in cells:
        group = [r for r in runs if cell_of(r) == cell]
        reached = []
        for target in TARGETS[cell[0]]:
            at = [crossing(r["curve"], target) for r in group]
            median = float(np.median(at))
            told = f"{median:,.0f}" if np.isfinite(median) else f"> {EPISODES[cell[1]]:,}"
            reached.append(f"{target:g}: {told} ({int(np.isfinite(at).sum())}/{len(at)})")
        table.add_row(
            cell[0],
            str(cell[1]),
            cell[2],
            "{:g}, {:g}".format(*chosen[cell]),
            "; ".join(reached),
            *(spread([r[name] for r in group]) for name in ("final", "reference_kl")),
            f"{spread([r['perplexity'] for r in group])} (untrained {group[0]['perplexity_before']:.2f})",
            spread([r["length"] for r in group]),
        )
    return table

if __name__ == "__main__":
    main()
