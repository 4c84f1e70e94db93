"""`textenv calibrate`: mean and standard deviation of a score, and of aspects, over texts of the initial policy.

ALaRM (`reward="hierarchical"`) compares the z-score of a text with its gate; the two numbers belong to one scorer and one
policy, and are measured once, before training: `reward=("hierarchical", {"statistics": "statistics.json"})`, or
`textenv train ... --reward 'hierarchical:{"statistics": "statistics.json"}'`. The same file tells the mean length, by which
ALaRM's ablation divides a text's own, and how the score and the values of each aspect were distributed (a gate at a quantile, and
the control whose values are drawn at random).
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textenv.cli import options as o
from textenv.cli.console import Debug, console, plain, progress, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textenv.aspects import Aspect
    from textenv.episode import Episode

__all__ = ["calibrate", "measured"]

CHUNK = 128  # texts decoded together


def calibrate(
    env_id: o.EnvId,
    policy: o.Policy = None,
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this file. Example: --out statistics.json")] = None,
    n: Annotated[int, typer.Option("--n", help="Texts to sample. Example: --n 1024")] = 512,
    aspect: Annotated[
        list[str] | None, typer.Option(help="Measure this aspect; may be repeated; default: all. Example: --aspect fluency")
    ] = None,
    tokenizer: o.Tokenizer = None,
    scorer: o.ScorerOption = None,
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    column: o.Column = None,
    max_prompt_tokens: o.MaxPromptTokens = None,
    max_new_tokens: o.MaxNewTokens = None,
    min_new_tokens: o.MinNewTokens = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    debug: Debug = False,
) -> None:
    """Measure the score on texts of the initial policy, for rewards that need its z-value.

    Example: textenv calibrate textenv/Detox-v0 --policy models/lm --out statistics.json
    """
    import torch
    from rich.table import Table
    from rich.text import Text

    from textenv.agents import rollout
    from textenv.aspects import pick_aspects
    from textenv.cli.arguments import task_settings
    from textenv.cli.train import load_policy, make_environments

    if n < 2:
        raise ValueError(f"--n {n}: a standard deviation needs at least two texts")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise FileNotFoundError(f"--out {out} is no place for a file")
    environment = o.given(
        policy=policy, tokenizer=tokenizer, scorer=scorer, prompts=prompts, columns=o.pairs(column) or None,
        max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens,
        **(of_task := task_settings(env_id, settings)),
    )  # fmt: skip
    env, _ = make_environments(env_id, environment)
    task = env.get_wrapper_attr("task")
    aspects = pick_aspects(task.aspects, aspect or list(task.aspects))
    writer = load_policy(env_id, environment, device)
    env.reset(seed=seed)  # seeds the draw of the prompts
    generator = torch.Generator().manual_seed(seed)
    episodes: list[Episode] = []
    with progress("calibrate", n) as meter:
        while len(episodes) < n:
            episodes += rollout(env.unwrapped, writer, min(CHUNK, n - len(episodes)), generator)
            meter.update(len(episodes), tokens=sum(map(len, episodes)))
    found = measured(episodes, aspects)

    table = Table(title=f"{n} texts of {plain(policy or 'the embedded policy')}")
    for name in ("", "mean", "standard deviation"):
        table.add_column(name, justify="left" if not name else "right")
    for name, numbers in (("score", found), *found["aspects"].items()):
        table.add_row(Text(plain(name)), *("–" if numbers[key] is None else f"{numbers[key]:.4f}" for key in ("mean", "sd")))
    console.print(table)
    if found["sd"] == 0:
        raise ValueError(f"every text scores {found['mean']}: there is no z-score; the scorer tells these texts not apart")
    if out is not None:
        about = {"env_id": env_id, "policy": policy, "scorer": scorer, "set": of_task, "seed": seed}
        out.write_text(json.dumps({**found, **about}, indent=2) + "\n", encoding="utf-8")
        say(f"saved in {out}", style="bold")


def measured(episodes: Sequence[Episode], aspects: Sequence[Aspect]) -> dict[str, Any]:
    """{"mean", "sd", "n", "distribution", "aspects": {name: the same}}: of the scores, and of each aspect.

    An aspect's mean and deviation (the sample's, n − 1) are those of its raw mean a text; its distribution is that of its raw
    values at the tokens that have one. Texts in which an aspect judges nothing are left out of its numbers; None where too few
    are left.
    """
    return {**_record([episode.score for episode in episodes]), "aspects": {a.name: _of_aspect(episodes, a) for a in aspects}}


def _of_aspect(episodes: Sequence[Episode], aspect: Aspect) -> dict[str, Any]:
    placed = [(where, raw) for where, raw in aspect.placed(episodes) if where.any()]
    means = [float(raw.sum() / where.sum()) for where, raw in placed]
    return _record(means, [float(value) for where, raw in placed for value in raw[where]])


def _record(per_text: Sequence[float], values: Sequence[float] | None = None) -> dict[str, Any]:
    """Mean and deviation of one number a text, and the distribution of `values` (default: of those numbers)."""
    from textenv.judges.statistics import distribution_of

    values = per_text if values is None else values
    return {
        "mean": statistics.fmean(per_text) if per_text else None,
        "sd": statistics.stdev(per_text) if len(per_text) > 1 else None,
        "n": len(per_text),
        "distribution": distribution_of(values) if values else None,
    }
