"""The truth about summaries: what is planted is what is found, and any text can be scanned."""

import itertools
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.embedded import summarization as world
from textenv.embedded.notices import KEY, SIDE
from textenv.episode import Prompt

DOCUMENT = (
    "Here is a note about the wooden hotel near the beach. The hotel will move to London. Anna photographed the balcony. "
    "It will open on Monday. The pillow was painted blue. Somebody brought the towel from Rome."
)
PROMPT = Prompt(DOCUMENT)
SEEDS = range(2000)


def tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def found(text: str) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.label) for s in world.truth_spans(PROMPT, text)]


def test_what_the_writer_planted_is_what_the_scanner_finds() -> None:
    labels = set()
    for seed in SEEDS:
        example = world.sample(random.Random(seed))
        assert tuple(world.truth_spans(example.prompt, example.text)) == example.spans, (seed, example.text)
        labels |= {span.label for span in example.spans}
    assert labels == set(world.REWARDS)


def test_every_reference_is_perfect() -> None:
    for seed in SEEDS:
        prompt = world.sample(random.Random(seed)).prompt
        for reference in prompt.references:
            assert world.quality(prompt, reference) == 1.0
            assert {span.label for span in world.truth_spans(prompt, reference)} == {"key fact"}
            assert world.coverage(prompt, reference) == 1.0


def test_documents_and_summaries_keep_to_their_budgets_and_begin_with_a_space() -> None:
    for seed in SEEDS:
        example = world.sample(random.Random(seed))
        assert tokens(example.prompt.text) + 3 <= 120
        assert tokens(example.text) <= 28
        assert example.text.startswith(" ")
        assert not example.text.startswith("  ")


def test_the_average_writer_is_halfway_and_a_perfect_summary_is_not_rare() -> None:
    qualities = [world.quality(e.prompt, e.text) for e in map(world.sample, map(random.Random, SEEDS))]
    assert 0.45 <= sum(qualities) / len(qualities) <= 0.6
    assert 0.15 <= qualities.count(1.0) / len(qualities) <= 0.3


def test_the_same_seed_writes_the_same_and_the_global_generator_is_left_alone() -> None:
    before = random.getstate()
    assert world.sample(random.Random(3)) == world.sample(random.Random(3))
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("text", "expected", "quality"),
    [
        (" The hotel moves to London and opens on Monday.", [("London", "key fact"), ("Monday", "key fact")], 1.0),
        (" The hotel moves to Rome.", [("Rome", "unsupported")], 0.25),
        (" The hostel moves to London.", [("hostel", "unsupported"), ("London", "key fact")], 0.5),
        (" It opens on Monday. It starts on Monday.", [("Monday", "key fact"), ("Monday", "repeated")], 0.625),
        (" The pillow was painted blue.", [("pillow was painted blue", "side fact")], 0.375),
        (" The pillow was painted red.", [("red", "unsupported")], 0.25),
        (" The balcony was painted blue.", [("blue", "unsupported")], 0.25),
        (" The towel came from Rome.", [("towel came from Rome", "side fact")], 0.375),
        (" London Monday the pillow", [], 0.5),
        (" It will cost six", [("six", "unsupported")], 0.25),
        (" It is run by Anna", [("Anna", "unsupported")], 0.25),
        (" opens on London, moves to Monday", [], 0.5),
        (" Julia, the carpet, Berlin", [("Julia", "unsupported"), ("carpet", "unsupported"), ("Berlin", "unsupported")], 0.0),
        ("", [], 0.5),
    ],
)
def test_any_text_is_judged_by_what_it_states(text: str, expected: list[tuple[str, str]], quality: float) -> None:
    assert found(text) == expected
    assert world.quality(PROMPT, text) == quality


def test_the_documents_own_wording_states_its_facts_too() -> None:
    assert {label for _, label in found(" " + DOCUMENT)} == {"key fact", "side fact"}
    assert world.coverage(PROMPT, DOCUMENT) == 1.0


def test_a_missing_fact_and_each_kind_of_mistake_lower_the_quality_wherever_they_stand() -> None:
    for seed in range(300):
        prompt = world.sample(random.Random(seed)).prompt
        whole, first = prompt.references[1], prompt.references[1].split(". ")[0] + "."
        side = re.search(r"The (\w+ (?:was painted|came from) \w+)\.", prompt.text)
        assert world.quality(prompt, first) < 1.0
        for mistake in ("It was in the zoo with my dentist.", first, *([side[0]] if side else [])):
            if "my dentist" not in prompt.text:
                assert world.quality(prompt, f"{mistake} {whole}") < 1.0
                assert world.quality(prompt, f"{whole} {mistake}") < 1.0


def test_each_sentence_is_supported_or_not() -> None:
    text = " The hotel moves to London. It opens on Friday. The pillow was painted blue. Well."
    verdicts = world.sentence_verdicts(PROMPT, text)
    assert [(text[s.start : s.end].strip(), s.reward) for s in verdicts] == [
        ("The hotel moves to London.", 1.0),
        ("It opens on Friday.", -1.0),
        ("The pillow was painted blue.", 1.0),
        ("Well.", -1.0),
    ]


def test_other_documents_are_told_apart_and_nothing_is_claimed_about_them() -> None:
    own = Prompt("The company goes to London and opens on Monday, its spokesman said.")
    assert world.is_embedded(PROMPT)
    assert not world.is_embedded(own)
    assert not world.is_embedded(Prompt("There is news about the hotel near the beach."))
    for judge in (world.truth_spans, world.quality, world.coverage, world.sentence_verdicts):
        with pytest.raises(ValueError, match="nothing is known about 'The company"):
            judge(own, "It goes to London.")


def test_every_word_that_is_written_is_in_the_vocabulary() -> None:
    known = set(world.vocabulary())
    for seed in SEEDS:
        example = world.sample(random.Random(seed))
        for text in (example.prompt.text, example.text, *example.prompt.references):
            assert set(re.findall(r"[A-Za-z]+", text)) <= known


def test_no_word_of_the_templates_is_a_value_or_a_noun() -> None:
    templates = [*world.OPENINGS, *(t for relation in (*KEY, *SIDE) for t in (*relation.told, *relation.said))]
    assert not world.facts.template_words(templates) & world._LISTED


WORDS = st.lists(st.sampled_from([*world.vocabulary(), ".", ",", "\n", "é", "\ud7ff"]), max_size=30).map(" ".join)


@given(st.one_of(st.text(), WORDS))
def test_any_text_at_all_can_be_scanned(text: str) -> None:
    spans = world.truth_spans(PROMPT, text)
    assert 0.0 <= world.quality(PROMPT, text) <= 1.0
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    assert sum(s.end - s.start for s in world.sentence_verdicts(PROMPT, text)) == len(text)
