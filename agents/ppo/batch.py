"""One batch of credited texts, token by token, and what is logged about it.

Metric names are the field's: Stable-Baselines3's `rollout/`, `time/`, `train/`, TRL's `objective/` and `val/`; beside them
`credit/`, about the reward's density, which nobody else logs. KL, entropy and scores are per text, means over texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from textenv.agents.distributed.world import World
from textenv.agents.rollout import Timing
from textenv.agents.running import text_table
from textenv.episode import Episode

__all__ = ["TokenBatch", "log_rollout", "log_train", "metrics_of_all", "token_indices"]


class TokenBatch(NamedTuple):
    """All tokens of the episodes one after the other: (N,) each."""

    episodes: Sequence[Episode]
    log_probs: Tensor  # of what sampled: the denominator of the ratio
    values: Tensor
    advantages: Tensor
    returns: Tensor
    log_ratio: Tensor  # log π − log π_ref
    ref_log_probs: Tensor
    masks: Tensor | None = None  # (N, V / 8) bits: the tokens that could be sampled; None: all
    lower: Sequence[Tensor] | None = None  # (P_b + T_b, H) each: what the policy's frozen layers put out for an episode

    @property
    def kl(self) -> float:
        """KL to the reference per text, in nats: the sampled estimate Σ_t (log π − log π_ref)."""
        return float(self.log_ratio.sum()) / len(self.episodes)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(episode) for episode in self.episodes]

    def select(self, rows: Sequence[int]) -> TokenBatch:
        """The episodes of these indices, in this order, with their tokens."""
        where = token_indices(self.lengths, rows).to(self.values.device)
        return TokenBatch(
            [self.episodes[i] for i in rows],
            log_probs=self.log_probs[where],
            values=self.values[where],
            advantages=self.advantages[where],
            returns=self.returns[where],
            log_ratio=self.log_ratio[where],
            ref_log_probs=self.ref_log_probs[where],
            masks=None if self.masks is None else self.masks[where.to(self.masks.device)],
            lower=None if self.lower is None else [self.lower[i] for i in rows],
        )


def token_indices(lengths: Sequence[int], rows: Sequence[int]) -> Tensor:
    """Where the tokens of these texts stand, in this order, among the tokens of all.

    >>> token_indices([2, 1, 3], [2, 0]).tolist()
    [3, 4, 5, 0, 1]
    """
    starts = np.cumsum([0, *lengths])
    return torch.from_numpy(np.concatenate([np.arange(starts[i], starts[i + 1]) for i in rows]))


def log_rollout(
    logger: Logger,
    env: gym.Env[Any, Any],
    batch: TokenBatch,
    timing: Timing,
    update_seconds: float,
    *,
    kl_coef: float,
    penalty: float,
    groups: Sequence[int] | None = None,
    world: World | None = None,
) -> None:
    """What was sampled: credit, scores, KL, lengths, seconds, and a table of texts.

    Args:
        kl_coef: β.
        penalty: what the reward was lowered by for the KL, per text.
        groups: the group of each episode, where texts of one prompt are compared.
        world: the processes, all of which call this: each has counted what became of its own texts.
    """
    episodes, log = batch.episodes, logger.record
    credit = float(np.mean([e.rewards.sum() for e in episodes]))
    placed = np.concatenate([e.rewards for e in episodes])
    log("rollout/ep_rew_mean", credit)
    log("rollout/ep_len_mean", float(np.mean([len(e) for e in episodes])))
    if groups is not None:
        _log_groups(logger, episodes, groups)
    log("objective/scores", float(np.mean([e.score for e in episodes])))
    log("objective/kl", batch.kl)
    log("objective/kl_coef", kl_coef)
    log("objective/entropy", -float(batch.log_probs.sum()) / len(episodes))
    log("objective/non_score_reward", -penalty)
    log("objective/rlhf_reward", credit - penalty)
    log("credit/nonzero_share", float((placed != 0).mean()))
    for name, value in metrics_of_all(world or World(), env.get_wrapper_attr("credit_metrics")()).items():
        log(name, value)
    log("val/num_eos_tokens", sum(e.finish_reason == "stop" for e in episodes))
    log("time/sample_seconds", timing.sample)
    log("time/score_seconds", timing.score)
    log("time/update_seconds", update_seconds)
    log("rollout/texts", text_table(episodes), exclude=("stdout", "log", "json", "csv"))


def metrics_of_all(world: World, mine: dict[str, float]) -> dict[str, float]:
    """Metrics of all processes: whole numbers are counts, and added; others, means of nearly equal shares or seconds, averaged."""
    everyones = world.everyones(mine)
    out: dict[str, float] = {}
    for name in dict.fromkeys(name for metrics in everyones for name in metrics):
        values = [metrics[name] for metrics in everyones if name in metrics]
        counts = all(isinstance(value, Integral) for value in values)
        out[name] = sum(values) if counts else sum(values) / len(values)
    return out


def _log_groups(logger: Logger, episodes: Sequence[Episode], groups: Sequence[int]) -> None:
    """How far apart the scores of one prompt's texts are (names: TRL's GRPO)."""
    scores: dict[int, list[float]] = {}
    for episode, group in zip(episodes, groups, strict=True):
        scores.setdefault(group, []).append(episode.score)
    spread = [float(np.std(values, ddof=1)) for values in scores.values() if len(values) > 1]
    logger.record("rollout/reward_std", float(np.mean(spread)) if spread else 0.0)
    logger.record("rollout/frac_reward_zero_std", float(np.mean([len(set(values)) == 1 for values in scores.values()])))


def log_train(
    logger: Logger, batch: TokenBatch, history: Sequence[dict[str, Tensor]], settings: Mapping[str, float], *, value: bool = True
) -> None:
    """What the updates did: means over minibatches of the statistics of `textenv.agents.ppo.loss.ppo_loss`.

    Args:
        settings: logged under `train/` as they are: learning_rate, clip_range, n_updates.
        value: a value is learned.
    """
    log = logger.record
    table = torch.stack([torch.stack(list(stats.values())) for stats in history]).cpu().double()  # the one transfer
    mean = dict(zip(history[0], table.mean(0).tolist(), strict=True))
    log("val/ratio", mean.pop("ratio"))
    log("clip_ratio/low_mean", mean.pop("clip_low"))
    log("clip_ratio/high_mean", mean.pop("clip_high"))
    if value:
        values, returns = batch.values.float().cpu().numpy(), batch.returns.float().cpu().numpy()
        log("train/explained_variance", float(explained_variance(values, returns)))
    else:
        mean.pop("value_loss")
    for name, number in {**mean, **settings}.items():
        log(f"train/{name}", number)
