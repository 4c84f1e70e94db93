"""A token classifier as a judge: read at the end of each segment, whatever its tokenizer, whatever surrounds the text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForTokenClassification

from tests import worlds
from textenv.aspects import Aspect
from textenv.episode import Episode, Prompt, Span
from textenv.judges.aspect_models import TokenClassifierJudge
from textenv.models import load_token_classifier
from textenv.tokenization import byte_tokenizer, load_tokenizer

LABELS = {0: "supported", 1: "relevant"}


class Reader(torch.nn.Module):
    """Says of each token: P(supported) is high where its id is even, P(relevant) where it is a full stop's."""

    def __init__(self, stop: int, *, apart: bool = True) -> None:
        super().__init__()
        self.config = Qwen3Config(
            num_labels=2, id2label=LABELS, problem_type="multi_label_classification" if apart else None, max_position_embeddings=64
        )
        self.stop, self.device, self.seen = stop, torch.device("cpu"), list[list[int]]()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        self.seen += [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        even, stop = input_ids % 2 == 0, input_ids == self.stop
        return type("Output", (), {"logits": torch.stack([even, stop], -1) * 8.0 - 4.0})


def episode(text: str, prompt: Prompt | None = None) -> Episode:
    tokens = np.array(list(text.encode()), np.int64)
    offsets = np.array([[i, i + 1] for i in range(len(tokens))], np.int64).reshape(-1, 2)
    return Episode(prompt or Prompt("p"), np.array([1]), tokens, text, offsets, "stop", 0.0, np.zeros(len(tokens)))


def judge(label: str = "relevant", **options: Any) -> TokenClassifierJudge:
    tokenizer = byte_tokenizer()
    model = Reader(stop=tokenizer(".", add_special_tokens=False)["input_ids"][0])
    return TokenClassifierJudge(model, label, tokenizer=tokenizer, **options)


def test_each_segment_has_the_value_at_its_last_visible_token() -> None:
    [spans] = judge(scale=(-0.5, 0.5))([episode(" It rained. It snowed!  Who knows")])
    assert [(s.start, s.end, s.reward) for s in spans] == [(0, 11, 0.5), (12, 22, -0.5), (24, 33, -0.5)]
    assert {s.label for s in spans} == {"relevant"}


def test_a_probability_lies_between_the_ends_of_the_scale() -> None:
    [[span]] = judge(granularity="text", scale=(1.0, 3.0), output="probability")([episode("Yes.")])
    assert span.reward == pytest.approx(1.0 + 2.0 * torch.tensor(4.0).sigmoid().item())


def test_labels_that_exclude_each_other_are_read_by_softmax() -> None:
    tokenizer = byte_tokenizer()
    model = Reader(stop=tokenizer(".", add_special_tokens=False)["input_ids"][0], apart=False)
    made = TokenClassifierJudge(model, "relevant", "text", tokenizer=tokenizer, output="probability")
    [[span]] = made([episode("Yes.")])  # "." is 46, an even id: both logits are 4
    assert span.reward == pytest.approx(0.5)


def test_the_template_stands_around_the_text_and_is_not_judged() -> None:
    made = judge(template="{context}|{prompt}|{text}|end.")
    [spans] = made([episode("Go. Yes", Prompt("Who?", context=("A.", "B.")))])
    assert made.tokenizer.decode(made.model.seen[0]) == "A.\nB.|Who?|Go. Yes|end."
    assert [(s.start, s.end, s.reward) for s in spans] == [(0, 3, 1.0), (4, 7, 0.0)]


def test_braces_in_a_text_are_characters() -> None:
    made = judge(template="{prompt}: {text}")
    made([episode("{text} {x}", Prompt("{prompt}"))])
    assert made.tokenizer.decode(made.model.seen[0]) == "{prompt}: {text} {x}"


def test_neighbouring_tokens_of_one_value_are_one_span_and_value_zero_makes_none() -> None:
    made = judge("supported", granularity="token", scale=(-1.0, 0.0))
    [spans] = made([episode("aabb ac")])  # bytes: a 97, b 98, " " 32, c 99; odd ids are bad
    assert [(s.start, s.end, s.reward) for s in spans] == [(0, 2, -1.0), (5, 7, -1.0)]


def test_a_long_input_loses_its_left_end() -> None:
    made = judge(template="{prompt}{text}", max_tokens=10)
    [spans] = made([episode("One. Two.", Prompt("x" * 50))])
    assert len(made.model.seen[0]) == 10
    assert [(s.start, s.end) for s in spans] == [(0, 4), (5, 9)]


def test_a_text_without_a_word_is_not_judged_and_asks_the_model_nothing() -> None:
    made = judge()
    assert made([episode(""), episode("  ")]) == [[], []]
    assert made.model.seen == []


def test_a_batch_is_judged_like_its_texts_one_by_one() -> None:
    texts = [episode(t) for t in ("One. Two", "A.", "", "Three! Four. Five?")]
    together, alone = judge(batch_size=2)(texts), [judge()([text])[0] for text in texts]
    assert together == alone


def test_an_aspect_pays_the_values_on_the_last_tokens_of_the_segments() -> None:
    [(where, values)] = Aspect("relevance", judge(scale=(-0.3, 0.3)), "sentence").placed([episode("Go. Yes")])
    assert np.flatnonzero(where).tolist() == [2, 6]
    assert values[[2, 6]].tolist() == [0.3, -0.3]


def test_any_saved_token_classifier_is_read_with_its_own_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("textenv/tiny")
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, num_labels=2, id2label=LABELS, problem_type="multi_label_classification",
    )  # fmt: skip
    Qwen3ForTokenClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = TokenClassifierJudge(str(tmp_path), "SUPPORTED", output="probability")
    text = " The plot was good. The cast was dull."
    [spans] = made([episode(text)])
    ids = AutoTokenizer.from_pretrained(tmp_path)(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        p = made.model(ids).logits[0, :, 0].sigmoid()
    ends = [i for i, token in enumerate(ids[0].tolist()) if tokenizer.decode([token]) == "."]
    assert [span.reward for span in spans] == pytest.approx(p[ends].tolist())


def test_bad_arguments_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"none of the labels \['true'\].*supported"):
        judge("true")
    with pytest.raises(ValueError, match=r"must hold \{text\} once, got 'text'"):
        judge(template="text")
    with pytest.raises(ValueError, match='output must be "class" or "probability", got \'logit\''):
        judge(output="logit")
    with pytest.raises(ValueError, match=r"granularity is one of .*'word'"):
        judge(granularity="word")
    with pytest.raises(ValueError, match="segmenter='lines' with granularity='token'"):
        judge(granularity="token", segmenter="lines")
    with pytest.raises(ValueError, match="pass tokenizer="):
        TokenClassifierJudge(Reader(1), "relevant")


def test_holds_its_weights_once() -> None:
    import copy

    made = judge()
    assert copy.deepcopy(made) is made
    assert isinstance(made([episode("Yes.")])[0][0], Span)


def test_the_trunk_runs_once_over_a_text_for_all_aspects_that_ask() -> None:
    tokenizer = byte_tokenizer()
    model = Reader(stop=tokenizer(".", add_special_tokens=False)["input_ids"][0])
    texts = [episode("It rained. It snowed."), episode("Yes.")]
    for label, granularity in (("relevant", "sentence"), ("supported", "sub_sentence"), ("supported", "text")):
        TokenClassifierJudge(model, label, granularity, tokenizer=tokenizer)(texts)  # type: ignore[arg-type]
    assert len(model.seen) == len(texts)


def test_a_text_that_comes_twice_in_a_batch_is_read_once() -> None:
    made = judge()
    assert len({str(spans) for spans in made([episode("Yes. No")] * 3)}) == 1
    assert len(made.model.seen) == 1


def test_weights_that_have_changed_are_read_again() -> None:
    with worlds.seeded():
        model = Qwen3ForTokenClassification(
            Qwen3Config(vocab_size=worlds.VOCABULARY, hidden_size=8, intermediate_size=8, num_hidden_layers=1, id2label=LABELS)
        )
    made = TokenClassifierJudge(model, "relevant", "text", tokenizer=byte_tokenizer(), output="probability")
    before = made([episode("Yes.")])
    assert made([episode("Yes.")]) == before
    with torch.no_grad():
        made.model.score.weight += 1.0
    assert made([episode("Yes.")]) != before


def test_three_aspects_of_long_answers_cost_one_pass_over_each_text() -> None:
    env = gym.make("textenv/LongFormQA-v0", reward="weighted_sum", max_new_tokens=12)
    task = env.get_wrapper_attr("task")
    texts = [env.get_wrapper_attr("episode")(prompt, [5, 6, 7 + i]) for i, prompt in enumerate(task.prompts[:3])]
    texts = [replace(text, finish_reason="stop") for text in texts]
    rows: list[int] = []
    model = load_token_classifier("textenv/tiny-aspects", shared=True)
    handle = model.get_input_embeddings().register_forward_hook(lambda _, __, output: rows.append(len(output)))
    try:
        env.get_wrapper_attr("credit")(texts)
    finally:
        handle.remove()
    assert [aspect.name for aspect in env.get_wrapper_attr("aspects")] == ["factuality", "relevance", "completeness"]
    assert sum(rows) == len(texts)
