"""T-REG's token reward as credit: its identities (treg 7, by number), its requests, and what it shows of a text."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests import worlds
from tests.worlds import BYTES, EOS, credited, ids, make, walk
from textenv.agents import LMPolicy
from textenv.episode import Prompt
from textenv.reward import NotApplicable
from textenv.wrappers import ContrastiveReward

TEXTS = [ids("some text", end=True), ids("b", end=True), [EOS], ids("sixteen letters!")]
HEADERS = ("Better: {prompt}", "Worse: {prompt}")
SHOWN = ("Make {text} better:", "Make {text} worse:")
MODELS = {"llama": worlds.llama, "gpt2": worlds.gpt2, "t5": worlds.t5}
kinds = pytest.mark.parametrize("kind", MODELS)


def contrast(kind: str = "llama", *, prompts: Any = HEADERS, model: Any = None, **options: Any) -> Any:
    model = MODELS[kind]() if model is None else model
    return make(reward=lambda env: ContrastiveReward(env, model, prompts=prompts, **options), payment="end",
                scorer=worlds.constant_scorer(0.0))  # fmt: skip


def log_probs(model: Any, request: str, tokens: list[int]) -> Any:
    policy = LMPolicy(model, tokenizer=BYTES, device="cpu")
    rule = make().get_wrapper_attr("action_rule")
    return policy.evaluate([np.array(ids(request))], [np.array(tokens)], rule).log_probs.detach().numpy()


@kinds
@pytest.mark.parametrize("tokens", TEXTS)
def test_it_is_the_share_of_the_better_probability_less_a_half(kind: str, tokens: list[int]) -> None:  # 5
    b, w = (np.exp(log_probs(MODELS[kind](), f"{side}: p: ", tokens)) for side in ("Better", "Worse"))
    expected = np.where(np.array(tokens) == EOS, 0.0, b / (b + w) - 0.5)
    found = credited(contrast(kind), tokens).rewards
    assert found == pytest.approx(expected, abs=1e-5)
    assert found.any() == (tokens != [EOS])


@kinds
@pytest.mark.parametrize("prompts", [HEADERS, SHOWN])
def test_swapping_the_requests_turns_every_reward_around(kind: str, prompts: tuple[str, str]) -> None:  # 4
    for tokens in TEXTS:
        found = credited(contrast(kind, prompts=prompts), tokens).rewards
        assert credited(contrast(kind, prompts=prompts[::-1]), tokens).rewards.tolist() == (-found).tolist()


@kinds
def test_equal_requests_pay_nothing(kind: str) -> None:  # 4
    for tokens in TEXTS:
        assert not credited(contrast(kind, prompts=(SHOWN[0], SHOWN[0])), tokens).rewards.any()


@pytest.mark.parametrize("ratio", [1e4, 30.0, 1.0, 0.0])
def test_it_is_bounded_and_grows_with_the_ratio(ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:  # 5
    sides = iter([np.full(3, ratio), np.zeros(3)])
    monkeypatch.setattr("textenv.wrappers.contrastive.token_log_probs", lambda *a, **k: [next(sides)])
    found = credited(contrast(), ids("abc")).rewards
    assert found == pytest.approx(0.5 * np.tanh(ratio / 2))
    assert (abs(found) <= 0.5).all()
    assert np.isfinite(found).all()


def test_no_gradient_reaches_the_model_and_asking_twice_gives_the_same() -> None:  # 12
    model = worlds.llama()
    env = contrast(model=model)
    assert credited(env, TEXTS[0]).rewards.tobytes() == credited(env, TEXTS[0]).rewards.tobytes()
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())


@kinds
@pytest.mark.parametrize("prompts", [HEADERS, SHOWN])
def test_a_batch_is_credited_as_its_texts_one_by_one(kind: str, prompts: Any) -> None:  # 11, 13
    env = contrast(kind, prompts=prompts)
    episodes = [env.get_wrapper_attr("episode")(Prompt("p: "), tokens) for tokens in TEXTS]
    for together, tokens in zip(env.get_wrapper_attr("credit")(episodes), TEXTS, strict=True):
        assert together.rewards == pytest.approx(credited(env, tokens).rewards, abs=1e-6)


@kinds
@pytest.mark.parametrize("prompts", [HEADERS, SHOWN])
def test_stepping_delivers_the_credit_of_the_batch_bit_for_bit(kind: str, prompts: Any) -> None:
    model = MODELS[kind]()
    env = make(reward=lambda env: ContrastiveReward(env, model, prompts=prompts), prompts=["p: "])
    for tokens in TEXTS:
        paid, stepped = walk(env, tokens)
        assert stepped is not None
        assert stepped.rewards.tobytes() == credited(env, tokens).rewards.tobytes()
        assert sum(paid) == pytest.approx(stepped.rewards.sum(), abs=1e-9)


def test_requests_that_do_not_show_the_text_are_causal_and_others_are_not() -> None:
    env = contrast()
    assert env.get_wrapper_attr("causal")
    whole = credited(env, TEXTS[0]).rewards
    for t in range(1, len(TEXTS[0])):
        assert credited(env, TEXTS[0][:t]).rewards == pytest.approx(whole[:t], abs=1e-6)
    assert not contrast(prompts=SHOWN).get_wrapper_attr("causal")
    assert not contrast(prompts=(HEADERS[0], lambda prompt, text: "")).get_wrapper_attr("causal")


def test_the_scale_multiplies_and_other_credit_stays() -> None:
    model = worlds.llama()
    plain, scaled = (credited(contrast(model=model, scale=scale), TEXTS[0]).rewards for scale in (1.0, 3.0))
    assert scaled == pytest.approx(3 * plain)
    env = make(reward=[("critic_span", {"positive": 0.3}), lambda env: ContrastiveReward(env, model, prompts=HEADERS)],
               payment="end", scorer=worlds.constant_scorer(0.5))  # fmt: skip
    inside = credited(make(reward=("critic_span", {"positive": 0.3}), scorer=worlds.constant_scorer(0.5)), ids("banana", end=True))
    with_contrast = credited(env, ids("banana", end=True)).rewards - inside.rewards
    assert with_contrast == pytest.approx(credited(contrast(model=model), ids("banana", end=True)).rewards)


def test_the_log_says_how_far_the_requests_differ() -> None:
    env = contrast()
    found = credited(env, TEXTS[0]).rewards
    assert env.get_wrapper_attr("credit_metrics")()["credit/contrast"] == pytest.approx(abs(found).mean())
    assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}


# --- Requests ----------------------------------------------------------------------------------------------------------


def asked(env: Any, tokens: list[int], prompt: Any = "p: ", side: int = 0) -> str:
    episode = env.get_wrapper_attr("episode")(Prompt(prompt) if isinstance(prompt, str) else prompt, tokens)
    wrapper = env
    while not isinstance(wrapper, ContrastiveReward):
        wrapper = wrapper.env
    return str(worlds.BYTES.decode(wrapper._ids(side, episode)))


def test_a_template_is_filled_with_what_the_policy_reads() -> None:
    env = contrast(prompts=("{context}|{prompt}|{text}|", "w"))
    assert asked(env, ids(" some {text}"), Prompt("p: {x}", context=("one", "two"))) == "one\ntwo|p: {x}|some {text}|"


def test_a_callable_writes_the_request_itself() -> None:
    env = contrast(prompts=(lambda prompt, text: f"{prompt.text}<{text}>", "w"))
    assert asked(env, ids("abc")) == "p: <abc>"


def test_a_revision_shows_the_answer_and_begins_the_better_one() -> None:
    model = worlds.llama(max_position_embeddings=2048)
    env = contrast(model=model, prompts="revision")
    better, worse = (asked(env, ids(" an answer"), side=side) for side in (0, 1))
    for text, direction, other in ((better, "better", "worse"), (worse, "worse", "better")):
        assert "[request]\np: \n[end of request]\n\n[answer]\nan answer\n[end of answer]" in text
        assert f"so that it becomes {direction}." in text
        assert text.endswith(f".\n[{direction} answer]\n")
        assert f"[{other} answer]" not in text
        assert "{" not in text
    assert not asked(contrast(model=model, prompts="revision", prefill=False), ids("x")).endswith("answer]\n")
    assert credited(env, TEXTS[0]).rewards[:-1].any()


def test_a_policy_that_closes_the_quotation_is_shown_without_the_marker() -> None:
    env = contrast(model=worlds.llama(max_position_embeddings=2048), prompts="revision")
    shown = asked(env, ids("x[End of answer]")).partition("[answer]\n")[2]
    assert shown.startswith("x\n[end of answer]")


def test_a_revision_is_asked_through_the_chat_template() -> None:
    chat = copy.deepcopy(BYTES)
    chat.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    model = worlds.llama(max_position_embeddings=2048)
    text = asked(make(reward=lambda env: ContrastiveReward(env, model, prompts="revision"), tokenizer=chat), ids("an answer"))
    assert text.startswith("<user>Below are")
    begun = "Aspects: rewrite the original to be helpful, correct, coherent, concise.\n[better answer]\n"
    assert text.endswith(f"[end of better answer].<bot>{begun}")


def test_a_request_that_does_not_fit_is_an_error_not_a_cut() -> None:
    with pytest.raises(ValueError, match="positions; the model has 128"):
        credited(contrast(prompts=("{prompt}" + "x" * 120, "w")), ids("abcdef", end=True))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("better", 'prompts must be "headers", "revision" or a pair'),
        (("one",), "a pair"),
        (("{question}", "w"), r"'question'; its fields are \{prompt\}, \{context\} and \{text\}"),
        (("a", 5), "a pair"),
    ],
)
def test_requests_that_cannot_be_made_are_refused(prompts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrast(prompts=prompts)


def test_a_scale_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must be finite"):
        contrast(scale=float("inf"))


# --- Defaults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["textenv/Detox-v0", "textenv/Sentiment-v0"])
def test_by_name_the_policys_own_base_model_is_asked_by_its_headers(environment: str) -> None:
    env = gym.make(environment, reward="contrastive", payment="end")
    assert env.get_wrapper_attr("prompts") == HEADERS
    assert env.get_wrapper_attr("causal")
    tokens = env.get_wrapper_attr("tokenizer")(" You are right.", add_special_tokens=False)["input_ids"]
    episode = credited(env, tokens, "I read your note about the soup.")
    assert episode.rewards.any()
    assert (abs(episode.rewards) < 0.5).all()


def test_a_tokenizer_that_came_with_its_model_names_it(llama_directory: Any) -> None:
    env = make(tokenizer=str(llama_directory), reward=("contrastive", {"prompts": HEADERS}), payment="end")
    tokens = ids("ab", end=True)
    found = credited(env, tokens).rewards - credited(make(tokenizer=str(llama_directory)), tokens).rewards
    assert found == pytest.approx(credited(contrast(model=worlds.llama()), tokens).rewards, abs=1e-6)
    assert make(tokenizer=str(llama_directory), reward="contrastive").get_wrapper_attr("prompts")[0].startswith("Below are")


def test_a_tokenizer_without_a_model_needs_one_named(tmp_path: Any) -> None:
    with pytest.raises(NotApplicable, match="came with no language model; pass model="):
        make(reward="contrastive")
    BYTES.save_pretrained(tmp_path)
    with pytest.raises(NotApplicable, match="came with no language model"):
        make(reward="contrastive", tokenizer=str(tmp_path))


def test_headers_are_for_tasks_that_have_them() -> None:
    with pytest.raises(NotApplicable, match=r"no embedded model was taught headers for CountLetter; pass prompts="):
        contrast(prompts="headers")
