"""Stable-Baselines3, unmodified, fine-tunes a language model: PPO or A2C with dense credit on Detox.

    python examples/sb3_ppo.py [--algorithm a2c] [--reward sparse] [--save directory]

`LanguageModelActorCritic` is an SB3 policy class around any causal model; `policy_kwargs` name it (a name or a directory: SB3
pickles them into its checkpoints). The callback `TokenRewards` puts the critic's credit on its tokens. TokenPPO, made for texts,
learns the same from fewer seconds (examples/detox_demo.py); this is the road for whoever has SB3 code.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env

import textenv
from textenv.agents import TokenRewards, evaluate
from textenv.agents.sb3.actor_critic import LanguageModelActorCritic

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--algorithm", choices=["ppo", "a2c"], default="ppo")
parser.add_argument("--env", default="textenv/Detox-v0")
parser.add_argument("--model", default="textenv/tiny", help="a name or a directory; the environment takes its tokenizer")
parser.add_argument("--reward", default="critic_span", choices=sorted(textenv.REWARDS))
parser.add_argument("--total-timesteps", type=int, default=57_344, help="tokens")
parser.add_argument("--n-envs", type=int, default=16)
parser.add_argument("--prompts", type=int, default=64, help="test prompts, four texts each, before and after")
parser.add_argument("--save", help="a directory for the trained policy: safetensors and JSON, no pickle")
options = parser.parse_args()

arguments = {"tokenizer": options.model, "reward": options.reward, "payment": "end"}
envs = make_vec_env(lambda: gym.make(options.env, **arguments), options.n_envs, seed=0)
test = gym.make(options.env, split="test", tokenizer=options.model)

shared = {"policy_kwargs": {"model": options.model}, "gamma": 1.0, "gae_lambda": 0.95, "seed": 0, "device": "auto"}
if options.algorithm == "ppo":
    steps = {"n_steps": 112, "batch_size": 28 * options.n_envs, "n_epochs": 2, "learning_rate": 1e-4}  # a text has 28 tokens
    agent = PPO(LanguageModelActorCritic, envs, target_kl=0.05, **steps, **shared)
else:
    steps = {"n_steps": 28, "learning_rate": 1e-4, "use_rms_prop": False, "normalize_advantage": True}
    agent = A2C(LanguageModelActorCritic, envs, **steps, **shared)


def show(when: str) -> None:
    result = evaluate(agent.policy, test, min(options.prompts, len(test.get_wrapper_attr("task").prompts)), k=4)
    print(f"{when}: " + "  ".join(f"{name} {value:.3f}" for name, value in result.metrics.items()), flush=True)
    print(f"    {result.episodes[0].prompt.text!r} → {result.episodes[0].text!r}", flush=True)


show("before")
agent.learn(options.total_timesteps, callback=None if options.reward == "sparse" else TokenRewards())
show("after ")
if options.save:
    agent.policy.save(options.save)
    print(f"saved; LanguageModelActorCritic.load({options.save!r}) reads it without running anything in it")
