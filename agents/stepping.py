"""Agents that see an observation and predict an action, as policies: Stable-Baselines3's, sb3-contrib's, or one's own.

Where nothing but reward wrappers stands around the text environment, an action is a token, and all texts are written side by
side: one `predict` a position. Else (`TopKActions`, say) each text is stepped through the environment, which alone knows what
an action means; then its rewards are paid too, so make it without a dense one where that is dear.

A recurrent agent gets its state back, a maskable one the environment's `action_masks()`. SB3 samples with torch's global
generator: it is seeded by the numbers that came with the texts, inside a fork, and is as it was afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.decoders.decoding import Asked, PromptBook, seed_of
from textenv.episode import Prompt
from textenv.generation import ActionRule
from textenv.reward import RewardWrapper

__all__ = ["SteppedPolicy"]

Ids = NDArray[np.int64]
_SEE_THROUGH = (RewardWrapper, OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics)
"""Wrappers under which observations and actions are the text environment's own."""


class SteppedPolicy:
    """The texts that an agent writes by `predict(observation, ...)`.

    Args:
        agent: has `predict`: observations (n, ...) → (actions (n,), state), or actions; it may take `state`, `episode_start`,
            `deterministic` and `action_masks`.
        env: the environment that it acts in, with whatever wrappers give its actions their meaning.
    """

    reads_prompts = True

    def __init__(self, agent: Any, env: gym.Env[Any, Any]) -> None:
        self.agent, self.env, self.book = agent, env, PromptBook(env)
        taken = inspect.signature(agent.predict).parameters
        everything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        known = ("state", "episode_start", "deterministic", "action_masks")
        self._takes = {name for name in known if name in taken or (everything and name != "action_masks")}

    def generate(
        self,
        prompts: Sequence[Prompt | Ids],
        rule: ActionRule,
        uniforms: Tensor | None,
        /,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> list[Ids]:
        """The agent's texts, one per prompt. The numbers seed its sampling; None: deterministic.

        Raises:
            ValueError: `top_k` or `top_p`, which such an agent cannot be told; an environment that cuts texts off.
        """
        if top_k or top_p < 1.0:
            raise ValueError(f"an agent that predicts actions cannot be told top_k={top_k}, top_p={top_p}")
        asked = self.book.read(prompts)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if uniforms is not None:
                torch.manual_seed(seed_of(uniforms))  # noqa: TID251 - within fork_rng; predict takes no generator
            if self._see_through():
                return self._side_by_side(asked, rule, uniforms is None)
            return [self._one(a, rule, uniforms is None) for a in asked]

    def _see_through(self) -> bool:
        env: Any = self.env
        while isinstance(env, gym.Wrapper):
            if not isinstance(env, _SEE_THROUGH):
                return False
            env = env.env
        return "action_masks" not in self._takes

    def _side_by_side(self, asked: Sequence[Asked], rule: ActionRule, deterministic: bool) -> list[Ids]:
        """All texts at once; those that have ended are shown to the end, so that a recurrent state keeps its rows."""
        first: int = self.env.get_wrapper_attr("max_prompt_tokens")
        rows = np.full((len(asked), first + rule.max_new_tokens), -1, np.int64)
        for row, a in zip(rows, asked, strict=True):
            row[first - len(a.ids) : first] = a.ids
        going, state = np.ones(len(asked), bool), None
        for t in range(rule.max_new_tokens):
            actions, state = self._predict(rows, state, np.full(len(asked), t == 0), deterministic)
            rows[going, first + t] = np.asarray(actions, np.int64).reshape(-1)[going]
            going &= rows[:, first + t] != rule.eos_token_id
            if not going.any():
                break
        return [row[first:][row[first:] >= 0] for row in rows]

    def _one(self, asked: Asked, rule: ActionRule, deterministic: bool) -> Ids:
        observation, _ = self.env.reset(options={"prompt": asked.prompt})
        state, begin, ended = None, np.ones(1, bool), False
        while not ended:
            action, state = self._predict(np.asarray(observation)[None], state, begin, deterministic)
            observation, _, ended, truncated, info = self.env.step(np.asarray(action)[0])
            begin = np.zeros(1, bool)
            if truncated and not ended:
                raise ValueError(f"a wrapper truncates texts before they end, {self.env}: take its time limit away")
        tokens: Ids = info["text_episode"].tokens
        return tokens

    def _predict(self, observations: Any, state: Any, begin: NDArray[np.bool_], deterministic: bool) -> tuple[Any, Any]:
        known: dict[str, Any] = {"state": state, "episode_start": begin, "deterministic": deterministic}
        options = {name: value for name, value in known.items() if name in self._takes}
        if "action_masks" in self._takes and self.env.has_wrapper_attr("action_masks"):  # without it nothing is forbidden
            options["action_masks"] = np.asarray(self.env.get_wrapper_attr("action_masks")())[None]
        found = self.agent.predict(observations, **options)
        return found if isinstance(found, tuple) else (found, None)
