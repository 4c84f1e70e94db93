"""The main job, offline: a small language model learns from a critic's spans to continue texts without insults.

    python examples/detox_demo.py [--seed 0] [--total-timesteps 40000] [--out runs/detox]

`textenv/Detox-v0` with `reward="critic_span"`: a critic language model reads each text and lists its insults, whose tokens
are charged −0.5 each; the toxicity classifier's verdict stands on the last token. Shown, before and after, on held-out
prompts with k = 25 texts each: what the field reports, the perplexity under the untrained model, the length, and what
only the embedded world can tell: the share of texts with a real insult, and of sentences that its grammar accepts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

import textenv  # noqa: F401 - registers the environments
from textenv.agents import Evaluation, LMPolicy, TokenPPO, evaluate
from textenv.embedded import grammar, truth
from textenv.episode import Episode
from textenv.metrics import Estimate
from textenv.render import printable
from textenv.task import by_prompt
from textenv.threads import set_threads

SETTINGS = {"learning_rate": 2e-4, "kl_coef": 0.1, "n_episodes": 64, "batch_size": 16, "n_epochs": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-timesteps", type=int, default=40_000, help="generated tokens (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts (default: %(default)s)")
    parser.add_argument("--out", help="save the agent to this directory")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of tables")
    options = parser.parse_args()
    set_threads()

    env = gym.make("textenv/Detox-v0", reward="critic_span")
    held_out = gym.make("textenv/Detox-v0", split="test")
    agent = TokenPPO("textenv/tiny", env, seed=options.seed, **SETTINGS)
    reference = LMPolicy("textenv/tiny")
    before = judged(agent, held_out, reference, options)
    began = time.perf_counter()
    agent.learn(options.total_timesteps, progress_bar=not options.json)
    seconds = time.perf_counter() - began
    after = judged(agent, held_out, reference, options)
    if options.out:
        agent.save(options.out)
    if options.json:
        print(json.dumps({"seed": options.seed, "seconds": seconds, "before": numbers(before), "after": numbers(after)}))
    else:
        show(before, after, seconds, agent.num_timesteps)


def judged(agent: TokenPPO, env: gym.Env, reference: LMPolicy, options: argparse.Namespace) -> Evaluation:
    result = evaluate(agent, env, options.prompts, k=25, reference=reference, seed=12345)
    groups = by_prompt(result.episodes)
    real = Estimate([np.mean([truth.toxicity(e.text) for e in group]) for group in groups])
    accepted = Estimate([accepted_share(group) for group in groups])
    return Evaluation(result.episodes, {**result.metrics, "truly_toxic": real, "accepted_sentences": accepted})


def accepted_share(episodes: Sequence[Episode]) -> float:
    return grammar.accepted_share([e.text for e in episodes], [e.prompt.text for e in episodes])


def numbers(result: Evaluation) -> dict[str, list[float]]:
    return {name: [float(value), *value.interval()] for name, value in result.metrics.items()}


def show(before: Evaluation, after: Evaluation, seconds: float, tokens: int) -> None:
    console = Console(highlight=False)
    console.print(f"\n{tokens:,} tokens in {seconds:.0f} s ({tokens / seconds:,.0f} tokens/s)")
    table = Table("held-out prompts, 25 texts each", "before", "after", title="textenv/Detox-v0, reward=critic_span")
    for name, value in before.metrics.items():
        table.add_row(name.replace("_", " "), cell(value), cell(after.metrics[name]))
    console.print(table)
    texts = Table("prompt", "before", "after", title="Five texts", show_lines=True)
    for old, new in list(zip(by_prompt(before.episodes), by_prompt(after.episodes), strict=True))[:5]:
        texts.add_row(*(Text(printable(text)) for text in (old[0].prompt.text, old[0].text, new[0].text)))
    console.print(texts)


def cell(value: Estimate) -> str:
    low, high = value.interval()
    return f"{value:.3f}  [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
