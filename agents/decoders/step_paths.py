"""A text on its way in a search over steps: the path that was kept, what was tried beside it, what is left to spend."""

from __future__ import annotations

from dataclasses import dataclass, field

from textenv.agents.decoders.decoding import Asked, Draws
from textenv.generation import ActionRule

__all__ = ["Path", "Step"]

_REPEATS = 3  # proposals for each distinct step that is wanted


@dataclass
class Step:
    """A proposed step.

    Attributes:
        tokens: its ids.
        value: what it is worth; None: nothing is said about it.
        score: that of the text up to its end, where texts are scored.
        forbidden: it was taken back.
    """

    tokens: list[int]
    value: float | None = None
    score: float | None = None
    forbidden: bool = False


@dataclass
class _Node:
    """What was tried behind a path."""

    steps: list[Step] = field(default_factory=list)
    proposals: int = 0

    def exhausted(self, branching: int) -> bool:
        """Whether enough has been tried."""
        return len(self.steps) >= branching or self.proposals >= _REPEATS * branching


class Path:
    """A text on its way: the steps that were kept, and at each of its nodes those that were tried.

    Args:
        asked: what the text answers.
        draws: its uniform numbers.
        budget: tokens that may be sampled for it.

    Attributes:
        left: of the budget.
        plain: nothing is refused any more; the rest is written in one go.
    """

    def __init__(self, asked: Asked, draws: Draws, budget: int) -> None:
        self.asked, self.draws, self.left = asked, draws, budget
        self.start = Step([])  # what is there before the first step
        self.steps: list[Step] = []
        self.tried = [_Node()]
        self.plain = False
        self._reached = 0  # positions whose own number has been used

    @property
    def tokens(self) -> list[int]:
        """The text so far."""
        return [token for step in self.steps for token in step.tokens]

    @property
    def last(self) -> Step:
        """The last step that was kept."""
        return self.steps[-1] if self.steps else self.start

    def finished(self, rule: ActionRule) -> bool:
        """Whether the text has ended."""
        tokens = self.tokens
        return len(tokens) == rule.max_new_tokens or tokens[-1:] == [rule.eos_token_id]

    def slack(self, rule: ActionRule) -> int:
        """Tokens that may still be thrown away: those beyond what the longest end of this text may take."""
        return 0 if self.plain else self.left - (rule.max_new_tokens - len(self.tokens))

    def push(self, step: Step) -> None:
        """Keep a step."""
        self.steps.append(step)
        self.tried.append(_Node())

    def pop(self) -> None:
        """Take the last step back, for good."""
        self.tried.pop()
        self.steps.pop().forbidden = True

    def number(self, position: int) -> float:
        """A uniform number: at the first visit of a position the one that came for it, later others."""
        if position >= self._reached:
            self._reached = position + 1
            return float(self.draws.row[position])
        return float(self.draws.more(1))
