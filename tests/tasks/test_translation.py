"""Translation as an environment: what the policy reads, the scores, the aspects, the metrics, the critic, one's own data."""

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import transformers

from tests import worlds
from textenv import embedded
from textenv.critics.language_model import LanguageModelCritic
from textenv.data.prompts import load_prompts
from textenv.episode import Episode, Prompt, Span
from textenv.metrics.translation import QualityEstimation, ReferenceScorer, sentence_score
from textenv.tasks import Translation

BYTES = {"tokenizer": "bytes", "max_prompt_tokens": 200, "max_new_tokens": 200}
DOG = Prompt("The dog is sleeping in the kitchen.", references=("Der Hund schläft in der Küche.",))


def made(**arguments: Any) -> Any:
    """The environment on bytes."""
    return gym.make("textenv/Translation-v0", **{**BYTES, **arguments}).unwrapped


def written(env: Any, prompt: Prompt, text: str) -> Episode:
    """A finished and scored text."""
    (episode,) = env.credit([env.episode(prompt, worlds.ids(text, end=True))])
    return episode


def token_classifier(labels: Sequence[str] = ("supported", "grammatical")) -> Any:
    """A tiny causal token classifier on bytes that judges its labels apart."""
    names = dict(enumerate(labels))
    config = transformers.LlamaConfig(
        vocab_size=worlds.VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.5, id2label=names,
        label2id={name: i for i, name in names.items()}, problem_type="multi_label_classification", pad_token_id=256,
        bos_token_id=257, eos_token_id=258,
    )  # fmt: skip
    with worlds.seeded():
        return transformers.LlamaForTokenClassification(config).eval()


# --- What the policy reads ---------------------------------------------------------------------------------------------


def test_the_policy_reads_the_source_and_then_german() -> None:
    env = made()
    assert bytes(env.prompt_tokens(DOG).tolist()).decode() == "The dog is sleeping in the kitchen.\nGerman:"


def test_another_template_is_filled_in() -> None:
    task = Translation(prompts=[DOG], template="translate English to German: {text}")
    assert task.prompt_text(DOG) == "translate English to German: The dog is sleeping in the kitchen."


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_embedded_prompts_have_their_truth_and_references(split: str) -> None:
    task = Translation(split=split)
    assert list(task.prompts) == embedded.prompts("translation", split)
    for prompt in task.prompts[:200]:
        assert 1 <= len(prompt.references) <= 2
        assert task.is_embedded(written(made(), prompt, " Der"))


def test_stepping_through_a_reference_pays_a_perfect_score() -> None:
    prompt = embedded.prompts("translation")[0]
    env = gym.make("textenv/Translation-v0", **BYTES, prompts=[prompt])
    paid, episode = worlds.walk(env, worlds.ids(prompt.references[0], end=True))
    assert episode is not None
    assert episode.score == 1.0
    assert sum(paid) == 1.0


def test_a_text_renders_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    env = gym.make("textenv/Translation-v0", **BYTES, prompts=[DOG], render_mode="ansi")
    worlds.walk(env, worlds.ids(" Der Hund", end=True))
    assert "The dog is sleeping in the kitchen." in str(env.render())


# --- Scores ------------------------------------------------------------------------------------------------------------


def test_the_score_is_chrf_by_default_and_bleu_by_argument() -> None:
    text = " Der Hund schläft in das Küche."
    for score, kind in ((None, "chrf"), ("chrf", "chrf"), ("bleu", "bleu")):
        env = made(prompts=[DOG], **({"score": score} if score else {}))
        assert env.task.scorer.kind == kind
        assert written(env, DOG, text).score == pytest.approx(sentence_score(kind, text, DOG.references))
        assert written(env, DOG, " " + DOG.references[0]).score == pytest.approx(1.0)
        assert written(env, DOG, "").score == 0.0


def test_a_better_translation_scores_higher() -> None:
    for score in ("chrf", "bleu"):
        env = made(prompts=[DOG], score=score)
        texts = (" Der Hund schläft in der Küche.", " Der Hund schläft in die Küche.", " Die Katze ist groß.", " The dog")
        values = [written(env, DOG, text).score for text in texts]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[1] > values[2]


def test_several_references_are_compared_with() -> None:
    both = Prompt("Today the dog is sleeping.", references=("Heute schläft der Hund.", "Der Hund schläft heute."))
    env = made(prompts=[both])
    for reference in both.references:
        assert written(env, both, " " + reference).score == pytest.approx(1.0)


@pytest.mark.parametrize("score", ["chrf", "bleu"])
def test_prompts_without_references_say_what_can_be_done(score: str) -> None:
    with pytest.raises(ValueError, match=rf"{score}.*1 of 2 prompts.*'Where is it\?'.*references.*quality_estimation"):
        Translation(prompts=[DOG, Prompt("Where is it?")], score=score)
    assert Translation(prompts=[Prompt("Where is it?")], scorer=len).scorer is len


def test_a_reward_model_reads_source_and_translation(tmp_path: Path) -> None:
    directory = worlds.saved(worlds.classifier("llama", ("bad", "good"), seed=3), tmp_path)
    env = made(prompts=[DOG], score="reward", scorer=str(directory))
    scorer = env.task.scorer
    assert (scorer.output, scorer.label) == ("logit", 1)
    expected = scorer.score_texts(["The dog is sleeping in the kitchen.\nGerman: Der Hund"])[0]
    assert written(env, DOG, " Der Hund").score == pytest.approx(expected)
    assert type(made(prompts=[DOG], scorer=str(directory)).task.scorer) is type(scorer)  # a name alone is a reward model


def test_quality_estimation_needs_no_reference(tmp_path: Path) -> None:
    model = token_classifier()
    directory = worlds.saved(model, tmp_path)
    bare = Prompt(DOG.text)
    env = made(prompts=[bare], score="quality_estimation", scorer=str(directory))
    text = " Der Hund"
    asked = worlds.ids("The dog is sleeping in the kitchen.\nGerman:" + text)
    import torch

    with torch.inference_mode():
        right = model(input_ids=torch.tensor([asked])).logits[0, -len(text) :, 1].sigmoid()
    letters = [i for i, character in enumerate(text) if character != " "]
    assert written(env, bare, text).score == pytest.approx(float(right[letters].mean()), abs=1e-5)
    assert written(env, bare, "").score == 0.0


def test_quality_estimation_takes_a_models_own_label(tmp_path: Path) -> None:
    directory = worlds.saved(token_classifier(("OK", "BAD")), tmp_path)
    with pytest.raises(ValueError, match="grammatical"):
        made(prompts=[DOG], score="quality_estimation", scorer=str(directory))
    env = made(prompts=[DOG], scorer=QualityEstimation(str(directory), label="OK"))
    assert 0.0 < written(env, DOG, " Der Hund").score < 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "ter"}, r"score must be one of chrf, bleu, reward, quality_estimation, got 'ter'"),
        ({"score": "chrf", "scorer": len}, r"score='chrf' is the scorer"),
        ({"score": "bleu", "scorer": "a-model"}, r"score='bleu' is the scorer"),
        ({"template": "German:"}, "template="),
    ],
)
def test_bad_arguments_name_the_value_and_the_way_out(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Translation(prompts=[DOG], **arguments)


def test_a_language_that_cannot_be_called_is_an_error() -> None:
    with pytest.raises(TypeError, match="language must be callable"):
        Translation(prompts=[DOG], language="lingua")  # type: ignore[arg-type]


# --- Truth, aspects, critic --------------------------------------------------------------------------------------------


def test_the_truth_is_known_on_embedded_sentences_alone() -> None:
    env = made()
    episode = written(env, DOG, " Der Hund schläft in das Küche.")
    assert env.task.truth([episode]) == [[Span(21, 24, -1.0, "article")]]
    with pytest.raises(ValueError, match="Translation knows no truth about texts on prompts of one's own"):
        env.task.truth([replace(episode, prompt=Prompt("Where is the station?"))])


def test_the_aspects_are_grammar_language_and_readability() -> None:
    aspects = made().task.aspects
    assert list(aspects)[:3] == ["grammar", "language_confidence", "readability"]
    assert [aspect.granularity for aspect in list(aspects.values())[:3]] == ["token", "text", "text"]


def test_language_confidence_tells_german_from_english_and_takes_another_judge() -> None:
    env = made()
    texts = (" Der Hund schläft in der Küche.", " The dog sleeps in the kitchen.")
    german, english = (written(env, DOG, text) for text in texts)
    values = [spans[0].reward for spans in env.task.aspects["language_confidence"].judge([german, english])]
    assert values[0] > 0.95
    assert values[1] < 0.05
    other = made(language=lambda text: 0.25).task.aspects["language_confidence"]
    assert [spans[0].reward for spans in other.judge([german])] == [0.25]
    ((where, placed),) = other.placed([german])
    assert where.sum() == 1
    assert placed.sum() == 0.25


def test_readability_is_higher_for_shorter_words_and_nothing_for_no_text() -> None:
    env = made()
    judge = env.task.aspects["readability"].judge
    easy, hard, empty = (written(env, DOG, t) for t in (" Er geht.", " Verständlichkeitsuntersuchungen beunruhigen.", " "))
    values = judge([easy, hard, empty])
    assert values[0][0].reward > values[1][0].reward
    assert values[2] == []


def test_grammar_is_minus_one_on_tokens_in_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = worlds.saved(token_classifier(), tmp_path)
    monkeypatch.setattr("textenv.tasks.conditional.TokenClassifierJudge", _judge_from(str(directory)))
    env = made()
    aspect = env.task.aspects["grammar"]
    episode = written(env, DOG, " Der Hund schläft.")
    ((where, values),) = aspect.placed([episode])
    assert where.all()  # every token has a value
    assert set(values.tolist()) <= {-1.0, 0.0}
    assert not aspect.lower_is_better


def _judge_from(directory: str) -> Any:
    from textenv.judges.aspect_models import TokenClassifierJudge

    return lambda source, *rest, **options: TokenClassifierJudge(directory, *rest, **options)


def test_the_critic_reads_the_source_beside_the_translation() -> None:
    env = made()
    asked = env.task.critique.prompt(" Der Hund schläft in das Küche.", DOG)
    assert asked.endswith("\n\nThe dog is sleeping in the kitchen.\nGerman: Der Hund schläft in das Küche.\nErrors:")
    assert asked.count("\nErrors:") == 4  # three examples
    model, tokenizer = worlds.parrot(" das")
    bare = replace(env.task.critique, instruction="", examples=())
    (spans,) = LanguageModelCritic(model, bare, tokenizer=tokenizer)([written(env, DOG, " Der Hund schläft in das Küche.")])
    assert [(span.start, span.end, span.reward) for span in spans] == [(21, 24, -1.0)]


# --- Metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_sacrebleu_and_the_grammar() -> None:
    import sacrebleu

    env = made()
    cat = Prompt("The cat is old.", references=("Die Katze ist alt.",))
    pairs = [(DOG, " Der Hund schläft in das Küche."), (cat, " Die Katze ist alt."), (cat, " Die Katze sind alt.")]
    episodes = [written(env, prompt, text) for prompt, text in pairs]
    metrics = env.task.metrics(episodes)
    assert set(metrics) == {"bleu", "chrf", "length_ratio", "mean_score", "grammar_error_rate"}
    texts, references = [e.text.strip() for e in episodes], [[e.prompt.references[0] for e in episodes]]
    assert metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, references).score)
    assert metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, references).score)
    assert metrics["grammar_error_rate"] == pytest.approx(2 / 14)
    assert metrics["mean_score"] == pytest.approx(np.mean([e.score for e in episodes]))
    assert metrics["length_ratio"] == pytest.approx(1.0)
    for name, value in metrics.items():
        low, high = value.interval(n=50)
        assert low <= value <= high, name


def test_metrics_of_ones_own_prompts_leave_out_what_is_not_known() -> None:
    own = Prompt("Where is the station?")
    env = made(prompts=[own], scorer=lambda episodes: [0.5] * len(episodes))
    assert dict(env.task.metrics([written(env, own, " Wo ist der Bahnhof?")])) == {"mean_score": 0.5}


def test_a_text_without_words_has_no_error_rate() -> None:
    env = made()
    assert math.isnan(env.task.metrics([written(env, DOG, "")])["grammar_error_rate"])


# --- One's own data ----------------------------------------------------------------------------------------------------


def test_a_file_of_sentence_pairs_is_read_by_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl.gz"
    rows = [
        {"source": "You have only to watch what I do.", "references": ["Du musst nur zusehen, was ich mache."]},
        {"source": "I know.", "references": ["Ich weiß.", "Das weiß ich."]},
    ]
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    prompts = load_prompts(file, columns={"text": "source"})
    env = made(prompts=file, columns={"text": "source"})
    assert [prompt.references for prompt in env.task.prompts] == [tuple(row["references"]) for row in rows]
    assert written(env, prompts[1], " Das weiß ich.").score == pytest.approx(1.0)
    assert env.task.scorer.kind == ReferenceScorer("chrf").kind


def test_post_edited_translations_are_references_too(tmp_path: Path) -> None:
    file = tmp_path / "quality.jsonl"
    row = {"source": "He saves her .", "translation": "Er sie rettet .", "post_edit": "Er rettet sie .", "word_tags": ["OK"] * 4}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    env = made(prompts=file, columns={"text": "source", "references": "post_edit"})
    (prompt,) = env.task.prompts
    assert prompt.references == ("Er rettet sie .",)
    assert prompt.metadata["word_tags"] == ["OK"] * 4
