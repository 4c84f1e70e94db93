"""What a policy writes, judged: k texts for each of n prompts, the task's metrics with intervals.

The protocol of the detoxification benchmarks (Gehman et al. 2020; Liu et al. 2021): k = 25 sampled texts a prompt. The
verdict may come from a judge that did not give the reward; perplexity comes from a reference, not from the policy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch

from textenv.agents.policy import LMPolicy
from textenv.agents.rollout import Policy, rollout
from textenv.agents.stepping import SteppedPolicy
from textenv.agents.text_actions import TextPolicy
from textenv.episode import Episode
from textenv.metrics import length_metrics, perplexity
from textenv.task import Scorer, Task, check_scores

__all__ = ["Evaluation", "as_language_model", "as_policy", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """n × k judged texts, and what they amount to.

    Attributes:
        episodes: (n k) of them, those of one prompt together.
        metrics: name → value; most are an `Estimate`, a float with an interval.
    """

    episodes: Sequence[Episode]
    metrics: Mapping[str, float]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={float(value):.4g}" for name, value in self.metrics.items())
        return f"Evaluation({len(self.episodes)} episodes, {values})"


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
        policy: who writes (`as_policy`): a Hugging Face model, its name or directory; an agent or a decoder of this library; a
            Stable-Baselines3 model, or whatever predicts actions; a function from a prompt's text to a response.
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
        TypeError: nothing that writes texts.
    """
    task: Task = env.get_wrapper_attr("task")
    n = len(task.prompts) if n is None else n
    if not 1 <= n <= len(task.prompts):
        raise ValueError(f"n={n} prompts asked for, the environment has {len(task.prompts)}")
    if k < 1 or (deterministic and k > 1):
        raise ValueError(f"k must be at least 1, and 1 for greedy texts, got k={k}, deterministic={deterministic}")
    prompts = [prompt for prompt in task.prompts[:n] for _ in range(k)]
    writer = as_policy(policy, env)
    # The verdict alone is asked for: the bare environment has no critic to wait for.
    episodes = rollout(
        env.unwrapped,
        writer,
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


def as_policy(policy: Any, env: gym.Env[Any, Any] | None = None) -> Policy:
    """Whoever can write texts for prompts, as a `Policy`.

    1. an agent of this library: its policy; an `LMPolicy`, a decoder, or an object with their `generate`: as it is;
    2. a transformers (or peft) language model, a name or a directory: an `LMPolicy`;
    3. an object with `predict(observation, ...)`, Stable-Baselines3's say: `SteppedPolicy`, which acts in `env`;
    4. a function, prompt text → response text: `TextPolicy`. Its texts are cut into the tokens of `env`; one that is too long
       is cut there, and ends with finish_reason "length".

    Args:
        policy: one of these.
        env: where it acts; the last two cannot do without.

    Raises:
        TypeError: none of these, or no environment where one is needed.
        ValueError: a language model whose tokens are not the environment's.
    """
    model = hasattr(policy, "get_input_embeddings") and not isinstance(policy, type)
    if model or isinstance(policy, (str, os.PathLike)):
        named = LMPolicy(policy)
        if env is not None:
            named.fit_to(env)
        return named
    kind, steps = type(policy).__name__, callable(getattr(policy, "predict", None))
    inner: Any = getattr(policy, "policy", None)
    if _writes(policy):
        own: Policy = policy
        return own
    if isinstance(inner, LMPolicy) or (_writes(inner) and not steps):
        held: Policy = inner
        return held
    if isinstance(policy, type) or not (steps or callable(policy)):
        raise TypeError(
            f"{policy!r:.80} ({kind}) writes no texts; give a language model or its name, an agent or a decoder of this library, "
            "a Stable-Baselines3 model, or a function from a prompt's text to a response"
        )
    if env is None:
        raise TypeError(f"a policy of type {kind} acts in an environment: as_policy(policy, env)")
    return SteppedPolicy(policy, env) if steps else TextPolicy(policy, env)


def as_language_model(policy: Any, env: gym.Env[Any, Any] | None = None) -> LMPolicy:
    """The `LMPolicy` of whoever has one, fitted to the environment: for decoders that read probabilities.

    Raises:
        TypeError: it has none.
        ValueError: policy and environment disagree about their tokens.
    """
    found = as_policy(policy, env)
    if not isinstance(found, LMPolicy):
        raise TypeError(f"{type(policy).__name__} tells no probabilities of tokens; give a language model, or an agent with one")
    if env is not None:
        found.fit_to(env)
    return found


def _writes(writer: Any) -> bool:
    return callable(getattr(writer, "generate", None)) and not isinstance(writer, type)
