"""Measuring policies on held-out prompts: by the scorer that gives the reward, and by judges that do not."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
from rich.table import Table
from rich.text import Text

from textenv.cli.console import Meter, console, plain, progress
from textenv.episode import Episode
from textenv.metrics import Estimate
from textenv.registration import named_scorer
from textenv.task import Scorer, Task, check_scores

__all__ = ["Measured", "Measuring", "as_json", "show_metrics", "show_texts"]

CHUNK = 256  # texts decoded together
HEADER = 24  # characters of a policy's name over its numbers


@dataclass(frozen=True)
class Measured:
    """n prompts × k texts, and the metrics: name → value. What a judge says is named "metric (judge)"."""

    episodes: Sequence[Episode]
    metrics: Mapping[str, float]
    k: int


class Measuring:
    """How a policy is measured. Everything is checked here, before any training time is spent.

    Args:
        env: an environment of held-out prompts.
        judges: names of classifiers or import strings, as `scorer=` takes them.
        n: number of prompts; None: all.
        k: texts a prompt.

    Raises:
        ValueError: fewer than n prompts; k below 1; a judge without the task's label.
    """

    def __init__(self, env: gym.Env[Any, Any], judges: Sequence[str], n: int | None, k: int, seed: int) -> None:
        self.env, self.k, self.seed = env, k, seed
        self.task: Task = env.get_wrapper_attr("task")
        self.n = len(self.task.prompts) if n is None else n
        if not 1 <= self.n <= len(self.task.prompts):
            raise ValueError(f"--eval-prompts {n}: there are {len(self.task.prompts)} held-out prompts")
        if k < 1:
            raise ValueError(f"--k {k}: at least one text a prompt is needed")
        self.judges: dict[str, Scorer] = {name: self.task.load_scorer(named_scorer(name)) for name in judges}
        last = [os.path.basename(os.path.normpath(name)) for name in judges]
        if len(set(last)) == len(last):  # the last part of a path tells them apart
            self.judges = dict(zip(last, self.judges.values(), strict=True))

    def __call__(self, policy: Any, reference: Any, what: str) -> Measured:
        """Sample and judge.

        Args:
            policy: an `LMPolicy`.
            reference: the `LMPolicy` or model under which perplexity is measured, or None.
            what: name of the progress bar.
        """
        from textenv.agents import evaluate

        with progress(what, self.n * self.k) as meter:
            watched = _Watched(policy, meter)
            found = evaluate(watched, self.env, self.n, k=self.k, reference=reference, seed=self.seed)
        metrics = dict(found.metrics)
        for name, judge in self.judges.items():
            scores = check_scores(judge(found.episodes), found.episodes, judge)
            judged = [replace(e, score=score) for e, score in zip(found.episodes, scores, strict=True)]
            of_judge = self.task.metrics(judged)
            metrics |= {f"{metric} ({name})": of_judge[metric] for metric in self._judged_metrics(judged, of_judge)}
        return Measured(found.episodes, metrics, self.k)

    def _judged_metrics(self, episodes: Sequence[Episode], metrics: Mapping[str, float]) -> list[str]:
        """The metrics that depend on the verdict: the others stand in the table already."""
        few = episodes[: self.k]
        low, high = (self.task.metrics([replace(e, score=score) for e in few]) for score in (0.0, 1.0))
        return [name for name in metrics if name not in low or low[name] != high[name]]


class _Watched:
    """A policy whose progress is shown."""

    def __init__(self, policy: Any, meter: Meter) -> None:
        self.policy, self.meter, self.evaluate = policy, meter, policy.evaluate

    def generate(self, prompts: Sequence[Any], rule: Any, uniforms: Any, **options: Any) -> list[Any]:
        texts: list[Any] = []
        for at in range(0, len(prompts), CHUNK):
            part = None if uniforms is None else uniforms[at : at + CHUNK]
            texts += self.policy.generate(prompts[at : at + CHUNK], rule, part, **options)
            self.meter.update(len(texts), tokens=sum(map(len, texts)))
        return texts


def show_metrics(columns: Mapping[str, Measured]) -> None:
    """A table: a row a metric, a column a policy, each number with its 95 % interval."""
    first = next(iter(columns.values()))
    n = len(first.episodes) // first.k
    table = Table(title=f"{n} held-out prompts, {first.k} texts each; 95 % bootstrap intervals over prompts")
    table.add_column("metric", overflow="fold")
    for name in columns:  # the end of a path tells more than its beginning
        table.add_column(Text(plain(name if len(name) <= HEADER else f"…{name[1 - HEADER:]}")), justify="right", no_wrap=True)
    for metric in first.metrics:
        table.add_row(Text(plain(metric)), *(_with_interval(column.metrics.get(metric)) for column in columns.values()))
    console.print(table)


def _with_interval(value: float | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, Estimate):
        return _number(value)
    low, high = value.interval()
    return f"{_number(value)}  {_number(low)} … {_number(high)}"


def _number(value: float) -> str:
    """Three digits after the point, fewer where the number is large."""
    return f"{value:.{3 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def show_texts(columns: Mapping[str, Measured], n: int = 5, limit: int = 300) -> None:
    """The first text of the first n prompts by each policy, with its score. Texts are not trusted: nothing in them acts."""
    table = Table(title="The first text of the first held-out prompts, and its score", show_lines=True)
    table.add_column("prompt", ratio=1)
    for name in columns:
        table.add_column(Text(plain(name)), ratio=1)
    k = next(iter(columns.values())).k
    rows = zip(*(column.episodes[: n * k : k] for column in columns.values()), strict=True)
    for episodes in rows:
        cells = [Text(f"{plain(e.text, limit).strip()}  ({e.score:.3f})") for e in episodes]
        table.add_row(Text(plain(episodes[0].prompt.text, limit)), *cells)
    console.print(table)


def as_json(measured: Measured) -> dict[str, Any]:
    """Metrics with their intervals, for a file; null where there is no number."""
    values: dict[str, Any] = {}
    for name, value in measured.metrics.items():
        numbers = [float(value), *(value.interval() if isinstance(value, Estimate) else ())]
        known = [number if math.isfinite(number) else None for number in numbers]
        values[name] = {"value": known[0], "interval": known[1:] or None}
    return values
