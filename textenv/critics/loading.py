"""A critic by name, as `critic=` takes it."""

from __future__ import annotations

import os
from typing import Any

from textenv.critics.language_model import CritiqueFormat, LanguageModelCritic
from textenv.critics.lexicon import LexiconCritic
from textenv.task import Critic

__all__ = ["load_critic"]


def load_critic(source: Any, form: CritiqueFormat) -> Critic:
    """A callable as it is; "lexicon:FILE" → `LexiconCritic`; another name → `LanguageModelCritic`.

    A critic made from a name skips what it cannot parse and counts it (`credit/critic_parse_failures`), for no language
    model keeps to a form every time. Pass `LanguageModelCritic(..., on_error="raise")` to stop at the first failure.

    Args:
        source: as above.
        form: how the task asks. Embedded critics were trained on the bare form, others get instruction and examples.

    Raises:
        TypeError: neither a name nor callable.
    """
    if callable(source):
        critic: Critic = source
        return critic
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f'critic must be callable, "lexicon:FILE", a directory or a model name, got {source!r}')
    name = os.fspath(source)
    if name.startswith("lexicon:"):
        return LexiconCritic(name.removeprefix("lexicon:"))
    if name.startswith("textenv/"):
        form = CritiqueFormat(form.sections)
    return LanguageModelCritic(name, form, on_error="skip")
