"""What tiny learns from: rows of every kind, packed without seeing each other, learned where an answer is."""

import random
from itertools import pairwise

import pytest
import torch

from textenv.embedded import lessons, networks, truth
from textenv.embedded.contrastive import CONTRASTIVE
from textenv.embedded.lessons import KINDS, SHARES, Lessons
from textenv.embedded.wording import build_tokenizer
from textenv.embedded.worlds import ANSWERS, world
from textenv.episode import Prompt


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return build_tokenizer()[1]


def test_a_packed_row_is_read_as_if_it_stood_alone(tokenizer: object) -> None:
    step = next(iter(Lessons(tokenizer, random.Random(0), lines=2)))
    model = networks.language_model(tokenizer, 0, width=32, layers=2, heads=2).eval()
    with torch.inference_mode():
        packed = model(step.ids, attention_mask=step.mask, position_ids=step.positions, use_cache=False).logits
        for line in range(2):
            starts = (step.positions[line] == 0).nonzero().flatten().tolist()
            for begin, end in list(pairwise(starts))[:4]:
                alone = model(step.ids[line : line + 1, begin:end], use_cache=False).logits[0]
                torch.testing.assert_close(packed[line, begin:end], alone, atol=1e-4, rtol=1e-4)


def test_lines_hold_hardly_any_padding_and_every_kind_comes(tokenizer: object) -> None:
    source = iter(Lessons(tokenizer, random.Random(0)))
    steps = [next(source) for _ in range(12)]
    filled = [float((step.ids != tokenizer.pad_token_id).float().mean()) for step in steps]
    assert sum(filled) / len(filled) > 0.95
    seen = {KINDS[k] for step in steps for k in step.kinds[step.weights == 1.0].tolist()}
    assert seen == set(SHARES)


def test_a_row_begins_with_bos_ends_with_eos_and_its_first_token_is_never_learned(tokenizer: object) -> None:
    step = next(iter(Lessons(tokenizer, random.Random(0), shares={"summarization": 1.0})))
    for ids, positions, weights in zip(step.ids, step.positions, step.weights, strict=True):
        begins = (positions == 0) & (ids != tokenizer.pad_token_id)
        assert set(ids[begins].tolist()) == {tokenizer.bos_token_id}
        assert not weights[begins].any()
        ends = begins.roll(-1)[:-1] & (ids[:-1] != tokenizer.pad_token_id)
        assert set(ids[:-1][ends].tolist()) == {tokenizer.eos_token_id}
        assert (weights[:-1][ends] == 1.0).all()


@pytest.mark.parametrize("task", ANSWERS)
def test_an_answer_is_learned_whole_and_its_question_a_little(tokenizer: object, task: str) -> None:
    source = Lessons(tokenizer, random.Random(0), shares={task: 1.0})
    rows = source._rows(60)
    for ids, weights, _ in rows:
        learned = [i for i, w in zip(ids, weights, strict=True) if w == 1.0]
        text = tokenizer.decode(learned, skip_special_tokens=True)
        assert "\n" not in text
        assert len(text) > 5
    asked = [w for _, weights, _ in rows for w in weights if w != 1.0]
    assert 0.05 < sum(asked) / len(asked) < 0.2


def test_documents_without_bos_are_learned_too(tokenizer: object) -> None:
    rows = Lessons(tokenizer, random.Random(0), shares={"document": 1.0})._rows(200)
    assert 5 < sum(ids[0] != tokenizer.bos_token_id for ids, *_ in rows) < 50


def test_a_request_stands_before_texts_that_fit_it(tokenizer: object) -> None:
    source = Lessons(tokenizer, random.Random(0))
    found = {"Better": 0, "Worse": 0}
    for _ in range(300):
        asked, text = source.pair("request")
        head = asked.split(":")[0]
        if head in found:
            found[head] += 1
            value, insults = truth.sentiment(text), truth.insult_spans(text)
            assert (value >= 2 or not insults) if head == "Better" else (value <= -2 or len(insults) >= 2)
    assert min(found.values()) > 80


@pytest.mark.parametrize("task", ANSWERS)
def test_better_answers_have_no_error_and_worse_ones_have_some(task: str) -> None:
    rng, seen = random.Random(0), {1: 0, -1: 0, 0: 0}
    for _ in range(200):
        example = world(task).sample(rng)
        way = lessons.direction(task, example.prompt, example.text)
        seen[way] += 1
        errors = world(task).errors(example.prompt, example.text)
        assert not (way == 1 and errors)
        assert not (way == -1 and not errors)
    assert min(seen[1], seen[-1]) > 20


def test_the_requests_are_templates_of_the_prompt() -> None:
    for better, worse in CONTRASTIVE.values():
        assert better.format(prompt="P", text="T") != worse.format(prompt="P", text="T")
        assert better.format(prompt="P", text="T").endswith("P")


def test_the_same_seed_gives_the_same_steps(tokenizer: object) -> None:
    one, two = (next(iter(Lessons(tokenizer, random.Random(3), lines=2))) for _ in range(2))
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.weights, two.weights)


def test_a_document_has_no_direction_of_another_task() -> None:
    assert lessons.direction("sentiment", Prompt("p"), " It ended.") == 0
