"""Training, measuring and listing, end to end in seconds on tiny saved models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import textenv
from tests import worlds
from tests.cli.test_console import run
from textenv.agents import TokenPPO
from textenv.cli.measuring import Measured, show_metrics

SMALL = ("--k", 2, "--n-episodes", 4, "--batch-size", 4, "--n-epochs", 1, "--device", "cpu")


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": {"text": f"[bold]number\x1b[31m {i}"}}) + "\n" for i in range(16)))
    return path


@pytest.fixture
def detox(prompt_file: Path, llama_directory: Path, classifier_directory: Path, tmp_path: Path) -> tuple[object, ...]:
    """A command line on real components: a saved policy, a saved scorer, a prompt file, a word list."""
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    return (
        "textenv/Detox-v0", "--policy", llama_directory, "--scorer", classifier_directory, "--prompts", prompt_file,
        "--critic", f"lexicon:{words}", "--reward", "critic_span", "--max-new-tokens", 6, "--max-prompt-tokens", 32,
    )  # fmt: skip


def test_a_run_ends_with_metrics_and_texts_before_and_after(detox: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, output = run("train", *detox, *SMALL, "--total-timesteps", 50, "--out", out, "--tensorboard", tmp_path / "tb")
    assert code == 0, output
    for word in ("before", "after", "average_max_toxicity", "toxicity_probability", "perplexity", "mean_length", "…"):
        assert word in output
    assert "2 held-out prompts, 2 texts each; 95 % bootstrap intervals" in output
    metrics = json.loads((out / "metrics.json").read_text())
    for column in ("before", "after"):
        low, high = metrics[column]["mean_toxicity"]["interval"]
        assert low <= metrics[column]["mean_toxicity"]["value"] <= high
    AutoModelForCausalLM.from_pretrained(out / "agent")
    assert list((tmp_path / "tb").rglob("events*"))


def test_texts_are_shown_without_what_acts_on_a_terminal(detox: tuple[object, ...]) -> None:
    code, output = run("train", *detox, *SMALL, "--total-timesteps", 20)
    assert code == 0, output
    assert "\x1b" not in output
    assert "[bold]number" in output


def test_a_judge_that_gave_no_reward_measures_too(detox: tuple[object, ...], classifier_directory: Path, tmp_path: Path) -> None:
    judge = worlds.saved(worlds.classifier("llama", seed=3), tmp_path / "other")
    code, output = run("train", *detox, *SMALL, "--total-timesteps", 20, "--judge", judge, "--out", tmp_path / "run")
    assert code == 0, output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["after"]
    assert metrics["mean_toxicity (other)"]["value"] != metrics["mean_toxicity"]["value"]
    assert "distinct_1 (other)" not in metrics


def test_a_judge_may_be_an_import_string(count: tuple[object, ...]) -> None:
    few = ("--k", 1, "--eval-prompts", 1, "--device", "cpu")
    code, output = run("evaluate", *count[:5], *few, "--judge", "tests.worlds:even_share")
    assert code == 0, output
    assert "mean_score (tests.worlds:even_share)" in output


def test_a_policy_in_a_deep_directory_leaves_room_for_the_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    show_metrics({f"/a/very/long/{'way/' * 20}home": Measured([], {"average_max_toxicity (judge)": 0.5}, 1)})
    shown = capsys.readouterr().out
    assert "average_max_toxicity (judge)" in shown
    assert "…" in shown
    assert "way/home" in shown


def test_a_judge_that_agrees_with_the_scorer_is_shown_all_the_same(
    detox: tuple[object, ...], classifier_directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, output = run("train", *detox, *SMALL, "--total-timesteps", 20, "--judge", classifier_directory, "--out", out)
    assert code == 0, output
    metrics = json.loads((out / "metrics.json").read_text())["after"]
    assert metrics[f"mean_toxicity ({classifier_directory.name})"] == metrics["mean_toxicity"]


def test_before_is_the_policy_that_was_given(detox: tuple[object, ...], tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "metrics.json"
    assert run("train", *detox, *SMALL, "--total-timesteps", 20, "--out", out)[0] == 0
    without = detox[: detox.index("--critic")] + detox[detox.index("--max-new-tokens") :]
    code, output = run("evaluate", *without, "--k", 2, "--device", "cpu", "--out", file, "--reference", detox[2])
    assert code == 0, output
    assert json.loads(file.read_text()) == json.loads((out / "metrics.json").read_text())["before"]


def test_perplexity_is_taken_under_the_reference_that_a_saved_agent_has(detox: tuple[object, ...], tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "metrics.json"
    assert run("train", *detox, *SMALL, "--total-timesteps", 20, "--out", out)[0] == 0
    without = (detox[0], *detox[3 : detox.index("--critic")], "--policy", out / "agent", *detox[detox.index("--max-new-tokens") :])
    found = []
    for reference in ((), ("--reference", detox[2])):
        code, output = run("evaluate", *without, "--k", 2, "--device", "cpu", "--out", file, *reference)
        assert code == 0, output
        found.append(json.loads(file.read_text())["perplexity"])
    assert found[0] == found[1]


def test_a_reference_that_is_gone_leaves_the_other_metrics(detox: tuple[object, ...], tmp_path: Path) -> None:
    gone = worlds.saved(worlds.llama(), tmp_path / "gone")
    TokenPPO(str(gone), worlds.make(max_new_tokens=6)).save(tmp_path / "agent")
    gone.rename(tmp_path / "elsewhere")
    few = ("--k", 1, "--eval-prompts", 1, "--device", "cpu", "--max-new-tokens", 6)
    code, output = run("evaluate", "textenv/CountLetter-v0", "--policy", tmp_path / "agent", *few)
    assert code == 0, output
    assert f"no perplexity: the reference of {tmp_path / 'agent'} cannot be read (no model directory at {gone})" in output
    assert "1 held-out prompts, 1 texts each" in output


def test_perplexity_is_taken_under_the_embedded_policy_where_nothing_else_is_known() -> None:
    code, output = run("evaluate", "textenv/Detox-v0", "--k", 1, "--eval-prompts", 2, "--device", "cpu")
    assert code == 0, output
    assert "perplexity" in output


def test_an_embedded_policy_with_other_tokens_is_no_reference(detox: tuple[object, ...]) -> None:
    code, output = run("evaluate", *detox[:7], "--k", 1, "--eval-prompts", 1, "--device", "cpu", "--max-new-tokens", 4)
    assert code == 0, output
    assert "perplexity" not in output


def test_a_reference_with_other_tokens_is_an_error(detox: tuple[object, ...], tmp_path: Path) -> None:
    other = worlds.saved(worlds.llama(400), tmp_path / "other", worlds.tokenizers()["byte_level_bpe"])
    code, output = run("evaluate", *detox[:7], "--k", 2, "--device", "cpu", "--reference", other)
    assert code == 2
    assert "has another vocabulary than the policy" in output


def test_a_policy_without_a_tokenizer_needs_one_named(detox: tuple[object, ...], tmp_path: Path) -> None:
    bare = worlds.saved(worlds.llama(), tmp_path / "bare", tokenizer=None)
    command = ("evaluate", *detox[:2], bare, *detox[3:7], "--k", 1, "--device", "cpu", "--max-new-tokens", 4)
    code, output = run(*command)
    assert code == 2
    assert "holds no tokenizer" in output
    code, output = run(*command, "--tokenizer", detox[2])
    assert code == 0, output


def test_a_run_goes_on_where_it_stopped_with_its_own_settings(detox: tuple[object, ...], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run("train", *detox, *SMALL, "--total-timesteps", 20, "--out", parts)[0] == 0
    first = json.loads((parts / "agent" / "agent.json").read_text())["counters"]["num_timesteps"]
    code, output = run("train", "textenv/Detox-v0", "--resume", parts, *SMALL, "--total-timesteps", 60)
    assert code == 0, output
    counters = json.loads((parts / "agent" / "agent.json").read_text())["counters"]
    assert first < 60 <= counters["num_timesteps"]
    assert run("train", *detox, *SMALL, "--total-timesteps", 60, "--out", whole)[0] == 0
    metrics = [json.loads((path / "metrics.json").read_text()) for path in (whole, parts)]
    assert metrics[0]["before"] == metrics[1]["before"]
    assert json.loads((whole / "agent" / "agent.json").read_text())["counters"] == counters


@pytest.fixture
def count(llama_directory: Path) -> tuple[object, ...]:
    """A command line that takes a second."""
    return ("textenv/CountLetter-v0", "--policy", llama_directory, "--max-new-tokens", 6, *SMALL, "--k", 1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--policy", "textenv/tiny"), "--policy textenv/tiny"),
        (("--seed", 4), "--seed 4"),
        (("--policy", "textenv/tiny", "--seed", 0), "--policy textenv/tiny and --seed 0"),
    ],
)
def test_what_a_resumed_run_cannot_honour_is_refused(
    count: tuple[object, ...], tmp_path: Path, options: tuple[object, ...], named: str
) -> None:
    run("train", *count, "--seed", 3, "--total-timesteps", 20, "--out", tmp_path)
    before = (tmp_path / "settings.json").read_text()
    code, output = run("train", count[0], "--resume", tmp_path, *SMALL, "--total-timesteps", 60, *options)
    assert code == 2
    assert f"error: {named} cannot be had with --resume: the run in {tmp_path} goes on with its own" in output
    assert (tmp_path / "settings.json").read_text() == before


def test_a_command_line_may_be_given_again_with_resume(count: tuple[object, ...], tmp_path: Path) -> None:
    metrics = []
    for steps, more in ((20, ()), (60, ("--resume", tmp_path))):
        code, output = run("train", *count, "--seed", 3, "--total-timesteps", steps, "--out", tmp_path, *more)
        assert code == 0, output
        metrics.append(json.loads((tmp_path / "metrics.json").read_text())["before"])
    assert metrics[0] == metrics[1], "measured with the seed of the run"


def test_a_resumed_run_takes_the_price_of_the_reference_that_it_is_given(count: tuple[object, ...], tmp_path: Path) -> None:
    run("train", *count, "--kl-coef", 0.1, "--total-timesteps", 20, "--out", tmp_path)
    code, output = run("train", count[0], "--resume", tmp_path, *SMALL, "--k", 1, "--total-timesteps", 40, "--kl-coef", 0.3)
    assert code == 0, output
    assert json.loads((tmp_path / "agent" / "agent.json").read_text())["kl_coef"] == 0.3


def test_a_failure_leaves_the_last_checkpoint_whole(
    detox: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = TokenPPO.train, []

    def fails_at_last(agent: TokenPPO, batch: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise FloatingPointError("the loss became nan")
        train(agent, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenPPO, "train", fails_at_last)
    out = tmp_path / "run"
    code, output = run("train", *detox, *SMALL, "--total-timesteps", 200, "--out", out, "--save-every", 1)
    assert code == 2
    assert "error: the loss became nan" in output
    AutoModelForCausalLM.from_pretrained(out / "agent")
    monkeypatch.undo()
    assert run("train", "textenv/Detox-v0", "--resume", out, *SMALL, "--total-timesteps", 100)[0] == 0


def test_a_run_that_failed_before_its_first_save_may_be_given_again(
    count: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FloatingPointError("the loss became nan")

    command = ("train", *count, "--total-timesteps", 20, "--out", tmp_path / "run")
    for more in ((), ("--overwrite",)):
        monkeypatch.setattr(TokenPPO, "learn", fails)
        assert "the loss became nan" in run(*command, *more)[1]
        monkeypatch.undo()
        code, output = run(*command)
        assert code == 0, output


def test_a_run_that_saves_nothing_says_so_at_its_beginning(count: tuple[object, ...], tmp_path: Path) -> None:
    for out in ((), ("--out", tmp_path / "run")):
        code, output = run("train", *count, "--total-timesteps", 20, *out)
        assert code == 0, output
        assert output.startswith("nothing will be saved: no --out\n") == (not out)


def test_a_critic_that_is_not_there_is_one_line(detox: tuple[object, ...], tmp_path: Path) -> None:
    nowhere = ("--critic", "http://127.0.0.1:9/v1", "--critic-option", "on_error=raise", "--critic-option", "retries=0")
    code, output = run("train", *detox, *SMALL, "--total-timesteps", 20, "--out", tmp_path / "run", *nowhere)
    assert code == 2, output
    assert "\nerror: critic http://127.0.0.1:9/v1" in output


def test_the_directory_of_a_run_stands_for_its_agent(count: tuple[object, ...], tmp_path: Path) -> None:
    assert run("train", *count, "--total-timesteps", 20, "--out", tmp_path / "run")[0] == 0
    found = []
    for name in (tmp_path / "run", tmp_path / "run" / "agent"):
        code, output = run("evaluate", count[0], "--policy", name, *count[3:5], "--k", 1, "--out", tmp_path / "metrics.json")
        assert code == 0, output
        found.append(json.loads((tmp_path / "metrics.json").read_text()))
    assert found[0] == found[1]


@pytest.mark.filterwarnings("default:the scores lie beyond")
def test_a_score_that_is_no_toxicity_is_reported_as_a_score(detox: tuple[object, ...]) -> None:
    with_judge = (*detox[:3], *detox[5:7], *detox[-4:], "--k", 1, "--eval-prompts", 1, "--device", "cpu")
    for option in ("--scorer", "--judge"):
        code, output = run("evaluate", *with_judge, option, "tests.cli.test_train:logits")
        assert code == 0, output
        assert output.count("warning: the scores lie beyond [0, 1], so they are no 1 - toxicity") == 1
        assert "mean_score" in output


def logits(episodes: list[Any]) -> list[float]:
    return [-3.5 for _ in episodes]


def test_count_letter_learns_with_a_policy_of_ones_own(llama_directory: Path, tmp_path: Path) -> None:
    code, output = run("train", "textenv/CountLetter-v0", "--policy", llama_directory, *SMALL, "--total-timesteps", 20, "--k", 1)
    assert code == 0, output
    assert "mean_score" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("textenv/Nothing-v0",), "unknown environment 'textenv/Nothing-v0'; one of textenv/CountLetter-v0"),
        (("textenv/CountLetter-v0",), "textenv/CountLetter-v0 has no policy of its own; name one: --policy DIR"),
        (("--reward", "dense"), "unknown reward 'dense'"),
        (("--payment", "later"), "payment must be"),
        (("--total-timesteps", 0), "should be positive, got 0"),
        (("--eval-prompts", 3), "--eval-prompts 3: there are 2 held-out prompts"),
        (("--k", 0), "--k 0: at least one text"),
        (("--column", "text=prompt.txt"), "no column 'prompt.txt'; the columns that exist: 'prompt.text'"),
        (("--prompts", "missing.jsonl"), "no such file: 'missing.jsonl'"),
        (("--judge", "./nowhere"), "./nowhere"),
        (("--critic", "lexicon:./nowhere.txt"), "nowhere.txt"),
        (("--max-new-tokens", 500), "the model has 128"),
        (("--resume", "nowhere"), "nowhere holds no run to resume"),
        (("--seed", -1), "Invalid value for '--seed'"),
    ],
)
def test_bad_input_is_an_error_before_any_training(
    detox: tuple[object, ...], tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    command = arguments if str(arguments[0]).startswith("textenv/") else (*detox, *SMALL, *arguments)
    code, output = run("train", *command, "--out", tmp_path / "run")
    assert code == 2, output
    assert message in output
    assert "before" not in output
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_environment_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"env_id": "textenv/Sentiment-v0", "environment": {}}')
    code, output = run("train", "textenv/Detox-v0", "--resume", tmp_path)
    assert code == 2
    assert "is a run of textenv/Sentiment-v0, not of textenv/Detox-v0" in output
    (tmp_path / "settings.json").write_text("{")
    assert "is not what textenv train wrote" in run("train", "textenv/Detox-v0", "--resume", tmp_path)[1]


def test_list_shows_every_environment_and_reward() -> None:
    code, output = run("list")
    assert code == 0
    for name in (*textenv.ENVIRONMENTS, *textenv.REWARDS):
        assert name in output
