"""The change of a score from segment to segment: Fine-Grained RLHF's sentence-level reward for detoxification.

Paper: Wu et al. 2023 (arXiv 2306.01693), project site. With S the score (higher is better; the paper's is −toxicity) and
y_{≤j} the text up to the end of segment j:

    R(j) = S(y_{≤j}) − S(y_{≤j−1})   at the end of segment j,      Σ_j R(j) = S(y) − S(empty)

Departures and choices:

1. S(empty) is 0, so that the return is kept exactly: the first segment gets its whole score. The paper's S(empty), minus the
   toxicity of nothing, is 0 as well; but a score of 1 − toxicity, as Detox's, is 1 of nothing. `baseline=1.0` is the paper's form
   there: the first segment is paid minus its toxicity, the text its score less 1, one constant a text. `baseline="empty"` measures
   S(empty), which is potential-based shaping less a constant;
2. the last segment ends at the last token, EOS included: with `segmenter="whole"` this is the sparse reward;
3. S(y) is the score that the environment has, not asked again; prefixes are asked about together, for a whole batch.

It comes in place of the score; a second reward that takes the score is refused. Sequence-level estimators (RLOO, GRPO) cannot
see the difference to the sparse reward: per-token returns are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.judges.prefixes import prefix_scores
from textenv.reward import RewardWrapper
from textenv.segments import Segmenter, last_token, load_segmenter, settled
from textenv.task import Scorer, Task

__all__ = ["DeltaReward"]


class DeltaReward(RewardWrapper):
    """Pays at each segment's end what the segment changed in the score.

    Keeps the return: yes (with the task's own scorer and baseline 0). Causal: no (where a segment ends is known when the
    next begins). Takes the score: yes.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", reward="delta", max_new_tokens=8, payment="end")
    >>> _ = env.reset(seed=0)
    >>> for character in "aa. a. a":
    ...     *_, info = env.step(ord(character))
    >>> info["text_episode"].rewards.tolist(), info["text_episode"].score
    ([0.0, 0.0, 0.25, 0.0, 0.0, 0.125, 0.0, 0.125], 0.5)

    Args:
        env: a text environment.
        scorer: S: a callable, or what the task's `scorer=` takes; default: the task's own scorer.
        segmenter: "sentences", "sub_sentences", "lines", "whole", or a callable text → [(start, end), ...].
        baseline: S(empty): a number (the paper's: 1 where the score is 1 − toxicity), or "empty": the scorer is asked.

    Raises:
        ValueError: no such segmenter, a segmenter that does not partition its text, a baseline that is neither.
    """

    keeps_return: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        scorer: Any = None,
        *,
        segmenter: str | Segmenter = "sentences",
        baseline: float | Literal["empty"] = 0.0,
    ) -> None:
        super().__init__(env)
        given: Any = baseline
        if given != "empty" and (isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given)):
            raise ValueError(f'baseline must be a finite number or "empty", got {baseline!r}')
        task: Task = env.get_wrapper_attr("task")
        self._own = scorer is None
        self.scorer: Scorer = task.scorer if scorer is None else task.load_scorer(scorer)
        self.segmenter, self.baseline = load_segmenter(segmenter), baseline
        self._tokenizer = env.get_wrapper_attr("tokenizer")
        self.keeps_return = self._own and baseline == 0  # type: ignore[misc]  # the class tells of the defaults

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """R(j) at the segment ends beside what is there apart from the score, (T,) each."""
        ends = [self._ends(episode) for episode in episodes]  # numbers of tokens, ascending
        first = [0] if self.baseline == "empty" else []
        asked = [
            [*first, *(n for n in e if not (self._own and episode.finished and n == len(episode)))] if e else []
            for e, episode in zip(ends, episodes, strict=True)
        ]
        shown = [i for i, wanted in enumerate(asked) if wanted]
        found = prefix_scores(self.scorer, [episodes[i] for i in shown], [asked[i] for i in shown], tokenizer=self._tokenizer)
        scores = dict(zip(shown, found, strict=True))
        out = []
        for i, (episode, at) in enumerate(zip(episodes, ends, strict=True)):
            rewards = episode.rewards.copy()
            if at:
                values = [*scores.get(i, ()), *([episode.score] if self._own and episode.finished else [])]
                before = values[: len(first)] or [self.baseline]
                if episode.finished:
                    rewards[-1] -= episode.score
                rewards[np.array(at) - 1] += np.diff([*before, *values[len(first) :]])
            out.append(rewards)
        return out

    def _ends(self, episode: Episode) -> list[int]:
        """How many tokens the text has at the end of each segment that is judged."""
        found = [last_token(episode, end) + 1 for _, end in settled(episode, self.segmenter)]
        if episode.finished:
            found = [*found[:-1], len(episode)]
        return sorted(set(found))
