"""Pictures. The one module that draws; matplotlib (extra `plots`) is imported when a picture is made."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["figure", "interval_bars"]


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches, that needs no display and touches no global state.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a picture needs matplotlib: pip install 'textenv[plots]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def interval_bars(
    path: str | os.PathLike[str],
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    title: str = "",
    chance: Mapping[str, float] | None = None,
    order: Sequence[str] | None = None,
) -> Path:
    """Horizontal bars with intervals: a panel a measure, a bar a method; what is NaN has no bar.

    Args:
        path: where to write; the name's end tells the format (.png, .svg, .pdf).
        panels: title of the panel → method → (value, low, high).
        title: above all panels.
        chance: by panel, a dashed line at what chance would give.
        order: methods from top to bottom; default: as they come.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing to draw.
    """
    names = list(order) if order is not None else list(dict.fromkeys(name for panel in panels.values() for name in panel))
    if not names:
        raise ValueError("nothing to draw: no panel holds a method")
    drawing = figure(1.8 + 2.6 * len(panels), 1.2 + 0.34 * len(names))
    axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (measure, values) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(names):
            value, low, high = values.get(name, (math.nan,) * 3)
            if math.isnan(value):
                continue
            ax.barh(place, value, color=f"C{place % 10}", height=0.7)
            if not (math.isnan(low) or math.isnan(high)):
                ax.errorbar(value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], color="black", capsize=3)
        if chance is not None and measure in chance:
            ax.axvline(chance[measure], color="black", linestyle="--", linewidth=1)
        ax.set_title(measure)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)  # the first on top
    if title:
        drawing.suptitle(title, fontsize=11)
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(target, dpi=150)
    return target
