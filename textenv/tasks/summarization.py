"""Summarization: say in a sentence or two what a document is about.

Score: a preference reward model on document and summary (its logit), or ROUGE-1/2/L against references, as RELC trains with
either (Cao et al. 2024). Metrics: ROUGE-1/2/L/Lsum where the prompts have references, the mean score ("reward"), words; on the
embedded documents also the share of stated facts that the document supports and the share of its key facts that are covered.

RELC's released values are v⁻ = −0.5 for flawed spans and v⁺ = +0.5 for every unflagged token with ROUGE (in percent), ±0.1 with
the preference model; only flawed spans are asked for. Departures: an unflagged token gets nothing (the return would grow with the
length), and the critic is not shown the score unless the form says so. Token strings are compared with their leading space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from textenv import embedded
from textenv.aspects import Aspect
from textenv.critics.language_model import CritiqueFormat, Section
from textenv.embedded import summarization as world
from textenv.episode import Episode, Prompt, Span
from textenv.metrics import Estimate
from textenv.metrics.rouge import Rouge, mean_by_prompt, rouge_metrics
from textenv.task import RewardDefaults
from textenv.tasks.conditional import ConditionalTask

__all__ = ["Summarization"]

Score = Literal["reward", "rouge1", "rouge2", "rougeL", "rougeLsum"]

_NOTE = (
    "The council met on Tuesday evening. It voted to rebuild the old tram line along the river, which closed in 1987. "
    "The work will begin next spring and cost 40 million. A choir sang before the vote."
)
_MAIL = (
    "hi all, my flatmate borrowed my bike in June, crashed it and says that the brakes were faulty. We had agreed that whoever "
    "breaks something pays for it. He also forgot my birthday. Should I insist on the money?"
)
CRITIQUE = CritiqueFormat(
    sections=(Section("Errors", -1.0),),
    instruction=(
        "You are an annotator of summaries. Read the document, then its summary. List every flawed span of the summary, word for "
        "word as it stands there and as short as possible, separated by semicolons: what the document does not say or says "
        "otherwise, what is beside its point, what is said twice or makes no sense. Mark little where the summary is good. "
        'Write "none" if there is no such span.'
    ),
    examples=(
        ({"prompt": _NOTE, "text": "The council will rebuild the tram line for 40 million, starting in autumn."}, " in autumn"),
        ({"prompt": _NOTE, "text": "The closed tram line along the river will be rebuilt from next spring."}, " none"),
        (
            {"prompt": _MAIL, "text": "My sister crashed my bike and forgot my birthday; should I ask her to pay?"},
            " sister; forgot my birthday",
        ),
    ),
    template="{prompt}\nSummary: {text}",
)


class Summarization(ConditionalTask):
    """Summarize the document.

    Args:
        prompts: documents (`Prompt.text`), with reference summaries where ROUGE is wanted; default: the embedded ones.
        scorer: callable (episodes → scores), a reward model by directory or hub name (its logit), or None: the embedded one.
        score: "reward": that scorer; "rouge1", "rouge2", "rougeL", "rougeLsum": F1 against the references instead.
        template: what the policy reads of a document; {text}.

    Raises:
        ValueError: an unknown score; ROUGE with a scorer beside it, or for prompts without references; a bad template.

    Example: for the document "There is news about the hotel. It will move to Rome. The pillow was painted blue." the summary
    " The hotel moves to Rome." has the truth [Span("Rome", +1, "key fact")], " The pillow was painted blue." is a side fact.
    """

    judged = "{prompt}\nSummary:{text}"
    critique = CRITIQUE
    world = world

    def __init__(
        self,
        *,
        prompts: Sequence[Prompt] | None = None,
        scorer: Any = None,
        split: str = "train",
        score: Score = "reward",
        template: str = "{text}\nSummary:",
    ) -> None:
        if score not in get_args(Score):
            raise ValueError(f"score must be one of {', '.join(get_args(Score))}, got {score!r}; a model is given as scorer=")
        if score != "reward" and scorer is not None:
            raise ValueError(f"score={score!r} is the scorer; leave scorer={scorer!r} out, or score='reward' in")
        asked = embedded.prompts("summarization", split) if prompts is None else prompts
        bare = [prompt for prompt in asked if not prompt.references]
        if score != "reward" and bare:
            raise ValueError(
                f"score={score!r} compares with references, and {len(bare)} of {len(asked)} prompts have none (the first: "
                f"{bare[0].text[:60]!r}); name their column: columns={{'references': ...}}"
            )
        super().__init__(
            prompts=asked,
            scorer=self.load_scorer(scorer) if score == "reward" else Rouge(score),
            template=template,
            reward_defaults=RewardDefaults(positive=0.5, negative=-0.5, neutral=0.0, strip_tokens=False),
        )

    def own_aspects(self) -> Mapping[str, Aspect]:
        """Support by sentence and coverage of the whole, on the scales of LongFormQA's factuality and completeness."""
        return {
            "support": self.embedded_aspect("support", "supported", "sentence", (-0.5, 0.5)),
            "coverage": self.embedded_aspect("coverage", "complete", "text", (-0.3, 0.3), probability=True),
        }

    def metrics(self, episodes: Sequence[Episode]) -> dict[str, Estimate]:
        """ROUGE, mean score, words; on embedded documents supported share, key-fact coverage."""
        known = [episode for episode in episodes if self.is_embedded(episode)]
        out = {
            **rouge_metrics(episodes),
            "reward": mean_by_prompt(episodes, [episode.score for episode in episodes]),
            "mean_words": mean_by_prompt(episodes, [float(len(episode.text.split())) for episode in episodes]),
        }
        if known:
            out["supported_share"] = mean_by_prompt(known, [_supported(spans) for spans in self.truth(known)])
            out["key_fact_coverage"] = mean_by_prompt(known, [world.coverage(e.prompt, e.text) for e in known])
        return out


def _supported(spans: Sequence[Span]) -> float:
    """The share of what is stated that the document supports; NaN where nothing is stated."""
    return float(np.mean([span.label != "unsupported" for span in spans])) if spans else float("nan")
