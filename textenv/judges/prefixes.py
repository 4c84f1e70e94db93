"""What a scorer says of a text while it is being written: the score after every token.

RED (R3HF, arXiv 2411.08302), the delta form of fine-grained rewards and reward-guided decoding all rest on it. A scorer that
can read all prefixes at once has a method `prefix_scores` (`SequenceClassifierScorer`); any other callable is asked about
`Episode.prefix(t)`, all prefixes of all episodes in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.episode import Episode
from textenv.judges.retokenized import complete_ends
from textenv.task import Scorer, check_scores

__all__ = ["is_causal", "prefix_scores"]


def prefix_scores(
    scorer: Scorer, episodes: Sequence[Episode], ends: Sequence[ArrayLike] | None = None, *, tokenizer: Any = None
) -> list[NDArray[np.float64]]:
    """The score of each episode after 0, 1, ..., T tokens.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", max_new_tokens=4)
    >>> episode = env.unwrapped.episode(textenv.Prompt("Say a: "), list(b"aaba"))
    >>> prefix_scores(env.unwrapped.task.scorer, [episode])[0].tolist()
    [0.0, 0.25, 0.5, 0.5, 0.75]

    A prefix that ends inside a character has the score of the text before that character.

    Args:
        scorer: episodes → scores, with or without a `prefix_scores` of its own.
        episodes: finished or not. The score after all T tokens of a finished one is its score.
        ends: per episode, how many tokens each prefix that is wanted holds (0..T); None: all T + 1.
        tokenizer: the policy's, for a scorer that reads the sampled tokens themselves where it has the same.

    Returns:
        Per episode (T + 1,) float64, or as many as were asked for.

    Raises:
        ValueError: a number of tokens that the episode does not have; a score that is not finite.
    """
    wanted = [np.arange(len(e) + 1) for e in episodes] if ends is None else [np.asarray(n, np.int64).reshape(-1) for n in ends]
    if len(wanted) != len(episodes):
        raise ValueError(f"ends for {len(wanted)} episodes, but there are {len(episodes)}")
    for episode, n in zip(episodes, wanted, strict=True):
        if len(n) and not (0 <= n.min() and n.max() <= len(episode)):
            raise ValueError(f"ends {n.tolist()} of an episode of {len(episode)} tokens")
    method = getattr(scorer, "prefix_scores", None)
    if callable(method):
        found = method(episodes, tokenizer=tokenizer)
        return [np.asarray(values, np.float64)[n] for values, n in zip(found, wanted, strict=True)]
    return _one_by_one(scorer, episodes, wanted)


def is_causal(scorer: Scorer, tokenizer: Any) -> bool:
    """Whether `prefix_scores` of a longer text begins with that of a shorter one, exactly.

    So it is for a callable, which is shown the text so far. A scorer that reads all prefixes at once tells by its method
    `causal_for(tokenizer)`; one without is taken to look ahead.
    """
    if not callable(getattr(scorer, "prefix_scores", None)):
        return True
    tells = getattr(scorer, "causal_for", None)
    return bool(tells(tokenizer)) if callable(tells) else False


def _one_by_one(scorer: Scorer, episodes: Sequence[Episode], wanted: list[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
    asked: list[Episode] = []
    places: list[NDArray[np.int64]] = []  # of each wanted prefix among those asked about
    for episode, ends in zip(episodes, wanted, strict=True):
        whole, index = _whole(episode), dict[int, int]()
        at = np.zeros(len(ends), np.int64)
        for i, n in enumerate(ends):
            n = len(episode) if n == len(episode) and episode.finished else whole[n]
            if n not in index:
                index[n] = len(asked)
                asked.append(episode if n == len(episode) else episode.prefix(int(n)))
            at[i] = index[n]
        places.append(at)
    scores = np.array(check_scores(scorer(asked), asked, scorer) if asked else [], np.float64)
    return [scores[at] for at in places]


def _whole(episode: Episode) -> NDArray[np.int64]:
    """(T + 1,) int64: the longest prefix, of at most so many tokens, that does not end inside a character."""
    out = np.zeros(len(episode) + 1, np.int64)
    complete = complete_ends(episode) == episode.offsets[:, 1]
    for t in range(len(episode)):
        out[t + 1] = t + 1 if complete[t] else out[t]
    return out
