"""BLEU and chrF are sacrebleu's, of a sentence and of a corpus; intervals resample prompts; what German is and how it reads."""

import copy
import math
import random

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from textenv.episode import Episode, Prompt
from textenv.judges.german_text import german_probability, reading_ease, syllables
from textenv.metrics.translation import CorpusEstimate, ReferenceScorer, corpus_metrics, sentence_score

WORDS = ["der", "die", "das", "Hund", "Katze", "Haus", "alte", "kleine", "schläft", "sieht", "und", "nicht", "in", "auf", "."]


def finished(prompt: Prompt, text: str) -> Episode:
    env = worlds.make(max_prompt_tokens=64, max_new_tokens=200).unwrapped
    episode: Episode = env.episode(prompt, worlds.ids(text, end=True))
    return episode


def corpus(count: int = 30, each: int = 2, seed: int = 0) -> list[Episode]:
    """Texts that resemble their one or two references more or less."""
    rng = random.Random(seed)
    env = worlds.make(max_prompt_tokens=64, max_new_tokens=200).unwrapped
    out = []
    for number in range(count):
        reference = [rng.choice(WORDS) for _ in range(rng.randint(4, 10))]
        references = [" ".join(reference)] + ([" ".join(reversed(reference))] if number % 3 == 0 else [])
        prompt = Prompt(f"source {number}", references=tuple(references))
        for _ in range(each):
            text = " ".join(word if rng.random() < 0.8 else rng.choice(WORDS) for word in reference)
            out.append(env.episode(prompt, worlds.ids(" " + text, end=True)))
    return out


# --- Sentences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chrf", "bleu"])
def test_the_score_of_a_sentence_is_sacrebleus_over_a_hundred(kind: str) -> None:
    text, references = "Der Hund schläft in das Küche.", ["Der Hund schläft in der Küche.", "In der Küche schläft der Hund."]
    theirs = sacrebleu.sentence_chrf if kind == "chrf" else sacrebleu.sentence_bleu
    assert sentence_score(kind, " " + text, references) == pytest.approx(theirs(text, references).score / 100)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["chrf", "bleu"])
@given(text=st.text(max_size=40))
def test_a_score_is_a_share_and_a_copy_is_perfect(kind: str, text: str) -> None:
    assert 0.0 <= sentence_score(kind, text, ["Der Hund schläft."]) <= 1.0  # type: ignore[arg-type]
    assert sentence_score(kind, " Der Hund schläft.", ["Die Katze.", "Der Hund schläft."]) == pytest.approx(1.0)  # type: ignore[arg-type]
    assert sentence_score(kind, "", ["Der Hund schläft."]) == 0.0  # type: ignore[arg-type]


def test_what_has_no_reference_or_is_no_metric_says_so() -> None:
    with pytest.raises(ValueError, match="bleu compares a text with references, and 'Der Hund' has none"):
        sentence_score("bleu", "Der Hund", [])
    with pytest.raises(ValueError, match="kind must be one of chrf, bleu, got 'ter'"):
        sentence_score("ter", "Der Hund", ["Der Hund"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind must be one of chrf, bleu, got 'ter'"):
        ReferenceScorer("ter")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has none"):
        ReferenceScorer("chrf")([finished(Prompt("a"), "Der Hund")])


# --- Corpora -----------------------------------------------------------------------------------------------------------


def test_the_corpus_metrics_are_sacrebleus_with_one_or_several_references() -> None:
    episodes = corpus()
    metrics = corpus_metrics(episodes)
    texts = [e.text.strip() for e in episodes]
    refs = [[e.prompt.references[k] if k < len(e.prompt.references) else None for e in episodes] for k in range(2)]
    bleu = sacrebleu.metrics.BLEU().corpus_score(texts, refs)
    assert metrics["bleu"] == pytest.approx(bleu.score)
    assert metrics["chrf"] == pytest.approx(sacrebleu.metrics.CHRF().corpus_score(texts, refs).score)
    assert metrics["length_ratio"] == pytest.approx(bleu.sys_len / bleu.ref_len)


def test_an_interval_is_the_spread_of_the_metric_over_resampled_prompts() -> None:
    episodes = corpus(count=20, each=2)
    estimate = corpus_metrics(episodes)["bleu"]
    by_prompt = [episodes[i : i + 2] for i in range(0, len(episodes), 2)]
    rng, values = np.random.default_rng(7), []
    for _ in range(200):
        drawn = [e for i in rng.integers(20, size=20) for e in by_prompt[i]]
        refs = [[e.prompt.references[k] if k < len(e.prompt.references) else None for e in drawn] for k in range(2)]
        values.append(sacrebleu.metrics.BLEU().corpus_score([e.text.strip() for e in drawn], refs).score)
    wanted = np.quantile(values, [0.025, 0.975])
    assert estimate.interval(n=200, rng=np.random.default_rng(7)) == pytest.approx(tuple(wanted))
    assert estimate.interval() == estimate.interval()  # a table repeats
    assert estimate.interval()[0] < estimate < estimate.interval()[1]


def test_more_prompts_make_a_narrower_interval() -> None:
    few, many = (corpus_metrics(corpus(count))["chrf"].interval(n=300) for count in (10, 160))
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])


def test_prompts_without_references_are_left_out() -> None:
    episodes = corpus(count=5)
    bare = finished(Prompt("no reference"), " Der Hund")
    assert corpus_metrics([bare]) == {}
    assert corpus_metrics([*episodes, bare]) == corpus_metrics(episodes)


def test_an_estimate_survives_copying_and_tells_what_is_wrong_with_its_counts() -> None:
    estimate = corpus_metrics(corpus(count=5))["bleu"]
    twin = copy.deepcopy(estimate)
    assert twin == estimate
    assert twin.interval() == estimate.interval()
    with pytest.raises(ValueError, match=r"counts should be \(prompts, statistics\)"):
        CorpusEstimate([1, 2], "bleu")
    with pytest.raises(ValueError, match="0 < level < 1"):
        estimate.interval(level=1.0)
    assert math.isnan(CorpusEstimate(np.zeros((0, 10)), "bleu"))
    assert all(math.isnan(end) for end in CorpusEstimate(np.zeros((0, 10)), "bleu").interval())


# --- German ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("german", "english"),
    [
        ("Wo ist der Bahnhof?", "Where is the station?"),
        ("Die Verhandlungen wurden gestern unterbrochen.", "The negotiations were interrupted yesterday."),
        ("Ich verstehe kein Wort.", "I do not get a single word."),
        ("Das Wetter soll morgen besser werden.", "The weather should be better tomorrow."),
    ],
)
def test_german_is_told_from_english_in_sentences_of_any_kind(german: str, english: str) -> None:
    assert german_probability(german) > 0.9
    assert german_probability(english) < 0.1


def test_a_mixture_lies_between_and_repetition_proves_nothing() -> None:
    german, mixed = german_probability("Der Hund schläft in der Küche."), german_probability("Der dog schläft in the kitchen.")
    assert german_probability("The dog sleeps in the kitchen.") < mixed < german
    assert german_probability("Hund " * 30) == german_probability("Hund")


@given(st.text(max_size=60))
def test_any_text_has_a_probability(text: str) -> None:
    assert 0.0 <= german_probability(text) <= 1.0


@pytest.mark.parametrize(("word", "count"), [("Hund", 1), ("Küche", 2), ("Königin", 3), ("Bäume", 2), ("schläft", 1), ("Brrr", 1)])
def test_syllables_are_groups_of_vowels(word: str, count: int) -> None:
    assert syllables(word) == count


def test_the_reading_ease_is_amstads() -> None:
    assert reading_ease("Der Hund schläft.") == pytest.approx(180 - 3 - 58.5)
    assert reading_ease("Der Hund schläft. Die Katze schläft.") == pytest.approx(180 - 3 - 58.5 * 7 / 6)
    assert math.isnan(reading_ease(" ... "))
