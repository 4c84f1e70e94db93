"""NLPO: the policy chooses among the likely tokens of an older copy of itself (Ramamurthy et al. 2023, arXiv 2210.01241).

    M(s) = the smallest set of tokens with Σ π_ψ(v|s) > p        π_ψ: the policy as it was at the last refresh
    π̃(a|s) = π_θ(a|s) 1[a ∈ M(s)] / Σ_{v ∈ M(s)} π_θ(v|s)       what samples, and what the ratio is made of
    π_ψ ← π_θ every μ iterations, after the texts of the μ-th are written and before the policy learns from them

1. The mask is really refreshed. In the release the sampler keeps the mask model that it was made with; `refresh_every=None`
   does that on purpose.
2. Masks are kept with the texts (one bit a token of the vocabulary), not made again: old and new probability are
   renormalised under the very set that was sampled from, also when π_ψ has been refreshed in between.
3. The KL penalty is measured on probabilities without the mask, as in the paper.
4. The stop token is always in M, so that every text can end. `min_tokens_to_keep` is 1: with the release's 100 the floor,
   not p, decides in most states.
5. p = 1 is PPO with `recompute_log_probs`, bit for bit.
6. `predict` and `evaluate(agent, ...)` ask the policy itself; `agent.sampler` is the policy under the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.distributed.world import World
from textenv.agents.policy import Evaluated, LMPolicy
from textenv.generation import ActionRule, generate, greedy, sample

__all__ = ["NLPO", "MaskedPolicy", "top_p_mask"]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class NLPO:
    """What `TokenPPO(nlpo=...)` takes.

    Attributes:
        top_p: p, above 0; 1: no token is masked.
        refresh_every: μ, iterations (of sampling and learning) between two refreshes; None: never.
        min_tokens_to_keep: a mask lets at least so many tokens through.
    """

    top_p: float = 0.9
    refresh_every: int | None = 20
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}; 1 masks nothing")
        if self.refresh_every is not None and self.refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1, got {self.refresh_every}; None: the mask is never refreshed")
        if self.min_tokens_to_keep < 1:
            raise ValueError(f"min_tokens_to_keep must be at least 1, got {self.min_tokens_to_keep}")


def top_p_mask(logits: Tensor, top_p: float, min_tokens_to_keep: int = 1) -> Tensor:
    """The smallest set of tokens that holds more than `top_p` of the probability.

    >>> top_p_mask(torch.tensor([[0.6, 0.3, 0.1]]).log(), 0.5).tolist()
    [[True, False, False]]
    >>> top_p_mask(torch.tensor([[0.6, 0.3, 0.1]]).log(), 0.7).tolist()
    [[True, True, False]]

    Args:
        logits: (N, V).
        top_p: p; 1: every token.

    Returns:
        (N, V) bool.
    """
    if top_p >= 1:
        return torch.ones_like(logits, dtype=torch.bool)
    ordered, index = logits.float().softmax(-1).sort(-1, descending=True)
    inside = ordered.cumsum(-1) - ordered <= top_p  # what stands before a token holds too little without it
    inside[:, :min_tokens_to_keep] = True
    return torch.zeros_like(inside).scatter(-1, index, inside)


class MaskedPolicy:
    """An `LMPolicy` under the mask of a lagged copy of itself: writes texts, and tells their probabilities.

    Args:
        actor: π_θ.
        settings: p, μ, the floor.
    """

    def __init__(self, actor: LMPolicy, settings: NLPO) -> None:
        self.actor, self.settings = actor, settings
        self.lagged = actor.copy().requires_grad_(False).eval()
        self._kept: dict[tuple[bytes, bytes], NDArray[np.uint8]] = {}

    def refresh(self) -> None:
        """π_ψ ← π_θ."""
        self.lagged.load_state_dict(self.actor.state_dict())

    def iterated(self, iteration: int) -> None:
        """Refresh where the texts of the μ-th iteration (counted from 1) are written."""
        if self.settings.refresh_every is not None and iteration % self.settings.refresh_every == 0:
            self.refresh()

    def forget(self) -> None:
        """Drop the masks of the texts that were written so far."""
        self._kept.clear()

    def share(self, world: World) -> None:
        """Keep the masks of the texts that the other processes wrote, too."""
        for kept in world.everyones(self._kept):
            self._kept.update(kept)

    # --- Writing -------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Ids],
        rule: ActionRule,
        uniforms: Tensor | None,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
        batch_size: int = 256,
    ) -> list[Ids]:
        """Texts, one per prompt, as `LMPolicy.generate`; their masks are kept until `forget`."""
        self.actor.eval()
        out: list[Ids] = []
        for at in range(0, len(prompts), batch_size):
            part = prompts[at : at + batch_size]
            numbers = None if uniforms is None else uniforms[at : at + batch_size].to(self.actor.device)
            out += self._generate(part, rule, numbers, top_k, top_p)
        return out

    def _generate(self, prompts: Sequence[Ids], rule: ActionRule, uniforms: Tensor | None, top_k: int, top_p: float) -> list[Ids]:
        actor = self.actor
        asked = actor.layout.prompts(prompts, rule.prompt_end)
        lagged = _Lockstep(self.lagged, asked)
        masks = np.zeros((len(prompts), rule.max_new_tokens, -(-rule.vocabulary // 8)), np.uint8)

        def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            old = lagged.logits(rows)
            mask = self._mask(rule.restrict(old, step, self.lagged.temperature), rule)
            masks[rows.cpu().numpy(), step] = _packed(mask)
            logits = _masked(rule.restrict(logits, step, actor.temperature), mask)
            chosen = (
                greedy(logits, rows, step) if uniforms is None else sample(logits, uniforms[rows, step], top_k=top_k, top_p=top_p)
            )
            lagged.advance(chosen)
            return chosen

        with actor.autocast():
            texts = generate(actor.model, asked, max_new_tokens=rule.max_new_tokens, eos_token_id=rule.eos_token_id, choose=choose)
        for prompt, text, mask in zip(prompts, texts, masks, strict=True):
            self._kept[_key(prompt, text)] = mask[: len(text)].copy()
        return texts

    # --- Reading -------------------------------------------------------------------------------------------------

    def masks(self, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule) -> Tensor:
        """M at every token, as bits, (N, V / 8) uint8: those that were kept, or for texts of others those of π_ψ as it is now.

        A text of others may hold a token outside M: it is let in, so that every text has a probability.
        """
        return torch.from_numpy(
            np.concatenate([self._mask_of(prompt, text, rule) for prompt, text in zip(prompts, texts, strict=True)])
        )

    def _mask_of(self, prompt: Ids, text: Ids, rule: ActionRule) -> NDArray[np.uint8]:
        kept = self._kept.get(_key(prompt, text))
        if kept is not None:
            return kept
        with torch.no_grad():
            _, logits, at = self.lagged.distributions([prompt], [text], rule)
        return _packed(self._mask(logits, rule).scatter(1, at.actions[:, None], True))

    def evaluate(
        self, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule, *, masks: Tensor | None = None, entropy: bool = False
    ) -> tuple[Evaluated, Tensor]:
        """`LMPolicy.evaluate` under the mask, and the log-probabilities without it (N,).

        Args:
            masks: (N, V / 8), as `masks` gave them; default: `masks(prompts, texts, rule)`.
        """
        bits = self.masks(prompts, texts, rule) if masks is None else masks
        hidden, logits, at = self.actor.distributions(prompts, texts, rule)
        unpacked = np.unpackbits(bits.cpu().numpy(), axis=1, count=logits.shape[1])
        inside = _masked(logits, torch.from_numpy(unpacked).to(logits.device).bool())
        chosen, total = logits.gather(1, at.actions[:, None]).squeeze(1), inside.logsumexp(-1)  # (N,) each
        values = self.actor.value_head(hidden.float()).squeeze(1)
        log_p = inside - total[:, None]
        spread = -(log_p.exp() * log_p.masked_fill(log_p == float("-inf"), 0.0)).sum(-1) if entropy else None
        return Evaluated(chosen - total, values, spread), chosen - logits.logsumexp(-1)

    def _mask(self, logits: Tensor, rule: ActionRule) -> Tensor:
        """(N, V) logits of π_ψ → M."""
        mask = top_p_mask(logits, self.settings.top_p, self.settings.min_tokens_to_keep)
        mask[:, rule.eos_token_id] = True
        return mask


class _Lockstep:
    """The lagged model, read at the states that the actor's decoding reaches."""

    def __init__(self, policy: LMPolicy, asked: Sequence[Ids]) -> None:
        self.model, self.layout = policy.model, policy.layout
        with torch.inference_mode():
            self.decoding = self.layout.begin(asked)
        self.rows = torch.arange(len(asked), device=policy.device)
        self.cache: Any = None

    def logits(self, rows: Tensor) -> Tensor:
        """(b, V) of the next token of these rows, in their order; some may have left since the last one, others changed places."""
        if len(rows) < len(self.rows):
            self.decoding.keep((rows[:, None] == self.rows).int().argmax(1))
            self.rows = rows
        output = self.model(**self.layout.inputs(self.decoding))
        self.cache = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        return logits

    def advance(self, chosen: Tensor) -> None:
        self.decoding.advance(chosen, self.cache)


def _key(prompt: Ids, text: Ids) -> tuple[bytes, bytes]:
    return np.asarray(prompt, np.int64).tobytes(), np.asarray(text, np.int64).tobytes()


def _packed(mask: Tensor) -> NDArray[np.uint8]:
    return np.packbits(mask.cpu().numpy(), axis=1)


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, float("-inf"))
