"""A rollout engine beside the training samples like the policy, follows its weights, and says what it did not get.

Against a stand-in server on loopback, not against vLLM.
"""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

from tests import worlds
from tests.agents.engines.stand_in import StandIn
from tests.worlds import BYTES, EOS, VOCABULARY, ids
from textenv.agents import LMPolicy
from textenv.agents.engines.gap import engine_gap
from textenv.agents.engines.http import JSONServer
from textenv.agents.engines.vllm import VLLMEngine
from textenv.critics import Patience, ServerError
from textenv.critics.connection import Transient
from textenv.generation import ActionRule

RULE = ActionRule(VOCABULARY, EOS, 10)
PROMPTS = [np.array(ids(text)) for text in ("the quick brown fox", "a", "a", "a", "you are")]
SOON = Patience(retries=2, timeout=20.0, backoff=0.01, longest=0.02)
HANGING = replace(SOON, timeout=1.0)


def uniforms(n: int = len(PROMPTS), seed: int = 0) -> Any:
    return torch.rand(n, RULE.max_new_tokens, generator=torch.Generator().manual_seed(seed))


def policy(seed: int = 0, **options: Any) -> LMPolicy:
    return LMPolicy(worlds.llama(seed=seed), BYTES, **options)


def engine_of(server: StandIn, **options: Any) -> VLLMEngine:
    return VLLMEngine(server.url, **{"patience": SOON, "sync_timeout": 5.0, **options})


@pytest.fixture
def server(llama_directory: Path) -> Iterator[StandIn]:
    with StandIn(llama_directory) as server:
        yield server


def own_tokens(policy: LMPolicy, rule: ActionRule = RULE) -> list[Any]:
    return list(policy.generate(PROMPTS, rule, None))


def gap_of(policy: LMPolicy, sampled: Any, rule: ActionRule = RULE) -> float:
    """The largest difference between the engine's and the policy's log-probabilities."""
    with torch.no_grad():
        own = policy.evaluate(PROMPTS, sampled.tokens, rule).log_probs
    return engine_gap(torch.from_numpy(np.concatenate(sampled.log_probs)), own)["engine/logprob_diff_max"]


def equal(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_weights_are_handed_over_where_torch_is_built_without_processes(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, handed = engine_of(server), list[Any]()
    monkeypatch.setattr(engine, "_hand_over", handed.append)  # transformers' own saving would ask
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_initialized")
    engine.sync_weights(policy())
    assert len(handed) == 1


# --- Texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [RULE, ActionRule(VOCABULARY, 38, 10, 4)])
def test_greedy_texts_are_those_of_the_policy_token_for_token(server: StandIn, rule: ActionRule) -> None:
    engine, one = engine_of(server), policy()
    engine.sync_weights(one)
    greedy = engine.generate(PROMPTS, rule, None)
    assert equal(greedy.tokens, own_tokens(one, rule))
    assert greedy.log_probs is None


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_log_probs_are_those_of_the_policy(server: StandIn, temperature: float) -> None:
    engine, one = engine_of(server), policy(temperature=temperature)
    engine.sync_weights(one)
    assert gap_of(one, engine.generate(PROMPTS, RULE, uniforms())) < 1e-4


def test_equal_numbers_give_equal_texts(server: StandIn) -> None:
    engine = engine_of(server)
    engine.sync_weights(policy())
    first, again, other = (engine.generate(PROMPTS, RULE, uniforms(seed=seed)).tokens for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)


def test_a_text_does_not_depend_on_its_neighbours(server: StandIn) -> None:
    engine = engine_of(server)
    engine.sync_weights(policy())
    whole = engine.generate(PROMPTS, RULE, uniforms()).tokens
    assert equal(whole[2:4], engine.generate(PROMPTS[2:4], RULE, uniforms()[2:4]).tokens)


def test_equal_prompts_get_texts_of_their_own(server: StandIn) -> None:
    engine = engine_of(server)
    engine.sync_weights(policy())
    assert len({tuple(text) for text in engine.generate(PROMPTS, RULE, uniforms()).tokens[1:4]}) == 3


def test_ids_that_the_tokenizer_has_not_are_never_sampled(tmp_path: Path) -> None:
    model = worlds.llama(vocabulary=VOCABULARY + 40)
    with torch.no_grad():
        model.lm_head.weight[VOCABULARY:] *= 4.0  # they would be likely
    one = LMPolicy(model, BYTES)
    with StandIn(worlds.saved(model, tmp_path / "wide")) as server:
        engine = engine_of(server)
        engine.sync_weights(one)
        assert gap_of(one, engine.generate(PROMPTS, RULE, uniforms())) < 1e-4


def test_a_text_ends_with_eos_and_not_before_it_may(server: StandIn) -> None:
    rule = ActionRule(VOCABULARY, 38, 10, 3)  # "&" ends a text, and EOS does not
    one = policy()
    with torch.no_grad():
        one.model.lm_head.weight[38] *= 3.0
    engine = engine_of(server)
    engine.sync_weights(one)
    prompts = PROMPTS * 8
    texts = engine.generate(prompts, rule, torch.rand(len(prompts), 10, generator=torch.Generator().manual_seed(0))).tokens
    lengths = {len(text) for text in texts}
    assert min(lengths) == 4
    assert len(lengths) > 2
    assert all((text[-1] == 38) == (len(text) < 10) or text[-1] == 38 for text in texts)


def test_truncated_sampling_has_no_log_probs_to_learn_from(server: StandIn) -> None:
    engine, one = engine_of(server), policy()
    engine.sync_weights(one)
    one_token = engine.generate(PROMPTS, RULE, uniforms(), top_k=1)
    assert one_token.log_probs is None
    assert equal(one_token.tokens, own_tokens(one))


def test_raw_log_probs_show_as_a_gap(llama_directory: Path) -> None:
    one = policy(temperature=0.5)
    with StandIn(llama_directory, logprobs_mode="raw_logprobs") as server:
        engine = engine_of(server)
        engine.sync_weights(one)
        assert gap_of(one, engine.generate(PROMPTS, RULE, uniforms())) > 0.1


# --- Weights -----------------------------------------------------------------------------------------------------------


def test_the_server_answers_like_the_policy_that_was_handed_over(server: StandIn) -> None:
    engine = engine_of(server)
    engine.sync_weights(policy(0))
    before = engine.generate(PROMPTS, RULE, None).tokens
    engine.sync_weights(policy(1))
    after = engine.generate(PROMPTS, RULE, None).tokens
    assert engine.version == 2
    assert not equal(before, after)
    assert equal(after, own_tokens(policy(1)))


def test_an_adapter_is_merged_into_the_weights(server: StandIn) -> None:
    one = policy(lora=4)
    with torch.no_grad():
        for name, weight in one.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    engine = engine_of(server)
    engine.sync_weights(one)
    assert equal(engine.generate(PROMPTS, RULE, None).tokens, own_tokens(one))
    assert not equal(own_tokens(one), own_tokens(policy()))
    assert one.adapted


def test_only_the_weights_in_use_are_kept(server: StandIn, tmp_path: Path) -> None:
    engine = engine_of(server, directory=tmp_path / "weights")
    for seed in range(3):
        engine.sync_weights(policy(seed))
    (kept,) = (tmp_path / "weights").iterdir()
    assert kept.name == "weights-000003"
    assert (kept / "model.safetensors").is_file()
    assert not list(kept.glob("*.bin"))


def test_a_temporary_directory_goes_with_the_engine(server: StandIn) -> None:
    engine = engine_of(server)
    engine.sync_weights(policy())
    place = engine._directory
    assert place is not None
    assert place.is_dir()
    del engine
    assert not place.exists()


def test_what_is_posted_for_new_weights_can_be_told(server: StandIn) -> None:
    engine = engine_of(server, update=lambda directory: [("/reset_prefix_cache", {"from": directory})])
    engine.sync_weights(policy(1))
    assert server.posts == ["/reset_prefix_cache"]


def test_a_server_that_did_not_load_the_weights_shows_as_a_gap(llama_directory: Path) -> None:
    with StandIn(llama_directory, stale=True) as server:
        engine = engine_of(server)
        engine.sync_weights(policy(1))
        assert gap_of(policy(1), engine.generate(PROMPTS, RULE, uniforms())) > 0.1


def test_a_server_without_its_development_mode_is_told_what_to_be_started_with(llama_directory: Path) -> None:
    with StandIn(llama_directory, dev_mode=False) as server, pytest.raises(ServerError, match=r"HTTP 404.*VLLM_SERVER_DEV_MODE=1"):
        engine_of(server).sync_weights(policy())


def test_after_weights_that_were_not_taken_nothing_is_sampled(server: StandIn) -> None:
    engine = engine_of(server)
    engine.sync_weights(policy())
    engine.update = lambda _: [("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": "nowhere"}})]
    with pytest.raises(ServerError, match=r"did not take the weights.*HTTP 500"):
        engine.sync_weights(policy(1))
    with pytest.raises(RuntimeError, match="sync_weights"):
        engine.generate(PROMPTS, RULE, None)
    assert engine.version == 1


def test_a_cache_that_was_not_forgotten_is_an_error(server: StandIn) -> None:
    server.resets = False
    with pytest.raises(ServerError, match="reset_prefix_cache answered"):
        engine_of(server).sync_weights(policy())


def test_new_weights_are_asked_for_once(server: StandIn) -> None:
    engine = engine_of(server, update=lambda _: [("/collective_rpc", {"method": "unheard_of"})])
    with pytest.raises(ServerError, match="unheard_of"):
        engine.sync_weights(policy())
    assert server.posts == ["/collective_rpc"]


def test_an_encoder_decoder_is_refused(server: StandIn) -> None:
    with pytest.raises(ValueError, match="encoder–decoder"):
        engine_of(server).sync_weights(LMPolicy(worlds.t5(), BYTES))


def test_no_text_without_weights(server: StandIn) -> None:
    with pytest.raises(RuntimeError, match="sync_weights"):
        engine_of(server).generate(PROMPTS, RULE, None)


# --- Servers that misbehave --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop", "half", "500", "stall"])
def test_a_failure_that_passes_loses_nothing(llama_directory: Path, fault: str) -> None:
    with StandIn(llama_directory, ["", fault, fault, ""]) as server:
        engine = engine_of(server, patience=HANGING if fault == "stall" else SOON)
        engine.sync_weights(policy())
        disturbed = engine.generate(PROMPTS, RULE, uniforms())
        assert len(server.requests) == len(PROMPTS) + 2
        assert equal(disturbed.tokens, engine.generate(PROMPTS, RULE, uniforms()).tokens)


WRONG = {
    "wrong_id": r"sampled the id 100000, outside the 259 .*save_pretrained",
    "negative_id": r"sampled the id -1, outside",
    "no_ids": r"no token ids \(None\).*0\.10\.2",
    "no_log_probs": r"gives no log-probabilities of 10 tokens",
    "few_log_probs": r"gives 9 log-probabilities of 10 tokens",
    "nan": r"log-probability nan; start it with --logprobs-mode processed_logprobs",
    "logits": r"log-probability 3\.5; start it with --logprobs-mode processed_logprobs",
    "short": r"after 9 of 10 tokens without EOS.*--generation-config vllm",
    "long": r"wrote 11 tokens where max_tokens=10",
    "other_prompt": r"read another prompt, \[257, ",
    "two": r"no completion of one prompt",
    "400": r"HTTP 400: .*as the script says",
}


@pytest.mark.parametrize("fault", WRONG)
def test_an_answer_that_is_none_is_an_error_that_says_so(llama_directory: Path, fault: str) -> None:
    with StandIn(llama_directory, [fault]) as server:
        engine = engine_of(server)
        engine.sync_weights(policy())
        with pytest.raises(ServerError, match=WRONG[fault]):
            engine.generate(PROMPTS[:1], RULE, uniforms(1))
        assert len(server.requests) == 1  # asking again would bring the same


def test_an_answer_is_not_read_beyond_what_was_asked_for(llama_directory: Path) -> None:
    with StandIn(llama_directory, ["huge"]) as server:
        engine = engine_of(server)
        engine.sync_weights(policy())
        with pytest.raises(ServerError, match=r"answered with more than \d+ bytes"):
            engine.generate(PROMPTS[:1], RULE, uniforms(1))
        assert 0 < server.sent < 1 << 25


@pytest.mark.parametrize("fault", ["drop", "500", "stall"])
def test_patience_ends(llama_directory: Path, fault: str) -> None:
    with StandIn(llama_directory, [fault] * 99) as server:
        engine = engine_of(server, patience=HANGING if fault == "stall" else SOON)
        engine.sync_weights(policy())
        with pytest.raises(ServerError, match="no text after 2 retries"):
            engine.generate(PROMPTS[:1], RULE, uniforms(1))
        assert len(server.requests) == 3


def test_one_wrong_answer_does_not_wait_for_the_others(llama_directory: Path) -> None:
    with StandIn(llama_directory, ["wrong_id", *["stall"] * 9]) as server:
        engine = engine_of(server, patience=Patience(retries=0, timeout=15.0))
        engine.sync_weights(policy())
        began = time.perf_counter()
        with pytest.raises(ServerError):
            engine.generate(PROMPTS, RULE, uniforms())
        assert time.perf_counter() - began < 5.0


def test_a_batch_that_ends_while_a_question_is_sent_leaves_no_connection_open(server: StandIn) -> None:
    class Ending(JSONServer):
        def request(self, *arguments: Any) -> None:
            connections.close()
            super().request(*arguments)

    with Ending(server.url).connected(20.0) as connections, pytest.raises(Transient, match="the batch was given up"):
        connections.post("/v1/completions", {}, 100)
    gc.collect()  # a socket that is still open is told here, and fails the test


def test_a_server_that_is_gone_is_named(llama_directory: Path) -> None:
    with StandIn(llama_directory) as server:
        engine = engine_of(server)
        engine.sync_weights(policy())
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", urlsplit(server.url).port))  # nobody else gets the port, and nobody listens at it
        with pytest.raises(ServerError, match=r"127\.0\.0\.1.*no text after"):
            engine.generate(PROMPTS[:1], RULE, None)


def test_a_budget_beyond_the_servers_positions_is_its_refusal(server: StandIn) -> None:
    engine = engine_of(server)
    engine.sync_weights(policy())
    with pytest.raises(ServerError, match="max_model_len=120"):
        engine.generate(PROMPTS[:1], ActionRule(VOCABULARY, EOS, 119), None)


def test_the_key_is_sent_and_never_shown(llama_directory: Path) -> None:
    with StandIn(llama_directory, ["400"]) as server:
        engine = engine_of(server, api_key="a-secret")
        engine.sync_weights(policy())
        with pytest.raises(ServerError) as failure:
            engine.generate(PROMPTS[:1], RULE, None)
        assert set(server.keys) == {"Bearer a-secret"}
    assert "a-secret" not in str(failure.value)
    assert "***" in str(failure.value)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("127.0.0.1:8000", {}, "named by its URL"),
        ("http://127.0.0.1:1/v1", {"concurrency": 0}, "concurrency must be at least 1"),
        ("http://127.0.0.1:1/v1", {"sync_timeout": 0.0}, "sync_timeout above 0"),
    ],
)
def test_a_bad_setting_is_named(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VLLMEngine(url, **options)
