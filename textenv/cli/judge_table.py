"""What `textenv judge` has found: as numbers for a file, and as tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from textenv.cli.console import console, say
from textenv.metrics.preference import cohen_kappa, length_controlled_win_rate, raw_agreement, win_rate

if TYPE_CHECKING:
    from textenv.judges.pairwise import Judged, Pair

__all__ = ["results", "show"]


def results(pairs: Sequence[Pair], judged: Mapping[str, Judged], names: tuple[str, str], bootstrap: int) -> dict[str, Any]:
    """All that is reported, as it goes into a file; None where there is no number.

    Args:
        pairs: what was compared.
        judged: the judges by name.
        names: of the two sides.
        bootstrap: resamples of the intervals.
    """
    agreement = []
    for (one, first), (other, second) in itertools.combinations(judged.items(), 2):
        both = sum(x is not None and y is not None for x, y in zip(first.verdicts, second.verdicts, strict=True))
        values = (raw_agreement(first.verdicts, second.verdicts), cohen_kappa(first.verdicts, second.verdicts))
        agreement.append({"judges": [one, other], "pairs": both, "raw": _finite(values[0]), "kappa": _finite(values[1])})
    lengths = np.array([[len(pair.a), len(pair.b)] for pair in pairs])
    return {
        "a": names[0],
        "b": names[1],
        "pairs": len(pairs),
        "mean_characters": lengths.mean(0).tolist(),
        "judges": {name: _of_judge(each, lengths[:, 0] - lengths[:, 1], bootstrap) for name, each in judged.items()},
        "agreement": agreement,
    }


def _of_judge(judged: Judged, differences: Any, bootstrap: int) -> dict[str, Any]:
    rate = win_rate(judged.points)
    controlled, interval = length_controlled_win_rate(judged.points, differences, n=bootstrap)
    counts = {side: judged.verdicts.count(side) for side in ("a", "tie", "b", None)}
    return {
        "wins_a": counts["a"], "ties": counts["tie"], "wins_b": counts["b"], "no_verdict": counts[None],
        "win_rate": _finite(rate), "win_rate_interval": [_finite(x) for x in rate.interval(n=bootstrap)],
        "length_controlled": _finite(controlled), "length_controlled_interval": [_finite(x) for x in interval],
        "conflicts": judged.conflicts, "first_share": _finite(judged.first), "unparsable_answers": judged.unparsable,
        "unanswered": judged.unanswered, "verdicts": list(judged.verdicts),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def show(found: Mapping[str, Any], judged: Mapping[str, Judged]) -> None:
    """The results as tables: a row a judge, a row for each two of them; and how many answers could not be read."""
    lengths = " and ".join(f"{mean:.0f}" for mean in found["mean_characters"])
    say(f"A = {found['a']}, B = {found['b']}: {found['pairs']} pairs, {lengths} characters on average")
    numbers = {name: str(i) for i, name in enumerate(found["judges"], 1)}  # names are addresses and paths, too long for a cell
    for name, number in numbers.items():
        say(f"judge {number}: {name}")
    table = Table(title="Win rate of A (a tie is half a win), with 95 % bootstrap intervals")
    for name in ("judge", "A/tie/B", "none", "win rate", "at equal length", "first"):
        table.add_column(name, justify="left" if name == "judge" else "right")
    for name, row in found["judges"].items():
        counts = ["/".join(str(row[column]) for column in ("wins_a", "ties", "wins_b")), str(row["no_verdict"])]
        rates = [_interval(row[rate], row[f"{rate}_interval"]) for rate in ("win_rate", "length_controlled")]
        table.add_row(numbers[name], *counts, *rates, _number(row["first_share"]))
    console.print(table)
    say("none: pairs without a verdict; first: of the answers that chose a side, the share for the text shown first")
    for name, each in judged.items():
        if each.unparsable or each.unanswered:
            last = f" (the last: {each.last_unparsable!r})" if each.unparsable else ""
            lost = f"{each.unparsable} of {2 * found['pairs']} answers could not be read{last}, {each.unanswered} did not come"
            without = f"{each.verdicts.count(None)} pairs have no verdict and are left out"
            say(f"judge {numbers[name]}: {lost}; {without}", style="yellow")
    if found["agreement"]:
        table = Table(title="Agreement of judges, over the pairs on which both have a verdict")
        for name in ("judges", "pairs", "agree", "Cohen's κ"):
            table.add_column(name, justify="left" if name == "judges" else "right")
        for row in found["agreement"]:
            both = " – ".join(numbers[name] for name in row["judges"])
            table.add_row(both, str(row["pairs"]), _number(row["raw"]), _number(row["kappa"]))
        console.print(table)


def _interval(value: float | None, bounds: Sequence[float | None]) -> str:
    return "–" if value is None else f"{value:.3f}\n{_number(bounds[0])} … {_number(bounds[1])}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
