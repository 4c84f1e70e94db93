"""Does dense credit help? `sparse`, `critic_span`, and the same total paid at the end, each tuned, over five seeds.

    python -m benchmarks.credit [--tasks detox sentiment] [--tokens 28 72] [--seeds 0 1 2 3 4] [--out runs/credit.jsonl]

`end` pays the sum of `critic_span`'s credit on the last token: what it lacks against `critic_span` is placement alone, what
it has beyond `sparse` is magnitude. Every method gets the best cell of the same grid of learning rates and KL coefficients,
by the mean score over a run of half the length, among cells whose perplexity under the untrained model then stays below
1.2 × its own (a KL coefficient that starves one method is no evidence, and neither is a score bought with gibberish); tuning
uses a seed of its own. Runs are independent processes of one thread; each is one line of the output file, and a run found
there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from textenv import Episode, RewardWrapper

ENVIRONMENTS = {"detox": "textenv/Detox-v0", "sentiment": "textenv/Sentiment-v0"}
METHODS = ("sparse", "critic_span", "end")
EPISODES = {28: 1280, 72: 768}
TARGETS = {"detox": (0.9, 0.95), "sentiment": (0.75, 0.9)}  # of the mean score of three iterations (192 texts)
GRID = ((2e-4, 0.02), (2e-4, 0.1), (2e-4, 0.4), (4e-4, 0.1))
TUNING_SEED = 1000
BATCH = 64


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


def run(key: dict[str, Any]) -> dict[str, Any]:
    """One training run: its curve, and what the policy writes afterwards on held-out prompts."""
    import torch

    from textenv.agents import LMPolicy, TokenPPO, evaluate

    torch.set_num_threads(1)
    reward: dict[str, Any] = {"sparse": "sparse", "critic_span": "critic_span", "end": ["critic_span", TotalAtEnd]}
    name, tokens = ENVIRONMENTS[key["task"]], key["tokens"]
    env = gym.make(name, reward=reward[key["method"]], max_new_tokens=tokens)
    agent = TokenPPO(
        "textenv/tiny", env, learning_rate=key["rate"], kl_coef=key["kl"], n_episodes=BATCH, batch_size=16, seed=key["seed"]
    )
    curve: list[float] = []
    kls: list[float] = []

    def note(local: dict[str, Any], _: Any) -> bool:
        curve.append(float(np.mean([e.score for e in local["episodes"]])))
        kls.append(float(agent.logger.name_to_value.get("objective/kl", 0.0)))
        return True

    began = time.perf_counter()
    agent.learn(key["episodes"] * tokens, callback=note, log_interval=10**9)
    seconds = time.perf_counter() - began
    held_out = gym.make(name, split="test", max_new_tokens=tokens)
    reference = LMPolicy("textenv/tiny")
    after = evaluate(agent, held_out, 64, k=4, reference=reference).metrics
    before = evaluate(reference, held_out, 64, k=4, reference=reference).metrics
    score = "mean_toxicity" if key["task"] == "detox" else "mean_sentiment"
    return {
        **key,
        "curve": curve,
        "reference_kl": float(np.mean(kls[-3:])),
        "final": 1 - after[score] if key["task"] == "detox" else float(after[score]),
        "perplexity": float(after["perplexity"]),
        "perplexity_before": float(before["perplexity"]),
        "length": float(after["mean_length"]),
        "seconds": seconds,
    }


def crossing(curve: Sequence[float], target: float) -> float:
    """Episodes until the mean score of three iterations reaches the target; infinite if it never does."""
    for i in range(2, len(curve)):
        if np.mean(curve[i - 2 : i + 1]) >= target:
            return BATCH * (i + 1)
    return float("inf")


def best_cell(runs: Sequence[dict[str, Any]]) -> tuple[float, float]:
    sane = [r for r in runs if r["perplexity"] <= 1.2 * r["perplexity_before"]]
    # Where no cell is sane, the one that stays closest to the language.
    best = max(sane, key=lambda r: np.mean(r["curve"])) if sane else min(runs, key=lambda r: r["perplexity"])
    return best["rate"], best["kl"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(ENVIRONMENTS), default=list(ENVIRONMENTS))
    parser.add_argument("--tokens", nargs="+", type=int, choices=list(EPISODES), default=list(EPISODES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/credit.jsonl"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cells = [(task, tokens, method) for tokens in options.tokens for task in options.tasks for method in METHODS]
    tuning = [_key(cell, rate, kl, TUNING_SEED, EPISODES[cell[1]] // 2) for cell in cells for rate, kl in GRID]
    done = run_all(tuning, options, "tuning")
    chosen = {cell: best_cell([r for r in done if _cell(r) == cell]) for cell in cells}
    keys = [_key(cell, *chosen[cell], seed, EPISODES[cell[1]]) for cell in cells for seed in options.seeds]
    final = run_all(keys, options, "seeds")
    console = Console(width=150)
    console.print(grid_table(done, cells, chosen))
    console.print(result_table(final, cells, chosen))


def run_all(keys: Sequence[dict[str, Any]], options: argparse.Namespace, title: str) -> list[dict[str, Any]]:
    """Every run, those found in the file included."""
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    known = {_name(r): r for r in map(json.loads, lines)}
    missing = [key for key in keys if _name(key) not in known]
    bar = Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # spawn: torch's threads do not survive a fork
    with bar, ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        task = bar.add_task(title, total=len(keys), completed=len(keys) - len(missing))
        for future in as_completed([pool.submit(run, key) for key in missing]):
            result = future.result()
            known[_name(result)] = result
            with options.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            bar.advance(task)
    return [known[_name(key)] for key in keys]


def grid_table(runs: Sequence[dict[str, Any]], cells: Sequence[Any], chosen: dict[Any, Any]) -> Table:
    table = Table("task", "tokens", "credit", *(f"lr {rate:g}, kl {kl:g}" for rate, kl in GRID), title="Tuning: mean score (ppl)")
    for cell in cells:
        row = []
        for rate, kl in GRID:
            r = next(r for r in runs if _cell(r) == cell and (r["rate"], r["kl"]) == (rate, kl))
            mark = " *" if chosen[cell] == (rate, kl) else ""
            row.append(f"{np.mean(r['curve']):.3f} ({r['perplexity']:.2f}){mark}")
        table.add_row(cell[0], str(cell[1]), cell[2], *row)
    return table


def result_table(runs: Sequence[dict[str, Any]], cells: Sequence[Any], chosen: dict[Any, Any]) -> Table:
    names = ("task", "tokens", "credit", "lr, kl", "episodes to target", "final score", "reference KL", "perplexity", "length")
    table = Table(*names, title="Median episodes (seeds that got there); mean ± standard deviation over seeds")
    for cell in cells:
        group = [r for r in runs if _cell(r) == cell]
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
            *(_spread(group, name) for name in ("final", "reference_kl")),
            f"{_spread(group, 'perplexity')} (untrained {group[0]['perplexity_before']:.2f})",
            _spread(group, "length"),
        )
    return table


def _spread(group: Sequence[dict[str, Any]], name: str) -> str:
    values = [r[name] for r in group]
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2g}"


def _key(cell: tuple[str, int, str], rate: float, kl: float, seed: int, episodes: int) -> dict[str, Any]:
    # Runs of different cells share no random numbers by accident; those of one seed and task share their prompts.
    offset = zlib.crc32(f"{cell[0]}{cell[1]}".encode()) % 1000 * 10_000
    names = ("task", "tokens", "method")
    return {**dict(zip(names, cell, strict=True)), "rate": rate, "kl": kl, "seed": offset + seed, "episodes": episodes}


def _cell(r: dict[str, Any]) -> tuple[str, int, str]:
    return r["task"], r["tokens"], r["method"]


def _name(r: dict[str, Any]) -> str:
    return json.dumps([r[name] for name in ("task", "tokens", "method", "rate", "kl", "seed", "episodes")])


if __name__ == "__main__":
    main()
