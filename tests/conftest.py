"""Shared by all tests: no network, one torch thread, the same random state at the start of each test, tiny saved models."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from tests import worlds

torch.set_num_threads(1)
# The same examples in every run: a failure is the code's, never the day's.
hypothesis.settings.register_profile("textenv", deadline=None, derandomize=True, database=None, max_examples=40)
hypothesis.settings.load_profile("textenv")


@pytest.fixture(autouse=True)
def _same_random_state_for_every_test() -> Iterator[None]:
    """Random weights made in a test do not depend on which tests ran before it; nothing leaks into the next one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama with the byte tokenizer."""
    return worlds.saved(worlds.llama(), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gpt2_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny GPT-2 with the byte tokenizer."""
    return worlds.saved(worlds.gpt2(), tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def classifier_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny BERT that tells "civil" from "toxic", with the byte tokenizer."""
    return worlds.saved(worlds.classifier("bert"), tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    """One tokenizer of each kind, by name."""
    return worlds.tokenizers()
