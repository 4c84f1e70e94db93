"""Choose an aspect for ALaRM by what the initial policy writes: greedy against sampled texts, before any training.

The measure, and where it departs from the paper's code, is in `textenv.judges.selection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from rich.console import Console

from textenv.agents.evaluation import as_policy
from textenv.agents.rollout import rollout
from textenv.aspects import Aspect, pick_aspects
from textenv.episode import Episode
from textenv.judges.selection import AspectSelection, compare_aspects
from textenv.task import Task

__all__ = ["select_aspects"]


def select_aspects(
    env: gym.Env[Any, Any],
    policy: Any,
    aspects: Sequence[str | Aspect] | None = None,
    n: int = 512,
    *,
    seed: int = 0,
    top_p: float = 1.0,
    chunk: int = 256,
    show: bool = True,
) -> AspectSelection:
    """Which aspect contradicts the score least, by n pairs of texts of the policy, greedy and sampled.

    Args:
        env: a text environment; its first n prompts are continued, again from the first where there are fewer (the intervals
            are over prompts, so that pairs of one prompt do not count as so many).
        policy: an agent, an `LMPolicy`, or what one is made from (a name, a directory, a model).
        aspects: names of the task's aspects, or `Aspect`s; default: all of the task's.
        n: number of pairs (the paper leaves it open; at least 500 are advised).
        seed: of the sampling.
        top_p: nucleus of the sampling distribution.
        chunk: texts decoded together; the result does not depend on it.
        show: print the table.

    Returns:
        The measurements; `.picked` is the name of the best.

    Raises:
        ValueError: n < 1, no such aspect, the score decides no pair.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    task: Task = env.get_wrapper_attr("task")
    chosen = pick_aspects(task.aspects, list(task.aspects) if aspects is None else aspects)
    prompts = [task.prompts[i % len(task.prompts)] for i in range(n)]
    writer, generator = as_policy(policy, env), torch.Generator().manual_seed(seed)
    sets: list[list[Episode]] = []
    for deterministic in (True, False):
        episodes: list[Episode] = []
        for at in range(0, n, chunk):
            part = prompts[at : at + chunk]
            # The verdict alone is asked for: the bare environment has no critic to wait for.
            episodes += rollout(
                env.unwrapped, writer, len(part), generator, prompts=part, deterministic=deterministic, top_p=top_p
            )
        sets.append(episodes)
    found = compare_aspects(sets[0], sets[1], chosen)
    if show:
        Console().print(found.table())
    found.warn()
    return found
