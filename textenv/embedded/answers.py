"""Many answers to one prompt: what judges are trained on, so that they know better from worse and are hard to surprise.

A writer of `textenv.embedded.worlds` gives one answer to a prompt. The others are references, texts that a half-trained
language model wrote (its drafts), and these damaged: a word exchanged for one that may stand there, or for one of the prompt;
a sentence lost, said twice, or taken from an answer to something else; words in another order; an end too soon. The truth
about every one of them is read off by the world, so no damage needs to be right or wrong by itself.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from textenv.embedded.worlds import World
from textenv.episode import Prompt

__all__ = ["Answered", "Answers", "Draft"]

Draft = tuple[Prompt, list[str]]
"""A prompt and what a language model answered."""

_PIECE = re.compile(r"\s*(?:\w[\w'’-]*|[^\w\s])")
_SENTENCE = re.compile(r"\s*[^.!?]*[.!?]?")
_POOL = 400  # answers that foreign words and sentences come from


@dataclass(frozen=True)
class Answered:
    """One prompt and several texts, each beginning with a space, no two alike."""

    prompt: Prompt
    texts: tuple[str, ...]


class Answers:
    """Draws prompts with several answers of every quality.

    Args:
        world: the task.
        drafts: what a language model answered to some prompts.
        drafted: share of the prompts that are those of the drafts.
    """

    def __init__(self, world: World, rng: random.Random, drafts: Sequence[Draft] = (), drafted: float = 0.35) -> None:
        self.world, self.rng, self.drafts, self.drafted = world, rng, drafts, drafted if drafts else 0.0
        pool = [world.sample(rng).text for _ in range(_POOL)] + [text for _, texts in drafts for text in texts[:1]][:_POOL]
        self._sentences = [s for text in pool for s in _sentences(text)]
        self._after: dict[str, list[str]] = defaultdict(list)
        for text in pool:
            pieces = _PIECE.findall(text)
            for one, two in pairwise(pieces):
                self._after[one].append(two)

    def draw(self, count: int) -> Answered:
        """`count` different texts to one prompt (fewer where the tries run out)."""
        rng = self.rng
        if rng.random() < self.drafted:
            prompt, texts = rng.choice(self.drafts)
            whole = list(texts)
        else:
            example = self.world.sample(rng)
            prompt, whole = example.prompt, [example.text]
        if prompt.references:
            whole.append(" " + rng.choice(prompt.references))
        rng.shuffle(whole)
        found = dict.fromkeys(whole[: max(1, count - 1)])
        for _ in range(3 * count):
            if len(found) >= count:
                break
            text = self.damaged(rng.choice(whole), prompt)
            if text.strip():
                found.setdefault(text)
        return Answered(prompt, tuple(found))

    def one(self) -> tuple[Prompt, str]:
        """A prompt and one text: of a careful or careless writer, of a language model, or damaged."""
        drawn = self.draw(3)
        return drawn.prompt, self.rng.choice(drawn.texts)

    def damaged(self, text: str, prompt: Prompt, most: int = 2) -> str:
        """The text with one to `most` kinds of damage."""
        for _ in range(self.rng.randint(1, most)):
            ways = (self._exchanged, self._exchanged, self._exchanged, self._lost, self._repeated, self._foreign, self._swapped)
            text = self.rng.choice((*ways, self._cut))(text, prompt)
        return text

    def _exchanged(self, text: str, prompt: Prompt) -> str:
        """A word for another one that was seen after the same word, or for a word of the prompt."""
        pieces = _PIECE.findall(text)
        at = [i for i in range(1, len(pieces)) if len(set(self._after[pieces[i - 1]])) > 2]
        if not at:
            return text
        i = self.rng.choice(at)
        words = _PIECE.findall(" ".join((*prompt.context, prompt.text)))
        near = [w for w in words if w in self._after[pieces[i - 1]]]
        pieces[i] = self.rng.choice(near) if near and self.rng.random() < 0.4 else self.rng.choice(self._after[pieces[i - 1]])
        return "".join(pieces)

    def _lost(self, text: str, prompt: Prompt) -> str:
        found = _sentences(text)
        if len(found) > 1:
            found.pop(self.rng.randrange(len(found)))
            return "".join(found)
        pieces = _PIECE.findall(text)
        i = self.rng.randrange(max(1, len(pieces) - 1))
        return "".join(pieces[:i] + pieces[i + 1 :])

    def _repeated(self, text: str, prompt: Prompt) -> str:
        found = _sentences(text)
        return "".join([*found, self.rng.choice(found)]) if found else text

    def _foreign(self, text: str, prompt: Prompt) -> str:
        found = _sentences(text)
        found.insert(self.rng.randint(0, len(found)), self.rng.choice(self._sentences))
        return "".join(found)

    def _swapped(self, text: str, prompt: Prompt) -> str:
        pieces = _PIECE.findall(text)
        if len(pieces) > 3:
            i = self.rng.randrange(len(pieces) - 2)
            pieces[i], pieces[i + 1] = pieces[i + 1], pieces[i]
        return "".join(pieces)

    def _cut(self, text: str, prompt: Prompt) -> str:
        pieces = _PIECE.findall(text)
        return "".join(pieces[: self.rng.randint(1, max(1, len(pieces)))])


def _sentences(text: str) -> list[str]:
    return [s for s in _SENTENCE.findall(text) if s.strip()]
