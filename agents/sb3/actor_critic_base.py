"""What the three policy classes of `textenv.agents.sb3.actor_critic` share: a causal language model behind SB3's calls.

An observation holds all ids so far, so each is a state of its own. While SB3 collects (no gradients) the model's keys and
values are kept between the steps of the same texts; when it trains, the transitions of one text in a minibatch are read in one
pass (`textenv.states`). Logits beyond the action space do not exist, dropout is off, the value head begins at zero.

1. SB3 builds a `Categorical` over the vocabulary at each step and draws an exponential number per id. Here a token is one
   softmax and the inverse of its cumulative sum; minibatches need one log-sum-exp and the exact entropy.
2. A mask is −inf, where sb3-contrib writes −1e8: the same probabilities in float32.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from textenv.agents.lora import open_model
from textenv.agents.policy import Evaluated, LMPolicy
from textenv.agents.value_head import head_like
from textenv.generation import ActionRule, sample
from textenv.models import quiet_files
from textenv.precision import Precision
from textenv.saving import atomic_directory
from textenv.states import PrefixCache, read_states

__all__ = ["LanguageModelActing"]

Ids = NDArray[np.int64]
Source = str | os.PathLike[str] | PretrainedConfig | Callable[[], Any]
_FILE, _HEAD = "actor_critic.json", "value_head.safetensors"


class LanguageModelActing:
    """Everything but the signatures that SB3 asks for. Arguments: see `textenv.agents.sb3.actor_critic`."""

    observation_space: Any  # a Box of ids
    action_space: Any  # Discrete
    device: torch.device
    optimizer_class: type[torch.optim.Optimizer]
    optimizer_kwargs: dict[str, Any]

    def __init__(
        self,
        observation_space: gym.spaces.Box,
        action_space: gym.spaces.Discrete,
        lr_schedule: Callable[[float], float],
        *,
        model: Source,
        temperature: float = 1.0,
        cache: bool = True,
        dtype: torch.dtype = torch.float32,
        precision: Precision = "auto",
        **arguments: Any,
    ) -> None:
        if isinstance(model, nn.Module):
            raise TypeError(
                f"model={type(model).__name__}(...) would be pickled into every checkpoint beside its own weights: pass "
                "a directory (model.save_pretrained(directory)), its configuration (model.config: random weights), "
                "or a function that makes it"
            )
        self._settings = {"temperature": temperature, "cache": cache, "precision": precision}
        self._source, self._dtype = model, dtype
        self._choices = _choices(observation_space, action_space)
        super().__init__(observation_space, action_space, lr_schedule, net_arch=[], ortho_init=False, **arguments)  # type: ignore[call-arg]

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        model = _language_model(self._source, self._dtype)
        options: dict[str, Any] = {name: self._settings[name] for name in ("temperature", "precision")}
        self.lm = LMPolicy(model, device="cpu", **options)
        needed = int(self.observation_space.high.max()) + 1
        if self.lm.vocabulary < needed:
            raise ValueError(
                f"the model knows {self.lm.vocabulary} ids, the environment's tokenizer {needed}: "
                "make the environment with the model's own tokenizer (tokenizer=...)"
            )
        self.lm.layout.check(0, self._width)
        if isinstance(self._source, (str, os.PathLike)) and (Path(self._source) / _HEAD).is_file():
            self.lm.value_head = head_like(load_file(Path(self._source) / _HEAD), self.lm.device)
        self._memory = PrefixCache(model)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[attr-defined, call-arg]

    @property
    def _width(self) -> int:
        return int(self.observation_space.shape[0]) - self._choices

    # --- The model -----------------------------------------------------------------------------------------------

    def look(self, observations: Tensor, masks: Any = None) -> tuple[Tensor, Tensor]:
        """Logits and values of states.

        Without gradients the model's memory of the last call is used, and kept.

        Args:
            observations: (n, W) ids, -1 for none; with `TopKActions` k more columns, the ids that the actions mean.
            masks: (n, A) true where an action is allowed; None: all are.

        Returns:
            logits (n, A) over the actions, -inf where they are not allowed; values (n, 1).

        Raises:
            ValueError: a state in which no action is allowed.
        """
        rows = self._rows(observations)
        with self.lm.autocast():
            if torch.is_grad_enabled() or not self._settings["cache"]:
                states = read_states(self.lm.model, rows)
            else:
                states = self._memory.read(rows)
        logits = states.logits.float() / self.lm.temperature  # (n, rows of the embedding)
        if self._choices:
            logits = logits.gather(1, observations[:, self._width :].long().to(logits.device))
        else:
            logits = logits[:, : int(self.action_space.n)]
        if masks is not None:
            allowed = torch.as_tensor(np.asarray(masks) if not isinstance(masks, Tensor) else masks, device=logits.device)
            allowed = allowed.bool().reshape(logits.shape)
            if not bool(allowed.any(-1).all()):
                raise ValueError("action_masks() allow no action in a state; at least one token must be allowed")
            logits = logits.masked_fill(~allowed, float("-inf"))
        return logits, self.lm.value_head(states.hidden.float())

    def _rows(self, observations: Tensor) -> list[Ids]:
        """The ids of each state. One acts only where there is room: a full row is the padding of a recurrent minibatch."""
        columns = observations[:, : self._width].detach().cpu().numpy().astype(np.int64)  # exact below 2^24 in float32
        return [row[:1] if full else row[row >= 0] for row, full in zip(columns, columns[:, -1] >= 0, strict=True)]

    def _act(self, observations: Tensor, deterministic: bool, masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        logits, values = self.look(observations, masks)
        if deterministic:
            actions = logits.argmax(-1)
        else:  # torch's global generator, which SB3's `seed=` sets
            actions = sample(logits, torch.rand(len(logits), device=logits.device))
        return actions, values, _log_prob(logits, actions)

    def _evaluate(self, observations: Tensor, actions: Tensor, masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        logits, values = self.look(observations, masks)
        normaliser = logits.logsumexp(-1)
        # H = log Z − Σ p·logit; 0 · −inf = 0 for what is not allowed
        finite = logits.masked_fill(logits == float("-inf"), 0.0)
        entropy = normaliser - ((logits - normaliser[:, None]).exp() * finite).sum(-1)
        return values, logits.gather(1, actions.long().reshape(-1, 1)).squeeze(1) - normaliser, entropy

    # --- A policy of this library ----------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Ids], rule: ActionRule, uniforms: Tensor | None, /, **options: Any) -> list[Ids]:
        """Texts for prompts, all in one batch: what `textenv.agents.evaluate` asks for (see `LMPolicy.generate`).

        Raises:
            ValueError: the policy chooses among k tokens that the environment names.
        """
        if self._choices:
            raise ValueError(
                f"this policy chooses among {self._choices} tokens that TopKActions names at each step; "
                "evaluate it step by step (stable_baselines3.common.evaluation.evaluate_policy)"
            )
        with torch.no_grad():
            return self.lm.generate(prompts, rule, uniforms, **options)

    def evaluate(self, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule, *, entropy: bool = False) -> Evaluated:
        """Log-probability and value of every token of finished texts (see `LMPolicy.evaluate`)."""
        return self.lm.evaluate(prompts, texts, rule, entropy=entropy)

    # --- torch and files -------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """SB3 trains: what the model remembers will not hold any more. Dropout stays off, so that the first ratio is 1."""
        super().train(mode)  # type: ignore[misc]
        self.lm.eval()
        if mode:
            self._memory.clear()
        return self

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        self._memory.clear()
        return super().load_state_dict(*arguments, **options)  # type: ignore[misc]

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        out: Self = super()._apply(*arguments, **options)  # type: ignore[misc]
        self._memory.clear()
        return out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a directory of safetensors and JSON; `model=directory` and `load(directory)` read it. No pickle."""
        spaces = {"vocabulary": int(self.observation_space.high.max()) + 1, "width": self._width, "choices": self._choices}
        content = {"policy": type(self).__name__, **spaces, **self._settings, "dtype": str(self._dtype).removeprefix("torch.")}
        with atomic_directory(path, keep=True) as scratch, quiet_files():
            self.lm.write(scratch, Path(path))
            save_file({k: v.contiguous() for k, v in self.lm.value_head.state_dict().items()}, scratch / _HEAD)
            (scratch / _FILE).write_text(json.dumps(content, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "auto") -> Self:
        """The policy that `save` wrote; nothing in the directory is run.

        Raises:
            FileNotFoundError: no policy there.
            ValueError: a policy of another class.
        """
        file = Path(path) / _FILE
        if not file.is_file():
            raise FileNotFoundError(f"{path} holds no {_FILE}; {cls.__name__}.save(directory) writes one")
        found = json.loads(file.read_text(encoding="utf-8"))
        if found.pop("policy") != cls.__name__:
            raise ValueError(f"{path} holds another policy than {cls.__name__}: {file.read_text(encoding='utf-8')}")
        vocabulary, width, choices = (found.pop(name) for name in ("vocabulary", "width", "choices"))
        low = np.array([-1] * width + [0] * choices, np.int64)
        observations = gym.spaces.Box(low, np.full(width + choices, vocabulary - 1), dtype=np.int64)
        found["dtype"] = getattr(torch, found["dtype"])
        policy = cls(observations, gym.spaces.Discrete(choices or vocabulary), lambda _: 0.0, model=Path(path), **found)
        return policy.to(get_device(device))  # type: ignore[attr-defined, no-any-return]


def _log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    return logits.gather(1, actions[:, None]).squeeze(1) - logits.logsumexp(-1)


def _choices(observations: gym.Space[Any], actions: gym.Space[Any]) -> int:
    """How many tokens the environment offers by name in the last columns of an observation; 0: an action is an id.

    Those columns hold an id at every step, so their lower bound is 0; that of the others is -1.
    """
    if not isinstance(observations, gym.spaces.Box) or not isinstance(actions, gym.spaces.Discrete) or observations.low[0] != -1:
        raise ValueError(f"a language model acts in text environments (Box of ids, Discrete), not in {observations}, {actions}")
    vocabulary, n = int(observations.high.max()) + 1, int(actions.n)
    named = int((observations.low == 0).sum())
    if named == n or (named == 0 and n == vocabulary):
        return named
    raise ValueError(
        f"{n} actions for {vocabulary} ids, and the observation names {named} of them: "
        "TopKActions(env, k, observe=True) tells a language model which tokens its actions are"
    )


def _language_model(source: Source, dtype: torch.dtype) -> Any:
    if isinstance(source, PretrainedConfig):
        model = AutoModelForCausalLM.from_config(source)
    elif isinstance(source, (str, os.PathLike)):
        model = open_model(source, dtype=dtype, device="cpu")
    else:
        make: Any = source
        model = make()
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{type(model).__name__} is an encoder–decoder; LanguageModelActorCritic acts with a causal model")
    return model.to(dtype).eval()
