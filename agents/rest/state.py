"""Where a run of ReST stands, on disk and in memory; what an Improve step learns from; how a policy does on held-out prompts.

In a checkpoint, beside the files of every agent (`textenv.agents.checkpoint`):

    grown.jsonl         the grown data set, D included (`textenv.agents.rest.grown_files`)
    rest.safetensors    weights that may be gone back to (best, base), copies that a loss needs (π̃, π_β), what it knows of tokens

A run goes on as if it had never stopped, also from the middle of an Improve step: optimizer, order and all.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from textenv.agents.policy import LMPolicy
from textenv.agents.rest.grown import FilterBy, GrownData
from textenv.agents.rest.thresholds import ThresholdKind
from textenv.agents.rollout import rollout

__all__ = ["Kept", "Progress", "choose", "held_out_reward", "read_tensors", "write_tensors"]

TENSORS_FILE = "rest.safetensors"


@dataclass
class Progress:
    """How far a plan of G × I steps has come. JSON values.

    Attributes:
        grown: Grow steps that are over, their Improve steps too.
        is_grown: the data of the next one are there.
        improve: Improve steps that are over since.
        begun: the next one has begun; then `update` is the number of its updates so far, `place` where it stands in the order of
            its texts, `nll` the sum of its losses, `best` the best held-out reward, `best_update` when, `stale` the measurements
            since.
    """

    grown: int = 0
    is_grown: bool = False
    improve: int = 0
    begun: bool = False
    update: int = 0
    place: int = 0
    nll: float = 0.0
    best: float | None = None
    best_update: int = 0
    stale: int = 0

    def next_improve(self, last: bool) -> None:
        """The Improve step is over; with the last one, the Grow step is."""
        done = self.improve + 1
        fresh = Progress(self.grown + 1) if last else Progress(self.grown, True, done)
        self.__dict__.update(asdict(fresh))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Progress:
        """From the values that a checkpoint holds.

        Raises:
            ValueError: other names than expected.
        """
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ValueError(f"the checkpoint's progress holds {sorted(values)}, expected are {sorted(known)}")
        return cls(**values)


@dataclass(frozen=True)
class Kept:
    """What an Improve step learns from: the indices of the texts, and what is reported of them."""

    rows: NDArray[np.int64]
    report: dict[str, float | int | None]


def choose(
    pool: GrownData,
    kind: ThresholdKind,
    level: float | None,
    *,
    by: FilterBy,
    keep_data: Literal["filtered", "all", "none"],
    most: int | None,
    first: bool,
) -> Kept:
    """The texts above the threshold. Warns where there are none, and where a first threshold keeps texts below the mean.

    Args:
        pool: N usable texts.
        first: the first threshold after a Grow step: only above the mean reward is a better policy to be expected (A.3).
    """
    rewards, thresholds = pool.rewards(by), pool.thresholds(kind, level, by)
    kept = pool.kept(kind, level, by=by, keep_data=keep_data, most=most)
    bounded = thresholds[np.isfinite(thresholds)]
    threshold = float(bounded.mean()) if len(bounded) else None
    if not kept.any():
        warnings.warn(
            f"none of {len(pool):,} texts has a reward above the threshold {threshold:.4g} (the best has {rewards.max():.4g}): the "
            "Improve steps of this Grow step end here; lower the thresholds, or sample more",
            stacklevel=5,
        )
    elif first and kind in ("absolute", "quantile") and (worst := rewards[kept].min()) <= rewards.mean():
        warnings.warn(
            f"the first threshold {threshold:.4g} keeps rewards down to {worst:.4g}, not above the mean {rewards.mean():.4g} of "
            "the grown data, so that a better policy is not certain (ReST, A.3); begin with a higher one",
            stacklevel=5,
        )
    sources = pool.sources
    report: dict[str, float | int | None] = {
        "level": level, "threshold": threshold, "kept": int(kept.sum()), "kept_share": float(kept.mean()),
        "coverage": len({sources[i] for i in np.flatnonzero(kept)}) / len(set(sources)),
        "kept_reward": float(rewards[kept].mean()) if kept.any() else None,
    }  # fmt: skip
    return Kept(np.flatnonzero(kept), report)


def held_out_reward(env: gym.Env[Any, Any], policy: LMPolicy, n: int | None, seed: int, by: FilterBy) -> float:
    """Mean reward of a sampled text for each of the first n prompts, with the same random numbers every time."""
    prompts = list(env.get_wrapper_attr("task").prompts[:n])
    judge = env if by == "return" else env.unwrapped  # the verdict alone is asked for: no critic to wait for
    episodes = rollout(judge, policy, len(prompts), torch.Generator().manual_seed(seed), prompts=prompts)
    return float(GrownData.of(episodes).rewards(by).mean())


def write_tensors(directory: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Tensors of several kinds into one file."""
    flat = {f"{kind}/{name}": value.detach().cpu().contiguous() for kind, group in groups.items() for name, value in group.items()}
    save_file(flat, directory / TENSORS_FILE)


def read_tensors(directory: Path) -> dict[str, dict[str, Tensor]]:
    """What `write_tensors` wrote.

    Raises:
        FileNotFoundError: the file is missing.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    if not (directory / TENSORS_FILE).is_file():
        raise FileNotFoundError(f"{directory} holds no {TENSORS_FILE}; ReST.save(path) writes one")
    for key, value in load_file(directory / TENSORS_FILE).items():
        kind, _, name = key.partition("/")
        groups.setdefault(kind, {})[name] = value
    return groups
