"""One number about an embedded model beside the bar it is held to, and the table of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BARS", "Measure", "table"]

BARS: dict[str, tuple[str, float]] = {
    "loss above the entropy of the grammar, nats/token": ("<=", 0.05),
    "sentences accepted": (">=", 0.85),
    "accuracy": (">=", 0.97),
    "span F1, insults": (">=", 0.95),
    "span F1, sentiment": (">=", 0.90),
    "span F1, answers": (">=", 0.90),
    "answers that parse": (">=", 0.98),
    "episodes/s": (">=", 500.0),
    "answers that end": (">=", 0.95),
    "mean quality, not too low": (">=", 0.35),
    "mean quality, not too high": ("<=", 0.70),
    "above the model it was made of": (">", 0.0),
    "pair accuracy": (">=", 0.93),
    "aspect accuracy": (">=", 0.95),
    "principle accuracy": (">=", 0.95),
    "area under the ROC curve": (">=", 0.55),
}


@dataclass(frozen=True)
class Measure:
    """One number: of which model, what it is, on what it was measured, the bar it is held to ("" for none)."""

    model: str
    what: str
    where: str
    value: float
    bar: str = ""

    @property
    def reached(self) -> bool:
        """Whether the number is on the right side of its bar; NaN never is."""
        sign, limit = BARS.get(self.bar, (">=", float("-inf")))
        if not self.bar:
            return True
        return self.value <= limit if sign == "<=" else self.value > limit if sign == ">" else self.value >= limit


def table(measures: Sequence[Measure]) -> str:
    """The numbers as lines of text, each with its bar."""
    lines = []
    for m in measures:
        sign, limit = BARS.get(m.bar, ("", 0.0))
        verdict = "" if not m.bar else f"{sign} {limit:g}" + ("" if m.reached else "   MISSED")
        lines.append(f"{m.model:<24} {m.what:<34} {m.where:<44} {m.value:>9.3f}  {verdict}".rstrip())
    return "\n".join(lines)
