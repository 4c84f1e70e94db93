"""Finished texts read by a policy: log-probability, value and entropy of every token, in one forward pass per text.

`LMPolicy.evaluate`, `distributions` and `lower_states` are these. The head's logits are made in parts
(`textenv.agents.token_log_probs`); what the frozen layers of a policy put out may be given (`textenv.agents.frozen_layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from textenv.agents.token_log_probs import token_log_probs
from textenv.generation import ActionRule
from textenv.positions import Positions
from textenv.shapes import grain, rounded

if TYPE_CHECKING:
    from textenv.agents.policy import LMPolicy

__all__ = ["Evaluated", "evaluate_texts", "lower_states", "read_texts"]

Ids = NDArray[np.int64]


class Evaluated(NamedTuple):
    """Per generated token, all texts one after the other: log-probabilities, values, entropies (N,) each."""

    log_probs: Tensor
    values: Tensor
    entropy: Tensor | None


def read_texts(
    policy: LMPolicy,
    prompts: Sequence[Ids],
    texts: Sequence[Ids],
    rule: ActionRule,
    *,
    last: bool = False,
    lower: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Callable[[Tensor, slice], Tensor], Positions]:
    """Hidden states (N, H); (those of some rows, which rows they are) → their logits under the rule, float32; and positions.

    Args:
        last: of each text the last token alone.
        lower: what the policy's frozen layers put out for each text, (L_b, H), as `lower_states` gave it.
    """
    layout = policy.layout
    with policy.autocast():
        coarse = grain(policy.model)
        at = layout.positions(layout.prompts(prompts, rule.prompt_end), texts)
        at = at.last() if last else at
        layout.check_head(at)  # on whole texts, not on what stands for them
        replayed: AbstractContextManager[None] = nullcontext()
        if lower is not None and policy.frozen is not None:
            states = lower[0].new_zeros(*at.inputs["input_ids"].shape, lower[0].shape[1])  # (R, W, H)
            for of_one, (row, column) in zip(lower, at.begins.tolist(), strict=True):
                states[row, column : column + len(of_one)] = of_one
            replayed = policy.frozen.replayed(policy.model, states)
        with replayed:
            hidden, head = layout.read(at)

    def logits(states: Tensor, rows: slice) -> Tensor:
        n = len(states)
        with policy.autocast():
            made = head(pad(states, (0, 0, 0, rounded(n, coarse.places) - n)))[:n]
        return rule.restrict(made, at.steps[rows], policy.temperature)

    return hidden, logits, at


def evaluate_texts(
    policy: LMPolicy,
    prompts: Sequence[Ids],
    texts: Sequence[Ids],
    rule: ActionRule,
    *,
    entropy: bool = False,
    lower: Sequence[Tensor] | None = None,
) -> Evaluated:
    """Log-probability and value of every token of finished texts, and on demand its entropy; differentiable."""
    hidden, logits, at = read_texts(policy, prompts, texts, rule, lower=lower)
    log_probs, entropies = token_log_probs(hidden, at.actions, logits, vocabulary=rule.vocabulary, entropy=entropy)
    return Evaluated(log_probs, policy.value_head(hidden.float()).squeeze(1), entropies)


@torch.no_grad()
def lower_states(policy: LMPolicy, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule) -> list[Tensor]:
    """What the frozen layers put out for each text with its prompt, (L_b, H) each.

    Raises:
        ValueError: the policy has none.
    """
    if policy.frozen is None:
        raise ValueError("the policy has no frozen layers: LMPolicy(model, frozen_layers=n) freezes n")
    layout = policy.layout
    with policy.autocast():
        read = layout.prompts(prompts, rule.prompt_end)
        at = layout.positions(read, texts)
        layout.check_head(at)
        with policy.frozen.recorded(policy.model) as found:
            layout.read(at)
    lengths = (len(prompt) + len(text) for prompt, text in zip(read, texts, strict=True))
    return [found[0][row, column : column + n] for (row, column), n in zip(at.begins.tolist(), lengths, strict=True)]
