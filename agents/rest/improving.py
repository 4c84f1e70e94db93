"""One update of an Improve step: a weighted negative log-likelihood over a minibatch, and copies of the policy that it needs.

The optimizer is that of the library's supervised loop (`textenv.fitting.training.fit`: AdamW, decay on matrices alone, linear
warm-up, half a cosine): without thresholds, on the original data alone, the weights are bit for bit those that it gives.
It differs in one point: dropout is off, for it would draw from the global generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.policy import LMPolicy
from textenv.agents.rest.offline_losses import GOLD, OfflineLoss
from textenv.episode import Episode
from textenv.generation import ActionRule
from textenv.precision import differentiating

__all__ = ["Improver", "restore", "snapshot"]


def snapshot(policy: LMPolicy) -> dict[str, Tensor]:
    """A copy of what the policy trains, by name."""
    return {name: value.detach().clone() for name, value in policy.named_parameters() if value.requires_grad}


def restore(policy: LMPolicy, weights: Mapping[str, Tensor]) -> None:
    """Put a snapshot back.

    Raises:
        ValueError: it is of another model.
    """
    own = dict(policy.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            if name not in own or own[name].shape != value.shape:
                raise ValueError(f"these weights are of another model: it has no {name} of shape {tuple(value.shape)}")
            own[name].copy_(value)


class Improver:
    """Updates a policy on texts with one of the offline losses.

    Args:
        policy: what learns.
        rule: what a text may hold.
        loss: see `textenv.agents.rest.offline_losses`.
        micro_batch_size: texts a forward pass; gradients accumulate over a minibatch.
        weight_decay, max_grad_norm: of AdamW.

    Attributes:
        optimizer: over the policy's trainable parameters.
        lagged, anchor: π̃ and π_β, where the loss wants them.
    """

    def __init__(
        self,
        policy: LMPolicy,
        rule: ActionRule,
        loss: OfflineLoss,
        *,
        micro_batch_size: int,
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        self.policy, self.rule, self.loss = policy, rule, loss
        self.micro_batch_size, self.max_grad_norm = micro_batch_size, max_grad_norm
        self.trained = [p for p in policy.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self.trained if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in self.trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=1.0, betas=(0.9, 0.95), fused=True)
        self.lagged = _still(policy) if loss.lagged else None
        self.anchor = _still(policy) if loss.anchored else None

    def grown(self) -> None:
        """A Grow step has ended: the policy of now is π_β."""
        if self.anchor is not None:
            restore(self.anchor, snapshot(self.policy))

    def begin(self) -> None:
        """An Improve step begins: a new optimizer."""
        self.optimizer.state.clear()

    def update(
        self, episodes: Sequence[Episode], signal: Sequence[NDArray[np.float64]] | None, *, rate: float, step: int, steps: int
    ) -> dict[str, float]:
        """One optimizer step on a minibatch.

        Args:
            episodes: B texts of N tokens.
            signal: what the loss knows of their tokens, (T,) a text.
            rate: learning rate.
            step: which update of the Improve step it is, from 0, of so many `steps`.

        Returns:
            "loss", "nll" (mean over tokens), "kl" (KL(π_β ‖ π), where there is an anchor), "grad_norm".

        Raises:
            FloatingPointError: the loss or its gradient is not finite.
        """
        self.policy.eval()
        if isinstance(self.loss, GOLD) and self.lagged is not None and step % self.loss.sync_every == 0:
            restore(self.lagged, snapshot(self.policy))
        tokens, share = sum(map(len, episodes)), self.loss.anchor(step / max(1, steps - 1))
        weights = self._weights(episodes, signal)
        parts = torch.tensor([len(e) for e in episodes]).split(self.micro_batch_size)
        pieces = [None] * len(parts) if weights is None else weights.split([int(part.sum()) for part in parts])
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}  # read at the end: a device is waited for once an update
        for i, piece in enumerate(pieces):
            part = episodes[i * self.micro_batch_size : (i + 1) * self.micro_batch_size]
            log_probs, kl = self._read(part)
            value = -(log_probs if piece is None else piece * log_probs).sum() / tokens
            read = {"nll": -log_probs.detach().sum() / tokens}
            if kl is not None:
                value = value + share * kl.sum() / tokens
                read["kl"] = kl.detach().sum() / tokens
            with differentiating(self.policy.precision):
                value.backward()
            for name, number in {"loss": value.detach(), **read}.items():
                sums[name] = sums[name] + number if name in sums else number
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm)
        sums["grad_norm"] = norm
        total = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        if not np.isfinite([total["loss"], total["grad_norm"]]).all():
            found = f"the loss is {total['loss']}, its gradient's norm {total['grad_norm']}"
            raise FloatingPointError(f"update {step}: {found}; lower learning_rate ({rate})")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return total

    def _weights(self, episodes: Sequence[Episode], signal: Sequence[NDArray[np.float64]] | None) -> Tensor | None:
        """w (N,) of the whole minibatch, however it is cut; None: 1."""
        known = None if signal is None else torch.from_numpy(np.concatenate(signal)).to(self.policy.device, torch.float32)
        lagged = None
        if self.lagged is not None:
            with torch.no_grad():
                sizes = range(0, len(episodes), self.micro_batch_size)
                lagged = torch.cat([_log_probs(self.lagged, episodes[at : at + self.micro_batch_size], self.rule) for at in sizes])
        return self.loss.weights(known, lagged)

    def _read(self, episodes: Sequence[Episode]) -> tuple[Tensor, Tensor | None]:
        """log π of the tokens (n,), and KL(π_β ‖ π) at each of them, where there is an anchor."""
        if self.anchor is None:
            return _log_probs(self.policy, episodes, self.rule), None
        asked = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
        _, logits, at = self.policy.distributions(*asked, self.rule)  # (n, V)
        log_p = logits.log_softmax(-1)
        with torch.no_grad():
            log_q = self.anchor.distributions(*asked, self.rule)[1].log_softmax(-1)
        impossible = log_q == float("-inf")  # ids that the rule forbids: 0 · log 0 = 0
        kl = (log_q.exp() * (log_q - log_p).masked_fill(impossible, 0.0)).sum(-1)
        return log_p.gather(1, at.actions[:, None]).squeeze(1), kl


def _still(policy: LMPolicy) -> LMPolicy:
    """A copy that takes no gradients, with the policy's own parameters by name."""
    copied: LMPolicy = policy.copy()
    return copied.requires_grad_(False).eval()


def _log_probs(policy: LMPolicy, episodes: Sequence[Episode], rule: ActionRule) -> Tensor:
    return policy.evaluate([e.prompt_tokens for e in episodes], [e.tokens for e in episodes], rule).log_probs
