"""Dense credit for unmodified Stable-Baselines3 on-policy algorithms (PPO, A2C and those of sb3-contrib).

With `payment="end"` an environment judges a finished text once and pays its sum on the last step. This callback puts
the credit where it belongs: into the rollout buffer, before SB3 computes advantages. SB3 calls `_on_step` before it
adds the step to the buffer, so the last token's reward is still in `locals["rewards"]`, the earlier ones lie behind.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from textenv.episode import Episode

__all__ = ["TokenRewards"]


class TokenRewards(BaseCallback):
    """`PPO("MlpPolicy", env).learn(n, callback=TokenRewards())`.

    The credit of tokens that were collected in an earlier rollout has no place any more: it is left out and counted
    (`credit/tokens_lost`). Choose `n_steps` well above the length of a text, or a multiple of it.

    Raises:
        TypeError: the algorithm has no rollout buffer (it is not on-policy).
        ValueError: a text ended without `info["text_episode"]` (no text environment).
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose)
        self._lost = self._tokens = self._credited = 0

    def _on_training_start(self) -> None:
        if not isinstance(getattr(self.model, "rollout_buffer", None), RolloutBuffer):
            raise TypeError(f"TokenRewards needs an on-policy algorithm with a rollout buffer, got {type(self.model).__name__}")

    def _on_step(self) -> bool:
        for i, done in enumerate(self.locals["dones"]):
            if not done:
                continue
            episode = self.locals["infos"][i].get("text_episode")
            if not isinstance(episode, Episode):
                raise ValueError("an episode ended without info['text_episode']; TokenRewards serves text environments")
            self._place(episode, i)
        return True

    def _place(self, episode: Episode, i: int) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        credit = episode.rewards
        self.locals["rewards"][i] = credit[-1]
        here = min(len(credit) - 1, buffer.pos)  # tokens of this text in the buffer, the last one not counted
        if here:
            buffer.rewards[buffer.pos - here : buffer.pos, i] = credit[-1 - here : -1]
        self._lost += len(credit) - 1 - here
        self._tokens += len(credit)
        self._credited += int((credit != 0).sum())

    def _on_rollout_end(self) -> None:
        self.logger.record("credit/tokens_lost", self._lost)
        self.logger.record("credit/nonzero_share", self._credited / max(self._tokens, 1))
        self._lost = self._tokens = self._credited = 0
