"""A step classifier (process reward model) rewards each step of a text at its end.

Paper: Ma et al. 2023, *Let's reward step by step: Step-Level reward model as the Navigators for Reasoning* (arXiv
2310.10080): a classifier reads question and steps so far, and calls the last step positive, neutral or negative (PRM800K's
labels). There it steers a search; here it pays:

    r_t = 1[t ends step j] v(label of step j),      v = +1, 0, −1

Choices (the paper's inner rules are not published):

1. the score stays on the last token, as the verdict on the outcome beside those on the steps; `keep_score=False` takes it away;
2. a step is a line; `segmenter="sentences"` for prose;
3. the classifier reads the text up to the end of the step, one row a step, and nothing after it; `read="expected"` pays
   Σ P(label) v(label) in place of the value of the likeliest;
4. the judge may be an aspect as well (a token classifier read at step ends, a scorer on each sentence): its raw values are paid.
   By default it is the task's first that judges sentences.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from textenv.aspects import Aspect
from textenv.batching import by_length
from textenv.episode import Episode, Span
from textenv.judges.encodings import encode
from textenv.models import check_vocabulary, load_sequence_classifier, refuse_model
from textenv.padding import right_pad
from textenv.reward import RewardWrapper
from textenv.segments import Segmenter, load_segmenter, settled
from textenv.task import Task
from textenv.tokenization import load_tokenizer

__all__ = ["ProcessReward", "StepClassifier"]

VALUES = {"positive": 1.0, "neutral": 0.0, "negative": -1.0}


class StepClassifier:
    """Reads question and steps so far, and values the last step; episodes → spans, one a step.

    Args:
        source: a sequence classifier by directory, hub name or object (then `tokenizer=` too); its labels, case aside, are
            the keys of `values`.
        segmenter: what a step is.
        values: label → what a step of it is worth.
        read: "argmax": the likeliest label's value; "expected": the mean of the values.
        template: what is read; fields {prompt} (`Prompt.text`), {context} (joined by newlines), {text} (up to the step's end).
        max_tokens: longer inputs lose their left end; default: the model's positions.

    Raises:
        ValueError: labels that `values` does not know (the message lists the model's), a template without {text}.
    """

    def __init__(
        self,
        source: Any,
        *,
        segmenter: str | Segmenter = "lines",
        values: Mapping[str, float] = VALUES,
        read: Literal["argmax", "expected"] = "argmax",
        template: str = "{prompt}{text}",
        tokenizer: Any = None,
        batch_size: int = 64,
        max_tokens: int | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        if read not in ("argmax", "expected"):
            raise ValueError(f'read must be "argmax" or "expected", got {read!r}')
        if "{text}" not in template:
            raise ValueError(f"template {template!r} needs the field {{text}}")
        named = isinstance(source, (str, os.PathLike))
        if tokenizer is None and not named:
            raise ValueError("a model object needs its tokenizer: pass tokenizer=")
        self.tokenizer = load_tokenizer(source if tokenizer is None else tokenizer, need_eos=False, shared=True)
        self.model = load_sequence_classifier(source, device=device, shared=named)
        check_vocabulary(self.model, self.tokenizer, os.fspath(source) if named else type(source).__name__)
        names = [str(self.model.config.id2label[i]).lower() for i in range(len(self.model.config.id2label))]
        worth = {label.lower(): float(value) for label, value in values.items()}
        if set(names) - set(worth):
            raise ValueError(f"values tell nothing of the labels {sorted(set(names) - set(worth))}; the model's are {names}")
        self.names, self.worth = names, np.array([worth[name] for name in names])
        self.segmenter, self.read, self.template, self.batch_size = load_segmenter(segmenter), read, template, batch_size
        self.max_tokens = max_tokens or getattr(self.model.config, "max_position_embeddings", None) or 512

    def __deepcopy__(self, memo: dict[int, Any]) -> StepClassifier:
        return self

    def __call__(self, episodes: Sequence[Episode]) -> list[list[Span]]:
        """One span a step that has come to its end; its label is the likeliest."""
        steps = [[(a, b) for a, b in settled(e, self.segmenter) if e.text[a:b].strip()] for e in episodes]
        rows = self._rows([(e, e.text[:end]) for e, found in zip(episodes, steps, strict=True) for _, end in found])
        judged: list[tuple[float, str]] = [(0.0, "")] * len(rows)
        for chosen in by_length([len(row) for row in rows], self.batch_size):
            for i, shares in zip(chosen, self._probabilities([rows[i] for i in chosen]), strict=True):
                best = int(shares.argmax())
                value = float(self.worth[best] if self.read == "argmax" else shares @ self.worth)
                judged[i] = (value, self.names[best])
        answers = iter(judged)
        return [[Span(start, end, *next(answers)) for start, end in found] for found in steps]

    def _rows(self, beginnings: Sequence[tuple[Episode, str]]) -> list[list[int]]:
        """The ids of the filled template, for each episode and what there is of its text."""
        read = [
            self.template.format(prompt=e.prompt.text, context="\n".join(e.prompt.context), text=text.rstrip())
            for e, text in beginnings
        ]
        return [encoded.ids[-self.max_tokens :] for encoded in encode(self.tokenizer, read)]

    @torch.inference_mode()
    def _probabilities(self, rows: list[list[int]]) -> NDArray[np.float64]:
        """(b, labels)."""
        ids, mask = right_pad([np.array(row, np.int64) for row in rows], self.model.device)
        if hasattr(self.model, "score"):  # a decoder: transformers looks for its last token by comparing ids with a pad id
            hidden = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = self.model.score(hidden[torch.arange(len(rows)), mask.sum(1) - 1])
        else:
            logits = self.model(input_ids=ids, attention_mask=mask).logits
        return np.asarray(logits.double().softmax(-1).cpu().numpy())


class ProcessReward(RewardWrapper):
    """Pays at the end of each step what a step classifier thinks of it, beside the score.

    Keeps the return: no. Causal: no (where a step ends is known when the next begins).
    Takes the score: no (`keep_score=False`: yes).

    >>> import gymnasium as gym, textenv
    >>> def judge(episodes):  # a line with a "b" in it is a good step
    ...     lines = [textenv.segments.lines(e.text) for e in episodes]
    ...     return [[textenv.Span(*at, 1.0 if "b" in e.text[slice(*at)] else -1.0) for at in found]
    ...             for e, found in zip(episodes, lines)]
    >>> env = gym.make("textenv/CountLetter-v0", reward=("process", {"model": judge}), max_new_tokens=5, payment="end")
    >>> _ = env.reset(seed=0)
    >>> for token in b"ab\\nca":
    ...     *_, info = env.step(token)
    >>> info["text_episode"].rewards.tolist()
    [0.0, 1.0, 0.0, 0.0, -0.6]

    Args:
        env: a text environment.
        model: a sequence classifier by directory or name, a `StepClassifier`, an `Aspect` or its name, or a callable
            episodes → spans; default: the task's first aspect that judges sentences.
        weight: of the steps beside the score.
        keep_score: leave the score on the last token.
        **options: of the `StepClassifier` of a model that is named (`segmenter`, `values`, `read`, `template`).

    Raises:
        ValueError: a model with other labels; options without a model to take them; a span beyond its text.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False

    def __init__(
        self, env: gym.Env[Any, Any], model: Any = None, *, weight: float = 1.0, keep_score: bool = True, **options: Any
    ) -> None:
        super().__init__(env)
        task: Task = env.get_wrapper_attr("task")
        if model is None:
            model = next((a for a in task.aspects.values() if a.granularity == "sentence"), None)
            if model is None:
                raise ValueError("the task has no aspect that judges sentences; pass model=, a step classifier")
        elif isinstance(model, (str, os.PathLike)):
            model = task.aspects[model] if model in task.aspects else StepClassifier(model, **options)  # type: ignore[index]
        if options and not isinstance(model, StepClassifier):
            told = model.name if isinstance(model, Aspect) else type(model).__name__
            raise ValueError(
                f"process has no arguments {sorted(options)} beside model, weight and keep_score; those of a step classifier are "
                f"for one that is named, and model= is {told}"
            )
        refuse_model("model", model, way_out="StepClassifier(model, tokenizer=...)")
        if not (isinstance(model, Aspect) or callable(model)):
            raise TypeError(f"model= got {type(model).__name__}; say how it is to be asked: StepClassifier(model, tokenizer=...)")
        self.aspect = model if isinstance(model, Aspect) else Aspect("process", model, "sentence")
        self.weight, self.keep_score = weight, keep_score
        self.takes_score = not keep_score  # type: ignore[misc]  # the class tells of the defaults
        self._steps, self._texts, self._sum = 0, 0, 0.0

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit inside, and at each step's end its value; one call of the judge."""
        out = []
        for episode, (where, values) in zip(episodes, self.aspect.placed(episodes, settled=True), strict=True):
            rewards = episode.rewards + self.weight * self.aspect.sign * values
            if episode.finished:
                self._texts, self._steps, self._sum = self._texts + 1, self._steps + int(where.sum()), self._sum + values.sum()
                if not self.keep_score:
                    rewards[-1] -= episode.score
            out.append(rewards)
        return out

    def metrics(self) -> dict[str, float]:
        """`credit/steps` (a finished text) and `credit/step_value` (the mean) since the last call."""
        out = {"credit/steps": self._steps / max(self._texts, 1), "credit/step_value": self._sum / max(self._steps, 1)}
        self._steps, self._texts, self._sum = 0, 0, 0.0
        return out
