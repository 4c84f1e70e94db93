"""How much better the credit that follows a token is than what the data's own policy got on average: A_t = G_t − V^β(s_t).

The behaviour value of ReST's offline losses (Gulcehre et al. 2023, arXiv 2308.08998, appendix A.8.4): a copy of the policy with a
value head, fitted once to the Monte-Carlo returns of all grown data, filtered or not. No bootstrapping, no importance weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.policy import LMPolicy
from textenv.episode import Episode
from textenv.fitting.training import fit
from textenv.generation import ActionRule

__all__ = ["behaviour_advantages", "discounted", "log_probs_of_texts"]

Floats = NDArray[np.float64]
PART = 64  # texts a forward pass without gradients


def discounted(rewards: Floats, gamma: float) -> Floats:
    """G_t = Σ_{j≥0} γ^j r_{t+j}: (T,) → (T,).

    >>> discounted(np.array([0.0, 1.0, 2.0]), 0.5).tolist()
    [1.0, 2.0, 2.0]
    """
    out, following = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        out[t] = following = float(rewards[t]) + gamma * following
    return out


def behaviour_advantages(
    policy: LMPolicy,
    episodes: Sequence[Episode],
    rule: ActionRule,
    generator: torch.Generator,
    *,
    gamma: float = 1.0,
    updates: int = 200,
    learning_rate: float = 1e-4,
    batch_size: int = 16,
) -> list[Floats]:
    """A_t = G_t − V^β(s_t) of each token: V^β is a copy of the policy, fitted to G on all the data (ReST A.8.4).

    Raises:
        FloatingPointError: the fit diverged.
    """
    critic = policy.copy()
    returns = [discounted(episode.rewards, gamma) for episode in episodes]

    def batches() -> Iterator[list[int]]:
        while True:
            order = torch.randperm(len(episodes), generator=generator).tolist()
            for at in range(0, len(order), batch_size):
                yield order[at : at + batch_size]

    def loss(module: LMPolicy, rows: list[int]) -> Tensor:
        module.eval()  # dropout would draw from the global generator
        values = _values(module, [episodes[i] for i in rows], rule)
        wanted = torch.from_numpy(np.concatenate([returns[i] for i in rows])).to(values)
        return torch.nn.functional.mse_loss(values, wanted)

    if updates:
        fit(critic, batches(), loss, steps=updates, learning_rate=learning_rate)
    out: list[Floats] = []
    with torch.no_grad():
        for at in range(0, len(episodes), PART):
            part = episodes[at : at + PART]
            values = _split(_values(critic, part, rule), part)
            out += [g - v for g, v in zip(returns[at : at + PART], values, strict=True)]
    return out


def _values(policy: LMPolicy, episodes: Sequence[Episode], rule: ActionRule) -> Tensor:
    return policy.evaluate([e.prompt_tokens for e in episodes], [e.tokens for e in episodes], rule).values


def log_probs_of_texts(policy: LMPolicy, episodes: Sequence[Episode], rule: ActionRule) -> list[Floats]:
    """log π of each token, (T,) a text, without gradients."""
    out: list[Floats] = []
    with torch.no_grad():
        for at in range(0, len(episodes), PART):
            part = episodes[at : at + PART]
            found = policy.evaluate([e.prompt_tokens for e in part], [e.tokens for e in part], rule).log_probs
            out += _split(found, part)
    return out


def _split(flat: Tensor, episodes: Sequence[Episode]) -> list[Floats]:
    """(N,) → (T,) of each text."""
    ends = np.cumsum([len(episode) for episode in episodes])[:-1]
    return list(np.split(flat.double().cpu().numpy(), ends))
