"""A classifier from labelled text, end to end in seconds, and read back as a scorer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_console import run
from textenv.judges.scorers import SequenceClassifierScorer

SMALL = ("--hidden", 64, "--layers", 1, "--vocab-size", 300, "--batch-size", 16, "--device", "cpu", "--label", "toxic")
NAMES = ("--labels", "civil,toxic")


@pytest.fixture
def labelled_file(tmp_path: Path) -> Path:
    """Toxic is what holds a weasel; one text in six is civil."""
    path = tmp_path / "labelled.jsonl"
    rows = []
    for i in range(240):
        toxic = i % 6 != 0
        rows.append({"text": f"number {i} is a {'weasel' if toxic else 'friend'} of mine", "toxic": int(toxic)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_classifier_is_learned_and_scores_texts(labelled_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "scorer"
    code, output = run("fit-scorer", labelled_file, "--out", out, *SMALL, *NAMES, "--epochs", 8)
    assert code == 0, output
    assert "40 civil, 200 toxic" in output
    assert "accuracy 1.000, balanced 1.000" in output
    assert "area under the curve 1.000, calibration error" in output
    scorer = SequenceClassifierScorer(str(out), label="toxic", device="cpu")
    friend, weasel = scorer.score_texts(["number 7 is a friend of mine", "number 7 is a weasel of mine"])
    assert friend < 0.2 < 0.8 < weasel


def test_a_pretrained_model_gives_the_first_weights_and_the_tokenizer(
    labelled_file: Path, llama_directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scorer"
    code, output = run("fit-scorer", labelled_file, "--out", out, *SMALL, *NAMES, "--epochs", 0.1, "--base", llama_directory)
    assert code == 0, output
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]
    assert "newly initialized" not in output


def test_sentences_are_labelled_by_character_offsets(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    rows = [{"text": f"Hello {i}. You weasel {i}!", "toxic": [len(f"Hello {i}. You ") + 1]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, output = run("fit-scorer", path, "--out", tmp_path / "s", *SMALL, *NAMES, "--epochs", 1, "--sentences")
    assert code == 0, output
    assert "40 civil, 40 toxic" in output


def test_a_seed_repeats(labelled_file: Path, tmp_path: Path) -> None:
    outputs = []
    for name in "ab":
        fp32 = ("--epochs", 0.5, "--precision", "fp32")
        code, output = run("fit-scorer", labelled_file, "--out", tmp_path / name, *SMALL, *NAMES, *fp32)
        assert code == 0, output
        outputs.append(output.split("held out:")[1].split("saved in")[0])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--labels", "toxic"), "should name two or more different classes"),
        (("--labels", "a,a"), "should name two or more different classes"),
        (("--labels", "a,b,c", "--sentences"), "--sentences knows two classes"),
        (("--labels", "a,b,c"), "holds no text labelled 'c'"),
        (("--label", "rude"), "no column 'rude'; the columns that exist: 'text', 'toxic'"),
        (("--text", "body"), "no column 'body'"),
        (("--held-out", 0), "0 < held-out < 1"),
        (("--base", "missing/at/all"), "no model directory at missing/at/all"),
        (("--hidden", 65), "hidden size 65 should be a multiple of 64"),
        (("--vocab-size", 5), "vocab_size=5"),
    ],
)
def test_bad_input_is_an_error_before_any_training(
    labelled_file: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    code, output = run("fit-scorer", labelled_file, "--out", tmp_path / "s", *SMALL, *NAMES, *arguments)
    assert code == 2
    assert message in output
    assert not (tmp_path / "s").exists()


def test_a_context_longer_than_the_model_is_an_error_before_the_data_is_read(llama_directory: Path, tmp_path: Path) -> None:
    longer = ("--base", llama_directory, "--context", 1000)
    code, output = run("fit-scorer", tmp_path / "missing.jsonl", "--out", tmp_path / "s", *SMALL, *NAMES, *longer)
    assert code == 2
    assert "context 1000 is longer than the 128 positions of the model" in output
