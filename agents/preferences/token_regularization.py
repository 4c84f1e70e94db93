"""T-REG: token rewards of a frozen model steer how a preference is shared among the tokens.

Paper: Zhou et al. 2024, *T-REG: Preference Optimization with Token-Level Reward Regularization* (arXiv 2412.02685). With r̂_t
in (−½, ½) from a frozen source and w = σ(−m) the weight of the pair in the base's own gradient (`preference_losses`), detached:

    L_reg(x, y) = −Σ_t β r̂_t log π(y_t | x, y_<t)                            (Eq. 1; π_ref is a constant there)
    L           = L_base + α w (L_reg(x, y_w) + L_reg(x, y_l))                (Eq. 2)

so that the gradient of the base is reweighted token by token: log π(y_w,t) by βw(1 + α r̂_t), log π(y_l,t) by βw(−1 + α r̂_t).
The sign of the regularizer is the same in both texts. Choices where the paper leaves one, and departures:

1. r̂ is computed once for each pair, before training: its source is frozen (the paper's algorithm has it in the loop);
2. over SimPO, L_reg is divided by |y| and carries SimPO's β, so that the same reweighting holds with β/|y|;
3. the contrast is the environment's reward "contrastive" (its requests, its treatment of EOS), read by the reference;
4. the DPO model as a source is squashed like the contrast, σ(log π_DPO/π_ref) − ½ (how the paper clips it is not said);
5. `static` weighting (w = 1) and r̂ shuffled within each text (`ShuffledSource`) are there as controls.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from textenv.agents.lora import is_adapter
from textenv.agents.policy import LMPolicy
from textenv.agents.preferences.losses import per_text
from textenv.critics.loading import embedded_name
from textenv.episode import Episode
from textenv.import_strings import load_object
from textenv.judges.token_log_probs import load_frozen, token_log_probs
from textenv.models import pick_device
from textenv.registration import REWARDS

__all__ = ["LogRatioSource", "ShuffledSource", "TokenSource", "load_token_source", "regularizer", "squash", "token_rewards"]

TokenSource = Callable[[Sequence[Episode]], Sequence[ArrayLike]]
"""Episodes → r̂ of every token, (T,) each."""


def squash(log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """σ(x) − ½ = ½ tanh(x/2), without overflow.

    >>> squash(np.array([0.0, np.log(3.0), -1e4])).round(6).tolist()
    [0.0, 0.25, -0.5]
    """
    return 0.5 * np.tanh(0.5 * log_ratio)


def regularizer(log_probs: Tensor, rewards: Tensor, lengths: Sequence[int], beta: float, *, by_length: bool = False) -> Tensor:
    """L_reg of each text; the token rewards carry no gradient.

    Args:
        log_probs, rewards: (N,) log π(y_t) and r̂_t, B texts one after the other.
        lengths: B numbers that sum to N.
        by_length: divide by |y| (SimPO).

    Returns:
        (B,).
    """
    total = -beta * per_text(rewards.detach() * log_probs, lengths)
    return total / torch.tensor(lengths, device=total.device) if by_length else total


def token_rewards(source: TokenSource, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
    """r̂ of episodes, checked.

    Raises:
        ValueError: a wrong number of arrays, a wrong length, or a value that is not finite.
    """
    bare = [replace(episode, rewards=np.zeros(len(episode))) for episode in episodes]
    found = [np.array(values, np.float64) for values in source(bare)]
    shapes, expected = [values.shape for values in found], [(len(episode),) for episode in episodes]
    if shapes != expected:
        raise ValueError(f"the token source gave shapes {shapes[:4]} for texts of {expected[:4]} ({len(found)} of {len(expected)})")
    for values, episode in zip(found, episodes, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(f"the token source gave {values[~np.isfinite(values)][0]} in the text {episode.text[:60]!r}")
    return found


def load_token_source(source: Any, env: gym.Env[Any, Any], reader: LMPolicy) -> TokenSource:
    """The source that a name means.

    Args:
        source: "contrastive"; ("dpo", {"model": ...}); any reward that `gym.make(reward=...)` takes by name or import string;
            a pair (one of these, its arguments); or a callable, episodes → arrays (T,).
        env: a text environment that reads the pairs.
        reader: π_eval: the frozen policy that reads the contrast, unless the arguments name another model.

    Raises:
        ValueError: an unknown name, or a reward that does not apply (`textenv.reward.NotApplicable`).
    """
    name, arguments = source if isinstance(source, (tuple, list)) and len(source) == 2 else (source, {})
    if name == "dpo":
        return LogRatioSource(env, reference=arguments.get("reference", _readable(reader)), **_without(arguments, "reference"))
    if callable(name):
        called: TokenSource = name
        return called
    target = REWARDS.get(name, name) if isinstance(name, str) else None
    if target is None or ":" not in target:
        raise ValueError(f'token_source must be "contrastive", ("dpo", {{"model": ...}}), a reward or a callable, got {source!r}')
    if name == "contrastive":
        embedded = embedded_name(str(getattr(env.get_wrapper_attr("tokenizer"), "name_or_path", "") or ""))
        defaults = {"model": _readable(reader), "prompts": "headers" if embedded else "revision"}
        arguments = {**defaults, **arguments}
    hook: TokenSource = load_object(target)(env.unwrapped, **arguments).rewards  # of texts without credit: r̂ alone
    return hook


class LogRatioSource:
    """r̂ from a preference-trained model: σ(scale · log π_DPO/π_ref) − ½.

    Args:
        env: a text environment.
        model, reference: language models with the policy's tokenizer: names, directories, or transformers models.
        scale: of the log-ratio, before it is squashed.
        batch_size: texts a forward pass.

    Raises:
        NotApplicable: a model with another tokenizer than the environment's.
    """

    def __init__(self, env: gym.Env[Any, Any], model: Any, reference: Any, *, scale: float = 1.0, batch_size: int = 64) -> None:
        self._models = load_frozen(env, model, "model"), load_frozen(env, reference, "reference")
        self._rule, self.scale, self.batch_size = env.get_wrapper_attr("action_rule"), scale, batch_size

    def __call__(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """(T,) each."""
        prompts, texts = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
        new, old = (token_log_probs(m, prompts, texts, self._rule, batch_size=self.batch_size) for m in self._models)
        return [squash(self.scale * (a - b)) for a, b in zip(new, old, strict=True)]


class ShuffledSource:
    """The control: r̂ of another source, shuffled within each text. The histogram stays, the place goes.

    Args:
        source: what is shuffled.
        seed: of the order, together with the text's own ids: a text is shuffled alike whenever it comes.
    """

    def __init__(self, source: TokenSource, seed: int = 0) -> None:
        self.source, self.seed = source, seed

    def __call__(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """(T,) each."""
        return [
            np.random.default_rng([self.seed, *episode.tokens.tolist()]).permutation(np.asarray(values))
            for episode, values in zip(episodes, self.source(episodes), strict=True)
        ]


def _readable(reader: LMPolicy) -> Any:
    """What `load_frozen` reads a frozen policy by: its name, or its model (which it moves to the default device)."""
    if reader.source is not None and not is_adapter(reader.source):
        return reader.source
    return reader.model if reader.device.type == pick_device().type else copy.deepcopy(reader.model)


def _without(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key != name}
