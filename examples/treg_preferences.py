"""T-REG against DPO on the same preferences (Zhou et al. 2024): several texts a prompt, ranked by the score, best against worst.

    python examples/treg_preferences.py [--seed 0] [--prompts 256] [--steps 96] [--out runs/treg]

`textenv/tiny` writes the texts once, the environment's own classifier ranks them, and two copies of the model learn from the
same pairs: by DPO, and by T-REG, where the model itself, asked for a better and for a worse text, says which tokens of a pair
matter. Shown: the score on held-out prompts, how far each copy went from the model it began as, and the rewards of the
tokens of one pair.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch
from rich.console import Console
from rich.table import Table

import textenv  # noqa: F401 - registers the environments
from textenv.agents import LMPolicy, evaluate
from textenv.agents.preferences.learner import TREG
from textenv.agents.preferences.pairs import Pair, sample_pairs
from textenv.agents.preferences.token_regularization import load_token_source, token_rewards
from textenv.render import printable

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="textenv/Detox-v0")
    parser.add_argument("--policy", default="textenv/tiny", help="a name or a directory (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=256, help="that texts are sampled for (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5, help="texts a prompt (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=96, help=f"of {BATCH} pairs each (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.25, help="T-REG's coefficient (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=64, help="prompts, 4 texts each (default: %(default)s)")
    parser.add_argument("--out", help="save the T-REG agent to this directory")
    options = parser.parse_args()

    env = gym.make(options.environment, split="train")
    held_out = gym.make(options.environment, split="test")
    env.reset(seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    pairs = sample_pairs(env, LMPolicy(options.policy), options.prompts, options.samples, generator).pairs
    if not pairs:
        raise SystemExit("no two texts of one prompt differ in score; raise --prompts or --samples")
    tokens = options.steps * BATCH * sum(map(len, pairs)) // len(pairs)

    table = Table(
        "", "score, held out", "KL to the start", "pairs told apart", title=f"{len(pairs)} pairs, {tokens:,} tokens learned"
    )
    table.add_row("at first", told(LMPolicy(options.policy), held_out, options.held_out), "0", "")
    for name, alpha in (("DPO", 0.0), ("T-REG", options.alpha)):
        agent = TREG(options.policy, env, pairs, treg_alpha=alpha, batch_size=BATCH, learning_rate=2e-4, seed=options.seed)
        agent.learn(tokens, progress_bar=True)
        apart = agent.compare(pairs)["rewards/accuracies"]
        table.add_row(name, told(agent, held_out, options.held_out), f"{kl(agent, held_out, options.held_out):.2f}", f"{apart:.2f}")
    Console().print(table)
    show(pairs[0], env, options.policy)
    if options.out:
        agent.save(options.out)


def told(policy: object, env: gym.Env, n: int) -> str:
    episodes = evaluate(policy, env, n, k=4, seed=1).episodes
    return f"{sum(e.score for e in episodes) / len(episodes):.3f}"


@torch.no_grad()
def kl(agent: TREG, env: gym.Env, n: int) -> float:
    """Of one text, in nats, by the agent's own samples."""
    episodes = evaluate(agent, env, n, k=4, seed=1).episodes
    new, old = (agent.evaluate_tokens(policy, episodes).log_probs for policy in (agent.policy, agent.reference))
    return float((new - old).sum()) / len(episodes)


def show(pair: Pair, env: gym.Env, policy: str) -> None:
    """The two texts of a pair, each token with its reward, where the contrast says something."""
    source = load_token_source("contrastive", env, LMPolicy(policy))
    for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        (rewards,) = token_rewards(source, [text])
        pieces = [printable(text.text[a:b]) + (f"({r:+.2f})" if abs(r) > 0.1 else "")
                  for (a, b), r in zip(text.offsets, rewards, strict=True)]  # fmt: skip
        print(f"{name}: {''.join(pieces)}")


if __name__ == "__main__":
    main()
