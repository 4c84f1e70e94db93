"""Summarization and LongFormQA as environments: what the policy reads, the scores, the metrics, the critics, one's own data."""

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from tests import worlds
from textenv import embedded
from textenv.aspects import Aspect
from textenv.critics.language_model import LanguageModelCritic
from textenv.data.prompts import load_prompts
from textenv.embedded import long_form, summarization
from textenv.episode import Episode, Prompt, Span
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.metrics.rouge import Rouge
from textenv.tasks import LongFormQA, Summarization
from textenv.tasks.conditional import checked_template

IDS = {"textenv/Summarization-v0": "summarization", "textenv/LongFormQA-v0": "long_form"}
BYTES = {"tokenizer": "bytes", "max_prompt_tokens": 600, "max_new_tokens": 400}


def made(name: str, **arguments: Any) -> Any:
    """The environment on bytes, by default with a scorer that counts characters."""
    return gym.make(name, **{**BYTES, "scorer": lambda episodes: [float(len(e.text)) for e in episodes], **arguments}).unwrapped


def written(env: Any, prompt: Prompt, text: str) -> Episode:
    """A finished and scored text."""
    (episode,) = env.credit([env.episode(prompt, worlds.ids(text, end=True))])
    return episode


# --- What the policy reads ---------------------------------------------------------------------------------------------


def test_the_policy_reads_the_document_and_then_summary() -> None:
    env = made("textenv/Summarization-v0", prompts=[Prompt("A {brace} fell.")])
    assert env.task.prompt_text(env.task.prompts[0]) == "A {brace} fell.\nSummary:"
    assert bytes(env.prompt_tokens(env.task.prompts[0]).tolist()).decode() == "A {brace} fell.\nSummary:"


def test_the_policy_reads_the_passages_the_question_and_then_answer() -> None:
    prompt = Prompt("Who?", context=("One.", "Two."))
    assert LongFormQA(prompts=[prompt], scorer=len).prompt_text(prompt) == "One.\nTwo.\nQuestion: Who?\nAnswer:"


def test_another_template_is_filled_in() -> None:
    prompt = Prompt("Who?", context=("One.",))
    task = LongFormQA(prompts=[prompt], scorer=len, template="{{Q}} {text} [{context}]")
    assert task.prompt_text(prompt) == "{Q} Who? [One.]"


@pytest.mark.parametrize("template", ["Summary:", "{text} {title}", "{text.strip}", "{", "{0}", "{}", "{context}"])
@pytest.mark.parametrize("cls", [Summarization, LongFormQA])
def test_a_template_without_text_or_with_other_fields_is_an_error(cls: Any, template: str) -> None:
    with pytest.raises(ValueError, match="template="):
        cls(scorer=len, template=template)
    with pytest.raises(ValueError, match="template="):
        checked_template(template)


@pytest.mark.parametrize(("name", "world"), IDS.items())
def test_the_embedded_prompts_fit_and_both_splits_can_be_had(name: str, world: str) -> None:
    for split, size in (("train", 2000), ("test", 400)):
        env = made(name, split=split)
        assert env.task.prompts == embedded.prompts(world, split)
        assert len(env.task.prompts) == size


# --- Scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_scores_against_the_references(kind: str) -> None:
    env = made("textenv/Summarization-v0", score=kind, scorer=None, prompts=[Prompt("d", references=("A cat sat.", "Dogs bark."))])
    prompt = env.task.prompts[0]
    assert [written(env, prompt, text).score for text in (" A cat sat.", " Dogs bark.", " x")] == [1.0, 1.0, 0.0]


def test_bad_scores_are_errors_with_the_way_out() -> None:
    bare = [Prompt("d", references=("r",)), Prompt("no reference here")]
    with pytest.raises(ValueError, match=r"1 of 2 prompts have none \(the first: 'no reference here'\); .*columns="):
        Summarization(prompts=bare, score="rouge1")
    with pytest.raises(ValueError, match=r"score must be one of reward, rouge1, .* got 'bleu'; a model is given as scorer="):
        Summarization(score="bleu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"score='rouge1' is the scorer; leave scorer=.* out"):
        Summarization(score="rouge1", scorer=len)


@pytest.mark.parametrize(
    ("cls", "prompt", "read"),
    [
        (Summarization, Prompt("A doc."), "A doc.\nSummary: Text."),
        (LongFormQA, Prompt("Who?", context=("One.", "Two.")), "One.\nTwo.\nQuestion: Who?\nAnswer: Text."),
    ],
)
def test_a_reward_model_reads_prompt_and_text_and_its_logit_is_the_score(
    cls: Any, prompt: Prompt, read: str, tmp_path: Path
) -> None:
    directory = worlds.saved(worlds.classifier("llama", labels=["good"]), tmp_path)
    name = next(name for name, world in IDS.items() if cls.__name__ in name)
    env = made(name, prompts=[prompt], scorer=str(directory))
    expected = SequenceClassifierScorer(directory, label=0, output="logit").score_texts([read])
    assert [written(env, prompt, " Text.").score] == pytest.approx(expected)


@pytest.mark.parametrize("name", IDS)
def test_the_default_reward_model_prefers_what_is_true(name: str) -> None:
    env = made(name, scorer=None, tokenizer="textenv/tiny", max_prompt_tokens=160, max_new_tokens=64, split="test")
    prompts = env.task.prompts[:64]
    wins = 0
    for prompt, other in zip(prompts, [*prompts[1:], prompts[0]], strict=True):
        texts = [" " + prompt.references[0], " " + other.references[0]]
        tokens = [[*env.tokenizer(t, add_special_tokens=False)["input_ids"], env.tokenizer.eos_token_id] for t in texts]
        right, wrong = env.task.score([env.episode(prompt, ids) for ids in tokens])
        wins += right > wrong
    assert wins >= 60


# --- Truth and metrics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "world"), [("textenv/Summarization-v0", summarization), ("textenv/LongFormQA-v0", long_form)])
def test_a_perfect_text_is_right_in_every_metric_and_silence_in_none(name: str, world: Any) -> None:
    env = made(name)
    prompt = env.task.prompts[0]
    best, none = written(env, prompt, " " + prompt.references[0]), written(env, prompt, "")
    assert env.task.truth([best, none]) == [world.truth_spans(prompt, best.text), []]
    found = env.task.metrics([best])
    shares = {key for key in found if key not in ("reward", "mean_words")}
    assert {key: found[key] for key in shares} == dict.fromkeys(shares, 1.0)
    assert found["reward"] == len(best.text)
    assert found["mean_words"] == len(prompt.references[0].split())
    silent = env.task.metrics([none])
    assert silent["rougeLsum"] == silent["mean_words"] == 0.0


def test_summarization_reports_support_and_coverage_by_prompt() -> None:
    document = "There is news about the hotel near the beach. It will move to Rome. It will open on Monday."
    env = made("textenv/Summarization-v0", prompts=[Prompt(document, references=("It moves.",)), Prompt("One's own text.")])
    own, other = env.task.prompts
    episodes = [
        written(env, own, " The hotel moves to Rome and opens on Friday."),
        written(env, own, " Well."),
        written(env, other, " It goes to Rome."),
    ]
    found = env.task.metrics(episodes)
    assert found["supported_share"] == 0.5  # of two statements; a text that states nothing does not count
    assert found["key_fact_coverage"] == 0.25
    assert set(found) == {
        "rouge1", "rouge2", "rougeL", "rougeLsum", "reward", "mean_words", "supported_share", "key_fact_coverage",
    }  # fmt: skip
    assert set(env.task.metrics(episodes[2:])) == {"reward", "mean_words"}
    with pytest.raises(ValueError, match=r"knows no truth about texts on prompts of one's own .*leave prompts= out"):
        env.task.truth(episodes)


def test_long_form_reports_factual_relevant_and_complete_shares() -> None:
    passage = "Anna lives in Rome. She plays the cello. Ben lives in Oslo."
    env = made("textenv/LongFormQA-v0", prompts=[Prompt("Where does Anna live and what does she play?", context=(passage,))])
    prompt = env.task.prompts[0]
    found = env.task.metrics([written(env, prompt, " Anna lives in Oslo. She plays the cello. Ben lives in Oslo. Ben plays.")])
    assert found["factual_share"] == 0.5
    assert found["relevant_share"] == 0.5
    assert found["complete_share"] == 0.5
    assert set(found) == {"reward", "mean_words", "factual_share", "relevant_share", "complete_share"}


def test_given_judges_are_asked_about_ones_own_prompts_only() -> None:
    asked = []

    def judge(episodes: Sequence[Episode]) -> list[list[Span]]:
        asked.extend(episode.text for episode in episodes)
        return [[Span(0, 2, 0.5), Span(2, 4, -0.5), Span(4, 5, -0.5)] if e.text else [] for e in episodes]

    aspect = Aspect("factuality", judge, "sentence")
    known = Prompt("Where does Anna live?", context=("Anna lives in Rome.",))
    env = made("textenv/LongFormQA-v0", prompts=[known, Prompt("Why?", context=("So.",))], aspects={"factuality": aspect})
    first, second = env.task.prompts
    texts = [written(env, first, " Anna lives in Rome."), written(env, second, " It is so."), written(env, second, "")]
    found = env.task.metrics(texts)
    assert asked == [" It is so.", ""]
    assert found["factual_share"].values.tolist() == [1.0, pytest.approx(1 / 3)]
    assert found["relevant_share"] == 1.0
    assert env.task.aspects["factuality"] is aspect
    assert "factual_share" not in made("textenv/LongFormQA-v0", prompts=[second]).task.metrics(texts[1:])


# --- Aspects and critics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        ("textenv/Summarization-v0", {"support": "sentence", "coverage": "text"}),
        ("textenv/LongFormQA-v0", {"factuality": "sentence", "relevance": "sub_sentence", "completeness": "text"}),
    ],
)
def test_the_aspects_are_there_before_their_models_are_loaded(
    name: str, granularity: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("loaded")

    monkeypatch.setattr("textenv.tasks.conditional.TokenClassifierJudge", refuse)
    task = made(name).task
    aspects = {key: task.aspects[key] for key in granularity}
    assert {key: aspect.granularity for key, aspect in aspects.items()} == granularity
    assert all(task.aspects[key] is aspect for key, aspect in aspects.items())
    with pytest.raises(RuntimeError, match="loaded"):
        next(iter(aspects.values())).judge([])


@pytest.mark.parametrize("name", IDS)
def test_the_embedded_judges_agree_with_the_truth(name: str) -> None:
    env = made(name, tokenizer="textenv/tiny", max_prompt_tokens=160, max_new_tokens=64, split="test")
    first = next(iter(env.task.aspects.values()))
    right = total = 0
    world = summarization if "Summarization" in name else long_form
    for prompt in env.task.prompts[:100]:
        other = prompt.references[0].replace("Monday", "Friday").replace(" six ", " seven ").replace("Paris", "Rome")
        ids = [*env.tokenizer(" " + other, add_special_tokens=False)["input_ids"], env.tokenizer.eos_token_id]
        episode = env.episode(prompt, ids)
        (judged,) = first.judge([episode])
        truth = world.sentence_verdicts(prompt, episode.text)
        right += sum((a.reward > 0) == (b.reward > 0) for a, b in zip(judged, truth, strict=True))
        total += len(truth)
    assert right / total >= 0.85


@pytest.mark.parametrize("name", IDS)
def test_a_critic_is_shown_the_prompt_beside_the_text(name: str) -> None:
    task = made(name, prompts=[Prompt("Who is it?", context=("Passage one.",))]).task
    shown = task.critique.prompt(" It is Ben.", task.prompts[0])
    last = shown.split("\n\n")[-1]
    assert last.startswith("Passage one." if "Long" in name else "Who is it?")
    assert last.endswith("It is Ben.\nErrors:")
    assert "word for word" in shown


@pytest.mark.parametrize("name", IDS)
def test_every_example_of_the_critique_can_be_read(name: str) -> None:
    form = made(name).task.critique
    for example, answer in form.examples:
        text = example["text"]
        spans, missing = form.read(answer, form.question(text).shown)
        assert not missing
        assert [text[s.start : s.end] for s in spans] == [item.strip() for item in answer.split(";") if item.strip() != "none"]


@pytest.mark.parametrize("name", IDS)
def test_a_critic_may_be_any_model_and_what_it_lists_is_bad(name: str) -> None:
    task = made(name, prompts=[Prompt("Who?", context=("One.",))]).task
    model, tokenizer = worlds.parrot(" Ben")
    form = replace(task.critique, instruction="", examples=())  # the model has 128 positions
    critic = task.load_critic(LanguageModelCritic(model, form, tokenizer=tokenizer))
    env = made(name, prompts=task.prompts)
    (spans,) = critic([written(env, task.prompts[0], " It is Ben.")])
    assert [(span.start, span.end, span.reward) for span in spans] == [(7, 10, -1.0)]


def test_unflagged_tokens_get_nothing_by_default() -> None:
    for task in (made(name).task for name in IDS):
        defaults = task.reward_defaults
        assert (defaults.positive, defaults.negative, defaults.neutral) == (0.5, -0.5, 0.0)
    assert (defaults.holistic_weight, defaults.gate) == (5.0, 0.6)


# --- One's own prompts -------------------------------------------------------------------------------------------------


def test_documents_with_references_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "summaries.jsonl"
    path.write_text(json.dumps({"document": "A long text.", "references": ["Short.", "Shorter."]}) + "\n", encoding="utf-8")
    env = made("textenv/Summarization-v0", prompts=str(path), columns={"text": "document"}, score="rougeL", scorer=None)
    (prompt,) = env.task.prompts
    assert prompt.references == ("Short.", "Shorter.")
    assert isinstance(env.task.scorer, Rouge)
    assert written(env, prompt, " Shorter.").score == 1.0


def test_questions_with_passages_in_sentences_are_read_from_a_file(tmp_path: Path) -> None:
    rows = [
        {"question": "Who?", "passages": [["Title", "One.", "Two."], ["Three."]], "gold": "It was one."},
        {"question": "Why?", "passages": ["Four."], "gold": "So."},
    ]
    path = tmp_path / "questions.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    columns = {"text": "question", "context": "passages", "references": "gold"}
    env = made("textenv/LongFormQA-v0", prompts=str(path), columns=columns)
    first, second = env.task.prompts
    assert (first.text, first.context, first.references) == ("Who?", ("Title One. Two.", "Three."), ("It was one.",))
    assert second.context == ("Four.",)
    assert env.task.prompt_text(first) == "Title One. Two.\nThree.\nQuestion: Who?\nAnswer:"
    assert env.task.metrics([written(env, second, " So.")])["rougeLsum"] == 1.0


def test_passages_of_another_shape_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"text": "Who?", "passages": [["One.", 2]]}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="column 'passages' should hold a text or a list of texts, not list"):
        load_prompts(path, columns={"context": "passages"})


def test_a_score_that_is_not_finite_is_refused() -> None:
    env = made("textenv/Summarization-v0", prompts=[Prompt("d")], scorer=lambda episodes: [math.nan] * len(episodes))
    with pytest.raises(ValueError, match="a score must be finite"):
        written(env, env.task.prompts[0], " x")
