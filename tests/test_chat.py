"""Prompts in a tokenizer's chat template: whole, cut in the user's text alone, and loud where the template cannot."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import worlds
from tests.cli.test_console import run
from tests.worlds import make
from textenv.agents import BehaviourCloning, LMPolicy, TokenPPO, rollout
from textenv.chat import ChatTemplate
from textenv.episode import Prompt
from textenv.tokenization import byte_tokenizer

PLAIN = (
    "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}a: {% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
DEAF = PLAIN.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
MUTE = "{% if add_generation_prompt %}a: {% endif %}"
OTHER_END = PLAIN.replace("{{ eos_token }}", "<end_of_turn>\n")


def tokenizer(template: str | None = PLAIN, **options: Any) -> Any:
    """Bytes, with a chat template."""
    made = byte_tokenizer()
    made.chat_template = template
    for name, value in options.items():
        setattr(made, name, value)
    return made


def read(env: Any, prompt: str) -> str:
    """What the policy sees of a prompt."""
    tokens = env.get_wrapper_attr("prompt_tokens")(Prompt(prompt))
    return str(env.get_wrapper_attr("tokenizer").decode(tokens.tolist()))


def test_the_policy_sees_the_rendered_template() -> None:
    env = make(tokenizer=tokenizer(), chat=True, system="Be brief.", max_prompt_tokens=64)
    assert read(env, "Why?") == "s: Be brief.</s>u: Why?</s>a: "
    assert read(make(tokenizer=tokenizer(), chat=True), "Why?") == "u: Why?</s>a: "


@pytest.mark.parametrize("parsed", [False, True])
def test_special_tokens_of_the_template_are_one_id_and_those_of_other_texts_stay_as_the_tokenizer_has_them(parsed: bool) -> None:
    made = tokenizer(split_special_tokens=not parsed)
    env = make(tokenizer=made, chat=True, max_prompt_tokens=64)
    assert list(env.get_wrapper_attr("prompt_tokens")(Prompt("x"))) == [*b"u: x", made.eos_token_id, *b"a: "]
    assert made("</s>")["input_ids"] == ([made.eos_token_id] if parsed else [*b"</s>"])


def test_a_tokenizer_that_closes_texts_does_not_close_a_template() -> None:
    made = worlds.closing("<s> $A </s>")
    made.chat_template = PLAIN
    env = make(tokenizer=made, chat=True)
    assert read(env, "x") == "u: x</s>a: "
    assert env.get_wrapper_attr("action_rule").prompt_end == ()


def test_the_task_writes_the_users_message(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(tokenizer=tokenizer(), chat=True)
    task = env.get_wrapper_attr("task")
    monkeypatch.setattr(type(task), "prompt_text", lambda self, prompt: f"<{prompt.text}>")
    assert read(env, "x") == "u: <x></s>a: "


# --- Long prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("limit", range(24, 34))
def test_a_long_prompt_loses_the_left_end_of_the_users_text_and_fills_what_is_left(limit: int, system: str | None) -> None:
    text = "0123456789" * 5
    env = make(tokenizer=tokenizer(), chat=True, system=system, max_prompt_tokens=limit)
    with pytest.warns(UserWarning, match="left end is cut"):
        seen = read(env, text)
    head = "" if system is None else f"s: {system}</s>"
    kept = seen.removeprefix(f"{head}u: ").removesuffix("</s>a: ")
    assert seen == f"{head}u: {kept}</s>a: "
    assert text.endswith(kept)
    assert len(env.get_wrapper_attr("prompt_tokens")(Prompt(text))) == limit


def test_a_character_of_several_tokens_is_not_cut_in_two() -> None:
    assert tokenizer().decode(ChatTemplate(tokenizer()).shortened("ééé", 10)) == "u: é</s>a: "


def test_a_template_longer_than_the_budget_is_named() -> None:
    with pytest.raises(ValueError, match=r"alone takes 51 tokens of max_prompt_tokens=51; raise it"):
        make(tokenizer=tokenizer(), chat=True, system="x" * 40, max_prompt_tokens=51)
    assert read(make(tokenizer=tokenizer(), chat=True, system="x" * 40, max_prompt_tokens=52), "y").endswith("u: y</s>a: ")


def test_a_long_prompt_can_be_an_error() -> None:
    options = {"tokenizer": tokenizer(), "chat": True, "on_long_prompt": "error"}
    make(prompts=["x" * 9], **options)
    with pytest.raises(ValueError, match="prompt of 17 tokens exceeds max_prompt_tokens=16"):
        make(prompts=["x" * 10], **options)


# --- What cannot be rendered -------------------------------------------------------------------------------------------


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"no chat template; .*set tokenizer\.chat_template, or leave chat=False"):
        make(chat=True)


def test_a_system_message_without_a_chat_is_refused() -> None:
    with pytest.raises(ValueError, match=r"system='Be brief\.' .*pass chat=True"):
        make(tokenizer=tokenizer(), system="Be brief.")


def test_a_template_that_refuses_a_system_message_is_named() -> None:
    make(tokenizer=tokenizer(NO_SYSTEM), chat=True)
    with pytest.raises(ValueError, match="System role not supported; leave out system="):
        make(tokenizer=tokenizer(NO_SYSTEM), chat=True, system="Be brief.")


@pytest.mark.parametrize(("template", "what"), [(DEAF, r"system='Be brief\.'"), (MUTE, "the user's text")])
def test_a_template_that_leaves_something_out_is_no_silent_loss(template: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"leaves out {what}"):
        make(tokenizer=tokenizer(template), chat=True, system="Be brief.")


def test_a_template_that_ends_answers_otherwise_than_the_tokenizer_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"ends an answer with '<end_of_turn>\\n', but a text ends with EOS, '</s>'"):
        make(tokenizer=tokenizer(OTHER_END), chat=True, max_prompt_tokens=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(tokenizer=tokenizer(), chat=True)


# --- Agents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_agents_train_on_chats_and_clone_them(model: str) -> None:
    env = make(tokenizer=tokenizer(), chat=True, system="s", prompts=["x"], max_prompt_tokens=32, max_new_tokens=4)
    policy = LMPolicy(getattr(worlds, model)())
    TokenPPO(policy, env, n_episodes=4, batch_size=4, seed=0).learn(10)
    (episode,) = rollout(env, policy, 1)
    assert worlds.BYTES.decode(episode.prompt_tokens.tolist()) == "s: s</s>u: x</s>a: "
    if model == "llama":
        data = make(tokenizer=tokenizer(), chat=True, prompts=[Prompt("x", references=("yes",))])
        (example,) = BehaviourCloning(policy, data).examples
        assert [worlds.BYTES.decode(ids.tolist()) for ids in example] == ["u: x</s>a: ", "yes</s>"]


def test_stepping_sees_the_same_prompt() -> None:
    env = make(tokenizer=tokenizer(), chat=True, max_prompt_tokens=16, max_new_tokens=4)
    observation, _ = env.reset(options={"prompt": "x"})
    assert np.array_equal(observation[observation >= 0], env.get_wrapper_attr("prompt_tokens")(Prompt("x")))


def test_the_command_line_trains_and_measures_in_chats(tmp_path: Path) -> None:
    chat = worlds.saved(worlds.llama(), tmp_path / "chat", tokenizer())
    plain = worlds.saved(worlds.llama(), tmp_path / "plain")
    common = ("--prompts", tmp_path / "prompts.txt", "--max-prompt-tokens", 40, "--max-new-tokens", 4, "--k", 1, "--device", "cpu")
    (tmp_path / "prompts.txt").write_text("".join(f"number {i}\n" for i in range(16)))
    small = ("--n-episodes", 4, "--batch-size", 4, "--n-epochs", 1, "--total-timesteps", 10)
    asked = ("textenv/CountLetter-v0", *common, "--chat", "--system", "Count.")
    code, output = run("train", *asked, "--policy", chat, *small, "--out", tmp_path / "run")
    assert code == 0, output
    saved = json.loads((tmp_path / "run" / "settings.json").read_text())["environment"]
    assert (saved["chat"], saved["system"]) == (True, "Count.")
    code, output = run("evaluate", *asked, "--policy", tmp_path / "run" / "agent")
    assert code == 0, output
    code, output = run("evaluate", *asked, "--policy", plain)
    assert code != 0
    assert "no chat template" in output
