"""The soft Bellman equations over tokens, with exact sums over the vocabulary, for a policy kept near a reference ρ.

With β the weight of the KL, s_t the prompt and the tokens before t, and s_{T+1} the finished text, of value 0:

    V(s)      = Σ_w π(w|s) [ Q(s, w) − β (log π(w|s) − log ρ(w|s)) ]           `soft_values`
    Q(s_t, w) = r_t + γ V(s_{t+1})                                             `soft_targets`
    π*(w|s)   ∝ ρ(w|s) exp(Q(s, w) / β)                                        `soft_optimal`

At the optimum V*(s) = Q*(s, w) − β log(π*(w|s) / ρ(w|s)) for *every* w: soft Bellman consistency holds along each text,
not only in the mean. And with γ = 1 between the tokens of a text, V* of the prompt is what it would be if the whole text
were one action: β log Σ_y ρ(y|x) exp(R(y) / β). With γ < 1 it is not, which is why ETPO does not discount inside an action.

Sources: Haarnoja et al. 2018 (soft actor-critic, arXiv 1801.01290); Wen et al. 2024 (ETPO, arXiv 2402.06700); Nachum et al.
2017 (path consistency, arXiv 1702.08892), which makes targets of several steps possible (`td_lambda`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["soft_optimal", "soft_targets", "soft_values"]

NEVER = float("-inf")  # the log-probability of a token that the rule forbids


def soft_values(log_pi: Tensor, log_rho: Tensor, q: Tensor, beta: float) -> Tensor:
    """V of each state under π, by the exact sum; differentiable in π. Its negative is the loss of the policy.

    >>> log_rho, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]])
    >>> [round(soft_values(log_pi, log_rho, q, 0.5).item(), 4) for log_pi in (log_rho, soft_optimal(log_rho, q, 0.5))]
    [0.5, 0.7169]

    Args:
        log_pi, log_rho: (N, V) log-probabilities; -inf where a token is forbidden (to both).
        q: (N, V).
        beta: β.

    Returns:
        (N,).
    """
    gain = q - beta * (log_pi - log_rho)
    return (log_pi.exp() * gain.masked_fill(log_pi == NEVER, 0.0)).sum(-1)  # 0 · (−∞ + ∞) = 0


def soft_optimal(log_rho: Tensor, q: Tensor, beta: float) -> Tensor:
    """log π* ∝ log ρ + Q / β: what maximises `soft_values`, (N, V)."""
    return (log_rho + q / beta).log_softmax(-1)


def soft_targets(
    rewards: Tensor,
    values: Tensor,
    log_ratio: Tensor,
    lengths: Sequence[int],
    *,
    beta: float,
    gamma: float = 1.0,
    td_lambda: float = 0.0,
) -> Tensor:
    """What Q of each taken token is drawn towards.

        y_t = r_t + γ [ (1 − λ) V(s_{t+1}) + λ (y_{t+1} − β ℓ_{t+1}) ],   ℓ = log π(y_t) − log ρ(y_t),   y_T = r_T

    λ = 0 is ETPO's: one step. λ = 1 is the sampled soft return. In between, a late reward reaches early tokens at once.

    >>> reward, value, zero = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([0.2, 0.4, 0.6]), torch.zeros(3)
    >>> soft_targets(reward, value, zero, [2, 1], beta=0.1).tolist()
    [0.4000000059604645, 1.0, 5.0]

    Args:
        rewards, values, log_ratio: (N,) of the texts' tokens, one text after the other; values are of the states before them.
        lengths: the number of tokens of each text, summing to N.
        beta, gamma, td_lambda: β, γ, λ.

    Returns:
        (N,).
    """
    out, at = torch.empty_like(rewards), 0
    for length in lengths:
        follow = rewards.new_zeros(())  # beyond the end nothing is bootstrapped
        for t in reversed(range(at, at + length)):
            out[t] = rewards[t] + gamma * follow
            follow = (1 - td_lambda) * values[t] + td_lambda * (out[t] - beta * log_ratio[t])
        at += length
    return out
