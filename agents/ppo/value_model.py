"""The value function apart from the policy: a language model of its own that gives one number a token.

A head that changes the policy's trunk is cheap, but value and policy pull at the same weights. Ziegler et al. 2019, RL4LMs and
Fine-Grained RLHF train a second model, usually at another learning rate, and often for a while before the policy moves (value
warm-up). `textenv.agents.value_head` has what is as good and as cheap.

1. It begins as a copy of the policy, or as any language model with the same tokens (a smaller one, a reward model's trunk);
   its head begins at zero, so that the first advantages are the returns.
2. It reads prompts and texts exactly as a policy does, but makes no logits of them: its language head is passed by.
3. It computes in the policy's precision, and with gradient checkpointing as the policy does. A copy shares its frozen layers.
4. With LoRA a copy has an adapter of its own on the policy's frozen base.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textenv.agents.policy import LMPolicy
from textenv.agents.ppo.estimators import ESTIMATORS
from textenv.agents.reading import read_texts
from textenv.agents.value_head import ValueHead, linear_head
from textenv.generation import ActionRule
from textenv.models import headless

__all__ = ["ValueModel", "adam", "saved_order", "with_fitting_head", "with_value"]

Ids = NDArray[np.int64]
GIVEN = "given as a model"
"""What stands in a checkpoint in the place of a name."""


class ValueModel(nn.Module):
    """V(x, y_<t) for every token of finished texts.

    Args:
        source: True or "separate": a copy of the policy; or a directory, a hub name, a transformers model, an `LMPolicy`
            (a model is copied; a checkpoint holds its weights, but to load it a model of the same kind has to be given again).
        policy: whose tokens and device it shares.
        env: the text environment.

    Raises:
        TypeError: `source` is none of these.
        ValueError: its tokens are not the environment's; no name.
    """

    def __init__(self, source: Any, policy: LMPolicy, env: gym.Env[Any, Any]) -> None:
        super().__init__()
        named = isinstance(source, (str, os.PathLike))
        self.source = os.fspath(source) if named else "separate" if source is True else GIVEN
        if source == GIVEN:
            raise ValueError(
                "the value model that was saved has no name to make it by: load(..., value_model=one of the same kind)"
            )
        like: dict[str, Any] = {
            "device": policy.device, "precision": policy.precision, "gradient_checkpointing": policy.gradient_checkpointing,
        }  # fmt: skip
        if self.source == "separate":
            self.reader = policy.copy()
        elif isinstance(source, LMPolicy):
            self.reader = source.copy()
        elif named:
            with headless():  # its language head is passed by: a reward model, which has none, will do
                self.reader = LMPolicy(source, **like)
        elif isinstance(source, nn.Module):
            self.reader = LMPolicy(copy.deepcopy(source), **like)
        else:
            raise TypeError(f'value_model takes None, "shared", "separate", a language model or its name, got {source!r}')
        if not self.reader.adapted:
            self.reader.requires_grad_(True)
        self.reader.value_head = linear_head(self.reader.width, self.reader.device)
        self.reader.fit_to(env)

    def forward(
        self, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule, *, lower: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Values (N,) of the states before each token; differentiable.

        Args:
            prompts: B arrays (P_b,).
            texts: B arrays (T_b,).
            rule: of the environment.
            lower: what its frozen layers put out for these texts (`LMPolicy.lower_states`), if it shares the policy's.
        """
        hidden, _, _ = read_texts(self.reader, prompts, texts, rule, lower=lower)
        values: Tensor = self.reader.value_head(hidden.float()).squeeze(1)
        return values


def with_fitting_head(policy: LMPolicy, *, shared: bool) -> LMPolicy:
    """The policy with a value head of the wanted kind: its own, or a new one.

    Where an agent learns the head of the other kind that it has, another `LMPolicy` over the same model gets the new one.
    """
    if isinstance(policy.value_head, ValueHead) == shared:
        if policy.value_taken:
            model, policy = policy, copy.copy(policy)
            policy._modules = {**model._modules}
        policy.value_head = linear_head(policy.width, policy.device) if shared else ValueHead(policy.width, policy.device)
    policy.value_taken = True
    return policy


def adam(policy: LMPolicy, value_model: ValueModel | None, rates: Sequence[float]) -> torch.optim.Optimizer:
    """Adam over the policy and its value function, a group for each of the rates.

    Args:
        value_model: None: the value is a head on the policy.
        rates: one learning rate for all, or that of the policy and that of the value.
    """
    if value_model is None and len(rates) == 1:
        return torch.optim.Adam(policy.parameters(), lr=rates[0], eps=1e-5, fused=True)
    value: nn.Module = policy.value_head if value_model is None else value_model
    learned = set(map(id, value.parameters()))
    groups = [[p for p in policy.parameters() if id(p) not in learned], list(value.parameters())]
    named = [{"params": group, "lr": rate} for group, rate in zip(groups, [rates[0], rates[-1]], strict=True)]
    return torch.optim.Adam(named, lr=rates[0], eps=1e-5, fused=True)


def with_value(saved: dict[str, Any], policy: LMPolicy) -> dict[str, Any]:
    """The settings of a saved agent; where they do not tell which value it learned, its head does.

    Before there was a `ValueHead`, the default was a linear head on the trunk, and had no name.
    """
    untold = "value_model" not in saved and ESTIMATORS[saved.get("advantage", "gae")].learns_value
    return {**saved, "value_model": "shared"} if untold and not isinstance(policy.value_head, ValueHead) else saved


def saved_order(policy: LMPolicy, was: str | None, now: str | None) -> list[nn.Parameter] | None:
    """Of whose parameters an optimizer on disk has its first tensors, where the value is of another kind now: the model's.

    Args:
        was, now: `value_model` when the agent was saved, and now.

    Returns:
        None: of the same kind; all tensors fit.
    """
    kinds = [kind if kind in (None, "shared") else "model" for kind in (was, now)]
    if kinds[0] == kinds[1]:
        return None
    common = was == "separate" and (policy.adapted or policy.frozen is not None)  # what does not learn stood with the copy's
    return [p for p in policy.model.parameters() if p.requires_grad or not common]
