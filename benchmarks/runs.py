"""Many short trainings, each one line of a file: what `benchmarks.credit` and `benchmarks.ablation` are made of.

A run is told by its key (task, tokens, method, learning rate, KL coefficient, seed, episodes); it is an independent process
of one thread, and a run that is found in the file is not repeated. Every method gets the best cell of the same small grid of
learning rates and KL coefficients: by the mean score over a run of half the length, among cells whose perplexity under the
untrained model then stays below 1.2 × its own (a KL coefficient that starves one method is no evidence, and neither is a
score bought with gibberish). Tuning uses a seed of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["BATCH", "GRID", "TUNING_SEED", "Key", "best_cell", "cell_of", "key_of", "run_all", "spread", "train"]

Key = dict[str, Any]
GRID = ((2e-4, 0.02), (2e-4, 0.1), (2e-4, 0.4), (4e-4, 0.1))
TUNING_SEED = 1000
BATCH = 64
_IDENTITY = ("task", "tokens", "method", "rate", "kl", "seed", "episodes")


def key_of(cell: tuple[str, int, str], rate: float, kl: float, seed: int, episodes: int) -> Key:
    """What names a run. Runs of one seed and task share their prompts; those of different tasks share no random numbers."""
    offset = zlib.crc32(f"{cell[0]}{cell[1]}".encode()) % 1000 * 10_000
    names = ("task", "tokens", "method")
    return {**dict(zip(names, cell, strict=True)), "rate": rate, "kl": kl, "seed": offset + seed, "episodes": episodes}


def cell_of(result: Key) -> tuple[str, int, str]:
    """(task, tokens, method)."""
    return result["task"], result["tokens"], result["method"]


def train(key: Key, environment: str, reward: Any, policy: str, **settings: Any) -> Key:
    """One training run: the curve of the *task's own score* and of the KL, and the metrics of held-out texts afterwards.

    Args:
        settings: further ones of `TokenPPO`.
    """
    import torch

    from textenv.agents import LMPolicy, TokenPPO, evaluate
    from textenv.allocator import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    env = gym.make(environment, reward=reward, max_new_tokens=key["tokens"])
    agent = TokenPPO(
        policy, env, learning_rate=key["rate"], kl_coef=key["kl"], n_episodes=BATCH, batch_size=16, seed=key["seed"], **settings
    )
    curve: list[float] = []
    kls: list[float] = []

    def note(local: dict[str, Any], _: Any) -> bool:
        curve.append(float(np.mean([episode.score for episode in local["episodes"]])))
        kls.append(float(agent.logger.name_to_value.get("objective/kl", 0.0)))
        return len(curve) * BATCH <= key["episodes"]  # texts may end early: episodes are counted, not tokens

    began = time.perf_counter()
    agent.learn(key["episodes"] * key["tokens"], callback=note, log_interval=10**9)
    seconds = time.perf_counter() - began
    held_out = gym.make(environment, split="test", max_new_tokens=key["tokens"])
    reference = LMPolicy(policy)
    prompts = min(64, len(held_out.get_wrapper_attr("task").prompts))
    after, before = (evaluate(writer, held_out, prompts, k=4, reference=reference) for writer in (agent, reference))
    return {
        **key,
        "curve": curve[: key["episodes"] // BATCH],
        "reference_kl": float(np.mean(kls[-3:])),
        "final": float(np.mean([episode.score for episode in after.episodes])),
        "before": float(np.mean([episode.score for episode in before.episodes])),
        "perplexity": float(after.metrics["perplexity"]),
        "perplexity_before": float(before.metrics["perplexity"]),
        "length": float(after.metrics["mean_length"]),
        "metrics": {name: float(value) for name, value in after.metrics.items()},
        "metrics_before": {name: float(value) for name, value in before.metrics.items()},
        "seconds": seconds,
    }


def run_all(run: Callable[[Key], Key], keys: Sequence[Key], out: Path, processes: int, title: str) -> list[Key]:
    """Every run, those found in the file included.

    Args:
        run: key → result; a module-level function.
        out: one line of JSON a run; appended to as runs end.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = out.read_text().splitlines() if out.exists() else []
    known = {_name(result): result for result in map(json.loads, lines)}
    missing = [key for key in keys if _name(key) not in known]
    bar = Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # spawn: torch's threads do not survive a fork
    with bar, ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        task = bar.add_task(title, total=len(keys), completed=len(keys) - len(missing))
        for future in as_completed([pool.submit(run, key) for key in missing]):
            result = future.result()
            known[_name(result)] = result
            with out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            bar.advance(task)
    return [known[_name(key)] for key in keys]


def best_cell(runs: Sequence[Key]) -> tuple[float, float]:
    """(learning rate, KL coefficient) of the best sane run; where none is sane, of the one that stays closest to the language."""
    sane = [r for r in runs if r["perplexity"] <= 1.2 * r["perplexity_before"]]
    best = max(sane, key=lambda r: np.mean(r["curve"])) if sane else min(runs, key=lambda r: r["perplexity"])
    return best["rate"], best["kl"]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2g}"


def _name(result: Key) -> str:
    return json.dumps([result[name] for name in _IDENTITY])
