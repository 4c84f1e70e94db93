"""Preference pairs as token ids: read from data, or made on the spot by sampling and ranking.

Made on the spot, as T-REG's data were (Meng et al. 2024): several texts of a policy for each prompt, judged by the
environment's own score; the best is chosen, the worst rejected, and a prompt whose texts all score alike gives no pair.
Sampled ids stay what they were; only texts that come from data are tokenized, once, and EOS is put behind them, unless they
use up the budget.

1. A pair of data that does not fit (the budget of the environment, the model's positions) is left out and counted,
   never cut: a cut text has another ending than the one that was preferred.
2. A text is read as it stands: a continuation brings its own leading space.
3. A row may hold conversations of one turn (`[{"role": "user", ...}, {"role": "assistant", ...}]`), as TRL writes them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from textenv.agents.policy import LMPolicy
from textenv.agents.rollout import Timing, rollout
from textenv.agents.targets import target_ids
from textenv.data.preference_pairs import PreferencePair, read_pairs
from textenv.data.records import Record, read_records
from textenv.env import TextEnv
from textenv.episode import Episode, Prompt
from textenv.generation import ActionRule
from textenv.task import Critic, Scorer, Task
from textenv.tokenization import prompt_ids

__all__ = ["Pair", "SampledPairs", "load_pairs", "read_for", "reading_rule", "sample_pairs", "with_explored"]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two texts after one prompt; `chosen` is the better one.

    Attributes:
        explored: what the reference writes greedily after the prompt (SELM's y_ref), where it was asked for.
    """

    chosen: Episode
    rejected: Episode
    explored: Episode | None = None

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, eq=False)
class SampledPairs:
    """The pairs of one round, and every text that was sampled and judged for them."""

    pairs: list[Pair]
    episodes: list[Episode]
    prompts: int


def sample_pairs(
    env: gym.Env[Any, Any],
    policy: LMPolicy,
    n_prompts: int,
    n_samples: int,
    generator: torch.Generator | None = None,
    *,
    explorer: LMPolicy | None = None,
    timing: Timing | None = None,
) -> SampledPairs:
    """Best and worst of `n_samples` texts for each of `n_prompts` prompts, by the environment's score.

    Args:
        env: a text environment; its wrappers are not asked, the score alone ranks.
        policy: who samples.
        generator: of the sampling (a CPU generator); None: torch's.
        explorer: whose greedy text joins the ranking and is kept as `explored` (SELM); None: nobody's.
        timing: seconds are added to it.

    Raises:
        ValueError: no prompt, or fewer than two texts a prompt.
    """
    if n_prompts < 1 or n_samples < 2:
        raise ValueError(f"pairs need n_prompts >= 1 and n_samples >= 2, got {n_prompts} and {n_samples}")
    bare = env.unwrapped
    asked: list[Prompt] = bare.get_wrapper_attr("sample_prompts")(n_prompts)
    repeated = [prompt for prompt in asked for _ in range(n_samples)]
    sampled = rollout(bare, policy, len(repeated), generator, prompts=repeated, timing=timing)
    greedy: list[Episode] = []
    if explorer is not None:
        greedy = rollout(bare, explorer, n_prompts, prompts=asked, deterministic=True, timing=timing)
    pairs = []
    for i in range(n_prompts):
        explored = greedy[i] if greedy else None
        group = sampled[i * n_samples : (i + 1) * n_samples] + ([] if explored is None else [explored])
        best, worst = max(group, key=_score), min(group, key=_score)
        if best.score > worst.score and not np.array_equal(best.tokens, worst.tokens):
            pairs.append(Pair(best, worst, explored))
    return SampledPairs(pairs, sampled + greedy, n_prompts)


def load_pairs(source: Any, columns: Mapping[str, str] | None = None) -> tuple[list[PreferencePair], int]:
    """Pairs of texts, and how many were left out because both texts are the same.

    >>> rows = [{"prompt": "2 + 2 = ", "chosen": "4", "rejected": "5"}, {"prompt": "1 + 1 = ", "chosen": "2", "rejected": "2"}]
    >>> pairs, skipped = load_pairs(rows)
    >>> pairs[0].chosen, skipped
    ('4', 1)

    Args:
        source: a file (.jsonl, .csv, each also .gz, .parquet), a `datasets.Dataset`, an iterable of rows (mappings) or of
            `PreferencePair`s.
        columns: where prompt, context, chosen and rejected are; default: columns of these names. No prompt is no error.

    Raises:
        FileNotFoundError, ValueError, TypeError: as `textenv.data.preference_pairs.read_pairs`.
    """
    if isinstance(source, str | os.PathLike):
        return read_pairs(_plain(read_records(source)), columns, "skip")
    rows = list(source)
    if rows and all(isinstance(row, PreferencePair) for row in rows):
        return rows, 0
    wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise TypeError(f"a preference pair is a row with prompt, chosen and rejected, or a PreferencePair, got {wrong!r:.80}")
    return read_pairs(_plain(Record(row, "pairs", i, "row") for i, row in enumerate(rows, 1)), columns, "skip")


def read_for(
    pairs: Any, columns: Mapping[str, str] | None, env: Any, policy: LMPolicy, max_new_tokens: int | None
) -> tuple[Any, list[Pair] | None]:
    """The bare environment that reads pairs, and the pairs as token ids, from all that a learner takes as `pairs=`.

    Raises:
        ValueError: pairs of token ids without the environment that they come from; pairs that do not fit.
    """
    if pairs is None:
        return env.unwrapped, None
    if isinstance(pairs, (list, tuple)) and pairs and all(isinstance(pair, Pair) for pair in pairs):
        if env is None:
            raise ValueError("pairs of token ids come from a text environment: pass it as env=")
        return env.unwrapped, list(pairs)
    found, skipped = load_pairs(pairs, columns)
    reading = _environment_of(found, policy, max_new_tokens) if env is None else env.unwrapped
    return reading, _encoded(found, reading, policy, skipped=skipped)


def reading_rule(rule: ActionRule, pairs: Sequence[Pair]) -> ActionRule:
    """The rule under which the texts are likely at all: those of data may end before `min_new_tokens`."""
    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    early = any(text.finish_reason == "stop" and len(text) <= rule.min_new_tokens for text in texts)
    return replace(rule, min_new_tokens=0) if early else rule


def with_explored(pairs: Sequence[Pair], explorer: LMPolicy, rule: ActionRule, reading: Any) -> list[Pair]:
    """Pairs with what the explorer writes greedily after each prompt, as the environment `reading` reads it."""
    missing = [pair.chosen for pair in pairs if pair.explored is None]
    written = iter(explorer.generate([text.prompt_tokens for text in missing], rule, None))
    read = reading.episode
    return [p if p.explored is not None else replace(p, explored=read(p.chosen.prompt, next(written))) for p in pairs]


def _encoded(pairs: Sequence[PreferencePair], env: gym.Env[Any, Any], policy: LMPolicy, *, skipped: int = 0) -> list[Pair]:
    """Pairs of texts as pairs of episodes, not judged; those that do not fit are left out, with a warning.

    Args:
        pairs: from `load_pairs`.
        env: what reads prompts and decodes ids (`_environment_of`, or the user's own).
        policy: whose positions bound a text.
        skipped: how many rows were left out before, for the warning.

    Raises:
        ValueError: none fits.
    """
    rule, encoded = env.get_wrapper_attr("action_rule"), []
    for pair in pairs:
        both = (target_ids(env.get_wrapper_attr("tokenizer"), policy.model, text) for text in (pair.chosen, pair.rejected))
        chosen, rejected = (ids[:-1] if len(ids) == rule.max_new_tokens + 1 else ids for ids in both)  # the budget ends it
        longest = max(len(chosen), len(rejected))
        (read,) = policy.layout.prompts([env.get_wrapper_attr("prompt_tokens")(pair.prompt)], rule.prompt_end)
        room = policy.layout.room(len(read))
        if longest <= rule.max_new_tokens and (room is None or longest <= room) and chosen != rejected:
            make = env.get_wrapper_attr("episode")
            encoded.append(Pair(make(pair.prompt, chosen), make(pair.prompt, rejected)))
    lost = len(pairs) - len(encoded)
    if not encoded:
        raise ValueError(f"none of {len(pairs)} pairs fits into max_new_tokens={rule.max_new_tokens} and the model's positions")
    if lost or skipped:
        warnings.warn(
            f"{lost + skipped:,} of {len(pairs) + skipped:,} pairs are left out: {skipped:,} of two equal texts, {lost:,} longer "
            f"than max_new_tokens={rule.max_new_tokens} or than the model's positions allow",
            stacklevel=2,
        )
    return encoded


def _environment_of(pairs: Sequence[PreferencePair], policy: LMPolicy, max_new_tokens: int | None = None) -> TextEnv:
    """A text environment that reads these pairs where no other is given. It has no score.

    Args:
        max_new_tokens: longer texts will not fit; default: the longest text.

    Raises:
        ValueError: the policy has no tokenizer; pairs with documents beside the prompt.
    """
    if any(pair.prompt.context for pair in pairs):
        raise ValueError("the pairs have a context, and only a task knows where it stands in a prompt: pass env=")
    tokenizer = policy.tokenizer
    if tokenizer is None:
        raise ValueError("the policy has no tokenizer to read pairs with: LMPolicy(model, tokenizer)")
    prompts = list({pair.prompt.text: pair.prompt for pair in pairs}.values())
    longest = max(len(prompt_ids(tokenizer, prompt.text)) for prompt in prompts)
    texts = {text for pair in pairs for text in (pair.chosen, pair.rejected)}
    budget = max_new_tokens or max(len(target_ids(tokenizer, policy.model, text)) for text in texts)
    return TextEnv(_Given(prompts, _no_score), tokenizer, max_prompt_tokens=longest, max_new_tokens=budget)


def _score(episode: Episode) -> float:
    return episode.score


class _Given(Task):
    """Prompts of a data set of pairs: its texts are judged already."""

    def metrics(self, episodes: Sequence[Episode]) -> Mapping[str, float]:
        return {}

    def load_scorer(self, source: Any) -> Scorer:
        return _no_score

    def load_critic(self, source: Any) -> Critic:
        raise ValueError("pairs from data have no critic; pass env=, a text environment that has one")


def _no_score(episodes: Sequence[Episode]) -> list[float]:
    raise ValueError("pairs from data have no score; pass env=, a text environment that judges")


def _plain(records: Iterable[Record]) -> Iterator[Record]:
    """Rows of texts; a conversation of one turn is its user's and its assistant's text."""
    for record in records:
        row = dict(record.row)
        for name, value in record.row.items():
            if isinstance(value, list) and value and all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in value):
                said = [message["content"] for message in value]
                if [message["role"] for message in value] not in (["user"], ["assistant"], ["user", "assistant"]):
                    roles = ", ".join(str(message["role"]) for message in value)
                    raise ValueError(
                        f"{record.where}: column {name!r} is a conversation of {roles}; one turn, user and assistant, can be "
                        "read: write the turns before it into the prompt"
                    )
                row[name] = said[-1]
                if len(said) == 2:
                    row.setdefault("prompt", said[0])
        yield replace(record, row=row)
