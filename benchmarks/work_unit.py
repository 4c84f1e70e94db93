"""The work that every contender of `benchmarks.compare` does: one iteration of PPO over tokens. Without textenv: peers run it too.

64 texts of exactly 32 tokens from prompts of exactly 16, scored by a reward model of the policy's size that reads prompt and
text, a KL penalty of 0.05 a nat to a frozen copy of the policy, γ = 1, λ = 0.95, minibatches of a quarter of the texts, 1 or 4
epochs. Models have random weights from fixed seeds; S is 4 layers × 256 (4.2 M weights), M is 8 × 512 (27.4 M), both over 4,096
ids and without dropout; 124M and 1.1B are for a GPU.

Ragged ends: EOS falls on each of the positions 1 … `new_tokens` with the same probability (`end_uniformly`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

__all__ = ["FAMILIES", "GAMMA", "KL", "LAMBDA", "RATE", "SHAPES", "SIZES", "Work", "end_uniformly", "words"]

FAMILIES = {
    "gpt2": (GPT2LMHeadModel, GPT2ForSequenceClassification),
    "llama": (LlamaForCausalLM, LlamaForSequenceClassification),
}
SIZES = {  # layers, width, heads, key–value heads, inner width (None: 4 × width, Llama's 8/3), vocabulary
    "S": (4, 256, 4, 4, None, 4096),
    "M": (8, 512, 8, 8, None, 4096),
    "124M": (12, 768, 12, 12, None, 50_257),
    "1.1B": (22, 2048, 32, 4, 5632, 32_000),
}
SHAPES = {"S": (64, 32), "M": (64, 32), "124M": (64, 128), "1.1B": (256, 256)}  # texts an iteration, new tokens a text
SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
PAD, EOS, BOS = 0, 1, 2
KL, GAMMA, LAMBDA, RATE = 0.05, 1.0, 0.95, 1e-5


@dataclass(frozen=True)
class Work:
    """One iteration: what is sampled, and by what."""

    size: str = "S"
    epochs: int = 1
    family: str = "gpt2"
    episodes: int = 64
    prompt_tokens: int = 16
    new_tokens: int = 32
    ids: int | None = None  # vocabulary; None: the size's
    ragged: bool = False

    @property
    def minibatch(self) -> int:
        """Texts an optimizer step: four steps an epoch."""
        return max(1, self.episodes // 4)

    @property
    def vocabulary(self) -> int:
        """Ids of the tokenizer and the models."""
        return self.ids or SIZES[self.size][-1]

    def config(self, **options: Any) -> Any:
        """Of the policy; with `num_labels=1`, of the reward model."""
        layers, width, heads, shared, inner, _ = SIZES[self.size]
        positions = 8 * math.ceil((self.prompt_tokens + self.new_tokens) / 8)
        common = {"vocab_size": self.vocabulary, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": BOS, **options}
        if self.family == "llama":
            return LlamaConfig(
                hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=shared,
                intermediate_size=inner or 32 * (width * 8 // 3 // 32), max_position_embeddings=positions,
                tie_word_embeddings=True, **common,
            )  # fmt: skip
        return GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, n_inner=inner, n_positions=positions, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, **common,
        )  # fmt: skip

    def policy(self) -> Any:
        """Random weights from a fixed seed; the reference is the same."""
        torch.manual_seed(1)
        model = FAMILIES[self.family][0](self.config())
        if self.ragged:
            end_uniformly(model, self.prompt_tokens, self.new_tokens)
        return model

    def judge(self, seed: int = 3) -> Any:
        """A reward model, or with another seed a value model: one number a text."""
        torch.manual_seed(seed)
        return FAMILIES[self.family][1](self.config(num_labels=1)).eval()

    def prompts(self, n: int) -> np.ndarray[Any, Any]:
        """(n, prompt_tokens) ids, none of them special."""
        return np.random.default_rng(0).integers(len(SPECIAL), self.vocabulary, (n, self.prompt_tokens))


def words(ids: int) -> PreTrainedTokenizerFast:
    """A tokenizer of the special ids, then the words w4, w5, …, one id each."""
    pieces = [(token, 0.0) for token in SPECIAL] + [(f"▁w{i}", -8.0) for i in range(len(SPECIAL), ids)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=SPECIAL.index("<unk>")))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    pad, eos, bos, unk = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, eos_token=eos, bos_token=bos, unk_token=unk, padding_side="left"
    )


def end_uniformly(model: GPT2LMHeadModel, prompt_tokens: int, new_tokens: int, size: float = 8.0) -> None:
    """Let a random GPT-2 end its texts at each length 1 … `new_tokens` with the same probability.

    P(EOS at t | not before) is 1 / (new_tokens − t + 1). Four dimensions of the residual stream are given to the position: it
    writes ±size · (cos θ, sin θ) there, no block writes there, and of all tokens' embeddings EOS alone reads it. They outweigh
    the others, so that the last layer norm makes of them √(width / 2) · (cos θ, sin θ), whatever the text says, and of all other
    logits about 0: EOS has the probability p where its logit, r √(width / 2) cos θ, is ln(p / (1 − p)) + ln(ids − 1).
    """
    trunk, (ids, width) = model.transformer, model.lm_head.weight.shape
    left = new_tokens - torch.arange(new_tokens)  # texts may end at so many positions
    p = (1 / left.double()).clamp(max=0.5)  # the last token ends by the budget
    logit = torch.log(p / (1 - p)) + math.log(ids - 1)
    reach = float(logit.max()) * 1.01
    angle = torch.acos(logit / reach)
    with torch.no_grad():
        for block in trunk.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight[:, :4] = 0
        trunk.wte.weight[:, :4] = 0
        trunk.wte.weight[EOS, 0] = reach / math.sqrt(width / 2)
        at = trunk.wpe.weight[prompt_tokens - 1 : prompt_tokens - 1 + new_tokens]
        at[:, 0], at[:, 1] = size * torch.cos(angle).float(), size * torch.sin(angle).float()
        at[:, 2], at[:, 3] = -at[:, 0], -at[:, 1]
