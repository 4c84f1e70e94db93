"""What tasks share whose text answers something that was given: a document, a question with its passages.

The policy reads the prompt in a template; a reward model reads template and text; where the prompt is of the embedded world,
the truth about the text is known.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from string import Formatter
from typing import Any

from textenv.aspects import Aspect, Granularity
from textenv.critics import load_critic
from textenv.critics.language_model import CritiqueFormat
from textenv.episode import Episode, Prompt, Span
from textenv.judges.aspect_models import TokenClassifierJudge
from textenv.judges.loading import load_scorer
from textenv.task import Critic, RewardDefaults, Scorer, Task

__all__ = ["ConditionalTask", "checked_template"]

LESS_IS_BETTER = ("toxic", "toxicity", "hate", "offensive", "bad", "worse", "error", "negative", "neg")
"""What the only output of a model is called that is no reward model."""

Judge = Callable[[Sequence[Episode]], Sequence[Sequence[Span]]]


def checked_template(template: str) -> str:
    """A template of what the policy reads: {text}, and {context} if it likes.

    Raises:
        ValueError: it lacks {text}, or has another field.
    """
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"template={template!r} cannot be read ({error}); a brace itself is written twice") from None
    if "text" not in fields or not set(fields) <= {"text", "context"}:
        raise ValueError(f"template={template!r} should hold {{text}}, may hold {{context}} and nothing else; it holds {fields}")
    return template


class ConditionalTask(Task):
    """Answer what the prompt gives.

    A subclass says what reward model, critic and aspects read, and which embedded world its default prompts come from.

    Attributes:
        judged: what a reward model or an aspect model reads: {prompt}, {context}, {text}.
        critique: how a critic is asked.
        world: the module of the embedded world: `is_embedded`, `truth_spans`, …
    """

    judged: str
    critique: CritiqueFormat
    world: Any

    def __init__(self, *, prompts: Sequence[Prompt], scorer: Scorer, template: str, reward_defaults: RewardDefaults) -> None:
        self.template = checked_template(template)
        super().__init__(prompts=prompts, scorer=scorer, reward_defaults=reward_defaults)

    def prompt_text(self, prompt: Prompt) -> str:
        """The template with the prompt's text and its context, a document a line, filled in."""
        return self.template.format(text=prompt.text, context="\n".join(prompt.context))

    def load_scorer(self, source: Any) -> Scorer:
        """A callable as it is; a reward model by directory or hub name, its logit; None: the embedded one.

        It reads `judged`, or what `textenv fit-reward-model` fitted it to; for a model that reads something else pass
        `SequenceClassifierScorer(name, label=..., output="logit", template=...)`.

        Raises:
            ValueError: a model whose outputs do not tell which is better.
        """
        return load_scorer(
            "textenv/tiny-reward" if source is None else source,
            label=("good", "LABEL_1"), opposite=LESS_IS_BETTER, output="logit", template=self.judged, reward_model="expected",
        )  # fmt: skip

    def load_critic(self, source: Any) -> Critic:
        return load_critic("textenv/tiny-critic-answers" if source is None else source, self.critique)

    @property
    def aspects(self) -> Mapping[str, Aspect]:
        """The task's own aspects, and those of every task. A model loads when its aspect is first judged."""
        return {**self._own_aspects, **super().aspects}

    @cached_property
    def _own_aspects(self) -> Mapping[str, Aspect]:
        return self.own_aspects()

    @abstractmethod
    def own_aspects(self) -> Mapping[str, Aspect]:
        """The aspects that this task adds to those of every task."""

    def embedded_aspect(
        self, name: str, label: str, granularity: Granularity, scale: tuple[float, float], *, probability: bool = False
    ) -> Aspect:
        """An aspect judged by the embedded token classifier, which loads at the first use."""

        def load() -> Judge:
            return TokenClassifierJudge(
                "textenv/tiny-aspects", label, granularity, self.judged, scale, output="probability" if probability else "class"
            )

        return Aspect(name, _Later(load), granularity)

    def is_embedded(self, episode: Episode) -> bool:
        """Whether the truth about a text is known."""
        return bool(self.world.is_embedded(episode.prompt))

    def truth(self, episodes: Sequence[Episode]) -> list[list[Span]]:
        """What is right and wrong in each text, read off by the rules of the embedded world.

        Raises:
            ValueError: a prompt is not of that world.
        """
        for episode in episodes:
            if not self.is_embedded(episode):
                raise ValueError(
                    f"{type(self).__name__} knows no truth about texts on prompts of one's own ({episode.prompt.text[:60]!r}); "
                    "it does on the embedded ones: leave prompts= out"
                )
        return [self.world.truth_spans(episode.prompt, episode.text) for episode in episodes]


class _Later:
    """A judge that is made when it is first asked."""

    def __init__(self, load: Callable[[], Judge]) -> None:
        self._load = load

    def __deepcopy__(self, memo: dict[int, Any]) -> _Later:
        return self

    @cached_property
    def _judge(self) -> Judge:
        return self._load()

    def __call__(self, episodes: Sequence[Episode]) -> Sequence[Sequence[Span]]:
        return self._judge(episodes)
