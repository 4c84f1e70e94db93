"""What every learner shares: Stable-Baselines3's contract, checkpoints, and the run of `learn`.

A learner is `learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)` over this: it
brings its own data, loss and optimizer. A timestep is a generated token, or where nothing is generated, a token learned from.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from textenv.agents.agent_file import load_agent_file
from textenv.agents.checkpoint import load_networks, load_optimizer, load_policy, load_reference, save_agent
from textenv.agents.checks import within
from textenv.agents.distributed.sharding import WholeState, sharded, whole
from textenv.agents.distributed.world import join, world_size
from textenv.agents.policy import Evaluated, LMPolicy
from textenv.agents.running import log_time, make_logger, prepare_callback
from textenv.episode import Episode
from textenv.generation import ActionRule
from textenv.precision import Precision

__all__ = ["Learner", "Run"]


class Run:
    """One call of `learn`: its callbacks, its clock, how far it has come.

    Attributes:
        calls: Stable-Baselines3's callbacks, as one.
        total: `num_timesteps` at which it ends.
    """

    def __init__(self, learner: Learner, calls: BaseCallback, first: int, total: int) -> None:
        self.learner, self.calls, self.first, self.total = learner, calls, first, total
        self.began = time.perf_counter()

    @property
    def remaining(self) -> float:
        """The share that is left, 1 → 0: what schedules are functions of."""
        return max(0.0, 1.0 - self.learner.num_timesteps / self.total)

    def step(self, *, texts: int, **seen: Any) -> bool:
        """Call the callbacks' `on_step`; `seen` are their `locals`. False: the run is to end.

        Args:
            texts: how many were generated since the last step, or where none are, learned from: `dones`, as of so many episodes.
        """
        self.calls.update_locals({"self": self.learner, "total_timesteps": self.total, "dones": np.ones(texts, bool), **seen})
        return all(self.learner.world.everyones(self.calls.on_step()))  # one that stops stops all

    def iterated(self, log_interval: int | None) -> None:
        """Count an iteration, and dump the logger after every `log_interval`-th; None: never."""
        learner = self.learner
        learner.iteration += 1
        if log_interval and learner.iteration % log_interval == 0:
            learner.dump_logs()

    def log_time(self) -> None:
        """How fast it has been so far."""
        learner, elapsed = self.learner, max(time.perf_counter() - self.began, 1e-9)
        log_time(learner.logger, learner.iteration, learner.num_timesteps, self.first, elapsed)


class Learner:
    """The part of a learner that does not depend on what it learns by.

    A subclass names in `settings_names` the arguments of its constructor that a checkpoint holds (attributes of the same name;
    functions are left out), makes `self.optimizer`, and may extend `_state`, `_restore`, `_networks` and `_write`.

    Args:
        policy: an `LMPolicy`, or what one is made from: "textenv/tiny", a directory, a hub name, a transformers model.
        env: a text environment, rewards and all; None for a learner of data, which then passes `rule`.
        rule: what a text may hold; default: the environment's.
        reference: the frozen policy to stay near, or what one is made from; True: a copy of the policy as it is now; None: none.
        temperature, device, precision, lora, gradient_checkpointing, frozen_layers: of a policy that is made here (as for
            `LMPolicy`).
        seed: of prompts, sampling and minibatches. The global generators are left alone.

    Raises:
        ValueError: policy, reference and environment disagree about their tokens; `lora`, `gradient_checkpointing`, `precision` or
            `frozen_layers` for an `LMPolicy`.
    """

    settings_names: ClassVar[tuple[str, ...]] = ("tensorboard_log", "verbose")
    learns_in_several: ClassVar[bool] = False  # processes, started by torchrun
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        policy: Any,
        env: gym.Env[Any, Any] | None,
        *,
        rule: ActionRule | None = None,
        reference: Any = None,
        temperature: float | None = None,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        device: str | torch.device = "auto",
        verbose: int = 0,
        lora: Any = None,
        gradient_checkpointing: bool = False,
        precision: Precision = "auto",
        frozen_layers: int = 0,
    ) -> None:
        if isinstance(policy, LMPolicy) and (lora is not None or gradient_checkpointing or precision != "auto" or frozen_layers):
            raise ValueError(
                f"lora={lora!r}, gradient_checkpointing={gradient_checkpointing}, precision={precision!r} and "
                f"frozen_layers={frozen_layers} are for a policy that is made here; give them to the LMPolicy"
            )
        if world_size() > 1 and not self.learns_in_several:
            raise RuntimeError(
                f"torchrun started {world_size()} processes, but {type(self).__name__} learns in one: start it with python "
                "(TokenPPO learns in several)"
            )
        self.world = join(policy.device if isinstance(policy, LMPolicy) else device)
        model: dict[str, Any] = {"lora": lora, "gradient_checkpointing": gradient_checkpointing, "precision": precision}
        model["frozen_layers"] = frozen_layers
        self.policy = policy if isinstance(policy, LMPolicy) else LMPolicy(policy, temperature=temperature, device=device, **model)
        if env is not None:
            self.policy.fit_to(env)
            rule = env.get_wrapper_attr("action_rule") if rule is None else rule
        if rule is None:
            raise ValueError("pass env=, a text environment; or, where data alone are learned from, rule=ActionRule(...)")
        self.env: Any = env
        self.rule: ActionRule = rule
        self.reference: LMPolicy | None = None
        if reference is True:
            self.reference = self.policy.frozen_copy()
        elif reference is not None and reference is not False:
            self.reference = self._reference(reference)
        if self.world.size > 1 and self.policy.device != self.world.device:
            raise ValueError(
                f"process {self.world.rank} has {self.world.device}, and the policy is on {self.policy.device}: call "
                "textenv.agents.distributed.world.join() before the model is made, or pass its name or directory"
            )
        self.tensorboard_log, self.seed, self.verbose = tensorboard_log, seed, verbose
        self.generator = torch.Generator()
        if seed is not None:
            self.generator.manual_seed(seed)
            if env is not None:
                env.reset(seed=seed)
        self.num_timesteps = self.n_updates = self.iteration = 0
        self._logger: Logger | None = None
        self._custom_logger = False
        self._run: Run | None = None

    def _reference(self, reference: Any) -> LMPolicy:
        """The policy to stay near, from what a user gives."""
        if reference is self.policy:
            raise ValueError("the reference is the policy itself, which learns; leave it out, or pass policy.frozen_copy()")
        if not isinstance(reference, LMPolicy):
            options: dict[str, Any] = {"temperature": self.policy.temperature, "precision": self.policy.precision}
            tokenizer = None if isinstance(reference, (str, os.PathLike)) else self.policy.tokenizer
            reference = LMPolicy(reference, tokenizer, device=self.policy.device, **options).requires_grad_(False).eval()
        if self.env is not None:
            reference.fit_to(self.env)
        kept: LMPolicy = reference
        return kept

    # --- Stable-Baselines3's contract ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(
        self, total_timesteps: int, callback: MaybeCallback, tb_log_name: str, reset_num_timesteps: bool, progress_bar: bool
    ) -> Iterator[Run]:
        """The frame of `learn`: logger, callbacks, progress bar; yields the `Run`.

        Raises:
            ValueError: nothing to do.
        """
        within(1, float("inf"), total_timesteps=total_timesteps)
        if reset_num_timesteps:
            self.num_timesteps = self.iteration = 0
        if not self._custom_logger:
            self._logger = self._made_logger(tb_log_name, reset_num_timesteps)
        self._agree()
        calls, bar = prepare_callback(self, callback, progress_bar, shown=self.world.first)
        self._run = run = Run(self, calls, self.num_timesteps, self.num_timesteps + total_timesteps)
        calls.on_training_start({"self": self, "total_timesteps": run.total, "tb_log_name": tb_log_name}, {})
        try:
            yield run
        finally:
            if bar is not None:
                bar.close()
        calls.on_training_end()

    def predict(
        self,
        observation: NDArray[Any],
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], None]:
        """The next token of an observation (L,), or of each of (n, L)."""
        rows = np.atleast_2d(observation)
        uniforms = None if deterministic else torch.rand(len(rows), generator=self.generator)
        tokens = self.policy.act(rows, self.rule, uniforms)
        return (tokens[0] if np.ndim(observation) == 1 else tokens), None

    @property
    def logger(self) -> Logger:
        """Stable-Baselines3's logger."""
        if self._logger is None:
            self._logger = make_logger(self.verbose if self.world.first else 0)
        return self._logger

    def _made_logger(self, name: str, reset_num_timesteps: bool) -> Logger:
        """The logger of a run: of several processes the first alone writes."""
        if not self.world.first:
            return make_logger(0)
        return make_logger(self.verbose, self.tensorboard_log, name, reset_num_timesteps)

    def _agree(self) -> None:
        """All processes draw what the first draws."""
        if self.world.size > 1:
            self.generator.set_state(self.world.firsts(self.generator.get_state()))
            if self.env is not None:
                random = self.env.unwrapped.np_random.bit_generator
                random.state = self.world.firsts(random.state)

    def set_logger(self, logger: Logger) -> None:
        """Log to another logger from now on."""
        self._logger, self._custom_logger = logger, True

    def dump_logs(self) -> None:
        """Write out what has been logged since the last time, and how fast the run is (`LogEveryNTimesteps` asks)."""
        if self._run is not None:
            self._run.log_time()
        self.logger.dump(self.num_timesteps)

    def get_vec_normalize_env(self) -> None:
        """None: nothing is normalised (`EvalCallback` asks)."""

    def get_env(self) -> VecEnv | None:
        """The environment as Stable-Baselines3's callbacks expect it; None without one."""
        return None if self.env is None else DummyVecEnv([lambda: self.env])

    # --- Checkpoints ---------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent to a directory (see `textenv.agents.checkpoint`), whole or not at all.

        Of several processes all have to call it, and the first one writes.
        """
        if self.reference is not None and self.reference.source is not None:
            place, source = Path(path).resolve(), Path(self.reference.source).expanduser().resolve()
            if place in (source, *source.parents):
                self.reference.source = None  # what it was read from is about to be replaced
        policy, reference = whole(self.policy), None if self.reference is None else whole(self.reference)
        networks = {name: whole(network) for name, network in self._networks().items()}
        optimizer: Any = WholeState(self.optimizer) if sharded(self.policy) else self.optimizer
        if self.world.first:
            save_agent(
                path, kind=type(self).__name__, policy=policy, reference=reference, optimizer=optimizer,
                generator=self.generator, state=self._state(), networks=networks, more=self._write,
            )  # fmt: skip
        self.world.wait()

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: Any, *, device: Any = "auto", **settings: Any) -> Self:
        """A saved agent, ready to go on. Schedules are functions and are not saved: pass them again.

        Args:
            path: the directory.
            env: what it was made with: a text environment with the same tokens (or the data of a learner of data).
            **settings: override what was saved, `precision` too.

        Raises:
            FileNotFoundError, ValueError: no agent there, or of another class, or other settings; a schedule is missing.
        """
        join(device)  # before anything is on a device
        state = load_agent_file(path, cls.__name__)
        if missing := [name for name in state.get("schedules", ()) if name not in settings]:
            again = ", ".join(f"{name}=..." for name in missing)
            raise ValueError(f"{path}: {', '.join(missing)} was a function, and is not saved; pass it again: load(..., {again})")
        precision = settings.pop("precision", state.get("precision", "auto"))
        model = {"temperature": state["temperature"], "device": device, "precision": precision}
        policy = load_policy(path, dtype=getattr(torch, state["dtype"]), **model)
        if state.get("has_reference", True):
            kept = load_reference(path, state["reference"], policy, **model)
            kept.temperature = state.get("reference_temperature", kept.temperature)
            settings = {"reference": kept, **settings}
        saved = cls._completed(state["settings"], policy)
        agent = cls(policy, env, **{**saved, **settings})
        kept_networks = {name: network for name, network in agent._networks().items() if name in state.get("networks", ())}
        load_networks(path, kept_networks, policy)
        agent._load_optimizer(path, saved)
        agent._restore({name: value for name, value in state.items() if name not in settings})
        return agent

    @classmethod
    def _completed(cls, saved: dict[str, Any], policy: LMPolicy) -> dict[str, Any]:
        """Saved settings, with what an older version left to its defaults."""
        return saved

    def _load_optimizer(self, path: str | os.PathLike[str], saved: dict[str, Any]) -> None:
        load_optimizer(path, self.optimizer, self.generator)

    def _state(self) -> dict[str, Any]:
        """What `agent.json` holds beside the class: JSON values."""
        settings = {name: getattr(self, name) for name in self.settings_names}
        state = {
            "settings": {name: value for name, value in settings.items() if not callable(value)},
            "schedules": sorted(name for name, value in settings.items() if callable(value)),
            "counters": {"num_timesteps": self.num_timesteps, "n_updates": self.n_updates, "iteration": self.iteration},
            "networks": sorted(self._networks()),
            "has_reference": self.reference is not None,
            "reference": None if self.reference is None else self.reference.source,
        }
        if self.env is not None:
            state["env_generator"] = self.env.unwrapped.np_random.bit_generator.state
        return state

    def _networks(self) -> dict[str, torch.nn.Module]:
        """What is learned or kept beside policy and reference, by name: a checkpoint holds their weights."""
        return {}

    def _write(self, directory: Path) -> None:
        """Further files of a checkpoint."""

    def _restore(self, state: dict[str, Any]) -> None:
        """Counters and generators, from what `_state` gave."""
        for name, value in state["counters"].items():
            setattr(self, name, value)
        if self.env is not None and "env_generator" in state:
            self.env.unwrapped.np_random.bit_generator.state = state["env_generator"]

    # --- For subclasses ------------------------------------------------------------------------------------------

    def evaluate_tokens(
        self, policy: LMPolicy, episodes: Sequence[Episode], *, entropy: bool = False, lower: Sequence[Tensor] | None = None
    ) -> Evaluated:
        """Log-probability and value of every token of the episodes under a policy; differentiable."""
        prompts, texts = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
        return policy.evaluate(prompts, texts, self.rule, entropy=entropy, lower=lower)
