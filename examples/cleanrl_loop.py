"""One file, one loop, nothing hidden: PPO as CleanRL writes it, on the native vector environment.

    python examples/cleanrl_loop.py [--rounds 30]

The loop knows Gymnasium alone. Rewards come densely, while the texts are written (`payment="online"` is the default), so there is
nothing to add for credit. The agent is an embedding and two layers: it sees the last four tokens.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import textenv  # noqa: F401 - registers the environments

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=30, help="rollouts, each followed by updates")
parser.add_argument("--n-envs", type=int, default=16, help="texts at a time")
parser.add_argument("--n-steps", type=int, default=64, help="tokens of each text row a round")
parser.add_argument("--seed", type=int, default=0, help="of the weights and the draws")
options = parser.parse_args()
gamma, gae_lambda, clip, epochs, minibatches = 1.0, 0.95, 0.2, 4, 4
torch.manual_seed(options.seed)

envs = gym.make_vec(
    "textenv/CountLetter-v0", num_envs=options.n_envs, reward="critic_span", pay_every="token", autoreset_mode="SameStep"
)
vocabulary = int(envs.single_action_space.n)


class Agent(nn.Module):
    """Actor and critic over the last four tokens, and how many have been said."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary + 1, 16)
        self.trunk = nn.Sequential(nn.Linear(65, 64), nn.Tanh())
        self.actor, self.critic = nn.Linear(64, vocabulary), nn.Linear(64, 1)

    def forward(self, observations: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        said = (observations >= 0).sum(1)  # tokens stand side by side, -1 on both sides
        first = (observations >= 0).float().argmax(1)
        columns = (first + said)[:, None] - torch.arange(1, 5)
        last = observations.gather(1, columns.clamp(min=0)) + 1
        features = torch.cat([self.embed(last).flatten(1), said[:, None] / observations.shape[1]], 1)
        hidden = self.trunk(features)
        return Categorical(logits=self.actor(hidden)), self.critic(hidden).squeeze(1)


agent = Agent()
optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3, eps=1e-5)
shape = (options.n_steps, options.n_envs)
observations = torch.zeros((*shape, envs.single_observation_space.shape[0]), dtype=torch.int64)
actions, log_probs, rewards, dones, values = (torch.zeros(shape) for _ in range(5))
following, _ = envs.reset(seed=options.seed)
scores: list[float] = []

for round_ in range(options.rounds):
    for t in range(options.n_steps):
        observations[t] = torch.from_numpy(following)
        with torch.no_grad():
            policy, values[t] = agent(observations[t])
            action = policy.sample()
        actions[t], log_probs[t] = action, policy.log_prob(action)
        following, reward, terminated, truncated, infos = envs.step(action.numpy())
        rewards[t], dones[t] = torch.from_numpy(reward), torch.from_numpy(terminated | truncated).float()
        for episode in infos.get("final_info", {}).get("text_episode", ()):
            if episode is not None:
                scores.append(episode.score)

    with torch.no_grad():
        next_value = agent(torch.from_numpy(following))[1]
    advantages, last = torch.zeros(shape), torch.zeros(options.n_envs)
    for t in reversed(range(options.n_steps)):
        goes_on = 1 - dones[t]  # the next value is another text's where this one ended
        delta = rewards[t] + gamma * next_value * goes_on - values[t]
        advantages[t] = last = delta + gamma * gae_lambda * goes_on * last
        next_value = values[t]
    returns = advantages + values

    flat = [x.flatten(0, 1) for x in (observations, actions, log_probs, advantages, returns)]
    for _ in range(epochs):
        for rows in torch.randperm(options.n_steps * options.n_envs).chunk(minibatches):
            seen, done, old, advantage, target = (x[rows] for x in flat)
            policy, value = agent(seen)
            ratio = (policy.log_prob(done) - old).exp()
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            gain = torch.min(advantage * ratio, advantage * ratio.clamp(1 - clip, 1 + clip)).mean()
            loss = -gain + 0.5 * (target - value).square().mean() - 0.01 * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
    tokens = (round_ + 1) * options.n_steps * options.n_envs
    print(f"{tokens:6d} tokens  {len(scores):5d} texts  mean score of the last hundred {np.mean(scores[-100:]):.2f}", flush=True)
