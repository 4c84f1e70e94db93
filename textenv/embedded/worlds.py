"""The five embedded tasks under one interface: an example, what is true of a text, how good it is, what the policy reads.

    world("summarization").sample(rng)                  Example(prompt, text, spans), by a writer of some care
    world("summarization").prompt_text(prompt)          "Here is a note … ⏎Summary:"
    world("summarization").quality(prompt, text)        in [0, 1]

The first two tasks continue documents: their examples are documents cut in two, their truth does not ask for the prompt.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from textenv.embedded import grammar, truth
from textenv.embedded.examples import Example
from textenv.episode import Prompt, Span

__all__ = ["ANSWERS", "DOCUMENTS", "TEMPLATES", "World", "world"]

DOCUMENTS = ("sentiment", "detox")
ANSWERS = ("summarization", "long_form", "translation")
TEMPLATES = {
    "summarization": "{text}\nSummary:",
    "long_form": "{context}\nQuestion: {text}\nAnswer:",
    "translation": "{text}\nGerman:",
}
"""What the policy reads of a prompt; {text} is `Prompt.text`, {context} its passages, a line each."""


@dataclass(frozen=True)
class World:
    """One embedded task; see the module's head."""

    name: str
    sample: Callable[[random.Random], Example]
    truth_spans: Callable[[Prompt, str], list[Span]]
    quality: Callable[[Prompt, str], float]
    vocabulary: Callable[[], list[str]]

    def prompt_text(self, prompt: Prompt) -> str:
        """What the policy reads."""
        return TEMPLATES.get(self.name, "{text}").format(text=prompt.text, context="\n".join(prompt.context))

    def errors(self, prompt: Prompt, text: str) -> list[Span]:
        """The spans that are wrong, in order."""
        return [span for span in self.truth_spans(prompt, text) if span.reward < 0]


@cache
def world(name: str) -> World:
    """The world of a task.

    Raises:
        ValueError: there is no such task (the message lists them).
    """
    if name in ANSWERS:
        module = importlib.import_module(f"textenv.embedded.{name}")
        return World(name, module.sample, module.truth_spans, module.quality, module.vocabulary)
    if name == "sentiment":
        return World(name, _cut(name), lambda _, text: truth.sentiment_spans(text), _praise, grammar.GRAMMAR.vocabulary)
    if name == "detox":
        civil = lambda _, text: 1.0 - truth.toxicity(text)  # noqa: E731
        return World(name, _cut(name), lambda _, text: truth.insult_spans(text), civil, grammar.GRAMMAR.vocabulary)
    raise ValueError(f"no embedded task {name!r}; there are {', '.join(DOCUMENTS + ANSWERS)}")


def _praise(_: Prompt, text: str) -> float:
    return 1 / (1 + math.exp(-truth.sentiment(text)))


def _cut(genre: str) -> Callable[[random.Random], Example]:
    """Documents cut after 3 to 12 words, before the first span."""
    scan = truth.sentiment_spans if genre == "sentiment" else truth.insult_spans

    def sample(rng: random.Random) -> Example:
        while True:
            document = grammar.sample(rng, genre)
            words = document.text[: min([span.start for span in document.spans], default=None)].split()[: rng.randint(3, 12)]
            text = document.text[len(" ".join(words)) :]
            if len(words) >= 3 and text[:1] == " ":
                return Example(Prompt(" ".join(words)), text, tuple(scan(text)))

    return sample
