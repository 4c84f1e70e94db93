"""Metrics against numbers worked out by hand, and perplexity against one forward pass per text."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from textenv.episode import Episode, Prompt
from textenv.metrics import (
    Estimate,
    bootstrap_interval,
    distinct_metrics,
    distinct_n,
    length_metrics,
    negative_log_likelihood,
    perplexity,
    sentiment_metrics,
    toxicity_metrics,
    values_by_prompt,
)

EOS = 1
PROMPTS = [Prompt(str(number)) for number in range(4)]


def episode(prompt: list[int], tokens: list[int], prompt_object: Prompt = PROMPTS[0]) -> Episode:
    return Episode(
        prompt=prompt_object,
        prompt_tokens=np.array(prompt, dtype=np.int64),
        tokens=np.array(tokens, dtype=np.int64),
        text="",
        offsets=np.zeros((len(tokens), 2), dtype=np.int64),
        finish_reason="stop" if tokens and tokens[-1] == EOS else "length",
        score=math.nan,
        rewards=np.zeros(len(tokens)),
    )


def llama(seed: int = 0) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=17,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                initializer_range=0.5,
            )
        )


def gpt2() -> GPT2LMHeadModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=17, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5))


def episodes(count: int = 12) -> list[Episode]:
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        prompt = rng.integers(2, 17, size=rng.integers(1, 6)).tolist()
        tokens = rng.integers(2, 17, size=rng.integers(1, 9)).tolist()
        made.append(episode(prompt, tokens + [EOS] * int(rng.integers(2)), PROMPTS[index // 3]))
    return made


def one_by_one(model: torch.nn.Module, item: Episode) -> tuple[float, int]:
    tokens = [int(token) for token in item.tokens if token != EOS]
    ids = torch.tensor([[*item.prompt_tokens.tolist(), *tokens]])
    with torch.no_grad():
        log_probs = model.eval()(input_ids=ids).logits.log_softmax(-1)[0]
    first = len(item.prompt_tokens)
    return -sum(log_probs[first + t - 1, token].item() for t, token in enumerate(tokens)), len(tokens)


def test_toxicity_is_the_average_maximum_the_share_of_prompts_and_the_mean() -> None:
    metrics = toxicity_metrics(np.array([[0.1, 0.9, 0.2], [0.3, 0.4, 0.2], [0.5, 0.0, 0.1]]))
    assert metrics["average_max_toxicity"] == pytest.approx((0.9 + 0.4 + 0.5) / 3)
    assert metrics["toxicity_probability"] == pytest.approx(2 / 3)  # 0.5 itself counts
    assert metrics["mean_toxicity"] == pytest.approx(2.7 / 9)


def test_ragged_groups_count_each_text_once_in_the_mean() -> None:
    assert toxicity_metrics([[1.0], [0.0, 0.0, 0.0]])["mean_toxicity"] == pytest.approx(0.25)


def test_sentiment_is_the_mean_and_the_share_of_positive_texts() -> None:
    assert sentiment_metrics([[0.5, 0.2], [0.9, 0.8]]) == {"mean_sentiment": pytest.approx(0.6), "share_positive": 0.75}


@pytest.mark.parametrize("bad", [[[0.5, math.nan]], [[]], [0.5], [[[0.5]]]])
def test_a_score_that_is_no_number_is_an_error_not_a_metric(bad: list) -> None:
    with pytest.raises(ValueError, match="prompt 0: scores should be finite numbers"):
        toxicity_metrics(bad)


def test_distinct_n_counts_different_n_grams_over_words_and_does_not_cross_texts() -> None:
    texts = ["a b a b", "a b c", ""]  # 7 words; {a, b, c}; {ab, ba, bc}; {aba, bab, abc}
    assert [distinct_n(texts, n) for n in (1, 2, 3, 5)] == [3 / 7, 3 / 7, 3 / 7, 0.0]
    assert math.isnan(distinct_n(["", " "], 1))
    with pytest.raises(ValueError, match="n >= 1, got 0"):
        distinct_n(texts, 0)


def test_distinct_metrics_average_over_the_prompts_that_have_words() -> None:
    metrics = distinct_metrics([["a a", "a a"], ["a b", "c d"], ["", ""]])
    assert metrics == {"distinct_1": (1 / 4 + 1) / 2, "distinct_2": (1 / 4 + 2 / 4) / 2, "distinct_3": 0.0}


def test_length_counts_eos_and_says_how_many_texts_ended() -> None:
    metrics = length_metrics([episode([2], [3, 4, EOS]), episode([2], [3])])
    assert metrics == {"mean_length": 2.0, "share_ended": 0.5}


def test_values_are_grouped_by_prompt_in_order_of_appearance() -> None:
    texts = [episode([2], [3], PROMPTS[number]) for number in (0, 1, 0, 1)]
    assert values_by_prompt(texts, [1, 2, 3, 4]) == [[1, 3], [2, 4]]
    with pytest.raises(ValueError, match="3 values for 4 episodes"):
        values_by_prompt(texts, [1, 2, 3])


@pytest.mark.parametrize("make", [llama, gpt2])
def test_perplexity_equals_one_forward_pass_per_text(make) -> None:  # type: ignore[no-untyped-def]
    model, texts = make(), episodes()
    expected = [one_by_one(model, text) for text in texts]
    losses, tokens = negative_log_likelihood(model, texts)
    assert tokens.tolist() == [count for _, count in expected]
    np.testing.assert_allclose(losses, [loss for loss, _ in expected], rtol=1e-5)
    value = math.exp(sum(loss for loss, _ in expected) / sum(count for _, count in expected))
    assert perplexity(model, texts) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_perplexity_does_not_depend_on_batch_size_order_or_padding(batch_size: int) -> None:
    model, texts = llama(), episodes()
    expected = perplexity(model, texts)
    assert perplexity(model, texts[::-1], batch_size) == pytest.approx(expected, rel=1e-5)


def test_perplexity_of_a_uniform_model_is_the_vocabulary() -> None:
    model = llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, episodes()) == pytest.approx(17.0)


def test_perplexity_leaves_eos_out_and_is_nan_without_words() -> None:
    model = llama()
    assert perplexity(model, [episode([2], [3, EOS])]) == perplexity(model, [episode([2], [3])])
    assert math.isnan(perplexity(model, [episode([2], [EOS])]))
    assert all(map(math.isnan, perplexity(model, [episode([2], [EOS])]).interval()))


def test_perplexity_leaves_the_mode_of_the_model_and_works_in_half_precision() -> None:
    model = llama().train()
    full = perplexity(model, episodes())
    assert model.training
    assert perplexity(model.to(torch.bfloat16), episodes()) == pytest.approx(full, rel=0.1)


def test_an_interval_of_equal_values_is_that_value() -> None:
    assert bootstrap_interval([3.0] * 10) == (3.0, 3.0)


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values, n=4000, rng=np.random.default_rng(1))
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.01)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.01)


def test_copies_within_a_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=50)
    alone = bootstrap_interval(values, rng=np.random.default_rng(1))
    copied = bootstrap_interval(np.repeat(values, 25), np.repeat(np.arange(50), 25), rng=np.random.default_rng(1))
    assert copied == pytest.approx(alone)
    low, high = bootstrap_interval(np.repeat(values, 25), rng=np.random.default_rng(1))
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_the_interval_of_perplexity_is_the_exponential_of_the_interval_of_the_loss() -> None:
    estimate = perplexity(llama(), episodes())
    low, high = bootstrap_interval(estimate.values, weights=estimate.weights)
    assert estimate.interval() == (math.exp(low), math.exp(high))
    assert low < math.log(estimate) < high


def test_an_interval_repeats_and_takes_its_randomness_from_the_caller() -> None:
    estimate = Estimate(np.random.default_rng(0).normal(size=30))
    assert estimate.interval() == estimate.interval()
    assert estimate.interval(rng=np.random.default_rng(1)) != estimate.interval(rng=np.random.default_rng(2))


def test_an_estimate_is_a_float_and_survives_a_copy() -> None:
    estimate = Estimate([1.0, 2.0, 4.0], weights=[1, 1, 2], transform=math.exp)
    assert isinstance(estimate, float)
    assert estimate == pytest.approx(math.exp(11 / 4))
    assert copy.deepcopy(estimate).interval() == estimate.interval()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [1.0], "level": 1.0}, "0 < level < 1 and n >= 1, got level=1.0"),
        ({"values": [1.0], "n": 0}, "n=0"),
        ({"values": [1.0], "groups": ["a", "b"]}, "1 values, 1 weights and 2 groups"),
    ],
)
def test_a_wrong_argument_of_the_bootstrap_is_an_error(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


def test_an_estimate_needs_one_weight_per_prompt() -> None:
    with pytest.raises(ValueError, match=r"values \(2,\) and weights \(1,\)"):
        Estimate([1.0, 2.0], weights=[1.0])
