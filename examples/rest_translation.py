"""ReST on translation, as its paper plots it: held-out reward after each Improve step, for one Grow step and for two.

    python examples/rest_translation.py [--seed 0] [--out rest.png] [--score reward]

`textenv/Translation-v0` with a reward model that reads source and translation, no reference. A Grow step samples translations of
the training sources, judged once; each Improve step learns from those above a higher quantile (I = 0: from all of them). Shown on
held-out sources that chose no checkpoint: the reward of a sample, of the best of N on top of it, and chrF against the references,
which gave no reward. (Gulcehre et al. 2023, arXiv 2308.08998, Table 1 and Figures 3, 4 and 6.)
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

import textenv  # noqa: F401 - registers the environments
from textenv.agents import evaluate
from textenv.agents.rest.rest import ReST
from textenv.metrics.plots import figure

QUANTILES = (None, 0.6, 0.7, 0.8, 0.9)  # I = 0 … 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score", default="reward", choices=("reward", "quality_estimation", "chrf"))
    parser.add_argument("--keep-data", default="filtered", choices=("filtered", "none"), help="references (default: filtered)")
    parser.add_argument("--grow-steps", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=1000, help="sources of a Grow step (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=8, help="candidates of each (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=300, help="of an Improve step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of the first Improve step (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=200, help="sources to report on (default: %(default)s)")
    parser.add_argument("--best-of", type=int, default=16, help="largest N (default: %(default)s)")
    parser.add_argument("--out", help="write a picture to this file (.png, .svg)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    options = parser.parse_args()

    sources = {split: make(options, split=split).get_wrapper_attr("task").prompts for split in ("train", "test")}
    parts = sources["train"][: options.prompts], sources["test"][options.held_out :], sources["test"][: options.held_out]
    env, choosing, reporting = (make(options, prompts=list(prompts)) for prompts in parts)
    agent = ReST(
        "textenv/tiny-translation", env, eval_env=choosing, eval_prompts=options.held_out, grow_steps=options.grow_steps,
        thresholds=QUANTILES, samples_per_prompt=options.samples, updates=options.updates, learning_rate=options.learning_rate,
        batch_size=32, keep_data=options.keep_data, seed=options.seed,
    )  # fmt: skip
    began = time.perf_counter()
    rows = [measured(agent, reporting, options, {"grow": 0, "improve": 0})]

    def after_improve(local: dict[str, Any], _: dict[str, Any]) -> bool:
        if local["improved"]:
            rows.append(measured(agent, reporting, options, local["improved"]))
        return True

    agent.learn(callback=after_improve, progress_bar=not options.json)
    run = {"seed": options.seed, "seconds": round(time.perf_counter() - began), "tokens": agent.num_timesteps}
    if options.json:
        print(json.dumps({**run, "rows": rows}))
    else:
        show(rows, f"{options.score}: {run['tokens']:,} tokens generated and learned from, {run['seconds']} s")
    if options.out:
        draw(rows, options.out)


def make(options: argparse.Namespace, **arguments: Any) -> gym.Env:
    return gym.make("textenv/Translation-v0", score=options.score, **arguments)


def measured(agent: ReST, env: gym.Env, options: argparse.Namespace, step: dict[str, Any]) -> dict[str, Any]:
    """Mean reward of a sample, of the best of N (the same samples, in groups of N for a source), and chrF of the samples."""
    sizes = [2**i for i in range(options.best_of.bit_length())]
    result = evaluate(agent, env, k=sizes[-1], seed=12345)
    rewards = np.array([e.score for e in result.episodes])  # those of one source together
    best = {n: float(rewards.reshape(-1, n).max(1).mean()) for n in sizes}
    name = f"G={step['grow']} I={step['improve']}" if step["grow"] else "before"
    kept = {key: step.get(key) for key in ("grow", "improve", "threshold", "kept_share", "coverage", "held_out")}
    interval, chrf = list(result.metrics["mean_score"].interval()), float(result.metrics["chrf"])
    return {"name": name, **kept, "reward": float(rewards.mean()), "interval": interval, "best_of": best, "chrf": chrf}


def show(rows: list[dict[str, Any]], title: str) -> None:
    sizes = list(rows[0]["best_of"])[1:]
    table = Table("policy", "threshold", "kept", "reward of a sample", *(f"best of {n}" for n in sizes), "chrF", title=title)
    for row in rows:
        threshold = "" if row["threshold"] is None else f"{row['threshold']:.2f}"
        kept = "" if row["kept_share"] is None else f"{row['kept_share']:.0%}"
        reward = "{:.3f}  [{:.3f}, {:.3f}]".format(row["reward"], *row["interval"])
        best = [f"{row['best_of'][n]:.3f}" for n in sizes]
        table.add_row(row["name"], threshold, kept, reward, *best, f"{row['chrf']:.1f}")
    Console(highlight=False).print(table)


def draw(rows: list[dict[str, Any]], path: str) -> None:
    picture, most = figure(9, 3.6), list(rows[0]["best_of"])[-1]
    left, right = picture.subplots(1, 2)
    for grow in sorted({row["grow"] for row in rows} - {0}):
        own = [row for row in rows if row["grow"] == grow]
        steps = [row["improve"] for row in own]
        left.plot(steps, [row["reward"] for row in own], "o-", color=f"C{grow}", label=f"G={grow}, a sample")
        left.plot(steps, [row["best_of"][most] for row in own], "^--", color=f"C{grow}", label=f"G={grow}, best of {most}")
        right.plot(own[-1]["best_of"].keys(), own[-1]["best_of"].values(), "o-", color=f"C{grow}", label=own[-1]["name"])
    left.axhline(rows[0]["reward"], color="black", linestyle=":", label="before, a sample")
    right.plot(rows[0]["best_of"].keys(), rows[0]["best_of"].values(), "o:", color="black", label="before")
    left.set(xlabel="Improve steps", ylabel="held-out reward", xticks=range(len(QUANTILES)))
    right.set_xscale("log", base=2)
    right.set(xlabel="N of best-of-N", xticks=list(rows[0]["best_of"]))
    _ = left.legend(fontsize=7), right.legend(fontsize=7)
    picture.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
