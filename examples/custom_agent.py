"""An agent of one's own: REINFORCE in thirty lines, on whatever credit the wrappers place.

    python examples/custom_agent.py [--reward sparse] [--steps 80]

What it needs of the library: `rollout`, which writes a batch of texts and has them credited; `Episode`, with tokens (T,) and their
credit (T,); and `LMPolicy.evaluate`, the log-probability of each token, with a gradient. The rest is the reader's. An agent with
an attribute `policy` is taken by `evaluate` as it is.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import textenv
from textenv.agents import LMPolicy, evaluate, rollout

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--reward", default="critic_span", choices=sorted(textenv.REWARDS))
parser.add_argument("--steps", type=int, default=80, help="batches of 32 texts (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0)


class Reinforce:
    """∇ Σ_t log π(y_t | x, y_<t) (G_t − b_t), G_t the credit from token t on, b_t its mean over the batch."""

    def __init__(self, policy: LMPolicy, env: gym.Env, *, n_episodes: int = 32, learning_rate: float = 1e-2, seed: int = 0) -> None:
        self.policy, self.env, self.n_episodes = policy, env, n_episodes
        self.policy.fit_to(env)  # the same tokens, and room for them
        self.rule = env.get_wrapper_attr("action_rule")
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
        self.generator = torch.Generator().manual_seed(seed)  # the global generators are the user's
        env.reset(seed=seed)

    def step(self) -> float:
        """One batch; the mean score of its texts."""
        episodes = rollout(self.env, self.policy, self.n_episodes, self.generator)
        returns = [np.cumsum(e.rewards[::-1])[::-1] for e in episodes]  # (T,) each
        longest = max(map(len, episodes))
        padded = np.array([np.pad(r, (0, longest - len(r))) for r in returns])  # (B, T): after its end a text earns nothing
        baseline = padded.mean(0)
        advantages = torch.from_numpy(np.concatenate([r - baseline[: len(r)] for r in returns])).float()
        tokens = self.policy.evaluate([e.prompt_tokens for e in episodes], [e.tokens for e in episodes], self.rule)
        loss = -(tokens.log_probs * advantages.to(self.policy.device)).sum() / len(episodes)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        return float(np.mean([e.score for e in episodes]))


def main() -> None:
    options = parser.parse_args()
    env = gym.make("textenv/CountLetter-v0", reward=options.reward)
    tokenizer = env.get_wrapper_attr("tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        ))  # fmt: skip
    agent = Reinforce(LMPolicy(model, tokenizer), env, seed=options.seed)
    before = evaluate(agent, env, k=32).metrics["mean_score"]
    for i in range(options.steps):
        score = agent.step()
        if (i + 1) % 10 == 0:
            print(f"{(i + 1) * agent.n_episodes:5d} texts  mean score {score:.2f}")
    result = evaluate(agent, env, k=32)
    print(f"before {before:.2f}, after {result.metrics['mean_score']:.2f}: {result.episodes[0].text!r}")


if __name__ == "__main__":
    main()
