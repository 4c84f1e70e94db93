"""What `TokenPPO` refuses: settings that cannot be meant, each by its name, before anything is loaded.

A schedule is checked at its first value. A negative `ent_coef` is allowed: it lowers the entropy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textenv.agents.checks import above, at_first, at_least, finite, one_of, within
from textenv.agents.engines.protocol import RolloutEngine
from textenv.agents.ppo.aggregation import AGGREGATIONS
from textenv.agents.ppo.estimators import ESTIMATORS, LEVELS
from textenv.agents.ppo.kl import KL_ESTIMATORS

if TYPE_CHECKING:
    from textenv.agents.ppo.token_ppo import TokenPPO

__all__ = ["check_settings"]

NUMBERS: tuple[tuple[Callable[..., None], tuple[Any, ...], tuple[str, ...]], ...] = (
    (at_least, (1,), ("n_episodes", "batch_size", "n_epochs", "group_size", "reference_sync_every", "micro_batch_tokens")),
    (at_least, (1,), ("micro_batch_size",)),
    (at_least, (0,), ("dynamic_sampling", "value_warmup")),
    (finite, (), ("learning_rate", "value_learning_rate", "ent_coef", "vf_coef")),
    (within, (0, float("inf")), ("learning_rate", "value_learning_rate", "vf_coef")),
    (within, (0, 1), ("gamma", "gae_lambda")),
    (above, (0,), ("max_grad_norm", "target_kl", "clip_range", "clip_range_high", "clip_range_vf")),
)
"""Check, its bounds, whom it is for; None is left out."""
SCHEDULES = ("learning_rate", "value_learning_rate", "clip_range", "clip_range_high", "clip_range_vf")


def check_settings(agent: TokenPPO, value_model: Any, engine: RolloutEngine | None) -> None:
    """Refuse settings that cannot be; `agent` has them as attributes.

    Raises:
        ValueError: a value that cannot be meant, or two that do not go together. TypeError: no number.
    """
    for check, bounds, names in NUMBERS:
        given = {name: getattr(agent, name) for name in names}
        check(*bounds, **{name: at_first(value) if name in SCHEDULES else value for name, value in given.items()})
    one_of(LEVELS, advantage_level=agent.advantage_level)
    one_of(AGGREGATIONS, loss_aggregation=agent.loss_aggregation)
    if agent.whiten_rewards is not None:
        one_of(("std", "sqrt_std"), whiten_rewards=agent.whiten_rewards)
    one_of(("reward", "loss"), kl_in=agent.kl_in)
    one_of(KL_ESTIMATORS, kl_estimator=agent.kl_estimator)
    _check_together(agent, value_model, engine)


def _check_together(agent: TokenPPO, value_model: Any, engine: RolloutEngine | None) -> None:
    size, name = agent.group_size, agent.advantage
    if ESTIMATORS[name].compares and size < 2:
        raise ValueError(f"advantage={name!r} compares the texts of one prompt: group_size must be at least 2, got {size}")
    if agent.n_episodes % size:
        raise ValueError(f"n_episodes={agent.n_episodes} is no multiple of group_size={size}; lower one of them")
    if agent.dynamic_sampling and size < 2:
        raise ValueError(f"dynamic_sampling={agent.dynamic_sampling} needs texts to compare: group_size must be at least 2")
    if not 0 < agent.reference_mixing <= 1:
        raise ValueError(f"reference_mixing must lie in (0, 1], got {agent.reference_mixing}; 1 takes the policy as it is")
    if name == "gae" and agent.advantage_level != "token":
        raise ValueError(f"advantage_level={agent.advantage_level!r}: GAE is an estimate for each token; try advantage='rloo'")
    given = {"value_model": value_model, "value_learning_rate": agent.value_learning_rate, "value_warmup": agent.value_warmup}
    for setting, value in given.items():
        if value and not agent.learns_value:
            without = f"{setting}={0 if setting == 'value_warmup' else None}"
            raise ValueError(f"{setting}={value!r}, but advantage={name!r} learns no value; leave it out ({without}), or use 'gae'")
    if engine is not None and agent.nlpo is not None:
        raise ValueError("nlpo samples under a mask that an engine does not know; leave one of the two out")
    if agent.engine_is_cap is not None and (engine is None or not agent.engine_is_cap >= 1):
        raise ValueError(f"engine_is_cap={agent.engine_is_cap} weights the texts of an engine=, by at most a number from 1 on")
    if agent.kl_in == "loss" and agent.kl_estimator == "k1":
        warnings.warn("the gradient of k1 in the loss has mean zero, so it keeps nothing near: use 'k2' or 'k3'", stacklevel=4)
