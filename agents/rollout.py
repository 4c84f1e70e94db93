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

from textenv.agents.checks import truncation
from textenv.agents.distributed.world import World
from textenv.agents.engines.protocol import RolloutEngine
from textenv.agents.overlap import overlapped
from textenv.agents.policy import LMPolicy
from textenv.agents.same_tokens import check_tokens
from textenv.episode import Episode, Prompt
from textenv.generation import ActionRule, Sampled

__all__ = ["Groups", "Policy", "Timing", "rollout", "rollout_groups"]


class Policy(Protocol):
    """What `rollout` and `evaluate` ask of a policy: texts for prompts. `LMPolicy` is one.

    One with `reads_prompts = True` (a decoder that judges what it writes) is asked in `Prompt`s instead of ids. One with
    `decodes_together = 256`, whose texts do not depend on each other, may be asked for so many at a time.
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
    """Seconds spent sampling, and judging (score and credit): of a judge that waits, those that were not spent sampling."""

    sample: float = 0.0
    score: float = 0.0


def rollout(
    env: gym.Env[Any, Any],
    policy: Policy | RolloutEngine,
    n: int,
    generator: torch.Generator | None = None,
    *,
    prompts: Sequence[Prompt] | None = None,
    deterministic: bool = False,
    top_k: int = 0,
    top_p: float = 1.0,
    timing: Timing | None = None,
    recorded: list[Sampled] | None = None,
    world: World | None = None,
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
        recorded: what was sampled is added to it, in order; of an `LMPolicy` the log-probabilities and values with the tokens.
        world: the processes that each write and judge a share of the episodes; every one of them gets all.

    Returns:
        n episodes, in the order of the prompts; one scorer call, and one critic call, for all of them. Where one of them waits
        for a server, it is called for parts, and more texts are written meanwhile (`textenv.agents.overlap`).

    Raises:
        ValueError: n < 1, or another number of prompts; a top_k or top_p of nothing; a language model whose tokens are not the
            environment's.
        What a scorer or a critic raises.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    truncation(top_k, top_p)
    if isinstance(policy, LMPolicy):
        check_tokens(policy, env)
    asked = list(env.get_wrapper_attr("sample_prompts")(n) if prompts is None else prompts)
    if len(asked) != n:
        raise ValueError(f"n={n} episodes, but {len(asked)} prompts")
    world = World() if world is None else world
    rule: ActionRule = env.get_wrapper_attr("action_rule")
    began = time.perf_counter()
    uniforms = None if deterministic else torch.rand(n, rule.max_new_tokens, generator=generator)[world.rank :: world.size]
    asked = world.share(asked)
    ids = [env.get_wrapper_attr("prompt_tokens")(prompt) for prompt in asked]
    shown: Any = asked if getattr(policy, "reads_prompts", False) else ids
    sampling = time.perf_counter() - began
    make = env.get_wrapper_attr("episode")
    parts: list[Sampled] = []

    def write(part: slice) -> list[Episode]:
        nonlocal sampling
        began = time.perf_counter()
        numbers = None if uniforms is None else uniforms[part]
        ask = policy.generate if recorded is None else getattr(policy, "sample", policy.generate)
        found: Any = ask(shown[part], rule, numbers, top_k=top_k, top_p=top_p)
        sampled = found if isinstance(found, Sampled) else Sampled(found)
        parts.append(sampled)
        sampling += time.perf_counter() - began
        return [make(prompt, text) for prompt, text in zip(asked[part], sampled.tokens, strict=True)]

    size = getattr(policy, "decodes_together", len(asked))
    waits = env.get_wrapper_attr("waits")
    credited = overlapped(write, env.get_wrapper_attr("credit"), len(asked), waits=waits, size=size) if asked else []
    if timing is not None:
        timing.sample += sampling
        timing.score += time.perf_counter() - began - sampling
    if recorded is not None:
        recorded.append(_gathered(parts, world, n))
    return world.gather([episode for part in credited for episode in part], n)


def _gathered(parts: Sequence[Sampled], world: World, n: int) -> Sampled:
    """What all processes recorded, in the order of the episodes."""
    rows = [row for part in parts for row in zip(*(column or [None] * len(part.tokens) for column in part), strict=True)]
    columns: list[Any] = [list(column) for column in zip(*world.gather(rows, n), strict=True)]
    tokens, log_probs, values = (None if column[0] is None else column for column in columns)
    return Sampled(tokens or [], log_probs, values)


class Groups(NamedTuple):
    """Credited episodes, those of one group together, and what they cost.

    Attributes:
        episodes: B episodes.
        groups: (B,) the number of each one's group.
        tokens: generated tokens, those of groups that were sampled again included.
        resampled: groups that were sampled again.
        sampled: what was recorded of the episodes, in their order.
    """

    episodes: list[Episode]
    groups: list[int]
    tokens: int
    resampled: int
    sampled: Sampled


def rollout_groups(
    env: gym.Env[Any, Any],
    policy: Policy | RolloutEngine,
    n: int,
    generator: torch.Generator | None = None,
    *,
    group_size: int = 1,
    rounds: int = 0,
    timing: Timing | None = None,
    world: World | None = None,
) -> Groups:
    """n credited episodes in groups of `group_size` texts for one prompt.

    Args:
        n: number of episodes, a multiple of the size of a group.
        group_size: texts a prompt.
        rounds: how many times groups whose scores are all equal are replaced, with newly drawn prompts. Those still equal after
            the last round are left out, unless all are: a batch is never empty.
        env, policy, generator, timing, world: as for `rollout`.

    Raises:
        ValueError: n is no multiple of group_size; rounds without groups.
    """
    if group_size < 1 or n % group_size:
        raise ValueError(f"n={n} episodes do not make groups of {group_size}")
    if rounds < 0 or (rounds and group_size == 1):
        raise ValueError(f"rounds={rounds} of sampling groups again, with group_size={group_size}; a text alone has no equal")
    kept: list[list[tuple[Episode, int]]] = []
    equal: list[list[tuple[Episode, int]]] = []
    recorded: list[Sampled] = []
    tokens = resampled = 0
    for round_ in range(rounds + 1):
        missing = n // group_size - len(kept)
        if not missing:
            break
        resampled += missing if round_ else 0
        drawn = env.get_wrapper_attr("sample_prompts")(missing)
        prompts = [prompt for prompt in drawn for _ in range(group_size)]
        before = sum(len(part.tokens) for part in recorded)
        found = rollout(env, policy, len(prompts), generator, prompts=prompts, timing=timing, recorded=recorded, world=world)
        tokens += sum(map(len, found))
        episodes = [(episode, before + i) for i, episode in enumerate(found)]
        made = [episodes[at : at + group_size] for at in range(0, len(episodes), group_size)]
        equal = []
        for group in made:
            (equal if rounds and len({episode.score for episode, _ in group}) == 1 else kept).append(group)
    chosen = kept or equal
    groups = [i for i, group in enumerate(chosen) for _ in group]
    sampled = _selected(recorded, [i for group in chosen for _, i in group])
    return Groups([episode for group in chosen for episode, _ in group], groups, tokens, resampled, sampled)


def _selected(parts: Sequence[Sampled], rows: Sequence[int]) -> Sampled:
    """What was recorded of these texts, counted through all parts."""
    columns: list[list[Any]] = [[part[i] for part in parts] for i in range(len(Sampled._fields))]
    whole = [None if any(c is None for c in column) else [row for c in column for row in c] for column in columns]
    picked: list[Any] = [None if column is None else [column[i] for i in rows] for column in whole]
    return Sampled(*picked)
