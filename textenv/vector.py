"""N texts written side by side: Gymnasium's vector environment, with one credit call for all texts that end together.

Gymnasium's `SyncVectorEnv` steps N environments one after the other, so a scorer and a critic are asked about one text at a
time. Here one environment (its task, tokenizer and reward wrappers) serves N rows: each row has its own random numbers and its
own text, and what a step owes is worked out for all rows at once. Observations, rewards, terminations and infos are those of N
single environments with the same seeds (a neural scorer, padded to the longest text of its batch, may differ in the last bits
of a float32).

1. Rewards are make-arguments (`reward=`): Gymnasium takes no `wrappers=` here. A wrapper with a `step` or `reset` of its own
   cannot be batched and is refused; `vectorization_mode="sync"` takes it.
2. Counters (`credit_metrics`) and whatever else a wrapper keeps are those of all rows together.
3. A step that raises (a critic's server is away) has not happened: it may be taken again.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textenv.env import TextEnv
from textenv.episode import Episode, Prompt
from textenv.payment import OnlinePayment
from textenv.render import render_episode
from textenv.reward import RewardWrapper
from textenv.shared import share_arguments

__all__ = ["TextVectorEnv"]

Observations = NDArray[np.int64]
Flags = NDArray[np.bool_]
Infos = dict[str, Any]


class TextVectorEnv(VectorEnv[Observations, NDArray[np.int64], NDArray[Any]]):
    """N texts, token by token. `gym.make_vec("textenv/…", num_envs=N, reward=…)` makes it.

    Observations: (N, P_max + T_max) int64, each row as in `TextEnv`. Actions: (N,) ids. Rewards: (N,) float64.
    Infos: `infos["text_episode"]`, (N,) objects, holds the credited `Episode` of each text that ended, None for the others
        (`infos["_text_episode"]` says which); with SAME_STEP it stands in `infos["final_info"]`.

    >>> import gymnasium as gym, numpy as np, textenv
    >>> envs = gym.make_vec("textenv/CountLetter-v0", num_envs=2, max_new_tokens=2)
    >>> observations, infos = envs.reset(seed=0)
    >>> _ = envs.step(np.array([ord("a"), ord("b")]))
    >>> observations, rewards, terminations, truncations, infos = envs.step(np.array([ord("a"), ord("a")]))
    >>> rewards.tolist(), [episode.text for episode in infos["text_episode"]]
    ([1.0, 0.5], ['aa', 'ba'])

    Args:
        stack: a text environment in its reward wrappers, without `OnlineReward`.
        num_envs: N.
        payment, pay_every: when a dense reward is paid, as in `gym.make`; "online" without a wrapper is "end".
        autoreset_mode: NEXT_STEP (the step after the last one begins the next text, whatever its action), SAME_STEP (the
            last step does; its own observation and info are "final_obs" and "final_info"), DISABLED
            (`reset(options={"reset_mask": …})` does).

    Raises:
        ValueError: bad arguments.
        TypeError: the stack holds a wrapper that cannot be batched.
    """

    def __init__(
        self,
        stack: gym.Env[Any, Any],
        num_envs: int,
        *,
        payment: Literal["online", "end"] = "online",
        pay_every: Literal["segment", "token"] | int = "segment",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.stack, self.num_envs = stack, num_envs
        self.base = _batchable(stack)
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {**self.base.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = self.base.render_mode
        self.single_observation_space, self.single_action_space = self.base.observation_space, self.base.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        rewarded = payment == "online" and isinstance(stack, RewardWrapper)
        self._payment = OnlinePayment(stack, num_envs, pay_every) if rewarded else None
        self._credit, self._episode = stack.get_wrapper_attr("credit"), stack.get_wrapper_attr("episode")
        self._random = [seeding.np_random() for _ in range(num_envs)]  # generator and seed of each row
        self._observations = np.full(self.observation_space.shape or (), -1, np.int64)
        self._prompts: list[Prompt | None] = [None] * num_envs
        self._lengths = np.zeros(num_envs, np.int64)  # tokens of each text
        self._paid = np.zeros(num_envs, np.float64)
        self._ended = np.zeros(num_envs, np.bool_)
        self._last: list[Episode | None] = [None] * num_envs  # the credited text of each row that has ended

    # --- Gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Begin a text in every row, or in those of `options={"reset_mask": (N,) bool}`.

        Args:
            seed: of the first row (row i has seed + i), or one for each row.
            options: `{"prompt": Prompt | str}`, for each of them.

        Raises:
            ValueError, TypeError: another number of seeds; a mask that is none, or empty.
        """
        if seed is None:
            seeds: list[int | None] = [None] * self.num_envs
        else:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for num_envs={self.num_envs}: give one seed for each, or one for all")
        given = dict(options or {})
        for row in np.flatnonzero(self._mask(given.pop("reset_mask", None))):
            self._begin(int(row), seeds[row], given)
        return self._observations.copy(), {}

    def step(self, actions: NDArray[np.int64]) -> tuple[Observations, NDArray[np.float64], Flags, Flags, Infos]:
        """Append a token to each text.

        Raises:
            RuntimeError: before `reset`; a text has ended and autoreset is disabled.
            ValueError: not N ids of the vocabulary. No text has grown then.
        """
        if None in self._prompts:
            raise RuntimeError("step() before reset(): call reset() to begin the texts")
        begins = self._ended.copy()
        if begins.any() and self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            raise RuntimeError(f"texts have ended, in rows {np.flatnonzero(begins).tolist()}: reset(options={{'reset_mask': …}})")
        tokens = self._checked(actions, begins)
        rule = self.base.action_rule
        ended = ~begins & ((tokens == rule.eos_token_id) | (self._lengths + 1 == rule.max_new_tokens))
        credited, totals = self._owed(tokens, begins, ended)

        rows = np.flatnonzero(~begins)
        self._observations[rows, self.base.max_prompt_tokens + self._lengths[rows]] = tokens[rows]
        self._lengths[rows] += 1
        rewards = np.where(begins, 0.0, totals - self._paid)
        self._paid, self._ended = totals, ended.copy()
        for begun in np.flatnonzero(begins):
            self._begin(int(begun), None, {})
        infos: Infos = {}
        for row, episode in credited.items():
            self._last[row] = episode
            infos = self._add_info(infos, self._of_last_step(row, episode), row)
        return self._observations.copy(), rewards, ended, np.zeros(self.num_envs, np.bool_), infos

    def render(self) -> tuple[Any, ...] | None:
        """The text of each row so far ("ansi"); with rewards, each token coloured by its credit."""
        if self.render_mode != "ansi":
            return (None,) * self.num_envs
        growing = [self._so_far(row) for row, last in enumerate(self._last) if last is None]
        if isinstance(self.stack, RewardWrapper):  # without one an unfinished text has no credit
            growing = self._credit(growing)
        shown = iter(growing)
        return tuple(render_episode(last or next(shown)) for last in self._last)

    def close_extras(self, **_: Any) -> None:
        """Close the environment that serves the rows."""
        self.stack.close()

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of the environment or one of its wrappers, as each of N environments would give it."""
        return (self.stack.get_wrapper_attr(name),) * self.num_envs

    def credit_metrics(self) -> dict[str, float]:
        """Counters of the reward stack since the last call, of all rows together."""
        found: dict[str, float] = self.stack.get_wrapper_attr("credit_metrics")()
        return found

    @property  # type: ignore[misc]  # as SyncVectorEnv has it: a generator a row
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each row."""
        return tuple(generator for generator, _ in self._random)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row."""
        return tuple(seed for _, seed in self._random)

    @property
    def spec(self) -> EnvSpec | None:
        """What made this environment. A copy of it copies no model among its arguments."""
        return self._spec

    @spec.setter
    def spec(self, value: EnvSpec | None) -> None:
        self._spec = share_arguments(value)

    _spec: EnvSpec | None = None

    # --- Within --------------------------------------------------------------------------------------------------

    def _begin(self, row: int, seed: int | None, options: dict[str, Any]) -> None:
        """A text begins, as in a single environment with this row's generator."""
        if seed is not None:
            self._random[row] = seeding.np_random(seed)
        self.base.np_random = self._random[row][0]
        self._observations[row], _ = self.base.reset(options=options)
        self._prompts[row] = self.base.current_episode().prompt
        self._lengths[row], self._paid[row], self._ended[row], self._last[row] = 0, 0.0, False, None
        if self._payment is not None:
            self._payment.begin(row)

    def _owed(self, tokens: NDArray[np.int64], begins: Flags, ended: Flags) -> tuple[dict[int, Episode], NDArray[np.float64]]:
        """The texts that end with these tokens, credited, by row; and what each text is worth so far, (N,)."""
        last = [int(row) for row in np.flatnonzero(ended)]
        finished = [self._so_far(row, int(tokens[row])) for row in last]
        totals = np.zeros(self.num_envs, np.float64)
        if self._payment is None:
            episodes = self._credit(finished) if finished else []
        else:
            grown = {int(row): int(tokens[row]) for row in np.flatnonzero(~begins & ~ended)}
            episodes, growth = self._payment.credit(finished, grown, lambda row: self._so_far(row, grown[row]))
            for row, total in growth.items():
                totals[row] = total
        for row, episode in zip(last, episodes, strict=True):
            totals[row] = float(episode.rewards.sum())
        return dict(zip(last, episodes, strict=True)), totals

    def _of_last_step(self, row: int, episode: Episode) -> Infos:
        """What a single environment says of its last step, in the place where the mode wants it."""
        info = {"text_episode": episode}
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            return info
        final = self._observations[row].copy()
        self._begin(row, None, {})
        return {"final_obs": final, "final_info": info}

    def _so_far(self, row: int, *more: int) -> Episode:
        """The text of a row, and what follows it."""
        prompt = self._prompts[row]
        if prompt is None:
            raise RuntimeError("no text has begun: call reset() first")
        begin = self.base.max_prompt_tokens
        written = self._observations[row, begin : begin + self._lengths[row]]
        episode: Episode = self._episode(prompt, [*written.tolist(), *more])
        return episode

    def _mask(self, mask: Any) -> Flags:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise TypeError(f"options['reset_mask'] must be an array of {self.num_envs} bool, got {mask!r}")
        if not mask.any():
            raise ValueError(f"options['reset_mask'] names no row: {mask}")
        return mask

    def _checked(self, actions: Any, begins: Flags) -> NDArray[np.int64]:
        """(N,) ids; those of rows that begin anew are not looked at."""
        tokens = np.asarray(actions)
        if tokens.shape != (self.num_envs,) or tokens.dtype.kind not in "iu":
            raise ValueError(f"actions should be {self.num_envs} integers, got shape {tokens.shape} of {tokens.dtype}: {actions!r}")
        wrong = ~begins & ((tokens < 0) | (tokens >= self.base.action_rule.vocabulary))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            valid = f"an action is an integer in 0..{self.base.action_rule.vocabulary - 1}"
            raise ValueError(f"token {tokens[row]} of row {row} is out of range: {valid}")
        return tokens.astype(np.int64)


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        valid = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ValueError(f"autoreset_mode must be one of {valid}, got {mode!r}") from None


def _batchable(stack: gym.Env[Any, Any]) -> TextEnv:
    """The environment inside its wrappers, all of which do nothing at a step but place credit."""
    env = stack
    while isinstance(env, gym.Wrapper):
        own = type(env)
        plain = isinstance(env, RewardWrapper) and own.step is RewardWrapper.step and own.reset is RewardWrapper.reset
        if not plain:
            raise TypeError(
                f"{own.__name__} does more at a step than place credit, so {own.__name__} cannot serve many texts at once; "
                'make_vec(…, vectorization_mode="sync") takes it'
            )
        env = env.env
    if not isinstance(env, TextEnv) or type(env).step is not TextEnv.step:
        raise TypeError(f'a text environment is wanted, got {env}; make_vec(…, vectorization_mode="sync") takes others')
    return env
