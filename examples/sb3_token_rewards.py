"""An unmodified Stable-Baselines3 agent with dense credit.

    python examples/sb3_token_rewards.py [--sparse]

With `payment="end"` a finished text is judged once; the callback `TokenRewards` writes its credit into the rollout buffer,
token by token, before SB3 computes advantages.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import textenv  # noqa: F401 - registers the environments
from textenv.agents import TokenRewards

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sparse", action="store_true", help="the score on the last token alone, no callback")
parser.add_argument("--total-timesteps", type=int, default=20_480)
options = parser.parse_args()

reward = "sparse" if options.sparse else "critic_span"
envs = make_vec_env(lambda: gym.make("textenv/CountLetter-v0", reward=reward, payment="end"), n_envs=8, seed=0)
agent = PPO("MlpPolicy", envs, n_steps=128, batch_size=128, learning_rate=3e-3, gamma=1.0, seed=0)
agent.learn(options.total_timesteps, callback=None if options.sparse else TokenRewards())
mean, _ = evaluate_policy(agent, envs, n_eval_episodes=16)
best = 1 if options.sparse else 2
print(f"{options.total_timesteps} tokens, reward={reward}: mean return {mean:.2f} of at most {best}")
