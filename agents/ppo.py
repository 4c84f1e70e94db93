"""The PPO objective over tokens (Schulman et al. 2017, arXiv 1707.06347), as Stable-Baselines3 writes it.

    L = mean_t [ −min(ρ_t A_t, clip(ρ_t, 1−ε, 1+ε) A_t) + c_v (R_t − V_t)² − c_e H_t ],   ρ_t = π(y_t) / π_old(y_t)

Every token counts the same, whatever its text's length. Value clipping is SB3's: the prediction is kept within ± of the
old value (TRL takes the larger of both losses). Sums are divided by the number of tokens of the *minibatch*, so that
micro-batches of any size accumulate the same gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ppo_loss"]


def ppo_loss(
    *,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    entropy: Tensor | None = None,
    clip_range: float = 0.2,
    clip_range_vf: float | None = None,
    vf_coef: float = 0.5,
    ent_coef: float = 0.0,
    tokens: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one micro-batch, and its share of the statistics.

    Args:
        log_probs … returns: (N,), one entry a generated token.
        entropy: (N,), or None: its bonus is left out, and estimated by −log π(y_t) for the log.
        clip_range: ε.
        clip_range_vf: bound on the change of a value; None: none.
        tokens: tokens of the whole minibatch; default: N.

    Returns:
        The loss (scalar), and sums to be added over micro-batches: "policy_gradient_loss", "value_loss",
        "entropy_loss", "approx_kl", "clip_fraction", "ratio".
    """
    n = len(log_probs) if tokens is None else tokens
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    policy_loss = -torch.minimum(advantages * ratio, advantages * clipped).sum() / n
    predicted = values
    if clip_range_vf is not None:
        predicted = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
    value_loss = (returns - predicted).square().sum() / n
    entropy_loss = -(-log_probs.detach() if entropy is None else entropy).sum() / n
    loss = policy_loss + vf_coef * value_loss
    if entropy is not None:
        loss = loss + ent_coef * entropy_loss
    with torch.no_grad():
        # k3: unbiased and never negative, http://joschu.net/blog/kl-approx.html
        stats = torch.stack(
            [
                policy_loss,
                value_loss,
                entropy_loss,
                (ratio - 1 - log_ratio).sum() / n,
                ((ratio - 1).abs() > clip_range).float().sum() / n,
                ratio.sum() / n,
            ]
        ).tolist()
    names = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "ratio")
    return loss, dict(zip(names, stats, strict=True))
