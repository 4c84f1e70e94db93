"""Shared by all tests: no network, one torch thread, and the same random state at the start of each test."""

import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_state_for_every_test() -> Iterator[None]:
    """Random weights made in a test do not depend on which tests ran before it; nothing leaks into the next one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
