"""How far the engine that sampled is from the policy that learns, and the weight that makes up for it.

With μ the engine's and π the policy's probability of a sampled token (same weights, other kernels, precision, batches):

    difference  log π − log μ          ratio  π / μ

It would be 0 and 1 on policy. With both in float32 the difference is about 1e-6 nats; with the engine in bfloat16 0.007 in the
mean for the embedded model. More means stale weights, another temperature, or log-probabilities of another distribution
(`--logprobs-mode`). What is logged follows TRL's GRPO.

Source of the weight: truncated importance sampling, min(π / μ, C) on each token's term of the objective (Yao, Liu et al. 2025,
"Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"; Espeholt et al. 2018, arXiv 1802.01561, for the
truncation). The old log-probabilities of PPO's ratio stay the policy's own. As the weight is positive, it is put on the
advantage: w · min(r A, clip(r) A) = min(r w A, clip(r) w A).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from textenv.generation import Sampled

if TYPE_CHECKING:
    from textenv.agents.ppo.batch import TokenBatch

__all__ = ["engine_gap", "importance_weights", "met", "warn_of_gap"]

_WIDE = 0.05  # nats, mean absolute difference


def engine_gap(sampled: Tensor, log_probs: Tensor) -> dict[str, float]:
    """What is logged of it.

    >>> engine_gap(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.5]))["engine/logprob_diff_max"]
    0.5

    Args:
        sampled: (N,) log μ.
        log_probs: (N,) log π.
    """
    difference = log_probs.float() - sampled.to(log_probs.device).float()
    ratio = difference.exp()
    return {
        "engine/logprob_diff_mean": float(difference.abs().mean()),
        "engine/logprob_diff_max": float(difference.abs().max()),
        "engine/ratio_mean": float(ratio.mean()),
        "engine/ratio_max": float(ratio.max()),
    }


def importance_weights(sampled: Tensor, log_probs: Tensor, cap: float) -> Tensor:
    """min(π / μ, cap) of each token, (N,).

    >>> importance_weights(torch.tensor([-3.0, -1.0]), torch.tensor([-1.0, -1.0]), 2.0).tolist()
    [2.0, 1.0]
    """
    return (log_probs.float() - sampled.to(log_probs.device).float()).exp().clamp(max=cap)


def warn_of_gap(gap: dict[str, float]) -> None:
    """Say so where what sampled cannot be this policy."""
    mean = gap["engine/logprob_diff_mean"]
    if mean > _WIDE:
        warnings.warn(
            f"the engine's log-probabilities are {mean:.2g} nats from the policy's in the mean: it samples with other weights, or "
            "reports another distribution (vllm serve … --logprobs-mode processed_logprobs)",
            stacklevel=2,
        )


def met(batch: TokenBatch, sampled: Sampled, cap: float | None) -> tuple[TokenBatch, dict[str, float]]:
    """A batch that an engine has sampled, its advantages weighted (with a cap), and what is logged of the gap.

    Args:
        batch: with the policy's own old log-probabilities.
        sampled: what the engine gave; without log-probabilities nothing is known of a gap.
        cap: C; None: no weights.

    Raises:
        ValueError: weights are asked for, and the engine gives no log-probabilities.
    """
    if sampled.log_probs is None:
        if cap is not None:
            raise ValueError(f"engine_is_cap={cap} needs the engine's log-probabilities, and it gives none; leave it out")
        return batch, {}
    of_engine = torch.from_numpy(np.concatenate(sampled.log_probs)).to(batch.log_probs.device)
    gap = engine_gap(of_engine, batch.log_probs)
    warn_of_gap(gap)
    if cap is not None:
        batch = batch._replace(advantages=batch.advantages * importance_weights(of_engine, batch.log_probs, cap))
    return batch, gap
