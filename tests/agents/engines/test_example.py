"""The example of rollouts by a server runs as a user would start it (against the stand-in, not against vLLM)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agents.engines.stand_in import StandIn
from tests.repository import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "vllm_rollouts.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_the_example_saves_a_model_for_the_server_and_trains_on_its_texts(tmp_path: Path) -> None:
    written = run("--save", str(tmp_path / "policy"))
    assert written.returncode == 0, written.stderr[-2000:]
    with StandIn(tmp_path / "policy") as server:
        done = run("--url", server.url, "--total-timesteps", "1", "--n-episodes", "4", "--is-cap", "2", "--lora", "4")
    assert done.returncode == 0, done.stderr[-2000:]
    header, row, last = done.stdout.splitlines()
    assert "gap mean" in header
    assert len(row.split()) == 8
    assert last.endswith("weights handed over 1 times")


@pytest.mark.slow
def test_the_example_asks_for_a_server() -> None:
    done = run()
    assert done.returncode == 2
    assert "--save DIRECTORY" in done.stderr
