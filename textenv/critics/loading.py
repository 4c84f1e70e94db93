"""A critic by name, as `critic=` takes it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textenv import embedded
from textenv.critics.asking import AskedCritic
from textenv.critics.forms import CritiqueFormat
from textenv.critics.language_model import LanguageModelCritic
from textenv.critics.lexicon import LexiconCritic
from textenv.critics.server import ServerCritic
from textenv.models import refuse_model, saved_as
from textenv.task import Critic

__all__ = ["CriticModel", "embedded_name", "load_critic"]


@dataclass(frozen=True, eq=False)
class CriticModel:
    """A causal language model that is to be asked in the task's own form: as `critic=` of a task.

    Attributes:
        model: a transformers causal language model.
        tokenizer: its own.
        name: where it comes from, if known; embedded models are asked in the bare form.
    """

    model: Any
    tokenizer: Any
    name: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> CriticModel:
        return self


def load_critic(source: Any, form: CritiqueFormat) -> Critic:
    """A callable as it is; "lexicon:FILE" → `LexiconCritic`; a URL → `ServerCritic`; another name → `LanguageModelCritic`.

    A critic made from a name skips what it cannot parse and counts it (`credit/critic_parse_failures`), for no language
    model keeps to a form every time; a server made from a URL skips the episodes that it gives no answer about
    (`credit/critic_skipped`). Pass `LanguageModelCritic(..., on_error="raise")`, `ServerCritic(..., on_error=...)` for
    another way.

    Args:
        source: as above. A `ServerCritic` without a form gets the task's.
        form: how the task asks. Embedded critics were trained on the bare form, others get instruction and examples.

    Raises:
        TypeError: neither a name nor callable; a bare model.
        ValueError: a classifier, which answers no questions.
    """
    if isinstance(source, AskedCritic) and source.form is None:
        return source.with_form(form)
    if callable(source):
        refuse_model("critic", source)
        critic: Critic = source
        return critic
    if isinstance(source, CriticModel):
        form = _bare(form) if embedded_name(source.name) else form
        device = getattr(source.model, "device", "auto")  # where its owner has it
        return LanguageModelCritic(source.model, form, tokenizer=source.tokenizer, on_error="skip", device=device)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f'critic must be callable, "lexicon:FILE", the URL of a server, a directory or a model name, got {source!r}'
        )
    name = os.fspath(source)
    if name.startswith("lexicon:"):
        return LexiconCritic(name.removeprefix("lexicon:"))
    if name.startswith(("http://", "https://")):
        return ServerCritic(name, form, on_error="skip")
    _check_answers(name)
    return LanguageModelCritic(name, _bare(form) if embedded_name(name) else form, on_error="skip")


def embedded_name(name: str) -> str | None:
    """The embedded model that a name or a directory is ("textenv/tiny"), or None."""
    if name.startswith("textenv/"):
        return name
    path = Path(name)
    models = Path(embedded.__file__).parent / "models"
    return f"textenv/{path.name}" if name and path.parent == models else None


def _check_answers(name: str) -> None:
    """Raise where a model was saved as a classifier."""
    saved = saved_as(name)
    if "TokenClassification" in saved:
        raise ValueError(
            f"critic={name!r} was saved as {saved}, which answers no questions but labels tokens; say which label is bad: "
            f"critic=TokenClassifierJudge({name!r}, label=..., granularity='token', scale=(0.0, -1.0))"
        )
    if "Classification" in saved:
        raise ValueError(
            f"critic={name!r} was saved as {saved}, which answers no questions but judges whole texts: pass it as scorer=, and "
            "a language model as critic="
        )


def _bare(form: CritiqueFormat) -> CritiqueFormat:
    return replace(form, instruction="", examples=())
