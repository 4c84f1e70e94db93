"""From a term per token to one number: how much a token of a long text weighs.

    "token"      Σ_i Σ_t x_it / Σ_i T_i            every token alike (PPO, DAPO: Yu et al. 2025, arXiv 2503.14476)
    "sequence"   1/B Σ_i 1/T_i Σ_t x_it            every text alike (GRPO: Shao et al. 2024, arXiv 2402.03300)
    "constant"   1/B Σ_i 1/T_max Σ_t x_it          every token alike, whatever else is in the batch (Dr. GRPO: Liu et al.
                                                   2025, arXiv 2503.20783); up to T_max the sum over a text (RLOO)

verl calls them token-mean, seq-mean-token-mean, seq-mean-token-sum-norm. "sequence" lets a token of a short text move the
policy more than one of a long text: short right answers and long wrong ones are favoured. That is GRPO as it was published.

Sums are divided by the counts of the *minibatch*, so that micro-batches of any size add up to the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AGGREGATIONS", "Aggregation"]

AGGREGATIONS = ("token", "sequence", "constant")


@dataclass(frozen=True)
class Aggregation:
    """Aggregates the terms of one micro-batch of a minibatch.

    >>> x = torch.tensor([1.0, 1.0, 1.0, 2.0])  # a text of three tokens, and one of one
    >>> [round(Aggregation(mode, tokens=4, texts=2, budget=5)(x, [3, 1]).item(), 3) for mode in AGGREGATIONS]
    [1.25, 1.5, 0.5]

    Attributes:
        mode: "token", "sequence" or "constant".
        tokens, texts: how many the whole minibatch has.
        budget: T_max, the constant.
    """

    mode: str
    tokens: int
    texts: int
    budget: int

    def __post_init__(self) -> None:
        if self.mode not in AGGREGATIONS:
            raise ValueError(f"loss_aggregation must be one of {', '.join(AGGREGATIONS)}, got {self.mode!r}")

    def __call__(self, terms: Tensor, lengths: Sequence[int]) -> Tensor:
        """Terms (N,) of texts of these lengths, one after the other → a scalar."""
        if self.mode == "token":
            return terms.sum() / self.tokens
        if self.mode == "constant":
            return terms.sum() / (self.texts * self.budget)
        counts = torch.tensor(lengths, device=terms.device)
        return (terms / counts.repeat_interleave(counts)).sum() / self.texts
