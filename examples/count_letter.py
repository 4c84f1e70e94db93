"""The smallest world that can be learned: a random model learns to say "a".

    python examples/count_letter.py [--reward sparse]

A two-layer Llama with random weights, bytes as tokens, sixteen tokens a text. With `reward="critic_span"` each "a" is paid
where it stands; with "sparse" the share of them is paid at the end. Both learn; count the texts.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import textenv
from textenv.agents import TokenPPO, evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--reward", default="critic_span", choices=sorted(textenv.REWARDS), help="a reward by name")
parser.add_argument("--rounds", type=int, default=8, help="of 2,560 tokens each, with a measurement behind")
options = parser.parse_args()

tokenizer = textenv.load_tokenizer("bytes")
with torch.random.fork_rng():
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            eos_token_id=tokenizer.eos_token_id,
        )
    )

env = gym.make("textenv/CountLetter-v0", reward=options.reward)
agent = TokenPPO(model, env, learning_rate=3e-3, kl_coef=0.0, n_episodes=32, seed=0)
for _ in range(options.rounds):
    agent.learn(5 * 32 * 16, reset_num_timesteps=False)
    result = evaluate(agent, env, k=16)
    print(f"{agent.num_timesteps // 16:5d} texts  mean score {result.metrics['mean_score']:.2f}  {result.episodes[0].text!r}")
