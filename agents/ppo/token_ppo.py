"""PPO over tokens, for a language model with a value, or with the texts of one prompt compared, and a frozen reference.

A batch of whole texts is sampled and credited; with c_t the credit of token t (`Episode.rewards`), k_t an estimate of the KL
to the reference (`textenv.agents.ppo.kl`) and A an advantage estimator (GAE, or one of `textenv.agents.ppo.estimators`),

    r_t = c_t − β k_t  (or r_t = c_t, and β k_t in the loss),   A = GAE(r; γ, λ), whitened over all tokens

and several epochs of the clipped objective (`textenv.agents.ppo.loss`) follow. Sources: Ziegler et al. 2019 (arXiv
1909.08593) for the penalty and its adaptive coefficient; Cao et al. 2024 (RELC) for dense credit; Stable-Baselines3 for
the contract. Estimator, aggregation of the loss, place and estimate of the KL are independent of each other; what is left out
is as in the estimator's paper (`textenv.agents.ppo.estimators.ESTIMATORS`).

1. A timestep is a generated token; an iteration is `n_episodes` texts; a minibatch is `batch_size` *texts*.
2. What happens to a batch, and where that departs from the papers, is in `textenv.agents.ppo.iteration`.
3. The reference is a copy of the policy as it was when the agent was made, unless it is synchronised every so often.
4. Credit is taken as it comes. Its sum is logged as `rollout/ep_rew_mean`, the task's own score as `objective/scores`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import gymnasium as gym
import torch
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from textenv.agents.checkpoint import load_optimizer
from textenv.agents.checks import one_of
from textenv.agents.distributed.sharding import gathered, shard
from textenv.agents.engines.gap import met
from textenv.agents.engines.protocol import RolloutEngine
from textenv.agents.learner import Learner
from textenv.agents.policy import LMPolicy
from textenv.agents.ppo.batch import log_rollout
from textenv.agents.ppo.estimators import ESTIMATORS
from textenv.agents.ppo.iteration import PPOIteration
from textenv.agents.ppo.kl import KLCoefficient, kl_estimate
from textenv.agents.ppo.nlpo import NLPO, MaskedPolicy
from textenv.agents.ppo.settings import check_settings
from textenv.agents.ppo.value_model import ValueModel, adam, saved_order, with_fitting_head, with_value
from textenv.agents.rollout import Timing, rollout_groups
from textenv.precision import Precision

__all__ = ["TokenPPO"]


class TokenPPO(PPOIteration):
    """Trains a language model, causal or encoder–decoder, on the credit of a text environment.

    >>> import gymnasium as gym, textenv
    >>> from textenv.agents import TokenPPO
    >>> env = gym.make("textenv/Detox-v0", reward="critic_span")
    >>> agent = TokenPPO("textenv/tiny", env, seed=0)
    >>> agent.learn(4_000).num_timesteps >= 4_000
    True
    >>> grpo = TokenPPO("textenv/tiny", env, advantage="grpo", kl_coef=0.04, clip_range_high=0.28)
    >>> grpo.group_size, grpo.loss_aggregation, grpo.kl_in, grpo.kl_estimator
    (8, 'sequence', 'loss', 'k3')

    Args:
        policy: an `LMPolicy`, or what one is made from: "textenv/tiny", a directory, a hub name, a transformers model.
        env: a text environment, rewards and all.
        learning_rate, clip_range, clip_range_high, clip_range_vf: numbers, or schedules of the remaining share of the run (1 → 0).
        n_episodes: texts an iteration.
        batch_size: texts a minibatch (one optimizer step).
        micro_batch_size: texts a pass with gradients, at most (without, four times as many); a minibatch accumulates them.
            Default: `batch_size`.
        micro_batch_tokens: the same for tokens, prompts and padding included (one text may have more): what bounds the memory of
            long texts. Default: any number. Texts are read in order of length, with either limit and without.
        recompute_log_probs: compute old log-probabilities and values again, as the update computes them, in place of those recorded
            while sampling (`textenv.agents.ppo.iteration`).
        n_epochs: passes over a batch.
        advantage: "gae"; or without a value: "rloo", "grpo", "dr_grpo", "reinforce++", "reinforce++-baseline".
        advantage_level: of those: "token" compares returns-to-go, "sequence" whole returns (dense credit is then summed up).
        group_size: texts a prompt. Default: the estimator's.
        dynamic_sampling: how many times groups whose scores are all equal are sampled again (DAPO).
        gamma, gae_lambda: γ, λ.
        normalize_advantage: whiten advantages over all tokens of the batch. Default: the estimator's ("gae": yes).
        whiten_rewards: divide r_t by its deviation over the batch ("std"), or by the root of that ("sqrt_std", as Fine-Grained
            RLHF's code does); the share that the KL has of r_t stays (`textenv.agents.ppo.advantages.scaled`).
        clip_range_high: the upper clip (clip-higher); None: `clip_range`.
        loss_aggregation: "token", "sequence" or "constant" (`textenv.agents.ppo.aggregation`). Default: the estimator's.
        ent_coef, vf_coef, max_grad_norm: as in Stable-Baselines3. With its 0.5 for vf_coef the value's gradient outweighs
            the policy's where they share a trunk and returns are large, and the language goes: 0.1 is TRL's and RELC's.
        target_kl: stop the epochs of an iteration when the approximate KL to the sampling policy passes 1.5 × this.
        kl_coef: β. kl_target: the KL per text (nats) that an adaptive coefficient keeps, over kl_horizon texts.
        kl_in: "reward" or "loss". Default: the estimator's.
        kl_estimator: "k1", "k2" or "k3" (`textenv.agents.ppo.kl`). Default: "k1" in the reward, "k3" in the loss.
        reference: the policy to stay near, or what one is made from; default: the policy as it is now.
        reference_sync_every: iterations after which the reference becomes the policy; None: never.
        reference_mixing: α of π_ref ← α π + (1 − α) π_ref, weight by weight, at these times.
        value_model: None, or "states": a network that reads the states of the policy and leaves them as they are
            (`textenv.agents.value_head`); "shared": a linear head that changes the trunk; "separate": a copy of the policy; or a
            language model, or its name.
        value_learning_rate: of the head or of the separate model. Default: 1e-3 for the network, else `learning_rate`.
        value_warmup: iterations in which the value alone learns.
        nlpo: `NLPO(top_p, refresh_every)`: sample under the top-p mask of a lagged policy.
        engine: who samples (`textenv.agents.engines`), with the policy's weights as they are before each rollout. Old
            log-probabilities are then the policy's own, computed; the gap is logged as `engine/...`. Default: the policy.
        engine_is_cap: C of the truncated importance weights min(π / π_engine, C) of the tokens; None: no weights.
        lora, gradient_checkpointing, frozen_layers, precision, temperature, device: as for `LMPolicy`, where the policy is made
            here. Frozen layers are shared with the reference (and a separate value model), and computed once an iteration.
        tensorboard_log: directory of TensorBoard logs.
        seed: of prompts, sampling and minibatches. The global generators are left alone.
        verbose: 1 prints a table of metrics every `log_interval` iterations.
        distributed: where torchrun started several processes: "ddp", each holds all weights; "fsdp2", each holds a piece of them
            (`textenv.agents.distributed`); "auto": "ddp". One process alone takes no notice of it.

    Raises:
        ValueError: policy and environment disagree about their tokens; bad settings.
    """

    learns_in_several = True
    settings_names = (
        *Learner.settings_names, "learning_rate", "n_episodes", "batch_size", "micro_batch_size", "micro_batch_tokens", "n_epochs",
        "advantage", "advantage_level", "group_size", "dynamic_sampling", "gamma", "gae_lambda", "normalize_advantage",
        "clip_range", "clip_range_high", "clip_range_vf", "loss_aggregation", "ent_coef", "vf_coef", "max_grad_norm", "target_kl",
        "kl_target", "kl_horizon", "kl_in", "kl_estimator", "reference_sync_every", "reference_mixing", "value_learning_rate",
        "value_warmup", "recompute_log_probs", "engine_is_cap", "whiten_rewards",
    )  # fmt: skip

    def __init__(
        self,
        policy: Any,
        env: gym.Env[Any, Any],
        *,
        learning_rate: float | Schedule = 1e-4,
        n_episodes: int = 64,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        micro_batch_tokens: int | None = None,
        recompute_log_probs: bool = False,
        n_epochs: int = 4,
        advantage: str = "gae",
        advantage_level: str = "token",
        group_size: int | None = None,
        dynamic_sampling: int = 0,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        normalize_advantage: bool | None = None,
        whiten_rewards: Literal["std", "sqrt_std"] | None = None,
        clip_range: float | Schedule = 0.2,
        clip_range_high: float | Schedule | None = None,
        clip_range_vf: float | Schedule | None = None,
        loss_aggregation: str | None = None,
        ent_coef: float = 0.0,
        vf_coef: float = 0.1,
        max_grad_norm: float = 1.0,
        target_kl: float | None = None,
        kl_coef: float = 0.1,
        kl_target: float | None = None,
        kl_horizon: float = 10_000,
        kl_in: str | None = None,
        kl_estimator: str | None = None,
        reference: Any = None,
        reference_sync_every: int | None = None,
        reference_mixing: float = 1.0,
        value_model: Any = None,
        value_learning_rate: float | Schedule | None = None,
        value_warmup: int = 0,
        nlpo: NLPO | Mapping[str, Any] | None = None,
        engine: RolloutEngine | None = None,
        engine_is_cap: float | None = None,
        lora: Any = None,
        gradient_checkpointing: bool = False,
        frozen_layers: int = 0,
        precision: Precision = "auto",
        temperature: float | None = None,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        device: str | torch.device = "auto",
        verbose: int = 0,
        distributed: str = "auto",
    ) -> None:
        value_model = None if value_model in (False, "states") else value_model
        one_of(ESTIMATORS, advantage=advantage)
        one_of(("auto", "ddp", "fsdp2"), distributed=distributed)
        usual = ESTIMATORS[advantage]
        self.advantage, self.advantage_level, self.dynamic_sampling = advantage, advantage_level, dynamic_sampling
        self.group_size = usual.group_size if group_size is None else group_size
        self.normalize_advantage = usual.normalize_advantage if normalize_advantage is None else normalize_advantage
        self.loss_aggregation = usual.loss_aggregation if loss_aggregation is None else loss_aggregation
        self.kl_in = usual.kl_in if kl_in is None else kl_in
        self.kl_estimator = kl_estimator or ("k1" if self.kl_in == "reward" else "k3")
        self.n_episodes, self.batch_size, self.n_epochs = n_episodes, batch_size, n_epochs
        self.micro_batch_size = batch_size if micro_batch_size is None else micro_batch_size
        self.recompute_log_probs = recompute_log_probs
        self.micro_batch_tokens = micro_batch_tokens
        self.learning_rate, self.clip_range, self.clip_range_vf = learning_rate, clip_range, clip_range_vf
        self.clip_range_high, self.gamma, self.gae_lambda = clip_range_high, gamma, gae_lambda
        self.ent_coef, self.vf_coef, self.max_grad_norm, self.target_kl = ent_coef, vf_coef, max_grad_norm, target_kl
        self.reference_sync_every, self.reference_mixing = reference_sync_every, reference_mixing
        self.value_learning_rate, self.value_warmup = value_learning_rate, value_warmup
        self.nlpo = NLPO(**nlpo) if isinstance(nlpo, Mapping) else nlpo
        self.kl = KLCoefficient(kl_coef, target=kl_target, horizon=kl_horizon)
        self.whiten_rewards, self.engine_is_cap = whiten_rewards, engine_is_cap
        check_settings(self, value_model, engine)
        super().__init__(
            policy, env, reference=reference or True, temperature=temperature, tensorboard_log=tensorboard_log, seed=seed,
            device=device, verbose=verbose, lora=lora, gradient_checkpointing=gradient_checkpointing, precision=precision,
            frozen_layers=frozen_layers,
        )  # fmt: skip
        if self.reference_mixing < 1 and _shapes(self.reference) != _shapes(self.policy):
            raise ValueError(f"reference_mixing={reference_mixing} mixes like weights, which this reference has not; leave it at 1")
        on_policy = value_model in (None, "shared")
        self.value_model = None if on_policy else ValueModel(value_model, self.policy, env)
        if on_policy and self.learns_value:
            self.policy = with_fitting_head(self.policy, shared=value_model == "shared")
        self._distribute(distributed, alone=engine is not None or self.nlpo is not None)
        self.engine: RolloutEngine = self.policy if engine is None or engine is policy else engine
        self.sampler = self.engine if self.nlpo is None else MaskedPolicy(self.policy, self.nlpo)
        self.optimizer = adam(self.policy, self.value_model, self.rates(1.0))
        self.n_trained = 0
        self._remaining = 1.0

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "TokenPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> TokenPPO:
        """Train until `total_timesteps` tokens have been generated (whole batches: the last may pass it).

        Args:
            total_timesteps: generated tokens; with `reset_num_timesteps=False`, beyond those already counted.
            callback: Stable-Baselines3 callbacks; `on_step` is called once a batch.
            log_interval: iterations between two dumps of the logger.
            progress_bar: show tokens/s and the time left.
        """
        with self.running(total_timesteps, callback, tb_log_name, reset_num_timesteps, progress_bar) as run:
            while self.num_timesteps < run.total:
                self._remaining = run.remaining
                run.calls.on_rollout_start()
                timing = Timing()
                if isinstance(self.sampler, MaskedPolicy):
                    self.sampler.forget()
                with gathered(self.policy):
                    self.engine.sync_weights(self.policy)
                    self.world.wait()  # one engine may be several processes'
                    episodes, groups, tokens, _, recorded = rollout_groups(
                        self.env, self.sampler, self.n_episodes, self.generator, group_size=self.group_size,
                        rounds=self.dynamic_sampling, timing=timing, world=self.world,
                    )  # fmt: skip
                if isinstance(self.sampler, MaskedPolicy):
                    self.sampler.share(self.world)
                self.num_timesteps += tokens
                if not run.step(texts=len(episodes), episodes=episodes):
                    break
                run.calls.on_rollout_end()
                sampled = time.perf_counter()
                batch, beta = self.prepare(episodes, groups, recorded), self.kl.value
                batch, gap = (batch, {}) if self.engine is self.policy else met(batch, recorded, self.engine_is_cap)
                self.train(batch)
                seconds = time.perf_counter() - sampled
                penalty = 0.0
                if self.kl_in == "reward":
                    penalty = beta * float(kl_estimate(batch.log_ratio, self.kl_estimator).sum()) / len(episodes)
                log_rollout(
                    self.logger, self.env, batch, timing, seconds, kl_coef=beta, penalty=penalty,
                    groups=groups if self.group_size > 1 else None, world=self.world,
                )  # fmt: skip
                for name, number in gap.items():
                    self.logger.record(name, number)
                run.iterated(log_interval)
        return self

    def _distribute(self, strategy: str, *, alone: bool) -> None:
        """Equal weights on all processes; or of each weight a piece, unless something reads them alone."""
        self.world.same_weights(self.policy, self.reference, self.value_model)
        if self.world.size == 1 or strategy != "fsdp2":
            return
        if alone or self.policy.adapted or self.policy.frozen is not None:
            raise ValueError(
                "distributed='fsdp2' takes no lora, frozen_layers, nlpo or engine: they share or copy weights; use 'ddp'"
            )
        if self.reference_sync_every is not None and _shapes(self.reference) != _shapes(self.policy):
            raise ValueError("distributed='fsdp2' synchronises piece by piece, and the reference is another model; use 'ddp'")
        for network in (self.policy, self.reference, self.value_model):
            if network is not None:
                shard(network, self.world.device)

    # --- Checkpoints ---------------------------------------------------------------------------------------------

    @property
    def kl_target(self) -> float | None:
        """The KL per text that the coefficient keeps; None: it is fixed."""
        return self.kl.target

    @property
    def kl_horizon(self) -> float:
        """Episodes over which the coefficient adapts."""
        return self.kl.horizon

    def _networks(self) -> dict[str, torch.nn.Module]:
        networks: dict[str, torch.nn.Module] = {} if self.value_model is None else {"value_model": self.value_model}
        return networks if not isinstance(self.sampler, MaskedPolicy) else {**networks, "lagged": self.sampler.lagged}

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        if (kind := self._value_kind) is not None:
            state["settings"]["value_model"] = kind
        state["settings"]["nlpo"] = None if self.nlpo is None else asdict(self.nlpo)
        state["counters"]["n_trained"] = self.n_trained
        return {**state, "kl_coef": self.kl.value}

    @classmethod
    def _completed(cls, saved: dict[str, Any], policy: LMPolicy) -> dict[str, Any]:
        return with_value(saved, policy)

    def _load_optimizer(self, path: str | os.PathLike[str], saved: dict[str, Any]) -> None:
        """The optimizer's state; a value of another kind than the saved one begins anew."""
        was, now = saved.get("value_model"), self._value_kind
        order = saved_order(self.policy, was, now)
        if order is not None and self.learns_value:
            warnings.warn(f"{path} was saved with value_model={was!r}, not {now!r}: the value begins anew", stacklevel=3)
        load_optimizer(path, self.optimizer, self.generator, order)

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self.kl.value = state.get("kl_coef", self.kl.value)

    @property
    def _value_kind(self) -> str | None:
        """By what `value_model` another agent has a value of the same kind."""
        if self.value_model is not None:
            return self.value_model.source
        return "shared" if self.learns_value and not self.value_apart else None


def _shapes(policy: LMPolicy) -> list[torch.Size]:
    return [parameter.shape for parameter in policy.model.parameters()]
