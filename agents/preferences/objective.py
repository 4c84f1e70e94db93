"""What a pair of texts costs a policy: its frozen numbers, computed once, and its loss, at every step.

    L = −log σ(m)  +  α_treg · w · (L_reg(y_w) + L_reg(y_l))  +  α_selm · β (log π − log π_ref)(y_ref)

The margins m are in `textenv.agents.preferences.losses`, L_reg and w in `token_regularization`. A term whose α is
0 is left out, so that the base is left bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.policy import LMPolicy
from textenv.agents.preferences.losses import PreferenceLoss, Texts, optimism, per_text, sequence_kl
from textenv.agents.preferences.pairs import Pair
from textenv.agents.preferences.token_regularization import TokenSource, regularizer, token_rewards
from textenv.episode import Episode
from textenv.generation import ActionRule

__all__ = ["PairObjective", "Prepared", "distributions"]


class Prepared(NamedTuple):
    """A pair, and what is frozen about its texts: chosen, rejected, and explored, where there is one."""

    pair: Pair
    texts: list[Episode]
    reference: list[float]  # log π_ref of each text; 0 without a reference
    rewards: list[NDArray[np.float64]]  # r̂ of chosen and rejected, (T,) each


@dataclass(frozen=True)
class PairObjective:
    """The loss of pairs.

    Args:
        base: what makes a margin.
        treg_alpha, selm_alpha: the coefficients of the two terms; 0: off.
        treg_weight: "pair": w = σ(−m), detached; "static": 1 (a control).

    Raises:
        ValueError: a negative coefficient, another weight.
    """

    base: PreferenceLoss
    treg_alpha: float = 0.0
    selm_alpha: float = 0.0
    treg_weight: Literal["pair", "static"] = "pair"

    def __post_init__(self) -> None:
        if self.treg_alpha < 0 or self.selm_alpha < 0:
            raise ValueError(f"treg_alpha and selm_alpha must not be negative, got {self.treg_alpha} and {self.selm_alpha}")
        if self.treg_weight not in ("pair", "static"):
            raise ValueError(f'treg_weight must be "pair" or "static", got {self.treg_weight!r}')

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads π_ref."""
        return not self.base.by_length or self.selm_alpha > 0

    @torch.no_grad()
    def prepare(
        self,
        pairs: Sequence[Pair],
        reference: LMPolicy | None,
        source: TokenSource | None,
        rule: ActionRule,
        batch_size: int,
    ) -> list[Prepared]:
        """The frozen numbers of each pair, in forward passes of `batch_size` texts.

        Args:
            pairs: with `explored`, where SELM's term is on.
            source: of token rewards, where T-REG's term is on.
        """
        rows = [[t for t in (p.chosen, p.rejected, p.explored if self.selm_alpha else None) if t is not None] for p in pairs]
        flat = [text for row in rows for text in row]
        logs, rewards = [0.0] * len(flat), [np.zeros(len(text)) for text in flat]
        if reference is not None and self.needs_reference:
            for some in reference.layout.passes([len(text.prompt_tokens) + len(text) for text in flat], batch_size):
                prompts, tokens = [flat[i].prompt_tokens for i in some], [flat[i].tokens for i in some]
                found = per_text(reference.evaluate(prompts, tokens, rule).log_probs, [len(text) for text in tokens])
                for i, value in zip(some, found.tolist(), strict=True):
                    logs[i] = value
        if source is not None and self.treg_alpha and flat:
            rewards = token_rewards(source, flat)
        out, at = [], 0
        for pair, row in zip(pairs, rows, strict=True):
            out.append(Prepared(pair, row, logs[at : at + len(row)], rewards[at : at + 2]))
            at += len(row)
        return out

    def losses(self, part: Sequence[Prepared], policy: LMPolicy, reference: LMPolicy | None, rule: ActionRule) -> dict[str, Tensor]:
        """Loss ("train/loss") and statistics of each pair, (B,) each, by the names that are logged; the loss is differentiable."""
        n, sides = len(part), len(part[0].texts)
        texts = [one.texts[side] for side in range(sides) for one in part]  # all chosen, all rejected, all explored
        lengths = [len(text) for text in texts]
        log_probs, kl = self._log_probs(texts, policy, reference, rule)
        sums, counts = per_text(log_probs, lengths), torch.tensor(lengths).to(log_probs)
        frozen = torch.tensor([one.reference[side] for side in range(sides) for one in part]).to(log_probs)
        where = [slice(at, at + n) for at in range(0, len(texts), n)]
        chosen, rejected, *explored = (Texts(sums[s], frozen[s], counts[s], None if kl is None else kl[s]) for s in where)
        margin = self.base.margin(chosen, rejected)
        loss, terms = self.base.losses(margin), dict[str, Tensor]()
        if self.treg_alpha:
            weight = torch.sigmoid(-margin).detach() if self.treg_weight == "pair" else torch.ones_like(margin)
            rewards = torch.from_numpy(np.concatenate([one.rewards[side] for side in (0, 1) for one in part])).to(log_probs)
            each = regularizer(log_probs[: len(rewards)], rewards, lengths[: 2 * n], self.base.beta, by_length=self.base.by_length)
            pressure = weight * (each[:n] + each[n:])  # Eq. 2: one sign for both texts
            loss = loss + self.treg_alpha * pressure
            terms |= {"treg/regularizer": pressure, "treg/weight": weight}
        if self.selm_alpha:
            term = optimism(explored[0], self.base.beta)
            loss = loss + self.selm_alpha * term
            terms |= {"selm/log_ratio": term / self.base.beta, "logps/explored": explored[0].log_probs}
        if chosen.kl is not None and rejected.kl is not None:
            terms |= {"kl/chosen": chosen.kl, "kl/rejected": rejected.kl}
        good, bad = self.base.rewards(chosen), self.base.rewards(rejected)
        lowest = torch.stack([values.min() for values in log_probs.split(lengths)])  # tokens of r̂ < 0 are pushed without a floor
        return {
            "train/loss": loss, "rewards/chosen": good, "rewards/rejected": bad, "rewards/margins": good - bad,
            "rewards/accuracies": (good > bad).float(), "logps/chosen": chosen.log_probs, "logps/rejected": rejected.log_probs,
            "logps/lowest_token": torch.minimum(lowest[:n], lowest[n : 2 * n]), **terms,
        }  # fmt: skip

    def _log_probs(
        self, texts: Sequence[Episode], policy: LMPolicy, reference: LMPolicy | None, rule: ActionRule
    ) -> tuple[Tensor, Tensor | None]:
        """log π of every token (N,), and, for TDPO, SeqKL of every text (B,)."""
        prompts, tokens = [text.prompt_tokens for text in texts], [text.tokens for text in texts]
        if not self.base.reads_distributions or reference is None:
            return policy.evaluate(prompts, tokens, rule).log_probs, None
        log_p, actions = distributions(policy, prompts, tokens, rule)
        with torch.no_grad():
            log_p_reference, _ = distributions(reference, prompts, tokens, rule)
        kl = sequence_kl(log_p, log_p_reference, [len(text) for text in texts])
        return log_p.gather(1, actions[:, None]).squeeze(1), kl


def distributions(
    policy: LMPolicy, prompts: Sequence[NDArray[np.int64]], texts: Sequence[NDArray[np.int64]], rule: ActionRule
) -> tuple[Tensor, Tensor]:
    """log π(· | x, y_<t) at every token of B texts, (N, V), −inf where the rule forbids; and the tokens, (N,). Differentiable."""
    layout = policy.layout
    at = layout.positions(layout.prompts(prompts, rule.prompt_end), texts)
    with policy.autocast():
        hidden, head = layout.read(at)
        logits = head(hidden)
    return rule.restrict(logits, at.steps, policy.temperature).log_softmax(-1), at.actions
