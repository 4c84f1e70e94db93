"""T5, BART and mT5 as policies: what they sample is what they say they sample, and every agent learns with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tests import worlds
from tests.worlds import BYTES, ENCODER_DECODERS, EOS, VOCABULARY, Memory, make
from textenv.agents import BehaviourCloning, LMPolicy, TokenPPO, evaluate, rollout
from textenv.episode import Prompt
from textenv.generation import ActionRule
from textenv.metrics import perplexity
from textenv.models import load_language_model
from textenv.tokenization import prompt_end

RULE = ActionRule(VOCABULARY, EOS, 8)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101], [102, 103])]
TEXTS = [np.array(t) for t in ([1, 2, 3, EOS], [4], [5, 6, 7, 8, 9, 10, 11, 12])]
KINDS = pytest.mark.parametrize("name", ENCODER_DECODERS)
TEMPLATES = pytest.mark.parametrize("template", ["$A", "$A </s>", "<s> $A </s>"])
BATCH: dict[str, Any] = {"n_episodes": 8, "batch_size": 4, "n_epochs": 2, "learning_rate": 1e-3}


def direct(model: Any, prompt: Any, text: Any) -> torch.Tensor:
    """(T, V) logits of one text's tokens, from one plain forward pass."""
    written = torch.tensor([[model.config.decoder_start_token_id, *text[:-1]]])
    return model(input_ids=torch.tensor(prompt)[None], decoder_input_ids=written).logits[0]


def own_loss(model: Any, prompt: list[int], text: list[int]) -> float:
    """The negative log-likelihood of a text as transformers computes it: labels shifted, and the start put in, by the model."""
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([prompt]), labels=torch.tensor([text])).loss) * len(text)


def encoder_reads(policy: LMPolicy) -> list[list[int]]:
    """What its encoder is given from now on, row by row, without padding."""
    seen: list[list[int]] = []

    def note(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        rows = zip(arguments["input_ids"].tolist(), arguments["attention_mask"].tolist(), strict=True)
        seen.extend([token for token, real in zip(*row, strict=True) if real] for row in rows)

    policy.model.get_encoder().register_forward_pre_hook(note, with_kwargs=True)
    return seen


# --- The policy --------------------------------------------------------------------------------------------------------


@KINDS
def test_log_probabilities_are_those_of_the_models_own_forward(name: str) -> None:
    model = ENCODER_DECODERS[name]()
    got = LMPolicy(model).evaluate(PROMPTS, TEXTS, RULE).log_probs
    expected = [
        direct(model, p, t).log_softmax(-1).gather(1, torch.from_numpy(t)[:, None]).squeeze(1)
        for p, t in zip(PROMPTS, TEXTS, strict=True)
    ]
    assert torch.allclose(got, torch.cat(expected), atol=1e-5)


@KINDS
def test_neighbours_and_padding_change_nothing(name: str) -> None:
    policy, uniforms = LMPolicy(ENCODER_DECODERS[name]()), torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    together = policy.evaluate(PROMPTS, TEXTS, RULE).log_probs
    alone = [policy.evaluate([p], [t], RULE).log_probs for p, t in zip(PROMPTS, TEXTS, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    whole = policy.generate(PROMPTS, RULE, uniforms)
    cut = policy.generate(PROMPTS, RULE, uniforms, batch_size=1)
    assert [t.tolist() for t in whole] == [t.tolist() for t in cut]


@KINDS
def test_the_value_is_that_of_the_decoders_last_hidden_state(name: str) -> None:
    model = ENCODER_DECODERS[name]()
    policy = LMPolicy(model)
    torch.nn.init.ones_(policy.value_head.weight)
    read = model.get_encoder()(input_ids=torch.from_numpy(PROMPTS[1])[None])[0]
    written = torch.tensor([[model.config.decoder_start_token_id, 1, 2, 3]])
    hidden = model.get_decoder()(input_ids=written, encoder_hidden_states=read).last_hidden_state[0]
    assert torch.allclose(policy.evaluate(PROMPTS[1:2], TEXTS[:1], RULE).values, hidden.sum(-1), atol=1e-4)


@KINDS
def test_the_likelihood_has_a_gradient_for_every_parameter(name: str) -> None:
    policy = LMPolicy(ENCODER_DECODERS[name]())
    out = policy.evaluate(PROMPTS, TEXTS, RULE, entropy=True)
    (out.log_probs.sum() + out.values.sum() + out.entropy.sum()).backward()
    assert [n for n, p in policy.named_parameters() if p.grad is None] == []


@KINDS
def test_the_head_runs_at_generated_positions_and_one_more(name: str) -> None:
    policy = LMPolicy(ENCODER_DECODERS[name]())
    policy.evaluate(PROMPTS, TEXTS, RULE)  # the first time, the head is checked
    shapes = []
    policy.model.get_output_embeddings().register_forward_hook(lambda _, __, output: shapes.append(output.shape[:-1].numel()))
    policy.evaluate(PROMPTS, TEXTS, RULE)
    assert shapes == [1, sum(map(len, TEXTS))]
    assert not policy.model.get_decoder()._forward_hooks


@KINDS
def test_acting_on_observations_chooses_what_generating_does(name: str) -> None:
    policy, uniforms = LMPolicy(ENCODER_DECODERS[name]()), torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    rule = ActionRule(VOCABULARY, EOS, 8, min_new_tokens=2, prompt_end=(EOS,))
    texts = policy.generate(PROMPTS, rule, uniforms)
    rows = np.full((3, 6 + 8), -1)
    for i, prompt in enumerate(PROMPTS):
        rows[i, 6 - len(prompt) : 6] = prompt
    for t in range(8):  # rows of different steps in one batch: a text that has ended is asked for its last token again
        at = [min(t, len(text) - 1) for text in texts]
        for i, text in enumerate(texts):
            rows[i, 6 : 6 + at[i]] = text[: at[i]]
        numbers = torch.stack([uniforms[i, step] for i, step in enumerate(at)])
        assert policy.act(rows, rule, numbers).tolist() == [int(text[step]) for text, step in zip(texts, at, strict=True)]


def test_rows_at_different_steps_act_in_one_batch() -> None:
    policy = LMPolicy(worlds.bart())
    (text,) = policy.generate(PROMPTS[:1], RULE, None)
    rows = np.full((len(text), 1 + 8), -1)
    rows[:, 0] = PROMPTS[0]
    for t in range(len(text)):
        rows[t, 1 : 1 + t] = text[:t]
    assert policy.act(rows, RULE, None).tolist() == text.tolist()


def test_entropy_and_temperature_are_those_of_the_distribution_that_samples() -> None:
    model, rule = worlds.bart(), ActionRule(200, 10, 8, min_new_tokens=3)
    text = np.array([1, 2, 3, 4])
    out = LMPolicy(model, temperature=0.5).evaluate(PROMPTS[:1], [text], rule, entropy=True)
    logits = rule.restrict(direct(model, PROMPTS[0], text) / 0.5, torch.arange(4))
    expected = torch.distributions.Categorical(logits=logits)
    assert torch.allclose(out.entropy, expected.entropy(), atol=1e-5)
    assert torch.allclose(out.log_probs, expected.log_prob(torch.from_numpy(text)), atol=1e-5)


# --- What the encoder reads --------------------------------------------------------------------------------------------


@TEMPLATES
def test_the_encoder_reads_what_the_tokenizer_writes(template: str) -> None:
    tokenizer = worlds.closing(template)
    env = make(tokenizer=tokenizer, prompts=["a", "hello"], max_new_tokens=4)
    policy = LMPolicy(worlds.t5(), tokenizer)
    policy.evaluate(PROMPTS, TEXTS, RULE)  # the first time, the head is checked
    seen = encoder_reads(policy)
    written = [tokenizer(text)["input_ids"] or [BYTES.bos_token_id] for text in ("a", "hello", "")]
    one = TokenPPO(policy, env, seed=0, **BATCH)
    episodes = rollout(env, policy, 3, prompts=[Prompt("a"), Prompt("hello"), Prompt("")])
    assert seen == written
    one.prepare(episodes)
    assert sorted(seen[3:6]) == sorted(written)
    assert [one.predict(env.reset(options={"prompt": "hello"})[0])[0].shape, seen[-1]] == [(), written[1]]


def test_a_prompt_that_is_cut_ends_as_the_tokenizer_ends_it() -> None:
    env = make(tokenizer=worlds.closing(), prompts=["abcdefgh"], max_prompt_tokens=4, max_new_tokens=4)
    policy = LMPolicy(worlds.t5())
    policy.fit_to(env)
    seen = encoder_reads(policy)
    with pytest.warns(UserWarning, match="left end is cut"):
        rollout(env, policy, 1)
    assert seen == [[*b"efgh", EOS]]


def test_a_decoder_is_not_given_the_end_of_a_prompt() -> None:
    env = make(tokenizer=worlds.closing(), prompts=["ab"], max_new_tokens=4)
    model = worlds.llama()
    (episode,) = rollout(env, LMPolicy(model), 1)
    assert episode.prompt_tokens.tolist() == [97, 98]
    ids = torch.tensor([[97, 98, *episode.tokens]])
    expected = model(ids).logits[0, 1:-1].log_softmax(-1).gather(1, torch.from_numpy(episode.tokens)[:, None]).squeeze(1)
    rule = env.get_wrapper_attr("action_rule")
    assert rule.prompt_end == (EOS,)
    got = LMPolicy(model).evaluate([episode.prompt_tokens], [episode.tokens], rule).log_probs
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["unigram", "byte_level_bpe", "word_piece"])
def test_answers_are_decoded_and_placed_as_continuations_are(name: str) -> None:
    tokenizer = worlds.tokenizers()[name]
    env = make(tokenizer=tokenizer, prompts=["the café owner"], max_new_tokens=12)
    policy = LMPolicy(worlds.t5(len(tokenizer), decoder_start_token_id=0, pad_token_id=0, eos_token_id=tokenizer.eos_token_id))
    policy.fit_to(env)
    for episode in rollout(env, policy, 8, torch.Generator().manual_seed(0)):
        ends = episode.offsets[:, 1].max(initial=0)
        assert ends == len(episode.text)
        assert (np.diff(episode.offsets[:, 0]) >= 0).all()
    (word,) = tokenizer(" weasel", add_special_tokens=False)["input_ids"][:1]
    said = env.get_wrapper_attr("episode")(Prompt("the café owner"), [word])
    assert said.text == said.text[slice(*said.offsets[0])]


# --- Agents ------------------------------------------------------------------------------------------------------------


def agent(name: str = "t5", **options: Any) -> TokenPPO:
    env = make(tokenizer=worlds.closing(), prompts=["a", "bb", "ccc"], max_new_tokens=6, scorer=worlds.even_share)
    return TokenPPO(ENCODER_DECODERS[name](), env, seed=0, **{**BATCH, **options})


@KINDS
def test_the_first_update_has_ratio_one_and_no_divergence(name: str) -> None:
    one, memory = agent(name, n_epochs=1, batch_size=8, recompute_log_probs=True), Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(1)
    row = memory.rows[0]
    assert (row["val/ratio"], row["train/approx_kl"], row["train/clip_fraction"], row["objective/kl"]) == (1.0, 0.0, 0.0, 0.0)


def test_training_moves_the_policy_and_not_the_reference() -> None:
    one = agent().learn(60)
    assert worlds.same_weights(one.reference.model, worlds.t5())
    assert not worlds.same_weights(one.policy.model, worlds.t5())


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_it_solves_the_smallest_world(name: str) -> None:
    env = make(max_new_tokens=8, tokenizer=worlds.closing())
    model = worlds.t5() if name == "t5" else worlds.bart(init_std=0.02)
    one = TokenPPO(model, env, seed=0, n_episodes=32, batch_size=16, n_epochs=2, learning_rate=1e-2, kl_coef=0.0)
    while one.num_timesteps < 40_000 and evaluate(one, env, 1, k=16).metrics["mean_score"] < 0.95:
        one.learn(2_000, reset_num_timesteps=False)
    assert evaluate(one, env, 1, k=16).metrics["mean_score"] >= 0.95


@pytest.mark.parametrize("name", ["t5", "mt5", "bart"])
def test_a_saved_agent_comes_back_and_goes_on(name: str, tmp_path: Path) -> None:
    one = agent(name).learn(30)
    one.save(tmp_path / "a")
    two = TokenPPO.load(tmp_path / "a", one.env)
    assert worlds.same_weights(one.policy, two.policy)
    assert worlds.same_weights(one.reference.model, two.reference.model)
    observation, _ = one.env.reset(seed=1)
    assert [one.predict(observation)[0] for _ in range(8)] == [two.predict(observation)[0] for _ in range(8)]
    two.learn(30, reset_num_timesteps=False)


def test_the_directory_is_an_ordinary_saved_model(tmp_path: Path) -> None:
    one = agent().learn(1)
    one.save(tmp_path / "a")
    assert worlds.same_weights(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "a"), one.policy.model)
    assert AutoTokenizer.from_pretrained(tmp_path / "a")("a").input_ids == [97, EOS]


def test_a_directory_is_a_policy_a_reference_and_an_environments_tokenizer(tmp_path: Path) -> None:
    path = str(worlds.saved(worlds.t5(), tmp_path / "m", worlds.closing()))
    env = make(tokenizer=path, prompts=["a", "bb"], max_new_tokens=4)
    out = evaluate(path, env, k=2, reference=LMPolicy(path))
    said = [(e.prompt_tokens, e.tokens[e.tokens != EOS]) for e in out.episodes]
    losses = [own_loss(worlds.t5(), [*prompt, EOS], list(words)) for prompt, words in said if len(words)]
    assert out.metrics["perplexity"] == pytest.approx(np.exp(sum(losses) / sum(len(words) for _, words in said)), rel=1e-4)


def test_perplexity_reads_the_prompt_as_the_encoder_does() -> None:
    env = make(tokenizer=worlds.closing(), prompts=["ab"], max_new_tokens=4)
    episode = env.get_wrapper_attr("episode")(Prompt("ab"), [99, 100, 101, EOS])
    end = prompt_end(env.get_wrapper_attr("tokenizer"))
    for model in (worlds.t5(), worlds.bart()):
        expected = np.exp(own_loss(model, [97, 98, EOS], [99, 100, 101]) / 3)
        assert perplexity(model, [episode], prompt_end=end) == pytest.approx(expected, rel=1e-5)
        assert perplexity(model, [episode]) != pytest.approx(expected, rel=1e-5)


# --- Behaviour cloning -------------------------------------------------------------------------------------------------


def test_cloning_learns_answers_and_where_they_end() -> None:
    tokenizer = worlds.closing()
    pairs = [Prompt("hi: ", references=("yes",)), Prompt("ho: ", references=("no",))]
    one = BehaviourCloning(LMPolicy(worlds.t5(), tokenizer), pairs, learning_rate=1e-2, batch_size=2)
    before = one.loss()
    one.learn(800)
    assert one.loss() < 0.05 < before
    env = make(prompts=["hi: ", "ho: "], max_new_tokens=8, tokenizer=tokenizer)
    texts = rollout(env, one.policy, 2, prompts=pairs, deterministic=True)
    assert [(e.text, e.finish_reason) for e in texts] == [("yes", "stop"), ("no", "stop")]


@TEMPLATES
def test_the_loss_of_cloning_is_the_models_own(template: str) -> None:
    tokenizer, model = worlds.closing(template), worlds.bart()
    one = BehaviourCloning(LMPolicy(model, tokenizer), [Prompt("ab", references=("xyz",)), Prompt("c", references=("z",))])
    pairs = [(tokenizer("ab").input_ids, tokenizer("xyz").input_ids), (tokenizer("c").input_ids, tokenizer("z").input_ids)]
    ended = [(prompt, text if text[-1] == EOS else [*text, EOS]) for prompt, text in pairs]
    assert one.loss() == pytest.approx(sum(own_loss(model, *pair) for pair in ended) / sum(len(t) for _, t in ended), abs=1e-5)


def test_a_text_without_a_reference_is_nothing_that_an_encoder_decoder_learns() -> None:
    with pytest.raises(ValueError, match=r"learns pairs; Prompt\(text, references=\.\.\.\) gives 'some text' an answer"):
        BehaviourCloning(LMPolicy(worlds.t5(), BYTES), ["some text"])


def test_examples_end_where_the_positions_of_the_decoder_do() -> None:
    pairs = [Prompt("x" * 120, references=("y" * 200,)), Prompt("x" * 128, references=("too long to be read",))]
    one = BehaviourCloning(LMPolicy(worlds.bart(), worlds.closing()), pairs)
    assert [(len(start), len(target)) for start, target in one.examples] == [(120, 128)]
    assert [len(t) for _, t in BehaviourCloning(LMPolicy(worlds.bart(), BYTES), pairs, max_tokens=130).examples] == [10, 2]
    one.learn(10)


# --- What does not fit together ----------------------------------------------------------------------------------------


def test_a_policy_with_another_vocabulary_is_refused() -> None:
    other = worlds.tokenizers()["byte_level_bpe"]
    with pytest.raises(ValueError, match="the policy knows 200 ids"):
        TokenPPO(worlds.t5(200, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0), make())
    with pytest.raises(ValueError, match="different tokenizers"):
        TokenPPO(LMPolicy(worlds.t5(len(other)), other), make())


def test_embedding_rows_above_the_tokenizer_are_never_sampled() -> None:
    model = worlds.bart(320)
    with torch.no_grad():
        model.final_logits_bias[:, VOCABULARY:] = 100.0
    policy = LMPolicy(model, BYTES)
    assert max(int(text.max()) for text in policy.generate([PROMPTS[0]] * 32, RULE, torch.rand(32, 8))) < VOCABULARY


def test_prompts_and_texts_longer_than_their_positions_are_refused_before_training() -> None:
    TokenPPO(worlds.bart(), make(tokenizer=worlds.closing(), max_prompt_tokens=127, max_new_tokens=128))
    TokenPPO(worlds.t5(), make(max_prompt_tokens=1000, max_new_tokens=1000))
    with pytest.raises(ValueError, match="reads a prompt of 129 tokens in 128 positions"):
        TokenPPO(worlds.bart(), make(tokenizer=worlds.closing(), max_prompt_tokens=128, max_new_tokens=8))
    with pytest.raises(ValueError, match="writes 129 in 128"):
        TokenPPO(worlds.bart(), make(max_new_tokens=129))


def test_a_name_is_read_as_what_its_config_says(tmp_path: Path, llama_directory: Path) -> None:
    path = worlds.saved(worlds.bart(), tmp_path / "m")
    assert type(load_language_model(path)).__name__ == "BartForConditionalGeneration"
    assert type(load_language_model(llama_directory)).__name__ == "LlamaForCausalLM"
    assert load_language_model(path, shared=True) is load_language_model(path, shared=True)
