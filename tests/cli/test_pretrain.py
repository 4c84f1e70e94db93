"""A language model from text files, end to end in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.test_console import run

SMALL = ("--vocab-size", 300, "--hidden", 64, "--layers", 1, "--context", 16, "--batch-size", 4, "--device", "cpu")
WORDS = ("the", "waiter", "was", "kind", "and", "brought", "soup", "with", "bread")


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(WORDS[(i * j) % 9] for j in range(1, 9)) for i in range(200)))
    return path


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_model_and_its_tokenizer_come_out_that_other_tools_read(text_file: Path, tmp_path: Path, family: str) -> None:
    out = tmp_path / "lm"
    code, output = run("pretrain", text_file, "--out", out, *SMALL, "--steps", 3, "--family", family)
    assert code == 0, output
    assert "held-out loss" in output
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.model_type == family
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.decode(tokenizer("the waiter").input_ids) == "the waiter"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_loss_falls_and_a_seed_repeats(text_file: Path, tmp_path: Path) -> None:
    losses = []
    for name, steps, seed in (("a", 60, 0), ("b", 60, 0), ("c", 1, 0), ("d", 60, 1)):
        code, output = run(
            "pretrain", text_file, "--out", tmp_path / name, *SMALL, "--steps", steps, "--seed", seed, "--precision", "fp32"
        )
        assert code == 0, output
        losses.append(float(output.split("held-out loss ")[1].split(" ")[0]))
    assert losses[0] == losses[1] < losses[2] - 1
    assert losses[3] != losses[0]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    assert all(bool((weights[0][key] == weights[1][key]).all()) for key in weights[0])


def test_steps_follow_from_the_minutes_and_a_tokenizer_may_be_given(text_file: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("pretrain", text_file, "--out", first, *SMALL, "--steps", 1)[0] == 0
    code, output = run("pretrain", text_file, "--out", second, *SMALL, "--minutes", 0.005, "--tokenizer", first)
    assert code == 0, output
    assert (second / "tokenizer.json").read_text() == (first / "tokenizer.json").read_text()


def test_several_files_and_a_column_are_read(text_file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"soup number {i}"}) + "\n" for i in range(20)))
    code, output = run("pretrain", text_file, rows, "--out", tmp_path / "lm", *SMALL, "--steps", 1, "--column", "text=text")
    assert code == 0, output
    assert "200 documents" in output
    assert "20 documents" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hidden", 100), "hidden size 100 should be a multiple of 64"),
        (("--layers", 0), "at least one layer, got 0"),
        (("--family", "gpt5"), "unknown family 'gpt5'; one of qwen3, llama"),
        (("--precision", "int4"), "unknown precision 'int4'; one of auto, fp32, bf16"),
        (("--unit", "page"), "unknown unit 'page'"),
        (("--steps", 0), "nothing to train: steps=0"),
        (("--context", 1), "context >= 2"),
        (("--held-out", 1.5), "between 0 and 1, got 1.5"),
        (("--context", 100_000), "shorter than one block of 100000 tokens"),
        (("--column", "text"), "should be NAME=VALUE"),
        (("--column", "text=body"), "no column 'body'; the columns that exist: 'text'"),
        (("--tokenizer", "."), "holds no tokenizer"),
        (("--vocab-size", 5), "vocab_size=5"),
        (("--seed", -1), "Invalid value for '--seed'"),
    ],
)
def test_bad_input_is_an_error_before_any_training(
    text_file: Path, tmp_path: Path, arguments: tuple[object, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run("pretrain", text_file, "--out", tmp_path / "lm", *SMALL, "--steps", 1, *arguments)
    assert code == 2
    assert message in output
    assert not (tmp_path / "lm").exists()


@pytest.mark.parametrize("arguments", [("--hidden", 100), ("--layers", 0), ("--family", "gpt5"), ("--precision", "int4")])
def test_a_model_that_cannot_be_made_is_an_error_before_the_text_is_read(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    code, output = run("pretrain", tmp_path / "missing.txt", "--out", tmp_path / "lm", *SMALL, *arguments)
    assert code == 2
    assert str(arguments[1]) in output
    assert "missing.txt" not in output


def test_a_column_that_is_wanting_is_to_be_named_by_the_option(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"body": "soup"}\n')
    code, output = run("pretrain", rows, "--out", tmp_path / "lm", *SMALL)
    assert code == 2
    assert "the columns that exist: 'body'; " in output
    assert "(on the command line: --column text=NAME)" in output


def test_a_directory_with_something_in_it_is_left_alone(text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "lm"
    out.mkdir()
    (out / "precious").write_text("x")
    code, output = run("pretrain", text_file, "--out", out, *SMALL, "--steps", 1)
    assert code == 2
    assert "holds something already" in output
    assert run("pretrain", text_file, "--out", out, *SMALL, "--steps", 1, "--overwrite")[0] == 0
    assert not (out / "precious").exists()
