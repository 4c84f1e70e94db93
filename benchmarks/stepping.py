"""The step-by-step road on the work unit: unmodified Stable-Baselines3 PPO with `LanguageModelActorCritic`, 16 environments.

    python -m benchmarks.stepping --size S                  # one line of JSON, as those of `benchmarks.peers`
    python -m benchmarks.peers.sb3_ppo --size S             # the same by hand: a forward pass a step

Texts are stepped through Gym token by token, scored when they end; the KL to the reference is taken off the rewards at the end of
a rollout, one forward pass a text. `benchmarks.compare` runs both.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.arguments import begin, versions
from benchmarks.stopwatch import Stopwatch
from benchmarks.work_unit import GAMMA, KL, LAMBDA, RATE, Work

ENVIRONMENTS = 16


def main() -> None:
    given = begin(__doc__)
    import numpy as np
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv

    from benchmarks.ppo import environment
    from textenv import TextEnv
    from textenv.agents import LanguageModelActorCritic, LMPolicy

    work, watch = Work(given.size, given.epochs, episodes=given.episodes), Stopwatch()
    tokens = work.episodes * work.new_tokens
    env = environment(work, torch.float32, "cpu")
    reference = LMPolicy(work.policy(), device="cpu")

    class Penalty(BaseCallback):
        """β k_t off each token's reward, for the texts that end in a rollout: all of them, but for a rare EOS."""

        def _on_step(self) -> bool:
            for i, done in enumerate(self.locals["dones"]):
                if done:
                    self.ended.append((i, self.model.rollout_buffer.pos, self.locals["infos"][i]["text_episode"]))  # type: ignore[attr-defined]
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                watch.lap("update")
                watch.end(tokens)
            self.ended: list[tuple[int, int, Any]] = []  # environment, last step, episode
            watch.begin()

        def _on_rollout_end(self) -> None:
            watch.lap("sample")
            buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
            texts = [episode for *_, episode in self.ended]
            with torch.no_grad():
                read = reference.evaluate([e.prompt_tokens for e in texts], [e.tokens for e in texts], env.action_rule)
            parts = np.split(read.log_probs.numpy(), np.cumsum([len(e) for e in texts])[:-1])
            for (i, last, _), of_reference in zip(self.ended, parts, strict=True):
                here = of_reference[-1 - last :]  # what was written in an earlier rollout is gone
                rows = slice(last + 1 - len(here), last + 1)
                buffer.rewards[rows, i] -= KL * (buffer.log_probs[rows, i] - here)
            buffer.compute_returns_and_advantage(torch.zeros(ENVIRONMENTS), np.ones(ENVIRONMENTS))
            watch.lap("score")

    def another() -> Any:
        """An environment of the same task and tokenizer: the reward model is there once."""
        return TextEnv(env.task, env.tokenizer, max_prompt_tokens=work.prompt_tokens, max_new_tokens=work.new_tokens)

    envs = DummyVecEnv([another] * ENVIRONMENTS)
    agent = PPO(
        LanguageModelActorCritic, envs, n_steps=tokens // ENVIRONMENTS, batch_size=work.minibatch * work.new_tokens,
        n_epochs=work.epochs, learning_rate=RATE, gamma=GAMMA, gae_lambda=LAMBDA, seed=0, device="cpu",
        policy_kwargs={"model": work.policy},
    )  # fmt: skip
    agent.learn(tokens * (1 + given.iterations), callback=Penalty())
    watch.lap("update")
    watch.end(tokens)
    watch.report(
        who="textenv, SB3 PPO", size=work.size, epochs=work.epochs, threads=torch.get_num_threads(),
        **versions("stable-baselines3"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
