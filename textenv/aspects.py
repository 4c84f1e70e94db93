"""An aspect of quality, judged piece by piece: is this sentence supported, is this clause relevant, is this word right?

What an aspect says of a text has the shape of what a critic says of it, spans with a number; wrappers decide what a token
gets for it (fine-grained rewards, ALaRM's hierarchy, scalarizations, process rewards).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from textenv.alignment import overlap
from textenv.episode import Episode, Span
from textenv.segments import Segmenter, ended, last_token, sentences, sub_sentences, whole
from textenv.waits import waits

__all__ = ["GENERIC", "Aspect", "Granularity", "Placed", "own_aspects", "pick_aspects", "pick_weights"]

Granularity = Literal["text", "sentence", "sub_sentence", "token"]
Placed = tuple[NDArray[np.bool_], NDArray[np.float64]]
"""Which tokens have a value, (T,) bool, and the values, (T,) float64, 0 elsewhere."""

GENERIC = ("sentence_score", "fluency", "length")
"""The aspects that every task has (`textenv.judges.generic_aspects`)."""

_SEGMENTERS: dict[str, Segmenter] = {"text": whole, "sentence": sentences, "sub_sentence": sub_sentences}


@dataclass(frozen=True)
class Aspect:
    """One aspect.

    Attributes:
        name: as it is logged ("factuality").
        judge: episodes → for each the judged pieces of `Episode.text`; `Span.reward` is the raw value of the piece.
        granularity: of what a piece is: a "sentence" or "sub_sentence" (each pays on the last token that holds a visible
            character of it), the whole "text" (on the last token of all, EOS included, as the score is), or a "token": then
            every token has a value, 0 where no piece was named.
        lower_is_better: an error rate, say: whoever compares two texts by this aspect, or pays for it, turns it around.
        squash: whether ALaRM's rewards squash it by a sigmoid, as they do with small numbers around 0; a count would be 1.
        scale: what ALaRM's rewards divide it by (other rewards have weights alone): a number, or "mean": the mean over texts of
            the initial policy, where their `statistics` are a file of `textenv calibrate`; elsewhere the budget of new tokens.

    >>> import gymnasium as gym, textenv
    >>> from textenv import Prompt, Span
    >>> env = gym.make("textenv/CountLetter-v0")
    >>> episode = env.unwrapped.episode(Prompt("p"), list(b"ab. cd.") + [258])
    >>> order = Aspect("order", lambda episodes: [[Span(0, 3, 1.0), Span(4, 7, -1.0)] for _ in episodes], "sentence")
    >>> [(where, values)] = order.placed([episode])
    >>> values.tolist(), order.per_text([episode])
    ([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0], [0.0])
    """

    name: str
    judge: Callable[[Sequence[Episode]], Sequence[Sequence[Span]]]
    granularity: Granularity = "text"
    lower_is_better: bool = False
    squash: bool = True
    scale: float | Literal["mean"] = 1.0

    def __post_init__(self) -> None:
        if self.scale != "mean" and not _positive(self.scale):
            raise ValueError(f'aspect {self.name!r}: scale is a positive number or "mean", got {self.scale!r}')
        if self.granularity not in get_args(Granularity):
            raise ValueError(f"aspect {self.name!r}: granularity is one of {get_args(Granularity)}, got {self.granularity!r}")

    @property
    def sign(self) -> float:
        """+1, or −1 where lower is better: sign · raw value is better when it is higher."""
        return -1.0 if self.lower_is_better else 1.0

    @property
    def waits(self) -> bool:
        """Whether the judge waits for somebody else, as its own `waits` says."""
        return waits(self.judge)

    def placed(self, episodes: Sequence[Episode], *, settled: bool = False) -> list[Placed]:
        """For each episode which tokens have a value (T,) bool, and the raw values (T,) float64, 0 elsewhere.

        Two pieces that end on one token add up.

        Args:
            episodes: B texts, finished or not; one call of the judge for all of them.
            settled: of an unfinished text, leave out the piece that may still grow (a sentence without its end; the text).

        Raises:
            ValueError: the judge returned another number of lists, or a piece beyond its text.
        """
        if not episodes:
            return []
        judged = self.judge(episodes)
        if len(judged) != len(episodes):
            raise ValueError(f"aspect {self.name!r} judged {len(judged)} texts of {len(episodes)}")
        return [self._place(episode, spans, settled) for episode, spans in zip(episodes, judged, strict=True)]

    def per_text(
        self, episodes: Sequence[Episode], reduce: Literal["mean", "sum"] = "mean", *, empty: float = 0.0
    ) -> list[float]:
        """One raw number a text: the mean over its judged pieces (an error rate, the share of supported sentences), or the sum.

        Args:
            episodes: B texts.
            reduce: "mean", or "sum", which grows with the number of pieces.
            empty: of a text in which nothing is judged.
        """
        if reduce not in ("mean", "sum"):
            raise ValueError(f'reduce must be "mean" or "sum", got {reduce!r}')
        return [
            empty if not where.any() else float(values.sum() / (where.sum() if reduce == "mean" else 1))
            for where, values in self.placed(episodes)
        ]

    def _place(self, episode: Episode, spans: Sequence[Span], settled: bool) -> Placed:
        where, values = np.full(len(episode), self.granularity == "token"), np.zeros(len(episode), np.float64)
        growing = settled and not episode.finished and self._grows(episode)
        for span in spans:
            if span.end > len(episode.text):
                raise ValueError(f"aspect {self.name!r}: {span} ends beyond its text {episode.text[:80]!r}")
            if growing and (self.granularity == "text" or not episode.text[span.end :].strip()):
                continue
            if self.granularity == "token":
                hit = overlap(episode.offsets, span.start, span.end)
            else:
                last = len(episode) - 1 if self.granularity == "text" else last_token(episode, span.end)
                hit = np.arange(len(episode)) == last
            where |= hit
            values[hit] += span.reward
        return where, values

    def _grows(self, episode: Episode) -> bool:
        return self.granularity != "token" and not ended(episode.text, _SEGMENTERS[self.granularity])


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and 0.0 < value < math.inf


def own_aspects(aspects: Mapping[str, Aspect]) -> list[Aspect]:
    """The task's own among its aspects; where it has none, the verdict on each sentence.

    Raises:
        ValueError: there is no aspect.
    """
    own = [aspect for name, aspect in aspects.items() if name not in GENERIC]
    if not own and not aspects:
        raise ValueError("the task has no aspects; pass aspects=[Aspect(...)]")
    return own or [next(iter(aspects.values()))]


def pick_aspects(aspects: Mapping[str, Aspect], wanted: str | Aspect | Sequence[str | Aspect] | None) -> list[Aspect]:
    """Aspects by name, or as they are; None: the task's own.

    Raises:
        ValueError: no such aspect (the message lists them), none at all, or one twice.
    """
    if wanted is None:
        return own_aspects(aspects)
    chosen = []
    for item in [wanted] if isinstance(wanted, (str, Aspect)) else wanted:
        if not isinstance(item, Aspect) and item not in aspects:
            raise ValueError(f"no aspect {item!r}; the task's are {', '.join(aspects) or 'none'}; or pass an Aspect")
        chosen.append(item if isinstance(item, Aspect) else aspects[item])
    names = [aspect.name for aspect in chosen]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"aspects={names}: name at least one, and each once")
    return chosen


def pick_weights(aspects: Sequence[Aspect], weights: float | Sequence[float] | Mapping[str, float] | None) -> list[float]:
    """The weight of each aspect: one for all, in order, or by name (1 where none is given).

    Raises:
        ValueError: another number of weights, a name of no aspect here, a weight that is not finite.
    """
    names = [aspect.name for aspect in aspects]
    if isinstance(weights, Mapping):
        if set(weights) - set(names):
            raise ValueError(f"weights for {sorted(set(weights) - set(names))}, but the aspects are {names}")
        weights = [weights.get(name, 1.0) for name in names]
    elif weights is None or isinstance(weights, (int, float)):
        weights = [1.0 if weights is None else weights] * len(names)
    found = [float(weight) for weight in weights]
    if len(found) != len(names) or not np.isfinite(found).all():
        raise ValueError(f"weights={found} for the aspects {names}: a finite number for each")
    return found
