"""Behaviour cloning: negative log-likelihood of given texts. The baseline, and the warm start of the other agents.

    L = −mean_t log π(y_t | x, y_<t)

Over plain texts x is empty (or BOS) and y the text; over prompts with references y is a reference. EOS closes every y,
so that stopping is learned. An encoder–decoder learns pairs alone, and its y is what the tokenizer makes of a target
(BART's begins with "<s>").

1. A timestep is a target token. AdamW with decay on matrices only; the rate rises over the first 5 % of the timesteps and
   falls along a cosine. It is a function of the timesteps alone: a run that was cut and goes on for what it had left makes
   the same updates as one that was not.
2. While it learns the model is in training mode, with whatever dropout it has (torch's own generator draws it).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from textenv.agents.learner import Learner, Run
from textenv.agents.policy import LMPolicy
from textenv.episode import Prompt
from textenv.fitting.training import learning_rate_factor
from textenv.generation import ActionRule
from textenv.layouts import prompt_end, prompt_ids

__all__ = ["BehaviourCloning"]

Example = tuple[NDArray[np.int64], NDArray[np.int64]]
WARMUP = 0.05  # share of the timesteps in which the rate rises


class BehaviourCloning(Learner):
    """Fits a language model, causal or encoder–decoder, to texts.

    >>> from textenv.agents import BehaviourCloning
    >>> one = BehaviourCloning("textenv/tiny", ["What a day it was!"] * 8, learning_rate=1e-3, batch_size=4)
    >>> before = one.loss()
    >>> one.learn(400).loss() < before / 2
    True

    Args:
        policy: an `LMPolicy` or what one is made from.
        data: plain texts; `Prompt`s, whose references are the targets (a prompt without one is learned as a text); or a
            text environment, for its prompts, which are read as its policies read them.
        learning_rate: its peak.
        batch_size: texts an optimizer step.
        weight_decay, max_grad_norm: of AdamW's decay, on matrices; of the clipped gradient.
        max_tokens: longer examples lose their right end. Default: the model's positions (1,024 where they are relative).
        tensorboard_log: directory of TensorBoard logs.
        seed: of the order.
        device, lora, gradient_checkpointing: of a policy that is made here (as for `LMPolicy`).
        verbose: 1 prints a table of metrics every `log_interval` steps.

    Raises:
        ValueError: no data, or a policy without a tokenizer; a text without a reference for an encoder–decoder.
    """

    settings_names = (*Learner.settings_names, "learning_rate", "batch_size", "weight_decay", "max_grad_norm", "max_tokens")

    def __init__(
        self,
        policy: Any,
        data: Sequence[str | Prompt] | gym.Env[Any, Any],
        *,
        learning_rate: float = 1e-4,
        batch_size: int = 16,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
        max_tokens: int | None = None,
        tensorboard_log: str | None = None,
        seed: int | None = 0,
        device: str | torch.device = "auto",
        verbose: int = 0,
        lora: Any = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        model: dict[str, Any] = {"lora": lora, "gradient_checkpointing": gradient_checkpointing}
        if not isinstance(policy, LMPolicy):
            policy, model = LMPolicy(policy, device=device, **model), {}
        env = data if isinstance(data, gym.Env) else None
        if policy.tokenizer is None:
            raise ValueError("the policy has no tokenizer to read texts with: LMPolicy(model, tokenizer)")
        if env is not None:
            policy.fit_to(env)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        texts = data.get_wrapper_attr("task").prompts if isinstance(data, gym.Env) else data
        encode = _Encoder(policy, env, max_tokens)
        self.examples = [example for text in texts for example in encode(text)]
        if not self.examples:
            raise ValueError("behaviour cloning needs at least one text of two tokens")
        longest = max(len(target) for _, target in self.examples)
        # The targets are given: whatever an environment asks of sampled texts (`min_new_tokens`) does not bind them.
        self.target_rule = ActionRule(len(policy.tokenizer), int(policy.tokenizer.eos_token_id), longest, prompt_end=encode.end)
        super().__init__(
            policy, env, rule=self.target_rule if env is None else None, tensorboard_log=tensorboard_log, seed=seed, device=device,
            verbose=verbose, **model,
        )  # fmt: skip
        self.learning_rate, self.batch_size, self.max_tokens = learning_rate, batch_size, max_tokens
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        trained = [p for p in self.policy.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, 0.95), fused=True)
        self._order: list[int] = []  # what is left of this pass over the examples

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "BehaviourCloning",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> BehaviourCloning:
        """Train on about `total_timesteps` target tokens (whole batches: the last may pass it).

        Args:
            total_timesteps: target tokens; with `reset_num_timesteps=False`, beyond those already counted.
            callback: Stable-Baselines3 callbacks; `on_step` is called once an optimizer step.
            log_interval: optimizer steps between two dumps of the logger.
            progress_bar: show tokens/s and the time left.

        Raises:
            FloatingPointError: the loss, or its gradient, is not finite.
        """
        with self.running(total_timesteps, callback, tb_log_name, reset_num_timesteps, progress_bar) as run:
            self.policy.train()
            try:
                while self.num_timesteps < run.total:
                    batch = self._next_batch()
                    loss = self._update(batch, run)
                    self.num_timesteps += sum(len(target) for _, target in batch)
                    self.logger.record("train/loss", loss)
                    self.logger.record("train/n_updates", self.n_updates)
                    if not run.step(loss=loss):
                        break
                    run.iterated(log_interval)
            finally:
                self.policy.eval()
        return self

    def loss(self, examples: Sequence[Example] | None = None) -> float:
        """Mean negative log-likelihood per target token (nats), of the given examples or of all."""
        chosen = self.examples if examples is None else examples
        total, count = 0.0, 0
        with torch.no_grad():
            for at in range(0, len(chosen), self.batch_size):
                part = chosen[at : at + self.batch_size]
                n = sum(len(target) for _, target in part)
                total, count = total + float(self._loss(part)) * n, count + n
        return total / count

    # --- Within --------------------------------------------------------------------------------------------------

    def _next_batch(self) -> list[Example]:
        """Endless passes over the examples, each in a new order."""
        if not self._order:
            self._order = torch.randperm(len(self.examples), generator=self.generator).tolist()
        rows, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        return [self.examples[i] for i in rows]

    def _update(self, batch: Sequence[Example], run: Run) -> float:
        """One optimizer step; its loss."""
        middle = self.num_timesteps + sum(len(target) for _, target in batch) // 2
        rate = self.learning_rate * learning_rate_factor(middle, run.total, max(1, round(WARMUP * run.total)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), self.max_grad_norm)
        value = loss.item()
        if not (math.isfinite(value) and torch.isfinite(norm)):
            raise FloatingPointError(
                f"the loss became {value}, its gradient {norm.item()}, at update {self.n_updates}; "
                f"lower learning_rate ({self.learning_rate})"
            )
        self.optimizer.step()
        self.n_updates += 1
        self.logger.record("train/learning_rate", rate)
        return value

    def _loss(self, batch: Sequence[Example]) -> Tensor:
        out = self.policy.evaluate([start for start, _ in batch], [target for _, target in batch], self.target_rule)
        loss: Tensor = -out.log_probs.mean()
        return loss

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "order": self._order}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._order = [i for i in state["order"] if i < len(self.examples)]


class _Encoder:
    """From texts and prompts to pairs of ids, as a policy reads and writes them."""

    def __init__(self, policy: LMPolicy, env: gym.Env[Any, Any] | None, max_tokens: int | None) -> None:
        self.policy, self.env, self.max_tokens = policy, env, max_tokens
        self.tokenizer: Any = policy.tokenizer
        self.end: tuple[int, ...] = prompt_end(self.tokenizer) if env is None else env.get_wrapper_attr("action_rule").prompt_end

    def __call__(self, text: str | Prompt) -> Iterator[Example]:
        tokenizer = self.tokenizer
        prompt = Prompt(text) if isinstance(text, str) else text
        encoder = bool(getattr(self.policy.model.config, "is_encoder_decoder", False))
        if encoder and not prompt.references:
            raise ValueError(f"an encoder-decoder learns pairs; Prompt(text, references=...) gives {prompt.text[:80]!r} an answer")
        for reference in prompt.references or (None,):
            if reference is None:
                ids = prompt_ids(tokenizer, prompt.text) if prompt.text else []
                first = 1 if ids and ids[0] == tokenizer.bos_token_id else 0
                start = ids[:first] or [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
                target = ids[first:]
            else:
                start = self._start(prompt)
                target = list(tokenizer(text_target=reference, add_special_tokens=encoder)["input_ids"])
            if not target or target[-1] != tokenizer.eos_token_id:
                target.append(tokenizer.eos_token_id)
            target = target[: self._room(len(start))]
            if len(target) > 1:
                yield np.array(start, np.int64), np.array(target, np.int64)

    def _start(self, prompt: Prompt) -> list[int]:
        """What a policy would see of a prompt."""
        if self.env is None:
            return prompt_ids(self.tokenizer, prompt.text)
        return list(self.env.get_wrapper_attr("prompt_tokens")(prompt))

    def _room(self, start: int) -> int:
        """How long a target may be behind so many ids."""
        layout, limit = self.policy.layout, self.max_tokens
        (read,) = layout.prompts([np.full(start, -1)], self.end)
        room = layout.room(len(read))
        wanted = (limit or 1024) - start if limit or room is None else room
        return max(0, wanted if room is None else min(wanted, room))
