"""A Hugging Face language model, causal or encoder–decoder, as a policy over tokens, with a value head.

Two ways through the model, which agree to 1e-5 in float32: `generate` samples with a KV cache; `evaluate` gives the
log-probability, value and (on demand) entropy of every token of finished texts, in one forward pass per text.

1. Log-probabilities are those of the distribution that samples: after the temperature, without ids that the tokenizer
   does not have, without EOS before `min_new_tokens`. The reference is read under the same rule.
2. Where a prompt and its text stand is the layout's (`textenv.layouts`), the one place that tells a decoder (the text
   continues the prompt) from an encoder–decoder (T5, BART, mT5: the encoder reads the prompt, the decoder writes). Models
   are read through their own forward, the head at generated positions alone (`textenv.agents.reading`).
3. The value head (`textenv.agents.value_head`) reads the last hidden state; it is kept outside the transformers model, and
   begins at zero, so that the first advantages are the returns. Dropout is off.
4. With LoRA (`textenv.agents.lora`) the adapter and the value head are trained alone, and copies of a policy share its
   frozen base: the reference of a policy that has not learned yet is the base with the adapter off, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textenv.agents import lora as adapters
from textenv.agents.agent_file import saved_temperature
from textenv.agents.frozen_layers import FrozenLayers, freeze_layers
from textenv.agents.reading import Evaluated, evaluate_texts, lower_states, read_texts
from textenv.agents.recompute import recompute_blocks
from textenv.agents.same_tokens import check_tokens
from textenv.agents.sampling import sample_texts
from textenv.agents.value_head import linear_head
from textenv.generation import ActionRule, Sampled, check_sound, greedy, sample
from textenv.layouts import Layout, check_decodes, layout_of
from textenv.models import quiet_files
from textenv.positions import Positions
from textenv.precision import Precision, computing, prepare, resolved
from textenv.saving import atomic_directory
from textenv.tokenization import load_tokenizer
from textenv.weights import marks

__all__ = ["Evaluated", "LMPolicy"]

Ids = NDArray[np.int64]


class LMPolicy(nn.Module):
    """A language model that acts in a text environment: a decoder (GPT-2, Llama) or an encoder–decoder (T5, BART, mT5).

    >>> from textenv.agents import LMPolicy
    >>> policy = LMPolicy("textenv/tiny", lora=4)
    >>> sum(p.numel() for p in policy.parameters() if p.requires_grad) < sum(p.numel() for p in policy.parameters()) / 10
    True

    Args:
        model: "textenv/tiny", a directory (of an adapter too), a hub name, or a transformers model (used as it is, not copied).
        tokenizer: default: the model's own; a model object may go without (its ids are then taken on trust).
        temperature: of sampling, and so of every log-probability. Default: 1, or where the directory is a saved agent's, its own.
        dtype: of the weights.
        precision: of forward passes, "auto", "fp32", "bf16" or "medium" (`textenv.precision`); the weights stay as they are.
        device: "auto", "cpu", "cuda", ...
        lora: train a low-rank adapter in place of the model: its rank (8, say), a dict of `peft.LoraConfig`'s arguments, or
            a `LoraConfig`. It is put into the model, whose own weights are frozen.
        gradient_checkpointing: keep only what enters each block, and compute the rest again for the gradients: less memory,
            about a third more time, the same numbers.
        frozen_layers: of a decoder, so many blocks from below and the embeddings (a tied head with them) do not learn, and copies
            hold them in common (`textenv.agents.frozen_layers`).

    Raises:
        ImportError: `lora` without PEFT.
        ValueError: a temperature of 0; an unknown precision; a bad `lora`; a model without blocks to compute again or to freeze;
            `lora` and `frozen_layers`.
    """

    decodes_together: int = 256  # texts at a time; each is its own, whatever the others (`textenv.agents.rollout.Policy`)
    compile_decoding: bool = False  # by compiled programs (`textenv.compiled`): made for CUDA
    value_taken: bool = False  # whether an agent learns the value head

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        temperature: float | None = None,
        dtype: torch.dtype = torch.float32,
        precision: Precision = "auto",
        device: str | torch.device = "auto",
        lora: Any = None,
        gradient_checkpointing: bool = False,
        frozen_layers: int = 0,
    ) -> None:
        super().__init__()
        temperature = saved_temperature(model) if temperature is None else temperature
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}; pass deterministic=True for greedy texts")
        named = isinstance(model, (str, os.PathLike))
        source = os.fspath(model) if named else None
        self.tokenizer: Any = None
        if named or tokenizer is not None:
            self.tokenizer = load_tokenizer(adapters.tokenizer_source(model) if tokenizer is None else tokenizer)
        self.model = adapters.open_model(model, dtype=dtype, device=device)
        if lora is not None:
            adapters.add_adapter(self.model, lora)
            adapters.adapter_of(self.model).base_model_name_or_path = source
        elif self.adapted:
            adapters.train_adapter_alone(self.model)
        self.source = source
        self._frozen_base = self.adapted
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            recompute_blocks(self.model)
        if frozen_layers and self.adapted:
            raise ValueError(f"LoRA freezes the whole base: leave out frozen_layers={frozen_layers}")
        self.frozen: FrozenLayers | None = freeze_layers(self.model, frozen_layers) if frozen_layers else None
        self.temperature: float = temperature
        self.value_head = linear_head(self.width, self.device)
        resolved(precision, self.device, self.model.dtype)
        self.precision = precision

    @property
    def source(self) -> str | None:
        """By what name these weights are found again; None: they have none, or have changed since they were read by it."""
        return self._source if self._marks == marks(self.model.parameters()) else None

    @source.setter
    def source(self, name: str | None) -> None:
        self._source, self._marks = name, marks(self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""
        return int(self.layout.head.weight.shape[1])

    @property
    def layout(self) -> Layout:
        """How the model reads prompts and texts."""
        return layout_of(self.model)

    @property
    def vocabulary(self) -> int:
        """Number of ids that the model has logits for."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def adapted(self) -> bool:
        """Whether the model has an adapter (LoRA)."""
        return adapters.adapter_of(self.model) is not None

    def shares_base(self, other: LMPolicy) -> bool:
        """Whether both hold the same weights under their adapters, not equal ones."""
        mine, theirs = ({id(p) for p in policy.model.parameters()} for policy in (self, other))
        return bool(mine & theirs)

    def fit_to(self, env: gym.Env[Any, Any]) -> None:
        """Check that the policy and a text environment speak of the same tokens; a policy without a tokenizer takes its.

        Raises:
            TypeError: no text environment.
            ValueError: fewer ids than the environment's tokenizer, another tokenizer, too few positions, recurrent layers.
        """
        check_decodes(self.model, states=True)
        check_tokens(self, env)
        rule: ActionRule = env.get_wrapper_attr("action_rule")
        (longest,) = self.layout.prompts([np.full(env.get_wrapper_attr("max_prompt_tokens"), -1)], rule.prompt_end)
        self.layout.check(len(longest), rule.max_new_tokens)
        self.tokenizer = env.get_wrapper_attr("tokenizer") if self.tokenizer is None else self.tokenizer

    def copy(self) -> LMPolicy:
        """A policy that learns by itself; with LoRA, by an adapter of its own on the same frozen base.

        Frozen layers are not copied but shared.
        """
        kept: dict[int, Any] = {} if self.frozen is None else {id(p): p for p in self.frozen.parameters(self.model)}
        copied = adapters.sharing_copy(self, self.model) if self.adapted else copy.deepcopy(self, kept)
        copied._frozen_base = self.adapted
        copied.source = self.source
        return copied

    def frozen_copy(self) -> LMPolicy:
        """The policy as it is now, without gradients: the reference.

        With LoRA it shares the base, and is the base itself where the adapter has not learned anything yet.
        """
        copied = self.copy()
        if self.adapted and adapters.untouched(self.model):
            adapters.remove_adapter(copied.model)
            copied.source = self.source
        return copied.requires_grad_(False).eval()

    def base(self) -> LMPolicy:
        """The policy with its adapter off, without gradients; it shares the weights.

        Raises:
            ValueError: there is no adapter.
        """
        self._needs_adapter("base")
        copied = self.copy()
        adapters.remove_adapter(copied.model)
        return copied.requires_grad_(False).eval()

    def merged(self) -> LMPolicy:
        """A policy of its own with the adapter folded into the weights; `save_pretrained` writes it as a plain model.

        Raises:
            ValueError: there is no adapter.
        """
        self._needs_adapter("merged")
        copied = copy.deepcopy(self)
        adapters.merge_adapter(copied.model)
        copied.source, copied._frozen_base = None, False
        return copied.requires_grad_(True).eval()

    def sync_weights(self, policy: LMPolicy) -> None:
        """Sample like this policy from now on: the policy as its own, or as another's, rollout engine (`textenv.agents.engines`).

        Raises:
            RuntimeError: the other model is of another shape.
        """
        if policy is not self:
            like = policy.merged() if policy.adapted and not self.adapted else policy
            self.model.load_state_dict(like.model.state_dict())
            self.temperature = policy.temperature

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As torch has it, but frozen layers and the base of a LoRA policy stay frozen: other policies may hold them too."""
        super().requires_grad_(requires_grad)
        if self.frozen is not None:
            self.frozen.freeze(self.model)
        if self._frozen_base:
            adapters.freeze_base(self.model)
        return self

    def _needs_adapter(self, method: str) -> None:
        if not self.adapted:
            raise ValueError(f"{method}() is about LoRA, and this policy has no adapter: LMPolicy(model, lora=8) puts one in")

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write model (or adapter) and tokenizer, whole or not at all: a directory that any tool reads."""
        with atomic_directory(path, keep=True) as scratch, quiet_files():
            self.write(scratch, Path(path))

    def write(self, directory: Path, target: Path) -> None:
        """Write model (or adapter) and tokenizer into a directory that will stand at `target` in the end."""
        if self.adapted:
            adapters.save_adapter(self.model, directory, target)
        else:
            self.model.save_pretrained(directory)
        for place in (directory, directory / adapters.BASE):
            if self.tokenizer is not None and place.is_dir():
                self.tokenizer.save_pretrained(place)

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
        """Texts, one per prompt: B arrays (T_b,) of ids, EOS included.

        Args:
            prompts: B arrays (P_b,) of ids.
            rule: what a text may hold.
            uniforms: (B, T) in [0, 1): the number at which each token's distribution is inverted; None: greedy.
            top_k, top_p: truncate the distribution (for evaluation; log-probabilities do not know of it).
            batch_size: texts decoded together.
        """
        return sample_texts(self, prompts, rule, uniforms, top_k=top_k, top_p=top_p, batch_size=batch_size).tokens

    def sample(self, prompts: Sequence[Ids], rule: ActionRule, uniforms: Tensor | None, **options: Any) -> Sampled:
        """The texts of `generate`, and log-probability and value of every token, recorded (`textenv.agents.sampling`)."""
        return sample_texts(self, prompts, rule, uniforms, record=True, **options)

    @torch.inference_mode()
    def act(self, observations: NDArray[Any], rule: ActionRule, uniforms: Tensor | None) -> NDArray[np.int64]:
        """The next token of each observation, (n,) int64, by one forward pass without a cache.

        Args:
            observations: (n, P_max + T_max) ids, -1 for none, prompts flush right in the first P_max columns.
            uniforms: (n,) in [0, 1); None: greedy.

        Raises:
            FloatingPointError: a logit is NaN, or infinite.
        """
        rows = np.asarray(observations).astype(np.int64)
        begin = rows.shape[1] - rule.max_new_tokens
        # What is said so far, and a token that nothing depends on: the state before it is read.
        texts = [np.append(row[row >= 0], 0) for row in rows[:, begin:]]
        prompts = [row[row >= 0] for row in rows[:, :begin]]
        _, logits, batch = self.distributions(prompts, texts, rule, last=True)
        check_sound(logits)
        return (greedy(logits, batch.rows, 0) if uniforms is None else sample(logits, uniforms.to(logits.device))).cpu().numpy()

    def evaluate(
        self,
        prompts: Sequence[Ids],
        texts: Sequence[Ids],
        rule: ActionRule,
        *,
        entropy: bool = False,
        lower: Sequence[Tensor] | None = None,
    ) -> Evaluated:
        """Log-probability of every token of finished texts, and value of the state before it; differentiable.

        Args:
            prompts: B arrays (P_b,).
            texts: B arrays (T_b,).
            entropy: compute the entropy of each distribution too, over the whole vocabulary.
            lower: what `lower_states` gave for these texts, of this policy or of one that shares its frozen layers.
        """
        return evaluate_texts(self, prompts, texts, rule, entropy=entropy, lower=lower)

    def lower_states(self, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule) -> list[Tensor]:
        """What the frozen layers put out for each text with its prompt, (P_b + T_b, H) each."""
        return lower_states(self, prompts, texts, rule)

    def distributions(
        self, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule, *, last: bool = False
    ) -> tuple[Tensor, Tensor, Positions]:
        """Hidden states (N, H), logits (N, V) under the rule, and positions, of all tokens or of each text's last.

        The logits stand in memory at once: N · V numbers. Give it few texts at a time.
        """
        hidden, logits, at = read_texts(self, prompts, texts, rule, last=last)
        return hidden, logits(hidden, slice(None)), at

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass."""
        precision = resolved(self.precision, self.device, self.model.dtype)
        if precision == "bf16":
            prepare(self.model)
        return computing(precision, self.device)
