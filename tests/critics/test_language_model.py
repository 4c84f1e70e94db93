"""A critic's answer is read strictly: it parses to spans that stand in the text, or it is a failure that is counted."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import make
from textenv.critics import CritiqueFormat, LanguageModelCritic, Section, load_critic, parse_critique
from textenv.critics.language_model import CritiqueError, one_line
from textenv.episode import Prompt

ONE = (Section("Insults", -1.0),)
TWO = (Section("Positive", 1.0), Section("Negative", -1.0))


def marked(answer: str, text: str, sections: Any = ONE) -> list[str]:
    spans, missing = parse_critique(answer, text, sections)
    assert not missing
    return [text[span.start : span.end] for span in spans]


# --- Parsing -----------------------------------------------------------------------------------------------------------


def test_a_list_is_parsed_into_spans() -> None:
    assert marked(" weasel; old goat", "you old goat, you weasel") == ["old goat", "weasel"]


@pytest.mark.parametrize("answer", ["none", " none", "none "])
def test_none_is_an_empty_list(answer: str) -> None:
    assert marked(answer, "none of it") == []


def test_each_section_gives_its_own_reward() -> None:
    spans, _ = parse_critique(" a joy\nNegative: slow", "a joy, if slow", TWO)
    assert [(s.reward, s.label) for s in spans] == [(1.0, "Positive"), (-1.0, "Negative")]


def test_an_item_listed_twice_marks_its_second_occurrence() -> None:
    spans, missing = parse_critique(" bad; bad", "bad and bad", ONE)
    assert ([(s.start, s.end) for s in spans], missing) == ([(0, 3), (8, 11)], [])


def test_an_item_listed_more_often_than_it_stands_there_is_missing() -> None:
    spans, missing = parse_critique(" bad; bad", "bad day", ONE)
    assert ([(s.start, s.end) for s in spans], missing) == ([(0, 3)], ["bad"])


def test_an_answer_that_lists_more_than_the_text_holds_is_no_answer() -> None:
    with pytest.raises(CritiqueError, match="the answer lists 9 characters of a text that has 7"):
        parse_critique(" bad; sad; mad", "bad day", ONE)


@pytest.mark.parametrize("answer", [" bad; bad; bad", " bad bad bad", " bad bad; bad bad bad", " bad; bad bad mad mad mad"])
def test_what_is_listed_again_and_again_asks_for_no_more_than_stands_there(answer: str) -> None:
    spans, missing = parse_critique(answer, "bad day", ONE)
    assert [(s.start, s.end) for s in spans] == [(0, 3)]
    assert missing


@pytest.mark.parametrize(
    ("item", "text", "expected"),
    [
        ("weasel weasel weasel", "a weasel, a weasel", ["weasel", "weasel"]),
        ("weasel weasel", "weasel, weasel and weasel", ["weasel", "weasel"]),
        ("old goat old goat old goat", "you old goat", ["old goat"]),
        ("fool fool old goat old goat mad", "old goat and fool", ["old goat", "fool"]),
        ("ass ass", "assess the ass", ["ass", "ass"]),
        ("fool old fool", "you old fool, you", []),
        ("foolfool", "you old fool", []),
        ("mad mad mad", "you old fool", []),
    ],
)
def test_a_phrase_that_an_item_repeats_marks_the_places_that_it_has(item: str, text: str, expected: list[str]) -> None:
    spans, missing = parse_critique(f" {item}", text, ONE)
    assert [text[s.start : s.end] for s in spans] == expected
    assert missing == [item], "it is no item of the text, and is counted as such"


def test_an_item_that_stands_there_comes_before_one_that_repeats_itself() -> None:
    spans, missing = parse_critique(" sick sick sick\nNegative: sick", "sick of a sick joke", TWO)
    assert ([(s.start, s.label) for s in spans], missing) == ([(0, "Negative"), (10, "Positive")], ["sick sick sick"])


def test_a_place_stands_on_one_list_alone() -> None:
    spans, missing = parse_critique(" sick\nNegative: sick", "sick beat", TWO)
    assert ([span.label for span in spans], missing) == (["Positive"], ["sick"])


def test_the_longest_item_is_placed_first() -> None:
    spans, _ = parse_critique(" good\nNegative: not good", "not good, but good", TWO)
    assert [(span.start, span.end, span.label) for span in spans] == [(0, 8, "Negative"), (14, 18, "Positive")]


def test_a_whole_word_is_preferred_to_a_part_of_one() -> None:
    assert [s.start for s in parse_critique(" ass", "assess the ass", ONE)[0]] == [11]


def test_a_part_of_a_word_is_marked_where_no_whole_one_stands() -> None:
    assert marked(" ass", "assess") == ["ass"]


@pytest.mark.parametrize(
    ("answer", "sections", "message"),
    [
        ("", ONE, "an empty item in the list 'Insults'"),
        (" a;; b", ONE, "an empty item"),
        (" a;", ONE, "an empty item"),
        (" a\nmore", ONE, "has 2 lists where 1 were asked for"),
        (" a", TWO, "has 1 lists where 2 were asked for"),
        (" a\nBad: b", TWO, "list 2 should begin with 'Negative:'"),
        (" a\nNegative b", TWO, "list 2 should begin with 'Negative:'"),
    ],
)
def test_an_answer_of_another_form_is_an_error(answer: str, sections: Any, message: str) -> None:
    with pytest.raises(CritiqueError, match=message):
        parse_critique(answer, "a b", sections)


def test_what_is_not_in_the_text_is_told_apart_from_what_is() -> None:
    spans, missing = parse_critique(" ghost; bad", "bad idea", ONE)
    assert ([(s.start, s.end) for s in spans], missing) == ([(0, 3)], ["ghost"])


@pytest.mark.parametrize(
    ("answer", "sections", "expected"),
    [
        (" bad; ba", ONE, ["bad"]),
        (" ba", ONE, []),
        (" bad\nNeg", TWO, ["bad"]),
        (" bad\nNegative: so; s", TWO, ["bad", "so"]),
        (" bad; so", TWO, ["bad"]),
        (" so sad so sad so", ONE, ["so sad"]),
        (" bad; sad sad sa", ONE, ["bad", "sad"]),
        (" bad; sad sad", ONE, ["bad"]),
    ],
)
def test_an_answer_that_was_cut_loses_its_last_item(answer: str, sections: Any, expected: list[str]) -> None:
    text = "bad, so sad"
    spans, _ = parse_critique(answer, text, sections, complete=False)
    assert [text[s.start : s.end] for s in spans] == expected


@given(
    answer=st.text(st.sampled_from("ab ;:\nNegative"), max_size=20) | st.text(max_size=20),
    text=st.text(st.sampled_from("ab "), max_size=12) | st.text(max_size=20),
    sections=st.sampled_from([ONE, TWO]),
    complete=st.booleans(),
)
def test_any_answer_gives_verbatim_spans_or_raises(answer: str, text: str, sections: Any, complete: bool) -> None:
    try:
        spans, missing = parse_critique(answer, text, sections, complete=complete)
    except CritiqueError:
        return
    items = [item.strip() for line in answer.split("\n") for item in line.removeprefix("Negative:").split(";")]
    for span in spans:
        marked = text[span.start : span.end]
        assert marked in items or any(f"{marked} {marked}" in item for item in items)
    assert set(missing) <= set(items)
    assert [s.start for s in spans] == sorted(s.start for s in spans)


@given(data=st.data(), text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_what_a_perfect_critic_says_parses_back(data: Any, text: str) -> None:
    text = one_line(text)
    assume(";" not in text)  # `show` makes a comma of it
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    places = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if text[a:b].strip() == text[a:b] != "none"]
    assume(all(text.count(text[a:b]) == 1 for a, b in places))  # an item is placed by its words alone
    good, bad = places[::2], places[1::2]

    def listed(chosen: list[tuple[int, int]]) -> str:
        return "; ".join(text[a:b] for a, b in chosen) or "none"

    spans, missing = parse_critique(f" {listed(good)}\nNegative: {listed(bad)}", text, TWO)
    assert missing == []
    for reward, chosen in ((1.0, good), (-1.0, bad)):
        assert sorted(text[s.start : s.end] for s in spans if s.reward == reward) == sorted(text[a:b] for a, b in chosen)


@given(text=st.text(max_size=30))
def test_a_text_on_one_line_keeps_its_positions(text: str) -> None:
    assert len(one_line(text)) == len(text)
    assert one_line(text).splitlines() in ([one_line(text)], [])


# --- The model ---------------------------------------------------------------------------------------------------------


def episodes(*texts: str) -> list[Any]:
    env = make(max_new_tokens=64)
    return [env.get_wrapper_attr("episode")(Prompt("p"), list(text.encode())) for text in texts]


def answering(answer: str, **options: Any) -> LanguageModelCritic:
    """A real model that writes `answer` and ends."""
    model, tokenizer = worlds.parrot(answer)
    return LanguageModelCritic(model, CritiqueFormat(ONE), tokenizer=tokenizer, **options)


def test_a_model_that_answers_in_form_gives_its_spans() -> None:
    critic = answering(" bad; sad")
    texts = ["a sad and bad day", "bad, sad"]
    out = critic(episodes(*texts))
    assert [[text[s.start : s.end] for s in spans] for text, spans in zip(texts, out, strict=True)] == [
        ["sad", "bad"],
        ["bad", "sad"],
    ]
    assert critic.metrics()["credit/critic_texts"] == 2.0


def test_an_answer_ends_with_its_last_list_whatever_the_model_writes_next() -> None:
    critic = answering(" bad\nAnother example")
    assert [len(spans) for spans in critic(episodes("bad"))] == [1]


def test_an_answer_that_cannot_be_parsed_raises_where_asked() -> None:
    with pytest.raises(CritiqueError, match="an empty item in the list 'Insults': ' ;'"):
        answering(" ;", on_error="raise")(episodes("bad"))


def test_a_span_that_is_not_in_the_text_raises_where_asked() -> None:
    with pytest.raises(CritiqueError, match=r"listed \['ghost'\], which is not in the text 'bad idea'"):
        answering(" bad; ghost", on_error="raise")(episodes("bad idea"))


def test_what_cannot_be_parsed_is_skipped_and_counted_where_asked() -> None:
    critic = answering(" ;", on_error="skip")
    assert critic(episodes("bad", "sad")) == [None, None]  # no verdict, which is not the verdict "none"
    metrics = critic.metrics()
    assert metrics["credit/critic_parse_failures"] == 2.0
    assert metrics["credit/critic_seconds"] > 0
    assert set(critic.metrics().values()) == {0.0}


def test_the_good_items_of_a_skipped_answer_are_kept() -> None:
    critic = answering(" bad; ghost", on_error="skip")
    assert [[(s.start, s.end) for s in spans or []] for spans in critic(episodes("bad idea"))] == [[(0, 3)]]
    assert critic.metrics()["credit/critic_parse_failures"] == 1.0


def test_an_answer_without_end_loses_its_last_item_and_is_counted() -> None:
    critic = answering(" bad; sad and so on", on_error="skip", max_new_tokens=4)
    assert [[(s.start, s.end) for s in spans] for spans in critic(episodes("bad sad"))] == [[(0, 3)]]
    assert critic.metrics()["credit/critic_parse_failures"] == 1.0


def test_a_critic_that_fails_at_most_texts_is_warned_of_and_stays_counted() -> None:
    critic = answering(" ;", on_error="skip")
    with pytest.warns(RuntimeWarning, match=r"12 of 12 answers could not be parsed, the last one ' ;'"):
        critic(episodes(*["bad"] * 12))
    assert critic.metrics()["credit/critic_parse_failures"] == 12.0


def test_an_empty_text_is_not_asked_about() -> None:
    critic = answering(" bad", on_error="raise")
    assert critic(episodes("", "  ")) == [[], []]
    assert critic.metrics()["credit/critic_texts"] == 0.0


def test_a_batch_answers_as_one_text_at_a_time(llama_directory: Path) -> None:
    critic = LanguageModelCritic(llama_directory, CritiqueFormat(ONE), on_error="skip", max_new_tokens=12, batch_size=3)
    texts = ["a", "a longer text than that", "", "b c", "é", "the longest text of them all, it is", "x y z"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert critic.answers(texts) == [critic.answers([text])[0] for text in texts]


def test_a_question_that_does_not_fit_is_refused(llama_directory: Path) -> None:
    critic = LanguageModelCritic(llama_directory, CritiqueFormat(ONE, instruction="x" * 100), max_new_tokens=12)
    with pytest.raises(ValueError, match=r"a question of \d+ tokens and an answer of 12 exceed its positions"):
        critic(episodes("a text that is somewhat long"))


def test_a_text_that_does_not_fit_is_read_at_its_beginning_and_its_end(llama_directory: Path) -> None:
    critic = LanguageModelCritic(llama_directory, CritiqueFormat(ONE), max_new_tokens=12, on_error="skip")
    env = make(max_new_tokens=400)
    text = "begin " + "m" * 300 + " end"
    critic([env.get_wrapper_attr("episode")(Prompt("p"), list(text.encode()))])
    assert critic.metrics()["credit/critic_cut"] == 1.0
    question = critic._question(text)
    assert question.text.startswith("begin mm")
    assert question.text.endswith("mm end\nInsults:")
    assert len(question.text.encode()) <= 116


def test_a_document_is_cut_before_a_text_that_fits(llama_directory: Path) -> None:
    form = CritiqueFormat(ONE, template="{prompt}\nSummary: {text}")
    critic = LanguageModelCritic(llama_directory, form, max_new_tokens=12)
    question = critic._question("short", Prompt("d" * 500))
    assert question.text.endswith("\nSummary: short\nInsults:")
    assert not question.shown.cut


def test_a_budget_of_nothing_is_refused(llama_directory: Path) -> None:
    with pytest.raises(ValueError, match="max_new_tokens and max_text must be at least 1, got 0 and 8000"):
        LanguageModelCritic(llama_directory, CritiqueFormat(ONE), max_new_tokens=0)


def test_the_question_shows_instruction_examples_and_the_text_on_one_line() -> None:
    form = CritiqueFormat(TWO, "Judge.", (("A\nB", " A\nNegative: B"),))
    assert form.prompt(" one\ntwo ") == "Judge.\n\nA B\nPositive: A\nNegative: B\n\none two\nPositive:"


def test_every_example_is_an_answer_whose_spans_stand_in_its_text() -> None:
    from textenv.tasks import detox, long_form_qa, sentiment, summarization, translation

    forms = [form.CRITIQUE for form in (detox, summarization, long_form_qa, translation)]
    shown = [(form.sections, *example) for form in forms for example in form.examples]
    shown += [(TWO, *example) for example in sentiment.EXAMPLES]
    for sections, example, answer in shown:
        text = example["text"] if isinstance(example, dict) else example
        items = [item.strip() for line in answer.split("\n") for item in line.split(":")[-1].split(";")]
        assert sorted(marked(answer, text, sections)) == sorted(item for item in items if item != "none")


def test_a_critic_is_not_copied_with_its_environment(llama_directory: Path) -> None:
    critic = LanguageModelCritic(llama_directory, CritiqueFormat(ONE))
    assert copy.deepcopy(critic) is critic


def test_a_critic_by_name_skips_and_counts(llama_directory: Path) -> None:
    critic = load_critic(str(llama_directory), CritiqueFormat(ONE, "Judge."))
    assert isinstance(critic, LanguageModelCritic)
    assert (critic.on_error, critic.form.instruction) == ("skip", "Judge.")


def test_a_model_object_needs_its_tokenizer() -> None:
    with pytest.raises(ValueError, match="a model object needs its tokenizer: pass tokenizer="):
        LanguageModelCritic(worlds.llama(), CritiqueFormat(ONE))


def test_an_unknown_way_to_handle_errors_is_refused(llama_directory: Path) -> None:
    with pytest.raises(ValueError, match='on_error must be "raise" or "skip", got \'zero\''):
        LanguageModelCritic(llama_directory, CritiqueFormat(ONE), on_error="zero")  # type: ignore[arg-type]


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no"):
        load_critic(str(tmp_path), CritiqueFormat(ONE))


def test_a_model_without_tokenizer_is_named(tmp_path: Path) -> None:
    worlds.saved(worlds.llama(), tmp_path, tokenizer=None)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_critic(str(tmp_path), CritiqueFormat(ONE))


def test_positions_are_those_of_the_text_with_its_line_breaks() -> None:
    critic = answering(" bad day", on_error="raise")
    (spans,) = critic(episodes("a\nbad\nday"))
    assert [(s.start, s.end) for s in spans] == [(2, 9)]
    assert np.isfinite(critic.metrics()["credit/critic_seconds"])
