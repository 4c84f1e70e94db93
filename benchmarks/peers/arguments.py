"""What every peer is asked, and how it begins: the same threads and seeds for all."""

from __future__ import annotations

import argparse
import os
import warnings
from importlib.metadata import version
from typing import Any

__all__ = ["begin", "versions"]


def begin(description: str | None, episodes: int = 64) -> argparse.Namespace:
    """The command line: size, epochs, iterations (after one warm-up), episodes. Before torch is imported."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--size", default="S")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=4, help="after one warm-up")
    parser.add_argument("--episodes", type=int, default=episodes, help="texts an iteration")
    given = parser.parse_args()
    os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1")
    warnings.filterwarnings("ignore")

    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    return given


def versions(*names: str) -> dict[str, Any]:
    """Of the packages that were run."""
    return {"versions": {name: version(name) for name in (*names, "transformers", "torch")}}
