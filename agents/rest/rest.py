"""ReST: sample once, learn several times from ever better parts of the samples (Gulcehre et al. 2023, arXiv 2308.08998).

    Grow      D_g = {(x, y): x ~ D, y ~ π_θ(·|x)} ∪ D, scored once
    Improve   θ ← argmin E_{D_g}[1[R(x, y) > τ_i] L(x, y; θ)],   τ_1 < τ_2 < …, from the policy before, at a lower learning rate

G times Grow, I times Improve after each. Relatives by preset: RAFT (Dong et al. 2023, arXiv 2304.06767), ReST^EM (Singh et al.
2023, arXiv 2312.06585). Departures, and what the paper leaves open:

1. Thresholds are quantiles of D_g's rewards by default, so that they need no scale; the paper maps rewards to [0, 1] in a way it
   does not tell. Absolute ones and ones of each prompt are there too (`textenv.agents.rest.thresholds`).
2. The learning rate halves from one Improve step to the next and begins anew after a Grow; within a step it warms up over 5 % and
   falls along a cosine. The optimizer begins anew in every Improve step.
3. The policy of an Improve step is the best by held-out reward of those seen, the one that it began with among them; held-out
   texts are sampled at the policy's own temperature, always with the same random numbers. Without `eval_env` it is the last one.
4. Behaviour cloning of D before the first Grow is not part of `learn`: begin with a policy that has learned it
   (`BehaviourCloning`, or `grow_steps=0`). Its targets are those of D without a filter, `improve_steps=0`.
5. What the filter reads is the task's score; with `filter_by="return"`, the sum of the credit that the wrappers placed. The losses
   "offline_ac" and "bvmpo" read the credit token by token.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from textenv.agents.learner import Learner
from textenv.agents.rest.grown import FilterBy, GrownData
from textenv.agents.rest.grown_files import load_grown, save_grown
from textenv.agents.rest.improving import restore, snapshot
from textenv.agents.rest.offline_losses import OfflineLoss, loss_settings, offline_loss
from textenv.agents.rest.state import Progress, read_tensors, write_tensors
from textenv.agents.rest.steps import GrowAndImprove
from textenv.agents.rest.thresholds import ThresholdKind
from textenv.precision import Precision

__all__ = ["ReST"]

GROWN_FILE = "grown.jsonl"


class ReST(GrowAndImprove):
    """Trains a language model, causal or encoder–decoder, on the best of what it writes.

    >>> import gymnasium as gym, textenv
    >>> from textenv.agents import ReST
    >>> env = gym.make("textenv/Translation-v0", prompts=[textenv.Prompt("The dog sleeps.", references=(" Der Hund schläft.",))])
    >>> agent = ReST("textenv/tiny-translation", env, samples_per_prompt=8, thresholds=(None,), updates=2, seed=0).learn()
    >>> [(step["grow"], step["improve"]) for step in agent.history], len(agent.grown)
    ([(1, 0)], 9)

    Args:
        policy: an `LMPolicy`, or what one is made from: "textenv/tiny", a directory, a hub name, a transformers model.
        env: a text environment, rewards and all: its prompts are grown, it judges what is sampled.
        data: D, the original data: a file of prompts and texts (see `grown_files`), `Prompt`s with references, or `GrownData`;
            default: the references of the environment's prompts, where there are any.
        grown: data of the first Grow step, used as they are in place of sampling: `GrownData`, or a file that `save_grown` wrote.
        eval_env: a text environment with held-out prompts, by which checkpoints are chosen.
        grow_steps, improve_steps: G and I. I = 0 learns once from all of D_g, without a filter; G = 0 learns from D alone.
            Default for I: as many as there are thresholds. Where the first threshold is None, that step comes before them, as 0.
        thresholds: one level for each Improve step, each stricter than the one before; None: everything is kept.
        threshold: what a level is: "quantile" of all rewards, "absolute", "source_quantile", "source_gamma", "source_best".
        filter_by: "score" (the task's verdict) or "return" (the sum of the credit).
        keep_data: D in D_g: "filtered" like the samples, "all" of it, or "none".
        start: each Improve step begins with the "previous" policy, or with the "base": the one that the agent was made with.
        loss: "bc", "gold", "offline_ac", "bvmpo", or one of `textenv.agents.rest.offline_losses` with other settings.
        n_prompts: prompts of a Grow step, drawn with replacement; default: each of the environment's prompts once.
        samples_per_prompt, grow_temperature, top_k, top_p: how each is sampled. 0.8 is the paper's temperature.
        max_per_prompt: at most so many samples of a prompt are learned from, the best.
        drop_truncated: do not learn from texts cut at their budget, which would teach not to stop.
        deduplicate: learn from equal texts once; otherwise their number is their weight.
        learning_rate, lr_decay: peak of the first Improve step, and the factor from one to the next.
        updates: optimizer steps of an Improve step.
        batch_size, micro_batch_size: texts an optimizer step, and a forward pass (default: the same).
        eval_every: updates between two held-out measurements (default: a fifth of `updates`). patience: after so many
            without a new best the Improve step ends. eval_prompts: how many prompts, the first ones (default: all).
        tensorboard_log, seed, device, verbose, temperature, lora, gradient_checkpointing, precision: as for every learner.

    Attributes:
        grown: the data of the latest Grow step, D included; `save_grown` writes them.
        history: of each Improve step: grow, improve (0: without a filter), level, threshold, kept, kept_share, coverage (share of
            the prompts with a kept text), kept_reward, updates, nll, held_out, best_update, num_timesteps.

    Raises:
        ValueError: policy and environment disagree about their tokens; bad settings; nothing to learn from.
    """

    settings_names = (
        *Learner.settings_names, "grow_steps", "improve_steps", "thresholds", "threshold", "filter_by", "keep_data", "start",
        "n_prompts", "samples_per_prompt", "grow_temperature", "top_k", "top_p", "max_per_prompt", "drop_truncated", "deduplicate",
        "learning_rate", "lr_decay", "updates", "batch_size", "micro_batch_size", "weight_decay", "max_grad_norm", "eval_every",
        "patience", "eval_prompts", "seed",
    )  # fmt: skip

    def __init__(
        self,
        policy: Any,
        env: gym.Env[Any, Any],
        *,
        data: Any = None,
        grown: Any = None,
        eval_env: gym.Env[Any, Any] | None = None,
        grow_steps: int = 1,
        improve_steps: int | None = None,
        thresholds: Sequence[float | None] = (0.6, 0.7, 0.8, 0.9),
        threshold: ThresholdKind = "quantile",
        filter_by: FilterBy = "score",
        keep_data: Literal["filtered", "all", "none"] = "filtered",
        start: Literal["previous", "base"] = "previous",
        loss: str | OfflineLoss | dict[str, Any] = "bc",
        n_prompts: int | None = None,
        samples_per_prompt: int = 8,
        grow_temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        max_per_prompt: int | None = None,
        drop_truncated: bool = True,
        deduplicate: bool = False,
        learning_rate: float = 1e-4,
        lr_decay: float = 0.5,
        updates: int = 200,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
        eval_every: int | None = None,
        patience: int | None = None,
        eval_prompts: int | None = None,
        temperature: float | None = None,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        device: str | torch.device = "auto",
        verbose: int = 0,
        lora: Any = None,
        gradient_checkpointing: bool = False,
        precision: Precision = "auto",
    ) -> None:
        super().__init__(
            policy, env, temperature=temperature, tensorboard_log=tensorboard_log, seed=seed, device=device, verbose=verbose,
            lora=lora, gradient_checkpointing=gradient_checkpointing, precision=precision,
        )  # fmt: skip
        self.grow_steps, self.improve_steps, self.updates, self.batch_size = grow_steps, improve_steps, updates, batch_size
        self.thresholds, self.threshold, self.learning_rate, self.lr_decay = tuple(thresholds), threshold, learning_rate, lr_decay
        self.filter_by, self.keep_data, self.start, self.max_per_prompt = filter_by, keep_data, start, max_per_prompt
        self.n_prompts, self.samples_per_prompt, self.grow_temperature = n_prompts, samples_per_prompt, grow_temperature
        self.top_k, self.top_p, self.drop_truncated, self.deduplicate = top_k, top_p, drop_truncated, deduplicate
        self.micro_batch_size = batch_size if micro_batch_size is None else micro_batch_size
        self.eval_every = max(1, updates // 5) if eval_every is None else eval_every
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        self.patience, self.eval_prompts = patience, eval_prompts
        self.loss, self.eval_env, self.data = offline_loss(loss), eval_env, data
        self._check_settings()
        self._prepare()
        if grown is not None:
            self.grown = grown if isinstance(grown, GrownData) else load_grown(grown, env, self.policy)
            self.progress.is_grown = True

    @classmethod
    def raft(cls, policy: Any, env: gym.Env[Any, Any], *, quantile: float | None = None, **settings: Any) -> Self:
        """RAFT: after each Grow one Improve step, on the best of K texts of each prompt, or on those above a fixed quantile.

        Args:
            quantile: of all rewards of the present samples; None: best of K (texts that tie for the best are all kept).
            **settings: as for `ReST`; `grow_steps` (default 4) is the number of rounds, `samples_per_prompt` is K.
        """
        chosen = {"threshold": "source_best", "thresholds": (1,)} if quantile is None else {"thresholds": (quantile,)}
        return cls(policy, env, **{"grow_steps": 4, "keep_data": "none", "lr_decay": 1.0, **chosen, **settings})

    @classmethod
    def rest_em(cls, policy: Any, env: gym.Env[Any, Any], **settings: Any) -> Self:
        """ReST^EM: learn from samples that are right (reward above 0), each time from the base model, without other data.

        Defaults as reported of it: 32 samples a prompt at temperature 0.7 from the 40 most likely tokens, of which at most 10 are
        learned from; three rounds.
        """
        given = {
            "grow_steps": 3, "keep_data": "none", "start": "base", "threshold": "absolute", "thresholds": (0.0,),
            "samples_per_prompt": 32, "grow_temperature": 0.7, "top_k": 40, "max_per_prompt": 10,
        }  # fmt: skip
        return cls(policy, env, **{**given, **settings})

    def learn(
        self,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "ReST",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Carry out the plan: G times Grow, and I times Improve after each.

        A run that was cut short (by `total_timesteps`, a callback, or because it was saved and loaded) goes on where it stopped.
        After a plan that was finished, another one begins, from the policy of now.

        Args:
            total_timesteps: stop after so many tokens, generated and learned from together; default: when the plan is done.
            callback: Stable-Baselines3 callbacks; `on_step` is called after each part of a Grow step (`locals["episodes"]`), each
                update, and at the end of each Improve step (`locals["improved"]`: its entry in `history`; else None).
            log_interval: updates between two dumps of the logger.
            progress_bar: show tokens/s and the time left, at most.
        """
        if self.finished:
            self.progress = Progress()
        with self.running(total_timesteps or self._planned(), callback, tb_log_name, reset_num_timesteps, progress_bar) as run:
            going = True
            while going and not self.finished and (total_timesteps is None or self.num_timesteps < run.total):
                if not self.progress.is_grown:
                    going = self._grow(run)
                elif not self.progress.begun:
                    self._begin()
                else:
                    going = self._update(run, log_interval)
        return self

    # --- Checkpoints ---------------------------------------------------------------------------------------------

    def _write(self, directory: Path) -> None:
        """The grown data, and what a run needs to go on as it would have.

        `data` and `eval_env` are not among it: pass them to `load` again (D is, once a Grow step has been made).
        """
        if len(self.grown):
            save_grown(self.grown, directory / GROWN_FILE)
        write_tensors(directory, self._tensors())

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: Any, *, device: Any = "auto", **settings: Any) -> Self:
        """A saved agent, ready to go on, from the middle of an Improve step too.

        Args:
            path: the directory.
            env: a text environment with the same tokens and prompts.
            **settings: override what was saved; `eval_env` and `data` as at first.

        Raises:
            FileNotFoundError, ValueError: not what `save` wrote; grown data that are not of this environment.
        """
        directory = Path(path)
        if (directory / GROWN_FILE).is_file():
            settings = {"grown": directory / GROWN_FILE, **settings}
        agent = super().load(path, env, device=device, **settings)
        agent._take_up(read_tensors(directory))
        return agent

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        state["settings"]["loss"] = loss_settings(self.loss)
        return {**state, "progress": asdict(self.progress), "history": self.history}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self.progress, self.history = Progress.of(state["progress"]), state["history"]

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """What is not in the policy's own files."""
        trained = snapshot(self.policy).keys()
        groups: dict[str, dict[str, Tensor]] = {}
        for kind, model in (("lagged", self.improver.lagged), ("anchor", self.improver.anchor)):
            if model is not None:
                groups[kind] = {name: value for name, value in model.named_parameters() if name in trained}
        signal = {} if self._signal is None else {"tokens": torch.from_numpy(np.concatenate(self._signal))}
        order = {"before": self._before_order}
        return {"best": self._best, "base": self._base, "signal": signal, "order": order, **groups}

    def _take_up(self, groups: dict[str, dict[str, Tensor]]) -> None:
        """Go on from what `_tensors` gave."""
        self._best, self._base = groups.get("best", {}), groups.get("base", self._base)
        for kind, model in (("lagged", self.improver.lagged), ("anchor", self.improver.anchor)):
            if model is not None and kind in groups:
                restore(model, groups[kind])
        if not self.progress.is_grown:
            return
        self._pool = self._usable()
        if "signal" in groups:
            flat = groups["signal"]["tokens"].numpy()
            ends = np.cumsum([len(episode) for episode in self._pool.episodes])
            if ends[-1] != len(flat):
                raise ValueError(f"the checkpoint knows {len(flat)} tokens of the grown data, they have {ends[-1]}: it is damaged")
            self._signal = list(np.split(flat, ends[:-1]))
        if self.progress.begun:
            self._kept = self._choose()
            self._before_order = groups["order"]["before"]
            self._order = self._shuffled(torch.Generator())
