"""ALaRM: aspects are paid only where the text as a whole is good already; and the weighted sum it is compared with.

Paper: Lai et al. 2024, *ALaRM: Align Language Models via Hierarchical Rewards Modeling* (arXiv 2403.06754). With R_H the
score, h its z-score on texts of the initial policy, a_{k,t} the raw value of aspect k at token t, s the squashing:

    h   = (R_H − μ) / σ             s(a) = 1 / (1 + exp(−a))
    r_t = 1[t = T] w_H h                                            where h < τ
    r_t = 1[t = T] w_H h + Σ_k w_k s(a_{k,t})   at placed t alone    where h ≥ τ

`weighted_sum` is the same without the gate. The paper's other two baselines are settings: aspects alone is
`("weighted_sum", {"holistic_weight": 0})`, the holistic reward alone is `("hierarchical", {"gate": math.inf})`.

Departures from the released code:

1. a reward sits at its own token; the code pads on the wrong side and moves it;
2. w_H and τ are the task's, μ and σ those of the embedded policy, unless given; UltraRM's constants fit no other scorer;
3. an aspect of which lower is better is turned around before it is squashed;
4. length is not squashed, as there, and is divided by its mean over texts of the initial policy, where a statistics file tells
   it, else by the budget of new tokens (`Aspect.squash`, `Aspect.scale`);
5. `normalise="per_position"` divides an aspect's sum by its number of placed positions, so that length does not pay; off,
   as in the paper;
6. short texts (`short_tokens`) get h = −10 and no aspects, but the environment has asked the scorer before;
7. `gate_quantile=q` puts the gate at the q-quantile of the score on texts of the initial policy, so that it is open for about
   1 − q of them, whatever the shape of the score's distribution: a score of two heaps has no texts near τ = 0.5. It is no quantile
   of a batch: what a text is paid would hang on its neighbours;
8. `values="random"` is the control for what the aspects know: they are placed where they judge, but their values are drawn, by
   `seed` and the text, from the distribution that they had on texts of the initial policy.

The score is taken from the last token and w_H h put there: a second reward that takes the score is refused. The return is
not kept: report `Episode.score` apart. An unfinished text has no score, so the gate is shut and nothing is paid; without the
gate those pieces are paid that have come to their end.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import gymnasium as gym

from textenv.aspects import Aspect, pick_aspects
from textenv.judges.statistics import quantile, read_statistics, score_distribution
from textenv.task import Task
from textenv.wrappers.aspect_payment import AspectPayment, Aspects, Statistics, Weights, file_of

__all__ = ["HierarchicalReward", "WeightedSumReward"]


class HierarchicalReward(AspectPayment):
    """Pays the score's z-value at the end, and aspects where it reaches the gate.

    Keeps the return: no. Causal: no (hindsight). Takes the score: yes.

    Example, a score of 3 that is half a standard deviation too good, and a verdict of +0.5 on each of two sentences:

        >>> import gymnasium as gym, textenv
        >>> from textenv.wrappers import Aspect, HierarchicalReward
        >>> fact = Aspect("fact", lambda episodes: [[textenv.Span(0, 2, 0.5), textenv.Span(3, 5, 0.5)] for _ in episodes],
        ...               "sentence")
        >>> for gate in (0.5, 0.6):
        ...     env = gym.make("textenv/CountLetter-v0", max_new_tokens=5, scorer=lambda episodes: [3.0] * len(episodes),
        ...                    payment="end", reward=lambda env: HierarchicalReward(env, fact, gate=gate, statistics=(2, 2)))
        ...     _ = env.reset(seed=0)
        ...     for character in "a. b.":
        ...         *_, info = env.step(ord(character))
        ...     print(info["text_episode"].rewards.round(3).tolist())
        [0.0, 0.622, 0.0, 0.0, 1.122]
        [0.0, 0.0, 0.0, 0.0, 0.5]

    Args:
        env: a text environment.
        aspects: names of the task's aspects, or `Aspect`s; default: the task's first.
        weights: w_k: one for all, a list, or by name; default 1.
        gate: τ, in standard deviations; default: the task's (0.5 of translation; 0.6 of long answers).
        gate_quantile: q, in the place of τ; needs `statistics` to be a file.
        holistic_weight: w_H; default: the task's (1; 3 of translation, 5 of long answers).
        statistics: (μ, σ), or a file of `textenv calibrate`; default: of the embedded policy and scorer.
        squash: "sigmoid" (but for aspects that are not to be squashed, as length), or None: raw values.
        normalise: "per_position" divides an aspect's sum by its number of placed positions.
        short_tokens: finished texts of so many tokens or fewer get h = −10 and no aspects (the paper: 2); None: no such rule.
        values: of the aspects, "judged", or "random": the control; needs `statistics` to be a file.
        seed: of random values.

    Raises:
        NotApplicable: μ and σ are not known; the message says who measures them.
        ValueError: no such aspect; bad arguments.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        aspects: Aspects = None,
        *,
        weights: Weights = None,
        gate: float | None = None,
        gate_quantile: float | None = None,
        holistic_weight: float | None = None,
        statistics: Statistics = None,
        squash: Literal["sigmoid"] | None = "sigmoid",
        normalise: Literal["per_position"] | None = None,
        short_tokens: int | None = None,
        values: Literal["judged", "random"] = "judged",
        seed: int = 0,
    ) -> None:
        if gate_quantile is not None:
            if gate is not None:
                raise ValueError(f"gate={gate} and gate_quantile={gate_quantile} are two gates; give one")
            file = file_of(statistics, f"gate_quantile={gate_quantile} is a quantile of what was seen")
            mean, sd = read_statistics(file)
            gate = (quantile(score_distribution(file), gate_quantile) - mean) / sd
        super().__init__(env, aspects, weights, gate, holistic_weight, statistics, squash, normalise, short_tokens, values, seed)

    def _chosen(self, task: Task, aspects: Aspects) -> list[Aspect]:
        found = pick_aspects(task.aspects, aspects)
        return found[:1] if aspects is None else found  # the paper pays one, the one that was selected


class WeightedSumReward(AspectPayment):
    """Pays the score's z-value at the end, and all aspects wherever they are placed.

    Keeps the return: no. Causal: no (hindsight). Takes the score: yes.

    `HierarchicalReward` without its gate, with the same arguments otherwise, but by default with all of the task's own aspects.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        aspects: Aspects = None,
        *,
        weights: Weights = None,
        holistic_weight: float | None = None,
        statistics: Statistics = None,
        squash: Literal["sigmoid"] | None = "sigmoid",
        normalise: Literal["per_position"] | None = None,
        short_tokens: int | None = None,
        values: Literal["judged", "random"] = "judged",
        seed: int = 0,
    ) -> None:
        super().__init__(
            env, aspects, weights, -math.inf, holistic_weight, statistics, squash, normalise, short_tokens, values, seed
        )
