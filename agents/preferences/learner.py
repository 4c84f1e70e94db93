"""Learning from preference pairs: DPO, SimPO and TDPO, with T-REG's token-level regularization and SELM's optimism on top.

    L = mean over pairs of  −log σ(m)  +  α_treg · w · (L_reg(y_w) + L_reg(y_l))  +  α_selm · β (log π − log π_ref)(y_ref)

The margins m of the bases are in `losses`, L_reg and its token rewards in `token_regularization`, where pairs come from in
`pairs`. Choices and departures:

1. pairs that are given are passed over in new order again and again, and a timestep is a token learned from. Without pairs, a
   round samples `n_prompts × n_samples` texts, ranks them by the environment's score and passes `n_epochs` times over the
   pairs; a timestep is a generated token. SELM's iterations are such rounds, with `update_reference=True`;
2. what is frozen is computed once for each pair: the reference's log-probabilities and the token rewards. TDPO alone asks the
   reference at every step, for its distributions are too large to keep;
3. SELM's y_ref is the reference's greedy text, as in its released code (with sampled texts the term's gradient would vanish
   on average at π = π_ref); it joins the ranking where texts are ranked;
4. a learning rate that is a number is a peak: it rises over the first tenth of a run and falls along a cosine (the settings of
   SimPO, T-REG and SELM). Dropout is off;
5. a run over given pairs that was cut, saved, loaded and goes on for what it had left makes the same updates as one that was
   not: the rate is a function of the timesteps alone, and the order of the pass is kept. A round that was cut begins anew.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from textenv.agents.checks import above, at_first, at_least, within
from textenv.agents.learner import Learner, Run
from textenv.agents.policy import LMPolicy
from textenv.agents.preferences.losses import Base, PreferenceLoss
from textenv.agents.preferences.objective import PairObjective, Prepared
from textenv.agents.preferences.pairs import Pair, SampledPairs, read_for, reading_rule, sample_pairs, with_explored
from textenv.agents.preferences.token_regularization import TokenSource, load_token_source
from textenv.agents.rollout import Timing
from textenv.fitting.training import learning_rate_factor
from textenv.precision import Precision, differentiating

__all__ = ["DPO", "PreferenceLearner", "SimPO", "TREG"]


class PreferenceLearner(Learner):
    """Fits a language model, causal or encoder–decoder, to preference pairs.

    >>> import gymnasium as gym, textenv
    >>> from textenv.agents.preferences.learner import TREG
    >>> pairs = [{"prompt": "I read your note.", "chosen": " You are right.", "rejected": " You are a weasel."}] * 4
    >>> agent = TREG("textenv/tiny", gym.make("textenv/Detox-v0"), pairs, seed=0).learn(100)
    >>> agent.compare(agent.pairs)["rewards/accuracies"]
    1.0

    Args:
        policy: an `LMPolicy`, or what one is made from: "textenv/tiny", a directory, a hub name, a transformers model.
        env: a text environment: it reads prompts, and ranks where there are no pairs. None: the pairs' prompts are read as they
            stand.
        pairs: a file (.jsonl, .csv, .parquet; prompt, chosen, rejected), a `datasets.Dataset`, rows, or `Pair`s of token ids
            (of `sample_pairs`); None: sampled and ranked in `env`, round by round.
        columns: where data have prompt, context, chosen, rejected. max_new_tokens: without `env`; default: the longest text's.
        loss: the base: "dpo", "simpo", "tdpo1", "tdpo2".
        beta: β; default: 0.1, SimPO's 2.0. gamma_ratio: SimPO's γ/β. tdpo_alpha: TDPO-2's α.
        treg_alpha: of T-REG (the paper: 0.1, 0.25 or 0.5; 0: off). treg_weight: "pair" is w; "static" is 1, a control.
        token_source: of T-REG's token rewards: see `load_token_source`.
        selm_alpha: of SELM (the paper: 1e-4 or 1e-3; 0: off).
        n_prompts, n_samples, n_epochs: of a round.
        update_reference: each round begins with the policy as its reference.
        batch_size: pairs an optimizer step. micro_batch_size: pairs a forward pass; default: `batch_size`.
        learning_rate: its peak, or a schedule of the remaining share of the run (1 → 0).
        weight_decay, max_grad_norm: as in AdamW and its usual company.
        reference: the frozen policy, or what one is made from; default: the policy as it is now, where the loss reads one.
        lora, gradient_checkpointing, precision, temperature, device: of a policy that is made here (as for `LMPolicy`).
        tensorboard_log, seed, verbose: as in `Learner`.

    Raises:
        ValueError: bad settings; neither pairs nor an environment; no pair that fits.
    """

    settings_names = (
        *Learner.settings_names, "loss", "beta", "gamma_ratio", "tdpo_alpha", "treg_alpha", "treg_weight", "token_source",
        "selm_alpha", "n_prompts", "n_samples", "n_epochs", "update_reference", "batch_size", "micro_batch_size", "learning_rate",
        "weight_decay", "max_grad_norm",
    )  # fmt: skip

    def __init__(
        self,
        policy: Any,
        env: gym.Env[Any, Any] | None = None,
        pairs: Any = None,
        *,
        columns: Mapping[str, str] | None = None,
        max_new_tokens: int | None = None,
        loss: Base = "dpo",
        beta: float | None = None,
        gamma_ratio: float = 0.5,
        tdpo_alpha: float = 0.5,
        treg_alpha: float = 0.0,
        treg_weight: Literal["pair", "static"] = "pair",
        token_source: Any = "contrastive",
        selm_alpha: float = 0.0,
        n_prompts: int = 64,
        n_samples: int = 5,
        n_epochs: int = 1,
        update_reference: bool = False,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        learning_rate: float | Schedule = 1e-4,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        reference: Any = None,
        lora: Any = None,
        gradient_checkpointing: bool = False,
        precision: Precision = "auto",
        temperature: float | None = None,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        device: str | torch.device = "auto",
        verbose: int = 0,
    ) -> None:
        at_least(1, n_prompts=n_prompts, n_epochs=n_epochs, batch_size=batch_size, micro_batch_size=micro_batch_size)
        at_least(2, n_samples=n_samples)
        within(0, float("inf"), learning_rate=at_first(learning_rate), weight_decay=weight_decay)
        above(0, max_grad_norm=max_grad_norm)
        if env is None and pairs is None:
            raise ValueError("give pairs= (a file, rows), or env=, a text environment in which pairs are sampled and ranked")
        if treg_alpha and token_source is None:
            raise ValueError("treg_alpha is above 0 without a token source (one that is no name is not saved): pass token_source=")
        self.loss, self.beta, self.gamma_ratio, self.tdpo_alpha = loss, beta, gamma_ratio, tdpo_alpha
        self.treg_alpha, self.treg_weight, self.token_source, self.selm_alpha = treg_alpha, treg_weight, token_source, selm_alpha
        base = PreferenceLoss(loss, (2.0 if loss == "simpo" else 0.1) if beta is None else beta, gamma_ratio, tdpo_alpha)
        self.objective = PairObjective(base, treg_alpha, selm_alpha, treg_weight)
        needed = self.objective.needs_reference or (treg_alpha > 0 and not callable(token_source))
        if update_reference and (pairs is not None or not (needed or reference)):
            why = f"loss={loss!r} reads no reference" if pairs is None else "pairs that are given make no rounds"
            raise ValueError(f"update_reference=True begins each round with a new reference, but {why}; leave it out")
        model: dict[str, Any] = {"lora": lora, "gradient_checkpointing": gradient_checkpointing, "precision": precision}
        made = policy if isinstance(policy, LMPolicy) else LMPolicy(policy, temperature=temperature, device=device, **model)
        self.reading, self.pairs = read_for(pairs, columns, env, made, max_new_tokens)
        super().__init__(
            made, env, rule=self.reading.action_rule, reference=reference or needed or None, tensorboard_log=tensorboard_log,
            seed=seed, verbose=verbose, **(model if made is policy else {}),
        )  # fmt: skip
        self._reading_rule = reading_rule(self.rule, self.pairs or ())
        self.n_prompts, self.n_samples, self.n_epochs, self.update_reference = n_prompts, n_samples, n_epochs, update_reference
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size or batch_size
        self.learning_rate, self.weight_decay, self.max_grad_norm = learning_rate, weight_decay, max_grad_norm
        self._source: TokenSource | None = None
        self._prepared: list[Prepared] | None = None
        self._order: list[int] = []  # what is left of a pass over given pairs
        trained = [p for p in self.policy.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=self._rate(0.0), weight_decay=weight_decay, fused=True)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train on `total_timesteps` tokens: of the pairs, or where pairs are sampled, of all texts sampled for them.

        Args:
            total_timesteps: tokens; whole batches, or rounds: the last may pass it.
            callback: Stable-Baselines3 callbacks; `on_step` is called once an optimizer step.
            log_interval: optimizer steps between two dumps of the logger, which shows their means; a round ends with a dump.
            tb_log_name: default: the name of the class.
            progress_bar: show tokens/s and the time left.

        Raises:
            ValueError: pairs are sampled, and in the whole run no two texts of one prompt differed in score.
            FloatingPointError: a loss that is not finite.
        """
        with self.running(total_timesteps, callback, tb_log_name or type(self).__name__, reset_num_timesteps, progress_bar) as run:
            if self.pairs is None:
                self._rounds(run)
            else:
                self._passes(run, self.pairs, log_interval)
        return self

    def compare(self, pairs: Sequence[Pair]) -> dict[str, float]:
        """Loss and statistics of pairs (held out ones, say) by the names that training logs; nothing is learned.

        Returns:
            Means over pairs: "train/loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies" (the
            share of pairs whose chosen text has the higher implicit reward), "logps/chosen", "logps/rejected", ...
        """
        prepared, total = self._prepare(pairs), defaultdict[str, float](float)
        with torch.no_grad():
            for at in range(0, len(prepared), self.micro_batch_size):
                out = self._losses(prepared[at : at + self.micro_batch_size])
                for name, values in out.items():
                    total[name] += float(values.sum()) / len(prepared)
        return dict(total)

    # --- Runs --------------------------------------------------------------------------------------------------------

    def _passes(self, run: Run, pairs: Sequence[Pair], log_interval: int) -> None:
        """Pass after pass over the pairs that were given."""
        if self._prepared is None:
            self._prepared = self._prepare(pairs)
        going = True
        while going:
            self._order = self._order or self._shuffled(self._prepared)
            rows, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
            batch = [self._prepared[i] for i in rows]
            self._update(batch, 1.0 - run.remaining)
            self.num_timesteps += sum(len(one.pair) for one in batch)
            going = run.step(texts=2 * len(batch), pairs=[one.pair for one in batch]) and self.num_timesteps < run.total
            run.iterated(log_interval)

    def _rounds(self, run: Run) -> None:
        """Sample, rank, learn, again and again."""
        made, going = 0, True
        while going and self.num_timesteps < run.total:
            if self.update_reference and self.reference is not None:
                self.reference, self._source = self.policy.frozen_copy(), None
            run.calls.on_rollout_start()
            begun = self.num_timesteps
            found = self._sample()
            made += len(found.pairs)
            run.calls.on_rollout_end()
            prepared = self._prepare(found.pairs)
            orders, size = [self._shuffled(prepared) for _ in range(self.n_epochs)], self.batch_size
            batches = [[prepared[i] for i in order[at : at + size]] for order in orders for at in range(0, len(order), size)]
            end, sampled = max(run.total, self.num_timesteps), self.num_timesteps - begun
            going = bool(batches) or run.step(texts=len(found.episodes), pairs=[], episodes=found.episodes)
            for k, batch in enumerate(batches):
                self._update(batch, (begun + sampled * k / len(batches)) / end)
                new = 0 if k else len(found.episodes)
                going = run.step(texts=new, pairs=[one.pair for one in batch], episodes=found.episodes)
                if not going:
                    break
            run.iterated(1)
        if going and not made:
            raise ValueError(
                f"in {self.num_timesteps - run.first:,} tokens no two texts of one prompt differed in score, so there was no pair; "
                "raise n_samples, or warm the policy up (BehaviourCloning)"
            )

    def _sample(self) -> SampledPairs:
        """The pairs of one round, counted and logged."""
        timing = Timing()
        found = sample_pairs(
            self.env, self.policy, self.n_prompts, self.n_samples, self.generator,
            explorer=self.reference if self.selm_alpha else None, timing=timing,
        )  # fmt: skip
        self.num_timesteps += sum(map(len, found.episodes))
        log = self.logger.record
        log("objective/scores", float(np.mean([episode.score for episode in found.episodes])))
        log("rollout/ep_len_mean", float(np.mean([len(episode) for episode in found.episodes])))
        log("pairs/share", len(found.pairs) / found.prompts)
        if found.pairs:
            log("pairs/score_gap", float(np.mean([pair.chosen.score - pair.rejected.score for pair in found.pairs])))
        log("time/sample_seconds", timing.sample)
        log("time/score_seconds", timing.score)
        return found

    # --- One step ----------------------------------------------------------------------------------------------------

    def _shuffled(self, prepared: Sequence[Prepared]) -> list[int]:
        """The order of one pass."""
        order: list[int] = torch.randperm(len(prepared), generator=self.generator).tolist()
        return order

    def _update(self, batch: Sequence[Prepared], through: float) -> None:
        """One optimizer step, at this share of the run."""
        rate, total = self._rate(through), defaultdict[str, float](float)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        for at in range(0, len(batch), self.micro_batch_size):
            out = self._losses(batch[at : at + self.micro_batch_size])
            sums = torch.stack([values.detach().sum() for values in out.values()]).tolist()  # a device is waited for once
            for name, number in zip(out, sums, strict=True):
                total[name] += number / len(batch)
            if not np.isfinite(loss := total["train/loss"]):
                way_out = "lower learning_rate, treg_alpha or selm_alpha"
                raise FloatingPointError(f"the loss became {loss} at update {self.n_updates}; {way_out}")
            with differentiating(self.policy.precision):
                (out["train/loss"].sum() / len(batch)).backward()
        if self.treg_alpha:  # near 0 the regularizer has nothing to say
            total["treg/mean_abs_reward"] = float(np.mean([np.abs(rewards).mean() for one in batch for rewards in one.rewards]))
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trained, self.max_grad_norm)
        self.optimizer.step()
        self.n_updates += 1
        for name, value in {**total, "train/grad_norm": float(norm)}.items():
            self.logger.record_mean(name, value)
        self.logger.record("train/learning_rate", rate)
        self.logger.record("train/n_updates", self.n_updates)

    def _rate(self, through: float) -> float:
        """The learning rate after this share of the run."""
        if callable(self.learning_rate):
            return float(self.learning_rate(1.0 - through))
        return self.learning_rate * learning_rate_factor(round(1000 * through), 1000, 100)

    def _losses(self, part: Sequence[Prepared]) -> dict[str, torch.Tensor]:
        return self.objective.losses(part, self.policy, self.reference, self._reading_rule)

    def _prepare(self, pairs: Sequence[Pair]) -> list[Prepared]:
        """What is frozen about pairs: explored texts, the reference's log-probabilities, token rewards."""
        if self.selm_alpha:
            assert self.reference is not None  # SELM is made with one
            pairs = with_explored(pairs, self.reference, self.rule, self.reading)
        if self.treg_alpha and self._source is None:
            self._source = load_token_source(self.token_source, self.reading, self.reference or self.policy)
        size = 2 * self.micro_batch_size
        return self.objective.prepare(pairs, self.reference, self._source, self._reading_rule, size)

    # --- Checkpoints -------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        try:
            json.dumps(state["settings"].get("token_source"))
        except TypeError:  # a model or a function somewhere inside
            state["settings"]["token_source"] = None
        state["settings"].setdefault("token_source", None)
        state["schedules"] = [name for name in state["schedules"] if name != "token_source"]
        return {**state, "order": self._order}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._order = [i for i in state.get("order", ()) if i < len(self.pairs or ())]


class DPO(PreferenceLearner):
    """DPO (Rafailov et al. 2023): `PreferenceLearner` as it is; its arguments."""


class SimPO(PreferenceLearner):
    """SimPO (Meng et al. 2024), which has no reference: `PreferenceLearner` with `loss="simpo"`; its arguments."""

    def __init__(self, policy: Any, env: Any = None, pairs: Any = None, *, loss: Base = "simpo", **settings: Any) -> None:
        super().__init__(policy, env, pairs, loss=loss, **settings)


class TREG(PreferenceLearner):
    """T-REG (Zhou et al. 2024) over DPO, or over `loss="simpo"`: `PreferenceLearner` with `treg_alpha=0.25`; its arguments."""

    def __init__(self, policy: Any, env: Any = None, pairs: Any = None, *, treg_alpha: float = 0.25, **settings: Any) -> None:
        super().__init__(policy, env, pairs, treg_alpha=treg_alpha, **settings)
