"""A large vocabulary under unmodified Stable-Baselines3: few actions for many environments, and masks that fit into memory.

1. `VecTopKActions` does for a whole `VecEnv` what `textenv.TopKActions` does for one environment: the reference reads the new
   tokens of all texts in one batch.
2. `PackedMaskBuffer` is sb3-contrib's `MaskableRolloutBuffer` with a bit where that has a float32: 512 steps × 8 environments ×
   50,257 tokens are 25 MB instead of 823 MB (785 MiB).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from textenv.actions import TopTokens, choice_space
from textenv.judges.token_log_probs import load_frozen

__all__ = ["PackedMaskBuffer", "VecTopKActions"]


class VecTopKActions(VecEnvWrapper):
    """The k likeliest tokens of a reference model as the actions of a Stable-Baselines3 `VecEnv` of text environments.

    Args:
        venv: `DummyVecEnv`, `SubprocVecEnv`, … of text environments that take ids.
        k, reference, observe: as for `textenv.TopKActions`.

    Attributes:
        candidates: (n, k) the ids that the actions mean now.

    Raises:
        NotApplicable: the reference has another tokenizer.
        ValueError: k out of range, or an action that is none of 0..k-1.
    """

    def __init__(self, venv: VecEnv, k: int, reference: Any = "textenv/tiny", *, observe: bool = True) -> None:
        class First:  # the attributes of one environment, which may live in another process
            def get_wrapper_attr(self, name: str) -> Any:
                return venv.get_attr(name, 0)[0]

        first: Any = First()
        rule = first.get_wrapper_attr("action_rule")
        self._top, self.observe = TopTokens(load_frozen(first, reference, "reference"), rule, k), observe
        space = choice_space(venv.observation_space, k) if observe else venv.observation_space
        super().__init__(venv, observation_space=space, action_space=gym.spaces.Discrete(k))
        self.candidates = np.zeros((self.num_envs, k), np.int64)
        self._allowed = np.ones((self.num_envs, k), np.bool_)

    def reset(self) -> NDArray[np.int64]:
        return self._offer(self.venv.reset())

    def step_async(self, actions: NDArray[Any]) -> None:
        ranks = np.asarray(actions).reshape(-1)
        if not ((ranks >= 0) & (ranks < self._top.k)).all():
            raise ValueError(f"actions {ranks.tolist()} are out of range: they are ranks in 0..{self._top.k - 1}")
        self.venv.step_async(self.candidates[np.arange(self.num_envs), ranks])

    def step_wait(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        observations, rewards, dones, infos = self.venv.step_wait()
        if self.observe:
            eos = np.full(self._top.k, self._top.rule.eos_token_id, np.int64)
            for info in infos:
                if "terminal_observation" in info:
                    info["terminal_observation"] = np.append(info["terminal_observation"], eos)
        return self._offer(observations), rewards, dones, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """(n, k) which actions are allowed."""
        return self._allowed

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        if method_name == "action_masks":  # the environments inside would answer for all their tokens
            return [self._allowed[i] for i in self._get_indices(indices)]
        return self.venv.env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def _offer(self, observations: Any) -> NDArray[np.int64]:
        self.candidates, self._allowed = self._top(observations)
        return np.concatenate([observations, self.candidates], 1) if self.observe else np.asarray(observations)


class PackedMaskBuffer(MaskableRolloutBuffer):
    """`MaskablePPO(..., rollout_buffer_class=PackedMaskBuffer)`: the same masks, a bit each.

    >>> import gymnasium as gym
    >>> buffer = PackedMaskBuffer(512, gym.spaces.Box(-1, 50256, (64,), np.int64), gym.spaces.Discrete(50257), "cpu", n_envs=8)
    >>> buffer.action_masks.nbytes // 1_000_000
    25
    """

    def reset(self) -> None:
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ValueError(f"PackedMaskBuffer holds masks of Discrete actions, not of {self.action_space}")
        self.mask_dims = int(self.action_space.n)
        bits = np.ones(self.mask_dims, np.bool_)
        self.action_masks = np.tile(np.packbits(bits), (self.buffer_size, self.n_envs, 1))  # (n_steps, n_envs, ⌈A/8⌉) uint8
        super(MaskableRolloutBuffer, self).reset()

    def add(self, *args: Any, action_masks: NDArray[Any] | None = None, **kwargs: Any) -> None:
        if action_masks is not None:
            masks = np.asarray(action_masks).reshape(self.n_envs, self.mask_dims)
            self.action_masks[self.pos] = np.packbits(masks.astype(np.bool_), axis=1)
        super(MaskableRolloutBuffer, self).add(*args, **kwargs)

    def _get_samples(self, batch_inds: NDArray[np.int64], env: Any = None) -> Any:
        packed, self.action_masks = self.action_masks, _Unpacked(self.action_masks, self.mask_dims)  # type: ignore[assignment]
        try:
            return super()._get_samples(batch_inds, env)
        finally:
            self.action_masks = packed


class _Unpacked:
    """Rows of packed masks, as bools when they are asked for."""

    def __init__(self, packed: NDArray[np.uint8], width: int) -> None:
        self.packed, self.width = packed, width

    def __getitem__(self, rows: Any) -> NDArray[np.bool_]:
        return np.unpackbits(self.packed[rows], axis=-1, count=self.width).astype(np.bool_)
