"""A classifier's verdict: the right label, the same in any batch, at any length."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import BYTES, make
from textenv.episode import Episode, Prompt
from textenv.judges.scorers import SequenceClassifierScorer

TEXTS = ["a", "a much longer text than the first", "", "short", "é", "x" * 40]


def scorer(model: Any = None, label: Any = "toxic", **options: Any) -> SequenceClassifierScorer:
    return SequenceClassifierScorer(worlds.classifier() if model is None else model, label=label, tokenizer=BYTES, **options)


def probability(model: Any, text: str) -> torch.Tensor:
    """One text, no padding."""
    return model(torch.tensor([worlds.ids(text)])).logits.detach()[0].softmax(-1)


def test_the_score_is_the_probability_of_the_label() -> None:
    model = worlds.classifier()
    assert scorer(model).score_texts(["some text"]) == pytest.approx([float(probability(model, "some text")[1])], abs=1e-6)


@pytest.mark.parametrize("label", ["toxic", "TOXIC", 1, ("hate", "toxic"), ("toxic", "civil")])
def test_a_label_is_found_by_name_by_index_or_as_the_first_of_several(label: Any) -> None:
    assert scorer(label=label).label == 1


@pytest.mark.parametrize("label", ["rude", 2, -1, ("hate", "rude")])
def test_an_unknown_label_lists_those_that_exist(label: Any) -> None:
    with pytest.raises(ValueError, match=r"its labels are .*civil.*toxic"):
        scorer(label=label)


def test_the_complement_is_one_minus_the_probability() -> None:
    model = worlds.classifier()
    assert scorer(model, complement=True).score_texts(TEXTS) == pytest.approx([1 - x for x in scorer(model).score_texts(TEXTS)])


def test_logits_are_given_where_asked_and_negated_as_complement() -> None:
    model = worlds.classifier()
    logit = model(torch.tensor([worlds.ids("text")])).logits[0, 1].item()
    assert scorer(model, output="logit").score_texts(["text"]) == pytest.approx([logit], abs=1e-5)
    assert scorer(model, output="logit", complement=True).score_texts(["text"]) == pytest.approx([-logit], abs=1e-5)


def test_a_model_of_one_output_without_a_name_gives_its_sigmoid_whatever_is_asked_for() -> None:
    model = worlds.classifier(labels=["LABEL_0"])
    logit = model(torch.tensor([worlds.ids("text")])).logits[0, 0]
    assert scorer(model, label="toxic").score_texts(["text"]) == pytest.approx([logit.sigmoid().item()], abs=1e-6)


def test_the_one_output_of_a_reward_model_is_meant_by_every_name_of_such_and_by_no_other() -> None:
    model = worlds.classifier(labels=["quality"])
    assert scorer(model, label="good").label == 0
    with pytest.raises(ValueError, match=r"none of the labels \['toxic'\]; its labels are \['quality'\]"):
        scorer(model, label="toxic")


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_batch_scores_as_one_text_at_a_time(kind: str, batch_size: int) -> None:
    judge = scorer(worlds.classifier(kind), batch_size=batch_size)
    assert judge.score_texts(TEXTS) == pytest.approx([judge.score_texts([text])[0] for text in TEXTS], abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoder_is_read_at_its_last_token_whatever_its_own_padding_id(kind: str) -> None:
    model = worlds.classifier(kind)
    expected = scorer(model).score_texts(TEXTS)
    for pad in (None, 97):
        model.config.pad_token_id = pad
        assert scorer(model).score_texts(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_text_that_is_too_long_loses_its_left_end() -> None:
    judge = scorer()
    assert judge.max_tokens == 64
    assert judge.score_texts(["x" * 30 + "y" * 64]) == judge.score_texts(["y" * 64])


def test_a_text_that_is_too_long_keeps_the_tokens_around_it() -> None:
    judge = SequenceClassifierScorer(worlds.classifier(), label="toxic", tokenizer=enclosing(BYTES))
    assert judge.score_texts(["x" * 30 + "y" * 62]) == judge.score_texts(["y" * 62])


def test_the_continuation_is_judged_alone_unless_asked_with_its_prompt() -> None:
    model = worlds.classifier()
    episode = make(max_new_tokens=8).get_wrapper_attr("episode")(Prompt("go: "), worlds.ids("text"))
    assert scorer(model)([episode]) == scorer(model).score_texts(["text"])
    assert scorer(model, with_prompt=True)([episode]) == scorer(model).score_texts(["go: text"])


def test_a_saved_directory_scores_like_the_model_it_was_saved_from(classifier_directory: Path) -> None:
    by_name = SequenceClassifierScorer(classifier_directory, label="toxic")
    assert by_name.score_texts(TEXTS) == pytest.approx(scorer().score_texts(TEXTS), abs=1e-6)


def test_a_saved_directory_judges_the_texts_of_an_environment(classifier_directory: Path) -> None:
    judge = SequenceClassifierScorer(classifier_directory, label="civil")
    env = make(scorer=judge, max_new_tokens=4)
    _, episode = worlds.walk(env, worlds.ids("abcd"))
    assert episode is not None
    assert episode.score == judge.score_texts(["abcd"])[0]


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = worlds.classifier()
    before = copy.deepcopy(model)
    scorer(model).score_texts(TEXTS)
    assert worlds.same_weights(model, before)
    assert not model.training


def test_no_texts_have_no_scores() -> None:
    assert scorer().score_texts([]) == []


def test_a_model_object_needs_its_tokenizer() -> None:
    with pytest.raises(ValueError, match="a model object needs its tokenizer: pass tokenizer="):
        SequenceClassifierScorer(worlds.classifier(), label="toxic")


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(ValueError, match='output must be "probability" or "logit", got \'odds\''):
        scorer(output="odds")


def test_a_scorer_is_not_copied_with_its_environment() -> None:
    judge = scorer()
    assert copy.deepcopy(judge) is judge


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("none", FileNotFoundError, "no tokenizer directory at"), (".", ValueError, "holds no tokenizer")],
)
def test_a_directory_that_holds_no_model_is_named(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SequenceClassifierScorer(tmp_path / name, label="toxic")


# --- What is judged ----------------------------------------------------------------------------------------------------

DECODERS = ["llama", "gpt2"]
KINDS = ["bert", *DECODERS]


def written(text: str = "", *, end: bool = True, prompt: Any = "go: ", tokens: Any = None, tokenizer: Any = "bytes") -> Episode:
    env = make(max_new_tokens=64, max_prompt_tokens=64, tokenizer=tokenizer)
    asked = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
    episode: Episode = env.get_wrapper_attr("episode")(asked, worlds.ids(text, end=end) if tokens is None else tokens)
    return episode


def decoder(tokenizer: Any, *, positions: int = 128) -> Any:
    """A tiny Llama that classifies, for the ids of any tokenizer."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), num_labels=2, hidden_size=32, intermediate_size=64, num_hidden_layers=2, pad_token_id=0,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=positions, initializer_range=0.2,
    )  # fmt: skip
    with worlds.seeded():
        return transformers.LlamaForSequenceClassification(config).eval()


def reads(tokenizer: Any, **options: Any) -> SequenceClassifierScorer:
    return SequenceClassifierScorer(decoder(tokenizer), label=1, tokenizer=tokenizer, output="logit", **options)


def enclosing(tokenizer: Any) -> Any:
    """The byte tokenizer, which puts <s> before and </s> behind every text."""
    from tokenizers import processors

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 257), ("</s>", 258)]
    )
    return tokenizer


def test_a_template_says_what_is_judged() -> None:
    prompt = Prompt("Why?", context=("One.", "Two."))
    judge = scorer(template="{context}\nQ: {prompt}\nA:{text}")
    assert judge([written("because", prompt=prompt)]) == judge.score_texts(["One.\nTwo.\nQ: Why?\nA:because"])


def test_braces_in_a_text_are_characters() -> None:
    judge = scorer(template="{prompt}{text}")
    assert judge([written("{text} {x", prompt="{prompt}")]) == judge.score_texts(["{prompt}{text} {x"])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt}", r"must hold \{text\} once, at its end"),
        ("{text}{prompt}.", r"must hold \{text\} once, at its end"),
        ("{text}{text}", r"must hold \{text\} once, at its end"),
        ("{question}{text}", r"'question'; its fields are \{prompt\}, \{context\} and \{text\}"),
        ("{", "its fields are"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer(template=template)


def test_two_ways_to_say_what_is_judged_are_one_too_many() -> None:
    with pytest.raises(ValueError, match=r'with_prompt=True is template="\{prompt\}\{text\}"'):
        scorer(with_prompt=True, template="{text}")


def test_a_model_whose_head_was_not_saved_is_refused(tmp_path: Path) -> None:
    directory = worlds.saved(worlds.classifier("bert").bert, tmp_path / "bert")
    with pytest.raises(ValueError, match="saved as BertModel, which scores no texts"):
        SequenceClassifierScorer(directory, label=0)


# --- Every prefix (r3hf A2, contract 4) --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["{text}", "{prompt}{text}"])
def test_the_last_prefix_of_a_finished_text_has_its_score(kind: str, template: str) -> None:
    judge = scorer(worlds.classifier(kind), template=template)
    episodes = [written("some text"), written("é"), written(""), written("x" * 20, end=False)]
    finished = [replace(e, finish_reason=e.finish_reason or "length") for e in episodes]
    for values, episode, score in zip(judge.prefix_scores(finished), finished, judge(finished), strict=True):
        assert values.shape == (len(episode) + 1,)
        assert values[-1] == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["{text}", "{prompt}{text}"])
def test_a_prefix_has_the_score_of_the_text_so_far(kind: str, template: str) -> None:
    judge = scorer(worlds.classifier(kind), template=template)
    (values,) = judge.prefix_scores([written("text so")])
    before = "go: " if template != "{text}" else ""
    expected = judge.score_texts([before + "text so"[:n] for n in range(8)])
    assert values == pytest.approx([*expected, expected[-1]], abs=1e-6)


@pytest.mark.parametrize("kind", DECODERS)
def test_all_prefixes_cost_one_forward_pass_of_a_decoder(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, shapes = scorer(worlds.classifier(kind), with_prompt=True), list[Any]()
    judge.score_texts(["whether it reads several texts in a row", "is tried", "once"])
    forward = judge.model.base_model.forward
    monkeypatch.setattr(
        judge.model.base_model, "forward", lambda *a, **k: shapes.append(k["input_ids"].shape) or forward(*a, **k)
    )
    judge.prefix_scores([written("some text"), written("b")])
    assert len(shapes) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_of_a_batch_are_those_of_its_texts_one_by_one(kind: str) -> None:
    judge = scorer(worlds.classifier(kind), batch_size=2)
    episodes = [written(text) for text in ("a", "some text", "", "the third one", "é")]
    alone = [judge.prefix_scores([e])[0] for e in episodes]
    for together, one in zip(judge.prefix_scores(episodes), alone, strict=True):
        assert together == pytest.approx(one, abs=1e-5)
    assert judge.prefix_scores([]) == []


def test_what_the_tokenizer_puts_behind_a_text_is_read_at_its_end_alone() -> None:
    model = worlds.classifier("llama")
    judge = SequenceClassifierScorer(model, label="toxic", tokenizer=enclosing(BYTES))

    def read(ids: list[int]) -> float:
        return float(model(torch.tensor([ids])).logits.detach()[0].softmax(-1)[1])

    expected = [read([257, *b"abc"[:n]]) for n in range(4)]
    assert judge.prefix_scores([written("abc")])[0] == pytest.approx([*expected, read([257, *b"abc", 258])], abs=1e-6)
    assert judge.prefix_scores([written("abc", end=False)])[0] == pytest.approx(expected, abs=1e-6)


def test_a_text_of_nothing_is_read_as_the_empty_string() -> None:
    judge = scorer(worlds.classifier("llama"))
    assert judge.prefix_scores([written("")])[0] == pytest.approx(judge.score_texts(["", ""]), abs=1e-6)
    assert judge.prefix_scores([written("", end=False)])[0] == pytest.approx(judge.score_texts([""]), abs=1e-6)


def test_a_prompt_that_is_cut_leaves_the_prefixes_of_its_text() -> None:
    judge = scorer(worlds.classifier("llama"), with_prompt=True, max_tokens=12)
    (values,) = judge.prefix_scores([written("the text", prompt="a long prompt, ")])
    assert values[-1] == pytest.approx(judge.score_texts(["a long prompt, the text"])[0], abs=1e-6)
    assert values[0] == pytest.approx(judge.score_texts(["a long prompt, "])[0], abs=1e-6)
    assert values[3] == pytest.approx(judge.score_texts(["pt, the text"[:7]])[0], abs=1e-6)


def test_a_text_that_is_cut_itself_has_no_prefixes_in_one_pass() -> None:
    with pytest.raises(ValueError, match="is cut to 5, and its first prefixes cannot be read; pass a larger max_tokens"):
        scorer(worlds.classifier("llama"), max_tokens=5).prefix_scores([written("the text")])
    encoder = scorer(max_tokens=5)
    assert encoder.prefix_scores([written("the text")])[0][-1] == pytest.approx(encoder.score_texts(["the text"])[0], abs=1e-6)


def test_a_tokenizer_without_offsets_reads_each_prefix_apart() -> None:
    judge, plain = scorer(worlds.classifier("llama")), copy.deepcopy(BYTES)
    slow = SequenceClassifierScorer(judge.model, label="toxic", tokenizer=plain)
    plain.__class__ = type("Slow", (type(plain),), {"is_fast": False})
    episodes = [written("some té"), written("")]
    for a, b in zip(judge.prefix_scores(episodes), slow.prefix_scores(episodes), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert slow.causal_for(None)
    with pytest.raises(ValueError, match="tells no character offsets"):
        slow.attention(episodes)


UNICODE = st.text(st.sampled_from("aé😀\u0301 \ufffdthe") | st.characters(exclude_categories=["Cs"]), max_size=12)
PAIRS = [("bytes", "unigram"), ("unigram", "bytes"), ("byte_level_bpe", "sentencepiece_bpe"), ("sentencepiece_bpe", "unigram")]


@pytest.mark.parametrize(("policy", "reader"), PAIRS)
@given(text=UNICODE)
def test_sums_are_kept_across_tokenizers_and_tokens_without_a_counterpart_get_nothing(policy: str, reader: str, text: str) -> None:
    ours, theirs = worlds.tokenizers()[policy], worlds.tokenizers()[reader]  # r3hf A7, 11
    judge = JUDGES.setdefault(reader, reads(theirs))
    tokens = [*ours(text, add_special_tokens=False)["input_ids"][:40], ours.eos_token_id]
    episode = written(tokens=tokens, tokenizer=ours)
    (values,) = judge.prefix_scores([episode], tokenizer=ours)
    assert np.diff(values).sum() == pytest.approx(judge([episode])[0] - judge.score_texts([""])[0], abs=1e-4)
    ends, seen = {0}, 0  # how many characters the reader may have read when it has read whole tokens
    for _, stop in theirs(episode.text, return_offsets_mapping=True)["offset_mapping"]:
        seen = max(seen, stop)
        ends.add(seen)
    before = 0
    for t in range(len(episode) - 1):
        following = [begin for begin, stop in episode.offsets[t + 1 :] if begin < stop]
        here = len(episode.text[: min([int(episode.offsets[t, 1]), *following])].rstrip("\ufffd"))
        if not any(before < end <= here for end in ends):
            assert values[t + 1] == pytest.approx(values[t], abs=1e-6), f"token {t} ends no token of the reader"
        before = here


JUDGES: dict[str, SequenceClassifierScorer] = {}


def test_a_change_within_a_foreign_word_is_carried_to_its_end() -> None:
    theirs = worlds.tokenizers()["byte_level_bpe"]
    pieces = [theirs.decode([i]) for i in theirs("the lazy dog")["input_ids"]]
    assert pieces[1] == " lazy"
    values = reads(theirs).prefix_scores([written("the lazy dog", end=False)])[0]
    ends = np.cumsum([len(piece) for piece in pieces])
    assert np.flatnonzero(np.diff(values)).tolist() == (ends - 1).tolist()


@pytest.mark.parametrize("name", ["bytes", "byte_level_bpe", "unigram", "sentencepiece_bpe"])
@given(data=st.data())
def test_tokens_of_ones_own_are_read_as_they_were_sampled_whatever_follows(name: str, data: Any) -> None:
    tokenizer = worlds.tokenizers()[name]
    judge = JUDGES.setdefault(name, reads(tokenizer))
    assert judge.causal_for(tokenizer)
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=10))
    tokens = [t for t in tokens if t != tokenizer.eos_token_id]
    whole = written(tokens=[*tokens, tokenizer.eos_token_id], tokenizer=tokenizer)
    (values,) = judge.prefix_scores([whole], tokenizer=tokenizer)
    so_far = [written(tokens=tokens[:t], tokenizer=tokenizer) for t in range(len(tokens) + 1)]
    for t, shorter in enumerate(judge.prefix_scores(so_far, tokenizer=tokenizer)):
        assert shorter == pytest.approx(values[: t + 1], abs=1e-4)
    assert values[-1] == pytest.approx(judge([whole])[0], abs=1e-4)


def test_another_tokenizer_is_not_taken_to_be_causal() -> None:
    assert not reads(worlds.tokenizers()["unigram"]).causal_for(BYTES)
    assert not scorer(worlds.classifier("llama")).causal_for(None)
    assert scorer(worlds.classifier("llama")).causal_for(copy.deepcopy(BYTES))
    assert scorer(worlds.classifier("bert")).causal_for(worlds.tokenizers()["unigram"])


# --- Attention (r3hf B2) -----------------------------------------------------------------------------------------------


def seen_by(model: Any, text: str, layer: int = -1) -> torch.Tensor:
    """(heads, L, L), as the model itself tells."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    weights: torch.Tensor = other(torch.tensor([worlds.ids(text)]), output_attentions=True).attentions[layer][0].detach()
    return weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "heads"), [(-1, "mean"), (0, "mean"), (-2, 1), (1, 0)])
def test_attention_is_that_of_the_position_that_is_read(kind: str, layer: int, heads: Any) -> None:
    model = worlds.classifier(kind)
    (found,) = scorer(model).attention([written("some text")], layer=layer, heads=heads)
    weights = seen_by(model, "some text", layer)[:, 0 if kind == "bert" else -1]
    expected = weights.mean(0) if heads == "mean" else weights[heads]
    assert found == pytest.approx([*expected.tolist(), 0.0], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_gets_nothing_and_keeps_its_share(kind: str) -> None:
    model = worlds.classifier(kind)
    (found,) = scorer(model, with_prompt=True).attention([written("text", end=False)])
    expected = seen_by(model, "go: text")[:, 0 if kind == "bert" else -1].mean(0)[4:]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
    assert found.sum() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_padding_gets_no_attention(kind: str) -> None:
    judge = scorer(worlds.classifier(kind))
    episodes = [written("a"), written("a much longer text than that"), written("é!")]
    for together, episode in zip(judge.attention(episodes), episodes, strict=True):
        assert together == pytest.approx(judge.attention([episode])[0], abs=1e-6)
        assert together.sum() == pytest.approx(1.0, abs=1e-5)


@given(text=UNICODE)
@pytest.mark.parametrize(("policy", "reader"), PAIRS)
def test_attention_on_foreign_tokens_is_split_and_none_is_lost(policy: str, reader: str, text: str) -> None:
    ours, theirs = worlds.tokenizers()[policy], worlds.tokenizers()[reader]
    judge = JUDGES.setdefault(reader, reads(theirs))
    episode = written(tokens=[*ours(text, add_special_tokens=False)["input_ids"][:40], ours.eos_token_id], tokenizer=ours)
    (found,) = judge.attention([episode])
    assert (found >= 0).all()
    assert found[-1] == 0
    assert found.sum() == pytest.approx(1.0 if episode.text else 0.0, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_telling_attention_leaves_the_model_as_it_was(kind: str) -> None:
    judge = scorer(worlds.classifier(kind))
    before = judge.model.config._attn_implementation, judge.score_texts(TEXTS)
    judge.attention([written("some text")])
    assert (judge.model.config._attn_implementation, judge.score_texts(TEXTS)) == before
    assert before[0] == "sdpa", "the model runs a fused kernel otherwise"


def test_only_the_layer_that_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = scorer(worlds.classifier("llama"))
    outputs = []
    forward = type(judge.model.model).forward
    monkeypatch.setattr(type(judge.model.model), "forward", lambda *a, **k: outputs.append(forward(*a, **k)) or outputs[-1])
    judge.attention([written("some text")])
    assert [output.attentions for output in outputs] == [None]


def test_a_model_that_does_not_say_where_its_attention_is_is_asked_for_all_of_it() -> None:
    config = transformers.DebertaV2Config(
        vocab_size=len(BYTES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.2, pad_token_id=256, num_labels=2,
    )  # fmt: skip
    with worlds.seeded():
        model = transformers.DebertaV2ForSequenceClassification(config).eval()
    (found,) = scorer(model, label=1).attention([written("some text", end=False)])
    expected = model(torch.tensor([worlds.ids("some text")]), output_attentions=True).attentions[-1][0, :, 0].mean(0)
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, r"layer 2 of a model of 2 layers; give -2\.\.1"),
        ({"layer": -3}, "layer -3"),
        ({"heads": 2}, r'heads must be "mean" or one of 0\.\.1, got 2'),
        ({"heads": "max"}, "got 'max'"),
    ],
)
def test_a_layer_or_head_that_does_not_exist_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer(worlds.classifier("llama")).attention([written("a")], **options)
