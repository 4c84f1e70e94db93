"""The examples that bring an agent from elsewhere run from top to bottom, at small scale."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

from tests.repository import ROOT

SMALL = {
    "sb3_ppo.py": ["--total-timesteps", "224", "--n-envs", "2", "--prompts", "2"],
    "sb3_ppo.py --algorithm a2c": ["--total-timesteps", "56", "--n-envs", "2", "--prompts", "2"],
    "maskable_ppo.py": ["--total-timesteps", "224", "--n-envs", "2", "--texts", "4"],
    "maskable_ppo.py --k 8": ["--total-timesteps", "224", "--n-envs", "2", "--texts", "4"],
    "maskable_ppo.py --k 8 --plain": ["--total-timesteps", "224", "--n-envs", "2", "--texts", "4"],
    "cleanrl_loop.py": ["--rounds", "2", "--n-envs", "4", "--n-steps", "32"],
}


def run(command: str, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, *options = command.split()
    monkeypatch.setattr(sys, "argv", [name, *options, *small])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL)
def test_an_example_runs_to_its_end(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(command, SMALL[command], monkeypatch)
    assert len(capsys.readouterr().out.splitlines()) >= 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchrl") is None, reason="torchrl is not installed")
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")  # what TorchRL says to itself
def test_torchrl_drives_a_text_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("torchrl_env.py", ["--updates", "1", "--frames", "128"], monkeypatch)
    assert "check_env_specs passes" in capsys.readouterr().out


def test_the_example_of_torchrl_explains_itself_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensordict", None)
    monkeypatch.setitem(sys.modules, "tensordict.nn", None)
    with pytest.raises(SystemExit) as ended:
        run("torchrl_env.py", ["--help"], monkeypatch)
    assert ended.value.code == 0
    assert "--updates" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"pip install 'textenv\[torchrl\]'"):
        run("torchrl_env.py", [], monkeypatch)


@pytest.mark.slow
def test_a_saved_policy_of_an_example_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textenv.agents.sb3.actor_critic import LanguageModelActorCritic
    from textenv.tokenization import load_tokenizer

    run("sb3_ppo.py", [*SMALL["sb3_ppo.py"], "--save", str(tmp_path / "policy")], monkeypatch)
    loaded = LanguageModelActorCritic.load(tmp_path / "policy", device="cpu")
    assert loaded.action_space.n == len(load_tokenizer("textenv/tiny"))


def test_every_example_explains_itself() -> None:
    for name in {command.split()[0] for command in SMALL} | {"torchrl_env.py"}:
        text = (ROOT / "examples" / name).read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 120
        assert f"python examples/{name}" in text
