"""What the library has promised itself of speed and memory, beside what one run of `benchmarks.compare` reached.

The peers' part comes from the comparison's own cells; a size or a peer that was not asked for has no row. What has no peer is
measured here, once: texts that end anywhere, long texts over a large vocabulary, a critic's batches, the start.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.table import Table

from benchmarks import critic_overhead, startup
from benchmarks.processes import Result, rate, ratios, run, share_of_bound

__all__ = ["Cells", "Limit", "alone", "of_cells", "table"]

Cells = Mapping[tuple[str, int], Mapping[str, Sequence[Result]]]
"""(size, epochs) → who → a result a round."""
OURS, SAME = "textenv bf16 states", "textenv fp32 separate"
LONG = ["--vocabulary", "50257", "--new-tokens", "512", "--micro-batch-tokens", "1056", "--precision", "bf16", "--iterations", "1"]
ROUNDS = 9
MIB = 2**20


class Limit(NamedTuple):
    """One row. `least` and `most`: what the value may be; one of them is None."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    unit: str = "×"

    @property
    def met(self) -> bool:
        """Whether the value is within."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


def of_cells(cells: Cells) -> Iterator[Limit]:
    """The limits that have a peer, and the share of the bound."""
    for (size, epochs), found in cells.items():
        cell = f"{size}, {epochs} epoch{'s' if epochs > 1 else ''}"
        if peer := found.get("TRL PPO"):
            yield Limit(f"tokens/s against TRL PPO, {cell}", _middle(found[OURS], peer), least=4.0 if epochs == 1 else 3.5)
            yield Limit(f"the same algorithm, float32, {cell}", _middle(found[SAME], peer), least=1.1)
            yield Limit(f"peak memory against TRL PPO, {cell}", _memory(found[OURS]) / _memory(peer), most=0.7)
        if peer := found.get("SB3 PPO by hand"):
            yield Limit(f"tokens/s against SB3 PPO by hand, {cell}", _middle(found[OURS], peer), least=40.0)
            yield Limit(f"step by step against SB3 PPO by hand, {cell}", _middle(found["textenv, SB3 PPO"], peer), least=5.0)
        if (size, epochs) == ("M", 1):
            share = 100 * share_of_bound(found[OURS])
            yield Limit(f"of the arithmetic bound in bfloat16, {cell}", share, least=50.0, unit="%")


def _middle(ours: Sequence[Result], theirs: Sequence[Result]) -> float:
    return statistics.median(ratios(ours, theirs))


def _memory(results: Sequence[Result]) -> float:
    return statistics.median(float(result["peak_mib"]) for result in results)


def alone(tell: Callable[[str], None]) -> Iterator[Limit]:
    """The limits that have none, measured now; `tell` is given what comes next."""
    ppo = [sys.executable, "-m", "benchmarks.ppo", "--epochs", "1", "--json"]
    for precision in ("bf16", "fp32"):
        tell(f"ragged ends, {precision}")
        fixed, ragged = run("textenv", [*ppo, "--size", "S", "--ragged", "--precision", precision], lines=2)
        yield Limit(f"ragged ends against fixed 64, a token, S, {precision}", rate([ragged]) / rate([fixed]), least=0.8)
    tell("64 texts of 512 tokens over 50,257 ids")
    (long,) = run("textenv", [*ppo, "--size", "M", *LONG])
    gigabytes = long["working_mib"] * MIB / 1e9
    yield Limit("64 × 512 tokens, 50,257 ids, M: above weights, gradients, optimizer", gigabytes, most=1.5, unit="GB")
    tell("a critic's batches")
    batched, single = critic_overhead.overhead(critic_overhead.measure("textenv/Detox-v0", 64, ROUNDS), 0)
    yield Limit("critic_span over sparse, an episode: batched against one by one", single / batched, least=8.0)
    yield Limit("critic_span over sparse, an episode", batched, unit="ms")
    tell("the start")
    for case, most in (("import textenv", 0.3), ("textenv --help", 0.5)):
        yield Limit(case, startup.seconds(case, ROUNDS)[0], most=most, unit="s")


def table(limits: Sequence[Limit]) -> Table:
    """One row a limit."""
    out = Table(title="Limits", box=None)
    for name in ("limit", "asked", "reached", "met"):
        out.add_column(name, justify="left" if name == "limit" else "right", no_wrap=True)
    for limit in limits:
        asked = f"≥ {limit.least:g}" if limit.least is not None else f"≤ {limit.most:g}" if limit.most is not None else ""
        met = ("yes" if limit.met else "NO") if asked else ""
        out.add_row(limit.what, asked, f"{limit.value:.3g} {limit.unit}", met)
    return out
