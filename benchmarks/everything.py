"""Every environment × every reward that applies, each for a short training: does the whole house stand?

    python -m benchmarks.everything [--environments textenv/Detox-v0 ...] [--rewards sparse ...] [--iterations 2]

A reward that does not apply to a task says so, with a reason, and is listed; anything else that goes wrong is a failure, and the
exit status is 1.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

from textenv import ENVIRONMENTS, REWARDS
from textenv.reward import NotApplicable

EPISODES = 16


def short_training(environment: str, reward: str, iterations: int) -> dict[str, Any]:
    """A few PPO iterations; the scores and the credit of the last batch."""
    from textenv.agents import TokenPPO

    env = gym.make(environment, reward=reward)
    agent = TokenPPO(policy_of(environment), env, n_episodes=EPISODES, batch_size=8, seed=0)
    batches: list[Any] = []

    def note(local: dict[str, Any], _: Any) -> bool:
        batches.append(local["episodes"])
        return len(batches) <= iterations

    began = time.perf_counter()
    agent.learn(10**9, callback=note)
    scores, credits = zip(*((e.score, e.rewards.sum()) for batch in batches for e in batch), strict=True)
    if not np.isfinite([*scores, *credits]).all():
        raise FloatingPointError(f"a score or credit is not finite: {scores}, {credits}")
    return {"score": np.mean(scores), "credit": np.mean(credits), "seconds": time.perf_counter() - began}


def policy_of(environment: str) -> Any:
    """The embedded model that speaks the environment's tokens (CountLetter has bytes: a small new model)."""
    tokenizer = ENVIRONMENTS[environment]["tokenizer"]
    if tokenizer != "bytes":
        return tokenizer
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from textenv import load_tokenizer

    vocabulary = len(load_tokenizer(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=1, n_head=2, n_positions=64))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="+", choices=list(ENVIRONMENTS), default=list(ENVIRONMENTS))
    parser.add_argument("--rewards", nargs="+", choices=list(REWARDS), default=list(REWARDS))
    parser.add_argument("--iterations", type=int, default=2)
    options = parser.parse_args()
    table = Table("environment", "reward", "mean score", "mean credit", "seconds", "", title="Short trainings")
    failures = 0
    for environment in options.environments:
        for reward in options.rewards:
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    result = short_training(environment, reward, options.iterations)
            except NotApplicable as reason:
                table.add_row(environment, reward, "", "", "", f"does not apply: {reason}")
            except Exception as error:
                traceback.print_exc()
                failures += 1
                table.add_row(environment, reward, "", "", "", f"FAILED: {type(error).__name__}: {error}")
            else:
                noted = "".join(f"; warns: {warning.message}" for warning in said[:1])
                numbers = (f"{result[name]:.3f}" for name in ("score", "credit", "seconds"))
                table.add_row(environment, reward, *numbers, f"passed{noted}")
    console = Console(width=150)
    console.print(table)
    console.print(f"{failures} failed" if failures else "all passed")
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
