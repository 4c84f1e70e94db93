"""A classifier or a reward model by name, as `scorer=` takes it: which output is the score, and which way round.

A classifier of several labels is read at the label that the task asks for. A model of one output says by its label what it tells:

1. a reward model ("good", "better", "quality", "value", or one that `textenv fit-reward-model` fitted, whose `fit.json` lies
   beside it): higher is better, so its logit is the score on every task, never a complement;
2. the label that the task asks for, or its opposite: the probability, or one less it;
3. anything else is refused. A score the wrong way round would train, without a word, the opposite of what is wanted.

A model reads the template that its `fit.json` names, whatever the task would show it. LABEL_0 and LABEL_1, transformers' names for
want of others, mean no and yes where there are two labels, and nothing where there are three.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers.utils.hub import cached_file

from textenv.judges.scorers import REWARD_LABELS, SequenceClassifierScorer
from textenv.models import open_config, refuse_model, resolve

if TYPE_CHECKING:
    from textenv.task import Scorer

__all__ = ["load_scorer"]


def load_scorer(
    source: Any,
    *,
    label: str | int | tuple[str, ...],
    opposite: tuple[str, ...] = (),
    complement: bool = False,
    output: Literal["probability", "logit"] = "probability",
    template: str = "{text}",
    reward_model: Literal["expected", "allowed", "refused"] = "allowed",
) -> Scorer:
    """A callable as it is, or the scorer that a name means.

    Args:
        source: a callable (episodes → scores), a directory, or a hub name.
        label: of several names, the first that the model has; one name or an index is the user's own word and is obeyed.
        opposite: names which, as that of the only output, mean the reverse of `label`.
        complement: the score is 1 − P(label).
        output, template: as for `SequenceClassifierScorer`; a reward model gives its logit and reads the template it was fitted to.
        reward_model: "expected": a model of one output is one, whatever it is called, `opposite` apart; "allowed"; "refused":
            what is wanted is not what a reward model thinks good.

    Raises:
        TypeError: a bare model, without who asks it; neither a name nor callable.
        FileNotFoundError, ValueError: no model there; labels that do not tell which way round the score is.
    """
    if callable(source):
        refuse_model("scorer", source)
        scorer: Scorer = source
        return scorer
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"a scorer is a callable, a directory or a model name, got {source!r}")
    if os.fspath(source).startswith(("http://", "https://")):
        raise ValueError(
            f"scorer={source!r} is a URL, which textenv/Detox-v0 alone takes (of a server that says how toxic a text is); give the "
            "directory or name of a model, or a callable (episodes → scores) that asks the server"
        )
    name, names, fit = os.fspath(source), _labels(source), _fit(source)
    template = fit.get("template", template)
    if not isinstance(label, tuple):
        return SequenceClassifierScorer(source, label=label, complement=complement, output=output, template=template)
    if len(names) > 1:
        known = label if len(names) == 2 else tuple(one for one in label if not one.startswith("LABEL_"))
        return SequenceClassifierScorer(source, label=known, complement=complement, output=output, template=template)
    (only,) = names
    by_hand = f"scorer=SequenceClassifierScorer({name!r}, label=0, output='logit'"
    if only.lower() in REWARD_LABELS or fit or (reward_model == "expected" and not _among(only, opposite)):
        if reward_model == "refused":
            raise ValueError(
                f"{name} is a reward model (its one output is {only!r}), which does not tell {label[0]!r}; name a classifier, or "
                f"turn it round: {by_hand}, complement=True)"
            )
        return SequenceClassifierScorer(source, label=0, output="logit", template=template)
    if reward_model == "expected" or not (_among(only, label) or _among(only, opposite)):
        raise ValueError(
            f"{name} has one output, {only!r}, which does not say that more of it is better, nor {label[0]!r}; say which way round "
            f"it is: {by_hand}), or with complement=True where less is better"
        )
    turned = complement if _among(only, label) else not complement
    return SequenceClassifierScorer(source, label=0, complement=turned, output=output, template=template)


def _among(name: str, names: tuple[str, ...]) -> bool:
    """Whether a label is one of these; transformers' own names say nothing of a single output."""
    return name.lower() in [one.lower() for one in names] and not name.startswith("LABEL_")


def _labels(source: str | os.PathLike[str]) -> list[str]:
    """The names of a model's outputs; a causal language model's is its value head."""
    config = open_config(source)
    if any(saved.endswith(("ForCausalLM", "LMHeadModel")) for saved in config.architectures or []):
        return ["value"]
    return [str(config.id2label[index]) for index in sorted(config.id2label)]


def _fit(source: str | os.PathLike[str]) -> dict[str, Any]:
    """What `textenv fit-reward-model` wrote beside the model; empty where it did not.

    Raises:
        ValueError: a file of that name that cannot be read.
    """
    file = cached_file(
        resolve(source), "fit.json", _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if file is None:
        return {}
    try:
        facts = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not what textenv fit-reward-model writes: {error}") from error
    return facts if isinstance(facts, dict) and {"kind", "template"} <= set(facts) else {}
