"""Losses of preference pairs: DPO, SimPO, TDPO-1 and -2, and SELM's optimism.

Every base gives a pair (x, y_w, y_l) a margin m; the loss is −log σ(m), and the weight of its gradient σ(−m).

    DPO     m = β [log π/π_ref(y_w) − log π/π_ref(y_l)]                       Rafailov et al. 2023 (arXiv 2305.18290)
    SimPO   m = β/|y_w| log π(y_w) − β/|y_l| log π(y_l) − γ                   Meng et al. 2024 (arXiv 2405.14734)
    TDPO-1  m = DPO's −   β [SeqKL(y_l) −    SeqKL(y_w) ]                     Zeng et al. 2024 (arXiv 2404.11999)
    TDPO-2  m = DPO's − α β [SeqKL(y_l) − sg(SeqKL(y_w))]     sg: no gradient;  SeqKL(y) = Σ_t KL(π_ref(·|s_t) ‖ π(·|s_t))
    SELM    + α β [log π(y_ref) − log π_ref(y_ref)], y_ref by the reference   Zhang et al. 2024 (arXiv 2405.19332)

Log-probabilities are sums over the tokens of a text, EOS among them; γ is given as γ/β, as in SimPO's own settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Base", "PreferenceLoss", "Texts", "optimism", "per_text", "sequence_kl"]

Base = Literal["dpo", "simpo", "tdpo1", "tdpo2"]


class Texts(NamedTuple):
    """One side of B pairs."""

    log_probs: Tensor  # (B,) log π(y|x), summed over tokens
    reference: Tensor  # (B,) log π_ref(y|x); SimPO does not read it
    lengths: Tensor  # (B,) tokens
    kl: Tensor | None = None  # (B,) SeqKL, for TDPO


@dataclass(frozen=True)
class PreferenceLoss:
    """What makes a margin of a pair.

    >>> chosen = Texts(torch.tensor([-5.0]), torch.tensor([-7.0]), torch.tensor([4]))
    >>> rejected = Texts(torch.tensor([-9.0]), torch.tensor([-8.0]), torch.tensor([3]))
    >>> round(PreferenceLoss("dpo", beta=0.1).margin(chosen, rejected).item(), 6)  # 0.1 · (2 − −1)
    0.3
    >>> round(PreferenceLoss("simpo", beta=2.0, gamma_ratio=0.5).margin(chosen, rejected).item(), 6)  # 2 · (−1.25 + 3) − 1
    2.5

    Args:
        base: "dpo", "simpo", "tdpo1" or "tdpo2".
        beta: β.
        gamma_ratio: SimPO's γ/β.
        tdpo_alpha: TDPO-2's α.

    Raises:
        ValueError: another base, β not above 0, a negative γ/β or α.
    """

    base: Base = "dpo"
    beta: float = 0.1
    gamma_ratio: float = 0.5
    tdpo_alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.base not in get_args(Base):
            raise ValueError(f"loss must be one of {', '.join(get_args(Base))}, got {self.base!r}")
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")
        if self.gamma_ratio < 0 or self.tdpo_alpha < 0:
            raise ValueError(f"gamma_ratio and tdpo_alpha must not be negative, got {self.gamma_ratio} and {self.tdpo_alpha}")

    @property
    def by_length(self) -> bool:
        """Whether log-probabilities are means over tokens (SimPO), not sums."""
        return self.base == "simpo"

    @property
    def reads_distributions(self) -> bool:
        """Whether whole distributions of policy and reference are compared (TDPO)."""
        return self.base in ("tdpo1", "tdpo2")

    def rewards(self, texts: Texts) -> Tensor:
        """(B,) the implicit reward of each text: β log π/π_ref(y), SimPO's β/|y| log π(y)."""
        if self.by_length:
            return self.beta * texts.log_probs / texts.lengths
        return self.beta * (texts.log_probs - texts.reference)

    def margin(self, chosen: Texts, rejected: Texts) -> Tensor:
        """(B,) m; differentiable."""
        margin = self.rewards(chosen) - self.rewards(rejected)
        if self.by_length:
            return margin - self.gamma_ratio * self.beta
        if self.base == "dpo":
            return margin
        if chosen.kl is None or rejected.kl is None:
            raise ValueError(f"{self.base} needs the sequence KL of both texts")
        if self.base == "tdpo1":
            return margin - self.beta * (rejected.kl - chosen.kl)
        return margin - self.tdpo_alpha * self.beta * (rejected.kl - chosen.kl.detach())  # the stop-gradient: on y_w alone

    def losses(self, margin: Tensor) -> Tensor:
        """(B,) −log σ(m)."""
        return -F.logsigmoid(margin)


def optimism(explored: Texts, beta: float) -> Tensor:
    """(B,) β [log π(y_ref) − log π_ref(y_ref)]: lowering it moves the policy away from what its reference writes.

    Unbounded below, so its coefficient is small (the paper's: 1e-4 to 1e-3).
    """
    return beta * (explored.log_probs - explored.reference)


def sequence_kl(log_p: Tensor, log_p_reference: Tensor, lengths: Sequence[int]) -> Tensor:
    """SeqKL of each text, over the whole vocabulary; differentiable in the policy.

    Args:
        log_p, log_p_reference: (N, V) log-probabilities at every token of B texts, one after the other; −inf in both where
            the rule forbids an id.
        lengths: B numbers that sum to N.

    Returns:
        (B,) nats, not negative.
    """
    forbidden = log_p_reference == float("-inf")
    difference = log_p_reference.masked_fill(forbidden, 0.0) - log_p.masked_fill(forbidden, 0.0)  # 0 · (−inf + inf) is 0 here
    return per_text((log_p_reference.exp() * difference).sum(-1), lengths)


def per_text(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sums of (N,) token values over each of B texts: (B,).

    >>> per_text(torch.tensor([1.0, 2.0, 3.0]), [2, 1]).tolist()
    [3.0, 3.0]
    """
    return torch.stack([part.sum() for part in values.split(list(lengths))])
