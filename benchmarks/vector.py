"""What stepping many texts at a time costs: the native vector environment beside Gymnasium's `SyncVectorEnv`.

    python -m benchmarks.vector                      # N = 16, sparse and critic_span on Detox
    python -m benchmarks.vector --num-envs 64 --rewards sparse uniform critic_span --payment end

Both step through the same texts, which the embedded policy wrote: N texts side by side, other ones in each round, so that no cache
helps. A round takes both in turn, the first one warms up and is not counted; what is reported are medians over the others of CPU
seconds a round of one process (OMP_NUM_THREADS=1: one thread), as microseconds a token and tokens a second.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from textenv.agents import LMPolicy, rollout

MODES = ("vector_entry_point", "sync")


def written(env_id: str, n: int, rounds: int) -> list[list[Any]]:
    """n texts of the embedded policy for each round."""
    env = gym.make(env_id)
    writer = LMPolicy(env.get_wrapper_attr("tokenizer").name_or_path, device="cpu")
    episodes = rollout(env, writer, n * rounds, generator=torch.Generator().manual_seed(0))
    return [episodes[at : at + n] for at in range(0, n * rounds, n)]


def step_through(envs: Any, texts: Sequence[Any]) -> tuple[float, float]:
    """CPU seconds of stepping through these texts, and the sum of what was paid."""
    actions = np.zeros((max(map(len, texts)), len(texts)), np.int64)
    for i, text in enumerate(texts):
        actions[: len(text), i] = text.tokens
    envs.reset(seed=0)
    began, paid = time.process_time(), 0.0
    for row in actions:
        paid += float(envs.step(row)[1].sum())
    return time.process_time() - began, paid


def measure(env_id: str, reward: str, payment: str, texts: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Mode → median CPU seconds a round."""
    made = {
        mode: gym.make_vec(env_id, len(texts[0]), vectorization_mode=mode, reward=reward, payment=payment) for mode in MODES
    }
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for of_round in texts:
        paid = []
        for mode, envs in made.items():
            spent, sum_paid = step_through(envs, of_round)
            seconds[mode].append(spent)
            paid.append(sum_paid)
        if not np.isclose(*paid):
            raise RuntimeError(f"{env_id} with {reward}: the two paid {paid}")
    return {mode: statistics.median(of_mode[1:]) for mode, of_mode in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="textenv/Detox-v0", help="an id")
    parser.add_argument("--rewards", nargs="+", default=["sparse", "critic_span"], help="names of rewards")
    parser.add_argument("--payment", choices=["online", "end"], nargs="+", default=["online", "end"], help="when rewards are paid")
    parser.add_argument("--num-envs", type=int, default=16, help="texts at a time")
    parser.add_argument("--rounds", type=int, default=5, help="rounds counted, after one that is not")
    options = parser.parse_args(arguments)
    texts = written(options.environment, options.num_envs, options.rounds + 1)
    tokens = statistics.mean(sum(map(len, of_round)) for of_round in texts)
    table = Table("reward", "payment", *(f"{mode}, µs a token" for mode in MODES), "times as fast", "tokens/s", box=box.SIMPLE)
    for reward in options.rewards:
        for payment in options.payment if reward != "sparse" else ["end"]:
            seconds = measure(options.environment, reward, payment, texts)
            native, sync = (seconds[mode] for mode in MODES)
            cells = [f"{1e6 * value / tokens:,.0f}" for value in (native, sync)]
            table.add_row(reward, payment, *cells, f"{sync / native:.1f}", f"{tokens / native:,.0f}")
    Console(width=120).print(f"{options.environment}, N = {options.num_envs}, {tokens:.0f} tokens a round", table)


if __name__ == "__main__":
    main()
