"""ARGS: at each token, the k likeliest are judged, and the judge has a say.

Paper: Khanov et al. 2024, *ARGS: Alignment as Reward-Guided Search* (arXiv 2402.01694). With r a sequence reward model asked
about the text so far and one more token v, V_k the k likeliest tokens:

    s(v) = log π(v | x, y_<t) + w r(x, y_<t, v),   v ∈ V_k
    greedy: y_t = argmax s;      stochastic: y_t ~ softmax(s / τ) over V_k

At τ = 1 that samples from p(v) ∝ π(v) exp(w r). No policy is trained. Departures:

1. r may be any judge, with another tokenizer than the policy's too; the authors' code has one tokenizer for both;
2. a text ends at EOS, where theirs always has 128 tokens; EOS is a candidate, and r then reads the finished text;
3. any number of texts at once, stochastic too; one KV cache of the policy; the judge reads each candidate from its beginning.

The number that is maximised is no result: judge the texts by another scorer (`evaluate(..., judge=)`). A reward model that was
trained on whole texts is asked about beginnings here; `textenv fit-reward-model` prints its accuracy there. The scale of r
against log π is the reward model's own, and w belongs to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.checks import at_least, one_of, within
from textenv.agents.decoders.decoding import Asked, Judge, Modes, TokensUsed
from textenv.agents.evaluation import as_language_model
from textenv.episode import Prompt
from textenv.generation import ActionRule, generate, greedy, sample

__all__ = ["RewardGuidedSearch"]

Ids = NDArray[np.int64]
Mode = Literal["greedy", "stochastic"]


class RewardGuidedSearch:
    """A policy whose every token is chosen by the language model and a judge together.

    >>> import gymnasium as gym, textenv
    >>> from textenv.agents import evaluate
    >>> env = gym.make("textenv/Detox-v0", split="test")
    >>> plain, guided = (RewardGuidedSearch("textenv/tiny", env, k=4, weight=w) for w in (0.0, 4.0))
    >>> one, other = (evaluate(search, env, 4).episodes for search in (plain, guided))
    >>> sum(e.score for e in other) >= sum(e.score for e in one)
    True

    Args:
        policy: a language model: an `LMPolicy`, an agent of this library, a name, a directory, a transformers model.
        judge: a text environment (its task's score), a scorer: episodes → floats, or a name that the task can load.
        k: candidates at each token (the whole vocabulary, if it is smaller).
        weight: w; 0 is greedy decoding, or top-k sampling.
        mode: "greedy", or "stochastic"; asked for greedy texts (`deterministic=True`), it is greedy in any case.
        temperature: τ, beside the policy's own, which is in π.
        env: the text environment of the prompts, where `judge` is none.
        batch_size: texts decoded together.

    Attributes:
        tokens_used: what the texts have cost so far.

    Raises:
        ValueError: k below 1, a temperature that is not above 0, another mode.
        TypeError: a policy that tells no probabilities.
    """

    reads_prompts = True

    def __init__(
        self,
        policy: Any,
        judge: Any,
        *,
        k: int = 10,
        weight: float = 1.5,
        mode: Mode = "greedy",
        temperature: float = 1.0,
        env: gym.Env[Any, Any] | None = None,
        batch_size: int = 64,
    ) -> None:
        one_of(get_args(Mode), mode=mode)
        at_least(1, k=k, batch_size=batch_size)
        within(float("-inf"), float("inf"), weight=weight)
        if not temperature > 0:
            raise ValueError(f'temperature must be above 0, got {temperature}; mode="greedy" is its limit')
        env = judge if env is None and isinstance(judge, gym.Env) else env
        self.policy = as_language_model(policy, env)
        self.judge = Judge(judge, env, self.policy.tokenizer)
        self.k, self.weight, self.mode, self.temperature, self.batch_size = k, weight, mode, temperature, batch_size

    @property
    def tokens_used(self) -> TokensUsed:
        """What the texts have cost so far."""
        return self.judge.used

    def generate(
        self,
        prompts: Sequence[Prompt | Ids],
        rule: ActionRule,
        uniforms: Tensor | None,
        /,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> list[Ids]:
        """Texts, one per prompt, as of any policy.

        Raises:
            ValueError: `top_k` or `top_p`, for the candidates are the k likeliest tokens.
        """
        if top_k or top_p < 1.0:
            raise ValueError(f"the candidates are the k={self.k} likeliest tokens; leave out top_k={top_k}, top_p={top_p}")
        asked = self.judge.book.read(prompts)
        self.policy.eval()
        read = self.policy.layout.prompts([a.ids for a in asked], rule.prompt_end)
        out: list[Ids] = []
        for at in range(0, len(asked), self.batch_size):
            part = slice(at, at + self.batch_size)
            numbers = None if uniforms is None or self.mode == "greedy" else uniforms[part].to(self.policy.device)
            choose = _Chooser(self, asked[part], rule, numbers)
            with self.policy.autocast():
                out += generate(
                    self.policy.model,
                    read[part],
                    max_new_tokens=rule.max_new_tokens,
                    eos_token_id=rule.eos_token_id,
                    choose=choose,
                )
        self.tokens_used.texts += len(out)
        self.tokens_used.sampled += sum(map(len, out))
        return out


class _Chooser:
    """The next token of each live text of a batch: what `textenv.generation.generate` asks."""

    def __init__(self, search: RewardGuidedSearch, asked: Sequence[Asked], rule: ActionRule, uniforms: Tensor | None) -> None:
        self.search, self.asked, self.rule, self.uniforms = search, asked, rule, uniforms
        self.written: list[list[int]] = [[] for _ in asked]
        self.outside = Modes(search.policy.device.type)

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        search = self.search
        logits = self.rule.restrict(logits, step, search.policy.temperature)  # log π, up to a constant of the row
        k = min(search.k, logits.shape[-1])
        candidates = logits.topk(k, -1).indices  # (b, k)
        bonus = search.weight * self._rewards(candidates, logits, rows.tolist()).to(logits)
        scores = logits.scatter_add(-1, candidates, bonus)  # (b, V)
        if search.weight != 0 and k < logits.shape[-1]:  # `top_k` below finds the candidates itself where nothing has moved
            outside = torch.ones_like(scores, dtype=torch.bool).scatter(-1, candidates, False)
            scores = scores.masked_fill(outside, float("-inf"))
        if self.uniforms is None:
            chosen = greedy(scores, rows, step)
        else:
            chosen = sample(scores / search.temperature, self.uniforms[rows, step], top_k=k)
        for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
            if not self._ended(row):
                self.written[row].append(token)
        return chosen

    def _rewards(self, candidates: Tensor, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """(b, k) what the judge thinks of each candidate; 0 for what the rule forbids, and for texts that have ended."""
        allowed = (logits.gather(-1, candidates) > float("-inf")).tolist()
        places, texts = [], []
        for i, (row, tokens) in enumerate(zip(rows, candidates.tolist(), strict=True)):
            if self._ended(row):
                continue
            for j, token in enumerate(tokens):
                if allowed[i][j]:
                    places.append((i, j))
                    texts.append(self.search.judge.episode(self.asked[row], [*self.written[row], token], self.rule))
        out = torch.zeros(candidates.shape, dtype=torch.float64)
        if texts:
            i, j = torch.tensor(places).T
            with self.outside.again():
                scores = self.search.judge.scores(texts)
            out[i, j] = torch.tensor(scores, dtype=torch.float64)
        return out

    def _ended(self, row: int) -> bool:
        return self.written[row][-1:] == [self.rule.eos_token_id]
