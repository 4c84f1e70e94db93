"""ETPO: a token-level soft actor-critic, whose expectations are exact sums over the vocabulary.

Paper: Wen et al. 2024, *Entropy-Regularized Token-Level Policy Optimization for Language Agent Reinforcement* (arXiv
2402.06700). The paper's *action* is a whole utterance, its reward comes when the utterance ends, and a soft Bellman update
carries it through the utterance's tokens without discount. Here an episode is one utterance, and Gymnasium's action one of
its tokens. With ρ the frozen reference, Q_θ the critic and Q̄ its slow copy (`textenv.agents.etpo.soft_q`):

    critic   mean_t Huber_δ(y_t − Q_θ(s_t, y_t)),   y_t = r_t + V̄(s_{t+1}),   V̄ = Σ_w π (Q̄ − β (log π − log ρ)),   y_T = r_T
    policy   mean_t Σ_w π(w|s_t) [ β (log π(w|s_t) − log ρ(w|s_t)) − Q_θ(s_t, w) ],   whose minimum is π* ∝ ρ exp(Q / β)

1. The loss of the policy is the theory's. The released code's is a uniform mean over the vocabulary of β log π − Q, whose
   gradient does not hold Q at all. Its Huber loss is zero for errors below −δ; this one is symmetric.
2. Every token may bear credit (r_t); the paper's reward is that of the last token, `reward="sparse"`.
3. γ acts between tokens and is 1, as in the paper. The paper's 0.99 acts between utterances, of which a text has one.
4. Q(s, w) = V_θ(s) + z_θ(s, w) − z_ρ(s, w), with z the logits of the critic and of the reference: it begins at zero, where
   the paper's Q begins as the logits of a language model, which would bootstrap from numbers that are no rewards.
5. Targets of several steps (`td_lambda`), so that a late reward reaches early tokens within one update; 0 is the paper's. In
   CountLetter with the sparse reward, 8 tokens a text, 0.95 is done after 10,000 tokens and 0 is not after 40,000.
6. Adam steps once for policy and critic together, each with its own rate and clipped by itself (the paper: Lion).

Nothing of size B · T · V is kept: between the passes a token has four numbers, and a pass reads so few texts that its logits
stay below `MAX_LOGITS` numbers, in at most a few tensors. With LoRA policy, critic, its slow copy and ρ share one base.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from textenv.agents.checks import above, at_first, at_least, within
from textenv.agents.etpo.soft_q import NEVER, soft_targets, soft_values
from textenv.agents.learner import Learner
from textenv.agents.policy import LMPolicy
from textenv.agents.ppo.batch import TokenBatch, log_rollout
from textenv.agents.rollout import Timing, rollout
from textenv.agents.value_head import linear_head
from textenv.episode import Episode
from textenv.precision import Precision, differentiating

__all__ = ["ETPO"]

MAX_LOGITS = 1 << 24  # 64 MiB in float32


class ETPO(Learner):
    """Trains a language model, causal or encoder–decoder, on the credit of a text environment, by soft Q-values.

    >>> import gymnasium as gym, textenv
    >>> from textenv.agents import ETPO
    >>> env = gym.make("textenv/CountLetter-v0", max_new_tokens=8, tokenizer="textenv/tiny")
    >>> ETPO("textenv/tiny", env, n_episodes=8, batch_size=4, lora=4, seed=0).learn(100).num_timesteps >= 100
    True

    Args:
        policy: an `LMPolicy`, or what one is made from: "textenv/tiny", a directory, a hub name, a transformers model.
        env: a text environment, rewards and all.
        learning_rate, critic_learning_rate: numbers, or schedules of the remaining share of the run (1 → 0); None: the
            policy's. (Paper: 1e-6, Lion, for 7B parameters.)
        kl_coef: β, in units of reward per nat.
        n_episodes: texts an iteration.
        batch_size: texts a minibatch (one optimizer step).
        micro_batch_size: texts a forward pass, fewer where their logits would be too many; gradients accumulate over a
            minibatch. Default: `batch_size`.
        n_epochs: passes over a batch. (Paper: 1.)
        gamma: between the tokens of a text.
        td_lambda: λ of the targets: 0 (paper) bootstraps from the next token, 1 takes the whole text's soft return.
        tau: share of the critic that its slow copy takes at each step (Polyak).
        huber_delta, max_grad_norm: δ; the norm to which the gradients of policy and critic are clipped, each by itself.
        temperature, lora, gradient_checkpointing, precision, device: of a policy that is made here (as for `LMPolicy`).
        tensorboard_log: directory of TensorBoard logs.
        seed: of prompts, sampling and minibatches. The global generators are left alone.
        verbose: 1 prints a table of metrics every `log_interval` iterations.
        reference: ρ, or what it is made from; default: the policy as it is now (with LoRA: the base).

    Raises:
        ValueError: policy and environment disagree about their tokens; bad settings.
    """

    settings_names = (
        *Learner.settings_names, "learning_rate", "critic_learning_rate", "kl_coef", "n_episodes", "batch_size", "micro_batch_size",
        "n_epochs", "gamma", "td_lambda", "tau", "huber_delta", "max_grad_norm",
    )  # fmt: skip

    def __init__(
        self,
        policy: Any,
        env: gym.Env[Any, Any],
        *,
        learning_rate: float | Schedule = 1e-4,
        critic_learning_rate: float | Schedule | None = None,
        kl_coef: float = 0.01,
        n_episodes: int = 64,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        n_epochs: int = 1,
        gamma: float = 1.0,
        td_lambda: float = 0.95,
        tau: float = 0.005,
        huber_delta: float = 10.0,
        max_grad_norm: float = 10.0,
        temperature: float | None = None,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        device: str | torch.device = "auto",
        verbose: int = 0,
        lora: Any = None,
        gradient_checkpointing: bool = False,
        precision: Precision = "auto",
        reference: Any = None,
    ) -> None:
        at_least(1, n_episodes=n_episodes, batch_size=batch_size, n_epochs=n_epochs, micro_batch_size=micro_batch_size)
        above(0, kl_coef=kl_coef, huber_delta=huber_delta, max_grad_norm=max_grad_norm)
        within(0, float("inf"), learning_rate=at_first(learning_rate), critic_learning_rate=at_first(critic_learning_rate))
        within(0, 1, gamma=gamma, td_lambda=td_lambda, tau=tau)
        super().__init__(
            policy, env, reference=reference or True, temperature=temperature, tensorboard_log=tensorboard_log, seed=seed,
            device=device, verbose=verbose, lora=lora, gradient_checkpointing=gradient_checkpointing, precision=precision,
        )  # fmt: skip
        self.reference: LMPolicy
        self.learning_rate, self.critic_learning_rate, self.kl_coef = learning_rate, critic_learning_rate, kl_coef
        self.n_episodes, self.batch_size, self.n_epochs = n_episodes, batch_size, n_epochs
        self.micro_batch_size = micro_batch_size or batch_size
        self.gamma, self.td_lambda, self.tau = gamma, td_lambda, tau
        self.huber_delta, self.max_grad_norm = huber_delta, max_grad_norm
        self.critic = self.policy.copy()
        self.critic.value_head = linear_head(self.critic.width, self.critic.device)
        self.target = self.critic.copy().requires_grad_(False)
        self._remaining = 1.0
        learned = zip(self._learned, self._rates, strict=True)
        groups = [{"params": [p for p in network.parameters() if p.requires_grad], "lr": rate} for network, rate in learned]
        self.optimizer = torch.optim.Adam(groups, eps=1e-5, fused=True)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "ETPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> ETPO:
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
                if not run.step(texts=len(episodes), episodes=episodes):
                    break
                run.calls.on_rollout_end()
                sampled = time.perf_counter()
                batch = self.prepare(episodes)
                self.train(batch)
                seconds, beta = time.perf_counter() - sampled, self.kl_coef
                log_rollout(self.logger, self.env, batch, timing, seconds, kl_coef=beta, penalty=beta * batch.kl)
                run.iterated(log_interval)
        return self

    # --- One iteration -------------------------------------------------------------------------------------------

    def prepare(self, episodes: Sequence[Episode]) -> TokenBatch:
        """Soft values V̄ (`values`) and the critic's targets y (`returns`) of credited episodes, without gradients."""
        log_probs, log_ratios, values = [], [], []
        with torch.no_grad():
            for part in self._parts(episodes):
                rho, log_rho, actions = self._read(self.reference, part)
                log_pi = self._read(self.policy, part)[1]
                values.append(soft_values(log_pi, log_rho, self._q(self.target, part, rho), self.kl_coef))
                taken, reference = log_pi.gather(1, actions).squeeze(1), log_rho.gather(1, actions).squeeze(1)
                log_probs.append(taken)
                log_ratios.append(taken - reference)
        value, log_prob, log_ratio = torch.cat(values), torch.cat(log_probs), torch.cat(log_ratios)  # (N,) each
        returns = soft_targets(
            torch.from_numpy(np.concatenate([e.rewards for e in episodes])).float(), value.cpu(), log_ratio.cpu(),
            [len(e) for e in episodes], beta=self.kl_coef, gamma=self.gamma, td_lambda=self.td_lambda,
        ).to(value)  # fmt: skip
        return TokenBatch(
            episodes, log_probs=log_prob, values=value, advantages=returns - value, returns=returns, log_ratio=log_ratio,
            ref_log_probs=log_prob - log_ratio,
        )  # fmt: skip

    def train(self, batch: TokenBatch) -> None:
        """`n_epochs` passes over one batch: critic, policy, and the critic's slow copy."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        history: list[dict[str, float]] = []
        for _ in range(self.n_epochs):
            order = torch.randperm(len(batch.episodes), generator=self.generator).tolist()
            for at in range(0, len(order), self.batch_size):
                history.append(self._minibatch(batch.select(order[at : at + self.batch_size])))
                for network in self._learned:
                    nn.utils.clip_grad_norm_(network.parameters(), self.max_grad_norm)
                self.optimizer.step()
                self._follow()
                self.n_updates += 1
        for name in history[0]:
            self.logger.record(f"train/{name}", float(np.mean([stats[name] for stats in history])))
        self.logger.record("train/learning_rate", self._rates[0])
        self.logger.record("train/n_updates", self.n_updates)

    def _minibatch(self, batch: TokenBatch) -> dict[str, float]:
        """Accumulate the gradients of one minibatch; its statistics."""
        self.optimizer.zero_grad(set_to_none=True)
        tokens, at = len(batch.returns), 0
        total = {"critic_loss": 0.0, "policy_loss": 0.0, "q_values": 0.0}
        for part in self._parts(batch.episodes):
            end = at + sum(map(len, part))
            with torch.no_grad():
                rho, log_rho, actions = self._read(self.reference, part)
            q = self._q(self.critic, part, rho)  # (n, V)
            taken = q.gather(1, actions).squeeze(1)
            critic_loss = huber_loss(taken, batch.returns[at:end], reduction="sum", delta=self.huber_delta) / tokens
            with differentiating(self.critic.precision):
                critic_loss.backward()  # before the policy is read: one graph at a time stands in memory
            log_pi = self._read(self.policy, part)[1]
            policy_loss = -soft_values(log_pi, log_rho, q.detach(), self.kl_coef).sum() / tokens
            with differentiating(self.policy.precision):
                policy_loss.backward()
            numbers = torch.stack([critic_loss.detach(), policy_loss.detach(), taken.detach().sum() / tokens]).tolist()
            if not np.isfinite(numbers).all():
                raise FloatingPointError(f"the losses became {numbers[:2]} at update {self.n_updates}; lower learning_rate")
            total = {name: total[name] + number for name, number in zip(total, numbers, strict=True)}
            at = end
        return total

    def _read(self, policy: LMPolicy, part: Sequence[Episode]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, V), log-probabilities (n, V) and taken tokens (n, 1) of some texts."""
        _, logits, at = policy.distributions([e.prompt_tokens for e in part], [e.tokens for e in part], self.rule)
        return logits, logits.log_softmax(-1), at.actions[:, None]

    def _q(self, critic: LMPolicy, part: Sequence[Episode], rho: Tensor) -> Tensor:
        """Q(s, w) = V_θ(s) + z_θ(s, w) − z_ρ(s, w), (n, V); 0 beside V where a token is forbidden."""
        hidden, logits, _ = critic.distributions([e.prompt_tokens for e in part], [e.tokens for e in part], self.rule)
        value: Tensor = critic.value_head(hidden.float())  # (n, 1)
        return value + (logits - rho).masked_fill(rho == NEVER, 0.0)

    def _parts(self, episodes: Sequence[Episode]) -> Iterator[list[Episode]]:
        """Consecutive texts whose logits may stand in memory together; one at least."""
        part: list[Episode] = []
        for episode in episodes:
            tokens = sum(map(len, part)) + len(episode)
            if part and (len(part) == self.micro_batch_size or tokens * self.rule.vocabulary > MAX_LOGITS):
                yield part
                part = []
            part.append(episode)
        yield part

    def _follow(self) -> None:
        """Q̄ ← Q̄ + τ (Q − Q̄)."""
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                if fast.requires_grad:
                    slow.lerp_(fast, self.tau)

    @property
    def _learned(self) -> tuple[LMPolicy, LMPolicy]:
        return self.policy, self.critic

    @property
    def _rates(self) -> tuple[float, float]:
        rate = FloatSchedule(self.learning_rate)(self._remaining)
        critic = self.critic_learning_rate
        return rate, rate if critic is None else FloatSchedule(critic)(self._remaining)

    def _networks(self) -> dict[str, nn.Module]:
        return {"critic": self.critic, "target": self.target}
