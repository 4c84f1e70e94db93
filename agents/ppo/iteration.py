"""One iteration of `TokenPPO`: what becomes of a batch of credited texts.

    prepare   log-probabilities, KL and values of every token; rewards; advantages and returns, all without gradients
    train     epochs of minibatches: the clipped objective, the value, the KL where it stands in the loss; one optimizer step each

1. Old log-probabilities and values are recomputed in the layout of the update, not recorded while sampling: in any
   precision the ratio of the first update is 1, and the KL of an untrained policy is 0.
2. In the iterations of `value_warmup` the gradient of everything but the value is dropped, and β does not adapt.
3. The norms of the gradients of the policy and of a separate value model are clipped apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor

from textenv.agents.learner import Learner
from textenv.agents.policy import LMPolicy
from textenv.agents.ppo.advantages import gae, whiten
from textenv.agents.ppo.aggregation import Aggregation
from textenv.agents.ppo.batch import TokenBatch, log_train
from textenv.agents.ppo.estimators import ESTIMATORS, group_advantages, returns_to_go
from textenv.agents.ppo.kl import KLCoefficient, kl_estimate
from textenv.agents.ppo.loss import ppo_loss
from textenv.agents.ppo.nlpo import NLPO, MaskedPolicy
from textenv.agents.ppo.value_model import ValueModel
from textenv.episode import Episode

__all__ = ["PPOIteration"]


class _Read(NamedTuple):
    """What policy and value say of every token of some texts: (N,) each."""

    log_probs: Tensor  # of what samples
    unmasked: Tensor  # the same, but for NLPO
    values: Tensor
    entropy: Tensor | None


class PPOIteration(Learner):
    """The part of `TokenPPO` between a rollout and the next; the attributes are its arguments."""

    reference: LMPolicy
    value_model: ValueModel | None
    sampler: LMPolicy | MaskedPolicy
    kl: KLCoefficient
    nlpo: NLPO | None
    learning_rate: float | Schedule
    value_learning_rate: float | Schedule | None
    clip_range: float | Schedule
    clip_range_high: float | Schedule | None
    clip_range_vf: float | Schedule | None
    batch_size: int
    micro_batch_size: int
    n_epochs: int
    advantage: str
    advantage_level: str
    group_size: int
    gamma: float
    gae_lambda: float
    normalize_advantage: bool
    loss_aggregation: str
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    target_kl: float | None
    kl_in: str
    kl_estimator: str
    reference_sync_every: int | None
    reference_mixing: float
    value_warmup: int
    n_trained: int  # iterations of all calls of `learn`
    _remaining: float

    @property
    def learns_value(self) -> bool:
        """Whether the estimator needs a value."""
        return ESTIMATORS[self.advantage].learns_value

    # --- The batch -----------------------------------------------------------------------------------------------

    def prepare(self, episodes: Sequence[Episode], groups: Sequence[int] | None = None) -> TokenBatch:
        """Log-probabilities, values, advantages and returns of credited episodes, without gradients.

        Args:
            groups: the group of each episode; default: `group_size` consecutive ones are a group.
        """
        parts = [episodes[at : at + self.micro_batch_size] for at in range(0, len(episodes), self.micro_batch_size)]
        masks = self._masks(episodes)
        with torch.no_grad():
            reads = [self._read(part) for part in parts]
            ref = torch.cat([self.evaluate_tokens(self.reference, part).log_probs for part in parts])
        log_probs, values = torch.cat([read.log_probs for read in reads]), torch.cat([read.values for read in reads])
        log_ratio = torch.cat([read.unmasked for read in reads]) - ref  # (N,)
        rewards = torch.from_numpy(np.concatenate([e.rewards for e in episodes])).to(log_probs)
        if self.kl_in == "reward":
            rewards = rewards - self.kl.value * kl_estimate(log_ratio, self.kl_estimator)
        advantages, returns = self._advantages(rewards, values, [len(e) for e in episodes], groups)
        if self.normalize_advantage:
            advantages = whiten(advantages)
        return TokenBatch(episodes, log_probs, values, advantages, returns, log_ratio, ref, masks)

    def _advantages(
        self, rewards: Tensor, values: Tensor, lengths: Sequence[int], groups: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        if self.learns_value:
            return gae(rewards, values, lengths, gamma=self.gamma, gae_lambda=self.gae_lambda)
        of = [i // self.group_size for i in range(len(lengths))] if groups is None else groups
        level = self.advantage_level
        advantages = group_advantages(rewards, lengths, of, advantage=self.advantage, level=level, gamma=self.gamma)
        return advantages, returns_to_go(rewards, lengths, self.gamma)

    def _masks(self, episodes: Sequence[Episode]) -> Tensor | None:
        if not isinstance(self.sampler, MaskedPolicy):
            return None
        return self.sampler.masks([e.prompt_tokens for e in episodes], [e.tokens for e in episodes], self.rule)

    def _read(self, episodes: Sequence[Episode], masks: Tensor | None = None) -> _Read:
        prompts, texts = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
        entropy = self.ent_coef != 0 and torch.is_grad_enabled()
        if isinstance(self.sampler, MaskedPolicy):
            now, unmasked = self.sampler.evaluate(prompts, texts, self.rule, masks=masks, entropy=entropy)
        else:
            now = self.evaluate_tokens(self.policy, episodes, entropy=entropy)
            unmasked = now.log_probs
        values = now.values if self.value_model is None else self.value_model(prompts, texts, self.rule)
        return _Read(now.log_probs, unmasked, values, now.entropy)

    # --- The update ----------------------------------------------------------------------------------------------

    def train(self, batch: TokenBatch) -> None:
        """`n_epochs` passes of the clipped objective over one batch."""
        rates, clips = self.rates(self._remaining), self._clips()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate
        if isinstance(self.sampler, MaskedPolicy):
            self.sampler.iterated(self.n_trained + 1)
        warming = self.n_trained < self.value_warmup
        history: list[dict[str, float]] = []
        for _ in range(self.n_epochs):
            order = torch.randperm(len(batch.episodes), generator=self.generator).tolist()
            for at in range(0, len(order), self.batch_size):
                stats = self._minibatch(batch, order[at : at + self.batch_size], clips)
                history.append(stats)
                if self.target_kl is not None and stats["approx_kl"] > 1.5 * self.target_kl:
                    break
                self._step(warming)
                self.n_updates += 1
            else:
                continue
            break
        settings = {"learning_rate": rates[0], "clip_range": clips["clip_range"], "n_updates": self.n_updates}
        if len(rates) > 1:
            settings["value_learning_rate"] = rates[1]
        log_train(self.logger, batch, history, settings, value=self.learns_value)
        if not warming:
            self.kl.update(batch.kl, len(batch.episodes))
        self.n_trained += 1
        if self.reference_sync_every is not None and self.n_trained % self.reference_sync_every == 0:
            self._sync_reference()

    def rates(self, remaining: float) -> list[float]:
        """The learning rate; with a rate of its own for the value, or a separate model, the value's beside it."""
        own = self.learning_rate if self.value_learning_rate is None else self.value_learning_rate
        apart = self.value_model is not None or self.value_learning_rate is not None
        return [FloatSchedule(rate)(remaining) for rate in (self.learning_rate, *([own] if apart else []))]

    def _clips(self) -> dict[str, float]:
        given = {"clip_range": self.clip_range, "clip_range_high": self.clip_range_high, "clip_range_vf": self.clip_range_vf}
        return {name: FloatSchedule(clip)(self._remaining) for name, clip in given.items() if clip is not None}

    def _minibatch(self, batch: TokenBatch, rows: list[int], clips: dict[str, float]) -> dict[str, float]:
        """Accumulate the gradient of one minibatch; its statistics."""
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(batch.episodes[i]) for i in rows)
        whole = Aggregation(self.loss_aggregation, tokens, len(rows), self.rule.max_new_tokens)
        total: dict[str, float] = {}
        for at in range(0, len(rows), self.micro_batch_size):
            loss, stats = self._loss(batch.select(rows[at : at + self.micro_batch_size]), whole, clips)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss.item()} at update {self.n_updates}; lower learning_rate or max_grad_norm"
                )
            loss.backward()
            for name, value in {**stats, "loss": loss.item()}.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def _loss(self, part: TokenBatch, whole: Aggregation, clips: dict[str, float]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a micro-batch, and its share of the statistics."""
        now = self._read(part.episodes, part.masks)
        lengths = part.lengths
        loss, stats = ppo_loss(
            log_probs=now.log_probs,
            old_log_probs=part.log_probs,
            advantages=part.advantages,
            values=now.values if self.learns_value else None,
            old_values=part.values,
            returns=part.returns,
            entropy=now.entropy,
            vf_coef=self.vf_coef,
            ent_coef=self.ent_coef,
            tokens=whole.tokens,
            aggregate=lambda terms: whole(terms, lengths),
            **clips,
        )
        if self.kl_in == "loss":
            kl = whole(kl_estimate(now.unmasked - part.ref_log_probs, self.kl_estimator), lengths)
            loss, stats["kl_loss"] = loss + self.kl.value * kl, kl.item()
        return loss, stats

    def _step(self, warming: bool) -> None:
        """One optimizer step; only the value's while it warms up."""
        if warming:
            value = set() if self.value_model is not None else set(map(id, self.policy.value_head.parameters()))
            for parameter in self.policy.parameters():
                parameter.grad = parameter.grad if id(parameter) in value else None
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        if self.value_model is not None:
            torch.nn.utils.clip_grad_norm_(self.value_model.parameters(), self.max_grad_norm)
        self.optimizer.step()

    def _sync_reference(self) -> None:
        """π_ref ← α π + (1 − α) π_ref."""
        now = self.policy.frozen_copy()
        if self.reference_mixing < 1:
            with torch.no_grad():
                for new, old in zip(now.parameters(), self.reference.parameters(), strict=True):
                    new.lerp_(old, 1 - self.reference_mixing)
        now.source = None  # no name finds it again
        self.reference = now
