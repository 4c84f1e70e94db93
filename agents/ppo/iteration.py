"""One iteration of `TokenPPO`: what becomes of a batch of credited texts.

    prepare   log-probabilities, KL and values of every token; rewards; advantages and returns, all without gradients
    train     epochs of minibatches: the clipped objective, the value, the KL where it stands in the loss; one optimizer step each

1. Old log-probabilities and values are those recorded while sampling: decoding with a cache, which equals a pass over the
   whole text to 1e-5 in float32, and to a few thousandths in bfloat16. So far is the ratio of the first update from 1, and the
   KL of an untrained policy from 0. `recompute_log_probs=True` computes them again as the update does: 1 and 0, to rounding,
   for one more pass over the batch. Under NLPO's mask they are always computed again; so are a separate value model's values.
2. In the iterations of `value_warmup` the gradient of everything but the value is dropped, and β does not adapt.
3. The norms of the gradients are clipped by learning rate: a value that has one of its own does not shorten the policy's steps.
4. Texts are read several in a row, or in order of length (`Layout.passes`). Numbers and gradients do not depend on it.
5. Of several processes each reads a share of the texts (`textenv.agents.distributed`); numbers and gradients are put together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor

from textenv.agents.distributed.sharding import sharded
from textenv.agents.engines.protocol import RolloutEngine
from textenv.agents.learner import Learner
from textenv.agents.policy import LMPolicy
from textenv.agents.ppo.advantages import gae, scaled, whiten
from textenv.agents.ppo.aggregation import Aggregation
from textenv.agents.ppo.batch import TokenBatch, log_train, token_indices
from textenv.agents.ppo.estimators import ESTIMATORS, group_advantages, returns_to_go
from textenv.agents.ppo.kl import KLCoefficient, kl_estimate
from textenv.agents.ppo.loss import ppo_loss
from textenv.agents.ppo.nlpo import NLPO, MaskedPolicy
from textenv.agents.ppo.value_model import ValueModel
from textenv.agents.value_head import RATE, ValueHead
from textenv.episode import Episode
from textenv.generation import Sampled
from textenv.precision import differentiating

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
    sampler: RolloutEngine | MaskedPolicy
    kl: KLCoefficient
    nlpo: NLPO | None
    learning_rate: float | Schedule
    value_learning_rate: float | Schedule | None
    clip_range: float | Schedule
    clip_range_high: float | Schedule | None
    clip_range_vf: float | Schedule | None
    batch_size: int
    micro_batch_size: int
    micro_batch_tokens: int | None
    recompute_log_probs: bool
    n_epochs: int
    advantage: str
    advantage_level: str
    group_size: int
    gamma: float
    gae_lambda: float
    normalize_advantage: bool
    whiten_rewards: Literal["std", "sqrt_std"] | None
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

    def prepare(
        self, episodes: Sequence[Episode], groups: Sequence[int] | None = None, sampled: Sampled | None = None
    ) -> TokenBatch:
        """Log-probabilities, values, advantages and returns of credited episodes, without gradients.

        Args:
            groups: the group of each episode; default: `group_size` consecutive ones are a group.
            sampled: what was recorded of the episodes; default: it is computed.
        """
        masks = self._masks(episodes)
        with torch.no_grad():
            lower = self._lower(episodes)
            log_probs, unmasked, values = self._old(episodes, lower, sampled)
            (ref,) = self._in_parts(episodes, lower, self._read_reference)
        log_ratio = unmasked - ref  # (N,)
        rewards = torch.from_numpy(np.concatenate([e.rewards for e in episodes])).to(log_probs)
        if self.kl_in == "reward":
            rewards = rewards - self.kl.value * kl_estimate(log_ratio, self.kl_estimator)
        rewards = scaled(rewards, self.whiten_rewards)
        advantages, returns = self._advantages(rewards, values, [len(e) for e in episodes], groups)
        if self.normalize_advantage:
            advantages = whiten(advantages)
        return TokenBatch(episodes, log_probs, values, advantages, returns, log_ratio, ref, masks, lower)

    def _advantages(
        self, rewards: Tensor, values: Tensor, lengths: Sequence[int], groups: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        if self.learns_value:
            return gae(rewards, values, lengths, gamma=self.gamma, gae_lambda=self.gae_lambda)
        of = [i // self.group_size for i in range(len(lengths))] if groups is None else groups
        level = self.advantage_level
        advantages = group_advantages(rewards, lengths, of, advantage=self.advantage, level=level, gamma=self.gamma)
        return advantages, returns_to_go(rewards, lengths, self.gamma)

    def _old(self, episodes: Sequence[Episode], lower: Sequence[Tensor] | None, sampled: Sampled | None) -> tuple[Tensor, ...]:
        """Log-probabilities (under NLPO's mask, and without it) and values, (N,) each: recorded, or computed."""
        own = self.sampler is self.policy and not self.recompute_log_probs
        if not own or sampled is None or sampled.log_probs is None or sampled.values is None:
            return self._in_parts(episodes, lower, lambda part, low: self._read(part, lower=low)[:3])
        log_probs, values = (
            torch.from_numpy(np.concatenate(rows)).to(self.policy.device) for rows in (sampled.log_probs, sampled.values)
        )
        if self.value_model is not None:
            (values,) = self._in_parts(episodes, lower, lambda part, low: (self._values_apart(part, low),))
        return log_probs, log_probs, values

    def _masks(self, episodes: Sequence[Episode]) -> Tensor | None:
        if not isinstance(self.sampler, MaskedPolicy):
            return None
        return self.sampler.masks([e.prompt_tokens for e in episodes], [e.tokens for e in episodes], self.rule)

    def _lower(self, episodes: Sequence[Episode]) -> list[Tensor] | None:
        """What the frozen layers put out for each text: read once, for policy, reference and every epoch."""
        if self.policy.frozen is None:
            return None
        out: dict[int, Tensor] = {}
        for part in self._parts(episodes):
            texts = [episodes[i] for i in part]
            found = self.policy.lower_states([e.prompt_tokens for e in texts], [e.tokens for e in texts], self.rule)
            out.update(zip(part, found, strict=True))
        return [out[i] for i in range(len(episodes))]

    def _read_reference(self, episodes: Sequence[Episode], lower: Sequence[Tensor] | None) -> tuple[Tensor]:
        return (self.evaluate_tokens(self.reference, episodes, lower=self._lower_for(self.reference, lower)).log_probs,)

    def _lower_for(self, policy: LMPolicy, lower: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
        """What the frozen layers put out, for a policy that has the same ones."""
        same = self.policy.frozen is not None and self.policy.frozen.shared(self.policy.model, policy.model)
        return lower if same else None

    def _read(self, episodes: Sequence[Episode], masks: Tensor | None = None, lower: Sequence[Tensor] | None = None) -> _Read:
        prompts, texts = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
        entropy = self.ent_coef != 0 and torch.is_grad_enabled()
        if isinstance(self.sampler, MaskedPolicy):
            now, unmasked = self.sampler.evaluate(prompts, texts, self.rule, masks=masks, entropy=entropy)
        else:
            now = self.evaluate_tokens(self.policy, episodes, entropy=entropy, lower=lower)
            unmasked = now.log_probs
        values = now.values if self.value_model is None else self._values_apart(episodes, lower)
        return _Read(now.log_probs, unmasked, values, now.entropy)

    def _values_apart(self, episodes: Sequence[Episode], lower: Sequence[Tensor] | None) -> Tensor:
        """The separate value model's."""
        assert self.value_model is not None
        prompts, texts = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
        values: Tensor = self.value_model(prompts, texts, self.rule, lower=self._lower_for(self.value_model.reader, lower))
        return values

    def _parts(self, episodes: Sequence[Episode]) -> list[list[int]]:
        """The indices of the episodes that are read in one pass."""
        lengths = [len(e.prompt_tokens) + len(e.tokens) for e in episodes]
        learning, most = torch.is_grad_enabled(), self.micro_batch_tokens
        room = 1 if learning else 4  # without gradients a pass keeps nothing of its layers
        tokens = room * most if most else sys.maxsize if learning else None
        with self.policy.autocast():
            return self.policy.layout.passes(lengths, room * self.micro_batch_size, tokens)

    def _passes(self, episodes: Sequence[Episode]) -> list[list[int]]:
        """The indices of the episodes that this process reads in one pass each; an empty pass only keeps step with the others."""
        shares = [range(rank, len(episodes), self.world.size) for rank in range(self.world.size)]
        plans = [[[rows[i] for i in part] for part in self._parts([episodes[i] for i in rows])] for rows in shares]
        return self.world.passes(plans)

    def _in_parts(
        self,
        episodes: Sequence[Episode],
        lower: Sequence[Tensor] | None,
        read: Callable[[Sequence[Episode], Sequence[Tensor] | None], Sequence[Tensor]],
    ) -> tuple[Tensor, ...]:
        """What `read` says of every token, (N,) each, in the order of the episodes; it is given as many as a pass takes."""
        passes = self._passes(episodes)
        rows = [part or [0] for part in passes]
        found = [read([episodes[i] for i in part], None if lower is None else [lower[i] for i in part]) for part in rows]
        lengths = [len(e) for e in episodes]
        where = token_indices(lengths, [i for part in passes for i in part]).to(self.policy.device)
        mine = (torch.cat(flats)[: len(where)] for flats in zip(*found, strict=True))  # empty passes come last
        return tuple(self.world.sum(flat.new_zeros(sum(lengths)).index_copy_(0, where, flat)) for flat in mine)

    # --- The update ----------------------------------------------------------------------------------------------

    def train(self, batch: TokenBatch) -> None:
        """`n_epochs` passes of the clipped objective over one batch."""
        rates, clips = self.rates(self._remaining), self._clips()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate
        if isinstance(self.sampler, MaskedPolicy):
            self.sampler.iterated(self.n_trained + 1)
        warming = self.n_trained < self.value_warmup
        history: list[dict[str, Tensor]] = []
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
        """The learning rate; and the value's beside it, where it has weights, or a rate, of its own."""
        usual = RATE if self.value_model is None and self.value_apart else self.learning_rate
        own = usual if self.value_learning_rate is None else self.value_learning_rate
        apart = self.value_apart or self.value_learning_rate is not None
        return [FloatSchedule(rate)(remaining) for rate in (self.learning_rate, *([own] if apart else []))]

    @property
    def value_apart(self) -> bool:
        """Whether a value is learned whose gradient does not reach the policy's model."""
        return self.learns_value and (self.value_model is not None or isinstance(self.policy.value_head, ValueHead))

    def _clips(self) -> dict[str, float]:
        given = {"clip_range": self.clip_range, "clip_range_high": self.clip_range_high, "clip_range_vf": self.clip_range_vf}
        return {name: FloatSchedule(clip)(self._remaining) for name, clip in given.items() if clip is not None}

    def _minibatch(self, batch: TokenBatch, rows: list[int], clips: dict[str, float]) -> dict[str, Tensor]:
        """Accumulate the gradient of one minibatch; its statistics, left on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        minibatch = batch.select(rows)
        whole = Aggregation(self.loss_aggregation, sum(minibatch.lengths), len(rows), self.rule.max_new_tokens)
        total: dict[str, Tensor] = {}
        for part in self._passes(minibatch.episodes):
            loss, stats = self._loss(minibatch.select(part or [0]), whole, clips)
            if not part:  # read to keep step, and counted as nothing
                loss, stats = 0.0 * loss, {name: 0.0 * value for name, value in stats.items()}
            with differentiating(self.policy.precision):
                loss.backward()
            for name, value in {**stats, "loss": loss.detach()}.items():
                total[name] = total[name] + value if name in total else value
        if self.world.size > 1:
            total = self._summed(total)
        if not torch.isfinite(total["loss"]):
            raise FloatingPointError(
                f"the loss became {total['loss'].item()} at update {self.n_updates}; lower learning_rate or max_grad_norm"
            )
        return total

    def _summed(self, total: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients and statistics of a minibatch from the shares of all processes."""
        for network in (self.policy, self.value_model):
            if network is not None and not sharded(network):  # what is in pieces was summed by the backward pass
                self.world.sum_gradients(network.parameters())
        return dict(zip(total, self.world.sum(torch.stack(list(total.values()))).unbind(), strict=True))

    def _loss(self, part: TokenBatch, whole: Aggregation, clips: dict[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch, and its share of the statistics."""
        now = self._read(part.episodes, part.masks, part.lower)
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
            loss, stats["kl_loss"] = loss + self.kl.value * kl, kl.detach()
        return loss, stats

    def _step(self, warming: bool) -> None:
        """One optimizer step; only the value's while it warms up."""
        if warming:
            value = set() if self.value_model is not None else set(map(id, self.policy.value_head.parameters()))
            for parameter in self.policy.parameters():
                parameter.grad = parameter.grad if id(parameter) in value else None
        for group in self.optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm)
        self.optimizer.step()

    def _sync_reference(self) -> None:
        """π_ref ← α π + (1 − α) π_ref."""
        if sharded(self.policy):
            with torch.no_grad():
                for old, new in zip(self.reference.model.parameters(), self.policy.model.parameters(), strict=True):
                    old.lerp_(new, self.reference_mixing)
            self.reference.source = None
            return
        now = self.policy.frozen_copy()
        if self.reference_mixing < 1:
            with torch.no_grad():
                for new, old in zip(now.model.parameters(), self.reference.model.parameters(), strict=True):
                    if new is not old:  # a frozen layer's is the same
                        new.lerp_(old, 1 - self.reference_mixing)
        now.source = None  # no name finds it again
        self.reference = now
