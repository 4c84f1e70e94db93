"""Value-head models as TRL saves them: safetensors beside the language model's own, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import BYTES, make
from textenv.episode import Prompt
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.judges.value_head import ValueHeadModel, load_value_head


class Trl(torch.nn.Module):
    """What TRL's `AutoModelForCausalLMWithValueHead` is: `pretrained_model`, `v_head.summary`; and how it saves itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.pretrained_model, self.v_head = model, torch.nn.Module()
        self.v_head.summary = torch.nn.Linear(model.config.hidden_size, 1)

    def save_pretrained(self, directory: Path, **options: Any) -> Path:
        state = self.pretrained_model.state_dict()
        state |= {f"v_head.{name}": tensor for name, tensor in self.v_head.state_dict().items()}
        self.pretrained_model.save_pretrained(directory, state_dict=state, **options)
        BYTES.save_pretrained(directory)
        return directory

    def value(self, text: str) -> float:
        states = self.pretrained_model(torch.tensor([worlds.ids(text)]), output_hidden_states=True).hidden_states[-1]
        return float(self.v_head.summary(states[0, -1]).detach())


def scorer(source: Any, **options: Any) -> SequenceClassifierScorer:
    return SequenceClassifierScorer(source, label=0, output="logit", **options)


@pytest.mark.parametrize("model", [worlds.llama, worlds.gpt2])
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}])
def test_a_directory_saved_by_trl_scores_as_its_value_head_does(model: Any, shards: dict[str, str], tmp_path: Path) -> None:
    saved = Trl(model())
    saved.save_pretrained(tmp_path, **shards)
    assert bool(list(tmp_path.glob("*.index.json"))) == bool(shards)
    texts = ["some text", "a"]
    assert scorer(tmp_path).score_texts(texts) == pytest.approx([saved.value(text) for text in texts], abs=1e-5)


def test_trls_own_object_scores_alike() -> None:
    model = Trl(worlds.llama())
    assert scorer(model, tokenizer=BYTES).score_texts(["some text"]) == pytest.approx([model.value("some text")], abs=1e-5)


def test_a_value_head_is_read_after_every_token(tmp_path: Path) -> None:
    model = Trl(worlds.llama())
    judge = scorer(model.save_pretrained(tmp_path))
    episode = make(max_new_tokens=8).get_wrapper_attr("episode")(Prompt("p"), worlds.ids("abc", end=True))
    (values,) = judge.prefix_scores([episode], tokenizer=BYTES)
    assert values[1:] == pytest.approx([model.value(text) for text in ("a", "ab", "abc", "abc")], abs=1e-5)
    assert np.isfinite(judge.attention([episode])[0]).all()


def test_a_probability_of_a_value_is_its_sigmoid(tmp_path: Path) -> None:
    model = Trl(worlds.llama())
    judge = SequenceClassifierScorer(model.save_pretrained(tmp_path), label="good")
    assert judge.score_texts(["text"]) == pytest.approx([torch.tensor(model.value("text")).sigmoid().item()], abs=1e-6)


def test_a_language_model_without_a_value_head_is_refused(llama_directory: Path) -> None:
    with pytest.raises(ValueError, match=r"causal language model without a value head \(no v_head\.summary\.weight"):
        scorer(llama_directory)


def test_a_value_head_in_a_pickle_is_not_read(tmp_path: Path, llama_directory: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llama_directory / name).read_bytes())
    torch.save(Trl(worlds.llama()).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safe_serialization=True"):
        scorer(tmp_path)


def test_a_head_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="a value head of 8 → 2 on a model of width 32"):
        ValueHeadModel(worlds.llama(), torch.nn.Linear(8, 2))


def test_loading_leaves_the_weights_frozen(tmp_path: Path) -> None:
    directory = Trl(worlds.llama()).save_pretrained(tmp_path)
    model = load_value_head(directory, dtype=torch.float32, device=torch.device("cpu"))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
