"""What a policy writes, judged: k texts for each of n prompts, the task's metrics with intervals.

The protocol of the detoxification benchmarks (Gehman et al. 2020; Liu et al. 2021): k = 25 sampled texts a prompt. The
verdict may come from a judge that did not give the reward; perplexity comes from a reference, not from the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch

from textenv.agents.policy import LMPolicy
from textenv.agents.rollout import Policy, rollout
from textenv.episode import Episode
from textenv.metrics import length_metrics, perplexity
from textenv.task import Scorer, Task, check_scores

__all__ = ["Evaluation", "as_policy", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """n × k judged texts, those of one prompt together, and what they amount to."""

    episodes: Sequence[Episode]
    metrics: Mapping[str, float]


def evaluate(
    policy: Any,
    env: gym.Env[Any, Any],
    n: int | None = None,
    *,
    k: int = 1,
    judge: Any = None,
    reference: Any = None,
    deterministic: bool = False,
    top_p: float = 1.0,
    seed: int = 0,
) -> Evaluation:
    """Judge the texts of a policy.

    Args:
        policy: an agent of this library, an `LMPolicy`, or what one is made from (a name, a directory, a model).
        env: a text environment; the first n of its prompts are continued (make it with split="test").
        n: number of prompts; default: all.
        k: texts a prompt.
        judge: a scorer other than the environment's: a callable, a directory or a name, as `scorer=`.
        reference: an `LMPolicy` or model under which perplexity is measured; None: no perplexity.
        deterministic: greedy texts (k is then 1).
        top_p: nucleus of the sampling distribution.
        seed: of the sampling.

    Returns:
        Episodes, scored by the judge, and the metrics: those of the task, lengths, perplexity.

    Raises:
        ValueError: fewer than n prompts; k below 1.
    """
    task: Task = env.get_wrapper_attr("task")
    n = len(task.prompts) if n is None else n
    if not 1 <= n <= len(task.prompts):
        raise ValueError(f"n={n} prompts asked for, the environment has {len(task.prompts)}")
    if k < 1 or (deterministic and k > 1):
        raise ValueError(f"k must be at least 1, and 1 for greedy texts, got k={k}, deterministic={deterministic}")
    prompts = [prompt for prompt in task.prompts[:n] for _ in range(k)]
    # The verdict alone is asked for: the bare environment has no critic to wait for.
    episodes = rollout(
        env.unwrapped,
        as_policy(policy),
        n * k,
        torch.Generator().manual_seed(seed),
        prompts=prompts,
        deterministic=deterministic,
        top_p=top_p,
    )
    if judge is not None:
        episodes = _judged(episodes, task.load_scorer(judge))
    metrics: dict[str, float] = {**task.metrics(episodes), **length_metrics(episodes)}
    if reference is not None:
        model = reference.model if isinstance(reference, LMPolicy) else LMPolicy(reference).model
        metrics["perplexity"] = perplexity(model, episodes, prompt_end=env.get_wrapper_attr("action_rule").prompt_end)
    return Evaluation(episodes, metrics)


def _judged(episodes: Sequence[Episode], judge: Scorer) -> list[Episode]:
    scores = check_scores(judge(episodes), episodes, judge)
    return [replace(episode, score=score) for episode, score in zip(episodes, scores, strict=True)]


def as_policy(policy: Any) -> Policy:
    """Whatever can write texts for prompts."""
    inner = getattr(policy, "policy", policy)
    if callable(getattr(inner, "generate", None)) and hasattr(inner, "evaluate"):
        found: Policy = inner
        return found
    return LMPolicy(policy)
