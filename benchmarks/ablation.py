"""Which reward wrapper? The same learner, task and budget; only `reward=` changes; each tuned, over five seeds.

    python -m benchmarks.ablation [--tasks detox summarization long_form_qa] [--rewards sparse critic_span redistributed ...]
                                  [--advantages gae rloo] [--seeds 0 1 2 3 4] [--out runs/ablation.jsonl]
                                  [--picture runs/ablation.png]

Reported is the task's own score, never the shaped return. How runs are tuned and kept: `benchmarks.runs`. Intervals are those
of the mean over seeds (Student's t, 95 %).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.runs import BATCH, GRID, TUNING_SEED, Key, best_cell, cell_of, key_of, run_all, train
from textenv.agents.ppo.estimators import ESTIMATORS

TASKS: dict[str, tuple[str, str, int, int]] = {  # environment, policy, new tokens, episodes
    "detox": ("textenv/Detox-v0", "textenv/tiny", 28, 1280),
    "summarization": ("textenv/Summarization-v0", "textenv/tiny", 32, 1280),
    "long_form_qa": ("textenv/LongFormQA-v0", "textenv/tiny", 64, 768),
    "translation": ("textenv/Translation-v0", "textenv/tiny-translation", 48, 1280),
    "sentiment": ("textenv/Sentiment-v0", "textenv/tiny", 28, 1280),
}
TRUTH = {"summarization": "supported_share", "long_form_qa": "factual_share", "translation": "grammar_error_rate"}
"""Metric that the world's own truth gives, whatever the score: is what was learned what was wanted?"""
REWARDS = ("sparse", "critic_span", "redistributed", "attention", "uniform", "hierarchical")
T_95 = (0.0, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t by degrees of freedom


def run(key: Key) -> Key:
    """One training run."""
    environment, policy, _, _ = TASKS[key["task"]]
    reward, _, advantage = key["method"].partition(", ")
    return train(key, environment, reward, policy, advantage=advantage or "gae")


def methods_of(rewards: Sequence[str], advantages: Sequence[str]) -> list[str]:
    """Names of what is compared: "redistributed" is learned from with GAE, "redistributed, rloo" with RLOO."""
    return [reward if advantage == "gae" else f"{reward}, {advantage}" for advantage in advantages for reward in rewards]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS)[:3])
    parser.add_argument("--rewards", nargs="+", default=list(REWARDS), help="names that textenv list shows")
    parser.add_argument("--advantages", nargs="+", choices=list(ESTIMATORS), default=["gae"], help="TokenPPO's (default: gae)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--episodes", type=int, help="texts a run (default: the task's)")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation.jsonl"))
    parser.add_argument("--picture", type=Path, default=Path("runs/ablation.png"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    methods = methods_of(options.rewards, options.advantages)
    cells = [(task, TASKS[task][2], method) for task in options.tasks for method in methods]
    episodes = {cell: options.episodes or TASKS[cell[0]][3] for cell in cells}
    tuning = [key_of(cell, rate, kl, TUNING_SEED, max(episodes[cell] // 2, BATCH)) for cell in cells for rate, kl in GRID]
    tuned = run_all(run, tuning, options.out, options.processes, "tuning")
    chosen = {cell: best_cell([r for r in tuned if cell_of(r) == cell]) for cell in cells}
    keys = [key_of(cell, *chosen[cell], seed, episodes[cell]) for cell in cells for seed in options.seeds]
    final = run_all(run, keys, options.out, options.processes, "seeds")
    Console(width=150).print(result_table(final, cells, chosen))
    picture(final, cells, options.picture)
    print(f"learning curves: {options.picture}")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and the half-width of its 95 % interval over seeds."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    t = T_95[len(values) - 1] if len(values) <= len(T_95) else 1.96
    return float(np.mean(values)), float(t * np.std(values, ddof=1) / len(values) ** 0.5)


def result_table(runs: Sequence[Key], cells: Sequence[Any], chosen: dict[Any, Any]) -> Table:
    names = ("task", "reward", "lr, kl", "score, held out", "score over the run", "truth", "reference KL", "perplexity", "length")
    table = Table(*names, "s", title="The task's own score: mean over seeds ± half of the 95 % interval")
    for cell in cells:
        group = [r for r in runs if cell_of(r) == cell]
        columns = [[r[name] for r in group] for name in ("final", "reference_kl", "perplexity", "length", "seconds")]
        mean_curve = [float(np.mean(r["curve"])) for r in group]
        final, kl, perplexity, length, seconds = (_told(values) for values in columns)
        true = TRUTH.get(cell[0])
        truth = f"{_told([r['metrics'][true] for r in group])} {true}" if true else ""
        before = f"{group[0]['perplexity_before']:.3g}"
        table.add_row(
            cell[0], cell[2], "{:g}, {:g}".format(*chosen[cell]), f"{final} (untrained {group[0]['before']:.3g})",
            _told(mean_curve), truth, kl, f"{perplexity} ({before})", length, seconds,
        )  # fmt: skip
    return table


def _told(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.3g} ± {half:.2g}"


def picture(runs: Sequence[Key], cells: Sequence[Any], path: Path) -> None:
    """Learning curves, one panel a task: the mean over seeds and its 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(cell[0] for cell in cells))
    figure, axes = pyplot.subplots(1, len(tasks), figsize=(5.2 * len(tasks), 3.8), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for n, cell in enumerate(cell for cell in cells if cell[0] == task):
            curves = np.array([r["curve"] for r in runs if cell_of(r) == cell])  # (seeds, iterations)
            smooth = np.stack([np.convolve(np.pad(c, 1, "edge"), np.ones(3) / 3, "valid") for c in curves])
            mean, half = np.transpose([interval(column) for column in smooth.T])
            at = BATCH * np.arange(1, len(mean) + 1)
            axis.plot(at, mean, label=cell[2], color=f"C{n}")
            axis.fill_between(at, mean - half, mean + half, color=f"C{n}", alpha=0.12, linewidth=0)
        axis.set(title=task, xlabel="episodes", ylabel="score of the task")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
