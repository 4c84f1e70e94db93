"""ALaRM on long answers: choose the aspect that contradicts the score least, then pay it where the answer is good as a whole.

    python examples/alarm_longform_qa.py [--seed 0] [--total-timesteps 16000] [--pairs 512] [--out runs/alarm]

`textenv/LongFormQA-v0`. First `select_aspects` compares greedy with sampled answers of the untrained model: how often does an
aspect prefer the one that the holistic reward model does not? Then two runs: `reward="sparse"`, the score alone, and
`reward="hierarchical"`, its z-value, and the chosen aspect's verdicts where that passes a gate (`--baseline weighted_sum` compares
with the paper's sum without the gate instead). Shown on held-out questions, before and after: the reward model's score (never the
paid return), and by the embedded world's truth the shares that are factual, relevant and complete. Intervals are over questions.
(Lai et al. 2024, arXiv 2403.06754.)
"""

from __future__ import annotations

import argparse
import warnings

import gymnasium as gym
from rich.console import Console
from rich.table import Table

import textenv  # noqa: F401 - registers the environments
from textenv.agents import Evaluation, LMPolicy, TokenPPO, evaluate, select_aspects
from textenv.metrics import Estimate

SETTINGS = {"learning_rate": 2e-4, "kl_coef": 0.4, "n_episodes": 64, "batch_size": 16, "n_epochs": 4}
ASPECTS = ["factuality", "relevance", "completeness"]  # each judged by a model of its own
SHOWN = ("reward", "factual_share", "relevant_share", "complete_share", "mean_length", "perplexity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=512, help="to choose the aspect by (default: %(default)s)")
    parser.add_argument("--aspects", nargs="+", default=ASPECTS, help="to choose from (default: %(default)s)")
    parser.add_argument("--baseline", default="sparse", choices=("sparse", "weighted_sum"), help="(default: %(default)s)")
    parser.add_argument("--total-timesteps", type=int, default=16_000, help="tokens of each of the two runs (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=128, help="held-out questions (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="answers to each (default: %(default)s)")
    parser.add_argument("--out", help="save the agent of the hierarchical reward to this directory")
    options = parser.parse_args()

    start = LMPolicy("textenv/tiny")
    aspect = chosen(start, options)
    table = Table("held-out questions", *SHOWN, title="textenv/LongFormQA-v0; reward: the holistic score of the whole answer")
    table.add_row("before", *cells(judged(start, start, options)))
    for name in (options.baseline, "hierarchical"):
        reward = name if name == "sparse" else (name, {"aspects": aspect})
        env = gym.make("textenv/LongFormQA-v0", reward=reward)
        agent = TokenPPO("textenv/tiny", env, seed=options.seed, **SETTINGS)
        agent.learn(options.total_timesteps, progress_bar=True)
        table.add_row(f"{name}, {agent.num_timesteps:,} tokens", *cells(judged(agent, start, options)))
    Console(highlight=False, width=180).print(table)
    if options.out:
        agent.save(options.out)


def chosen(policy: LMPolicy, options: argparse.Namespace) -> str:
    """The aspect's name; where the pairs do not tell it from the second, that is said below the table."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        found = select_aspects(gym.make("textenv/LongFormQA-v0"), policy, options.aspects, options.pairs, seed=options.seed)
    for note in notes:
        print(f"note: {note.message}")
    return found.picked


def judged(writer: object, reference: LMPolicy, options: argparse.Namespace) -> Evaluation:
    held_out = gym.make("textenv/LongFormQA-v0", split="test")
    return evaluate(writer, held_out, options.prompts, k=options.samples, reference=reference, seed=12345)


def cells(result: Evaluation) -> list[str]:
    return [cell(result.metrics[name]) for name in SHOWN]


def cell(value: Estimate) -> str:
    low, high = value.interval()
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
