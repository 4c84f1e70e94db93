"""An encoder–decoder as a policy: the encoder reads the source, the decoder writes, and every agent learns with it.

    python examples/encoder_decoder.py [--steps 20000] [--agent ppo]

A small T5 translates English into German (`textenv/Translation-v0`). It is warmed up on references (behaviour cloning), then
learns from chrF: by PPO, or by ETPO's soft Q-values. Any T5, BART or mT5 takes its place: --model DIRECTORY.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np

import textenv  # noqa: F401 - registers the environments
from textenv.agents import BehaviourCloning, LMPolicy, TokenPPO, evaluate
from textenv.agents.etpo.etpo import ETPO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="textenv/tiny-translation", help="a name, a directory (default: %(default)s)")
    parser.add_argument("--agent", default="ppo", choices=["ppo", "etpo"])
    parser.add_argument("--warm-up", type=int, default=5_000, help="target tokens of the references (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="generated tokens (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="held-out sentences (default: %(default)s)")
    options = parser.parse_args()

    env = gym.make("textenv/Translation-v0", tokenizer=options.model)
    held_out = gym.make("textenv/Translation-v0", split="test", tokenizer=options.model)
    policy = LMPolicy(options.model)
    show("as it came", policy, held_out, options.prompts)
    BehaviourCloning(policy, env, learning_rate=3e-4).learn(options.warm_up)
    show("behaviour cloning", policy, held_out, options.prompts)
    if options.agent == "ppo":
        agent: Any = TokenPPO(policy, env, learning_rate=1e-4, kl_coef=0.05, n_episodes=64, seed=0)
    else:
        agent = ETPO(policy, env, learning_rate=1e-4, kl_coef=0.05, n_epochs=2, tau=0.05, seed=0)
    agent.learn(options.steps)
    show(type(agent).__name__, policy, held_out, options.prompts)


def show(name: str, policy: Any, env: gym.Env[Any, Any], prompts: int) -> None:
    found = evaluate(policy, env, prompts, k=2)
    first = found.episodes[0]
    print(f"{name:>20}  mean score {np.mean([e.score for e in found.episodes]):.3f}  {first.prompt.text!r} -> {first.text!r}")


if __name__ == "__main__":
    main()
