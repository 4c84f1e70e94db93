"""A small view of a large vocabulary: the k tokens that a reference model finds likeliest are the actions.

An agent that is no language model cannot choose among 50,257 tokens, and algorithms that store a mask or a distribution per
step should not have to. Here action i is the i-th likeliest token of a frozen reference in this state; the end of the text
is always among them, so that every text can end.

1. The reference reads one token a step: its keys and values are kept (`textenv.states.PrefixCache`). Environments that name
   the same reference share its weights.
2. With `observe=True` the tokens that the actions mean stand behind the text in the observation, k more columns. A state
   determines them anyway; a policy that reads ids (`textenv.agents.LanguageModelActorCritic`) needs them.
3. What the environment is given, judged and paid for are ids, as ever: episodes and credit know nothing of ranks.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from textenv.env import Observation
from textenv.generation import ActionRule
from textenv.judges.token_log_probs import load_frozen
from textenv.shared import Shared, unwrap
from textenv.states import PrefixCache

__all__ = ["TopKActions", "TopTokens", "choice_space"]


class TopTokens:
    """The k likeliest next tokens of many states, EOS among them.

    Args:
        model: a frozen causal model over the environment's ids.
        rule: the environment's.
        k: how many, 2 at least.

    Raises:
        ValueError: k out of range, or an encoder–decoder.
    """

    def __init__(self, model: Any, rule: ActionRule, k: int) -> None:
        if not 2 <= k <= rule.vocabulary:
            raise ValueError(f"k must lie in 2..{rule.vocabulary} (EOS, another token, … all), got {k}")
        if getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(f"reference={type(model).__name__} is an encoder–decoder; the likeliest tokens need a causal model")
        self.rule, self.k, self.cache = rule, k, PrefixCache(model)

    def __call__(self, observations: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The tokens of each state, the likeliest first, and whether each may be chosen.

        Args:
            observations: (n, P_max + T_max) ids, -1 for none, prompts flush right in the first P_max columns.

        Returns:
            ids (n, k), allowed (n, k): all but EOS before `min_new_tokens`, which is offered only if k is the vocabulary.
        """
        rule = self.rule
        steps = torch.from_numpy((observations[:, -rule.max_new_tokens :] >= 0).sum(1))
        logits = self.cache.read([row[row >= 0] for row in observations]).logits
        steps = steps.to(logits.device)
        best = rule.restrict(logits, steps).topk(self.k, -1)
        ids, allowed = best.indices, best.values > float("-inf")
        absent = (steps >= rule.min_new_tokens) & ~(ids == rule.eos_token_id).any(-1)
        ids[absent, -1] = rule.eos_token_id
        return ids.cpu().numpy(), allowed.cpu().numpy()


class TopKActions(gym.Wrapper[Observation, np.int64, Observation, np.int64], gym.utils.RecordConstructorArgs):
    """Offers the k likeliest tokens of a reference model as `Discrete(k)`. Outermost, around rewards and all.

    >>> import gymnasium as gym, textenv
    >>> env = TopKActions(gym.make("textenv/Detox-v0"), k=4)
    >>> observation, info = env.reset(seed=0)
    >>> env.action_space, observation[-4:].tolist() == env.candidates.tolist()
    (Discrete(4), True)
    >>> offered = env.candidates.tolist()
    >>> observation, reward, terminated, truncated, info = env.step(0)  # the likeliest of them
    >>> int(observation[env.get_wrapper_attr("max_prompt_tokens")]) == offered[0]
    True

    For several environments in one process `textenv.agents.VecTopKActions` reads all their texts at once.

    Args:
        env: a text environment.
        k: how many tokens are offered.
        reference: a causal model over the environment's ids: a name, a directory, or a model.
        observe: whether the observation names the tokens, in k more columns.

    Attributes:
        candidates: (k,) the ids that the actions mean now; of a finished text, EOS throughout.

    Raises:
        NotApplicable: the reference has another tokenizer.
        ValueError: k out of range, or an action that is none of 0..k-1.
    """

    def __init__(self, env: gym.Env[Any, Any], k: int, reference: Any = "textenv/tiny", *, observe: bool = True) -> None:
        reference = unwrap({"reference": reference})["reference"]
        shared = reference if isinstance(reference, str) else Shared(reference)  # reading `env.spec` must not copy a model
        gym.utils.RecordConstructorArgs.__init__(self, k=k, reference=shared, observe=observe)
        gym.Wrapper.__init__(self, env)
        model = load_frozen(env, reference, "reference")
        rule: ActionRule = env.get_wrapper_attr("action_rule")
        self.observe, self._top = observe, TopTokens(model, rule, k)
        self.action_space = gym.spaces.Discrete(k)
        space: Any = choice_space(env.observation_space, k) if observe else env.observation_space
        self.observation_space = space
        self.candidates = np.full(k, rule.eos_token_id, np.int64)
        self._allowed = np.ones(k, np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._offer(observation, False), info

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if not 0 <= int(action) < self._top.k:
            raise ValueError(f"action {action!r} is out of range: it is a rank in 0..{self._top.k - 1}")
        observation, reward, terminated, truncated, info = self.env.step(self.candidates[int(action)])
        return self._offer(observation, terminated), float(reward), terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """(k,) which actions are allowed."""
        return self._allowed

    def _offer(self, observation: Observation, finished: bool) -> Observation:
        if finished:
            self.candidates = np.full(self._top.k, self._top.rule.eos_token_id, np.int64)
        else:
            (self.candidates,), (self._allowed,) = self._top(observation[None])
        return np.concatenate([observation, self.candidates]) if self.observe else observation


def choice_space(space: gym.Space[Any], k: int) -> gym.spaces.Box:
    """Observations with k more columns, which hold an id each (the others may hold none, -1)."""
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"TopKActions wraps text environments (a Box of ids); got {space}")
    low, high = np.append(space.low, np.zeros(k, np.int64)), np.append(space.high, np.full(k, space.high.max()))
    return gym.spaces.Box(low, high, dtype=np.int64)
