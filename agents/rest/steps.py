"""The steps of ReST: Grow, and the begin, the updates and the end of Improve. `rest` tells what for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.checks import above, at_least, one_of, within
from textenv.agents.learner import Learner, Run
from textenv.agents.rest.grown import FilterBy, GrownData, grow
from textenv.agents.rest.grown_files import original_data
from textenv.agents.rest.improving import Improver, restore, snapshot
from textenv.agents.rest.offline_losses import OfflineLoss
from textenv.agents.rest.state import Kept, Progress, choose, held_out_reward
from textenv.agents.rest.thresholds import ThresholdKind, check_levels
from textenv.agents.rollout import Timing
from textenv.agents.running import text_table
from textenv.episode import Episode, Prompt
from textenv.fitting.training import learning_rate_factor

__all__ = ["GrowAndImprove"]


class GrowAndImprove(Learner):
    """What a learner does that grows data and improves on them. Its settings are those of `ReST`."""

    grow_steps: int
    improve_steps: int | None
    thresholds: tuple[float | None, ...]
    threshold: ThresholdKind
    filter_by: FilterBy
    keep_data: Literal["filtered", "all", "none"]
    start: Literal["previous", "base"]
    loss: OfflineLoss
    data: Any
    eval_env: gym.Env[Any, Any] | None
    n_prompts: int | None
    samples_per_prompt: int
    grow_temperature: float
    top_k: int
    top_p: float
    max_per_prompt: int | None
    drop_truncated: bool
    deduplicate: bool
    learning_rate: float
    lr_decay: float
    updates: int
    batch_size: int
    micro_batch_size: int
    weight_decay: float
    max_grad_norm: float
    eval_every: int
    patience: int | None
    eval_prompts: int | None

    def _check_settings(self) -> None:
        """Raises ValueError for a setting that cannot be meant."""
        counts = ("samples_per_prompt", "updates", "batch_size", "micro_batch_size", "eval_every", "n_prompts", "max_per_prompt",
                  "patience", "eval_prompts")  # fmt: skip
        at_least(1, **{name: getattr(self, name) for name in counts})
        for name in ("grow_temperature", "learning_rate", "lr_decay", "max_grad_norm", "top_p"):
            above(0, **{name: getattr(self, name)})
        within(0, float("inf"), weight_decay=self.weight_decay)
        at_least(0, grow_steps=self.grow_steps, improve_steps=self.improve_steps, top_k=self.top_k)
        one_of(("filtered", "all", "none"), keep_data=self.keep_data)
        one_of(("previous", "base"), start=self.start)
        one_of(get_args(FilterBy), filter_by=self.filter_by)
        if not self.grow_steps and self.keep_data == "none":
            raise ValueError("grow_steps=0 learns from the original data alone, and keep_data='none' leaves them out")
        if not self.thresholds:
            raise ValueError("thresholds must hold at least one level; (None,) keeps everything")
        check_levels(self.threshold, self.thresholds)
        unfiltered = int(self.thresholds[0] is None)
        if self.improve_steps is not None and self.improve_steps > len(self.thresholds) - unfiltered:
            raise ValueError(f"improve_steps={self.improve_steps} need as many thresholds, got {list(self.thresholds)}")
        if self.eval_env is not None:
            self.policy.fit_to(self.eval_env)

    def _prepare(self) -> None:
        """Nothing has been grown yet."""
        self.levels: tuple[float | None, ...] = self.thresholds
        if self.improve_steps is not None:
            self.levels = self.thresholds[: self.improve_steps + (self.thresholds[0] is None)] or (None,)
        self.improver = Improver(
            self.policy, self.rule, self.loss, micro_batch_size=self.micro_batch_size, weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
        )  # fmt: skip
        self.optimizer = self.improver.optimizer
        self.history: list[dict[str, Any]] = []
        self.progress, self.grown = Progress(), GrownData.of(())
        self._base = snapshot(self.policy) if self.start == "base" else {}
        self._best: dict[str, Tensor] = {}
        self._pool: GrownData | None = None  # what of the grown data can be learned from at all
        self._signal: list[NDArray[np.float64]] | None = None  # what the loss knows of the pool's tokens
        self._kept: Kept | None = None
        self._order: list[int] = []
        self._before_order = self.generator.get_state()

    @property
    def finished(self) -> bool:
        """Whether the plan is carried out."""
        return self.progress.grown >= max(self.grow_steps, 1)

    def _planned(self) -> int:
        """Tokens that the rest of the plan takes, generated and learned from: as many as it may be."""
        lengths = [len(episode) for episode in self.grown.episodes] or [self.rule.max_new_tokens]
        prompts = self.n_prompts or len(self.env.get_wrapper_attr("task").prompts)
        sampled = prompts * self.samples_per_prompt if self.grow_steps else 0
        here, rounds = self.progress, max(self.grow_steps, 1) - self.progress.grown
        learned = (rounds * len(self.levels) - here.improve) * self.updates - here.update
        return max(1, int(np.mean(lengths) * (sampled * (rounds - here.is_grown) + learned * self.batch_size)))

    # --- Grow ----------------------------------------------------------------------------------------------------

    def _grow(self, run: Run) -> bool:
        """Sample, score, and put D beside it. Stopped by a callback in the middle of it, it begins anew the next time."""
        run.calls.on_rollout_start()
        timing, samples, asked, going = Timing(), list[Episode](), self._prompts(), True
        options: dict[str, Any] = {"temperature": self.grow_temperature, "top_k": self.top_k, "top_p": self.top_p, "timing": timing}
        for part in grow(self.env, self.policy, asked, self.generator, **options):
            samples += part
            self.num_timesteps += sum(map(len, part))
            going = run.step(texts=len(part), episodes=part, improved=None)
            if not going and len(samples) < len(asked):
                return False
        run.calls.on_rollout_end()
        original = self.grown.originals.episodes
        if self.keep_data != "none" and not original:
            original = original_data(self.data, self.env, self.policy)
        self.grown, self._pool, self.progress.is_grown = GrownData.of(samples, original), None, True
        if samples:
            self._log_grown(samples, timing)
        return going

    def _prompts(self) -> list[Prompt]:
        """The prompts of a Grow step, each as often as it is sampled."""
        if not self.grow_steps:
            return []
        every = self.env.get_wrapper_attr("task").prompts
        asked = every if self.n_prompts is None else self.env.get_wrapper_attr("sample_prompts")(self.n_prompts)
        return [prompt for prompt in asked for _ in range(self.samples_per_prompt)]

    def _usable(self) -> GrownData:
        """What of the grown data can be learned from at all.

        Raises:
            ValueError: nothing.
        """
        pool = self.grown.usable(self.rule, drop_truncated=self.drop_truncated, deduplicate=self.deduplicate)
        if not len(pool):
            cut = sum(e.finish_reason != "stop" for e in self.grown.episodes)
            raise ValueError(
                f"there is nothing to learn from: {len(self.grown):,} texts, {cut:,} of them cut at max_new_tokens="
                f"{self.rule.max_new_tokens}; raise it, pass drop_truncated=False, or give data="
            )
        return pool

    def _log_grown(self, samples: Sequence[Episode], timing: Timing) -> None:
        log = self.logger.record
        log("rollout/ep_rew_mean", float(np.mean([e.rewards.sum() for e in samples])))
        log("rollout/ep_len_mean", float(np.mean([len(e) for e in samples])))
        log("objective/scores", float(np.mean([e.score for e in samples])))
        log("val/num_eos_tokens", sum(e.finish_reason == "stop" for e in samples))
        log("rest/grown", len(self.grown))
        log("rest/grow_step", self.progress.grown + 1)
        for name, value in self.env.get_wrapper_attr("credit_metrics")().items():
            log(name, value)
        log("time/sample_seconds", timing.sample)
        log("time/score_seconds", timing.score)
        log("rollout/texts", text_table(samples), exclude=("stdout", "log", "json", "csv"))
        self.logger.dump(self.num_timesteps)

    # --- Improve -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Choose what is learned from, and the policy to begin with."""
        if self._pool is None:  # the first Improve step on these data
            self._pool = self._usable()
            self.improver.grown()
            self._signal = self.loss.signal(
                self.policy, self._pool.episodes, self.rule, self.generator, micro_batch_size=self.micro_batch_size
            )
        self._kept, self._order, self._best = self._choose(), [], {}
        if not len(self._kept.rows):
            self.progress.next_improve(last=True)
            return
        if self.start == "base":
            restore(self.policy, self._base)
        self.improver.begin()
        self.progress.begun = True
        self._measure()

    def _choose(self) -> Kept:
        """What the Improve step of now learns from."""
        assert self._pool is not None
        at = self.progress.improve
        first = self.levels[at] is not None and all(level is None for level in self.levels[:at])
        return choose(
            self._pool, self.threshold, self.levels[at], by=self.filter_by, keep_data=self.keep_data, most=self.max_per_prompt,
            first=first,
        )  # fmt: skip

    def _update(self, run: Run, log_interval: int) -> bool:
        """One minibatch; after the last one, the Improve step ends."""
        assert self._pool is not None
        here, rows = self.progress, self._rows()
        episodes = [self._pool.episodes[i] for i in rows]
        factor = learning_rate_factor(here.update, self.updates, max(1, round(0.05 * self.updates)))
        rate = self.learning_rate * self.lr_decay**here.improve * factor
        signal = None if self._signal is None else [self._signal[i] for i in rows]
        stats = self.improver.update(episodes, signal, rate=rate, step=here.update, steps=self.updates)
        here.update, here.nll, self.n_updates = here.update + 1, here.nll + stats["nll"], self.n_updates + 1
        self.num_timesteps += sum(map(len, episodes))
        for name, value in {**stats, "learning_rate": rate, "n_updates": self.n_updates}.items():
            self.logger.record(f"train/{name}", value)
        over = here.update >= self.updates
        if over or here.update % self.eval_every == 0:
            self._measure()
            over = over or (self.patience is not None and here.stale >= self.patience)
        run.iterated(log_interval)
        return self._end(run) if over else run.step(texts=0, episodes=None, improved=None)

    def _rows(self) -> list[int]:
        """The next minibatch, from passes over what is kept, each in a new order."""
        assert self._kept is not None
        if self.progress.place >= len(self._order):
            self._before_order, self.progress.place = self.generator.get_state(), 0
            self._order = self._shuffled(self.generator)
        at = self.progress.place
        self.progress.place += self.batch_size
        return [int(self._kept.rows[i]) for i in self._order[at : at + self.batch_size]]

    def _shuffled(self, generator: torch.Generator) -> list[int]:
        """An order of what is kept, from where the agent's generator stood before it."""
        assert self._kept is not None
        generator.set_state(self._before_order)
        order: list[int] = torch.randperm(len(self._kept.rows), generator=generator).tolist()
        return order

    def _measure(self) -> None:
        """The held-out reward of now; the best policy is kept."""
        if self.eval_env is None:
            return
        here = self.progress
        reward = held_out_reward(self.eval_env, self.policy, self.eval_prompts, self.seed or 0, self.filter_by)
        self.logger.record("eval/mean_reward", reward)
        here.stale += 1
        if here.best is None or reward > here.best:
            here.best, here.best_update, here.stale, self._best = reward, here.update, 0, snapshot(self.policy)

    def _end(self, run: Run) -> bool:
        """Go back to the best policy; note what the Improve step was."""
        assert self._kept is not None
        here = self.progress
        if self._best:
            restore(self.policy, self._best)
        entry = {
            "grow": here.grown + bool(self.grow_steps), "improve": here.improve + (self.levels[0] is not None),
            **self._kept.report, "updates": here.update, "nll": here.nll / here.update, "held_out": here.best,
            "best_update": here.best_update, "num_timesteps": self.num_timesteps,
        }  # fmt: skip
        self.history.append(entry)
        for name in ("grow", "improve", "threshold", "kept_share", "coverage", "kept_reward", "held_out", "nll"):
            if entry[name] is not None:
                self.logger.record(f"rest/{name}", entry[name])
        self.logger.dump(self.num_timesteps)
        here.next_improve(last=here.improve + 1 == len(self.levels))
        self._best = {}
        return run.step(texts=0, episodes=None, improved=entry)
