"""Texts of a language model policy, and on demand the log-probability and the value of every token, recorded as it is sampled.

What samples a token is already there when it is chosen: its probability, and the state before it. So neither is computed
again for PPO (Huang et al. 2024, arXiv 2403.17031, compute both in passes of their own). The numbers are those of
`LMPolicy.evaluate`: to 1e-5 in float32; in bfloat16 a few thousandths apart, as cached and whole passes round differently.

1. They are of the distribution before top-k and top-p, which log-probabilities do not know of.
2. More texts than `batch_size` are decoded in order of the lengths of their prompts, so that a batch has little padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.checks import truncation
from textenv.generation import ActionRule, Sampled, generate, greedy, invert
from textenv.precision import casting_once

if TYPE_CHECKING:
    from textenv.agents.policy import LMPolicy

__all__ = ["sample_texts"]

Ids = NDArray[np.int64]


def sample_texts(
    policy: LMPolicy,
    prompts: Sequence[Ids],
    rule: ActionRule,
    uniforms: Tensor | None,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    batch_size: int = 256,
    record: bool = False,
) -> Sampled:
    """Texts, one per prompt. Arguments as for `LMPolicy.generate`; with `record`, log-probabilities and values too."""
    truncation(top_k, top_p)
    policy.eval()
    asked = policy.layout.prompts(prompts, rule.prompt_end)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i])) if len(asked) > batch_size else list(range(len(asked)))
    tokens: list[Ids] = [np.zeros(0, np.int64)] * len(asked)
    recorder = _Recorder(policy, len(asked), rule.max_new_tokens) if record else None
    for at in range(0, len(order), batch_size):
        part = torch.tensor(order[at : at + batch_size])
        numbers = None if uniforms is None else uniforms[part.to(uniforms.device)].to(policy.device)
        where = part.to(policy.device)

        def choose(logits: Tensor, rows: Tensor, step: int, numbers: Tensor | None = numbers, where: Tensor = where) -> Tensor:
            logits = rule.restrict(logits, step, policy.temperature)
            probabilities = None if numbers is None and recorder is None else logits.softmax(-1)
            if numbers is None or probabilities is None:
                chosen = greedy(logits, rows, step)
            else:
                chosen = invert(probabilities, numbers[rows, step], top_k=top_k, top_p=top_p)
            if recorder is not None and probabilities is not None:
                recorder.log_probs[where[rows], step] = probabilities.gather(1, chosen[:, None]).squeeze(1).log()
            return chosen

        def note(hidden: Tensor, rows: Tensor, step: int, where: Tensor = where) -> None:
            if recorder is not None:
                with torch.autocast(policy.device.type, enabled=False):  # values are float32, as `evaluate` has them
                    recorder.values[where[rows], step] = policy.value_head(hidden.float()).squeeze(1)

        with policy.autocast(), casting_once(policy.model):
            texts = generate(
                policy.model,
                [asked[i] for i in part.tolist()],
                max_new_tokens=rule.max_new_tokens,
                eos_token_id=rule.eos_token_id,
                choose=choose,
                note=None if recorder is None else note,
                compiled=policy.compile_decoding,
            )
        for i, text in zip(part.tolist(), texts, strict=True):
            tokens[i] = text
    return Sampled(tokens) if recorder is None else recorder.sampled(tokens)


class _Recorder:
    """(B, T) numbers of tokens."""

    def __init__(self, policy: LMPolicy, texts: int, length: int) -> None:
        self.log_probs, self.values = torch.zeros(2, texts, length, device=policy.device)

    def sampled(self, tokens: list[Ids]) -> Sampled:
        """Texts, and the numbers of their tokens."""
        log_probs, values = self.log_probs.cpu().numpy(), self.values.cpu().numpy()
        kept = ([row[: len(text)] for row, text in zip(rows, tokens, strict=True)] for rows in (log_probs, values))
        return Sampled(tokens, *kept)
