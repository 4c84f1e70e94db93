"""One batch of credited texts, token by token, and what is logged about it.

Metric names are the field's: Stable-Baselines3's `rollout/`, `time/`, `train/`, TRL's `objective/` and `val/`; beside them
`credit/`, about the reward's density, which nobody else logs. KL, entropy and scores are per text, means over texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from textenv.agents.rollout import Timing
from textenv.agents.running import text_table
from textenv.episode import Episode

__all__ = ["TokenBatch", "log_rollout", "log_time", "log_train"]


class TokenBatch(NamedTuple):
    """All tokens of the episodes one after the other: (N,) each."""

    episodes: Sequence[Episode]
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    log_ratio: Tensor  # log π − log π_ref

    @property
    def kl(self) -> float:
        """KL to the reference per text, in nats: the sampled estimate Σ_t (log π − log π_ref)."""
        return float(self.log_ratio.sum()) / len(self.episodes)

    def select(self, rows: Sequence[int]) -> TokenBatch:
        """The episodes of these indices, in this order, with their tokens."""
        starts = np.cumsum([0, *(len(episode) for episode in self.episodes)])
        where = torch.from_numpy(np.concatenate([np.arange(starts[i], starts[i + 1]) for i in rows])).to(self.values.device)
        return TokenBatch([self.episodes[i] for i in rows], *(tensor[where] for tensor in self[1:]))


def log_rollout(
    logger: Logger, env: gym.Env[Any, Any], batch: TokenBatch, kl_coef: float, timing: Timing, update_seconds: float
) -> None:
    """What was sampled: credit, scores, KL, lengths, seconds, and a table of texts."""
    episodes, log = batch.episodes, logger.record
    credit = float(np.mean([e.rewards.sum() for e in episodes]))
    placed = np.concatenate([e.rewards for e in episodes])
    log("rollout/ep_rew_mean", credit)
    log("rollout/ep_len_mean", float(np.mean([len(e) for e in episodes])))
    log("objective/scores", float(np.mean([e.score for e in episodes])))
    log("objective/kl", batch.kl)
    log("objective/kl_coef", kl_coef)
    log("objective/entropy", -float(batch.log_probs.sum()) / len(episodes))
    log("objective/non_score_reward", -kl_coef * batch.kl)
    log("objective/rlhf_reward", credit - kl_coef * batch.kl)
    log("credit/nonzero_share", float((placed != 0).mean()))
    for name, value in env.get_wrapper_attr("credit_metrics")().items():
        log(name, value)
    log("val/num_eos_tokens", sum(e.finish_reason == "stop" for e in episodes))
    log("time/sample_seconds", timing.sample)
    log("time/score_seconds", timing.score)
    log("time/update_seconds", update_seconds)
    log("rollout/texts", text_table(episodes), exclude=("stdout", "log", "json", "csv"))


def log_train(
    logger: Logger, batch: TokenBatch, history: Sequence[dict[str, float]], rate: float, clip: float, n_updates: int
) -> None:
    """What the updates did: means over minibatches of the statistics of `textenv.agents.ppo.ppo_loss`."""
    log = logger.record
    for name in ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "loss"):
        log(f"train/{name}", float(np.mean([stats[name] for stats in history])))
    log("val/ratio", float(np.mean([stats["ratio"] for stats in history])))
    values, returns = batch.values.float().cpu().numpy(), batch.returns.float().cpu().numpy()
    log("train/explained_variance", float(explained_variance(values, returns)))
    log("train/learning_rate", rate)
    log("train/clip_range", clip)
    log("train/n_updates", n_updates)


def log_time(logger: Logger, iteration: int, num_timesteps: int, first: int, elapsed: float) -> None:
    """How fast: tokens/s since `learn` began (`time/fps`, as Stable-Baselines3 calls it)."""
    logger.record("time/iterations", iteration)
    logger.record("time/fps", int((num_timesteps - first) / elapsed))
    logger.record("time/time_elapsed", int(elapsed))
    logger.record("time/total_timesteps", num_timesteps)
