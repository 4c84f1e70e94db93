"""Every example runs from top to bottom, as a user would start it."""

import os
import subprocess
import sys

import pytest

from tests.repository import ROOT

SHORT = {
    "count_letter.py": ["--rounds", "1"],
    "detox_demo.py": ["--total-timesteps", "1792", "--prompts", "2"],
    "sb3_token_rewards.py": ["--total-timesteps", "1024"],
    "server_critic.py": ["--total-timesteps", "3584"],
}


def test_every_example_is_run_here() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs_to_its_end(name: str) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *SHORT[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr[-2000:]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
