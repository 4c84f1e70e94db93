"""Behaviour cloning: negative log-likelihood of given texts. The baseline, and the warm start of the other agents.

    L = −mean_t log π(y_t | x, y_<t)

Over plain texts x is empty (or BOS) and y the text; over prompts with references y is a reference. EOS closes every y,
so that stopping is learned (`textenv.agents.targets`). An encoder–decoder learns pairs alone.

1. A timestep is a target token. AdamW with decay on matrices only; the rate rises over the first 5 % of the timesteps and
   falls along a cosine. It is a function of the timesteps alone: a run that was cut and goes on for what it had left makes
   the same updates as one that was not.
2. Dropout is off, as in every learner here: it would draw from torch's own generator, so that a seed would not settle a run.
   Decay, and texts enough, are there against learning by heart.
3. A forward pass reads `micro_batch_size` texts; the gradients of a minibatch are those of one pass over all its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from textenv.agents.checks import above, at_least, within
from textenv.agents.learner import Learner, Run
from textenv.agents.policy import LMPolicy
from textenv.agents.targets import target_ids
from textenv.episode import Prompt
from textenv.fitting.training import learning_rate_factor
from textenv.generation import ActionRule
from textenv.precision import Precision, differentiating
from textenv.tokenization import prompt_end, prompt_ids

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
        batch_size: texts an optimizer step. micro_batch_size: texts a forward pass; default: `batch_size`.
        weight_decay, max_grad_norm: of AdamW's decay, on matrices; of the clipped gradient.
        max_tokens: longer examples lose their right end. Default: the model's positions (1,024 where they are relative).
        tensorboard_log: directory of TensorBoard logs.
        seed: of the order.
        device, lora, gradient_checkpointing, precision: of a policy that is made here (as for `LMPolicy`).
        verbose: 1 prints a table of metrics every `log_interval` steps.

    Raises:
        TypeError: data of another kind.
        ValueError: no data, or a policy without a tokenizer; a text without a reference for an encoder–decoder.
    """

    settings_names = (
        *Learner.settings_names, "learning_rate", "batch_size", "micro_batch_size", "weight_decay", "max_grad_norm", "max_tokens",
    )  # fmt: skip

    def __init__(
        self,
        policy: Any,
        data: Sequence[str | Prompt] | gym.Env[Any, Any],
        *,
        learning_rate: float = 1e-4,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
        max_tokens: int | None = None,
        tensorboard_log: str | None = None,
        seed: int | None = 0,
        device: str | torch.device = "auto",
        verbose: int = 0,
        lora: Any = None,
        gradient_checkpointing: bool = False,
        precision: Precision = "auto",
    ) -> None:
        model: dict[str, Any] = {"lora": lora, "gradient_checkpointing": gradient_checkpointing, "precision": precision}
        if not isinstance(policy, LMPolicy):
            policy, model = LMPolicy(policy, device=device, **model), {}
        env = data if isinstance(data, gym.Env) else None
        if policy.tokenizer is None:
            raise ValueError("the policy has no tokenizer to read texts with: LMPolicy(model, tokenizer)")
        if env is not None:
            policy.fit_to(env)
        at_least(1, batch_size=batch_size, micro_batch_size=micro_batch_size, max_tokens=max_tokens)
        within(0, float("inf"), learning_rate=learning_rate, weight_decay=weight_decay)
        above(0, max_grad_norm=max_grad_norm)
        if isinstance(data, str | bytes) or not isinstance(data, Iterable | gym.Env):
            raise TypeError(f"data takes a list of texts or Prompts, or a text environment (gym.make(...)), got {data!r:.80}")
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
        self.micro_batch_size = micro_batch_size or batch_size
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
            self.policy.eval()
            while self.num_timesteps < run.total:
                batch = self._next_batch()
                loss = self._update(batch, run)
                self.num_timesteps += _tokens(batch)
                self.logger.record("train/loss", loss)
                self.logger.record("train/n_updates", self.n_updates)
                if not run.step(texts=len(batch), loss=loss):
                    break
                run.iterated(log_interval)
        return self

    def loss(self, examples: Sequence[Example] | None = None) -> float:
        """Mean negative log-likelihood per target token (nats), of the given examples or of all."""
        chosen = self.examples if examples is None else examples
        with torch.no_grad():
            return sum(part.item() for part in self._losses(chosen)) / _tokens(chosen)

    # --- Within --------------------------------------------------------------------------------------------------

    def _next_batch(self) -> list[Example]:
        """Endless passes over the examples, each in a new order."""
        if not self._order:
            self._order = torch.randperm(len(self.examples), generator=self.generator).tolist()
        rows, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        return [self.examples[i] for i in rows]

    def _update(self, batch: Sequence[Example], run: Run) -> float:
        """One optimizer step; its loss."""
        tokens = _tokens(batch)
        middle = self.num_timesteps + tokens // 2
        rate = self.learning_rate * learning_rate_factor(middle, run.total, max(1, round(WARMUP * run.total)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.policy.device)
        for part in self._losses(batch):
            with differentiating(self.policy.precision):
                (part / tokens).backward()
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), self.max_grad_norm)
        value = loss.item() / tokens
        if not (math.isfinite(value) and torch.isfinite(norm)):
            raise FloatingPointError(
                f"the loss became {value}, its gradient {norm.item()}, at update {self.n_updates}; "
                f"lower learning_rate ({self.learning_rate})"
            )
        self.optimizer.step()
        self.n_updates += 1
        self.logger.record("train/learning_rate", rate)
        return value

    def _losses(self, examples: Sequence[Example]) -> Iterator[Tensor]:
        """The sum of −log π over the tokens of each micro-batch, one after the other."""
        for at in range(0, len(examples), self.micro_batch_size):
            starts, targets = zip(*examples[at : at + self.micro_batch_size], strict=True)
            yield -self.policy.evaluate(starts, targets, self.target_rule).log_probs.sum()

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "order": self._order}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._order = [i for i in state["order"] if i < len(self.examples)]


def _tokens(examples: Sequence[Example]) -> int:
    """Target tokens."""
    return sum(len(target) for _, target in examples)


class _Encoder:
    """From texts and prompts to pairs of ids, as a policy reads and writes them."""

    def __init__(self, policy: LMPolicy, env: gym.Env[Any, Any] | None, max_tokens: int | None) -> None:
        self.policy, self.env, self.max_tokens = policy, env, max_tokens
        self.tokenizer: Any = policy.tokenizer
        self.end: tuple[int, ...] = prompt_end(self.tokenizer) if env is None else env.get_wrapper_attr("action_rule").prompt_end

    def __call__(self, text: str | Prompt) -> Iterator[Example]:
        if not isinstance(text, str | Prompt):
            raise TypeError(f"data holds texts or Prompts, got {text!r:.80}")
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
                target += [tokenizer.eos_token_id] if target[-1:] != [tokenizer.eos_token_id] else []
            else:
                start, target = self._start(prompt), target_ids(tokenizer, self.policy.model, reference)
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
