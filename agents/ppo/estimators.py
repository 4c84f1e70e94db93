"""Advantages without a value model: a text is compared with the other texts of its prompt, or with the batch.

With r_t the reward of token t, G_t = Σ_{s≥t} γ^(s−t) r_s its return-to-go, R = G_1, and a group the n texts of one prompt:

    "rloo"                    A = R − mean of the others' R = n/(n−1) (R − mean R)    Ahmadian et al. 2024, arXiv 2402.14740
    "grpo"                    A = (R − mean R) / std R                                Shao et al. 2024, arXiv 2402.03300
    "dr_grpo"                 A = R − mean R                                          Liu et al. 2025, arXiv 2503.20783
    "reinforce++"             A_t = G_t, whitened over the batch                      Hu 2025, arXiv 2501.03262
    "reinforce++-baseline"    A = R − mean R, whitened over the batch                 the same, with groups

1. The papers pay a text once, at its end, and give every token the same A. `level="token"`, the default here, puts G_t in the
   place of R, token by token, so that dense credit is not cancelled: the potential of a shaped reward (RED) drops out of R,
   but G_t = R − Φ_t keeps it as a baseline. With all credit on the last token both levels are the same.
2. At token t of one text the others count with their own G_t; a text that has ended by then with that of its last token. The
   baseline of a text thus never depends on its own actions (with "rloo"; a mean over the texts *still running* would), there
   is one at every token, and equal texts have advantage zero.
3. "grpo" divides by one number a group: the root of the variance (n − 1 in the denominator) of G_t over the texts, averaged
   over t; on the level of sequences that is std R. `EPSILON` keeps equal rewards at zero.
4. A text that is alone in its group has nothing to be compared with: its advantage is zero.
5. Rewards are not clipped. What else the papers differ in stands on axes of its own, and `ESTIMATORS` holds their choices:
   whitening, aggregation of the loss, place of the KL penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textenv.agents.ppo.advantages import gae

__all__ = ["ESTIMATORS", "LEVELS", "Estimator", "group_advantages", "returns_to_go"]

EPSILON = 1e-4
"""Added to GRPO's standard deviation (TRL's value)."""

LEVELS = ("token", "sequence")


@dataclass(frozen=True)
class Estimator:
    """What goes with an estimator in its paper; each is an argument of `TokenPPO` of its own.

    Attributes:
        group_size: texts a prompt; above 1: they are compared.
        normalize_advantage: advantages are whitened over the batch.
        loss_aggregation: see `textenv.agents.ppo.aggregation`.
        kl_in: "reward" or "loss".
        learns_value: a value function is learned beside the policy.
    """

    group_size: int = 8
    normalize_advantage: bool = False
    loss_aggregation: str = "token"
    kl_in: str = "reward"
    learns_value: bool = False

    @property
    def compares(self) -> bool:
        """Whether the texts of one prompt are compared."""
        return self.group_size > 1


ESTIMATORS = {
    "gae": Estimator(group_size=1, normalize_advantage=True, learns_value=True),
    "rloo": Estimator(group_size=4, loss_aggregation="constant"),  # 4: RED's; the loss is summed over a text
    "grpo": Estimator(loss_aggregation="sequence", kl_in="loss"),
    "dr_grpo": Estimator(loss_aggregation="constant", kl_in="loss"),
    "reinforce++": Estimator(group_size=1, normalize_advantage=True),
    "reinforce++-baseline": Estimator(normalize_advantage=True, kl_in="loss"),
}
"""By name; `TokenPPO(advantage=...)` takes one."""


def returns_to_go(rewards: Tensor, lengths: Sequence[int], gamma: float = 1.0) -> Tensor:
    """G_t = Σ_{s≥t} γ^(s−t) r_s of each token, (N,).

    >>> returns_to_go(torch.tensor([1.0, 2.0, 4.0]), [2, 1], gamma=0.5).tolist()
    [2.0, 2.0, 4.0]
    """
    return gae(rewards, torch.zeros_like(rewards), lengths, gamma=gamma, gae_lambda=1.0)[0]


def group_advantages(
    rewards: Tensor, lengths: Sequence[int], groups: Sequence[int], *, advantage: str, level: str = "token", gamma: float = 1.0
) -> Tensor:
    """The advantage of each token, before any whitening.

    >>> rewards = torch.tensor([0.0, 1.0, 2.0, 3.0])  # texts of 2, 1 and 1 tokens
    >>> group_advantages(rewards, [2, 1, 1], [0, 0, 7], advantage="rloo").tolist()
    [-1.0, -1.0, 1.0, 0.0]

    Args:
        rewards: (N,), texts one after the other.
        lengths: (B,) the number of tokens of each text, summing to N.
        groups: (B,) the group of each text: any numbers, in any order.
        advantage: a name of `ESTIMATORS` other than "gae".
        level: "token": from returns-to-go; "sequence": from the return, for every token of a text.

    Returns:
        (N,).

    Raises:
        ValueError: another estimator or level; not one group a text.
    """
    if advantage not in ESTIMATORS or advantage == "gae":
        raise ValueError(f"advantage must be one of {', '.join(name for name in ESTIMATORS if name != 'gae')}, got {advantage!r}")
    if level not in LEVELS:
        raise ValueError(f"advantage_level must be one of {', '.join(LEVELS)}, got {level!r}")
    if len(groups) != len(lengths):
        raise ValueError(f"{len(lengths)} texts, but {len(groups)} groups: give the group of each text")
    texts = list(returns_to_go(rewards, lengths, gamma).split(list(lengths)))
    if level == "sequence":
        texts = [text[:1].expand(len(text)) for text in texts]
    if not ESTIMATORS[advantage].compares:
        return torch.cat(texts)
    of: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        of.setdefault(int(group), []).append(i)
    out = list(texts)
    for rows in of.values():
        for i, row in zip(rows, _compared([texts[i] for i in rows], advantage), strict=True):
            out[i] = row[: lengths[i]]
    return torch.cat(out)


def _compared(texts: Sequence[Tensor], advantage: str) -> Tensor:
    """Returns-to-go of the n texts of a group → advantages (n, T), T the longest."""
    n, longest = len(texts), max(map(len, texts))
    to_go = torch.stack([torch.cat([text, text[-1:].expand(longest - len(text))]) for text in texts])  # (n, T), by note 2
    shifted = to_go - to_go[:1]  # equal rows are zero exactly, whatever the rounding of a mean
    centred = shifted - shifted.mean(0)
    if n == 1:
        return centred
    if advantage == "rloo":
        return centred * (n / (n - 1))
    if advantage == "grpo":
        return centred / (centred.square().sum(0).div(n - 1).mean().sqrt() + EPSILON)
    return centred
