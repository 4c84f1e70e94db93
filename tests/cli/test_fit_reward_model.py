"""A reward model from preferences, labels and scores, end to end in seconds, and read back as a scorer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import worlds
from tests.cli.test_console import run
from textenv.judges.scorers import SequenceClassifierScorer

SMALL = ("--batch-size", 8, "--device", "cpu", "--precision", "fp32")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def pair_file(tmp_path: Path) -> Path:
    """A friend is preferred to a weasel, whatever the question."""
    rows = [
        {"prompt": f"Who is number {i}?", "chosen": f" A friend, number {i}.", "rejected": [f" A weasel, number {i}."]}
        for i in range(60)
    ]
    return write(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return worlds.saved(worlds.llama(initializer_range=0.05), tmp_path / "base")


@pytest.mark.parametrize("weight", [0, 0.2])
def test_pairs_are_learned_and_the_directory_is_an_ordinary_one(pair_file: Path, base: Path, tmp_path: Path, weight: float) -> None:
    out = tmp_path / "reward"
    code, output = run(
        "fit-reward-model", pair_file, "--base", base, "--out", out, *SMALL, "--epochs", 8, "--learning-rate", 3e-3,
        "--policy-loss-weight", weight,
    )  # fmt: skip
    assert code == 0, output
    assert "54 pairs to train on, 6 held out" in output
    for share in ("25%", "50%", "75%", "100%"):
        assert share in output
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert (model.config.num_labels, model.config.id2label) == (1, {0: "good"})
    assert model.config.pad_token_id is not None
    assert (out / "model.safetensors").is_file()
    assert not any("lm_head" in name for name, _ in model.named_parameters())
    facts = json.loads((out / "fit.json").read_text())
    assert facts["accuracy"] == 1.0
    assert (facts["policy_loss_weight"], facts["template"]) == (weight, "{prompt}{text}")
    scorer = SequenceClassifierScorer(str(out), label="good", output="logit", device="cpu")
    friend, weasel = scorer.score_texts(["Who is number 7? A friend, number 7.", "Who is number 7? A weasel, number 7."])
    assert friend > weasel + 0.5


def test_transformers_reads_the_same_reward(pair_file: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "reward"
    assert run("fit-reward-model", pair_file, "--base", base, "--out", out, *SMALL, "--epochs", 1)[0] == 0
    texts = ["Who? A friend.", "Who? A weasel, and a long one."]
    ours = SequenceClassifierScorer(str(out), label="good", output="logit", device="cpu").score_texts(texts)
    tokenizer = AutoTokenizer.from_pretrained(out)
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(out)(**batch).logits[:, 0].tolist()
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_half_precision_is_saved_as_such(pair_file: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "reward"
    assert run("fit-reward-model", pair_file, "--base", base, "--out", out, *SMALL, "--epochs", 0.2, "--save-as", "bf16")[0] == 0
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_labels_make_a_classifier(base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{'weasel' if i % 3 else 'friend'} {i}", "label": "toxic" if i % 3 else "civil"} for i in range(90)]
    out = tmp_path / "classifier"
    code, output = run(
        "fit-reward-model", write(tmp_path / "labels.jsonl", rows), "--kind", "labels", "--labels", "civil,toxic", "--base", base,
        "--out", out, *SMALL, "--epochs", 8, "--learning-rate", 3e-3, "--template", "{text}",
    )  # fmt: skip
    assert code == 0, output
    scorer = SequenceClassifierScorer(str(out), label="toxic", device="cpu")
    friend, weasel = scorer.score_texts(["friend 7", "weasel 7"])
    assert friend < 0.5 < weasel


def test_scores_are_learned_in_standard_deviations(base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{'a' * (i % 7)} {i}", "score": 50 + 10 * (i % 7)} for i in range(80)]
    out = tmp_path / "regression"
    code, output = run(
        "fit-reward-model", write(tmp_path / "scores.jsonl", rows), "--kind", "scores", "--base", base, "--out", out, *SMALL,
        "--epochs", 12, "--learning-rate", 5e-3, "--patience", 50,
    )  # fmt: skip
    assert code == 0, output
    facts = json.loads((out / "fit.json").read_text())
    assert facts["accuracy"] > 0.8
    assert 70 < facts["score_mean"] < 90
    assert 15 < facts["score_deviation"] < 25


def test_held_out_scores_without_an_order_are_an_error_before_any_training(base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{'a' * i} {i}", "score": i} for i in range(5)]
    file = write(tmp_path / "scores.jsonl", rows)
    code, output = run("fit-reward-model", file, "--kind", "scores", "--base", base, "--out", tmp_path / "regression")
    assert code == 2
    assert "the 1 held-out texts have one score" in output
    assert "raise --held-out" in output


def test_a_seed_repeats(pair_file: Path, base: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / name
        code, output = run("fit-reward-model", pair_file, "--base", base, "--out", out, *SMALL, "--epochs", 0.5, "--seed", seed)
        assert code == 0, output
        weights.append(AutoModelForSequenceClassification.from_pretrained(out))
    assert worlds.same_weights(weights[0], weights[1])
    assert not worlds.same_weights(weights[0], weights[2])


def test_the_best_model_so_far_stands_when_fitting_is_stopped(
    pair_file: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textenv.fitting.reward_model_loop import Pairs

    measured = Pairs.held_out
    calls = 0

    def interrupted(self: Pairs, model: Any, share: float = 1.0) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return measured(self, model, share)

    monkeypatch.setattr(Pairs, "held_out", interrupted)
    out = tmp_path / "reward"
    code, output = run("fit-reward-model", pair_file, "--base", base, "--out", out, *SMALL, "--epochs", 2)
    assert code == 130
    assert "what was saved before is whole" in output
    AutoModelForSequenceClassification.from_pretrained(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "rankings"), "--kind is one of pairs, labels, scores, got 'rankings'"),
        (("--kind", "scores", "--policy-loss-weight", 0.2), "--kind scores has none"),
        (("--save-as", "int8"), "--save-as is one of fp32, fp16, bf16"),
        (("--column", "chosen=better"), "no column 'better'; the columns that exist: 'prompt', 'chosen', 'rejected'"),
        (("--column", "rejected=chosen"), "chosen and rejected are the same text"),
        (("--template", "{text} {prompt}"), "must hold {text} once, at its end"),
        (("--template", "{question}{text}"), "its fields are {prompt}, {context} and {text}"),
        (("--max-tokens", 1000), "--max-tokens 1000: the model reads 1 to 128 tokens"),
        (("--max-tokens", 8, "--on-long", "error"), "54 of 54 examples have 8 tokens or more"),
        (("--held-out", 1), "0 < held-out < 1"),
        (("--base", "missing/at/all"), "no model directory at missing/at/all"),
        (("--kind", "labels", "--labels", "one"), "should name two or more different classes"),
        (("--tau", 0, "--policy-loss-weight", 1), "tau > 0"),
    ],
)
def test_bad_input_is_an_error_before_any_training(
    pair_file: Path, base: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    code, output = run("fit-reward-model", pair_file, "--base", base, "--out", tmp_path / "reward", *SMALL, *arguments)
    assert code == 2, output
    assert message in output
    assert not (tmp_path / "reward").exists()


def test_texts_that_are_cut_are_told(pair_file: Path, base: Path, tmp_path: Path) -> None:
    code, output = run(
        "fit-reward-model", pair_file, "--base", base, "--out", tmp_path / "reward", *SMALL, "--epochs", 0.2, "--max-tokens", 16
    )
    assert code == 0, output
    assert "54 of 54 examples have 16 tokens or more: their left end is cut" in output
