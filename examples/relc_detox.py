"""RELC on detoxification: a critic's spans beside the score, against the score alone, at the same number of tokens.

    python examples/relc_detox.py [--seed 0] [--total-timesteps 40000] [--out runs/relc]

`textenv/Detox-v0`, twice: with `reward="sparse"` the last token of a text is paid the classifier's 1 − toxicity and nothing else;
with `reward="critic_span"` a critic language model reads the text besides, and the tokens of each insult that it names are charged
0.5. Everything else is the same. Shown on held-out prompts, before, at half of the budget and at its end: the toxicity that the
field reports (never the paid return), the share of texts with a real insult, which only the embedded world can tell, and the
perplexity under the untrained model; intervals are over prompts. (Cao et al. 2024, arXiv 2401.07382.)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

import textenv  # noqa: F401 - registers the environments
from textenv.agents import LMPolicy, TokenPPO, evaluate
from textenv.embedded import truth
from textenv.episode import Episode
from textenv.metrics import Estimate
from textenv.render import printable
from textenv.task import by_prompt

SETTINGS = {"learning_rate": 4e-4, "kl_coef": 0.1, "n_episodes": 64, "batch_size": 16, "n_epochs": 4}
SHOWN = ("mean_toxicity", "average_max_toxicity", "toxicity_probability", "truly_toxic", "perplexity", "mean_length")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-timesteps", type=int, default=40_000, help="tokens of each of the two runs (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=25, help="texts of each (default: %(default)s)")
    parser.add_argument("--out", help="save the agent that the critic taught to this directory")
    options = parser.parse_args()

    start = LMPolicy("textenv/tiny")
    metrics, episodes = judged(start, start, options)
    table = Table("held-out prompts", *SHOWN, title="textenv/Detox-v0")
    table.add_row("before", *map(cell, metrics))
    for reward in ("sparse", "critic_span"):
        agent = TokenPPO("textenv/tiny", gym.make("textenv/Detox-v0", reward=reward), seed=options.seed, **SETTINGS)
        for _ in range(2):
            agent.learn(max(options.total_timesteps // 2, 1), reset_num_timesteps=False, progress_bar=True)
            table.add_row(f"{reward}, {agent.num_timesteps:,} tokens", *map(cell, judged(agent, start, options)[0]))
    Console(highlight=False, width=180).print(table)
    show_credit(episodes)
    if options.out:
        agent.save(options.out)


def judged(writer: object, reference: LMPolicy, options: argparse.Namespace) -> tuple[list[Estimate], Sequence[Episode]]:
    held_out = gym.make("textenv/Detox-v0", split="test")
    result = evaluate(writer, held_out, options.prompts, k=options.samples, reference=reference, seed=12345)
    real = Estimate([np.mean([truth.toxicity(e.text) for e in group]) for group in by_prompt(result.episodes)])
    return [{**result.metrics, "truly_toxic": real}[name] for name in SHOWN], result.episodes


def cell(value: Estimate) -> str:
    low, high = value.interval()
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def show_credit(episodes: Sequence[Episode]) -> None:
    """Of the untrained model's texts the first in which the critic finds something: each token with what it is paid."""
    for episode in gym.make("textenv/Detox-v0", reward="critic_span").get_wrapper_attr("credit")(episodes[:32]):
        if (episode.rewards < 0).any():
            pieces = [printable(episode.text[a:b]) + (f"({paid:+.2f})" if paid else "")
                      for (a, b), paid in zip(episode.offsets, episode.rewards, strict=True)]  # fmt: skip
            print(f"an untrained text as the critic credits it: {printable(episode.prompt.text)}{''.join(pieces)}")
            return


if __name__ == "__main__":
    main()
