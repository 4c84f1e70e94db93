"""RED (R3HF) on summarization: the reward model's score, redistributed over the tokens that changed it.

    python examples/red_summarization.py [--seed 0] [--total-timesteps 20000] [--mix 1.0] [--out runs/red]

`textenv/Summarization-v0`, twice, with one reward model: with `reward="sparse"` its score of the summary is paid at the end; with
`reward="redistributed"` each token is paid by how much it changed the score of the text so far, which sums to the same but for a
constant of the document. Shown on held-out documents, before and after: the reward model's score of the whole summary (never the
paid return); by the embedded world's truth, the share of stated facts that the document supports and of key facts that are
covered; ROUGE-L, length, and the perplexity under the untrained model. Intervals are over documents. (Li et al., arXiv 2411.08302.)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gymnasium as gym
from rich.console import Console
from rich.table import Table

import textenv  # noqa: F401 - registers the environments
from textenv.agents import Evaluation, LMPolicy, TokenPPO, evaluate
from textenv.episode import Episode
from textenv.metrics import Estimate
from textenv.render import printable

SETTINGS = {"learning_rate": 2e-4, "kl_coef": 0.4, "n_episodes": 64, "batch_size": 16, "n_epochs": 4}
SHOWN = ("reward", "supported_share", "key_fact_coverage", "rougeL", "mean_length", "perplexity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-timesteps", type=int, default=20_000, help="tokens of each of the two runs (default: %(default)s)")
    parser.add_argument("--mix", type=float, default=1.0, help="β_c: 0 is the sparse reward (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=128, help="held-out documents (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="summaries of each (default: %(default)s)")
    parser.add_argument("--out", help="save the agent of the redistributed reward to this directory")
    options = parser.parse_args()

    start = LMPolicy("textenv/tiny")
    before = judged(start, start, options)
    table = Table("held-out documents", *SHOWN, title="textenv/Summarization-v0; reward: the score of the whole summary")
    table.add_row("before", *cells(before))
    for name, reward in (("sparse", "sparse"), ("redistributed", ("redistributed", {"mix": options.mix}))):
        env = gym.make("textenv/Summarization-v0", reward=reward)
        agent = TokenPPO("textenv/tiny", env, seed=options.seed, **SETTINGS)
        agent.learn(options.total_timesteps, progress_bar=True)
        result = judged(agent, start, options)
        table.add_row(f"{name}, {agent.num_timesteps:,} tokens", *cells(result))
    Console(highlight=False, width=180).print(table)
    show_credit(env, before.episodes)
    if options.out:
        agent.save(options.out)


def judged(writer: object, reference: LMPolicy, options: argparse.Namespace) -> Evaluation:
    held_out = gym.make("textenv/Summarization-v0", split="test")
    return evaluate(writer, held_out, options.prompts, k=options.samples, reference=reference, seed=12345)


def cells(result: Evaluation) -> list[str]:
    return [cell(result.metrics[name]) for name in SHOWN]


def cell(value: Estimate) -> str:
    low, high = value.interval()
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def show_credit(env: gym.Env, episodes: Sequence[Episode]) -> None:
    """An untrained model's summary: each token with the change of the score that it is paid."""
    (episode,) = env.get_wrapper_attr("credit")(episodes[:1])
    pieces = [f"{printable(episode.text[a:b])}({paid:+.1f})" for (a, b), paid in zip(episode.offsets, episode.rewards, strict=True)]
    print(f"a document: {printable(episode.prompt.text)}")
    print(f"a summary by the untrained model, score {episode.score:+.1f}, paid: {''.join(pieces)}")


if __name__ == "__main__":
    main()
