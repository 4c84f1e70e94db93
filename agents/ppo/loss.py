"""The PPO objective over tokens (Schulman et al. 2017, arXiv 1707.06347), as Stable-Baselines3 writes it.

    L = mean_t [ −min(ρ_t A_t, clip(ρ_t, 1−ε, 1+ε_high) A_t) + c_v (R_t − V_t)² − c_e H_t ],   ρ_t = π(y_t) / π_old(y_t)

1. ε_high = ε, unless it is given (clip-higher: Yu et al. 2025, DAPO, arXiv 2503.14476: what is unlikely may grow faster).
2. mean_t is over all tokens, whatever their text's length, unless another aggregation is given (`textenv.agents.ppo.aggregation`).
3. Value clipping is SB3's: the prediction is kept within ± of the old value (TRL takes the larger of both losses).
4. Sums are divided by the counts of the *minibatch*, so that micro-batches of any size accumulate the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ppo_loss"]


def ppo_loss(
    *,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    values: Tensor | None = None,
    old_values: Tensor | None = None,
    returns: Tensor | None = None,
    entropy: Tensor | None = None,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
    clip_range_vf: float | None = None,
    vf_coef: float = 0.5,
    ent_coef: float = 0.0,
    tokens: int | None = None,
    aggregate: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one micro-batch, and its share of the statistics.

    Args:
        log_probs … returns: (N,), one entry a generated token; without `values` no value is learned.
        entropy: (N,), or None: its bonus is left out, and estimated by −log π(y_t) for the log.
        clip_range: ε. clip_range_high: ε_high; None: ε.
        clip_range_vf: bound on the change of a value; None: none.
        tokens: tokens of the whole minibatch; default: N.
        aggregate: terms (N,) → this micro-batch's share of their mean; default: sum / tokens.

    Returns:
        The loss (scalar), and sums to be added over micro-batches: "policy_gradient_loss", "value_loss", "entropy_loss"
        (aggregated as the loss); "approx_kl", "ratio", "clip_fraction", of which "clip_low" and "clip_high" (per token). They
        are scalars on the device: asking for their numbers would wait for it.

    Raises:
        ValueError: values without returns, or clipped without old values.
    """
    n = len(log_probs) if tokens is None else tokens
    high = clip_range if clip_range_high is None else clip_range_high

    def mean(terms: Tensor) -> Tensor:
        return terms.sum() / n if aggregate is None else aggregate(terms)

    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    policy_loss = -mean(torch.minimum(advantages * ratio, advantages * ratio.clamp(1 - clip_range, 1 + high)))
    entropy_loss = -mean(-log_probs.detach() if entropy is None else entropy)
    loss, value_loss = policy_loss, torch.zeros_like(policy_loss)
    if values is not None:
        value_loss = mean(_value_errors(values, old_values, returns, clip_range_vf))
        loss = loss + vf_coef * value_loss
    if entropy is not None:
        loss = loss + ent_coef * entropy_loss
    with torch.no_grad():
        low, above = (1 - ratio) > clip_range, (ratio - 1) > high
        # k3: unbiased and never negative, http://joschu.net/blog/kl-approx.html
        per_token = ((ratio - 1 - log_ratio), ratio, (low | above).float(), low.float(), above.float())
        stats = [policy_loss.detach(), value_loss.detach(), entropy_loss.detach(), *(term.sum() / n for term in per_token)]
    names = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "ratio", "clip_fraction", "clip_low", "clip_high")
    return loss, dict(zip(names, stats, strict=True))


def _value_errors(values: Tensor, old_values: Tensor | None, returns: Tensor | None, clip_range: float | None) -> Tensor:
    """(R_t − V_t)², (N,)."""
    if returns is None:
        raise ValueError("values are learned from returns: pass returns=")
    if clip_range is not None:
        if old_values is None:
            raise ValueError(f"clip_range_vf={clip_range} bounds the change of a value: pass old_values=")
        values = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return (returns - values).square()
