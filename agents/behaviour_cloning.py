"""Behaviour cloning: negative log-likelihood of given texts. The baseline, and the warm start of the other agents.

    L = −mean_t log π(y_t | x, y_<t)

Over plain texts x is empty (or BOS) and y the text; over prompts with references y is a reference. EOS closes every y,
so that stopping is learned. An encoder–decoder learns pairs alone, and its y is what the tokenizer makes of a target
(BART's begins with "<s>").
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from textenv.agents.policy import LMPolicy
from textenv.agents.running import make_logger, prepare_callback
from textenv.episode import Prompt
from textenv.fitting.training import fit
from textenv.generation import ActionRule
from textenv.layouts import prompt_end, prompt_ids
from textenv.models import quiet_files
from textenv.saving import atomic_directory

__all__ = ["BehaviourCloning"]

Example = tuple[NDArray[np.int64], NDArray[np.int64]]


class BehaviourCloning:
    """Fits a language model, causal or encoder–decoder, to texts.

    Args:
        policy: an `LMPolicy` or what one is made from.
        data: plain texts; `Prompt`s, whose references are the targets (a prompt without one is learned as a text); or a
            text environment, for its prompts, which are read as its policies read them.
        learning_rate: its peak; it rises over the first 5 % and falls along a cosine.
        batch_size: texts an optimizer step.
        max_tokens: longer examples lose their right end. Default: the model's positions (1,024 where they are relative).
        seed: of the order.

    Raises:
        ValueError: no data, or a policy without a tokenizer; a text without a reference for an encoder–decoder.
    """

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
        seed: int = 0,
        device: str | torch.device = "auto",
        verbose: int = 0,
    ) -> None:
        self.policy = policy if isinstance(policy, LMPolicy) else LMPolicy(policy, device=device)
        if self.policy.tokenizer is None:
            raise ValueError("the policy has no tokenizer to read texts with: LMPolicy(model, tokenizer)")
        self.env = data if isinstance(data, gym.Env) else None
        texts = data.get_wrapper_attr("task").prompts if isinstance(data, gym.Env) else data
        tokenizer: Any = self.policy.tokenizer
        self._end = prompt_end(tokenizer) if self.env is None else self.env.get_wrapper_attr("action_rule").prompt_end
        self.examples = [example for text in texts for example in self._encode(text, max_tokens)]
        if not self.examples:
            raise ValueError("behaviour cloning needs at least one text of two tokens")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        longest = max(len(target) for _, target in self.examples)
        self.rule = ActionRule(len(tokenizer), int(tokenizer.eos_token_id), longest, prompt_end=self._end)
        self.tensorboard_log, self.verbose = tensorboard_log, verbose
        self.generator = torch.Generator().manual_seed(seed)
        self.num_timesteps = 0
        self._logger: Logger | None = None

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "BehaviourCloning",
        progress_bar: bool = False,
    ) -> BehaviourCloning:
        """Train on about `total_timesteps` target tokens. `callback.on_step` is called once an optimizer step."""
        if total_timesteps < 1:
            raise ValueError(f"total_timesteps must be at least 1, got {total_timesteps}")
        self._logger = make_logger(self.verbose, self.tensorboard_log, tb_log_name)
        calls, bar = prepare_callback(self, callback, progress_bar)
        tokens, batches_a_pass = sum(len(target) for _, target in self.examples), math.ceil(len(self.examples) / self.batch_size)
        steps = math.ceil(total_timesteps * batches_a_pass / tokens)
        going = True
        calls.on_training_start(locals(), globals())

        def on_step(step: int, loss: float) -> None:
            nonlocal going
            going = calls.on_step()
            self.logger.record("train/loss", loss)
            if step % log_interval == 0:
                self.logger.record("time/total_timesteps", self.num_timesteps)
                self.logger.dump(self.num_timesteps)

        def batches() -> Iterator[list[Example]]:
            for batch in self._batches():
                if not going:
                    return
                self.num_timesteps += sum(len(target) for _, target in batch)
                yield batch

        try:
            fit(
                self.policy,
                batches(),
                self._loss,
                steps=steps,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                max_grad_norm=self.max_grad_norm,
                on_step=on_step,
            )
        finally:
            if bar is not None:
                bar.close()
        calls.on_training_end()
        return self

    def loss(self, examples: Sequence[Example] | None = None) -> float:
        """Mean negative log-likelihood per target token (nats), of the given examples or of all."""
        chosen = self.examples if examples is None else examples
        total, count = 0.0, 0
        with torch.no_grad():
            for at in range(0, len(chosen), self.batch_size):
                part = chosen[at : at + self.batch_size]
                n = sum(len(target) for _, target in part)
                total, count = total + float(self._loss(self.policy, part)) * n, count + n
        return total / count

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model and its tokenizer, whole or not at all; any tool, and any agent, reads the directory."""
        with atomic_directory(path) as scratch, quiet_files():
            self.policy.model.save_pretrained(scratch)
            self.policy.tokenizer.save_pretrained(scratch)

    @property
    def logger(self) -> Logger:
        """Stable-Baselines3's logger."""
        if self._logger is None:
            self._logger = make_logger(self.verbose)
        return self._logger

    def get_env(self) -> Any:
        """None, or the environment whose prompts are learned."""
        return self.env

    def _encode(self, text: str | Prompt, max_tokens: int | None) -> Iterator[Example]:
        tokenizer: Any = self.policy.tokenizer
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
            target = target[: self._room(len(start), max_tokens)]
            if len(target) > 1:
                yield np.array(start, np.int64), np.array(target, np.int64)

    def _start(self, prompt: Prompt) -> list[int]:
        """What a policy would see of a prompt."""
        if self.env is None:
            return prompt_ids(self.policy.tokenizer, prompt.text)
        return list(self.env.get_wrapper_attr("prompt_tokens")(prompt))

    def _room(self, start: int, max_tokens: int | None) -> int:
        """How long a target may be behind so many ids."""
        layout = self.policy.layout
        (read,) = layout.prompts([np.full(start, -1)], self._end)
        room = layout.room(len(read))
        wanted = (max_tokens or 1024) - start if max_tokens or room is None else room
        return max(0, wanted if room is None else min(wanted, room))

    def _batches(self) -> Iterator[list[Example]]:
        """Endless passes over the examples, each in a new order."""
        while True:
            order = torch.randperm(len(self.examples), generator=self.generator).tolist()
            for at in range(0, len(order), self.batch_size):
                yield [self.examples[i] for i in order[at : at + self.batch_size]]

    def _loss(self, policy: Any, batch: Sequence[Example]) -> Tensor:
        out = policy.evaluate([start for start, _ in batch], [target for _, target in batch], self.rule)
        loss: Tensor = -out.log_probs.mean()
        return loss
