"""What each reward costs: seconds for 1,000 texts of 64 tokens beside the plain score, in batches and step by step.

    python -m benchmarks.rewards                                  # every reward, one CPU thread
    python -m benchmarks.rewards --rewards critic_span redistributed --environments textenv/LongFormQA-v0
    python -m benchmarks.rewards --json > rewards.jsonl

Each reward is measured in the first of the environments to which it applies, with the embedded models, on texts that the embedded
policy wrote there: exactly 64 tokens each (EOS is not sampled), other texts in each round, so that no cache helps. A round takes
every case in turn, `sparse` first, so that a busy neighbour slows all alike; ratios are taken within a round. What is reported are
medians over the rounds that follow one warm-up.

"batched" is `credit()` on the whole batch, the road of this library's learners, the score included; "step, end" and "step, online"
step through the same tokens with Gym, paid at the end, or while the text is written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from textenv import ENVIRONMENTS, REWARDS, Episode
from textenv.agents import LMPolicy, rollout
from textenv.reward import NotApplicable

ROADS = ("batched", "step, end", "step, online")
DEFAULT = ("textenv/Detox-v0", "textenv/LongFormQA-v0", "textenv/Summarization-v0", "textenv/Translation-v0")


@dataclass(frozen=True)
class Measurement:
    """One reward. Seconds are for 1,000 texts; NaN where a road was not taken."""

    reward: str
    environment: str
    tokens: int
    batched: float
    over_score: float  # batched, over the plain score of the same environment in the same round
    stepped_end: float
    stepped_online: float
    end_over_batched: float


@dataclass
class Case:
    """A reward in an environment, one environment a way of payment, and what was measured: road → seconds a text."""

    reward: str
    environment: str
    end: gym.Env[Any, Any]
    online: gym.Env[Any, Any]
    rounds: list[dict[str, float]] = field(default_factory=list)

    def run(self, texts: Sequence[Episode], stepped: int) -> None:
        """Every road once."""
        seconds = {"batched": _timed(lambda: self.end.get_wrapper_attr("credit")(texts)) / len(texts)}
        for road, env in zip(ROADS[1:], (self.end, self.online), strict=True):
            if stepped:
                seconds[road] = _timed(lambda env=env: [_walk(env, text) for text in texts[:stepped]]) / stepped  # type: ignore[misc]
        self.rounds.append(seconds)

    def median(self, road: str) -> float:
        """Seconds for 1,000 texts."""
        found = [1000 * seconds[road] for seconds in self.rounds[1:] if road in seconds]
        return statistics.median(found) if found else float("nan")


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _walk(env: gym.Env[Any, Any], text: Episode) -> None:
    env.reset(options={"prompt": text.prompt})
    for token in text.tokens:
        env.step(np.int64(token))


def texts(environment: str, tokens: int, n: int, seed: int) -> list[Episode]:
    """n texts of exactly so many tokens by the embedded policy, each after another prompt."""
    env = gym.make(environment, max_new_tokens=tokens, min_new_tokens="max", split="train")
    env.reset(seed=seed)
    policy = LMPolicy(str(ENVIRONMENTS[environment]["tokenizer"]), device="cpu")
    found = rollout(env.unwrapped, policy, n, torch.Generator().manual_seed(seed))
    if any(len(text) != tokens for text in found):
        raise RuntimeError(f"a text of {environment} has not {tokens} tokens")
    return found


def case(reward: str, environments: Sequence[str], tokens: int) -> tuple[Case | None, list[str]]:
    """The reward in the first environment to which it applies; and why it does not apply to those before."""
    reasons = []
    for environment in environments:
        options: dict[str, Any] = {"reward": reward, "max_new_tokens": tokens, "min_new_tokens": "max"}
        try:
            end, online = (gym.make(environment, **options, payment=payment) for payment in ("end", "online"))
            end.get_wrapper_attr("credit")(texts(environment, tokens, 1, 0))  # some find out when they are first asked
        except NotApplicable as reason:
            reasons.append(f"{reward} in {environment}: {reason}")
            continue
        return Case(reward, environment, end, online), reasons
    return None, reasons


def measure(
    rewards: Sequence[str], environments: Sequence[str], tokens: int, batch: int, stepped: int, rounds: int
) -> tuple[list[Measurement], list[str]]:
    """All rewards, interleaved; and what did not apply."""
    found = [case(reward, environments, tokens) for reward in rewards if reward != "sparse"]
    cases = [each for each, _ in found if each is not None]
    used = list(dict.fromkeys(each.environment for each in cases)) or [environments[0]]
    plain: dict[str, Case] = {}
    for environment in used:
        each, _ = case("sparse", [environment], tokens)
        assert each is not None, "the plain score applies everywhere"
        plain[environment] = each
    everything = [*plain.values(), *cases]
    for number in range(rounds + 1):
        written = {environment: texts(environment, tokens, batch, number) for environment in used}
        for each in everything:
            each.run(written[each.environment], stepped if number else min(stepped, 1))
    return [_measurement(each, plain[each.environment], tokens) for each in everything], [why for _, some in found for why in some]


def _measurement(each: Case, plain: Case, tokens: int) -> Measurement:
    pairs = zip(each.rounds[1:], plain.rounds[1:], strict=True)
    ratios = [seconds.get("step, end", float("nan")) / seconds["batched"] for seconds in each.rounds[1:]]
    return Measurement(
        reward=each.reward,
        environment=each.environment,
        tokens=tokens,
        batched=each.median("batched"),
        over_score=statistics.median(own["batched"] / score["batched"] for own, score in pairs),
        stepped_end=each.median("step, end"),
        stepped_online=each.median("step, online"),
        end_over_batched=statistics.median(ratios),
    )


def table(results: Sequence[Measurement], caption: str = "") -> Table:
    """One row a reward."""
    title = f"Seconds for 1,000 texts of {results[0].tokens} tokens"
    out = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("reward", "environment"):
        out.add_column(head, no_wrap=True)
    for head in ("batched", "× score", "step, end", "step, online", "end ÷ batched"):
        out.add_column(head, justify="right")
    for r in results:
        numbers = (r.batched, r.over_score, r.stepped_end, r.stepped_online, r.end_over_batched)
        out.add_row(r.reward, r.environment.removeprefix("textenv/").removesuffix("-v0"), *(f"{number:.3g}" for number in numbers))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rewards", description=(__doc__ or "").splitlines()[0])
    known = [name for name in DEFAULT if name in ENVIRONMENTS]
    parser.add_argument("--rewards", nargs="+", choices=list(REWARDS), default=list(REWARDS))
    parser.add_argument("--environments", nargs="+", choices=list(ENVIRONMENTS), default=known, help="tried in this order")
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--batch", type=int, default=64, help="texts credited together")
    parser.add_argument("--stepped", type=int, default=4, help="texts a round that are stepped through; 0: none")
    parser.add_argument("--rounds", type=int, default=5, help="measured, after one warm-up")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", action="store_true", help="one JSON object a reward, instead of the table")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    results, reasons = measure(given.rewards, given.environments, given.tokens, given.batch, given.stepped, given.rounds)
    if given.json:
        for result in results:
            print(json.dumps(asdict(result)))
        return
    console = Console()
    console.print(table(results, f"{given.threads} thread(s), batches of {given.batch}, medians of {given.rounds} rounds"))
    for reason in reasons:
        console.print(f"does not apply: {reason}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
