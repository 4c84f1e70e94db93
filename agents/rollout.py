"""From a policy and an environment to credited episodes: the batched road.

Prompts come from the environment's own generator, tokens from uniform numbers that are drawn before anything is
sampled, one row an episode. Stepping through Gym with the same numbers gives the same texts, token for token, and the
same credit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.episode import Episode, Prompt
from textenv.generation import ActionRule

__all__ = ["Policy", "Timing", "rollout"]


class Policy(Protocol):
    """What `rollout` and `evaluate` ask of a policy: texts for prompts. `LMPolicy` is one."""

    def generate(
        self,
        prompts: Sequence[NDArray[np.int64]],
        rule: ActionRule,
        uniforms: Tensor | None,
        /,
        *,
        top_k: int,
        top_p: float,
    ) -> list[NDArray[np.int64]]: ...


@dataclass
class Timing:
    """Seconds spent sampling, and judging (score and credit)."""

    sample: float = 0.0
    score: float = 0.0


def rollout(
    env: gym.Env[Any, Any],
    policy: Policy,
    n: int,
    generator: torch.Generator | None = None,
    *,
    prompts: Sequence[Prompt] | None = None,
    deterministic: bool = False,
    top_k: int = 0,
    top_p: float = 1.0,
    timing: Timing | None = None,
) -> list[Episode]:
    """n credited episodes.

    Args:
        env: a text environment with its reward wrappers.
        policy: prompts → tokens.
        n: number of episodes.
        generator: where the uniform numbers come from (a CPU generator, whatever the policy's device); None: torch's.
        prompts: n prompts; default: drawn by `env.sample_prompts`.
        deterministic: greedy.
        top_k, top_p: truncate the distribution that is sampled.
        timing: seconds are added to it.

    Returns:
        n episodes, in the order of the prompts; one scorer call, and one critic call, for all of them.

    Raises:
        ValueError: n < 1, or another number of prompts.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    asked = list(env.get_wrapper_attr("sample_prompts")(n) if prompts is None else prompts)
    if len(asked) != n:
        raise ValueError(f"n={n} episodes, but {len(asked)} prompts")
    rule: ActionRule = env.get_wrapper_attr("action_rule")
    began = time.perf_counter()
    ids = [env.get_wrapper_attr("prompt_tokens")(prompt) for prompt in asked]
    uniforms = None if deterministic else torch.rand(n, rule.max_new_tokens, generator=generator)
    tokens = policy.generate(ids, rule, uniforms, top_k=top_k, top_p=top_p)
    sampled = time.perf_counter()
    make = env.get_wrapper_attr("episode")
    episodes: list[Episode] = env.get_wrapper_attr("credit")([make(p, t) for p, t in zip(asked, tokens, strict=True)])
    if timing is not None:
        timing.sample += sampled - began
        timing.score += time.perf_counter() - sampled
    return episodes
