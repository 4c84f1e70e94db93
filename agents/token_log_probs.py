"""Log-probabilities of tokens from hidden states, without all logits in memory at once.

    log π(y_n) = z_n[y_n] − log Σ_v e^(z_n[v]),    z_n = logits(h_n),   n = 1 … N

(N, V) logits, their softmax and its gradient are what fills the memory at a large vocabulary: 64 texts × 512 tokens ×
50,257 ids × 4 bytes are 6.6 GB, several times over. Here rows are taken in parts, and where gradients are recorded a part
keeps its hidden states alone and makes its logits once more in the backward pass (as Hsu et al. 2024, *Liger Kernel*, arXiv
2410.10989, do for the loss of supervised training, where the gradient is known at once; that of PPO is not). The price is a
second product with the head; one part alone, as with a small vocabulary, keeps its logits and pays nothing. Where no gradients are
recorded parts cost nothing, and are small.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["MAX_LOGITS", "token_log_probs"]

MAX_LOGITS = 2**24
"""So many logits are in memory at once, unless one token has more: in float32 64 MiB, and in the backward pass a few times that."""
SMALL_PART, FEWEST_ROWS = 2**21, 256
"""Without gradients: logits of a part, and rows of it at least, lest reading the weights of the head takes the longer."""


def token_log_probs(
    hidden: Tensor,
    actions: Tensor,
    logits: Callable[[Tensor, slice], Tensor],
    *,
    vocabulary: int,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each token and, on demand, the entropy of the distribution that it is from; differentiable.

    >>> h, z = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), lambda hidden, rows: hidden
    >>> token_log_probs(h, torch.tensor([0, 1]), z, vocabulary=2)[0].exp().tolist()
    [0.5, 0.2689414322376251]

    Args:
        hidden: (N, H).
        actions: (N,) the tokens.
        logits: (hidden states of some rows, which rows they are) → (n, V) float32, −inf where a token cannot be.
        vocabulary: V.

    Returns:
        (N,) log-probabilities, and (N,) entropies in nats or None.
    """
    rows = max(1, MAX_LOGITS // vocabulary)
    if not torch.is_grad_enabled():
        rows = min(rows, max(FEWEST_ROWS, SMALL_PART // vocabulary))

    def part(states: Tensor, where: slice) -> tuple[Tensor, Tensor | None]:
        return _read(logits(states, where), actions[where], entropy)

    if len(hidden) <= rows:
        return part(hidden, slice(0, len(hidden)))
    found = []
    for at in range(0, len(hidden), rows):
        where = slice(at, at + rows)
        if torch.is_grad_enabled():
            found.append(checkpoint(part, hidden[where], where, use_reentrant=False, preserve_rng_state=False))
        else:
            found.append(part(hidden[where], where))
    log_probs, entropies = zip(*found, strict=True)
    return torch.cat(log_probs), torch.cat(entropies) if entropy else None


def _read(logits: Tensor, actions: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    normaliser = logits.logsumexp(-1)
    log_probs = logits.gather(1, actions[:, None]).squeeze(1) - normaliser
    if not entropy:
        return log_probs, None
    log_p = logits - normaliser[:, None]
    # 0 · log 0 = 0, for the ids that the rule forbids
    return log_probs, -(log_p.exp() * log_p.masked_fill(log_p == float("-inf"), 0.0)).sum(-1)
