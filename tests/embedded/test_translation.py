"""The translation world: what it writes is German, what is planted is found, and any text can be judged."""

import itertools
import random
from collections import Counter
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.embedded import german_forms as forms
from textenv.embedded import translation as world
from textenv.embedded.german_errors import tokens
from textenv.embedded.german_words import ADJECTIVES, NOUNS, VERBS
from textenv.embedded.german_writing import german, orders, written
from textenv.embedded.synchronous import english
from textenv.embedded.synchronous_reading import read_english
from textenv.embedded.synchronous_sampling import sentence
from textenv.embedded.translation_mistakes import KINDS, Draft, careless
from textenv.episode import Prompt, Span

SEEDS = range(2000)
GRAMMATICAL = ("article", "ending", "agreement", "word order", "untranslated")


def planted(draft: Draft) -> list[Span]:
    """The spans of a draft's mistakes; "in dem" stands in the text as "im", one span."""
    spans, at, i = list[Span](), 0, 0
    while i < len(draft.words):
        pair = draft.words[i : i + 2]
        joined = {("in", "dem"): "im", ("in", "das"): "ins", ("an", "dem"): "am"}.get(pair, "")
        count, form = (2, joined) if joined else (1, draft.words[i])
        begin = draft.text.lower().index(form.lower(), at)
        assert not draft.text[at:begin].strip()
        label = next((label for label in draft.labels[i : i + count] if label), "")
        if label:
            spans.append(Span(begin, begin + len(form), -1.0, label))
        at, i = begin + len(form), i + count
    assert at == len(draft.text)
    return spans


@cache
def examples() -> list[world.Example]:
    return [world.sample(random.Random(seed)) for seed in SEEDS]


def marked(text: str, spans: list[Span]) -> list[tuple[str, str]]:
    return [(text[span.start : span.end], span.label) for span in spans]


# ------------------------------------------------------------------------------------------------- the grammar


def test_the_lexicon_is_of_the_size_that_a_small_model_learns() -> None:
    assert 120 <= len(NOUNS) + len(VERBS) + len(ADJECTIVES) <= 140
    assert {noun.gender for noun in NOUNS.values()} == {"m", "f", "n"}
    assert all(noun.german != noun.german_plural for noun in NOUNS.values())  # every form says its number


def test_no_english_word_is_spelt_like_a_german_one() -> None:
    for key, noun in NOUNS.items():
        assert forms.english_readings(noun.english), key
        assert forms.english_readings(noun.english_plural), key
    for key in ADJECTIVES:
        assert forms.english_readings(key), key
    for key, verb in VERBS.items():
        assert " " in key or key == "be" or (forms.english_readings(key) and forms.english_readings(verb.past)), key


def test_every_source_is_read_back_as_the_tree_that_wrote_it() -> None:
    for seed in SEEDS:
        tree = sentence(random.Random(seed))
        back = read_english(english(tree))
        assert back is not None, english(tree)
        assert german(back) == german(tree)
        assert back == tree


def test_every_reference_is_accepted_and_has_no_error() -> None:
    for prompt in (example.prompt for example in examples()):
        for reference in prompt.references:
            assert world.accepts(reference), (prompt.text, reference, world.grammar_errors(reference))
            assert world.truth_spans(prompt, reference) == []
            assert world.quality(prompt, " " + reference) == 1.0


def test_every_permitted_order_is_accepted() -> None:
    for seed in range(500):
        tree = sentence(random.Random(seed))
        for words in orders(tree):
            text = written([word.form for word in words])
            assert world.accepts(text), text
            assert world.quality(world.prompt_of(tree), text) == 1.0


def test_sentences_are_short_and_hardly_ever_come_twice() -> None:
    lengths, sources = Counter[int](), set()
    for prompt in (example.prompt for example in examples()):
        lengths[len(prompt.text.split())] += 1
        sources.add(prompt.text)
        assert len(tokens(prompt.references[0])) <= 24
    assert min(lengths) == 4
    assert max(lengths) <= 14
    assert len(sources) > 0.98 * len(SEEDS)


@pytest.mark.parametrize(
    ("source", "translation"),
    [
        ("Yesterday the man did not buy a car.", "Gestern hat der Mann kein Auto gekauft."),
        ("We are going into the old church.", "Wir gehen in die alte Kirche."),
        ("The children are lying in the garden.", None),  # only animals and things lie in this world
        ("She gave her the book.", None),  # "her" is no word of it
        ("The cat lies on the table.", "Die Katze liegt auf dem Tisch."),
        ("He put the letter on the table.", "Er hat den Brief auf den Tisch gelegt."),
        ("The doctor called my sister this morning.", "Der Arzt hat heute Morgen meine Schwester angerufen."),
        ("I am opening the heavy door.", "Ich mache die schwere Tür auf."),
        ("The woman knows that her son sleeps.", None),
        ("The woman knows that our son is sleeping.", "Die Frau weiß, dass unser Sohn schläft."),
        ("When you are sick, you must sleep.", "Wenn du krank bist, musst du schlafen."),
        ("The guest followed the young women.", "Der Gast ist den jungen Frauen gefolgt."),
        ("These expensive clocks are not beautiful.", "Diese teuren Uhren sind nicht schön."),
        ("My friend wants to show the child a green bird.", None),  # goods are shown, not birds
        ("My friend wants to show the child a green bag.", "Mein Freund will dem Kind eine grüne Tasche zeigen."),
        ("In the evening you talk with the clever king.", "Am Abend sprichst du mit dem klugen König."),
        ("He does not need my bag today.", None),  # "need" is no habit
    ],
)
def test_hand_made_translations_are_what_the_grammar_writes(source: str, translation: str | None) -> None:
    tree = read_english(source)
    if translation is None:
        assert tree is None or not _drawn(tree), source
    else:
        assert tree is not None
        assert written([word.form for word in german(tree)]) == translation


def _drawn(tree: object) -> bool:
    """Whether the sampler would write the verb with these words (the reader does not ask)."""
    clause = tree.main  # type: ignore[attr-defined]
    sort = NOUNS[clause.subject.noun].sort if clause.subject.noun else "person"
    goods = NOUNS[clause.accusative.noun].sort if clause.accusative else ""
    verb = VERBS[clause.verb]
    return sort in verb.subjects and (not goods or goods in verb.objects) and bool(verb.progressive)


@pytest.mark.parametrize(
    "text",
    [
        "Heute kauft der Mann ein neues Auto.",
        "Der Mann kauft heute ein neues Auto.",
        "Die Frau hat dem Kind ein Buch gegeben.",
        "Ich glaube, dass der alte König schläft.",
        "Wir rufen unsere Tante an.",
        "Er hilft den Kindern.",
        "Die Katze liegt unter dem Tisch.",
        "Der Arzt ist gestern in die Stadt gefahren.",
        "Der Hund ist nicht müde.",
        "Sie hat keine Zeitung gelesen.",
        "Weil es geregnet hat, habe ich den teuren Mantel gesucht.",
        "Obwohl sie jung ist, muss die Königin arbeiten.",
        "Mein Bruder geht ins Haus, aber seine Freunde schlafen im Garten.",
        "Mein Bruder geht in das Haus.",  # not joined, and as good
        "Du liest.",
        "Der Hund ist in der Küche.",
    ],
)
def test_correct_german_is_accepted(text: str) -> None:
    assert world.grammar_errors(text) == []
    assert world.accepts(text)


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("Die Mann schläft.", [("Die", "article")]),
        ("Der Mann hilft die Frau.", [("die", "article")]),
        ("Der Mann sieht der Hund.", [("der", "article")]),
        ("Die Katze schläft im Küche.", [("im", "article")]),
        ("Er geht im Garten.", [("im", "article")]),
        ("Ein alte Mann schläft.", [("alte", "ending")]),
        ("Das alter Auto ist teuer.", [("alter", "ending")]),
        ("Die Autos sind alte.", [("alte", "ending")]),
        ("Er spielt mit den Kinder.", [("Kinder", "ending")]),
        ("Ich schläft.", [("schläft", "agreement")]),
        ("Die Kinder hat gespielt.", [("hat", "agreement")]),
        ("Der Mann hat nach Hause gegangen.", [("hat", "agreement"), ("nach", "extra word"), ("Hause", "extra word")]),
        ("Gestern der Mann hat geschlafen.", [("hat", "word order")]),
        ("Ich glaube, dass er hat das Auto verkauft.", [("hat", "word order")]),
        ("Er anruft die Frau.", [("anruft", "word order")]),
        ("Weil er ruft die Frau an, schläft sie nicht.", [("ruft", "word order")]),
        ("Er nicht kauft das Auto.", [("nicht", "word order")]),
        ("Er hat gekauft ein Auto.", [("gekauft", "word order")]),
        ("Er kauft ein car.", [("car", "untranslated")]),
        ("Er glaubt dass sie schläft.", [("dass", "left out")]),
        ("Mann schläft.", [("Mann", "left out")]),
        ("der Mann schläft.", [("der", "spelling")]),
        ("Der mann schläft.", [("mann", "spelling")]),
        ("Der Mann kauft kauft ein Auto.", [("kauft", "extra word")]),
        ("Der Mann kauft ein Blorb.", [("Blorb", "wrong word")]),
    ],
)
def test_wrong_german_is_marked_where_it_is_wrong(text: str, errors: list[tuple[str, str]]) -> None:
    assert marked(text, world.grammar_errors(text)) == errors
    assert not world.accepts(text)


@pytest.mark.parametrize(
    "text", ["", ".", "Der Mann", "Der Mann schläft", "Er schläft. Er schläft.", "Er  schläft.", "Er schläft .", "the man sleeps."]
)
def test_what_is_no_complete_sentence_is_not_accepted(text: str) -> None:
    assert not world.accepts(text)


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("kind", KINDS)
def test_every_planted_mistake_is_found_and_nothing_else(kind: str) -> None:
    made = 0
    for seed in range(800):
        rng = random.Random(f"{kind} {seed}")
        tree = sentence(rng)
        draft = careless(rng, tree, (kind,), 0.1 if seed % 2 else 0.5)
        wanted = planted(draft)
        made += bool(wanted)
        if kind == "left out" and len(draft.words) + 1 < len(german(tree)):
            continue  # several words are gone: there may be a nearer explanation than the writer's
        assert world.truth_spans(world.prompt_of(tree), draft.text) == wanted, (english(tree), draft.text)
        if kind in GRAMMATICAL:
            assert world.grammar_errors(draft.text) == wanted, draft.text
        if kind == "wrong word":  # with its own right article and endings
            assert world.grammar_errors(draft.text) == [], draft.text
    assert made > 100


def test_mistakes_of_all_kinds_together_are_nearly_always_found_as_they_were_made() -> None:
    found = 0
    for seed in SEEDS:
        rng = random.Random(seed)
        tree = sentence(rng)
        draft = careless(rng, tree)
        assert " " + draft.text == examples()[seed].text
        found += world.truth_spans(examples()[seed].prompt, draft.text) == planted(draft)
    assert found >= 0.98 * len(SEEDS)  # in the rest a nearer explanation exists than what the writer did


def test_the_writers_are_of_all_sorts() -> None:
    qualities = [world.quality(example.prompt, example.text) for example in examples()]
    assert 0.6 <= sum(qualities) / len(qualities) <= 0.75
    assert 0.15 <= sum(quality == 1.0 for quality in qualities) / len(qualities) <= 0.4
    assert sum(quality < 0.3 for quality in qualities) > 0.03 * len(qualities)
    assert {span.label for example in examples() for span in example.spans} >= set(KINDS)
    assert all(example.text.startswith(" ") and not example.text.startswith("  ") for example in examples())


def test_the_same_seed_writes_the_same_examples() -> None:
    assert world.sample(random.Random(3)) == world.sample(random.Random(3))
    assert world.sample(random.Random(3)) != world.sample(random.Random(4))


def test_every_word_that_is_written_is_of_the_vocabulary() -> None:
    known = set(world.vocabulary())
    for example in examples():
        for text in (example.prompt.text, *example.prompt.references, example.text):
            for i, word in enumerate(text.replace(".", " .").replace(",", " ,").split()):
                assert word in known or (i == 0 and word[0].lower() + word[1:] in known), (word, text)


# ------------------------------------------------------------------------------------------------- truth against the source


PROMPT = Prompt("The old man is buying a car today.")


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        (" Der alte Mann kauft heute ein Auto.", []),
        (" Heute kauft der alte Mann ein Auto.", []),
        (" Die alte Mann kaufen heute ein Auto.", [("Die", "article"), ("kaufen", "agreement")]),
        (" Die alte Frau kauft heute ein Auto.", [("Frau", "wrong word")]),  # its article is right
        (" Der alte Mann kauft heute eine Uhr.", [("Uhr", "wrong word")]),
        (" Der alte Mann ruft heute ein Auto an.", [("ruft", "wrong word"), ("an", "wrong word")]),
        (" Der junge Mann kauft heute ein Auto.", [("junge", "wrong word")]),
        (" Ein alter Mann kauft heute ein Auto.", [("Ein", "wrong word")]),
        (" Der alte Mann kauft gestern ein Auto.", [("gestern", "wrong word")]),
        (" Der alte Mann kauft ein Auto.", [("ein", "left out")]),  # heute
        (" Der alte Mann kauft heute ein.", [(".", "left out")]),
        (" Der alte Mann heute kauft ein Auto.", [("kauft", "word order")]),
        (" Der old Mann kauft heute ein Auto.", [("old", "untranslated")]),
        (" Der alte Mann buys heute ein car.", [("buys", "untranslated"), ("car", "untranslated")]),
        (" Der alte alte Mann kauft heute ein Auto.", [("alte", "extra word")]),
        (" Der alte Mann kauft heute ein Auto. Er", [("Er", "extra word")]),
        (" Der alte Mann", []),  # the rest may still come, and there is no word to mark
        ("", []),
    ],
)
def test_the_truth_names_each_wrong_word(text: str, spans: list[tuple[str, str]]) -> None:
    assert marked(text, world.truth_spans(PROMPT, text)) == spans


def test_quality_counts_what_is_wrong_missing_and_too_many() -> None:
    right = " Der alte Mann kauft heute ein Auto."  # 8 words and marks
    assert world.quality(PROMPT, right) == 1.0
    assert world.quality(PROMPT, right.replace("Der", "Die")) == pytest.approx((7 / 8) ** 2)
    assert world.quality(PROMPT, right.replace(" heute", "")) == pytest.approx((7 / 8) ** 2)
    assert world.quality(PROMPT, right + " Er") == pytest.approx((8 / 9) ** 2)
    assert world.quality(PROMPT, "") == 0.0
    assert world.quality(PROMPT, " Der alte Mann") == pytest.approx((3 / 8) ** 2)
    assert world.quality(PROMPT, " la la la") < 0.05


def test_the_quality_of_a_perfect_translation_grows_with_every_word() -> None:
    for seed in range(200):
        prompt = world.sample(random.Random(seed)).prompt
        text = " " + prompt.references[0]
        cuts = [token.end for token in tokens(text)]
        values = [world.quality(prompt, text[:cut]) for cut in cuts]
        assert values == sorted(values), text
        assert values[-1] == 1.0


def test_a_source_of_ones_own_has_no_truth_and_says_so() -> None:
    assert not world.is_embedded(Prompt("Where is the station?"))
    with pytest.raises(ValueError, match=r"Where is the station\?.*no sentence of the embedded grammar"):
        world.truth_spans(Prompt("Where is the station?"), " Wo ist der Bahnhof?")


GERMAN = st.lists(st.sampled_from(world.vocabulary()), max_size=30).map(" ".join)


@given(st.one_of(st.text(max_size=80), GERMAN))
def test_any_text_can_be_judged(text: str) -> None:
    for spans in (world.truth_spans(PROMPT, text), world.grammar_errors(text)):
        assert spans == sorted(spans, key=lambda span: span.start)
        assert all(span.reward == -1.0 and span.label and text[span.start : span.end].strip() for span in spans)
        assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    assert 0.0 <= world.quality(PROMPT, text) <= 1.0
    assert not (world.accepts(text) and world.grammar_errors(text))


def test_a_text_that_only_asks_for_praise_gets_none() -> None:
    for text in (" This translation is perfect.", " Errors: none", " Gut gut gut gut gut gut gut gut", " 10/10", " ." * 20):
        assert world.quality(PROMPT, text) <= 0.05, text
        assert world.truth_spans(PROMPT, text)
