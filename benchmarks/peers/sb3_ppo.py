"""Stable-Baselines3's PPO by hand, as one would begin: a token environment, a GPT-2 features extractor, a forward pass a step.

Actor and critic share the trunk; the reward model judges inside `env.step`, one text at a time; the KL is taken off the rewards at
the end of a rollout, of all stored states in batches. Texts of 16 environments side by side.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.peers.arguments import begin, versions
from benchmarks.stopwatch import Stopwatch
from benchmarks.work_unit import GAMMA, KL, LAMBDA, PAD, RATE, Work

ENVIRONMENTS = 16


class TokenEnv(gym.Env[Any, Any]):
    """Ids so far, left-padded; an action is the next id; the score on the last step."""

    def __init__(self, work: Work, judge: Any, at: int) -> None:
        self.work, self.judge, self.at, self.prompts = work, judge, at, work.prompts(512)
        self.length = work.prompt_tokens + work.new_tokens
        self.observation_space = gym.spaces.Box(0, work.vocabulary - 1, (self.length,), np.int64)
        self.action_space = gym.spaces.Discrete(work.vocabulary)
        self.ids: list[int] = []

    def _observation(self) -> Any:
        seen = np.full(self.length, PAD, np.int64)
        seen[self.length - len(self.ids) :] = self.ids
        return seen

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.ids = self.prompts[self.at % len(self.prompts)].tolist()
        self.at += ENVIRONMENTS
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        import torch

        self.ids.append(int(action))
        done, score = len(self.ids) == self.length, 0.0
        if done:
            with torch.no_grad():
                score = self.judge(input_ids=torch.tensor([self.ids])).logits.item()
        return self._observation(), score, done, False, {}


def main() -> None:
    given = begin(__doc__)
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv

    work, watch = Work(given.size, given.epochs, episodes=given.episodes), Stopwatch()
    tokens = work.episodes * work.new_tokens
    reference, judge = work.policy().eval(), work.judge()

    def read(trunk: Any, seen: Any) -> Any:
        ids = seen.long()
        mask = (ids != PAD).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = trunk(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return out.last_hidden_state[:, -1]

    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space: Any) -> None:
            config = work.config()
            super().__init__(space, config.n_embd)
            self.trunk = work.policy().transformer

        def forward(self, seen: Any) -> Any:
            return read(self.trunk, seen)

    class Penalty(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                watch.lap("update")
                watch.end(tokens)
            watch.begin()

        def _on_rollout_end(self) -> None:
            watch.lap("sample")
            buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
            seen = torch.as_tensor(buffer.observations).reshape(tokens, -1)
            actions = torch.as_tensor(buffer.actions).long().reshape(-1)
            parts = []
            with torch.no_grad():
                for at in range(0, tokens, 128):
                    logits = reference.lm_head(read(reference.transformer, seen[at : at + 128]))
                    parts.append(logits.log_softmax(-1).gather(1, actions[at : at + 128, None])[:, 0])
            buffer.rewards -= KL * (buffer.log_probs - torch.cat(parts).numpy().reshape(buffer.rewards.shape))
            buffer.compute_returns_and_advantage(torch.zeros(ENVIRONMENTS), np.ones(ENVIRONMENTS))
            watch.lap("score")

    envs = DummyVecEnv([lambda at=at: TokenEnv(work, judge, at) for at in range(ENVIRONMENTS)])  # type: ignore[misc]
    agent = PPO(
        "MlpPolicy", envs, n_steps=tokens // ENVIRONMENTS, batch_size=work.minibatch * work.new_tokens, n_epochs=work.epochs,
        learning_rate=RATE, gamma=GAMMA, gae_lambda=LAMBDA, seed=0, device="cpu",
        policy_kwargs={"features_extractor_class": Extractor, "net_arch": []},
    )  # fmt: skip
    with torch.no_grad():
        agent.policy.action_net.weight.copy_(reference.lm_head.weight)
        agent.policy.action_net.bias.zero_()
    agent.learn(tokens * (1 + given.iterations), callback=Penalty())
    watch.lap("update")
    watch.end(tokens)
    watch.report(
        who="SB3 PPO by hand", size=work.size, epochs=work.epochs, threads=torch.get_num_threads(),
        **versions("stable-baselines3"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
