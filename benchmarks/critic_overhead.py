"""What a critic costs beside the score alone: `critic_span` over `sparse` on Detox, per episode; batched, and one text at a time.

    python -m benchmarks.critic_overhead                       # 64 texts a batch, the embedded critic language model
    python -m benchmarks.critic_overhead --environment textenv/Summarization-v0 --episodes 32

Milliseconds per episode, on the clock and of the CPU (what a busy neighbour distorts least; a second thread counts there, too),
medians over rounds. Every case of a round credits texts that no judge has seen, written by the embedded policy:

    written                    sampling, in one batch
    sparse, critic_span        the score, without and with the critic: all texts in one call
    ..., one by one            a call a text, as a stepping agent has it with payment="end"
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from textenv.threads import set_threads

REWARDS = ("sparse", "critic_span")
Milliseconds = dict[str, tuple[float, float]]
"""Case → (wall clock, CPU) per episode."""


def measure(environment: str, episodes: int, rounds: int) -> Milliseconds:
    """Medians over `rounds`, after one that warms up."""
    import gymnasium as gym
    import torch

    from textenv.agents import LMPolicy, rollout

    silent = gym.make(environment, scorer=lambda of: [0.0] * len(of))  # no judge sees what is written there
    credits = {name: gym.make(environment, reward=name, payment="end").get_wrapper_attr("credit") for name in REWARDS}
    policy = LMPolicy(silent.get_wrapper_attr("tokenizer").name_or_path, device="cpu")
    write = partial(rollout, silent, policy, episodes, torch.Generator().manual_seed(0))
    silent.reset(seed=0)
    taken: dict[str, list[tuple[float, float]]] = {}

    def timed(case: str, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = call()
        taken.setdefault(case, []).append((time.perf_counter() - wall, time.process_time() - cpu))
        return found

    for _ in range(1 + rounds):
        timed("written", write)
        for name, credit in credits.items():
            timed(name, partial(credit, write()))
            timed(f"{name}, one by one", partial(_each, credit, write()))
    of_case = {case: zip(*rounds_of[1:], strict=True) for case, rounds_of in taken.items()}
    return {case: tuple(1000 * statistics.median(of) / episodes for of in both) for case, both in of_case.items()}  # type: ignore[misc]


def _each(credit: Callable[[Any], Any], episodes: Sequence[Any]) -> None:
    for episode in episodes:
        credit([episode])


def overhead(found: Milliseconds, clock: int) -> tuple[float, float]:
    """Milliseconds that the critic adds to the score: batched, one by one. `clock`: 0 wall, 1 CPU."""
    batched, alone = (found[f"critic_span{how}"][clock] - found[f"sparse{how}"][clock] for how in ("", ", one by one"))
    return batched, alone


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.critic_overhead", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--environment", default="textenv/Detox-v0", help="an id")
    parser.add_argument("--episodes", type=int, default=64, help="texts a batch")
    parser.add_argument("--rounds", type=int, default=5, help="rounds counted, after one that is not")
    parser.add_argument("--threads", type=int, help="torch threads; default: textenv.threads")
    given = parser.parse_args(arguments)
    set_threads(given.threads)
    found = measure(given.environment, given.episodes, given.rounds)
    for case, (wall, cpu) in found.items():
        print(f"{case:24} {wall:8.2f} ms an episode  (CPU {cpu:.2f})")
    for clock, name in enumerate(("wall clock", "CPU")):
        batched, alone = overhead(found, clock)
        print(f"the critic, {name}: {batched:.2f} ms batched, {alone:.2f} ms one by one: {alone / batched:.1f} times as fast")


if __name__ == "__main__":
    main()
