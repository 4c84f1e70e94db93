"""PPO on one process, on several, or on several machines: the same script, unchanged, and the same numbers.

    python examples/distributed_ppo.py
    torchrun --nproc-per-node 2 examples/distributed_ppo.py               each process writes half of the texts
    torchrun --nproc-per-node 2 examples/distributed_ppo.py --sharded     each process holds half of every weight (FSDP2)
    torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT examples/distributed_ppo.py      on each of two machines

A random two-layer GPT-2 learns to say "a". The first process alone prints, logs and saves; where processes are one per GPU,
each takes its own. `--json` prints the mean reward of each iteration and the sum of the weights, to compare runs.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import gymnasium as gym
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import textenv
from textenv.agents import TokenPPO
from textenv.agents.distributed.sharding import gathered

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=20_000, help="tokens to generate")
parser.add_argument("--sharded", action="store_true", help="weights, gradients and optimizer state in pieces (FSDP2)")
parser.add_argument("--save", metavar="DIRECTORY", help="where to save the agent; one process or several can go on with it")
parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
options = parser.parse_args()

tokenizer = textenv.load_tokenizer("bytes")
with torch.random.fork_rng():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )

env = gym.make("textenv/CountLetter-v0", reward="critic_span")
agent = TokenPPO(
    model, env, learning_rate=3e-3, kl_coef=0.02, n_episodes=32, seed=0, distributed="fsdp2" if options.sharded else "auto"
)
rewards: list[float] = []


def note(seen: dict[str, Any], _: Any) -> bool:
    """Called after every batch, on each process, with all of its texts."""
    rewards.append(sum(float(episode.rewards.sum()) for episode in seen["episodes"]) / len(seen["episodes"]))
    if agent.world.first and not options.json:
        print(f"{agent.num_timesteps:6d} tokens  mean reward {rewards[-1]:.3f}", flush=True)
    return True


agent.learn(options.steps, callback=note)
if options.save:
    agent.save(options.save)  # on every process: the first one writes
with gathered(agent.policy):  # as the weights are whole for a while, on every process
    checksum = sum(float(weight.detach().double().abs().sum()) for weight in agent.policy.parameters())
if agent.world.first:
    print(json.dumps({"processes": agent.world.size, "rewards": rewards, "checksum": checksum}) if options.json else checksum)
