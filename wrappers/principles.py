"""SALMON: a reward model that reads, as text, the principles by which a text is to be judged.

Paper: Sun et al. 2023, *SALMON: Self-Alignment with Instructable Reward Models* (arXiv 2310.05910). For every text k
principles are drawn without replacement, in proportion to their weights; prompts may boost some; a few may be fixed:

    R(y) = RM(x, y, fixed + drawn)            r_T = β R(y) + (1 − β) score

To change what is rewarded one changes the list, not the model.

Departures and choices:

1. SALMON draws when a text begins. Credit is placed on batches of texts here, and stepping must give the same, so the draw is
   a function of the seed, the prompt and the tokens (`draw_by="text"`), or of the seed and the prompt (`draw_by="prompt"`: all
   texts of a prompt are judged alike, which group baselines want);
2. β = 1 replaces the score, as there; its length bonus and its price for texts that do not stop are rewards of their own
   (`length_bonus`, `no_stop_penalty`), to be stacked on it;
3. `negate` asks for a principle's opposite wording, which SALMON does in training alone;
4. weights of 0 are never drawn; a boost is added to a weight.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.embedded.principles import PRINCIPLES
from textenv.episode import Episode, Prompt
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.models import refuse_model
from textenv.reward import RewardWrapper
from textenv.task import check_scores

__all__ = ["InstructableRewardModel", "PrinciplesReward"]

TEMPLATE = "Principles: {principles}\n{text}"  # what the embedded model reads
LABELS = ("good", "better", "positive", "LABEL_1")
DRAWN = 3  # by SALMON, of 14


class InstructableRewardModel(Protocol):
    """Texts, and for each the wordings of its principles → the reward of each."""

    def __call__(self, episodes: Sequence[Episode], principles: Sequence[Sequence[str]], /) -> Sequence[float]: ...


class PrinciplesReward(RewardWrapper):
    """Puts on the last token what a reward model says that was told the principles.

    Keeps the return: no. Causal: no (hindsight). Takes the score: yes (`mix=0`: no).

    >>> import gymnasium as gym, textenv
    >>> def model(episodes, principles):  # a bee for a "b", if that is what is asked for
    ...     return [e.text.count("b") * (1.0 if "bees" in said else -1.0) for e, said in zip(episodes, principles)]
    >>> bees = {"bees": ("bees", "no bees")}
    >>> for negate in ([], ["bees"]):
    ...     env = gym.make("textenv/CountLetter-v0", max_new_tokens=4, payment="end",
    ...                    reward=("principles", {"model": model, "principles": bees, "negate": negate}))
    ...     _ = env.reset(seed=0)
    ...     for character in "abba":
    ...         *_, info = env.step(ord(character))
    ...     print(info["text_episode"].rewards.tolist())
    [0.0, 0.0, 0.0, 2.0]
    [0.0, 0.0, 0.0, -2.0]

    Args:
        env: a text environment.
        model: a callable (`InstructableRewardModel`), or a sequence classifier by directory or name that reads `template`;
            default: "textenv/tiny-principles".
        principles: name → wording, or (wording, negated wording); default: the embedded ones.
        k: how many are drawn for a text; default: 3 as in SALMON, but at least one is left out.
        weights: name → weight, 1 where none is given.
        boosts: prompt → {name: what is added to its weight}.
        fixed: names that are always among them.
        negate: names that are asked for in their negated wording.
        mix: β, from 0 (the score) to 1 (the reward model).
        seed: of the draws.
        draw_by: "text" or "prompt".
        template: what a named model reads; fields {principles} (joined by "; "), {prompt}, {context}, {text}.
        label: of a named model: the output that is its reward (a logit).

    Raises:
        ValueError: unknown names, no negated wording, fewer principles than k, weights or a seed below 0; a reward that is not
            finite.
        TypeError: a bare model.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        model: InstructableRewardModel | str | os.PathLike[str] | None = None,
        *,
        principles: Mapping[str, str | tuple[str, str]] | None = None,
        k: int | None = None,
        weights: Mapping[str, float] | None = None,
        boosts: Callable[[Prompt], Mapping[str, float]] | None = None,
        fixed: Sequence[str] = (),
        negate: Collection[str] = (),
        mix: float = 1.0,
        seed: int = 0,
        draw_by: Literal["text", "prompt"] = "text",
        template: str = TEMPLATE,
        label: str | int | tuple[str, ...] = LABELS,
    ) -> None:
        super().__init__(env)
        self.principles = dict(PRINCIPLES if principles is None else principles)
        self.fixed, self.negate, self.boosts = tuple(fixed), frozenset(negate), boosts
        for given, names in (("weights", weights or {}), ("fixed", fixed), ("negate", negate)):
            self._known(given, names)
        without = [name for name in self.negate if isinstance(self.principles[name], str)]
        if without:
            raise ValueError(f"negate={without}: principles={{name: (wording, negated wording)}} says how")
        self.weights = {name: 1.0 for name in self.principles if name not in self.fixed} | dict(weights or {})
        for name in self.fixed:
            self.weights.pop(name, None)
        self.k = min(DRAWN, max(len(self.weights) - 1, 1 - bool(self.fixed))) if k is None else k
        if not 0 <= self.k <= len(self.weights) or self.k + len(self.fixed) < 1:
            raise ValueError(f"k={self.k} principles are drawn of {len(self.weights)} that are not fixed, and at least one is read")
        if not 0 <= mix <= 1:
            raise ValueError(f"mix must lie in [0, 1], got {mix}")
        if draw_by not in ("text", "prompt"):
            raise ValueError(f'draw_by must be "text" or "prompt", got {draw_by!r}')
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        refuse_model("model", model, way_out="the directory of a saved one, or a callable (episodes, principles) → rewards")
        self.mix, self.seed, self.draw_by = mix, seed, draw_by
        self.takes_score = mix > 0  # type: ignore[misc]  # the class tells of the defaults
        self._shares(self.weights)
        self.model: InstructableRewardModel = (
            model if callable(model) else _Reader(model or "textenv/tiny-principles", template, label)
        )
        self._counts: Counter[str] = Counter()

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit inside, with β (R − score) on the last token of finished texts; one call of the model."""
        out = [episode.rewards.copy() for episode in episodes]
        finished = [i for i, episode in enumerate(episodes) if episode.finished]
        if finished:
            judged = [episodes[i] for i in finished]
            names = [self.drawn(episode) for episode in judged]
            self._counts.update(name for drawn in names for name in drawn)
            said = [[self._wording(name) for name in drawn] for drawn in names]
            for i, reward in zip(finished, check_scores(self.model(judged, said), judged, self.model), strict=True):
                out[i][-1] += self.mix * (reward - episodes[i].score)
        return out

    def drawn(self, episode: Episode) -> tuple[str, ...]:
        """The names of the principles by which a text is judged: the fixed ones, then those drawn."""
        weights = dict(self.weights)
        if self.boosts is not None:
            boosts = self.boosts(episode.prompt)
            self._known("boosts", boosts)
            for name, boost in boosts.items():
                if name in weights:
                    weights[name] += boost
        key = [str(self.seed), episode.prompt.text, *episode.prompt.context]
        if self.draw_by == "text":
            key.append(" ".join(map(str, episode.tokens.tolist())))
        digest = hashlib.sha256("\x1f".join(key).encode("utf-8", "surrogatepass")).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "big"))
        shares = self._shares(weights)
        # The k largest of log w + Gumbel noise are k draws without replacement in proportion to w (Efraimidis, Spirakis 2006).
        order = np.argsort(-(np.log(list(shares.values())) + generator.gumbel(size=len(shares))))
        names = list(shares)
        return (*self.fixed, *(names[i] for i in order[: self.k]))

    def metrics(self) -> dict[str, float]:
        """`credit/principle/<name>`: how many texts were judged by it since the last call."""
        out: dict[str, float] = {f"credit/principle/{name}": self._counts[name] for name in self.principles}
        self._counts.clear()
        return out

    def _wording(self, name: str) -> str:
        wording = self.principles[name]
        return wording if isinstance(wording, str) else wording[name in self.negate]

    def _known(self, given: str, names: Collection[str]) -> None:
        unknown = sorted(set(names) - set(self.principles))
        if unknown:
            raise ValueError(f"{given}: no principle {unknown}; there are {', '.join(self.principles)}")

    def _shares(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The weights that may be drawn."""
        bad = {name: weight for name, weight in weights.items() if not (math.isfinite(weight) and weight >= 0)}
        if bad:
            raise ValueError(f"weights of principles must be finite and not below 0, got {bad}")
        shares = {name: weight for name, weight in weights.items() if weight > 0}
        if len(shares) < self.k:
            raise ValueError(f"k={self.k} principles are drawn, but only {list(shares)} have a weight above 0")
        return shares


class _Reader:
    """A sequence classifier that reads principles and text as one string."""

    def __init__(self, source: str | os.PathLike[str], template: str, label: str | int | tuple[str, ...]) -> None:
        if "{principles}" not in template or "{text}" not in template:
            raise ValueError(f"template {template!r} needs the fields {{principles}} and {{text}}")
        self.scorer = SequenceClassifierScorer(source, label=label, output="logit")
        self.template = template

    def __deepcopy__(self, memo: dict[int, Any]) -> _Reader:
        return self

    def __call__(self, episodes: Sequence[Episode], principles: Sequence[Sequence[str]], /) -> list[float]:
        return self.scorer.score_texts(
            [
                self.template.format(
                    principles="; ".join(said), prompt=e.prompt.text, context="\n".join(e.prompt.context), text=e.text
                )
                for e, said in zip(episodes, principles, strict=True)
            ]
        )
