"""LoRA and gradient checkpointing: the adapter learns, the base stands still, the numbers are those of the plain model."""

from __future__ import annotations

import builtins
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from tests import worlds
from tests.worlds import BYTES, EOS, VOCABULARY, make
from textenv.agents import LMPolicy, TokenPPO, evaluate, rollout
from textenv.generation import ActionRule

RULE = ActionRule(VOCABULARY, EOS, 8)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101], [102, 103])]
TEXTS = [np.array(t) for t in ([1, 2, 3, EOS], [4], [5, 6, 7, 8, 9, 10, 11, 12])]
MODELS: dict[str, Callable[[], Any]] = {
    "llama": worlds.llama, "gpt2": worlds.gpt2, "gemma2": worlds.gemma2, "t5": worlds.t5, "bart": worlds.bart,
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", MODELS)
SETTINGS: dict[str, Any] = {"n_episodes": 4, "batch_size": 2, "n_epochs": 2, "learning_rate": 1e-2}


def log_probs(policy: LMPolicy) -> torch.Tensor:
    with torch.no_grad():
        return policy.evaluate(PROMPTS, TEXTS, RULE).log_probs


def disturbed(policy: LMPolicy) -> LMPolicy:
    """The policy as if its adapter and value head had learned something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return policy


def environment() -> Any:
    return make(max_new_tokens=6, prompts=["a", "bb", "ccc"], scorer=worlds.even_share)


def agent(model: Any = None, **options: Any) -> TokenPPO:
    policy = LMPolicy(worlds.llama() if model is None else model, lora=4)
    return TokenPPO(policy, environment(), seed=0, **{**SETTINGS, **options})


# --- The adapter and its base ------------------------------------------------------------------------------------------


@EVERY
def test_a_fresh_adapter_changes_nothing(name: str) -> None:
    assert torch.equal(log_probs(LMPolicy(MODELS[name](), lora=4)), log_probs(LMPolicy(MODELS[name]())))


@EVERY
def test_the_reference_is_the_base_bit_for_bit(name: str) -> None:
    policy = LMPolicy(MODELS[name](), lora=4)
    reference = policy.frozen_copy()
    disturbed(policy)
    plain = log_probs(LMPolicy(MODELS[name]()))
    assert torch.equal(log_probs(reference), plain)
    assert torch.equal(log_probs(policy.base()), plain)
    assert not torch.equal(log_probs(policy), plain)


@EVERY
def test_a_reference_holds_no_second_copy_of_the_weights(name: str) -> None:
    policy = LMPolicy(MODELS[name](), lora=4)
    own = {id(p) for p in policy.model.parameters()}
    assert all(id(p) in own for p in policy.frozen_copy().model.parameters())


def test_a_reference_writes_texts_as_the_base_does() -> None:
    policy = disturbed(LMPolicy(worlds.llama(), lora=4))
    uniforms = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    texts = [p.generate(PROMPTS, RULE, uniforms) for p in (policy.base(), LMPolicy(worlds.llama()), policy)]
    said = [[text.tolist() for text in part] for part in texts]
    assert said[0] == said[1] != said[2]


def test_a_frozen_copy_is_the_policy_as_it_is_now_and_does_not_follow_it() -> None:
    policy = disturbed(LMPolicy(worlds.llama(), lora=4))
    before, frozen = log_probs(policy), policy.frozen_copy()
    disturbed(policy)
    assert torch.equal(log_probs(frozen), before)
    assert not torch.equal(log_probs(policy), before)
    own = {id(p) for p in policy.model.parameters()}
    assert {id(p) in own for name, p in frozen.model.named_parameters() if "lora_" not in name} == {True}


@EVERY
def test_the_adapter_and_the_value_head_are_trained_alone(name: str) -> None:
    policy = LMPolicy(MODELS[name](), lora=4)
    trained = [n for n, p in policy.named_parameters() if p.requires_grad]
    assert all("lora_" in n or n.startswith("value_head.") for n in trained)
    disturbed(policy)  # B = 0 gives A no gradient
    out = policy.evaluate(PROMPTS, TEXTS, RULE, entropy=True)
    (out.log_probs.sum() + out.values.sum() + out.entropy.sum()).backward()
    assert [n for n, p in policy.named_parameters() if p.grad is not None] == trained


def test_a_copy_has_an_adapter_of_its_own_on_the_same_base() -> None:
    policy = LMPolicy(worlds.llama(), lora=4)
    other = policy.copy()
    before = log_probs(policy)
    disturbed(other)
    assert torch.equal(log_probs(policy), before)
    assert other.shares_base(policy)
    assert not LMPolicy(worlds.llama()).copy().shares_base(policy)


def test_unfreezing_a_copy_does_not_unfreeze_the_base_it_shares() -> None:
    policy = LMPolicy(worlds.llama(), lora=4)
    for other in (policy.frozen_copy(), policy.copy()):
        other.requires_grad_(True)
        assert not policy.model.get_input_embeddings().weight.requires_grad
    assert any(p.requires_grad for p in policy.model.parameters())


def test_two_policies_of_one_base_begin_alike_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    one, two = (LMPolicy(worlds.llama(), lora=4) for _ in range(2))
    assert worlds.same_weights(one, two)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("lora", "rank", "alpha"),
    [(8, 8, 16), ({"r": 2, "lora_alpha": 3}, 2, 3), (peft.LoraConfig(r=3, target_modules=["q_proj"]), 3, 8)],
)
def test_a_rank_a_dict_or_a_config_says_what_the_adapter_is(lora: Any, rank: int, alpha: int) -> None:
    config = LMPolicy(worlds.llama(), lora=lora).model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (rank, alpha)


def test_every_linear_layer_but_the_head_is_adapted() -> None:
    for model in (worlds.llama(), worlds.t5(), worlds.bart()):
        layers = sum(isinstance(m, nn.Linear) for m in model.modules()) - 1
        policy = LMPolicy(model, lora=4)
        assert sum("lora_A" in n for n, _ in policy.named_parameters()) == layers


def test_an_adapter_on_weights_of_half_precision_learns_in_full() -> None:
    policy = LMPolicy(worlds.llama().to(torch.bfloat16), lora=4)
    assert policy.model.dtype == torch.bfloat16
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert torch.isfinite(log_probs(policy)).all()


def test_a_model_that_peft_has_wrapped_is_a_policy() -> None:
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):  # peft 0.21 asks transformers 5.23 by the old name
        wrapped = peft.get_peft_model(worlds.gpt2(), peft.LoraConfig(r=4, fan_in_fan_out=True, init_lora_weights=False))
    policy = LMPolicy(wrapped)
    with torch.no_grad():
        expected = wrapped(torch.tensor([[97, 1, 2, 3]])).logits[0].log_softmax(-1)
    got = log_probs(policy)[:3]
    assert torch.allclose(got, torch.stack([expected[i, t] for i, t in enumerate([1, 2, 3])]), atol=1e-5)
    assert torch.equal(log_probs(policy.base()), log_probs(LMPolicy(worlds.gpt2())))


def test_a_layer_trained_whole_beside_the_adapter_is_saved_merged_and_switched_off(tmp_path: Path) -> None:
    policy = disturbed(LMPolicy(worlds.llama(), BYTES, lora={"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}))
    assert torch.equal(log_probs(policy.base()), log_probs(LMPolicy(worlds.llama())))
    assert torch.allclose(log_probs(policy.merged()), log_probs(policy), atol=1e-4)
    policy.save_pretrained(tmp_path / "p")
    assert torch.equal(log_probs(LMPolicy(tmp_path / "p")), log_probs(policy))


# --- Agents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_training_moves_the_adapter_and_not_the_base(name: str) -> None:
    one = agent(MODELS[name]()).learn(60)
    plain = log_probs(LMPolicy(MODELS[name]()))
    assert one.reference is not None
    assert torch.equal(log_probs(one.reference), plain)
    assert not torch.equal(log_probs(one.policy), plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning")  # PEFT's, of a T5's head trained whole
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_it_solves_the_smallest_world(name: str) -> None:
    env = make(reward="critic_span", payment="end", max_new_tokens=8)
    model, rate = (worlds.t5(), 3e-3) if name == "t5" else (worlds.llama(initializer_range=0.05), 1e-2)
    policy = LMPolicy(model, lora={"r": 8, "modules_to_save": ["lm_head"]})  # before a random head no state says "a" alone
    one = TokenPPO(policy, env, seed=0, n_episodes=32, batch_size=16, n_epochs=2, learning_rate=rate, kl_coef=0.0)
    while one.num_timesteps < 40_000 and evaluate(one, env, 1, k=16).metrics["mean_score"] < 0.95:
        one.learn(2_000, reset_num_timesteps=False)
    assert evaluate(one, env, 1, k=16).metrics["mean_score"] >= 0.95


# --- Checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
def test_a_loaded_agent_goes_on_as_if_it_had_never_stopped(tmp_path: Path, llama_directory: Path, named: bool) -> None:
    straight = agent(str(llama_directory) if named else None).learn(1)
    straight.save(tmp_path / "a")
    straight.learn(30, reset_num_timesteps=False)
    resumed = TokenPPO.load(tmp_path / "a", environment())
    assert resumed.reference.shares_base(resumed.policy)
    assert torch.equal(log_probs(resumed.reference), log_probs(LMPolicy(worlds.llama())))
    resumed.learn(30, reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, resumed.policy)


def test_the_base_is_saved_only_where_it_has_no_name(tmp_path: Path, llama_directory: Path) -> None:
    agent(str(llama_directory)).save(tmp_path / "named")
    agent().save(tmp_path / "nameless")
    assert (tmp_path / "nameless" / "base" / "model.safetensors").is_file()
    assert not list((tmp_path / "named").rglob("model.safetensors"))
    config = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(llama_directory)


def test_an_embedded_base_is_found_by_its_name(tmp_path: Path) -> None:
    policy = disturbed(LMPolicy("textenv/tiny", lora=2))
    policy.save_pretrained(tmp_path / "p")
    assert json.loads((tmp_path / "p" / "adapter_config.json").read_text())["base_model_name_or_path"] == "textenv/tiny"
    assert worlds.same_weights(LMPolicy(tmp_path / "p").model, policy.model)


def test_nothing_in_it_is_a_pickle(tmp_path: Path) -> None:
    agent().learn(1).save(tmp_path / "a")
    suffixes = {path.suffix for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja"}


def test_saving_over_the_directory_of_the_base_keeps_the_base(tmp_path: Path) -> None:
    place = worlds.saved(worlds.llama(), tmp_path / "m")
    one = agent(str(place)).learn(1)
    one.save(place)
    two = TokenPPO.load(place, environment())
    assert worlds.same_weights(two.policy, one.policy)
    two.save(place)
    assert worlds.same_weights(TokenPPO.load(place, environment()).policy, one.policy)


def test_a_reference_that_had_learned_comes_back_too(tmp_path: Path) -> None:
    policy = disturbed(LMPolicy(worlds.llama(), lora=4))
    one = TokenPPO(policy, environment(), seed=0, **SETTINGS)
    before = log_probs(one.reference)
    one.learn(30).save(tmp_path / "a")
    two = TokenPPO.load(tmp_path / "a", environment())
    assert torch.equal(log_probs(two.reference), before)
    assert not torch.equal(log_probs(two.policy), before)
    assert two.reference.shares_base(two.policy)


@EVERY
def test_the_adapter_is_read_by_any_tool(tmp_path: Path, name: str) -> None:
    encoder = name in ("t5", "bart")
    place = worlds.saved(MODELS[name](), tmp_path / "base")
    policy = disturbed(LMPolicy(str(place), lora=4))
    policy.save_pretrained(tmp_path / "p")
    kind = AutoModelForSeq2SeqLM if encoder else AutoModelForCausalLM
    ids = torch.tensor([[97, 98, 99]])
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if encoder else {})}
    with torch.no_grad():
        theirs = kind.from_pretrained(tmp_path / "p").eval()(**inputs).logits
        assert torch.allclose(theirs, policy.model(**inputs).logits, atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "p").get_vocab() == BYTES.get_vocab()
    assert torch.equal(log_probs(LMPolicy(tmp_path / "p")), log_probs(policy))


@EVERY
def test_merged_it_is_a_plain_model_that_says_the_same(tmp_path: Path, name: str) -> None:
    policy = disturbed(LMPolicy(MODELS[name](), BYTES, lora=4))
    before = log_probs(policy)
    merged = policy.merged()
    assert torch.equal(log_probs(policy), before)
    merged.save_pretrained(tmp_path / "m")
    assert not list((tmp_path / "m").glob("adapter*"))
    read = LMPolicy(tmp_path / "m")
    assert read.model.state_dict().keys() == MODELS[name]().state_dict().keys()
    assert torch.allclose(log_probs(read), before, atol=1e-4)
    assert all(p.requires_grad for p in merged.parameters())
    assert not merged.shares_base(policy)


def test_an_adapters_directory_is_whatever_a_policy_is_made_from(tmp_path: Path, llama_directory: Path) -> None:
    disturbed(LMPolicy(str(llama_directory), lora=4)).save_pretrained(tmp_path / "p")
    env = make(max_new_tokens=4)
    assert len(evaluate(str(tmp_path / "p"), env, 1, k=2).episodes) == 2
    assert TokenPPO(str(tmp_path / "p"), env, seed=0).policy.adapted


def test_self_critique_asks_the_base_of_the_policy(llama_directory: Path) -> None:
    policy = disturbed(LMPolicy(worlds.llama(max_position_embeddings=256), BYTES, lora=4))
    env = make(reward=("self_critique", {"policy": policy}), payment="end", scorer=worlds.constant_scorer(0.5), max_new_tokens=8)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        said = env.get_wrapper_attr("critic").model(ids).logits
        assert torch.equal(said, worlds.llama(max_position_embeddings=256)(ids).logits)
        assert not torch.equal(said, policy.model(ids).logits)


def test_self_critique_asks_the_base_beside_a_saved_adapter_wherever_it_was_moved(tmp_path: Path) -> None:
    base = worlds.llama(max_position_embeddings=256)
    disturbed(LMPolicy(copy.deepcopy(base), BYTES, lora=4)).save_pretrained(tmp_path / "p")
    (tmp_path / "p").rename(tmp_path / "q")
    arguments = {"policy": str(tmp_path / "q")}
    env = make(reward=("self_critique", arguments), payment="end", scorer=worlds.constant_scorer(0.5), max_new_tokens=8)
    assert worlds.same_weights(env.get_wrapper_attr("critic").model, base)
    assert torch.equal(log_probs(LMPolicy(tmp_path / "q").base()), log_probs(LMPolicy(base)))


# --- Gradient checkpointing --------------------------------------------------------------------------------------------


def gradients(policy: LMPolicy) -> dict[str, torch.Tensor]:
    out = policy.evaluate(PROMPTS, TEXTS, RULE, entropy=True)
    (out.log_probs.square().sum() + out.values.sum() + out.entropy.sum()).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@EVERY
@pytest.mark.parametrize("lora", [None, 4])
def test_computing_blocks_again_gives_the_same_gradients(name: str, lora: int | None) -> None:
    plain, again = (disturbed(LMPolicy(MODELS[name](), lora=lora, gradient_checkpointing=g)) for g in (False, True))
    expected, got = gradients(plain), gradients(again)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)


@EVERY
def test_blocks_are_computed_twice_for_gradients_and_once_without(name: str) -> None:
    policy = LMPolicy(MODELS[name](), gradient_checkpointing=True)
    norms = [m for m in policy.model.modules() if "Norm" in type(m).__name__]
    log_probs(policy)  # the first time, the head is checked
    calls: list[int] = []
    norms[0].register_forward_hook(lambda *_: calls.append(1))
    log_probs(policy)
    without = len(calls)
    gradients(policy)
    assert (without, len(calls)) == (1, 3)


def test_dropout_stays_off_where_blocks_are_computed_again() -> None:
    policies = [LMPolicy(worlds.gpt2(), gradient_checkpointing=again) for again in (False, True)]
    assert torch.equal(*(p.evaluate(PROMPTS, TEXTS, RULE).log_probs.detach() for p in policies))
    assert not policies[1].model.training


def test_sampling_and_copies_work_with_blocks_computed_again() -> None:
    policy = LMPolicy(worlds.llama(), gradient_checkpointing=True, lora=4)
    expected = LMPolicy(worlds.llama()).generate(PROMPTS, RULE, None)
    for one in (policy, policy.frozen_copy(), copy.deepcopy(policy)):
        assert [t.tolist() for t in one.generate(PROMPTS, RULE, None)] == [t.tolist() for t in expected]
    other = disturbed(policy.copy())
    assert not torch.equal(log_probs(other), log_probs(policy)), "a copy's blocks run the copy's weights"


def test_a_checkpoint_remembers_that_blocks_are_computed_again(tmp_path: Path) -> None:
    TokenPPO(LMPolicy(worlds.llama(), gradient_checkpointing=True), environment(), seed=0, **SETTINGS).save(tmp_path / "a")
    assert TokenPPO.load(tmp_path / "a", environment()).learn(1).policy.gradient_checkpointing


def test_a_model_without_blocks_is_refused() -> None:
    class Plain(nn.Module):
        pass

    from textenv.agents.recompute import recompute_blocks

    with pytest.raises(ValueError, match="Plain has no blocks that can be computed again: gradient_checkpointing=False"):
        recompute_blocks(Plain())


# --- What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lora", "error", "message"),
    [
        (0, ValueError, "the rank of LoRA must be at least 1, got 0"),
        ({"r": -1}, ValueError, "the rank of LoRA must be at least 1, got -1"),
        (True, TypeError, "lora takes a rank, a dict of LoraConfig's arguments or a LoraConfig, got True"),
        ("all", TypeError, "lora takes a rank"),
        ({"r": 2, "bias": "all"}, ValueError, "bias='all' trains the base itself"),
        ({"r": 2, "init_lora_weights": "pissa"}, ValueError, "init_lora_weights='pissa' may change the base"),
        ({"r": 2, "trainable_token_indices": [1]}, ValueError, "trainable_token_indices is not known here"),
    ],
)
def test_a_bad_adapter_is_named(lora: Any, error: type[Exception], message: str) -> None:
    model = worlds.llama()
    with pytest.raises(error, match=message):
        LMPolicy(model, lora=lora)
    assert worlds.same_weights(model, worlds.llama())


def test_a_second_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="has an adapter already"):
        LMPolicy(LMPolicy(worlds.llama(), lora=2).model, lora=2)


@pytest.mark.parametrize("method", ["base", "merged"])
def test_a_policy_without_an_adapter_has_nothing_to_switch_off(method: str) -> None:
    with pytest.raises(ValueError, match=rf"{method}\(\) is about LoRA.*LMPolicy\(model, lora=8\)"):
        getattr(LMPolicy(worlds.llama()), method)()


def test_without_peft_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"LoRA needs PEFT: pip install 'textenv\[lora\]'"):
        LMPolicy(worlds.llama(), lora=2)


def test_an_adapter_without_safe_weights_is_refused(tmp_path: Path, llama_directory: Path) -> None:
    LMPolicy(str(llama_directory), lora=2).save_pretrained(tmp_path / "p")
    (tmp_path / "p" / "adapter_model.safetensors").rename(tmp_path / "p" / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="read from safetensors alone"):
        LMPolicy(tmp_path / "p")


def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path, llama_directory: Path) -> None:
    LMPolicy(str(llama_directory), lora=2).save_pretrained(tmp_path / "p")
    config = json.loads((tmp_path / "p" / "adapter_config.json").read_text())
    (tmp_path / "p" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="does not say which model the adapter belongs to"):
        LMPolicy(tmp_path / "p")


def test_weights_of_another_adapter_are_refused(tmp_path: Path, llama_directory: Path) -> None:
    for name, layer in (("p", "q_proj"), ("q", "v_proj")):
        LMPolicy(str(llama_directory), lora={"r": 2, "target_modules": [layer]}).save_pretrained(tmp_path / name)
    (tmp_path / "q" / "adapter_model.safetensors").replace(tmp_path / "p" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is of another adapter"):
        LMPolicy(tmp_path / "p")


def test_perplexity_under_a_reference_is_that_under_the_base() -> None:
    policy = disturbed(LMPolicy(worlds.llama(), lora=4))
    env = make(prompts=["a"], max_new_tokens=6)
    rollout(env, policy, 1)
    found = [evaluate(policy, env, 1, k=4, reference=r).metrics["perplexity"] for r in (policy.base(), LMPolicy(worlds.llama()))]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
