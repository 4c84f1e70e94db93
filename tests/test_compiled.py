"""Decoding by compiled programs: the texts and numbers of decoding as ever, whoever ends when, and no program made twice."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from textenv import compiled
from textenv.agents import LMPolicy
from textenv.generation import ActionRule

IDS, END, LENGTH = 12, 2, 24  # of so few ids texts end at any length
RULE = ActionRule(IDS, END, LENGTH)
SMALL = {"vocabulary": IDS, "bos_token_id": 1, "eos_token_id": END}
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, IDS, n) for n in (3, 5, 2, 9, 4, 7, 1, 2, 6, 6, 3, 8, 2, 5, 4, 1, 1)]
UNIFORMS = torch.rand(len(PROMPTS), LENGTH, generator=torch.Generator().manual_seed(0))


def qwen2() -> Any:
    return worlds.decoder("Qwen2", vocab_size=IDS)


def windowed() -> Any:
    return worlds.decoder("Mistral", vocab_size=IDS, sliding_window=4)


def gpt2() -> Any:
    return worlds.gpt2(**SMALL)


def llama(**options: Any) -> Any:
    return worlds.llama(**SMALL, **options)


FAMILIES = {"gpt2": gpt2, "llama": llama, "qwen2": qwen2}
OTHERS = {"windows": windowed, "eager attention": worlds.gemma2, "t5": worlds.t5, "bart": worlds.bart}


class Counter:
    """A backend that runs what it is given as it is, and counts."""

    def __init__(self) -> None:
        self.programs = 0

    def __call__(self, graph: Any, _: Any) -> Any:
        self.programs += 1
        return graph.forward


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Programs are traced as they are to be compiled, but run by Python: no C++ compiler, no minute of waiting."""
    torch._dynamo.reset()
    counter = Counter()
    program = torch.compile(compiled._run, dynamic=False, fullgraph=True, backend=counter)
    monkeypatch.setattr(compiled, "_program", lambda _: program)
    return counter


def policy(model: Any, **options: Any) -> LMPolicy:
    """Its values are not all zero."""
    made = LMPolicy(model, device="cpu", temperature=2.0, **options)
    torch.nn.init.ones_(made.value_head.weight)
    return made


def assert_the_same(one: Any, other: Any) -> None:
    assert [text.tolist() for text in one.tokens] == [text.tolist() for text in other.tokens]
    for name in ("log_probs", "values"):
        assert np.concatenate(getattr(one, name)) == pytest.approx(np.concatenate(getattr(other, name)), abs=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_programs_sample_the_texts_and_numbers_of_decoding_as_ever(kind: str, traced: Counter) -> None:
    one = policy(FAMILIES[kind]())
    expected = one.sample(PROMPTS, RULE, UNIFORMS)
    lengths = {len(text) for text in expected.tokens}
    one.compile_decoding = True
    assert_the_same(one.sample(PROMPTS, RULE, UNIFORMS), expected)
    assert traced.programs > 0
    assert len(lengths) > 3


def test_rows_leave_by_halves_and_the_programs_serve_again(traced: Counter) -> None:
    one = policy(llama())
    one.compile_decoding = True
    first = one.sample(PROMPTS, RULE, UNIFORMS)
    made = traced.programs
    assert made == 2  # of 32 rows, then of 8
    assert_the_same(one.sample(PROMPTS, RULE, UNIFORMS), first)
    assert traced.programs == made


def test_buffers_grow_and_are_not_kept_twice(traced: Counter) -> None:
    one = policy(llama())
    one.compile_decoding = True
    long = [np.arange(60) % IDS] * 9
    for prompts in (PROMPTS[:9], long, PROMPTS[:9]):
        made = one.sample(prompts, RULE, UNIFORMS[:9])
        one.compile_decoding = False
        assert_the_same(made, one.sample(prompts, RULE, UNIFORMS[:9]))
        one.compile_decoding = True
    assert {columns for _, columns, *_ in compiled._BUFFERS[one.model]} == {128}


def test_programs_read_the_weights_of_the_moment(traced: Counter) -> None:
    one = policy(llama())
    one.compile_decoding = True
    before = one.generate(PROMPTS, RULE, UNIFORMS)
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter.mul_(1.3)
    after = one.generate(PROMPTS, RULE, UNIFORMS)
    one.compile_decoding = False
    assert [text.tolist() for text in after] == [text.tolist() for text in one.generate(PROMPTS, RULE, UNIFORMS)]
    assert [text.tolist() for text in after] != [text.tolist() for text in before]


@pytest.mark.parametrize("groups", [[0] * 6, [0, 0, 1, 1, 2, 2]], ids=["one prompt", "three"])
def test_texts_of_one_prompt_are_read_once_and_go_on_by_programs(groups: list[int], traced: Counter) -> None:
    one, prompts = policy(gpt2()), [PROMPTS[i] for i in groups]
    expected = one.sample(prompts, RULE, UNIFORMS[:6])
    one.compile_decoding = True
    assert_the_same(one.sample(prompts, RULE, UNIFORMS[:6]), expected)
    assert traced.programs > 0


@pytest.mark.parametrize("options", [{"lora": 4}, {"frozen_layers": 1}, {"gradient_checkpointing": True}], ids=str)
def test_adapters_and_frozen_layers_are_in_the_program(options: dict[str, Any], traced: Counter) -> None:
    if "lora" in options:
        pytest.importorskip("peft")
    one = policy(llama(), **options)
    expected = one.sample(PROMPTS, RULE, UNIFORMS)
    one.compile_decoding = True
    assert_the_same(one.sample(PROMPTS, RULE, UNIFORMS), expected)
    assert traced.programs > 0


@pytest.mark.parametrize("kind", OTHERS)
def test_models_without_a_program_are_decoded_as_ever(kind: str, traced: Counter) -> None:
    one = policy(OTHERS[kind]())
    expected = one.sample(PROMPTS, RULE, UNIFORMS)
    one.compile_decoding = True
    assert_the_same(one.sample(PROMPTS, RULE, UNIFORMS), expected)
    assert traced.programs == 0


def test_in_bfloat16_what_is_recorded_is_what_is_computed_afterwards(traced: Counter) -> None:
    one = policy(llama(initializer_range=0.05), precision="bf16")
    one.compile_decoding = True
    sampled = one.sample(PROMPTS, RULE, UNIFORMS)
    with torch.no_grad():
        again = one.evaluate(PROMPTS, sampled.tokens, RULE).log_probs
    assert sampled.log_probs is not None
    assert np.concatenate(sampled.log_probs) == pytest.approx(again.numpy(), abs=0.05)
    assert traced.programs > 0


def test_a_copy_of_a_policy_has_programs_of_its_own(traced: Counter) -> None:
    one = policy(llama())
    one.compile_decoding = True
    first = one.generate(PROMPTS, RULE, UNIFORMS)
    other = copy.deepcopy(one)
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter.zero_()
    assert [text.tolist() for text in other.generate(PROMPTS, RULE, UNIFORMS)] == [text.tolist() for text in first]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for a CPU with a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_in_earnest_they_sample_the_same() -> None:
    torch._dynamo.reset()
    one = policy(gpt2())
    expected = one.sample(PROMPTS, RULE, UNIFORMS)
    one.compile_decoding = True
    assert_the_same(one.sample(PROMPTS, RULE, UNIFORMS), expected)
