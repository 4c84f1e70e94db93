"""A reward of one's own in ten lines: as a function of a text, and as a class with one method.

    python examples/custom_reward.py [--rounds 8] [--seed 0]

`unprintable` stands beside the score and charges each unreadable character where it stands. `WhereEarned` takes the score from the
last token and hands it to the tokens that earned it. Both go where `reward=` takes a name; at the command line they are named by
their module: `textenv train textenv/CountLetter-v0 --reward my_module:WhereEarned`. A small random model learns to say "a" with
each of them and with the score alone. Shown is the score, the share of "a", with an interval over prompts, never what the rewards
made of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import textenv
from textenv.agents import TokenPPO, evaluate
from textenv.episode import Episode
from textenv.metrics import Estimate
from textenv.wrappers import RewardFromFunction


def unprintable(episode: Episode) -> list[textenv.Span]:
    """Spans, one number a token, or one number for the text: what a function returns says where it is paid."""
    return [textenv.Span(i, i + 1, reward=-1 / 16) for i, character in enumerate(episode.text) if not character.isprintable()]


class WhereEarned(textenv.RewardWrapper):
    """A class sees a whole batch, and tells what it does: here the return stays, and no token's credit looks ahead."""

    keeps_return, causal, takes_score = True, True, True

    def rewards(self, episodes: Sequence[Episode]) -> list[np.ndarray]:
        out = [e.rewards + [e.text[a:b].count("a") / 16 for a, b in e.offsets] for e in episodes]  # (T,) each
        for episode, credit in zip(episodes, out, strict=True):
            if episode.finished:  # texts are paid while they are written, too: then there is no score yet
                credit[-1] -= episode.score
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=8, help="of 160 texts each (default: %(default)s)")
    options = parser.parse_args()

    rewards = {"the score alone": "sparse", "a function": RewardFromFunction(unprintable, causal=True), "a class": WhereEarned}
    for name, reward in rewards.items():
        env = gym.make("textenv/CountLetter-v0", reward=reward, prompts=[f"Say a ({i}): " for i in range(16)])
        agent = TokenPPO(random_model(options.seed), env, learning_rate=3e-3, kl_coef=0.0, n_episodes=32, seed=options.seed)
        before = score(agent, env)
        agent.learn(options.rounds * 160 * 16)
        print(f"{name:16} before {before}, after {agent.num_timesteps:,} tokens {score(agent, env)}")


def score(agent: TokenPPO, env: gym.Env) -> str:
    value = evaluate(agent, env, k=16, seed=1).metrics["mean_score"]
    assert isinstance(value, Estimate)
    low, high = value.interval()
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def random_model(seed: int) -> LlamaForCausalLM:
    tokenizer = textenv.load_tokenizer("bytes")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, eos_token_id=tokenizer.eos_token_id,
        ))  # fmt: skip


if __name__ == "__main__":
    main()
