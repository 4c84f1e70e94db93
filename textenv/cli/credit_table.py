"""What `textenv credit` found: as a table in the terminal, as a .csv, as a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from textenv.cli.console import console, plain, say

if TYPE_CHECKING:
    from textenv.metrics.credit import Interval

__all__ = ["Row", "draw", "show", "write_csv"]

MEASURES = ("auc", "auc_pooled", "average_precision", "share", "spearman", "pearson")  # in the .csv
SHOWN = {  # in the table and the picture, and how they are called there
    "auc": "area under ROC",
    "average_precision": "average precision",
    "share": "share of |credit|",
    "spearman": "deletion, Spearman",
}


@dataclass(frozen=True)
class Row:
    """One reward.

    Attributes:
        reward: its name.
        measures: of `credit_quality`; none where the reward does not apply.
        seconds: of score and credit, for 1,000 texts.
        score: what became of the score (`credit_quality.score_left`).
        reason: why the reward does not apply.
    """

    reward: str
    measures: dict[str, Interval]
    seconds: float = math.nan
    score: str = ""
    reason: str = ""


def show(rows: Sequence[Row], title: str, share: float, deleted: int) -> None:
    """Print the table.

    Args:
        share: of the tokens that are on true spans: what chance gives.
        deleted: texts on which deletions were measured.
    """
    table = Table(title=Text(plain(title)), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("reward", no_wrap=True)
    for header in [*SHOWN.values(), "s / 1,000"]:
        table.add_column(header, justify="right", min_width=9)
    table.add_column("score at the end")
    for row in rows:
        cells = [] if row.reason else [*(_cell(row.measures[name]) for name in SHOWN), f"{row.seconds:.3g}", row.score]
        table.add_row(Text(plain(row.reward)), *cells)
    console.print(table)
    for row in rows:
        if row.reason:
            say(f"{row.reward}: not applicable: {row.reason}", style="yellow")
    say(
        "95 % bootstrap intervals over texts. Area under ROC: within each text, averaged. Average precision: over the tokens of "
        f"all texts. Chance: .5, {share:.3f}, {share:.3f}, 0. Deletion: correlation, within a text, with what the score loses "
        f"without the token ({deleted} texts). Score at the end: what a reward leaves of the score on the last token is taken out "
        "before measuring; the rest is measured as delivered. Seconds: score and credit."
    )


def _cell(measure: Interval) -> str:
    if math.isnan(measure.value):
        return "–"
    return f"{measure.value:.3f}\n{measure.low:.2f}…{measure.high:.2f}"


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line a reward: each measure with its interval (empty where it is not defined), seconds, the score's place, a reason."""
    header = ["reward", *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high"))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "seconds_per_1000", "score_at_the_end", "not_applicable"])
        for row in rows:
            numbers = [x for name in MEASURES for x in row.measures.get(name, (math.nan,) * 3)]
            told = ["" if math.isnan(x) else f"{x:.6g}" for x in [*numbers, row.seconds]]
            writer.writerow([row.reward, *told, row.score, row.reason])


def draw(rows: Sequence[Row], path: Path, title: str, share: float) -> None:
    """Bars with intervals, a panel a measure; dashed: chance. Nothing where no reward applies."""
    from textenv.metrics.plots import interval_bars

    chance = {"auc": 0.5, "average_precision": share, "share": share, "spearman": 0.0}

    applicable = [row for row in rows if not row.reason]
    if applicable:
        panels = {header: {row.reward: row.measures[name] for row in applicable} for name, header in SHOWN.items()}
        lines = {SHOWN[name]: value for name, value in chance.items()}
        interval_bars(path, panels, title=title, chance=lines, order=[row.reward for row in applicable])
