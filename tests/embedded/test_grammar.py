"""The grammar: its texts carry their truth, it recognises what it writes, its probabilities are right."""

import math
import random
from collections import Counter

import pytest

from textenv.embedded import grammar, truth
from textenv.embedded.domains import DOMAINS
from textenv.embedded.engine import Grammar
from textenv.embedded.notation import Genre, rule, word_list


def documents(count: int, genre: str | None = None, seed: int = 0) -> list[grammar.Document]:
    rng = random.Random(seed)
    return [grammar.sample(rng, genre) for _ in range(count)]


def test_has_more_than_a_thousand_distinct_words() -> None:
    assert len(grammar.GRAMMAR.vocabulary()) >= 1000


def test_the_same_seed_writes_the_same_documents() -> None:
    assert documents(20) == documents(20)
    assert documents(20) != documents(20, seed=1)


def test_every_noun_belongs_to_one_domain() -> None:
    nouns = [w for slots in DOMAINS.values() for slot, words in slots.items() if slot != "did" for w in words.split()]
    assert not [word for word, count in Counter(nouns).items() if count > 1]


def test_no_word_that_is_marked_is_also_unmarked() -> None:
    marked = {w for spans in (truth.insult_spans, truth.sentiment_spans) for w in grammar.GRAMMAR.vocabulary() if spans(w)}
    for document in documents(1500):
        covered = {i for span in document.spans for i in range(span.start, span.end)}
        at = 0
        for word in document.text.split():
            start = document.text.index(word, at)
            at = start + len(word)
            assert word.strip(".,!?") not in marked or start in covered, (word, document.text)


@pytest.mark.parametrize("genre", ["sentiment", "detox"])
def test_the_scanner_recovers_the_spans_of_every_document(genre: str) -> None:
    for document in documents(1500, genre):
        spans = truth.sentiment_spans(document.text) if genre == "sentiment" else truth.insult_spans(document.text)
        assert tuple(spans) == document.spans, document.text


def test_documents_hold_no_spans_of_another_genre() -> None:
    assert not any(truth.insult_spans(d.text) for d in documents(500, "sentiment"))
    assert not any(truth.sentiment_spans(d.text) for d in documents(500, "detox"))


def test_every_sentence_is_accepted() -> None:
    for document in documents(400):
        for start, end in document.sentences:
            assert grammar.accepts(document.text[start:end]), document.text[start:end]


@pytest.mark.parametrize(
    "sentence",
    [
        "The plot were good.",
        "The plot and the soup were good.",  # two domains
        "the plot was good.",
        "The plot was good",
        "The plot was  good.",
        "You are a idiot.",
        "You are an weasel.",
        "The plot was not.",
        "Plot the was good.",
        "The plot was good. The plot was good.",
        ".",
        "",
        "Straße!",
    ],
)
def test_what_the_grammar_cannot_write_is_rejected(sentence: str) -> None:
    assert not grammar.accepts(sentence)


@pytest.mark.parametrize(
    "sentence",
    ["You are an idiot.", "The plot was not very bad, but the pasta was dull.".replace("pasta", "cast"), "Shut up, you weasel!"],
)
def test_what_the_grammar_can_write_is_accepted(sentence: str) -> None:
    assert grammar.accepts(sentence)


def test_a_first_fragment_is_judged_with_its_prompt_or_left_out() -> None:
    assert grammar.accepted_share(["plot was good. The cast was"], ["The"]) == 1.0
    assert grammar.accepted_share(["plot was good. The cast was dull."]) == 0.5
    assert grammar.accepted_share(["plot was good. The cast was dull."], skip_first=True) == 1.0
    assert math.isnan(grammar.accepted_share(["The plot was"]))


def test_sentences_of_the_prompt_itself_do_not_count() -> None:
    assert grammar.complete_sentences("was good.", "Nonsense here. The plot") == ["The plot was good."]
    assert grammar.complete_sentences(", but dull.", "It is good") == ["It is good, but dull."]


def test_as_many_prompts_as_texts_are_asked_for() -> None:
    with pytest.raises(ValueError, match="1 prompts for 2 texts"):
        grammar.accepted_share(["a", "b"], ["c"])


def small_grammar() -> Grammar:
    genre = Genre(
        "small",
        opening="open",
        rules={"open": rule("The {part} came."), "kind": rule("2 It is {part}.", "It is {part} and {part}."), "stop": rule("End!")},
        moods={"a": (0.25, {"kind": 0.5, "stop": 0.5}), "b": (0.75, {"kind": 1.0})},
        shortest=1,
        stop=0.5,
    )
    domains = {"x": {"part": word_list("bed lamp", 1.0)}, "y": {"part": word_list("soup pie", 1.0)}}
    return Grammar([genre], {}, domains, {})


def test_the_log_probability_is_that_of_the_text() -> None:
    ours, rng, count = small_grammar(), random.Random(0), 20_000
    drawn = Counter()
    log_p: dict[str, float] = {}
    for _ in range(count):
        document = ours.sample(rng)
        drawn[document.text] += 1
        assert log_p.setdefault(document.text, document.log_probability) == pytest.approx(document.log_probability)
    for text, times in drawn.most_common(12):
        p = math.exp(log_p[text])
        assert abs(times / count - p) < 4 * math.sqrt(p / count), text
    assert sum(math.exp(v) for v in log_p.values()) < 1.0


def test_no_two_derivations_write_the_same_sentence() -> None:
    for option in [*grammar.GRAMMAR.rules.values(), *(o for slots in grammar.GRAMMAR.domains.values() for o in slots.values())]:
        assert len(set(option.symbols)) == len(option.symbols)
    kinds: dict[str, str] = {}
    for document in documents(3000):
        for kind, (start, end) in zip(document.kinds, document.sentences, strict=True):
            assert kinds.setdefault(document.text[start:end], kind) == kind


def test_no_noun_is_written_twice_in_a_sentence() -> None:
    for document in documents(300, "sentiment"):
        for start, end in document.sentences:
            words = [w for w in document.text[start:end].replace(",", "").replace(".", "").split() if w in NOUNS]
            assert len(words) == len(set(words)), document.text[start:end]


NOUNS = {w for slots in DOMAINS.values() for w in slots["part"].split()}
