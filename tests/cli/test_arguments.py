"""Arguments of rewards, tasks and critics on the command line, and that a resumed run keeps them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_console import run
from tests.cli.test_credit import SMALL as FEW
from tests.cli.test_credit import table
from tests.cli.test_train import SMALL
from tests.critics.fake_server import FakeServer
from tests.worlds import credited, ids
from textenv.cli.arguments import asked_critic, critic_options, parsed_reward, parsed_rewards, task_settings
from textenv.critics import ServerCritic
from textenv.metrics.rouge import Rouge

TRAIN = importlib.import_module("textenv.cli.train")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The environments that the command line has made: (to learn, held out)."""
    make, kept = TRAIN.make_environments, []

    def watched(*arguments: Any) -> Any:
        kept.append(make(*arguments))
        return kept[-1]

    monkeypatch.setattr(TRAIN, "make_environments", watched)
    return kept


def count_letter(llama_directory: Path, *more: object) -> tuple[object, ...]:
    return ("train", "textenv/CountLetter-v0", "--policy", llama_directory, *SMALL, "--k", 1, "--max-new-tokens", 6, *more)


# --- What is written there ---------------------------------------------------------------------------------------------


def test_a_reward_may_have_its_arguments_behind_its_name() -> None:
    assert parsed_rewards(['redistributed:{"mix": 0.8, "prompt_term": "keep"}', "my_rewards:Shouts", "length_penalty"]) == [
        ("redistributed", {"mix": 0.8, "prompt_term": "keep"}), "my_rewards:Shouts", "length_penalty",
    ]  # fmt: skip
    assert parsed_reward('my_rewards:Shouts:{"words": {"a": 1}}') == ("my_rewards:Shouts", {"words": {"a": 1}})
    assert parsed_rewards("uniform") == "uniform"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("redistributed:mix=0.8", r"arguments are a JSON object, redistributed:\{\"name\": value\}"),
        ("my_rewards:Shouts:2", "arguments are a JSON object"),
        ("redistributed:{mix: 0.8}", r"no JSON behind the name \(.*\); write redistributed:"),
        ('redistributed:{"mix": 0.8} x', "no JSON behind the name"),
    ],
)
def test_arguments_of_a_reward_that_cannot_be_read_are_refused(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed_reward(option)


def test_a_setting_is_json_where_it_can_be_read_and_else_a_string() -> None:
    given = ["target=negative", "with_prompt=true", "label=1"]
    assert task_settings("textenv/Sentiment-v0", given) == {"target": "negative", "with_prompt": True, "label": 1}
    assert task_settings("textenv/CountLetter-v0", ['letter="1"']) == {"letter": "1"}
    assert task_settings("textenv/Nothing-v0", None) == {}


@pytest.mark.parametrize(
    ("env_id", "option", "message"),
    [
        (
            "textenv/Sentiment-v0",
            "targt=negative",
            "--set targt=...: there is no such argument; textenv/Sentiment-v0's own: target,",
        ),
        ("textenv/Detox-v0", "target=negative", "textenv/Detox-v0's own: none"),
        ("textenv/Sentiment-v0", "split=all", "--set split=...: there is no such argument"),
        ("textenv/Sentiment-v0", "target", "--set 'target' should be NAME=VALUE, e.g. --set score=rouge1"),
        ("textenv/Nothing-v0", "target=negative", "unknown environment 'textenv/Nothing-v0'"),
    ],
)
def test_a_setting_that_the_task_does_not_have_is_refused(env_id: str, option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_settings(env_id, [option])


def test_options_of_a_critic_are_those_of_a_server_and_of_its_patience(tmp_path: Path) -> None:
    given = [
        "on_error=retry_forever",
        "max_calls=9",
        f"cache={tmp_path / 'answers.sqlite'}",
        "timeout=2.5",
        "retries=3",
        "chat=false",
    ]
    critic = asked_critic("http://127.0.0.1:9/v1#m", critic_options(given))
    assert isinstance(critic, ServerCritic)
    assert (critic.on_error, critic.chat, critic.model) == ("retry_forever", False, "m")
    assert (critic.patience.timeout, critic.patience.retries, critic.patience.backoff) == (2.5, 3, 0.5)
    assert critic.cache is not None
    assert asked_critic("http://127.0.0.1:9/v1", {"concurrency": 2}).on_error == "skip", "as by the URL alone"
    assert asked_critic("lexicon:words.txt", {}) == "lexicon:words.txt"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("on_eror=skip", "there is no such argument; a server's critic has: model, chat, on_error, .*cache.*timeout"),
        ("on_error=wait", "on_error must be one of"),
        ("timeout=soon", "--critic-option timeout='soon' should be a number"),
        ("max_calls=true", "--critic-option max_calls=True should be a number"),
        ("chat=no", "--critic-option chat='no' should be true or false"),
        ("api_key=abc", "set OPENAI_API_KEY"),
        ("form=x", "there is no such argument"),
    ],
)
def test_an_option_that_a_critic_does_not_have_is_refused(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked_critic("http://127.0.0.1:9/v1", critic_options([option]))


@pytest.mark.parametrize("critic", [None, "lexicon:words.txt", "models/lm"])
def test_options_are_of_a_critic_behind_a_server(critic: str | None) -> None:
    with pytest.raises(ValueError, match="--critic-option is for a critic behind a server"):
        asked_critic(critic, {"max_calls": 3})


# --- What becomes of it ------------------------------------------------------------------------------------------------


def test_a_run_has_the_arguments_and_a_resumed_one_keeps_them(llama_directory: Path, tmp_path: Path, made: list[Any]) -> None:
    out = tmp_path / "run"
    rewards = ("--reward", 'redistributed:{"mix": 0.5}', "--reward", 'length_penalty:{"buffer": 2}')
    command = count_letter(llama_directory, "--set", "letter=b", *rewards, "--total-timesteps", 20, "--out", out)
    code, output = run(*command)
    assert code == 0, output
    code, output = run("train", "textenv/CountLetter-v0", "--resume", out, *SMALL, "--k", 1, "--total-timesteps", 60)
    assert code == 0, output
    for env, held_out in made:
        assert (env.get_wrapper_attr("mix"), env.get_wrapper_attr("buffer"), env.get_wrapper_attr("task").letter) == (0.5, 2, "b")
        assert held_out.get_wrapper_attr("task").letter == "b"
    assert len(made) == 2


def test_a_critic_behind_a_server_is_asked_as_the_options_say(llama_directory: Path, tmp_path: Path, made: list[Any]) -> None:
    out, cache = tmp_path / "run", tmp_path / "answers.sqlite"
    with FakeServer(faults=["503", "429"]) as server:
        options = ("on_error=retry_forever", "backoff=0.01", "timeout=5", f"cache={cache}")
        asked = ("--critic", f"{server.url}#m", *(part for option in options for part in ("--critic-option", option)))
        command = count_letter(llama_directory, "--reward", "critic_span", "--payment", "end", *asked, "--out", out)
        code, output = run(*command, "--total-timesteps", 20)
        assert code == 0, output
        assert len(server.requests) > 2
        more = ("--critic-option", "retries=2", "--total-timesteps", 40, *SMALL, "--k", 1)
        code, output = run("train", "textenv/CountLetter-v0", "--resume", out, *more)
        assert code == 0, output
    critics = [env.get_wrapper_attr("critic") for env, _ in made]
    assert [(c.on_error, c.patience.timeout, c.patience.retries) for c in critics] == [
        ("retry_forever", 5, 5), ("retry_forever", 5, 2),
    ]  # fmt: skip
    assert cache.is_file()


def test_a_critic_with_options_is_asked_in_the_form_of_the_reward() -> None:
    with FakeServer(lambda question: "0, -1, 0.5") as server:
        asked = {"critic": f"{server.url}#m", "critic_options": {"retries": 1}, "reward": ["critic_token"], "payment": "end"}
        env, _ = TRAIN.make_environments("textenv/CountLetter-v0", asked)
        credited(env, ids("a sad joy", end=True))
        assert "\n1: a\n2: sad\n3: joy\nNumbers:" in server.requests[0]["messages"][0]["content"]


def test_a_run_that_goes_on_with_another_critic_leaves_the_options_of_the_first() -> None:
    saved = {"critic": "http://127.0.0.1:9/v1", "critic_options": {"max_calls": 3}, "letter": "b"}
    assert TRAIN._continued(saved, {"critic": "lexicon:w.txt"}) == {"critic": "lexicon:w.txt", "letter": "b"}
    assert TRAIN._continued(saved, {"letter": "c"}) == {**saved, "letter": "c"}


def test_a_score_that_is_set_is_that_of_the_held_out_prompts_too() -> None:
    arguments = {"score": "rouge1", "reward": ["sparse"], "tokenizer": "bytes"}
    for env in TRAIN.make_environments("textenv/Summarization-v0", arguments):
        assert isinstance(env.get_wrapper_attr("task").scorer, Rouge)


def test_a_target_that_is_set_is_measured(tmp_path: Path) -> None:
    found = []
    for target in ("positive", "negative"):
        out = tmp_path / f"{target}.json"
        code, output = run(
            "evaluate", "textenv/Sentiment-v0", "--set", f"target={target}", "--k", 2, "--eval-prompts", 3, "--device", "cpu",
            "--out", out,
        )  # fmt: skip
        assert code == 0, output
        found.append(json.loads(out.read_text())["mean_sentiment"]["value"])
    assert sum(found) == pytest.approx(1.0, abs=1e-4)


def test_statistics_of_calibrate_are_an_argument_of_the_hierarchical_reward(
    llama_directory: Path, tmp_path: Path, made: list[Any]
) -> None:
    file, few = tmp_path / "statistics.json", ("--policy", llama_directory, "--device", "cpu", "--max-new-tokens", 6)
    code, output = run(
        "calibrate", "textenv/CountLetter-v0", *few, "--set", "letter=b", "--n", 400, "--aspect", "length", "--out", file
    )
    assert code == 0, output
    numbers = json.loads(file.read_text())
    assert numbers["set"] == {"letter": "b"}
    given = json.dumps({"statistics": str(file), "aspects": "length"})
    code, output = run(
        *count_letter(llama_directory, "--set", "letter=b", "--reward", f"hierarchical:{given}", "--total-timesteps", 20)
    )
    assert code == 0, output
    env = made[-1][0]
    assert (env.get_wrapper_attr("mean"), env.get_wrapper_attr("sd")) == (numbers["mean"], numbers["sd"])
    assert env.get_wrapper_attr("scales") == {"length": numbers["aspects"]["length"]["mean"]}


def test_credit_measures_one_reward_with_several_arguments(tmp_path: Path) -> None:
    names = ("redistributed", 'redistributed:{"mix": 0.5}', 'noise:{"seed": 1}')
    code, output = run("credit", "textenv/Detox-v0", "--rewards", *names, *FEW, "--out", tmp_path / "credit")
    assert code == 0, output
    rows = table(tmp_path / "credit")
    assert [rows[name]["score_at_the_end"] for name in names] == ["none left", "0.5 × taken out", "moved"]


def test_credit_reads_a_scorer_as_it_is_set(tmp_path: Path) -> None:
    settings = ("--set", "target=negative", "--set", "output=logit")
    code, output = run(
        "credit", "textenv/Sentiment-v0", "--rewards", "redistributed", "uniform", *settings, *FEW, "--out", tmp_path / "c"
    )
    assert code == 0, output
    assert set(table(tmp_path / "c")) == {"redistributed", "uniform"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--reward", 'redistributed:{"mx": 1}'),
            "the reward redistributed takes no argument ['mx']; its own are reward_model, mix,",
        ),
        (("--reward", 'redistributed:{"mix": 2}'), "mix must lie in 0..1"),
        (("--reward", "uniform", "--reward", "noise"), "NoiseReward around UniformReward: each moves or replaces the score"),
        (("--reward", "uniform:0.5"), "arguments are a JSON object"),
        (("--set", "lettr=b"), "textenv/CountLetter-v0's own: letter"),
        (("--set", "letter=bb"), "letter must be one character"),
        (("--critic-option", "max_calls=3"), "--critic-option is for a critic behind a server (none is named)"),
    ],
)
def test_bad_arguments_are_an_error_before_any_training(
    llama_directory: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    code, output = run(*count_letter(llama_directory, *arguments, "--out", tmp_path / "run"))
    assert code == 2, output
    assert message in output
    assert not (tmp_path / "run").exists()
