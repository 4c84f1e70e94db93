"""The examples about kinds of models, at small scale: what they print is what they claim."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository import ROOT

pytestmark = pytest.mark.slow


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def shown(output: str) -> dict[str, str]:
    """What stands before "mean score", and the number and the text behind it."""
    rows = [line.split("  mean score ") for line in output.splitlines() if "  mean score " in line]
    return {name.strip().split(",")[0]: rest for name, rest in rows}


def test_an_adapter_is_trained_switched_off_saved_and_merged(tmp_path: Path) -> None:
    found = shown(run("lora.py", "--steps", "1792", "--prompts", "4", "--out", str(tmp_path)))
    assert found["adapter off"] == found["before"], "the base has not moved"
    assert found["adapter"] == found["merged"] == found["after"] != found["before"]
    sizes = [(tmp_path / name).stat().st_size for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors")]
    assert sizes[0] < sizes[1] / 4


@pytest.mark.parametrize("agent", ["ppo", "etpo"])
def test_an_encoder_decoder_is_warmed_up_and_trained(agent: str) -> None:
    found = shown(run("encoder_decoder.py", "--agent", agent, "--warm-up", "300", "--steps", "600", "--prompts", "4"))
    assert len(found) == 3
