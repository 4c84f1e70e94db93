"""RELC's self-critique: the critic is a frozen copy of the model that the policy began as.

Paper: Cao et al. 2024 (arXiv 2401.07382). The policy trains (a LoRA on) a base model; the critic is that base
model, adapter off, frozen, greedy, 40 new tokens, its answer cut at the first blank line; only texts with score ≤ 0.9 are
shown to it. It is not the policy of the moment: training changes neither its weights nor its answers.

Departures: the copy has the precision of its source (the paper: fp16); how it is asked is the task's own form.

`moving=True` is the other reading, a variant of ours: the policy as it is at the moment, adapter on, judges its own texts. The
objective then moves with what is trained on it, and a policy may learn to be a mild critic: compare it with the frozen one. Two
credits of one text are the same between two updates alone. No gradient goes through the judgement.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym

from textenv.critics import AskedCritic, CriticModel
from textenv.critics.loading import embedded_name
from textenv.reward import NotApplicable
from textenv.task import Critic, Task
from textenv.wrappers.critic import CriticReward
from textenv.wrappers.policies import base_of, held_model, moving_model

__all__ = ["SelfCritiqueReward"]


class SelfCritiqueReward(CriticReward):
    """Pays the tokens of the spans that the policy's own base model marks, beside the credit that is there.

    Keeps the return: no. Causal: no (hindsight).

    Args:
        env: a text environment.
        policy: whose base model judges: a name or directory; the directory of a PEFT adapter (the model it was trained on);
            a model, or whatever holds one as `.model` (`LMPolicy`), of which a frozen copy is made now, without its
            adapter. Default: the model that the environment's tokenizer came with. Environments of a vector share what is
            given by name; of an object each makes its copy.
        moving: ask the policy itself, as it is when it is asked; then `policy` is the object that an agent trains:
            `policy = LMPolicy(...)`, `reward=("self_critique", {"policy": policy, "moving": True})`, `TokenPPO(policy, env)`.
        tokenizer: of a model object; default: its own (`.tokenizer`), else the environment's.
        threshold: only episodes with score ≤ threshold are shown to the critic (RELC: 0.9); None: all.
        max_new_tokens: budget of an answer (RELC: 40).
        options: all others of `CriticReward`.

    Raises:
        ValueError: `moving=True` without the policy itself; other bad arguments.
        NotApplicable: no model is known to belong to the environment's tokenizer.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        policy: Any = None,
        moving: bool = False,
        tokenizer: Any = None,
        threshold: float | None = 0.9,
        max_new_tokens: int = 40,
        **options: Any,
    ) -> None:
        takes = [name for name in inspect.signature(CriticReward).parameters if name not in ("env", "critic")]
        if set(options) - set(takes):
            valid = ", ".join(["policy", "moving", "tokenizer", "max_new_tokens", *takes])
            raise ValueError(f"self_critique takes no argument {sorted(set(options) - set(takes))}; its own are {valid}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        own = env.get_wrapper_attr("tokenizer")
        named = isinstance(policy, (str, os.PathLike))
        if moving and (named or policy is None):
            raise ValueError(f"moving=True asks the policy that is being trained: pass it as policy=, not {policy!r}")
        if policy is None:
            policy, named = base_of(own, 'pass reward=("self_critique", {"policy": a name, a directory or the policy})'), True
        asked = tokenizer or getattr(policy, "tokenizer", None) or own
        source = _base(os.fspath(policy)) if named else _asked(policy, asked, moving)
        self._budget = max_new_tokens
        super().__init__(env, source, threshold=threshold, **options)  # type: ignore[arg-type]

    def _load(self, task: Task, critic: Any) -> Critic:
        loaded = super()._load(task, critic)
        if not isinstance(loaded, AskedCritic) or loaded.form is None:
            raise NotApplicable(f"self_critique needs a task that asks its critics in text; {type(task).__name__} does not")
        return loaded.with_form(loaded.form, max_new_tokens=self._budget)


def _base(name: str) -> str:
    """The base model of an adapter's directory, any other name as it is."""
    adapter = Path(name).expanduser() / "adapter_config.json"
    if adapter.is_file() and (adapter.parent / "base" / "config.json").is_file():
        return str(adapter.parent / "base")  # an agent's own, whose base has no name
    if adapter.is_file():
        name = str(json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
        if not name:
            raise ValueError(f"{adapter} does not say which model the adapter belongs to: pass policy=")
    return embedded_name(name) or name


def _asked(policy: Any, tokenizer: Any, moving: bool) -> CriticModel:
    """The policy's model itself, or a copy of it as it is now, without its adapter, which nobody trains."""
    if moving:
        model = moving_model(policy)
    else:
        model = copy.deepcopy(held_model(policy))
        if hasattr(model, "unload"):  # a PeftModel
            model = model.unload()
        elif getattr(model, "_hf_peft_config_loaded", False):  # an adapter put in by transformers itself
            model.disable_adapters()
        model = model.requires_grad_(False).eval()
    return CriticModel(model, tokenizer, str(getattr(model.config, "_name_or_path", "")))
