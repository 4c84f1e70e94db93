"""Chance that belongs to a text: whoever credits it, alone or in a batch, stepped through or not, draws the same numbers."""

from __future__ import annotations

import numpy as np

from textenv.episode import Episode

__all__ = ["generator_of"]


def generator_of(seed: int, episode: Episode) -> np.random.Generator:
    """A generator seeded by `seed`, the prompt's and the text's tokens.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return np.random.default_rng([seed, len(episode.prompt_tokens), *episode.prompt_tokens, *episode.tokens])
