"""RELC: a critic marks good and bad spans, whose tokens get a constant reward beside the score.

Paper: Cao et al. 2024, *Enhancing Reinforcement Learning with Dense Rewards from Language Model Critic* (arXiv
2401.07382). With R the extrinsic score and i_t the intrinsic reward of token t (released code, no α₁, α₂):

    s_t = i_t + 1[t = T] R        i_t = v⁺ (positive span), v⁻ (negative span), v⁰ (neither)

Departures from the released code:

1. spans are placed by character offsets; the code compares token strings (`match="token_string"` does that: every
   token whose string is part of any marked span's text is paid, wherever it stands);
2. a critic's `Span.reward` scales the constant: ±1 gives the paper's v⁺ and v⁻;
3. unmarked tokens get 0; a v⁰ that is not 0 makes the return grow with the length, and is warned of;
4. nothing is normalised, and the score is never changed: it stays on the last token, and in `Episode.score`;
5. an episode without a verdict (a critic that failed and was to go on) keeps its plain credit, v⁰ included, and is
   counted: that is not a text without spans;
6. the score is not shown to the critic; where it is, as a number from 0 to 10 by a given affine map.

The return is not kept (the objective changes): report `Episode.score` apart. Credit is hindsight: the critic reads the
text as a whole.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.alignment import overlap
from textenv.critics import AskedCritic, CritiqueFormat, WordScores, WordsFromSpans
from textenv.critics.forms import ScoreRange
from textenv.critics.loading import embedded_name
from textenv.episode import Episode, Span
from textenv.reward import RewardWrapper
from textenv.task import Critic, Task

__all__ = ["CriticReward", "CriticTokenReward"]


class CriticReward(RewardWrapper):
    """Pays the tokens of the spans that a critic marks, beside the credit that is there.

    Keeps the return: no. Causal: no (hindsight). Takes the score: no.

    Example, one bad word, v⁻ = −0.5, score 1 on the last token:

        >>> import gymnasium as gym, textenv
        >>> from textenv.wrappers import CriticReward, LexiconCritic
        >>> env = gym.make("textenv/CountLetter-v0", max_new_tokens=8, scorer=lambda episodes: [1.0] * len(episodes),
        ...                payment="end", reward=lambda env: CriticReward(env, LexiconCritic(["bad"]), negative=-0.5))
        >>> _ = env.reset(seed=0)
        >>> for character in "a bad aa":
        ...     _, reward, terminated, _, info = env.step(ord(character))
        >>> info["text_episode"].rewards.tolist(), reward
        ([0.0, 0.0, -0.5, -0.5, -0.5, 0.0, 0.0, 1.0], -0.5)

    Args:
        env: a text environment.
        critic: episodes → spans: a callable, "lexicon:FILE", the URL of a server ("http://127.0.0.1:8000/v1"), a model
            directory or name; None: the task's embedded one.
        positive, negative, neutral: v⁺, v⁻, v⁰; default: the task's (RELC's README).
        match: "offsets", or "token_string" as released.
        per_span_total: a span shares v among its tokens instead of paying v to each ("offsets" alone).
        threshold: only episodes with score ≤ threshold are shown to the critic (unfinished ones always).
        show_score: (low, high): a critic that is asked in text reads the score of a finished text too, low as 0 and high
            as 10 (RELC's summarization); "released": its rule for ROUGE in percent, min(2R, 10).

    Raises:
        ValueError: a span that does not lie within its text; bad arguments.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False

    def __init__(
        self,
        env: gym.Env[Any, Any],
        critic: Critic | str | None = None,
        *,
        positive: float | None = None,
        negative: float | None = None,
        neutral: float | None = None,
        match: Literal["offsets", "token_string"] = "offsets",
        per_span_total: bool = False,
        threshold: float | None = None,
        show_score: ScoreRange | None = None,
    ) -> None:
        super().__init__(env)
        if match not in ("offsets", "token_string"):
            raise ValueError(f'match must be "offsets" or "token_string", got {match!r}')
        if per_span_total and match != "offsets":
            raise ValueError('per_span_total=True needs match="offsets": matched token strings belong to no one span')
        task = env.get_wrapper_attr("task")
        defaults = task.reward_defaults
        self.critic: Critic = self._load(task, critic)
        if show_score is not None:
            shows = getattr(self.critic, "showing_score", None)
            if shows is None:
                raise TypeError(f"show_score={show_score}: {self.critic!r} is not asked in text, so it cannot be shown a score")
            self.critic = shows(show_score)
        self.positive = defaults.positive if positive is None else positive
        self.negative = defaults.negative if negative is None else negative
        self.neutral = defaults.neutral if neutral is None else neutral
        if not np.isfinite([self.positive, self.negative, self.neutral]).all():
            raise ValueError(f"v must be finite, got {self.positive}, {self.negative}, {self.neutral}")
        if self.neutral:
            warnings.warn(f"neutral={self.neutral} pays every unmarked token: the return grows with length", stacklevel=2)
        self.match, self.per_span_total, self.threshold = match, per_span_total, threshold
        self._strip = defaults.strip_tokens
        self._seconds, self._spans, self._calls, self._skipped = 0.0, 0, 0, 0

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """s_t, (T,) each: one critic call for all episodes."""
        shown = [i for i, e in enumerate(episodes) if len(e) and not (self.threshold is not None and e.score > self.threshold)]
        marked: dict[int, Sequence[Span] | None] = {}
        if shown:
            began = time.perf_counter()
            answers = self.critic([episodes[i] for i in shown])
            self._seconds += time.perf_counter() - began
            self._calls += 1
            if len(answers) != len(shown):
                raise ValueError(f"the critic returned {len(answers)} lists of spans for {len(shown)} episodes")
            marked = dict(zip(shown, answers, strict=True))
            self._skipped += sum(spans is None for spans in answers)
        out = []
        for i, episode in enumerate(episodes):
            spans = marked.get(i)
            out.append(episode.rewards if spans is None else episode.rewards + self._intrinsic(episode, spans))
        return out

    def metrics(self) -> dict[str, float]:
        """Since the last call: `credit/critic_seconds`, `credit/critic_calls`, `credit/spans`, `credit/critic_skipped` (episodes
        without a verdict), and the critic's own."""
        out = {
            "credit/critic_seconds": self._seconds,
            "credit/critic_calls": float(self._calls),
            "credit/spans": float(self._spans),
            "credit/critic_skipped": float(self._skipped),
            "credit/critic_parse_failures": 0.0,
        }
        self._seconds, self._spans, self._calls, self._skipped = 0.0, 0, 0, 0
        own = getattr(self.critic, "metrics", None)
        return {**out, **(own() if callable(own) else {})}

    def _load(self, task: Task, critic: Critic | str | None) -> Critic:
        return task.load_critic(critic)

    def _intrinsic(self, episode: Episode, spans: Sequence[Span]) -> NDArray[np.float64]:
        """i_t, (T,)."""
        for span in spans:
            if span.end > len(episode.text):
                raise ValueError(f"{span} ends beyond its text of {len(episode.text)} characters: {episode.text[:80]!r}")
        self._spans += len(spans)
        out = np.zeros(len(episode), np.float64)
        touched = np.zeros(len(episode), bool)
        lists: dict[tuple[bool, float], NDArray[np.bool_]] = {}  # token_string: what a list (good or bad) matches
        for span in spans:
            hit = self._hit(episode, span)
            touched |= hit
            good = span.reward > 0
            value = (self.positive if good else self.negative) * abs(span.reward)
            if self.match == "token_string":
                lists[good, value] = lists.get((good, value), np.zeros(len(episode), bool)) | hit
            else:
                out[hit] += value / hit.sum() if self.per_span_total and hit.any() else value
        for (_, value), hit in lists.items():  # once a list, in however many of its spans a token string occurs
            out[hit] += value
        out[~touched] += self.neutral
        return out

    def _hit(self, episode: Episode, span: Span) -> NDArray[np.bool_]:
        if self.match == "offsets":
            return overlap(episode.offsets, span.start, span.end)
        marked = episode.text[span.start : span.end]
        strings = [episode.text[begin:end] for begin, end in episode.offsets]
        if self._strip:
            strings = [string.strip() for string in strings]
        return np.array([bool(string) and string in marked for string in strings])


class CriticTokenReward(CriticReward):
    """Pays every word what a critic says it is worth, beside the credit that is there.

    Keeps the return: no. Causal: no (hindsight). Takes the score: no.

    The critic reads the words of a text as a numbered list and answers with a number from −1 to 1 for each; a word's
    number scales v⁺ or v⁻ on its tokens. A model or server by name is asked so (`WordScores`, made of the task's own
    form). The embedded critics cannot count: their spans, like those of word lists and callables, are turned into numbers
    for the words they overlap (`WordsFromSpans`); there the difference to `critic_span` is whole words alone.

    Args:
        env, critic and all others: as in `CriticReward`.
    """

    def _load(self, task: Task, critic: Critic | str | None) -> Critic:
        loaded = super()._load(task, critic)
        if isinstance(loaded, AskedCritic):
            if isinstance(loaded.form, WordScores):
                return loaded
            by_name = loaded is not critic and embedded_name(loaded.name) is None
            if by_name and isinstance(loaded.form, CritiqueFormat):
                return loaded.with_form(loaded.form.by_word())
        return WordsFromSpans(loaded)
