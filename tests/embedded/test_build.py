"""The build: one command, the same files from the same seed, whole directories or none."""

import hashlib
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from textenv import embedded
from textenv.embedded import build, recipes, wording


def digests(directory: Path) -> dict[str, str]:
    files = sorted(f for f in directory.rglob("*") if f.is_file())
    return {str(f.relative_to(directory)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.slow
def test_the_same_seed_builds_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build.main(["--out", str(tmp_path / name), "--only", "tiny-toxicity", "tiny", "--scale", "0.001"])
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert {"tiny/model.safetensors", "tiny-toxicity/tokenizer.json"} <= set(digests(tmp_path / "a"))
    assert not [f for f in (tmp_path / "a").iterdir() if f.name.startswith(".")], "a temporary directory was left behind"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "tiny").config.eos_token_id == 2
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a" / "tiny-toxicity")
    assert model.config.id2label == {0: "civil", 1: "toxic"}
    assert model.dtype == torch.float16
    assert AutoTokenizer.from_pretrained(tmp_path / "a" / "tiny").bos_token == "<s>"


@pytest.mark.slow
def test_what_begins_with_the_weights_of_tiny_is_built_after_it(tmp_path: Path) -> None:
    build.main(["--out", str(tmp_path), "--only", "tiny-aspects", "tiny-preferred", "--scale", "0.001"])
    assert sorted(directory.name for directory in tmp_path.iterdir()) == ["tiny", "tiny-aspects", "tiny-preferred"]
    aspects = AutoModelForTokenClassification.from_pretrained(tmp_path / "tiny-aspects")
    assert aspects.config.id2label == {0: "supported", 1: "relevant", 2: "complete", 3: "grammatical"}
    assert aspects.config.problem_type == "multi_label_classification"


@pytest.mark.slow
def test_the_translator_is_an_ordinary_encoder_decoder(tmp_path: Path) -> None:
    build.main(["--out", str(tmp_path), "--only", "tiny-translation", "--scale", "0.001"])
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "tiny-translation")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny-translation")
    assert model.config.decoder_start_token_id == tokenizer.pad_token_id
    made = model.generate(**tokenizer("The dog barks.\nGerman:", return_tensors="pt"), max_new_tokens=5)
    assert made.shape[0] == 1


@pytest.mark.slow
def test_a_training_that_fails_fails_the_build(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny").write_text("a file in the way")
    assert build.main(["--out", str(tmp_path), "--only", "tiny", "--scale", "0.001"]) == 2
    assert "tiny failed with exit status 1" in capfd.readouterr().err


def test_every_word_of_all_tasks_is_one_piece() -> None:
    from textenv.embedded import grammar

    _, tokenizer = wording.build_tokenizer()
    words = wording.words()
    assert {*grammar.GRAMMAR.vocabulary(), *grammar.GRAMMAR.openers(), "Summary", "German", "Better", "Principles"} <= set(words)
    assert not [word for word in words if len(tokenizer(word, add_special_tokens=False).input_ids) != 1]
    for header in wording.headers():
        ids = tokenizer(f"It ended.\n{header}: none", add_special_tokens=False).input_ids
        assert tokenizer.convert_ids_to_tokens(ids)[-4:] == ["<0x0A>", header, ":", "▁none"]


def test_the_shipped_tokenizer_is_the_one_that_the_build_makes() -> None:
    _, tokenizer = wording.build_tokenizer(0)
    for name in embedded.MODELS:
        assert AutoTokenizer.from_pretrained(embedded.path(name)).get_vocab() == tokenizer.get_vocab()


def test_initial_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    from textenv.embedded import networks

    _, tokenizer = wording.build_tokenizer()
    before = torch.random.get_rng_state()
    first, again, other = (networks.language_model(tokenizer, seed, 16, 1, 2).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_job_has_its_number_of_steps_but_the_judge_that_stays_as_it_was_drafted() -> None:
    assert set(recipes.STEPS) == set(build.JOBS) - {"tiny-reward"}


def test_every_job_waits_for_jobs_that_there_are() -> None:
    assert {name for needed in build.JOBS.values() for name in needed} <= set(build.JOBS)
    assert {f"textenv/{job}" for job in build.MODELS} == set(embedded.MODELS)
