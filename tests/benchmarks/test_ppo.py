"""The PPO benchmark runs, and measures the work that it says."""

import json
import subprocess
import sys

import pytest

from benchmarks.ppo import NEW_TOKENS, PROMPT_TOKENS, Measurement, prompts, table, tokenizer
from tests.repository import ROOT


def test_each_word_of_a_prompt_is_one_token() -> None:
    words = tokenizer()
    assert {len(words(prompt.text)["input_ids"]) for prompt in prompts(50)} == {PROMPT_TOKENS}


def test_the_table_has_a_row_a_case() -> None:
    case = Measurement("S", 4_240_896, 1, "cpu", 1, 5, 943.0, 951.0, 2.2, 0.4, 0.3, 1.5, 728.0)
    assert table([case, case]).row_count == 2


@pytest.mark.slow
def test_prints_one_json_object_a_case() -> None:
    command = [sys.executable, "-m", "benchmarks.ppo", "--size", "S", "--epochs", "1", "--iterations", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    case = json.loads(line)
    assert case["tokens_per_second"] == pytest.approx(64 * NEW_TOKENS / case["seconds"])
    phases = case["sample_seconds"] + case["score_seconds"] + case["update_seconds"]
    assert phases == pytest.approx(case["seconds"], rel=0.1)
    assert case["peak_mib"] > 4 * case["parameters"] * 4 / 2**20, "policy, gradients and two Adam moments at least"
