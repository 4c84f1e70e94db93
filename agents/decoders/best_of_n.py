"""Best-of-N: the best of N sampled texts, in the eyes of a judge. The baseline of every other way to spend tokens on decoding.

    y = argmax_{i ≤ N} R(x, y_i),   y_i ~ π(·|x);        KL(best-of-N ‖ π) ≤ log N − (N − 1)/N

with equality where no two scores tie. With `token_budget` N is what a budget of tokens allows: whole texts are drawn as long as
one more of the longest kind still fits, so that the budget is never passed (one text is always drawn).

The first sample is the one that the policy alone would give, and those for a larger N begin with those for a smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.checks import above, at_least
from textenv.agents.decoders.decoding import Asked, Draws, Judge, TokensUsed
from textenv.agents.evaluation import as_policy
from textenv.agents.overlap import overlapped
from textenv.agents.rollout import Policy
from textenv.episode import Prompt
from textenv.generation import ActionRule
from textenv.waits import waits

__all__ = ["BestOfN", "kl_of_best_of_n"]

Ids = NDArray[np.int64]


def kl_of_best_of_n(n: int) -> float:
    """log n − (n − 1)/n nats: how far best-of-n is from what it samples from, at most.

    >>> [round(kl_of_best_of_n(n), 4) for n in (1, 2, 4, 16)]
    [0.0, 0.1931, 0.6363, 1.8351]
    """
    return math.log(n) - (n - 1) / n


class BestOfN:
    """A policy whose texts are the best of several samples of another one.

    >>> import gymnasium as gym, textenv
    >>> from textenv.agents import evaluate
    >>> env = gym.make("textenv/Detox-v0", split="test")
    >>> one, four = (evaluate(BestOfN("textenv/tiny", env, n), env, 8).episodes for n in (1, 4))
    >>> all(best.score >= plain.score for plain, best in zip(one, four))
    True

    Args:
        policy: what is sampled from: anything that `evaluate` takes, and that samples.
        judge: a text environment (its task's score), or a scorer: episodes → floats, or a name that the task can load.
        n: samples a text.
        token_budget: instead of n: tokens a text may cost.
        count: what costs: "all", the tokens sampled and those that the judge reads; or "sampled".
        env: the text environment of the prompts, where `judge` is none.

    Attributes:
        tokens_used: what the texts have cost so far.

    Raises:
        ValueError: neither n nor a budget, or both; n below 1.
    """

    reads_prompts = True

    def __init__(
        self,
        policy: Any,
        judge: Any,
        n: int | None = None,
        *,
        token_budget: float | None = None,
        count: Literal["all", "sampled"] = "all",
        env: gym.Env[Any, Any] | None = None,
    ) -> None:
        if (n is None) == (token_budget is None):
            raise ValueError(f"give n or token_budget, one of them: got n={n}, token_budget={token_budget}")
        at_least(1, n=n)
        above(0, token_budget=token_budget)
        TokensUsed().total(count)  # a name that is known
        env = judge if env is None and isinstance(judge, gym.Env) else env
        self.policy: Policy = as_policy(policy, env)
        fit = getattr(self.policy, "fit_to", None)
        if env is not None and fit is not None:
            fit(env)
        self.judge = judge if isinstance(judge, Judge) else Judge(judge, env, getattr(self.policy, "tokenizer", None))
        self.n, self.token_budget, self.count = n, token_budget, count

    @classmethod
    def at_budget_of(
        cls, decoder: Any, judge: Any, *, count: Literal["all", "sampled"] = "all", env: gym.Env[Any, Any] | None = None
    ) -> Self:
        """Best-of-N with the policy of another decoder, and as many tokens a text as that has used on average so far.

        Raises:
            ValueError: it has written nothing yet.
        """
        used: TokensUsed = decoder.tokens_used
        if not used.texts:
            raise ValueError(f"{type(decoder).__name__} has written no text yet, so its budget is not known: evaluate it first")
        return cls(decoder.policy, judge, token_budget=used.per_text(count), count=count, env=env)

    @property
    def tokens_used(self) -> TokensUsed:
        """What the texts have cost so far."""
        return self.judge.used

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
        """Texts, one per prompt, as of any policy; the judge is called once (a few times, if it waits for a server).

        Raises:
            ValueError: greedy texts (uniforms None) are all one, and there is nothing to choose among.
        """
        if uniforms is None and self.n != 1:
            raise ValueError("best-of-N chooses among samples, and greedy texts are all one: pass deterministic=False, or n=1")
        asked = self.judge.book.read(prompts)

        def write(part: slice) -> list[tuple[Asked, list[Ids]]]:
            numbers = None if uniforms is None else uniforms[part]
            drawn = self._draw(asked[part], rule, numbers, {"top_k": top_k, "top_p": top_p})
            self.tokens_used.texts += len(drawn)
            self.tokens_used.sampled += sum(len(text) for texts in drawn for text in texts)
            return list(zip(asked[part], drawn, strict=True))

        size = max(1, getattr(self.policy, "decodes_together", len(asked)) // (self.n or 1))
        chosen = overlapped(write, lambda drawn: self._best(drawn, rule), len(asked), waits=waits(self.judge.scorer), size=size)
        return [text for part in chosen for text in part]

    def _best(self, drawn: Sequence[tuple[Asked, list[Ids]]], rule: ActionRule) -> list[Ids]:
        """Of the samples of each prompt, the one that the judge likes best."""
        if all(len(texts) == 1 for _, texts in drawn):
            return [texts[0] for _, texts in drawn]
        scores = iter(self.judge.scores([self.judge.episode(a, text, rule) for a, texts in drawn for text in texts]))
        return [texts[int(np.argmax([next(scores) for _ in texts]))] for _, texts in drawn]

    def _draw(
        self, asked: Sequence[Asked], rule: ActionRule, uniforms: Tensor | None, options: dict[str, Any]
    ) -> list[list[Ids]]:
        """The samples of each prompt, in order."""
        shown: list[Any] = [a.prompt if getattr(self.policy, "reads_prompts", False) else a.ids for a in asked]
        if uniforms is None:
            return [[text] for text in self.policy.generate(shown, rule, None, **options)]
        draws = [Draws(row) for row in uniforms]
        out: list[list[Ids]] = [[] for _ in asked]
        while rows := [i for i, texts in enumerate(out) for _ in range(self._room(texts, rule))]:
            counts = [len(texts) for texts in out]
            numbers = []
            for i in rows:
                numbers.append(draws[i].more(rule.max_new_tokens) if counts[i] else draws[i].row)
                counts[i] += 1
            texts = self.policy.generate([shown[i] for i in rows], rule, torch.stack(numbers), **options)
            for i, text in zip(rows, texts, strict=True):
                out[i].append(text)
        return out

    def _room(self, texts: Sequence[Ids], rule: ActionRule) -> int:
        """How many more samples are certain to fit."""
        if self.n is not None:
            return self.n - len(texts)
        assert self.token_budget is not None
        each = 2 if self.count == "all" else 1  # written once, read once
        left = self.token_budget - each * sum(map(len, texts))
        return max(int(left // (each * rule.max_new_tokens)), 0 if texts else 1)
