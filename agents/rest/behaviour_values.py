"""How much better the credit that follows a token is than what the data's own policy got on average: A_t = G_t − V^β(s_t).

The behaviour value of ReST's offline losses (Gulcehre et al. 2023, arXiv 2308.08998, appendix A.8.4): a copy of the policy with a
new value head, fitted once to the Monte-Carlo returns of all grown data, filtered or not. No bootstrapping, no importance weights.
Forward passes read `micro_batch_size` texts, whatever the size of a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.policy import LMPolicy
from textenv.agents.value_head import linear_head
from textenv.episode import Episode
from textenv.fitting.training import fit
from textenv.generation import ActionRule
from textenv.precision import differentiating

__all__ = ["behaviour_advantages", "discounted", "log_probs_of_texts"]

Floats = NDArray[np.float64]


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
    micro_batch_size: int = 16,
) -> list[Floats]:
    """A_t = G_t − V^β(s_t) of each token: V^β is a copy of the policy, fitted to G on all the data (ReST A.8.4).

    Raises:
        FloatingPointError: the fit diverged.
    """
    critic = policy.copy()
    critic.value_head = linear_head(critic.width, critic.device)  # one that only reads the states would leave the copy as it is
    returns = [discounted(episode.rewards, gamma) for episode in episodes]

    def batches() -> Iterator[list[int]]:
        while True:
            order = torch.randperm(len(episodes), generator=generator).tolist()
            for at in range(0, len(order), batch_size):
                yield order[at : at + batch_size]

    def losses(module: LMPolicy, rows: list[int]) -> Iterator[Tensor]:
        module.eval()  # dropout would draw from the global generator
        tokens = sum(len(episodes[i]) for i in rows)
        for at in range(0, len(rows), micro_batch_size):
            some = rows[at : at + micro_batch_size]
            values = _values(module, [episodes[i] for i in some], rule)
            wanted = torch.from_numpy(np.concatenate([returns[i] for i in some])).to(values)
            yield torch.nn.functional.mse_loss(values, wanted, reduction="sum") / tokens

    if updates:
        with differentiating(critic.precision):
            fit(critic, batches(), losses, steps=updates, learning_rate=learning_rate)
    out = list(returns)
    with torch.no_grad():
        for rows in _batches(critic, episodes, micro_batch_size):
            part = [episodes[i] for i in rows]
            for i, values in zip(rows, _split(_values(critic, part, rule), part), strict=True):
                out[i] = returns[i] - values
    return out


def _values(policy: LMPolicy, episodes: Sequence[Episode], rule: ActionRule) -> Tensor:
    return policy.evaluate([e.prompt_tokens for e in episodes], [e.tokens for e in episodes], rule).values


def log_probs_of_texts(
    policy: LMPolicy, episodes: Sequence[Episode], rule: ActionRule, *, micro_batch_size: int = 16
) -> list[Floats]:
    """log π of each token, (T,) a text, without gradients."""
    out = [np.zeros(len(episode)) for episode in episodes]
    with torch.no_grad():
        for rows in _batches(policy, episodes, micro_batch_size):
            part = [episodes[i] for i in rows]
            found = policy.evaluate([e.prompt_tokens for e in part], [e.tokens for e in part], rule).log_probs
            for i, values in zip(rows, _split(found, part), strict=True):
                out[i] = values
    return out


def _batches(policy: LMPolicy, episodes: Sequence[Episode], micro_batch_size: int) -> list[list[int]]:
    return policy.layout.passes([len(episode.prompt_tokens) + len(episode) for episode in episodes], micro_batch_size)


def _split(flat: Tensor, episodes: Sequence[Episode]) -> list[Floats]:
    """(N,) → (T,) of each text."""
    ends = np.cumsum([len(episode) for episode in episodes])[:-1]
    return list(np.split(flat.double().cpu().numpy(), ends))
