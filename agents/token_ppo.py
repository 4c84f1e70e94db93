"""PPO over tokens, for a language model with a value head and a frozen reference.

A batch of whole texts is sampled and credited; with c_t the credit of token t (`Episode.rewards`) and the KL penalty in
the reward,

    r_t = c_t − β (log π(y_t|x, y_<t) − log π_ref(y_t|x, y_<t)),   A = GAE(r; γ, λ), whitened over all tokens

and several epochs of the clipped objective (`textenv.agents.ppo`) follow. Sources: Ziegler et al. 2019 (arXiv
1909.08593) for the penalty and its adaptive coefficient; Cao et al. 2024 (RELC) for dense credit; Stable-Baselines3 for
the contract.

1. A timestep is a generated token; an iteration is `n_episodes` texts; a minibatch is `batch_size` *texts*.
2. Old log-probabilities and values are recomputed in the layout of the update, not recorded while sampling: in any
   precision the ratio of the first update is 1, and the KL of an untrained policy is 0.
3. The reference is a copy of the policy as it was when the agent was made.
4. Credit is taken as it comes. Its sum is logged as `rollout/ep_rew_mean`, the task's own score as `objective/scores`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule

from textenv.agents.advantages import gae, whiten
from textenv.agents.batch import TokenBatch, log_rollout, log_train
from textenv.agents.kl import KLCoefficient
from textenv.agents.learner import Learner
from textenv.agents.policy import LMPolicy
from textenv.agents.ppo import ppo_loss
from textenv.agents.rollout import Timing, rollout
from textenv.episode import Episode

__all__ = ["TokenPPO"]


class TokenPPO(Learner):
    """Trains a language model, causal or encoder–decoder, on the credit of a text environment.

    >>> import gymnasium as gym, textenv
    >>> from textenv.agents import TokenPPO
    >>> env = gym.make("textenv/Detox-v0", reward="critic_span")
    >>> agent = TokenPPO("textenv/tiny", env, seed=0)
    >>> agent.learn(4_000).num_timesteps >= 4_000
    True

    Args:
        policy: an `LMPolicy`, or what one is made from: "textenv/tiny", a directory, a hub name, a transformers model.
        env: a text environment, rewards and all.
        learning_rate, clip_range, clip_range_vf: numbers, or schedules of the remaining share of the run (1 → 0).
        n_episodes: texts an iteration.
        batch_size: texts a minibatch (one optimizer step).
        micro_batch_size: texts a forward pass; gradients accumulate over a minibatch. Default: `batch_size`.
        n_epochs: passes over a batch.
        gamma, gae_lambda: γ, λ.
        kl_coef: β. kl_target: the KL per text (nats) that an adaptive coefficient keeps, over kl_horizon texts.
        normalize_advantage: whiten advantages over all tokens of the batch.
        ent_coef, vf_coef, max_grad_norm: as in Stable-Baselines3. With its 0.5 for vf_coef the value's gradient outweighs
            the policy's on a shared trunk when returns are large, and the language goes: 0.1 is TRL's and RELC's.
        target_kl: stop the epochs of an iteration when the approximate KL to the sampling policy passes 1.5 × this.
        temperature: of sampling (for a policy that is made here).
        tensorboard_log: directory of TensorBoard logs.
        seed: of prompts, sampling and minibatches. The global generators are left alone.
        device: "auto", "cpu", "cuda".
        verbose: 1 prints a table of metrics every `log_interval` iterations.

    Raises:
        ValueError: policy and environment disagree about their tokens; bad settings.
    """

    settings_names = (
        *Learner.settings_names, "learning_rate", "n_episodes", "batch_size", "micro_batch_size", "n_epochs", "gamma", "gae_lambda",
        "clip_range", "clip_range_vf", "normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm", "target_kl", "kl_target",
        "kl_horizon",
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
        n_epochs: int = 4,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.1,
        max_grad_norm: float = 1.0,
        kl_coef: float = 0.1,
        kl_target: float | None = None,
        kl_horizon: float = 10_000,
        target_kl: float | None = None,
        temperature: float = 1.0,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        device: str | torch.device = "auto",
        verbose: int = 0,
        reference: LMPolicy | None = None,
    ) -> None:
        for name, count in (("n_episodes", n_episodes), ("batch_size", batch_size), ("n_epochs", n_epochs)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if micro_batch_size is not None and not 1 <= micro_batch_size <= batch_size:
            raise ValueError(f"micro_batch_size must lie in 1..batch_size={batch_size}, got {micro_batch_size}")
        super().__init__(
            policy, env, reference=reference or True, temperature=temperature, tensorboard_log=tensorboard_log, seed=seed,
            device=device, verbose=verbose,
        )  # fmt: skip
        self.reference: LMPolicy
        self.learning_rate, self.clip_range, self.clip_range_vf = learning_rate, clip_range, clip_range_vf
        self.n_episodes, self.batch_size, self.n_epochs = n_episodes, batch_size, n_epochs
        self.micro_batch_size = micro_batch_size or batch_size
        self.gamma, self.gae_lambda, self.normalize_advantage = gamma, gae_lambda, normalize_advantage
        self.ent_coef, self.vf_coef, self.max_grad_norm, self.target_kl = ent_coef, vf_coef, max_grad_norm, target_kl
        self.kl = KLCoefficient(kl_coef, target=kl_target, horizon=kl_horizon)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=FloatSchedule(learning_rate)(1.0), eps=1e-5, fused=True)
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
                episodes = rollout(self.env, self.policy, self.n_episodes, self.generator, timing=timing)
                self.num_timesteps += sum(map(len, episodes))
                if not run.step(episodes=episodes):
                    break
                run.calls.on_rollout_end()
                sampled = time.perf_counter()
                batch = self.prepare(episodes)
                self.train(batch)
                log_rollout(self.logger, self.env, batch, self.kl.value, timing, time.perf_counter() - sampled)
                run.iterated(log_interval)
        return self

    # --- One iteration -------------------------------------------------------------------------------------------

    def prepare(self, episodes: Sequence[Episode]) -> TokenBatch:
        """Log-probabilities, values, advantages and returns of credited episodes, without gradients."""
        new, ref = [], []
        with torch.no_grad():
            for at in range(0, len(episodes), self.micro_batch_size):
                part = episodes[at : at + self.micro_batch_size]
                new.append(self.evaluate_tokens(self.policy, part))
                ref.append(self.evaluate_tokens(self.reference, part).log_probs)
        log_probs, values = torch.cat([e.log_probs for e in new]), torch.cat([e.values for e in new])
        log_ratio = log_probs - torch.cat(ref)  # (N,)
        credit = torch.from_numpy(np.concatenate([e.rewards for e in episodes])).to(log_probs)
        rewards = credit - self.kl.value * log_ratio
        advantages, returns = gae(rewards, values, [len(e) for e in episodes], gamma=self.gamma, gae_lambda=self.gae_lambda)
        if self.normalize_advantage:
            advantages = whiten(advantages)
        return TokenBatch(episodes, log_probs, values, advantages, returns, log_ratio)

    def train(self, batch: TokenBatch) -> None:
        """`n_epochs` passes of the clipped objective over one batch."""
        rate, clip = FloatSchedule(self.learning_rate)(self._remaining), FloatSchedule(self.clip_range)(self._remaining)
        clip_vf = None if self.clip_range_vf is None else FloatSchedule(self.clip_range_vf)(self._remaining)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        history: list[dict[str, float]] = []
        for _ in range(self.n_epochs):
            order = torch.randperm(len(batch.episodes), generator=self.generator).tolist()
            for at in range(0, len(order), self.batch_size):
                stats = self._minibatch(batch, order[at : at + self.batch_size], clip, clip_vf)
                history.append(stats)
                if self.target_kl is not None and stats["approx_kl"] > 1.5 * self.target_kl:
                    break
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.optimizer.step()
                self.n_updates += 1
            else:
                continue
            break
        log_train(self.logger, batch, history, rate, clip, self.n_updates)
        self.kl.update(batch.kl, len(batch.episodes))

    def _minibatch(self, batch: TokenBatch, rows: list[int], clip: float, clip_vf: float | None) -> dict[str, float]:
        """Accumulate the gradient of one minibatch; its statistics."""
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(batch.episodes[i]) for i in rows)
        total: dict[str, float] = {}
        for at in range(0, len(rows), self.micro_batch_size):
            part = batch.select(rows[at : at + self.micro_batch_size])
            now = self.evaluate_tokens(self.policy, part.episodes, entropy=self.ent_coef != 0)
            loss, stats = ppo_loss(
                log_probs=now.log_probs,
                old_log_probs=part.log_probs,
                advantages=part.advantages,
                values=now.values,
                old_values=part.values,
                returns=part.returns,
                entropy=now.entropy,
                clip_range=clip,
                clip_range_vf=clip_vf,
                vf_coef=self.vf_coef,
                ent_coef=self.ent_coef,
                tokens=tokens,
            )
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss.item()} at update {self.n_updates}; lower learning_rate or max_grad_norm"
                )
            loss.backward()
            for name, value in {**stats, "loss": loss.item()}.items():
                total[name] = total.get(name, 0.0) + value
        return total

    # --- Checkpoints ---------------------------------------------------------------------------------------------

    @property
    def kl_target(self) -> float | None:
        """The KL per text that the coefficient keeps; None: it is fixed."""
        return self.kl.target

    @property
    def kl_horizon(self) -> float:
        """Episodes over which the coefficient adapts."""
        return self.kl.horizon

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "kl_coef": self.kl.value}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self.kl.value = state["kl_coef"]
