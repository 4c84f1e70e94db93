"""From a policy and an environment to credited episodes: the batched road.

Prompts come from the environment's own generator, tokens from uniform numbers that are drawn before anything is
sampled, one row an episode. Stepping through Gym with the same numbers gives the same texts, token for token, and the
same credit.

`rollout_groups` writes several texts for each prompt, and samples again where all of them score the same (the dynamic
sampling of DAPO: Yu et al. 2025, arXiv 2503.14476): such a group tells an estimator that compares nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.episode import Episode, Prompt
from textenv.generation import ActionRule

__all__ = ["Groups", "Policy", "Timing", "rollout", "rollout_groups"]


class Policy(Protocol):
    """What `rollout` and `evaluate` ask of a policy: texts for prompts. `LMPolicy` is one.

    One with `reads_prompts = True` (a decoder that judges what it writes) is asked in `Prompt`s instead of ids.
    """

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
    shown: Any = asked if getattr(policy, "reads_prompts", False) else ids
    tokens = policy.generate(shown, rule, uniforms, top_k=top_k, top_p=top_p)
    sampled = time.perf_counter()
    make = env.get_wrapper_attr("episode")
    episodes: list[Episode] = env.get_wrapper_attr("credit")([make(p, t) for p, t in zip(asked, tokens, strict=True)])
    if timing is not None:
        timing.sample += sampled - began
        timing.score += time.perf_counter() - sampled
    return episodes


class Groups(NamedTuple):
    """Credited episodes, those of one group together, and what they cost.

    Attributes:
        episodes: B episodes.
        groups: (B,) the number of each one's group.
        tokens: generated tokens, those of groups that were sampled again included.
        resampled: groups that were sampled again.
    """

    episodes: list[Episode]
    groups: list[int]
    tokens: int
    resampled: int


def rollout_groups(
    env: gym.Env[Any, Any],
    policy: Policy,
    n: int,
    generator: torch.Generator | None = None,
    *,
    group_size: int = 1,
    rounds: int = 0,
    timing: Timing | None = None,
) -> Groups:
    """n credited episodes in groups of `group_size` texts for one prompt.

    Args:
        n: number of episodes, a multiple of the size of a group.
        group_size: texts a prompt.
        rounds: how many times groups whose scores are all equal are replaced, with newly drawn prompts. Those still equal after
            the last round are left out, unless all are: a batch is never empty.
        env, policy, generator, timing: as for `rollout`.

    Raises:
        ValueError: n is no multiple of group_size; rounds without groups.
    """
    if group_size < 1 or n % group_size:
        raise ValueError(f"n={n} episodes do not make groups of {group_size}")
    if rounds < 0 or (rounds and group_size == 1):
        raise ValueError(f"rounds={rounds} of sampling groups again, with group_size={group_size}; a text alone has no equal")
    kept: list[list[Episode]] = []
    equal: list[list[Episode]] = []
    tokens = resampled = 0
    for round_ in range(rounds + 1):
        missing = n // group_size - len(kept)
        if not missing:
            break
        resampled += missing if round_ else 0
        drawn = env.get_wrapper_attr("sample_prompts")(missing)
        prompts = [prompt for prompt in drawn for _ in range(group_size)]
        episodes = rollout(env, policy, len(prompts), generator, prompts=prompts, timing=timing)
        tokens += sum(map(len, episodes))
        made = [episodes[at : at + group_size] for at in range(0, len(episodes), group_size)]
        equal = []
        for group in made:
            (equal if rounds and len({episode.score for episode in group}) == 1 else kept).append(group)
    found = kept or equal
    groups = [i for i, group in enumerate(found) for _ in group]
    return Groups([episode for group in found for episode in group], groups, tokens, resampled)
