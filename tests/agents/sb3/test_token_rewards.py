"""Unmodified Stable-Baselines3 algorithms learn from the credit that wrappers place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.worlds import Memory, make
from textenv.agents import TokenRewards
from textenv.episode import Episode

STEPS, BUDGET = 10, 4


class Witness(BaseCallback):
    """Keeps the buffer's rewards of every rollout and every finished text with its place: (rollout, last row, column)."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[np.ndarray[Any, Any]] = []
        self.texts: list[tuple[int, int, int, Episode]] = []

    def _on_step(self) -> bool:
        for i, info in enumerate(self.locals["infos"]):
            if "text_episode" in info:
                self.texts.append((len(self.buffers), self.model.rollout_buffer.pos, i, info["text_episode"]))
        return True

    def _on_rollout_end(self) -> None:
        self.buffers.append(self.model.rollout_buffer.rewards.copy())


def envs(n: int = 2, **options: Any) -> Any:
    settings = {"reward": "critic_span", "payment": "end", "max_new_tokens": BUDGET, **options}
    return make_vec_env(lambda: make(**settings), n, seed=0)


def learn(algorithm: Any = PPO, rollouts: int = 3, callback: Any = None, **options: Any) -> tuple[Any, Witness]:
    witness = Witness()
    settings: dict[str, Any] = {"n_steps": STEPS, "seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
    if algorithm is PPO:
        settings |= {"batch_size": 2 * STEPS, "n_epochs": 1}
    model = algorithm("MlpPolicy", envs(**options), **settings)
    model.memory = Memory()
    model.set_logger(Logger(None, [model.memory]))
    model.learn(rollouts * STEPS * 2, callback=CallbackList([callback or TokenRewards(), witness]))
    return model, witness


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize(
    "payment", [{"payment": "end"}, {"payment": "online", "pay_every": "token"}, {"payment": "online"}], ids=str
)
def test_the_buffer_holds_the_credit_that_info_tells(algorithm: Any, payment: dict[str, Any]) -> None:
    _, witness = learn(algorithm, **payment, prompts=["p"], critic=evens)
    assert any(episode.rewards[:-1].any() for *_, episode in witness.texts)
    crossed = 0
    for rollout, last, column, episode in witness.texts:
        here = min(len(episode), last + 1)
        crossed += here < len(episode)
        placed = witness.buffers[rollout][last - here + 1 : last + 1, column]
        assert placed.tolist() == pytest.approx(episode.rewards[-here:].tolist())
    assert crossed  # some texts began in an earlier rollout: the part that is left is placed


def evens(episodes: Any, /) -> Any:
    """A span on every character with an even code."""
    from textenv.episode import Span

    return [[Span(i, i + 1, 1.0) for i, c in enumerate(e.text) if ord(c) % 2 == 0] for e in episodes]


def test_credit_of_an_earlier_rollout_is_counted_as_lost() -> None:
    model, witness = learn(rollouts=1)
    first = sum(len(episode) - min(len(episode), last + 1) for _, last, _, episode in witness.texts)
    assert first == 0
    model, witness = learn(rollouts=2)
    second = sum(len(e) - min(len(e), last + 1) for rollout, last, _, e in witness.texts if rollout == 1)
    assert model.memory.rows[-1]["credit/tokens_lost"] == second > 0


def test_nothing_is_lost_where_rollouts_hold_whole_texts() -> None:
    _, witness = learn(max_new_tokens=5)
    lost = [len(e) > last + 1 for rollout, last, _, e in witness.texts if rollout == 0]
    assert not any(lost)


def test_advantages_are_computed_from_the_placed_credit() -> None:
    class Advantages(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            buffer = self.model.rollout_buffer
            # γ = λ = 1 and nothing after a text: the return of a token is the credit from it to the end of its text.
            starts = np.vstack([buffer.episode_starts[1:], self.locals["dones"][None]])
            following, out = np.zeros(2), np.zeros_like(buffer.rewards)
            for t in reversed(range(STEPS)):
                following = np.where(starts[t], 0, following if t < STEPS - 1 else np.nan) + buffer.rewards[t]
                out[t] = following
            known = ~np.isnan(out)
            assert known.any()
            assert np.allclose(buffer.returns[known], out[known], atol=1e-5)

    model = PPO("MlpPolicy", envs(prompts=["p"], critic=evens), n_steps=STEPS, batch_size=20, n_epochs=1, gamma=1.0, gae_lambda=1.0,
                seed=0, device="cpu")  # fmt: skip
    model.learn(40, callback=CallbackList([TokenRewards(), Advantages()]))


def test_an_algorithm_without_a_rollout_buffer_is_refused() -> None:
    with pytest.raises(TypeError, match="TokenRewards needs an on-policy algorithm with a rollout buffer, got DQN"):
        DQN("MlpPolicy", make(), buffer_size=10, device="cpu").learn(1, callback=TokenRewards())


def test_an_environment_without_texts_is_refused() -> None:
    import gymnasium as gym

    model = PPO(
        "MlpPolicy", DummyVecEnv([lambda: gym.make("CartPole-v1", max_episode_steps=2)]), n_steps=8, batch_size=8, device="cpu"
    )
    with pytest.raises(ValueError, match=r"without info\['text_episode'\]; TokenRewards serves text environments"):
        model.learn(8, callback=TokenRewards())


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (PPO, {"n_steps": 128, "batch_size": 128, "learning_rate": 3e-3}),
        (A2C, {"n_steps": 16, "learning_rate": 3e-3, "gae_lambda": 0.95, "use_rms_prop": False, "normalize_advantage": True}),
    ],
)
def test_it_solves_the_smallest_world(algorithm: Any, settings: dict[str, Any]) -> None:
    model = algorithm("MlpPolicy", envs(8, max_new_tokens=8), gamma=1.0, seed=0, device="cpu", **settings)
    scores: list[float] = []
    for _ in range(4):
        model.learn(10_000, callback=TokenRewards(), reset_num_timesteps=False)
        scores = [entry["r"] / 2 for entry in model.ep_info_buffer]  # the score, and as much from the critic
        if np.mean(scores[-20:]) >= 0.95:
            break
    assert np.mean(scores[-20:]) >= 0.95
