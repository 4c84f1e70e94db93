"""How translations are judged: BLEU and chrF against references, by sacrebleu; a token classifier without any.

Papineni et al. 2002 (BLEU), Popović 2015 (chrF), Post 2018 (sacrebleu, whose tokenization and defaults are kept: chrF2 with
6-grams of characters, BLEU-4 with exponential smoothing). Conventions:

1. a score is a share, 0 to 1; the corpus metrics run from 0 to 100, as sacrebleu prints them;
2. BLEU of one sentence has "effective order": n-grams longer than the text are left out;
3. a corpus metric is no mean of sentences: its interval resamples the prompts' n-gram counts and computes the metric anew;
4. the length ratio is sacrebleu's: words of the texts over words of the references nearest in length;
5. quality estimation is the mean over the characters of all words of P(their token is right), as the shared tasks of WMT estimate
   it from word tags (Specia et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode, Span
from textenv.judges.aspect_models import TokenClassifierJudge
from textenv.metrics import Estimate, values_by_prompt

__all__ = ["CorpusEstimate", "Kind", "QualityEstimation", "ReferenceScorer", "corpus_metrics", "sentence_score"]

Kind = Literal["chrf", "bleu"]


@cache
def _metric(kind: Kind, sentence: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return CHRF() if kind == "chrf" else BLEU(effective_order=sentence)


def sentence_score(kind: Kind, text: str, references: Sequence[str]) -> float:
    """BLEU or chrF of one text against one or several references, in [0, 1].

    >>> round(sentence_score("chrf", " Der Hund schläft.", ["Der Hund schläft heute.", "Heute schläft der Hund."]), 3)
    0.703

    Raises:
        ValueError: no reference, or another metric.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    if not references:
        raise ValueError(f"{kind} compares a text with references, and {text[:60]!r} has none")
    return float(_metric(kind, True).sentence_score(text.strip(), list(references)).score) / 100.0


class ReferenceScorer:
    """A scorer: BLEU or chrF of each text against the references of its prompt, in [0, 1].

    Args:
        kind: "chrf" or "bleu".

    Raises:
        ValueError: another kind; when called, a prompt without references.

    Example: " Der Hund schläft." for a prompt with the references "Der Hund schläft heute." and "Heute schläft der Hund." scores
    0.703 by `ReferenceScorer("chrf")`.
    """

    def __init__(self, kind: Kind = "chrf") -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        self.kind: Kind = kind

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        return [sentence_score(self.kind, episode.text, episode.prompt.references) for episode in episodes]


class QualityEstimation:
    """A scorer that needs no reference: the mean probability that a token is right, over the characters of all words.

    Args:
        source: "textenv/tiny-aspects", a directory, a hub name, or a transformers token classifier (then `tokenizer=` too).
        label: the label that means right ("grammatical"; "OK" in WMT's word tags).
        template: what the model reads; fields {prompt}, {context}, {text}.
        options: further arguments of `TokenClassifierJudge`.

    Raises:
        ValueError: no such label.

    Example: " Die Hund schläft." where the model finds P = 0.2 for "Die" and 1 for the rest scores (3 · 0.2 + 12) / 15 = 0.84; an
    empty text scores 0.
    """

    def __init__(
        self, source: Any = "textenv/tiny-aspects", *, label: str | int = "grammatical", template: str = "{text}", **options: Any
    ) -> None:
        self.judge = TokenClassifierJudge(source, label, "token", template, (0.0, 1.0), output="probability", **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> QualityEstimation:
        return self

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        return [_mean(episode.text, spans) for episode, spans in zip(episodes, self.judge(episodes), strict=True)]


def _mean(text: str, spans: Sequence[Span]) -> float:
    value = np.zeros(len(text))
    for span in spans:
        value[span.start : span.end] = span.reward
    read = np.array([not character.isspace() for character in text], dtype=bool)
    return float(value[read].mean()) if read.any() else 0.0


class CorpusEstimate(Estimate):
    """BLEU or chrF of a corpus, with what its interval needs: the n-gram counts of every prompt's texts. Otherwise a float.

    Args:
        counts: (n, S) sacrebleu's statistics, summed over each prompt's texts.
        kind: "chrf" or "bleu".

    >>> counts = [[4, 4, 4, 3, 2, 1, 4, 3, 2, 1], [4, 4, 2, 1, 0, 0, 4, 3, 2, 1]]  # lengths, n-grams that match, n-grams in all
    >>> round(CorpusEstimate(counts, "bleu"), 1)
    59.5
    """

    counts: NDArray[np.float64]
    kind: Kind

    def __new__(cls, counts: Any, kind: Kind) -> CorpusEstimate:
        of_prompt = np.asarray(counts, dtype=np.float64)
        if of_prompt.ndim != 2:
            raise ValueError(f"counts should be (prompts, statistics), got {of_prompt.shape}")
        estimate = float.__new__(cls, _from_counts(of_prompt.sum(0), kind) if len(of_prompt) else float("nan"))
        estimate.counts, estimate.kind, estimate.transform = of_prompt, kind, float
        estimate.values = np.array([_from_counts(row, kind) for row in of_prompt])
        estimate.weights = np.ones(len(of_prompt))
        return estimate

    def interval(self, level: float = 0.95, n: int = 1000, rng: np.random.Generator | None = None) -> tuple[float, float]:
        """Percentile bootstrap interval over prompts; (nan, nan) without any."""
        if not 0 < level < 1 or n < 1:
            raise ValueError(f"an interval needs 0 < level < 1 and n >= 1, got level={level}, n={n}")
        if not len(self.counts):
            return float("nan"), float("nan")
        rng = rng if rng is not None else np.random.default_rng(0)
        size = len(self.counts)
        drawn = [_from_counts(self.counts[rng.integers(size, size=size)].sum(0), self.kind) for _ in range(n)]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def __reduce__(self) -> tuple[Any, ...]:
        return CorpusEstimate, (self.counts, self.kind)


def _from_counts(counts: NDArray[np.float64], kind: Kind) -> float:
    # The two hooks that every metric of sacrebleu implements for its own resampling; a test compares with corpus_score.
    return float(_metric(kind, False)._compute_score_from_stats([int(count) for count in counts]).score)


def corpus_metrics(episodes: Sequence[Episode]) -> dict[str, Estimate]:
    """ "bleu", "chrf" (0 to 100) and "length_ratio" of the texts whose prompts have references; nothing where none has."""
    judged = [episode for episode in episodes if episode.prompt.references]
    if not judged:
        return {}
    texts = [episode.text.strip() for episode in judged]
    most = max(len(episode.prompt.references) for episode in judged)
    references = [  # one list a reference; sacrebleu skips None
        [e.prompt.references[k] if k < len(e.prompt.references) else None for e in judged] for k in range(most)
    ]
    estimates: dict[Kind, CorpusEstimate] = {}
    for kind in get_args(Kind):
        counts = _metric(kind, False)._extract_corpus_statistics(texts, references)
        estimates[kind] = CorpusEstimate([np.sum(group, 0) for group in values_by_prompt(judged, counts)], kind)
    of_texts, of_references = estimates["bleu"].counts[:, 0], estimates["bleu"].counts[:, 1]
    return {
        "bleu": estimates["bleu"],
        "chrf": estimates["chrf"],
        "length_ratio": Estimate(of_texts / np.maximum(of_references, 1), of_references),
    }
