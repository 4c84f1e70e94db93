"""sb3-contrib's MaskablePPO on Detox: over the whole vocabulary, or among the k likeliest tokens of a reference.

    python examples/maskable_ppo.py [--k 32] [--plain]

The environment says which tokens are allowed (`action_masks()`: a text of Detox does not end before its budget). With `--k` the
actions are the k likeliest tokens of the model as it was pretrained, so a policy can choose no nonsense; `--plain` trains an MLP on
them, no language model. Without, masks of the whole vocabulary are kept a bit each (`PackedMaskBuffer`).
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

import textenv  # noqa: F401 - registers the environments
from textenv.agents import TokenRewards
from textenv.agents.sb3.actor_critic import MaskableLanguageModelActorCritic
from textenv.agents.sb3.vocabulary import PackedMaskBuffer, VecTopKActions

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--k", type=int, default=0, help="offer the k likeliest tokens; 0: all")
parser.add_argument("--plain", action="store_true", help="an MLP instead of a language model (with --k)")
parser.add_argument("--model", default="textenv/tiny")
parser.add_argument("--total-timesteps", type=int, default=57_344, help="tokens")
parser.add_argument("--n-envs", type=int, default=16)
parser.add_argument("--texts", type=int, default=128, help="sampled before and after")
options = parser.parse_args()


def make(**arguments: str) -> VecEnv:
    envs = make_vec_env(lambda: gym.make("textenv/Detox-v0", tokenizer=options.model, **arguments), options.n_envs, seed=0)
    return VecTopKActions(envs, options.k, options.model) if options.k else envs


def score(agent: MaskablePPO) -> float:
    """The task's score, over texts that are sampled by stepping."""
    envs, scores = make(split="test"), list[float]()
    observations = envs.reset()
    while len(scores) < options.texts:
        actions, _ = agent.predict(observations, action_masks=get_action_masks(envs))
        observations, _, _, infos = envs.step(actions)
        scores += [info["text_episode"].score for info in infos if "text_episode" in info]
    return float(np.mean(scores))


agent = MaskablePPO(
    "MlpPolicy" if options.plain else MaskableLanguageModelActorCritic,
    make(reward="critic_span", payment="end"),
    policy_kwargs=None if options.plain else {"model": options.model},
    rollout_buffer_class=PackedMaskBuffer,
    n_steps=112,
    batch_size=28 * options.n_envs,
    n_epochs=2,
    learning_rate=3e-4 if options.plain else 1e-4,
    gamma=1.0,
    target_kl=None if options.plain else 0.05,
    seed=0,
)
print(f"actions: {agent.action_space.n}")
print(f"score before {score(agent):.3f}", flush=True)
agent.learn(options.total_timesteps, callback=TokenRewards())
print(f"score after  {score(agent):.3f}")
