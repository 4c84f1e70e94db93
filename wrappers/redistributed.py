"""RED (R3HF): every token is paid the change of the reward model's score that it causes.

Paper: Li et al., *R3HF: Reward Redistribution for Enhancing Reinforcement Learning from Human Feedback*, later *RED* (arXiv
2411.08302). With Φ_t the reward model's score of the first t − 1 tokens, Φ_{T+1} = R that of the text, r_t the sparse reward:

    r̃_t = Φ_{t+1} − Φ_t                       (6)
    r̂_t = β_c r̃_t + (1 − β_c) r_t              (7), which is r_t + β_c F_t with F_t = Φ_{t+1} − Φ_t, F_T = −Φ_T

The second form shows what it is: potential-based shaping with the score of the text so far. It leaves everything that other
wrappers inside paid where it is, and is what runs here. Choices:

1. The paper is ambiguous about Φ_1, the score of the prompt alone. `prompt_term="subtract"` is reading (a), Eq. 6 at t = 1: the
   return is R − β_c Φ_1, another constant for each prompt, and the objective is unchanged; "keep" is (b): Φ_1 is taken as 0
   and the return is R; "zero_first" is (c), Fig. 4: the first token gets nothing. The return is then R − β_c Φ_2, which depends
   on the first token: *the objective changes*, and a warning says so.
2. A reward model that is not the task's scorer shapes: Φ is its score, the task's own score stays on the last token, less
   β_c Φ_T. The objective is the task's in any case. To be paid by the reward model, make it the scorer. Shaping composes with
   a reward that takes the score; the default, where Φ is the score itself, takes it.
3. γ < 1 takes F_t = γ Φ_{t+1} − Φ_t, or the invariance would be lost.
4. The KL penalty is the agent's, and is never redistributed.
5. Two models (SafeRLHF): with a cost model C the objective is ½ (R + α C), put in the place of the score on the last token, and
   Φ = ½ (Φ^R + α Φ^C), so that r̃_t = ½ (r̃^R_t + α r̃^C_t). α has no default: the paper's text says −1 (costs are subtracted), its
   table of settings 1. `Episode.score` stays R: report the cost beside it (`credit/cost`).

Sequence-level estimators (RLOO, GRPO) cancel the shaping exactly: use a critic with GAE, or per-token returns-to-go. The
reward model is asked about unfinished texts: measure its accuracy there first (`textenv fit-reward-model` prints it).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.judges.prefixes import is_causal, prefix_scores
from textenv.reward import RewardWrapper
from textenv.wrappers.shares import check_mix

__all__ = ["RedistributedReward"]

PromptTerm = Literal["subtract", "keep", "zero_first"]


class RedistributedReward(RewardWrapper):
    """Pays the differences of the reward model's score over the prefixes of the text.

    Keeps the return: up to a constant of the prompt (`prompt_term="keep"`: yes; "zero_first": no). Causal: yes; a reward model
    that reads all prefixes in one pass with another tokenizer than the policy's may still move credit within a word.
    Takes the score: yes (with another reward model: no, its differences stand beside the score; with a cost model: yes).

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", reward="redistributed", max_new_tokens=4)
    >>> _ = env.reset(seed=0)
    >>> [env.step(ord(character))[1] for character in "aaba"]
    [0.25, 0.25, 0.0, 0.25]

    Args:
        env: a text environment.
        reward_model: a scorer, or a name that the task can load as one; default: the task's scorer.
        mix: β_c, from 0 (the sparse reward) to 1.
        prompt_term: what becomes of the score of the empty text: "subtract" (a), "keep" (b), "zero_first" (c).
        gamma: the discount of the learner.
        cost_model: C, a scorer, or a name that the task can load as one.
        alpha: α, with a cost model alone: −1 where more of C is worse.

    Raises:
        ValueError: bad arguments, a cost model without α; a score of a prefix that is not finite.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    takes_score: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        reward_model: Any = None,
        *,
        mix: float = 1.0,
        prompt_term: PromptTerm = "subtract",
        gamma: float = 1.0,
        cost_model: Any = None,
        alpha: float | None = None,
    ) -> None:
        super().__init__(env)
        if prompt_term not in get_args(PromptTerm):
            raise ValueError(f"prompt_term must be one of {', '.join(get_args(PromptTerm))}, got {prompt_term!r}")
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma must lie above 0 and at most at 1, got {gamma}")
        if (cost_model is None) != (alpha is None) or not np.isfinite(alpha or 0.0):
            raise ValueError(
                f"cost_model= and alpha= come together, got {cost_model!r} and {alpha}; alpha=-1 subtracts the cost, 1 adds it"
            )
        if prompt_term == "zero_first":
            warnings.warn(
                'prompt_term="zero_first" leaves a return that depends on the first token: the objective is not the task\'s',
                stacklevel=2,
            )
        task = env.get_wrapper_attr("task")
        self.reward_model = task.scorer if reward_model is None else task.load_scorer(reward_model)
        self.mix, self.prompt_term, self.gamma = check_mix(mix), prompt_term, gamma
        self._own = self.reward_model is task.scorer  # then the score of the whole text is known already
        self._tokenizer = env.get_wrapper_attr("tokenizer")
        self.cost_model: Any = None if cost_model is None else task.load_scorer(cost_model)
        self.alpha = alpha or 0.0
        # The class tells of the defaults; here it is what this reward model and these arguments make of them.
        alone = self.cost_model is None
        models = [self.reward_model] if alone else [self.reward_model, self.cost_model]
        self.keeps_return = alone and (mix == 0 or (prompt_term == "keep" and gamma == 1))  # type: ignore[misc]
        self.causal = all(is_causal(model, self._tokenizer) for model in models)  # type: ignore[misc]
        self.takes_score = not alone or (self._own and mix > 0)  # type: ignore[misc]
        self._seconds, self._shift, self._cost, self._texts = 0.0, 0.0, 0.0, 0

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """r̂_t, (T,) each: one call of each model."""
        written = [i for i, e in enumerate(episodes) if len(e)]
        out = [e.rewards for e in episodes]
        if not written or (self.cost_model is None and not self.mix):
            return out
        began = time.perf_counter()
        asked = [episodes[i] for i in written]
        potentials = self._potentials(asked)
        costs: Sequence[Any] = [None] * len(asked) if self.cost_model is None else self._costs(asked)
        self._seconds += time.perf_counter() - began
        for i, phi, cost in zip(written, potentials, costs, strict=True):
            if cost is not None:
                phi = 0.5 * (phi + self.alpha * cost)
                if episodes[i].finished:  # the score becomes ½ (R + α C)
                    out[i] = out[i].copy()
                    out[i][-1] += 0.5 * (self.alpha * cost[-1] - episodes[i].score)
                    self._cost += cost[-1]
            out[i] = out[i] + self.mix * self._shaping(phi, episodes[i].finished)
        return out

    def metrics(self) -> dict[str, float]:
        """Since the last call: texts under the chosen reading, the mean that the return lost to it, the models' seconds; the mean
        cost of a text, where there is a cost model."""
        out = {
            f"credit/redistributed_{self.prompt_term}": self._texts,
            "credit/return_shift": self._shift / max(self._texts, 1),
            "credit/reward_model_seconds": self._seconds,
        }
        if self.cost_model is not None:
            out["credit/cost"] = self._cost / max(self._texts, 1)
        self._seconds, self._shift, self._cost, self._texts = 0.0, 0.0, 0.0, 0
        return out

    def _potentials(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Φ_1 … Φ_{T+1}, (T + 1,) each."""
        known = [self._own and e.finished for e in episodes]
        ends = [np.arange(len(e) + (not k)) for e, k in zip(episodes, known, strict=True)]
        found = prefix_scores(self.reward_model, episodes, ends, tokenizer=self._tokenizer)
        return [np.append(phi, e.score) if k else phi for phi, e, k in zip(found, episodes, known, strict=True)]

    def _costs(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The cost model's, (T + 1,) each."""
        return prefix_scores(self.cost_model, episodes, tokenizer=self._tokenizer)

    def _shaping(self, phi: NDArray[np.float64], finished: bool) -> NDArray[np.float64]:
        """F_t, (T,)."""
        shaping = self.gamma * phi[1:] - phi[:-1]
        if self.prompt_term == "keep":
            shaping[0] += phi[0]
        elif self.prompt_term == "zero_first":
            shaping[0] = 0.0
        if finished:
            shaping[-1] -= self.gamma * phi[-1]  # no potential after the end: the score itself is in r_T
            self._texts += 1
            self._shift += self.mix * {"subtract": phi[0], "keep": 0.0, "zero_first": phi[1]}[self.prompt_term]
        return shaping
