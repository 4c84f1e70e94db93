"""Whether a policy and a text environment speak of the same tokens: what neither could tell from ids alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym

from textenv.generation import ActionRule

if TYPE_CHECKING:
    from textenv.agents.policy import LMPolicy

__all__ = ["check_tokens"]


def check_tokens(policy: LMPolicy, env: gym.Env[Any, Any]) -> None:
    """Refuse a policy whose ids stand for other tokens than the environment's.

    Raises:
        TypeError: no text environment.
        ValueError: fewer ids than the environment's tokenizer, or another tokenizer.
    """
    if not isinstance(env, gym.Env) or not env.has_wrapper_attr("action_rule"):
        raise TypeError(f'env must be a text environment, gym.make("textenv/Detox-v0") say, got {env!r:.80}')
    rule: ActionRule = env.get_wrapper_attr("action_rule")
    theirs, own = env.get_wrapper_attr("tokenizer"), policy.tokenizer
    way_out = "make the environment with the policy's own tokenizer (tokenizer=...)"
    if policy.vocabulary < rule.vocabulary:
        raise ValueError(f"the policy knows {policy.vocabulary} ids, the environment's tokenizer {rule.vocabulary}: {way_out}")
    if own is not None and own is not theirs and own.get_vocab() != theirs.get_vocab():
        name = policy.source or policy.model.name_or_path or type(policy.model).__name__
        raise ValueError(
            f"policy {name!r} and environment have different tokenizers ({len(own)} and {len(theirs)} ids): {way_out}"
        )
