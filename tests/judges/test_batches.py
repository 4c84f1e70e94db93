"""Every judge that runs a model: in batches of any kind it says what it says of one text at a time, in the order asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForTokenClassification

from tests import worlds
from tests.worlds import BYTES, EOS, VOCABULARY, make
from textenv import batching
from textenv.critics import CritiqueFormat, LanguageModelCritic, Section
from textenv.episode import Episode, Prompt
from textenv.judges.aspect_models import TokenClassifierJudge
from textenv.judges.generic_aspects import Fluency
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.judges.token_log_probs import token_log_probs
from textenv.wrappers.process import StepClassifier

LINES = ["Short.", "A much longer text, by far.\nTwo lines.", "x", "Middling, as it is.", "é\nü", "So. It. Goes.", "Yes"]
Numbers = list[np.ndarray]


def written(text: str, prompt: str = "p: ") -> Episode:
    env = make(max_new_tokens=48, max_prompt_tokens=32)
    episode: Episode = env.get_wrapper_attr("episode")(Prompt(prompt), [*text.encode(), EOS])
    return episode


EPISODES = [written(text, prompt) for text, prompt in zip(LINES, ["p: ", "a prompt", "?", "p", "pp", "ppp", "p"], strict=True)]


def token_classifier() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, initializer_range=0.2, id2label={0: "bad", 1: "good"},
    )  # fmt: skip
    with worlds.seeded():
        return LlamaForTokenClassification(config).eval()


def scorer(kind: str, batch_size: int) -> SequenceClassifierScorer:
    return SequenceClassifierScorer(worlds.classifier(kind), label=1, tokenizer=BYTES, batch_size=batch_size)


def log_probs(batch_size: int) -> Callable[[Sequence[Episode]], Numbers]:
    model, rule = worlds.llama(), make().get_wrapper_attr("action_rule")
    return lambda es: token_log_probs(model, [e.prompt_tokens for e in es], [e.tokens for e in es], rule, batch_size=batch_size)


def of_spans(judge: Any) -> Callable[[Sequence[Episode]], Numbers]:
    return lambda es: [np.array([(s.start, s.end, s.reward) for s in spans], float).reshape(-1, 3) for spans in judge(es)]


def critic(batch_size: int) -> Callable[[Sequence[Episode]], Numbers]:
    form = CritiqueFormat((Section("Bad", -1.0),))
    model = worlds.llama(max_position_embeddings=256)
    made = LanguageModelCritic(model, form, tokenizer=BYTES, max_new_tokens=8, batch_size=batch_size)
    return lambda es: [np.array(list(said.encode()), float) for said, _ in made.answers([e.text for e in es])]


def classes(batch_size: int) -> TokenClassifierJudge:
    return TokenClassifierJudge(token_classifier(), "good", "token", tokenizer=BYTES, output="probability", batch_size=batch_size)


def steps(kind: str, batch_size: int) -> StepClassifier:
    model = worlds.classifier(kind, ["positive", "neutral", "negative"])
    return StepClassifier(model, read="expected", template="{text}", tokenizer=BYTES, batch_size=batch_size)


JUDGES: dict[str, Callable[[int], Callable[[Sequence[Episode]], Numbers]]] = {
    "scorer, encoder": lambda n: lambda es: [np.array(x) for x in scorer("bert", n)(es)],
    "scorer, decoder": lambda n: lambda es: [np.array(x) for x in scorer("llama", n)(es)],
    "prefixes, encoder": lambda n: lambda es: scorer("bert", n).prefix_scores(es),
    "prefixes, decoder": lambda n: lambda es: scorer("gpt2", n).prefix_scores(es),
    "attention": lambda n: lambda es: scorer("bert", n).attention(es),
    "aspects": lambda n: of_spans(classes(n)),
    "steps, encoder": lambda n: of_spans(steps("bert", n)),
    "steps, decoder": lambda n: of_spans(steps("gpt2", n)),
    "log-probabilities": log_probs,
    "critic": critic,
    "fluency": lambda n: of_spans(Fluency(worlds.gpt2(), tokenizer=BYTES)),
}


@pytest.mark.parametrize(("batch_size", "tokens"), [(3, batching.TOKENS), (64, batching.TOKENS), (64, 40)])
@pytest.mark.parametrize("name", JUDGES)
def test_any_order_and_any_batch_give_what_one_text_alone_is_given(
    name: str, batch_size: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "TOKENS", tokens)
    alone = [JUDGES[name](1)([episode])[0] for episode in EPISODES]
    order = torch.randperm(len(EPISODES), generator=torch.Generator().manual_seed(0)).tolist()
    together = JUDGES[name](batch_size)([EPISODES[i] for i in order])
    for i, found in zip(order, together, strict=True):
        assert found == pytest.approx(alone[i], rel=1e-6, abs=2e-6)  # log-probabilities are sums as large as 6


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_batch_holds_no_more_tokens_than_its_budget(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "TOKENS", 40)
    judge, shapes = scorer(kind, 64), list[tuple[int, ...]]()
    judge.model.get_input_embeddings().register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[:2])))
    judge.score_texts([e.text for e in EPISODES])
    if kind == "llama":  # a decoder reads several in a row, which is tried at first
        shapes = shapes[3:]
    assert shapes == ([(1, 38), (2, 19), (4, 6)] if kind == "bert" else [(1, 38), (2, 19), (2, 5)])
