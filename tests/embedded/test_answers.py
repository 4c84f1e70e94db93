"""Several answers to one prompt, and what judges are told about them and their prefixes."""

import random

import pytest
import torch

from textenv.embedded import networks, principles, verdicts
from textenv.embedded.answers import Answers
from textenv.embedded.critique import FORMS, critique_answer, critique_prompt
from textenv.embedded.material import Excerpts
from textenv.embedded.verdicts import LABELS
from textenv.embedded.wording import build_tokenizer
from textenv.embedded.worlds import ANSWERS, World, world
from textenv.episode import Prompt


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return build_tokenizer()[1]


def source(task: str, seed: int = 0) -> Answers:
    return Answers(world(task), random.Random(seed))


@pytest.mark.parametrize("task", ANSWERS)
def test_answers_to_one_prompt_differ_in_text_and_mostly_in_quality(task: str) -> None:
    answers, differ = source(task), 0
    for _ in range(60):
        drawn = answers.draw(4)
        assert len(set(drawn.texts)) == len(drawn.texts) <= 4
        assert all(text.startswith(" ") or not text[:1].isalpha() for text in drawn.texts)
        differ += len({round(answers.world.quality(drawn.prompt, text), 3) for text in drawn.texts}) > 1
    assert differ >= 50


def test_drafts_are_answered_among_the_rest() -> None:
    w = world("summarization")
    prompt = w.sample(random.Random(1)).prompt
    answers = Answers(w, random.Random(0), [(prompt, [" A draft."])], drafted=0.5)
    drawn = [answers.draw(3) for _ in range(60)]
    assert 15 < sum(d.prompt == prompt for d in drawn) < 45
    assert any(" A draft." in d.texts for d in drawn)


def test_the_same_seed_draws_the_same_answers() -> None:
    assert [source("long_form").draw(4) for _ in range(1)] == [source("long_form").draw(4) for _ in range(1)]


def test_the_targets_of_a_reward_model_are_the_qualities_of_the_prefixes(tokenizer: object) -> None:
    answers = source("summarization")
    batch = next(verdicts.judged_batches(tokenizer, [answers], random.Random(0)))
    assert batch.ids.shape == batch.targets.shape
    assert 3 <= len(set(batch.group.tolist())) <= len(batch.ids)
    for ids, targets, last, quality in zip(batch.ids, batch.targets, batch.last, batch.quality, strict=True):
        whole = tokenizer.decode(ids[: last + 1], skip_special_tokens=True)
        document = whole.split("\nSummary:")[0]
        assert float(targets[last]) == pytest.approx(float(quality))
        for i in (targets >= 0).nonzero().flatten().tolist():
            text = tokenizer.decode(ids[: i + 1], skip_special_tokens=True)[len(document) + len("\nSummary:") :]
            assert float(targets[i]) == pytest.approx(answers.world.quality(Prompt(document), text))
        assert not (targets[last + 1 :] >= 0).any()


def test_rows_of_a_group_answer_one_prompt(tokenizer: object) -> None:
    batch = next(verdicts.judged_batches(tokenizer, [source("summarization")], random.Random(0)))
    asked = [tokenizer.decode(ids, skip_special_tokens=True).split("\nSummary:")[0] for ids in batch.ids]
    for a, one in zip(batch.group.tolist(), asked, strict=True):
        assert all((a == b) == (one == other) for b, other in zip(batch.group.tolist(), asked, strict=True))


def test_aspects_are_marked_where_segments_end() -> None:
    prompt = Prompt("Where does Anna live?", context=("Anna lives in Rome. Ben lives in Oslo.",))
    text = " Anna lives in Rome. Ben lives in Rome."
    ends = [5, 11, 14, 19, 20, 24, 30, 33, 38, 39]
    marks = verdicts.aspect_marks("long_form", prompt, text, ends)
    assert {(4, LABELS.index("supported"), 1.0), (9, LABELS.index("supported"), 0.0)} <= set(marks)
    assert (9, LABELS.index("complete"), 1.0) in marks
    assert {i for i, label, _ in marks if LABELS[label] == "relevant"} == {4, 9}


def test_grammar_is_marked_on_every_token() -> None:
    marks = verdicts.aspect_marks("translation", Prompt("The man sleeps."), " Die Mann schläft.", [4, 9, 17, 18])
    assert marks == [(0, 3, 0.0), (1, 3, 1.0), (2, 3, 1.0), (3, 3, 1.0)]


def test_what_is_not_judged_has_no_target(tokenizer: object) -> None:
    batches = verdicts.judged_batches(tokenizer, [source("translation"), source("long_form")], random.Random(0))
    seen = torch.zeros(len(LABELS), dtype=torch.bool)
    for _ in range(8):
        batch = next(batches)
        told = batch.aspects >= 0
        assert told.shape == (*batch.ids.shape, len(LABELS))
        assert not told[batch.ids == tokenizer.pad_token_id].any()
        assert not told[batch.critique].any()
        assert not told[told[..., 3].any(1)][..., :3].any()  # a translation is judged by its grammar alone
        seen |= told.any(1).any(0)
    assert seen.tolist() == [True] * 4


@pytest.mark.parametrize("task", ANSWERS)
def test_the_right_critique_is_read_back_as_the_errors(task: str) -> None:
    answers, wrong = source(task), 0
    for _ in range(150):
        prompt, text = answers.one()
        errors = answers.world.errors(prompt, text)
        found, missing = FORMS[task].read(critique_answer(text, errors, task), FORMS[task].question(text, prompt).shown)
        assert not missing
        wrong += [(s.start, s.end) for s in found] != [(s.start, s.end) for s in errors]
    assert wrong <= 12  # a word that is right at its first place and wrong at its second


@pytest.mark.parametrize("task", ANSWERS)
def test_a_critic_of_answers_is_shown_question_and_answer_and_which_words_are_wrong(tokenizer: object, task: str) -> None:
    batches, seen = verdicts.judged_batches(tokenizer, [source(task)], random.Random(0)), 0
    for _ in range(4):
        batch = next(batches)
        for row, mark, marks, last in zip(batch.ids, batch.critique.long(), batch.marks, batch.last, strict=True):
            wrong = marks[:, 0]
            asked, end = tokenizer.decode(row[: int(mark.argmax())], skip_special_tokens=True), int(mark.nonzero()[-1])
            assert asked.endswith("\nErrors:")
            assert row[end].item() == tokenizer.eos_token_id
            text = tokenizer.decode(row[wrong >= 0], skip_special_tokens=True)
            assert asked.removesuffix("\nErrors:").endswith(text)
            assert asked.removesuffix("\nErrors:") == tokenizer.decode(row[: last + 1], skip_special_tokens=True)
            listed = tokenizer.decode(row[int(mark.argmax()) : end], skip_special_tokens=True).strip()
            words = tokenizer.decode(row[wrong == 1.0], skip_special_tokens=True)
            assert words.replace(" ", "") == ("" if listed == "none" else listed.replace(";", "").replace(" ", ""))
            seen += bool(words.strip())
    assert seen > 20


def test_a_text_that_its_critic_is_not_shown_as_it_is_is_left_out(tokenizer: object) -> None:
    w = world("summarization")
    prompt = w.sample(random.Random(1)).prompt
    answers = Answers(w, random.Random(0), [(prompt, [" Two\nlines."])], drafted=1.0)
    batch = next(verdicts.judged_batches(tokenizer, [answers], random.Random(0)))
    assert not any("Two\nlines" in tokenizer.decode(ids) for ids in batch.ids)


def test_a_critique_of_an_answer_needs_its_prompt() -> None:
    with pytest.raises(ValueError, match="'summarization' reads the prompt too"):
        critique_prompt(" It moves.", "summarization")


def test_the_targets_of_principles_are_the_verdicts_on_the_prefixes(tokenizer: object) -> None:
    excerpts = [Excerpts(random.Random(0), genre, []) for genre in ("detox", "sentiment")]
    ids, targets = next(verdicts.principle_batches(tokenizer, excerpts, random.Random(0)))
    for row, target in zip(ids[:10], targets[:10], strict=True):
        last = int((row != tokenizer.pad_token_id).sum()) - 1
        question, text = tokenizer.decode(row[: last + 1], skip_special_tokens=True).split("\n", 1)
        wordings = question.removeprefix("Principles: ").split("; ")
        chosen = [f"{'not ' * n}{name}" for name, pair in principles.PRINCIPLES.items() for n in (0, 1) if pair[n] in wordings]
        assert float(target[last]) == pytest.approx(0.5 + 0.49 * principles.verdict(chosen, text), abs=1e-6)
        assert float(target[0]) == -1.0


def test_an_unknown_principle_or_task_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no principle 'kind'; there are civil, cheerful, brief"):
        principles.question(["kind"])
    with pytest.raises(ValueError, match="no principle is asked for"):
        principles.question([])
    with pytest.raises(ValueError, match="no embedded task 'poetry'; there are sentiment, detox, summarization"):
        world("poetry")


def test_every_principle_and_its_negation_vote_oppositely() -> None:
    for name in principles.PRINCIPLES:
        for text in (" You oaf.", " It was good.", " Please check the list, it was very good and quite short."):
            assert principles.vote(name, text) == -principles.vote(f"not {name}", text)


def test_a_document_is_cut_before_its_first_span() -> None:
    for task in ("sentiment", "detox"):
        w: World = world(task)
        rng = random.Random(0)
        for _ in range(100):
            example = w.sample(rng)
            assert not w.truth_spans(Prompt(example.prompt.text), example.prompt.text)
            assert example.text.startswith(" ")


def test_batches_come_in_few_shapes(tokenizer: object) -> None:
    batches = verdicts.judged_batches(tokenizer, [source("summarization")], random.Random(0))
    assert {next(batches).ids.shape[1] % 8 for _ in range(8)} == {0}


def test_a_judge_begins_as_the_language_model_that_it_is_made_of(tokenizer: object) -> None:
    small = networks.language_model(tokenizer, 0, width=32, layers=2, heads=2).eval()
    large = networks.take_trunk(networks.language_model(tokenizer, 1, width=32, layers=3, heads=2), small).eval()
    ids = torch.tensor([[1, 300, 301, 302]])
    with torch.inference_mode():
        torch.testing.assert_close(large(ids).logits, small(ids).logits)
    with pytest.raises(RuntimeError, match="size mismatch"):
        networks.take_trunk(networks.language_model(tokenizer, 1, width=16, layers=2, heads=2), small)
