"""The embedded prompts: enough of them, distinct, civil and neutral, the same every time."""

import pytest

from textenv import embedded
from textenv.embedded import lexicon, truth

HALF_A_SPAN = set(f"{lexicon.NEGATION} {lexicon.STRONG} {lexicon.MILD}".split())


@pytest.mark.parametrize("task", ["sentiment", "detox", "summarization", "long_form", "translation"])
def test_two_thousand_to_train_on_and_four_hundred_others_to_test_on(task: str) -> None:
    train, test = embedded.prompts(task, "train"), embedded.prompts(task, "test")
    assert (len(train), len(test)) == (2000, 400)
    assert len({(prompt.text, prompt.context) for prompt in train + test}) == 2400
    assert embedded.prompts(task, "test") == test


@pytest.mark.parametrize("task", ["sentiment", "detox"])
def test_no_prompt_holds_a_marked_word_or_begins_one(task: str) -> None:
    for prompt in embedded.prompts(task, "train") + embedded.prompts(task, "test"):
        assert not truth.insult_spans(prompt.text)
        assert not truth.sentiment_spans(prompt.text)
        assert prompt.text.split()[-1].lower() not in HALF_A_SPAN
        assert 3 <= len(prompt.text.split()) <= 12


def test_an_unknown_task_or_split_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="detox, long_form, sentiment, summarization, translation"):
        embedded.prompts("poetry")
    with pytest.raises(ValueError, match="train, test"):
        embedded.prompts("detox", "dev")


def test_paths_of_models_are_directories_and_unknown_names_list_the_valid_ones() -> None:
    for name in embedded.MODELS:
        assert (embedded.path(name) / "model.safetensors").is_file()
        assert (embedded.path(name) / "tokenizer.json").is_file()
    with pytest.raises(ValueError, match=r"no embedded model 'textenv/huge'; there are textenv/tiny, textenv/tiny-aspects"):
        embedded.path("textenv/huge")


def test_the_models_take_less_than_twenty_five_megabytes() -> None:
    files = [f for name in embedded.MODELS for f in embedded.path(name).iterdir()]
    assert sum(f.stat().st_size for f in files) <= 25e6
