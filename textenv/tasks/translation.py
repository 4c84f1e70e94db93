"""Translation, English to German: say in German what the source says.

Score: sentence chrF (or BLEU) against the references; or a reward model on source and translation (its logit); or quality
estimation, which needs no reference: the mean probability that a token is right. Metrics: corpus BLEU and chrF (0 to 100), the
length ratio, the mean score; on the embedded sentences also grammar errors a word, by their grammar.

Aspects as ALaRM has them for translation (Lai et al. 2024; `alarm` §2.1): grammar by token (−1 on a token in error, else 0),
language confidence and readability of the whole text. Departures:

1. theirs goes from Spanish to English; LanguageTool, lingua and the Flesch–Kincaid grade judge the English there. Here a token
   classifier judges the grammar, a trigram model the language, and Amstad's formula the reading ease, normalised as they do: by
   (ease − 82) / 17, the mean and deviation of short German sentences (embedded references: 82, 15; Tatoeba: 82, 19);
2. grammar is judged of the text that stands, with its source beside it.

w_H = 3 and τ = 0.5 are theirs. RELC (Cao et al. 2024) has no translation task: v± = ±0.5 as on its others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from textenv import embedded
from textenv.aspects import Aspect
from textenv.critics import load_critic
from textenv.critics.forms import CritiqueFormat
from textenv.critics.parsing import Section
from textenv.embedded import translation as world
from textenv.episode import Episode, Prompt, Span
from textenv.judges.german_text import german_probability, reading_ease
from textenv.metrics import Estimate, values_by_prompt
from textenv.metrics.rouge import mean_by_prompt
from textenv.metrics.translation import QualityEstimation, ReferenceScorer, corpus_metrics
from textenv.task import Critic, RewardDefaults, Scorer
from textenv.tasks.conditional import ConditionalTask

__all__ = ["Translation"]

Score = Literal["chrf", "bleu", "reward", "quality_estimation"]

CRITIQUE = CritiqueFormat(
    sections=(Section("Errors", -1.0),),
    instruction=(
        "You are an annotator of translations from English into German. Read the source, then its translation. List every wrong "
        "span of the translation, word for word as it stands there and as short as possible, separated by semicolons: wrong words, "
        "wrong articles, endings or verb forms, words in the wrong place, words left in English, words that say what the source "
        'does not. Write "none" if there is no such span.'
    ),
    examples=(
        (
            {
                "prompt": "The committee met yesterday because the old bridge is unsafe.",
                "text": "Der Ausschuss hat gestern getagt, weil die alter Brücke ist unsicher.",
            },
            " alter; ist",
        ),
        ({"prompt": "She gave her brother a watch.", "text": "Sie schenkte ihrem Bruder eine Uhr."}, " none"),
        (
            {"prompt": "We do not need any more chairs.", "text": "Wir brauchen keine weitere chairs mehr, bitte."},
            " weitere; chairs; bitte",
        ),
    ),
    template="{prompt}\nGerman: {text}",
)


class Translation(ConditionalTask):
    """Translate the sentence into German.

    Args:
        prompts: sources (`Prompt.text`) with one or several `references`; default: the embedded ones.
        scorer: callable (episodes → scores), a model by directory or hub name, or None.
        score: "chrf" (default), "bleu": against the references, in [0, 1]; "reward": the logit of a reward model (`scorer`, or the
            embedded one); "quality_estimation": by a token classifier (`scorer`, or the embedded one; for another label than
            "grammatical": `scorer=QualityEstimation(name, label=...)`). A scorer without a score is a callable or a reward model.
        template: what the policy reads of a source; {text}.
        language: text → P(German), for the aspect "language_confidence"; default: a small trigram model. With lingua:
            `lambda text: detector.compute_language_confidence(text, Language.GERMAN)`.

    Raises:
        ValueError: an unknown score; a score that needs no scorer with one; "chrf" or "bleu" for prompts without references.

    Example: for "The dog is sleeping in the kitchen." with the reference "Der Hund schläft in der Küche." the translation
    " Der Hund schläft in das Küche." scores 0.793, has the truth [Span("das", −1, "article")] and one grammar error in 6 words.
    """

    judged = "{prompt}\nGerman:{text}"
    critique = CRITIQUE
    world = world
    fluency_model = None  # the embedded language model writes English
    reward_model = "textenv/tiny-reward"

    def __init__(
        self,
        *,
        prompts: Sequence[Prompt] | None = None,
        scorer: Any = None,
        split: str = "train",
        score: Score | None = None,
        template: str = "{text}\nGerman:",
        language: Callable[[str], float] = german_probability,
    ) -> None:
        if score is not None and score not in get_args(Score):
            raise ValueError(f"score must be one of {', '.join(get_args(Score))}, got {score!r}; a model is given as scorer=")
        if score in ("chrf", "bleu") and scorer is not None:
            raise ValueError(f"score={score!r} is the scorer; leave scorer={scorer!r} out, or score out")
        if not callable(language):
            raise TypeError(f"language must be callable (text → P(German)), got {language!r}")
        asked = embedded.prompts("translation", split) if prompts is None else prompts
        self.language = language
        super().__init__(
            prompts=asked,
            scorer=self._scorer(score, scorer),
            template=template,
            reward_defaults=RewardDefaults(strip_tokens=False, holistic_weight=3.0, gate=0.5),
        )
        bare = [prompt for prompt in asked if not prompt.references]
        if isinstance(self.scorer, ReferenceScorer) and bare:
            raise ValueError(
                f"{self.scorer.kind} compares with references, and {len(bare)} of {len(asked)} prompts have none (the first: "
                f"{bare[0].text[:60]!r}); name their column: columns={{'references': ...}}, or score without them: "
                "score='reward' or 'quality_estimation'"
            )

    def _scorer(self, score: Score | None, source: Any) -> Scorer:
        if score == "bleu":
            return ReferenceScorer("bleu")
        if score == "quality_estimation" and not callable(source):
            name = "textenv/tiny-aspects" if source is None else os.fspath(source)
            return QualityEstimation(name, template=self.judged)
        return super().load_scorer(source) if score == "reward" else self.load_scorer(source)

    def load_scorer(self, source: Any) -> Scorer:
        """A callable as it is; a reward model by directory or hub name, its logit; None: chrF against the references."""
        return ReferenceScorer("chrf") if source is None else super().load_scorer(source)

    def load_critic(self, source: Any) -> Critic:
        return load_critic("textenv/tiny-critic-answers" if source is None else source, self.critique)

    def own_aspects(self) -> Mapping[str, Aspect]:
        """Grammar by token, language confidence and readability of the whole text."""
        return {
            "grammar": self.embedded_aspect("grammar", "grammatical", "token", (-1.0, 0.0)),
            "language_confidence": Aspect("language_confidence", _of_text(lambda text: self.language(text)), "text"),
            "readability": Aspect("readability", _of_text(lambda text: (reading_ease(text) - 82.0) / 17.0), "text"),
        }

    def metrics(self, episodes: Sequence[Episode]) -> dict[str, Estimate]:
        """Corpus BLEU and chrF, length ratio (where there are references), mean score, grammar errors a word (where known)."""
        known = [episode for episode in episodes if self.is_embedded(episode)]
        out = {**corpus_metrics(episodes), "mean_score": mean_by_prompt(episodes, [episode.score for episode in episodes])}
        if known:
            out["grammar_error_rate"] = _error_rate(known)
        return out


def _error_rate(episodes: Sequence[Episode]) -> Estimate:
    """Grammar errors over words, both summed; NaN without words."""
    errors = [sum(group) for group in values_by_prompt(episodes, [len(world.grammar_errors(e.text)) for e in episodes])]
    words = [sum(group) for group in values_by_prompt(episodes, [len(e.text.split()) for e in episodes])]
    return Estimate(np.array(errors) / np.maximum(words, 1), words)


def _of_text(value: Callable[[str], float]) -> Callable[[Sequence[Episode]], list[list[Span]]]:
    """A judge that says one number of a text; nothing of one without words."""

    def judge(episodes: Sequence[Episode]) -> list[list[Span]]:
        numbers = [value(episode.text) if episode.text.strip() else math.nan for episode in episodes]
        return [
            [] if math.isnan(number) else [Span(0, len(episode.text), number)]
            for episode, number in zip(episodes, numbers, strict=True)
        ]

    return judge
