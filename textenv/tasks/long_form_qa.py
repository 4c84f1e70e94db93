"""LongFormQA: answer a question about some passages, in several sentences.

Score: a holistic reward model on passages, question and answer (its logit). Aspects and their scales as Fine-Grained RLHF (Wu et
al. 2023) and ALaRM (Lai et al. 2024) have them: factuality by sentence ±0.5, relevance by sub-sentence ±0.3, completeness of the
whole answer, here 0.3 · (2 P(complete) − 1) where they take 0.3 times a normalised preference score. ALaRM's w_H = 5 and τ = 0.6
are the defaults of `hierarchical`.

Metrics: ROUGE-Lsum where the prompts have references, the mean score ("reward"), words, and the share of sentences that are
factual, of sub-sentences that are relevant, of what was asked that is answered. On embedded prompts these three are the truth; on
one's own prompts they are the shares of pieces (of answers, for completeness) that the judges given as `aspects=` value above 0,
and without judges they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from textenv import embedded
from textenv.aspects import Aspect
from textenv.critics.language_model import CritiqueFormat, Section
from textenv.embedded import long_form as world
from textenv.episode import Episode, Prompt, Span
from textenv.metrics import Estimate
from textenv.metrics.rouge import mean_by_prompt, rouge_metrics
from textenv.task import RewardDefaults
from textenv.tasks.conditional import ConditionalTask

__all__ = ["LongFormQA"]

_LIGHTHOUSE = (
    "The Kettle Point lighthouse was finished in 1871. It was built of granite from a local quarry. Its first keeper, Ruth Hale, "
    "stayed for nine years. The harbour beside it closed in 1950."
)
CRITIQUE = CritiqueFormat(
    sections=(Section("Errors", -1.0),),
    instruction=(
        "You are an annotator of answers. Read the passages and the question, then the answer. List every flawed span of the "
        "answer, word for word as it stands there and as short as possible, separated by semicolons: what the passages do not say "
        "or say otherwise, what the question did not ask for, what is said twice or makes no sense. "
        'Write "none" if there is no such span.'
    ),
    examples=(
        (
            {
                "context": _LIGHTHOUSE,
                "prompt": "When was the lighthouse finished, and of what was it built?",
                "text": "It was finished in 1881. It was built of granite. The harbour closed in 1950.",
            },
            " 1881; The harbour closed in 1950",
        ),
        (
            {
                "context": _LIGHTHOUSE,
                "prompt": "Who kept the lighthouse first, and for how long?",
                "text": "Ruth Hale was the first keeper. She stayed for nine years.",
            },
            " none",
        ),
        (
            {
                "context": _LIGHTHOUSE,
                "prompt": "Where did the stone come from?",
                "text": "The marble came from a local quarry, from a local quarry in the north.",
            },
            " marble; from a local quarry in the north",
        ),
    ),
    template="{context}\nQuestion: {prompt}\nAnswer: {text}",
)


class LongFormQA(ConditionalTask):
    """Answer the question from its passages.

    Args:
        prompts: questions (`Prompt.text`) with their passages (`context`) and full answers (`references`); default: embedded.
        scorer: callable (episodes → scores), a reward model by directory or hub name (its logit), or None: the embedded one.
        template: what the policy reads; {text} is the question, {context} the passages, a line each.
        aspects: name → aspect, instead of the embedded models: "factuality", "relevance" and "completeness" are reported too.

    Example: to "Where does Anna live?" about "Anna lives in Rome. Ben lives in Oslo." the answer " Anna lives in Rome. Ben lives in
    Oslo." has the truth [Span("Rome", +1, "supported"), Span("Ben lives in Oslo", −0.5, "irrelevant")]; factual share 1, relevant
    share ½, completeness 1.
    """

    judged = "{context}\nQuestion: {prompt}\nAnswer:{text}"
    critique = CRITIQUE
    world = world

    def __init__(
        self,
        *,
        prompts: Sequence[Prompt] | None = None,
        scorer: Any = None,
        split: str = "train",
        template: str = "{context}\nQuestion: {text}\nAnswer:",
        aspects: Mapping[str, Aspect] | None = None,
    ) -> None:
        self._given = None if aspects is None else dict(aspects)
        super().__init__(
            prompts=embedded.prompts("long_form", split) if prompts is None else prompts,
            scorer=self.load_scorer(scorer),
            template=template,
            reward_defaults=RewardDefaults(strip_tokens=False, holistic_weight=5.0, gate=0.6),
        )

    def own_aspects(self) -> Mapping[str, Aspect]:
        """Factuality, relevance and completeness, or those that were given."""
        if self._given is not None:
            return self._given
        return {
            "factuality": self.embedded_aspect("factuality", "supported", "sentence", (-0.5, 0.5)),
            "relevance": self.embedded_aspect("relevance", "relevant", "sub_sentence", (-0.3, 0.3)),
            "completeness": self.embedded_aspect("completeness", "complete", "text", (-0.3, 0.3), probability=True),
        }

    def metrics(self, episodes: Sequence[Episode]) -> dict[str, Estimate]:
        """ROUGE-Lsum, mean score, words, and the shares that are factual, relevant, complete."""
        return {
            **rouge_metrics(episodes, ("rougeLsum",)),
            "reward": mean_by_prompt(episodes, [episode.score for episode in episodes]),
            "mean_words": mean_by_prompt(episodes, [float(len(episode.text.split())) for episode in episodes]),
            **self._shares(episodes),
        }

    def _shares(self, episodes: Sequence[Episode]) -> dict[str, Estimate]:
        """The three shares by the truth where it is known, by the given judges elsewhere."""
        known = [episode for episode in episodes if self.is_embedded(episode)]
        other = [episode for episode in episodes if not self.is_embedded(episode)]
        out = {}
        for name, metric, truth in _SHARES:
            values = {id(e): truth(e.prompt, e.text) for e in known}
            if other and self._given and name in self._given:
                judged = self._given[name].judge(other)
                values |= {id(e): _positive(spans) for e, spans in zip(other, judged, strict=True)}
            listed = [episode for episode in episodes if id(episode) in values]
            if listed:
                out[metric] = mean_by_prompt(listed, [values[id(episode)] for episode in listed])
        return out


def _positive(spans: Sequence[Span]) -> float:
    """The share of the judged pieces whose value is above 0; NaN where nothing was judged."""
    return float(np.mean([span.reward > 0 for span in spans])) if spans else float("nan")


def _by(verdicts: Callable[[Prompt, str], list[Span]]) -> Callable[[Prompt, str], float]:
    return lambda prompt, text: _positive(verdicts(prompt, text))


_SHARES: tuple[tuple[str, str, Callable[[Prompt, str], float]], ...] = (
    ("factuality", "factual_share", _by(world.sentence_verdicts)),
    ("relevance", "relevant_share", _by(world.relevance_verdicts)),
    ("completeness", "complete_share", world.completeness),
)
"""Aspect, metric, and its value by the truth."""
