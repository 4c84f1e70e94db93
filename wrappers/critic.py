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
6. the score is not shown to the critic; where it is, as a number from 0 to 10 by a given affine map;
7. `places="random"` is the control that tells where from how much: each text is paid what the critic says, on other tokens. Its
   values i_t are dealt out anew, those of a span together, so that number, lengths and sum of the spans are the critic's.

`credit/intrinsic_to_score` logs Σ |i_t| over |R|, summed over the finished texts: how loud the critic is beside the score.

The return is not kept (the objective changes): report `Episode.score` apart. Credit is hindsight: the critic reads the
text as a whole.
"""

from __future__ import annotations

import math
import re
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
from textenv.task import Critic, Task, check_spans
from textenv.wrappers.draws import generator_of

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
        occurrence: "first": a span is paid where the critic marks it (one that is asked in text: the first place not yet used);
            "all": wherever its text stands, once however often it is listed ("offsets" alone).
        per_span_total: a span shares v among its tokens instead of paying v to each ("offsets" alone).
        threshold: only episodes with score ≤ threshold are shown to the critic (unfinished ones always).
        places: where spans are paid: "critic", or "random": on tokens drawn by `seed` and the text, the control.
        seed: of the random places.
        show_score: (low, high): a critic that is asked in text reads the score of a finished text too, low as 0 and high
            as 10 (RELC's summarization); "released": its rule for ROUGE in percent, min(2R, 10).

    Raises:
        ValueError: a span that does not lie within its text; bad arguments.
        TypeError: a critic that returns no spans.
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
        occurrence: Literal["first", "all"] = "first",
        per_span_total: bool = False,
        threshold: float | None = None,
        show_score: ScoreRange | None = None,
        places: Literal["critic", "random"] = "critic",
        seed: int = 0,
    ) -> None:
        super().__init__(env)
        if match not in ("offsets", "token_string"):
            raise ValueError(f'match must be "offsets" or "token_string", got {match!r}')
        if places not in ("critic", "random") or seed < 0:
            raise ValueError(f'places must be "critic" or "random", and seed not negative, got {places!r}, {seed}')
        if occurrence not in ("first", "all"):
            raise ValueError(f'occurrence must be "first" or "all", got {occurrence!r}')
        if occurrence == "all" and match != "offsets":
            raise ValueError('occurrence="all" needs match="offsets": token strings are matched wherever they stand already')
        if threshold is not None and math.isnan(threshold):
            raise ValueError("threshold must be a score (or None: every text is shown), got nan")
        if per_span_total and match != "offsets":
            raise ValueError('per_span_total=True needs match="offsets": matched token strings belong to no one span')
        task = env.get_wrapper_attr("task")
        defaults = task.reward_defaults
        self.critic: Critic = self._load(task, critic)
        if show_score is not None:
            shows = getattr(self.critic, "showing_score", None)
            if shows is None:
                raise TypeError(f"show_score={show_score}: {self.critic!r} is not asked in text, so it cannot be shown a score")
            self.critic = shows(tuple(show_score) if isinstance(show_score, list) else show_score)  # JSON has lists alone
        self.positive = defaults.positive if positive is None else positive
        self.negative = defaults.negative if negative is None else negative
        self.neutral = defaults.neutral if neutral is None else neutral
        if not np.isfinite([self.positive, self.negative, self.neutral]).all():
            raise ValueError(f"v must be finite, got {self.positive}, {self.negative}, {self.neutral}")
        if self.neutral:
            warnings.warn(f"neutral={self.neutral} pays every unmarked token: the return grows with length", stacklevel=2)
        self.match, self.occurrence, self.per_span_total, self.threshold = match, occurrence, per_span_total, threshold
        self.places, self.seed = places, seed
        self._strip = defaults.strip_tokens
        self._clear()

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """s_t, (T,) each: one critic call for all episodes."""
        shown = [i for i, e in enumerate(episodes) if len(e) and not (self.threshold is not None and e.score > self.threshold)]
        marked: dict[int, Sequence[Span] | None] = {}
        if shown:
            began = time.perf_counter()
            judged = [episodes[i] for i in shown]
            answers = check_spans(self.critic(judged), judged, self.critic)
            self._seconds += time.perf_counter() - began
            self._calls += 1
            marked = dict(zip(shown, answers, strict=True))
            self._skipped += sum(spans is None for spans in answers)
        out = []
        for i, episode in enumerate(episodes):
            spans = marked.get(i)
            intrinsic = None if spans is None else self._intrinsic(episode, spans)
            out.append(episode.rewards if intrinsic is None else episode.rewards + intrinsic)
            if episode.finished:
                self._size += 0.0 if intrinsic is None else float(abs(intrinsic).sum())
                self._score += abs(episode.score)
        return out

    def metrics(self) -> dict[str, float]:
        """Since the last call: `credit/critic_seconds`, `credit/critic_calls`, `credit/spans`, `credit/critic_skipped` (episodes
        without a verdict), `credit/intrinsic_to_score` (0 where every score is 0), and the critic's own."""
        out = {
            "credit/critic_seconds": self._seconds,
            "credit/critic_calls": self._calls,
            "credit/spans": self._spans,
            "credit/critic_skipped": self._skipped,
            "credit/critic_parse_failures": 0,
            "credit/intrinsic_to_score": self._size / self._score if self._score else 0.0,
        }
        self._clear()
        own = getattr(self.critic, "metrics", None)
        return {**out, **(own() if callable(own) else {})}

    def _clear(self) -> None:
        self._seconds, self._spans, self._calls, self._skipped = 0.0, 0, 0, 0
        self._size, self._score = 0.0, 0.0

    def _load(self, task: Task, critic: Critic | str | None) -> Critic:
        return task.load_critic(critic)

    def _intrinsic(self, episode: Episode, spans: Sequence[Span]) -> NDArray[np.float64]:
        """i_t, (T,)."""
        for span in spans:
            if span.end > len(episode.text):
                raise ValueError(f"{span} ends beyond its text of {len(episode.text)} characters: {episode.text[:80]!r}")
        self._spans += len(spans)
        if self.occurrence == "all":
            spans = list({(episode.text[span.start : span.end], span.reward): span for span in spans}.values())
        out = np.zeros(len(episode), np.float64)
        hits = np.zeros((len(spans), len(episode)), bool)
        lists: dict[tuple[bool, float], NDArray[np.bool_]] = {}  # token_string: what a list (good or bad) matches
        for n, span in enumerate(spans):
            hit = hits[n] = self._hit(episode, span)
            good = span.reward > 0
            value = (self.positive if good else self.negative) * abs(span.reward)
            if self.match == "token_string":
                lists[good, value] = lists.get((good, value), np.zeros(len(episode), bool)) | hit
            else:
                out[hit] += value / hit.sum() if self.per_span_total and hit.any() else value
        for (_, value), hit in lists.items():  # once a list, in however many of its spans a token string occurs
            out[hit] += value
        out[~hits.any(0)] += self.neutral
        return out if self.places == "critic" else self._dealt_anew(episode, out, hits)

    def _dealt_anew(self, episode: Episode, values: NDArray[np.float64], hits: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The values (T,) in another order, those of a span in one piece; tokens without characters keep theirs.

        Args:
            hits: (S, T), which span marks which token. Spans that overlap are cut where one of them begins or ends.
        """
        written = np.flatnonzero(episode.offsets[:, 0] < episode.offsets[:, 1])
        if not len(written):
            return values
        marked = hits[:, written]
        begins = (marked[:, 1:] != marked[:, :-1]).any(0) | ~marked[:, 1:].any(0)
        pieces = np.split(values[written], np.flatnonzero(begins) + 1)
        out = values.copy()
        out[written] = np.concatenate([pieces[i] for i in generator_of(self.seed, episode).permutation(len(pieces))])
        return out

    def _hit(self, episode: Episode, span: Span) -> NDArray[np.bool_]:
        marked = episode.text[span.start : span.end]
        if self.match == "offsets" and self.occurrence == "first":
            return overlap(episode.offsets, span.start, span.end)
        if self.match == "offsets":
            places = [found.start() for found in re.finditer(f"(?={re.escape(marked)})", episode.text)]
            hit: NDArray[np.bool_] = np.any([overlap(episode.offsets, at, at + len(marked)) for at in places], axis=0)
            return hit
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
