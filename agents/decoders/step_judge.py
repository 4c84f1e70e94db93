"""What a step is worth: in the eyes of a judge of steps, or by what it adds to a judge's score of the text."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from textenv.agents.decoders.decoding import Judge
from textenv.agents.decoders.step_paths import Path, Step
from textenv.aspects import Aspect
from textenv.episode import Episode, Span
from textenv.generation import ActionRule
from textenv.task import check_scores

__all__ = ["StepJudge"]


class StepJudge:
    """Values the step that a path is about to take.

    Args:
        source: a callable episodes → spans; an `Aspect`, or the name of one of the task's; or what `Judge` takes: then a step is
            worth the score with it less the score without it.
        env: where names and prompts come from.
        tokenizer: the policy's.

    Raises:
        TypeError, ValueError: as `Judge`.
    """

    def __init__(self, source: Any, env: gym.Env[Any, Any] | None, tokenizer: Any) -> None:
        if isinstance(source, str) and env is not None:
            source = env.get_wrapper_attr("task").aspects.get(source, source)
        aspect = source if isinstance(source, Aspect) else None
        self.sign = aspect.sign if aspect is not None else 1.0
        self.judge = Judge(source if aspect is None else aspect.judge, env, tokenizer)
        # Of a plain callable the first answer tells what it is.
        self._scores = isinstance(source, (gym.Env, str)) or callable(getattr(source, "prefix_scores", None))

    def value(self, asked: Sequence[tuple[Path, Step]], rule: ActionRule) -> None:
        """Write `value` (and `score`) into each step.

        Raises:
            ValueError: another number of answers than of texts; a score that is not finite.
        """
        if not asked:
            return
        texts = [self.judge.episode(path.asked, path.tokens + step.tokens, rule) for path, step in asked]
        scores = self.judge.scores(texts) if self._scores else self._spans(asked, texts)
        if scores is None:
            return
        for (_, step), score in zip(asked, scores, strict=True):
            step.score = score
        new = [path for path, _ in asked if path.last.score is None]
        if new:
            before = self.judge.scores([self.judge.episode(path.asked, path.tokens, rule) for path in new])
            for path, score in zip(new, before, strict=True):
                path.last.score = score
        for path, step in asked:
            step.value = (step.score or 0.0) - (path.last.score or 0.0)

    def _spans(self, asked: Sequence[tuple[Path, Step]], texts: Sequence[Episode]) -> list[float] | None:
        """Values by the lowest span in each step; or the scores, if that is what the judge returns."""
        said: list[Any] = list(self.judge.scorer(texts))
        self.judge.count(texts)
        if said and isinstance(said[0], numbers.Real):
            return check_scores(said, texts, self.judge.scorer)
        if len(said) != len(texts):
            raise ValueError(f"the judge of steps returned {len(said)} lists of spans for {len(texts)} texts")
        for (path, step), spans in zip(asked, said, strict=True):
            begin = len(self.judge.text(path.asked, path.tokens))
            found: list[Span] = [span for span in spans or () if span.end > begin]
            step.value = min((self.sign * span.reward for span in found), default=None)
        return None
