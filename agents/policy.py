"""A Hugging Face causal language model as a policy over tokens, with a value head.

Two ways through the model, which agree to 1e-5 in float32: `generate` samples with a KV cache; `evaluate` gives the
log-probability, value and (on demand) entropy of every token of finished texts, in one forward pass per text.

1. Log-probabilities are those of the distribution that samples: after the temperature, without ids that the tokenizer
   does not have, without EOS before `min_new_tokens`. The reference is read under the same rule.
2. The head runs at generated positions alone; no (B, L, V) logits exist. Models that do more after their last hidden
   state than one linear head (logit soft-capping, scaling) are noticed when loaded and read through their own forward.
3. The value head is one linear layer on the last hidden state (TRL's), kept outside the transformers model, and begins
   at zero, so that the first advantages are the returns. Dropout is off: the ratio of the first update is 1.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textenv.generation import ActionRule, generate, greedy, sample
from textenv.models import load_causal_lm
from textenv.tokenization import load_tokenizer

__all__ = ["Evaluated", "LMPolicy"]

Ids = NDArray[np.int64]


class Evaluated(NamedTuple):
    """Per generated token, all texts one after the other: log-probabilities, values, entropies (N,) each."""

    log_probs: Tensor
    values: Tensor
    entropy: Tensor | None


class LMPolicy(nn.Module):
    """A causal language model that acts in a text environment.

    Args:
        model: "textenv/tiny", a directory, a hub name, or a transformers model (used as it is, not copied).
        tokenizer: default: the model's own; a model object may go without (its ids are then taken on trust).
        temperature: of sampling, and so of every log-probability.
        dtype: of the weights.
        autocast: compute in this dtype on CUDA (weights stay as they are); None: bfloat16 where the device has it.
        device: "auto", "cpu", "cuda", ...
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}; pass deterministic=True for greedy texts")
        named = isinstance(model, (str, os.PathLike))
        self.source = os.fspath(model) if named else None
        self.tokenizer: Any = None
        if named or tokenizer is not None:
            self.tokenizer = load_tokenizer(model if tokenizer is None else tokenizer)
        self.model = load_causal_lm(model, dtype=dtype, device=device)
        self.temperature = temperature
        width = self.model.get_input_embeddings().embedding_dim
        width = getattr(self.model.config, "hidden_size", width)
        self.value_head = nn.Linear(width, 1, device=self.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self._autocast = autocast or (torch.bfloat16 if bf16 and dtype == torch.float32 else None)
        self._takes = set(inspect.signature(self.model.forward).parameters)
        self._linear_head = self._has_linear_head()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def vocabulary(self) -> int:
        """Number of ids that the model has logits for."""
        return int(self.model.get_input_embeddings().num_embeddings)

    def fit_to(self, env: gym.Env[Any, Any]) -> None:
        """Check that the policy and a text environment speak of the same tokens; a policy without a tokenizer takes its.

        Raises:
            ValueError: fewer ids than the environment's tokenizer, another tokenizer, too few positions.
        """
        rule: ActionRule = env.get_wrapper_attr("action_rule")
        theirs, own = env.get_wrapper_attr("tokenizer"), self.tokenizer
        way_out = "make the environment with the policy's own tokenizer (tokenizer=...)"
        if self.vocabulary < rule.vocabulary:
            raise ValueError(f"the policy knows {self.vocabulary} ids, the environment's tokenizer {rule.vocabulary}: {way_out}")
        if own is not None and own is not theirs and own.get_vocab() != theirs.get_vocab():
            raise ValueError(
                f"policy {self.source!r} and environment have different tokenizers ({len(own)} and {len(theirs)} ids): {way_out}"
            )
        limit = getattr(self.model.config, "max_position_embeddings", None)
        need = env.get_wrapper_attr("max_prompt_tokens") + rule.max_new_tokens
        if limit is not None and need > limit:
            raise ValueError(f"prompt and text may take {need} tokens, the policy has {limit} positions: lower max_prompt_tokens")
        self.tokenizer = theirs if own is None else own

    def frozen_copy(self) -> LMPolicy:
        """A copy that takes no gradients: the reference."""
        return copy.deepcopy(self).requires_grad_(False).eval()

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
        """Texts, one per prompt.

        Args:
            prompts: B arrays (P_b,) of ids.
            rule: what a text may hold.
            uniforms: (B, T) in [0, 1): the number at which each token's distribution is inverted; None: greedy.
            top_k, top_p: truncate the distribution (for evaluation; log-probabilities do not know of it).
            batch_size: texts decoded together.

        Returns:
            B arrays (T_b,) of ids, EOS included.
        """
        self.eval()
        out: list[Ids] = []
        for at in range(0, len(prompts), batch_size):
            part = None if uniforms is None else uniforms[at : at + batch_size].to(self.device)

            def choose(logits: Tensor, rows: Tensor, step: int, part: Tensor | None = part) -> Tensor:
                logits = rule.restrict(logits.float() / self.temperature, step)
                if part is None:
                    return greedy(logits, rows, step)
                return sample(logits, part[rows, step], top_k=top_k, top_p=top_p)

            with self.autocast():
                out += generate(
                    self.model,
                    prompts[at : at + batch_size],
                    max_new_tokens=rule.max_new_tokens,
                    eos_token_id=rule.eos_token_id,
                    choose=choose,
                )
        return out

    def act(self, observations: NDArray[Any], rule: ActionRule, uniforms: Tensor | None) -> NDArray[np.int64]:
        """The next token of each observation, by one forward pass without a cache.

        Args:
            observations: (n, P_max + T_max) ids, -1 for none, prompts flush right in the first P_max columns.
            uniforms: (n,) in [0, 1); None: greedy.

        Returns:
            (n,) int64.
        """
        rows = np.asarray(observations).astype(np.int64)
        begin = rows.shape[1] - rule.max_new_tokens
        steps = (rows[:, begin:] >= 0).sum(1)
        prompts = [row[row >= 0] for row in rows]
        one = ActionRule(rule.vocabulary, rule.eos_token_id, 1)

        def choose(logits: Tensor, _: Tensor, __: int) -> Tensor:
            where = torch.as_tensor(steps, device=logits.device)
            logits = rule.restrict(logits.float() / self.temperature, where)
            return logits.argmax(-1) if uniforms is None else sample(logits, uniforms.to(logits.device))

        with self.autocast():
            tokens = generate(self.model, prompts, max_new_tokens=1, eos_token_id=one.eos_token_id, choose=choose)
        return np.array([int(ids[0]) for ids in tokens], np.int64)

    def evaluate(self, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule, *, entropy: bool = False) -> Evaluated:
        """Log-probability and value of every token of finished texts; differentiable.

        The value of token t is that of the state before it, as in Stable-Baselines3.

        Args:
            prompts: B arrays (P_b,).
            texts: B arrays (T_b,).
            entropy: compute the entropy of each distribution too, over the whole vocabulary.
        """
        batch = _Batch(prompts, texts, self.device)
        with self.autocast():
            hidden, logits = self._forward(batch)
        logits = rule.restrict(logits.float() / self.temperature, batch.steps)  # (N, V)
        normaliser = logits.logsumexp(-1)
        log_probs = logits.gather(1, batch.actions[:, None]).squeeze(1) - normaliser  # (N,)
        values = self.value_head(hidden.float()).squeeze(1)  # (N,)
        if not entropy:
            return Evaluated(log_probs, values, None)
        log_p = logits - normaliser[:, None]
        # 0 · log 0 = 0, for the ids that the rule forbids
        return Evaluated(log_probs, values, -(log_p.exp() * log_p.masked_fill(log_p == float("-inf"), 0.0)).sum(-1))

    def _forward(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Hidden states (N, H) and logits (N, V) at the positions that predict the generated tokens."""
        arguments: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": False}
        if "position_ids" in self._takes:
            arguments["position_ids"] = batch.positions
        if self._linear_head:
            hidden = self.model.base_model(**arguments).last_hidden_state[batch.rows, batch.columns]
            return hidden, self.model.get_output_embeddings()(hidden)
        output = self.model(**arguments, output_hidden_states=True)
        return output.hidden_states[-1][batch.rows, batch.columns], output.logits[batch.rows, batch.columns]

    @torch.inference_mode()
    def _has_linear_head(self) -> bool:
        """Whether logits are the output embedding of the last hidden state, tried on two ids.

        The head's output is enlarged on its way: a soft cap leaves the small logits of a young model nearly alone.
        """
        head = self.model.get_output_embeddings()
        if head is None or self.model.base_model is self.model:
            return False
        ids = torch.tensor([[0, 1]], device=self.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        hidden = getattr(self.model.base_model(**inputs), "last_hidden_state", None)
        if hidden is None:
            return False
        read: list[Tensor] = []

        def enlarge(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            read.append(arguments[0])
            return output * 1e3

        handle = head.register_forward_hook(enlarge)
        try:
            logits = self.model(**inputs).logits.float()
        finally:
            handle.remove()
        if len(read) != 1 or read[0].shape != hidden.shape:
            return False
        expected = (head(hidden) * 1e3).float()
        return torch.allclose(read[0], hidden) and torch.allclose(expected, logits, rtol=1e-3, atol=1e-4)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass."""
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._autocast)


class _Batch:
    """Prompts flush right, texts flush left behind them; masks are carried, never inferred from a pad id."""

    def __init__(self, prompts: Sequence[Ids], texts: Sequence[Ids], device: torch.device) -> None:
        width = max(map(len, prompts))
        ids, mask = np.zeros((2, len(prompts), width + max(map(len, texts))), np.int64)
        for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            ids[row, width - len(prompt) : width] = prompt
            ids[row, width : width + len(text)] = text
            mask[row, width - len(prompt) : width + len(text)] = 1
        lengths = [len(text) for text in texts]
        steps = np.concatenate([np.arange(n) for n in lengths])  # (N,)
        rows = np.repeat(np.arange(len(texts)), lengths)

        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.ids, self.mask = tensor(ids), tensor(mask)  # (B, L)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.rows, self.steps = tensor(rows), tensor(steps)  # (N,)
        self.columns = self.steps + width - 1  # the state before each token
        self.actions = tensor(np.concatenate(texts))  # (N,)
