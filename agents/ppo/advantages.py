"""Generalized advantage estimation over texts of unequal length (Schulman et al. 2016, arXiv 1506.02438).

    δ_t = r_t + γ V_{t+1} − V_t,   A_t = δ_t + γ λ A_{t+1},   V_{T+1} = A_{T+1} = 0

A text ends with its last token, by EOS or by its budget: nothing is bootstrapped beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["gae", "scaled", "whiten"]


def gae(
    rewards: Tensor, values: Tensor, lengths: Sequence[int], *, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of each token.

    >>> advantages, returns = gae(torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3), [2, 1], gae_lambda=1.0)
    >>> advantages.tolist(), returns.tolist()
    ([1.0, 1.0, 2.0], [1.0, 1.0, 2.0])

    Args:
        rewards, values: (N,), texts one after the other.
        lengths: the number of tokens of each text, summing to N.

    Returns:
        advantages (N,), and returns (N,) = advantages + values.
    """
    reward, value = _pad(rewards, lengths), _pad(values, lengths)  # (B, T); beyond a text's end all is zero
    advantage = torch.zeros_like(reward)
    following = next_value = torch.zeros_like(reward[:, 0])
    for t in reversed(range(reward.shape[1])):
        delta = reward[:, t] + gamma * next_value - value[:, t]
        advantage[:, t] = following = delta + gamma * gae_lambda * following
        next_value = value[:, t]
    flat = torch.cat([row[:n] for row, n in zip(advantage, lengths, strict=True)])
    return flat, flat + values


def whiten(x: Tensor) -> Tensor:
    """(x − mean) / standard deviation, over all tokens of the batch; (N,). One token alone stays as it is.

    A standard deviation below 1e-5 counts as 1e-5: where no reward came and the policy has not moved, what is left is the
    rounding of log-probabilities (1e-6), which should not be blown up to one (Stable-Baselines3 adds 1e-8).
    """
    return (x - x.mean()) / x.std().clamp(min=1e-5) if len(x) > 1 else x


def scaled(x: Tensor, by: Literal["std", "sqrt_std"] | None) -> Tensor:
    """x / standard deviation over all tokens of the batch, the mean left alone; (N,). The whitening of *rewards*; None: x.

    Ziegler et al. 2019 (arXiv 1909.08593) divide r_t so before GAE; Fine-Grained RLHF (Wu et al. 2023, arXiv 2306.01693) means to.
    Its released code divides by the square root of the standard deviation: `by="sqrt_std"`.

    >>> scaled(torch.tensor([0.0, 9.0, 18.0]), "std").tolist(), scaled(torch.tensor([0.0, 9.0, 18.0]), "sqrt_std").tolist()
    ([0.0, 1.0, 2.0], [0.0, 3.0, 6.0])
    """
    if by is None or len(x) < 2:
        return x
    deviation = x.std().clamp(min=1e-5)
    return x / (deviation if by == "std" else deviation.sqrt())


def _pad(flat: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(flat.split(list(lengths))), batch_first=True)
