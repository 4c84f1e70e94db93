"""What a text is owed while it is being written, for one text (`OnlineReward`) or for many at once (`TextVectorEnv`).

Let C(t) be the sum of the credit of the first t tokens, as a stack of reward wrappers places it on that unfinished text:

1. causal credit is read at every step, by the outermost environment inside which every wrapper is causal;
2. the rest is read where a segment ends (a sentence or a clause, by its punctuation; at latest after `SEGMENT_TOKENS`
   tokens), or as often as `pay_every` says, and stays as it was read until the next time.

All texts that are to be read at a step are read in one call, together with those that end there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym

from textenv.episode import Episode
from textenv.reward import RewardWrapper, check_pay_every

__all__ = ["SEGMENT_TOKENS", "OnlinePayment"]

SEGMENT_TOKENS = 8
_ENDS = tuple(".!?;:,\n…。！？；：，、")


class OnlinePayment:
    """C(t) of each of several texts of one stack.

    Args:
        stack: a text environment in its reward wrappers.
        texts: how many texts are written at a time.
        pay_every: "segment", "token", or a number of tokens.

    Raises:
        ValueError: another `pay_every`.
    """

    def __init__(self, stack: gym.Env[Any, Any], texts: int, pay_every: Literal["segment", "token"] | int) -> None:
        check_pay_every(pay_every)
        self.pay_every = pay_every
        self._credit = stack.get_wrapper_attr("credit")
        self._tokenizer = stack.get_wrapper_attr("tokenizer")
        causal, self._all_causal = _causal_part(stack)
        self._causal_credit = None if causal is None else causal.get_wrapper_attr("credit")
        self._hindsight = [0.0] * texts  # credit of the text so far that is not causal, as last read
        self._since = [0] * texts  # tokens since it was read
        self._ends: dict[int, bool] = {}  # token → whether a segment ends with it

    def begin(self, text: int) -> None:
        """Another text begins in this place."""
        self._hindsight[text], self._since[text] = 0.0, 0

    def credit(
        self, ended: Sequence[Episode], grown: Mapping[int, int], so_far: Callable[[int], Episode]
    ) -> tuple[list[Episode], dict[int, float]]:
        """Texts that end now, credited, and C(t) of those that go on: one call of the stack's `credit` for both.

        Nothing has happened if it raises.

        Args:
            ended: texts that have ended.
            grown: place → the token that it has grown by, of each text that goes on.
            so_far: the text at a place, that token included; asked for where it is read.
        """
        since = {text: self._since[text] + 1 for text in grown}
        due = [text for text, token in grown.items() if self._due(since[text], token)]
        causal = dict.fromkeys(grown, 0.0)
        texts = {text: so_far(text) for text in (due if self._causal_credit is None else grown)}
        if self._causal_credit is not None and texts:
            read = self._causal_credit(list(texts.values()))
            causal = {text: _total(episode) for text, episode in zip(texts, read, strict=True)}
        asked = [*ended, *(texts[text] for text in due)]
        credited: list[Episode] = self._credit(asked) if asked else []
        for text, episode in zip(due, credited[len(ended) :], strict=True):
            self._hindsight[text], since[text] = _total(episode) - causal[text], 0
        for text in grown:
            self._since[text] = since[text]
        return credited[: len(ended)], {text: causal[text] + self._hindsight[text] for text in grown}

    def _due(self, since: int, token: int) -> bool:
        if self._all_causal:
            return False
        if self.pay_every == "token":
            return True
        if isinstance(self.pay_every, int):
            return since >= self.pay_every
        if token not in self._ends:
            self._ends[token] = str(self._tokenizer.decode([token])).rstrip(" ").endswith(_ENDS)
        return since >= SEGMENT_TOKENS or self._ends[token]


def _total(episode: Episode) -> float:
    return float(episode.rewards.sum())


def _causal_part(env: gym.Env[Any, Any]) -> tuple[gym.Env[Any, Any] | None, bool]:
    """The outermost environment inside which every reward wrapper is causal (None: no wrapper is), and whether it is all."""
    chain: list[RewardWrapper] = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, RewardWrapper):
            chain.insert(0, env)  # innermost first
        env = env.env
    causal = list(itertools.takewhile(lambda wrapper: wrapper.causal, chain))
    return (causal[-1] if causal else None), len(causal) == len(chain)
