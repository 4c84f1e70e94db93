"""Every example runs from top to bottom, as a user would start it."""

import os
import subprocess
import sys

import pytest

from tests.repository import ROOT

SHORT = {
    "alarm_longform_qa.py": ["--total-timesteps", "1", "--pairs", "4", "--prompts", "2", "--samples", "1"],
    "api_agent.py": ["--texts", "1", "--prompts", "2"],
    "count_letter.py": ["--rounds", "1"],
    "custom_agent.py": ["--steps", "2"],
    "custom_reward.py": ["--rounds", "1"],
    "detox_demo.py": ["--total-timesteps", "1792", "--prompts", "2"],
    "red_summarization.py": ["--total-timesteps", "1", "--prompts", "2", "--samples", "1"],
    "relc_detox.py": ["--total-timesteps", "2", "--prompts", "2", "--samples", "2"],
    "sb3_token_rewards.py": ["--total-timesteps", "1024"],
    "server_critic.py": ["--total-timesteps", "3584"],
}


ELSEWHERE = {  # what they print is looked at, too
    "distributed_ppo.py": "agents/distributed/test_example.py",
    "lora.py": "test_examples_models.py",
    "encoder_decoder.py": "test_examples_models.py",
    "sb3_ppo.py": "agents/sb3/test_examples.py",
    "maskable_ppo.py": "agents/sb3/test_examples.py",
    "cleanrl_loop.py": "agents/sb3/test_examples.py",
    "torchrl_env.py": "agents/sb3/test_examples.py",
    "rest_translation.py": "agents/rest/test_rest_example.py",
    "treg_preferences.py": "agents/preferences/test_learner.py",
    "vllm_rollouts.py": "agents/engines/test_example.py",
}


def test_every_example_is_run_here_or_where_its_output_is_looked_at() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {*SHORT, *ELSEWHERE}
    for name, file in ELSEWHERE.items():
        assert name in (ROOT / "tests" / file).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs_to_its_end(name: str) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *SHORT[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_script_on_real_text_shows_its_usage() -> None:
    done = subprocess.run(["bash", str(ROOT / "examples" / "real_text.sh"), "--help"], capture_output=True, text=True, check=True)
    assert "bash examples/real_text.sh DATA OUT" in done.stdout
    assert "set -euo" not in done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
