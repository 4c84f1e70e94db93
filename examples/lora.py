"""A low-rank adapter learns in place of the model: less to train, one copy of the weights, a few kilobytes to save.

    python examples/lora.py [--rank 8] [--steps 20000] [--out runs/lora]

The policy of Detox is the embedded model with a LoRA on every linear layer. Its reference, to which the KL is measured, is
the same weights with the adapter off. Saved are the adapter (PEFT reads it), and, merged, a plain model.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import textenv  # noqa: F401 - registers the environments
from textenv.agents import LMPolicy, TokenPPO, evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="textenv/tiny", help="a name, a directory (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=8, help="r of the adapter (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="generated tokens (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=32, help="held-out prompts (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="keep adapter and merged model here")
    options = parser.parse_args()

    env = gym.make("textenv/Detox-v0", reward="critic_span", tokenizer=options.model)
    held_out = gym.make("textenv/Detox-v0", split="test", tokenizer=options.model)
    policy = LMPolicy(options.model, lora=options.rank, gradient_checkpointing=True)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    print(f"{trained:,} of {sum(p.numel() for p in policy.parameters()):,} weights are trained")

    agent = TokenPPO(policy, env, learning_rate=2e-3, kl_coef=0.1, n_episodes=64, seed=0)
    show("before", agent, held_out, options.prompts)
    agent.learn(options.steps)
    show("after", agent, held_out, options.prompts)
    show("adapter off", policy.base(), held_out, options.prompts)

    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        policy.save_pretrained(out / "adapter")
        policy.merged().save_pretrained(out / "merged")
        for name, weights in (("adapter", "adapter_model.safetensors"), ("merged", "model.safetensors")):
            show(f"{name}, {(out / name / weights).stat().st_size / 1024:,.0f} KB", str(out / name), held_out, options.prompts)


def show(name: str, policy: Any, env: gym.Env[Any, Any], prompts: int) -> None:
    found = evaluate(policy, env, prompts, k=4)
    print(f"{name:>20}  mean score {np.mean([e.score for e in found.episodes]):.3f}  {found.episodes[0].text[:60]!r}")


if __name__ == "__main__":
    main()
