"""Mean and standard deviation of a score over texts of an initial policy: what makes a z-score of it.

They belong to one scorer and one policy. The embedded ones are shipped (`embedded/statistics.json`, by task); for others
`textenv calibrate` writes such a file, with one record: {"mean": 0.42, "sd": 0.2, "distribution": [[0.1, 12], ...], "aspects":
{"length": {"mean": 21.5, "distribution": [[21.0, 3], ...], ...}}, ...}.

A distribution is a list of values, ascending, and how often each was seen; of more than `DISTINCT` values, that many quantiles.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "Distribution", "aspect_distributions", "aspect_means", "checked_statistics", "distribution_of", "embedded_statistics",
    "quantile", "read_statistics", "same_scorer", "score_distribution",
]  # fmt: skip

Distribution = list[tuple[float, int]]
DISTINCT = 100

EMBEDDED = Path(__file__).parent.parent / "embedded" / "statistics.json"

_PLAIN = (str, int, float, bool, tuple, type(None))


def embedded_statistics(task: str) -> tuple[float, float] | None:
    """(mean, standard deviation) of a task by its class name ("Detox"), or None where the file tells nothing of it."""
    if not EMBEDDED.is_file():
        return None
    found = json.loads(EMBEDDED.read_text(encoding="utf-8")).get(task)
    return None if found is None else checked_statistics((found["mean"], found["sd"]), f"{EMBEDDED.name}, {task}")


def read_statistics(path: str | os.PathLike[str]) -> tuple[float, float]:
    """(mean, standard deviation) from a file of `textenv calibrate`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it does not hold them.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no statistics at {file}; textenv calibrate ENV_ID --policy P --out {file} writes them")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        mean, sd = float(found["mean"]), float(found["sd"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not what textenv calibrate writes: {error!r}") from error
    return checked_statistics((mean, sd), str(file))


def aspect_means(path: str | os.PathLike[str]) -> dict[str, float]:
    """The means of the aspects that were measured, by name, from a file of `textenv calibrate`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it does not hold them.
    """
    read_statistics(path)
    file = Path(path).expanduser()
    try:
        measured = json.loads(file.read_text(encoding="utf-8")).get("aspects", {})
        return {name: float(numbers["mean"]) for name, numbers in measured.items() if numbers["mean"] is not None}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not what textenv calibrate writes: {error!r}") from error


def score_distribution(path: str | os.PathLike[str]) -> Distribution:
    """How the score was distributed, from a file of `textenv calibrate`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it does not tell.
    """
    read_statistics(path)
    return _distribution(json.loads(Path(path).expanduser().read_text(encoding="utf-8")), path, "the score")


def aspect_distributions(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, Distribution]:
    """How the values of these aspects were distributed over the tokens that have one, from a file of `textenv calibrate`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it does not tell of one of them.
    """
    aspect_means(path)
    found = json.loads(Path(path).expanduser().read_text(encoding="utf-8")).get("aspects", {})
    return {name: _distribution(found.get(name, {}), path, f"the aspect {name!r}") for name in names}


def distribution_of(values: Sequence[float]) -> Distribution:
    """The distribution of some numbers.

    >>> distribution_of([0.5, -0.5, 0.5])
    [(-0.5, 1), (0.5, 2)]
    """
    numbers = np.asarray(values, np.float64)
    seen, counts = np.unique(numbers, return_counts=True)
    if len(seen) > DISTINCT:
        at = (np.arange(DISTINCT) + 0.5) / DISTINCT
        seen, counts = np.unique(np.quantile(numbers, at, method="inverted_cdf"), return_counts=True)
    return [(float(value), int(count)) for value, count in zip(seen, counts, strict=True)]


def quantile(distribution: Distribution, q: float) -> float:
    """The smallest value that is not below a share q of all.

    >>> quantile([(0.0, 3), (1.0, 1)], 0.75), quantile([(0.0, 3), (1.0, 1)], 0.76)
    (0.0, 1.0)

    Raises:
        ValueError: q is not in 0..1.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile lies in 0..1, got {q}")
    share = np.cumsum([count for _, count in distribution]) / sum(count for _, count in distribution)
    return distribution[min(int(np.searchsorted(share, q - 1e-12)), len(distribution) - 1)][0]


def _distribution(record: Any, path: Any, what: str) -> Distribution:
    try:
        found = [(float(value), int(count)) for value, count in record["distribution"]]
    except (KeyError, TypeError, ValueError):
        found = []
    if not found or not all(math.isfinite(value) and count > 0 for value, count in found):
        raise ValueError(f"{path} does not tell the distribution of {what}; textenv calibrate writes a file that does")
    return found


def checked_statistics(statistics: tuple[float, float], where: str = "statistics") -> tuple[float, float]:
    """The two numbers, after the check that they make a z-score.

    Raises:
        ValueError: not two finite numbers, or a deviation that is not positive.
    """
    try:
        mean, sd = map(float, statistics)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: (mean, standard deviation) is wanted, got {statistics!r}") from None
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        raise ValueError(f"{where}: the mean must be finite and the standard deviation positive, got {mean}, {sd}")
    return mean, sd


def same_scorer(a: Any, b: Any) -> bool:
    """Whether two scorers give the same scores, as far as their type and settings tell."""
    return bool(a == b) or (type(a) is type(b) and _settings(a) == _settings(b) != {})


def _settings(scorer: Any) -> Mapping[str, Any]:
    return {name: value for name, value in getattr(scorer, "__dict__", {}).items() if isinstance(value, _PLAIN)}
