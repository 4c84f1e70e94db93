"""Mean and deviation of a score on texts of the initial policy, by one command; and the list of what there is."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import textenv
from tests.cli.test_console import run
from tests.worlds import ids
from textenv.agents import LMPolicy, rollout
from textenv.aspects import Aspect
from textenv.cli.calibrate import measured
from textenv.episode import Prompt, Span
from textenv.registration import REWARDS


def small(policy: Path) -> tuple[object, ...]:
    return ("textenv/CountLetter-v0", "--policy", policy, "--device", "cpu", "--max-new-tokens", 8)


def test_the_file_holds_mean_and_deviation_on_texts_of_the_policy(llama_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    arguments = ("--n", 200, "--seed", 3, "--out", file, "--aspect", "sentence_score", "--aspect", "length")
    code, output = run("calibrate", *small(llama_directory), *arguments)
    assert code == 0, output
    found = json.loads(file.read_text())
    env = gym.make("textenv/CountLetter-v0", tokenizer=str(llama_directory), max_new_tokens=8)
    env.reset(seed=3)
    episodes = rollout(env.unwrapped, LMPolicy(llama_directory, device="cpu"), 200, torch.Generator().manual_seed(3))
    scores = [episode.score for episode in episodes]
    assert (found["mean"], found["sd"]) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
    lengths = [len(episode) for episode in episodes if episode.text]
    assert found["aspects"]["length"]["mean"] == pytest.approx(np.mean(lengths))
    assert list(found["aspects"]) == ["sentence_score", "length"]
    assert (found["n"], found["seed"], found["env_id"]) == (200, 3, "textenv/CountLetter-v0")
    for word in ("score", "sentence_score", "length", "200/200", "saved in"):
        assert word in output


def test_what_it_writes_is_what_the_hierarchical_reward_reads(llama_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    assert run("calibrate", *small(llama_directory), "--n", 200, "--seed", 3, "--out", file, "--aspect", "length")[0] == 0
    numbers = json.loads(file.read_text())
    env = gym.make("textenv/CountLetter-v0", reward=("hierarchical", {"statistics": str(file)}), max_new_tokens=8)
    assert env.get_wrapper_attr("mean") == numbers["mean"]
    assert env.get_wrapper_attr("sd") == numbers["sd"]


def test_what_an_aspect_judges_in_no_text_has_no_numbers() -> None:
    env = gym.make("textenv/CountLetter-v0").unwrapped
    episodes = [replace(env.episode(Prompt("p"), ids(text, end=True)), score=float(len(text))) for text in ("a", "abc")]
    found = measured(episodes, [Aspect("none", lambda es: [[] for _ in es]), Aspect("one", lambda es: [[Span(0, 1, 2.0)], []])])
    assert (found["mean"], found["sd"]) == pytest.approx((2.0, 2**0.5))
    assert found["distribution"] == [(1.0, 1), (3.0, 1)]
    assert found["aspects"] == {
        "none": {"mean": None, "sd": None, "n": 0, "distribution": None},
        "one": {"mean": 2.0, "sd": None, "n": 1, "distribution": [(2.0, 1)]},
    }


def test_the_seed_decides_and_another_seed_differs(llama_directory: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.json" for i in range(3)]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        assert run("calibrate", *small(llama_directory), "--n", 200, "--seed", seed, "--out", file, "--aspect", "length")[0] == 0
    first, again, other = (json.loads(file.read_text())["aspects"]["length"] for file in files)
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--n", 1), "--n 1: a standard deviation needs at least two texts"),
        (("--out", "nowhere/s.json"), "--out nowhere/s.json is no place for a file"),
        (("--aspect", "wit"), "no aspect 'wit'; the task's are sentence_score, fluency, length"),
        (("--prompts", "missing.jsonl"), "no such file"),
        (("--n", 2, "--max-new-tokens", 1, "--aspect", "length"), "there is no z-score"),
    ],
)
def test_bad_input_is_an_error_of_one_line(llama_directory: Path, arguments: tuple[object, ...], message: str) -> None:
    code, output = run("calibrate", *small(llama_directory), *arguments)
    assert code == 2, output
    assert message in output


def test_the_list_shows_of_every_reward_whether_it_keeps_the_return_is_causal_and_takes_the_score() -> None:
    code, output = run("list")
    assert code == 0
    for name in (*textenv.ENVIRONMENTS, *REWARDS):
        assert name in output
    rows = [[cell.strip() for cell in line.split("│")] for line in output.splitlines()]
    facts = {cells[1]: (cells[3], cells[4], cells[5]) for cells in rows if len(cells) == 7}
    assert facts["sparse"] == ("yes", "yes", "no")
    assert facts["delta"] == ("yes", "no", "yes")
    assert facts["length_penalty"] == ("no", "yes", "no")
    assert facts["hierarchical"] == ("no", "no", "yes")
    assert set(REWARDS) <= set(facts)


@pytest.mark.parametrize("name", [name for name, target in REWARDS.items() if target])
def test_every_reward_says_in_its_docstring_what_its_attributes_say(name: str) -> None:
    module, _, attribute = str(REWARDS[name]).partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    said = " ".join((cls.__doc__ or "").split())
    for fact, value in (("Keeps the return", cls.keeps_return), ("Causal", cls.causal)):
        found = re.search(rf"{fact}: (\w+)", said)
        assert found, f"{cls.__name__} does not say “{fact}: yes” or “no”"
        assert (found[1] == "yes") == value
    takes = re.search(r"Takes the score: (\w+)", said)
    assert (takes is not None and takes[1] == "yes") == cls.takes_score
