"""The truth about long answers: what is planted is what is found; factual, relevant, complete."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.embedded import biographies, lexicon
from textenv.embedded import long_form as world
from textenv.episode import Prompt

PASSAGE = "Anna works as a pilot. She lives in Rome. Ben was born in May. Anna plays the cello. Ben lives in Oslo. He is an editor."
PROMPT = Prompt("Where does Anna live and what does she play?", context=(PASSAGE,))
SEEDS = range(2000)


def tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def found(text: str, prompt: Prompt = PROMPT) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.label) for s in world.truth_spans(prompt, text)]


def test_what_the_writer_planted_is_what_the_scanner_finds() -> None:
    labels = set()
    for seed in SEEDS:
        example = world.sample(random.Random(seed))
        assert tuple(world.truth_spans(example.prompt, example.text)) == example.spans, (seed, example.text)
        labels |= {span.label for span in example.spans}
    assert labels == set(world.REWARDS)


def test_every_reference_is_perfect_in_every_respect() -> None:
    for seed in SEEDS:
        prompt = world.sample(random.Random(seed)).prompt
        for reference in prompt.references:
            assert world.quality(prompt, reference) == 1.0
            assert world.completeness(prompt, reference) == 1.0
            assert {span.label for span in world.truth_spans(prompt, reference)} == {"supported"}
            assert {span.label for span in world.sentence_verdicts(prompt, reference)} == {"supported"}
            assert {span.label for span in world.relevance_verdicts(prompt, reference)} == {"relevant"}


def test_passages_questions_and_answers_keep_to_their_budgets() -> None:
    for seed in SEEDS:
        example = world.sample(random.Random(seed))
        assert tokens(example.prompt.context[0]) + tokens(example.prompt.text) + 5 <= 150
        assert tokens(example.text) <= 60
        assert 6 <= example.prompt.context[0].count(".") <= 9
        assert example.text.startswith(" ")


def test_the_average_writer_is_halfway_and_a_perfect_answer_is_not_rare() -> None:
    qualities = [world.quality(e.prompt, e.text) for e in map(world.sample, map(random.Random, SEEDS))]
    assert 0.45 <= sum(qualities) / len(qualities) <= 0.6
    assert 0.15 <= qualities.count(1.0) / len(qualities) <= 0.3


def test_the_same_seed_writes_the_same() -> None:
    assert world.sample(random.Random(3)) == world.sample(random.Random(3))


@pytest.mark.parametrize(
    ("text", "expected", "quality", "complete"),
    [
        (" Anna lives in Rome. She plays the cello.", [("Rome", "supported"), ("cello", "supported")], 1.0, 1.0),
        (" She lives in Rome.", [("Rome", "supported")], 0.75, 0.5),
        (" Anna lives in Oslo.", [("Oslo", "unsupported")], 0.25, 0.0),
        (" Ben lives in Oslo.", [("Ben lives in Oslo", "irrelevant")], 0.375, 0.0),
        (" Ben lives in Rome.", [("Rome", "unsupported")], 0.25, 0.0),
        (" Anna works as a pilot.", [("Anna works as a pilot", "irrelevant")], 0.375, 0.0),
        (" Anna is free on Monday.", [("Monday", "unsupported")], 0.25, 0.0),
        (" The birthday of Ben is in May.", [("birthday of Ben is in May", "irrelevant")], 0.375, 0.0),
        (" Anna moved to Rome, and she lives in Rome.", [("Rome", "supported"), ("Rome", "repeated")], 0.625, 0.5),
        (" That was a long time ago. She lives", [("That was a long time ago.", "irrelevant")], 0.375, 0.0),
        (" Zoe lives in", [("Zoe", "unsupported")], 0.25, 0.0),
        (" Ben was born in May. She lives in Rome.", [("Ben was born in May", "irrelevant"), ("Rome", "supported")], 0.625, 0.5),
        (" Anna plays the cello. He lives in Rome.", [("cello", "supported"), ("Rome", "supported")], 1.0, 1.0),
        (" Anna", [], 0.5, 0.0),
        ("", [], 0.5, 0.0),
    ],
)
def test_any_text_is_judged_by_what_it_states_about_whom(
    text: str, expected: list[tuple[str, str]], quality: float, complete: float
) -> None:
    assert found(text) == expected
    assert world.quality(PROMPT, text) == quality
    assert world.completeness(PROMPT, text) == complete


@pytest.mark.parametrize("question", ["What do we know about Anna?", "What is known about Anna?"])
def test_a_question_for_everything_asks_for_all_that_is_told_of_one_person(question: str) -> None:
    prompt = Prompt(question, context=(PASSAGE,))
    assert found(" Anna works as a pilot. Ben was born in May.", prompt) == [
        ("pilot", "supported"),
        ("Ben was born in May", "irrelevant"),
    ]
    assert world.completeness(prompt, " She works as a pilot and plays the cello.") == pytest.approx(2 / 3)


def test_factuality_goes_by_sentence() -> None:
    text = " Anna lives in Rome. She plays the organ. Ben was born in May, and he lives in Oslo. That was a long time ago."
    verdicts = world.sentence_verdicts(PROMPT, text)
    assert [(text[s.start : s.end].strip(), s.label) for s in verdicts] == [
        ("Anna lives in Rome.", "supported"),
        ("She plays the organ.", "unsupported"),
        ("Ben was born in May, and he lives in Oslo.", "supported"),
        ("That was a long time ago.", "unsupported"),
    ]


def test_relevance_goes_by_sub_sentence_and_does_not_ask_for_the_truth() -> None:
    text = " Anna lives in old Oslo, and Ben was born in May. She plays the cello. She plays the cello. That was a long time ago."
    verdicts = world.relevance_verdicts(PROMPT, text.replace("old ", ""))
    assert [s.reward for s in verdicts] == [-1.0, 1.0, -1.0, -1.0]  # four words do not make a sub-sentence
    text = " Anna moved to Oslo and lives in Oslo, and Ben was born in May. She plays the cello."
    verdicts = world.relevance_verdicts(PROMPT, text)
    assert [(text[s.start : s.end].strip(), s.reward) for s in verdicts] == [
        ("Anna moved to Oslo and lives in Oslo,", 1.0),
        ("and Ben was born in May.", -1.0),
        ("She plays the cello.", 1.0),
    ]


@pytest.mark.parametrize(
    ("question", "passage"),
    [
        ("When does bloom by troye sivan come out?", PASSAGE),
        ("Where does Anna live?", "Bloom is an album. It came out in 2018."),
        ("Where does Zoe live?", PASSAGE),
        ("When was Anna born?", PASSAGE),
        ("Where in Italy does Anna live?", PASSAGE),
        ("", ""),
    ],
)
def test_other_questions_are_told_apart_and_nothing_is_claimed_about_them(question: str, passage: str) -> None:
    own = Prompt(question, context=(passage,))
    assert world.is_embedded(PROMPT)
    assert not world.is_embedded(own)
    for judge in (world.truth_spans, world.quality, world.completeness, world.sentence_verdicts, world.relevance_verdicts):
        with pytest.raises(ValueError, match="nothing is known about"):
            judge(own, "Anna lives in Rome.")


def test_every_word_that_is_written_is_in_the_vocabulary() -> None:
    known = set(world.vocabulary())
    for seed in SEEDS:
        example = world.sample(random.Random(seed))
        for text in (example.prompt.text, *example.prompt.context, example.text, *example.prompt.references):
            assert set(re.findall(r"[A-Za-z]+", text)) <= known, text


def test_every_person_has_one_pronoun_and_every_question_is_understood() -> None:
    assert set(lexicon.NAME.split()) >= biographies.SHE
    relations = [relation.name for relation in biographies.RELATIONS]
    assert list(biographies.QUESTIONS) == relations
    told = [relation.told[0].format(who="Anna", name="Anna", value=relation.values[0]) for relation in biographies.RELATIONS]
    passage = biographies.with_article(". ".join(told).replace("<", "").replace(">", "") + ".")
    for relation in relations:
        known = world._read(biographies.write_question("Anna", [relation]), passage)
        assert known is not None
        assert known.asked == {relation}


def test_no_listed_word_stands_in_a_template() -> None:
    ways = [way for relation in biographies.RELATIONS for way in relation.told]
    assert not world.facts.template_words([*ways, *biographies.OFF_TOPIC]) & world._LISTED


WORDS = st.lists(st.sampled_from([*world.vocabulary(), ".", ",", "\n", "é", "\ud7ff"]), max_size=30).map(" ".join)


@given(st.one_of(st.text(), WORDS))
def test_any_text_at_all_can_be_scanned(text: str) -> None:
    spans = world.truth_spans(PROMPT, text)
    assert 0.0 <= world.quality(PROMPT, text) <= 1.0
    assert 0.0 <= world.completeness(PROMPT, text) <= 1.0
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert sum(s.end - s.start for s in world.sentence_verdicts(PROMPT, text)) == len(text)
    assert sum(s.end - s.start for s in world.relevance_verdicts(PROMPT, text)) == len(text)
