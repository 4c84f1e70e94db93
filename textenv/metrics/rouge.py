"""ROUGE against references, by the `rouge-score` package: as a score, and as what is reported of texts.

Lin (2004). Conventions, where papers differ:

1. F1 with Porter stemming, of a text against the reference that it resembles most, as for SciTLDR and TL;DR.
2. ROUGE-Lsum compares sentences; `rouge-score` splits at line ends alone, so every sentence is put on a line first
   (`textenv.segments.sentences`). The other kinds do not see the difference.
3. Values are shares, 0 to 1; papers print them times 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from textenv.episode import Episode
from textenv.metrics import Estimate, values_by_prompt
from textenv.segments import sentences

__all__ = ["ROUGE", "Rouge", "mean_by_prompt", "rouge", "rouge_metrics"]

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@cache
def _scorer(kinds: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # half a second, for the tasks that use it

    return RougeScorer(list(kinds), use_stemmer=True)


def rouge(text: str, references: Sequence[str], kinds: Sequence[str] = ROUGE) -> dict[str, float]:
    """ROUGE of a text: kind → the best F1 over the references, in [0, 1].

    >>> {kind: round(value, 3) for kind, value in rouge("The hotel moves.", ["The hotel moved to Rome."]).items()}
    {'rouge1': 0.75, 'rouge2': 0.667, 'rougeL': 0.75, 'rougeLsum': 0.75}

    Raises:
        ValueError: no reference, or an unknown kind.
    """
    if not references:
        raise ValueError(f"ROUGE compares a text with references, and {text[:60]!r} has none")
    unknown = set(kinds) - set(ROUGE)
    if unknown:
        raise ValueError(f"unknown kind of ROUGE {sorted(unknown)}; one of {', '.join(ROUGE)}")
    found = _scorer(tuple(kinds)).score_multi([_by_lines(reference) for reference in references], _by_lines(text))
    return {kind: float(found[kind].fmeasure) for kind in kinds}


def _by_lines(text: str) -> str:
    return "\n".join(text[start:end].strip() for start, end in sentences(text))


class Rouge:
    """A scorer: ROUGE F1 of each text against the references of its prompt.

    Args:
        kind: "rouge1", "rouge2", "rougeL" or "rougeLsum".

    Raises:
        ValueError: an unknown kind; when called, a prompt without references.

    Example: "The hotel moves." for a prompt with the reference "The hotel moved to Rome." scores 0.75 by `Rouge("rouge1")`.
    """

    def __init__(self, kind: str = "rouge1") -> None:
        if kind not in ROUGE:
            raise ValueError(f"unknown kind of ROUGE {kind!r}; one of {', '.join(ROUGE)}")
        self.kind = kind

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        return [rouge(e.text, e.prompt.references, (self.kind,))[self.kind] for e in episodes]


def rouge_metrics(episodes: Sequence[Episode], kinds: Sequence[str] = ROUGE) -> dict[str, Estimate]:
    """Mean ROUGE of the texts whose prompts have references, kind → estimate; nothing where none has."""
    judged = [episode for episode in episodes if episode.prompt.references]
    if not judged:
        return {}
    values = [rouge(episode.text, episode.prompt.references, kinds) for episode in judged]
    return {kind: mean_by_prompt(judged, [value[kind] for value in values]) for kind in kinds}


def mean_by_prompt(episodes: Sequence[Episode], values: Sequence[float]) -> Estimate:
    """The mean of a value a text, with its interval by prompt; texts whose value is NaN are left out."""
    groups = [[v for v in group if not np.isnan(v)] for group in values_by_prompt(episodes, values)]
    groups = [group for group in groups if group]
    return Estimate([np.mean(group) for group in groups], [len(group) for group in groups])
