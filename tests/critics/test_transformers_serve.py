"""The real thing: `transformers serve` on loopback, killed and started again while a critic asks."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import make
from textenv import embedded
from textenv.critics import CritiqueFormat, LanguageModelCritic, Patience, ServerCritic, ServerError
from textenv.embedded import grammar
from textenv.episode import Prompt
from textenv.tasks.detox import CRITIQUE

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("serve")]
BARE = CritiqueFormat(CRITIQUE.sections)
TEXTS = [grammar.sample(random.Random(i), "detox").text[:60] for i in range(120)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(model: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`transformers serve` on this port, until the block ends."""
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--dtype", "float32"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            assert process.poll() is None, "the server ended by itself"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(embedded.path("textenv/tiny-critic-insults"), tmp_path_factory.mktemp("serve") / "critic"))


def episodes(texts: list[str]) -> list[Any]:
    env = make(max_new_tokens=200)
    return [env.get_wrapper_attr("episode")(Prompt("p"), list(text.encode())) for text in texts]


def in_process() -> Any:
    return LanguageModelCritic("textenv/tiny-critic-insults", BARE, on_error="skip")(episodes(TEXTS))


def test_a_server_killed_midway_and_started_again_loses_nothing(model: Path, tmp_path: Path) -> None:
    port = free_port()
    critic = ServerCritic(
        f"http://127.0.0.1:{port}/v1/completions#{model}", BARE, on_error="retry_forever", concurrency=4,
        patience=Patience(timeout=20.0, backoff=0.1, longest=0.5), cache=tmp_path / "answers.sqlite",
    )  # fmt: skip
    found: list[Any] = []
    with serving(model, port) as process:
        asking = threading.Thread(target=lambda: found.extend(critic(episodes(TEXTS))))
        asking.start()
        while len(critic.cache) < 20:  # type: ignore[arg-type]
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert 20 <= len(critic.cache) < len(set(TEXTS)), "it was killed midway"  # type: ignore[arg-type]
    time.sleep(0.5)
    assert asking.is_alive(), "it waits"
    with serving(model, port):
        asking.join(120)
    metrics = critic.metrics()
    assert found == in_process()
    assert any(found)
    assert metrics["credit/critic_retries"] > 0
    assert metrics["credit/critic_failures"] == 0.0
    assert metrics["credit/critic_requests"] == len(set(TEXTS))
    assert metrics["credit/critic_tokens"] > 0

    again = ServerCritic(critic.base_url, BARE, model=str(model), chat=False, cache=tmp_path / "answers.sqlite")
    assert again(episodes(TEXTS)) == found, "the server is gone; the cache answers"


def test_its_silence_about_models_and_its_lack_of_a_chat_template_are_told_with_the_way_out(model: Path) -> None:
    port = free_port()
    with serving(model, port):
        url, soon = f"http://127.0.0.1:{port}/v1", Patience(retries=0, timeout=20.0)
        with pytest.raises(ServerError, match="name the model: ServerCritic"):  # /v1/models answers 500 offline
            ServerCritic(url, BARE, patience=soon, on_error="retry_forever")(episodes(["You weasel."]))
        with pytest.raises(ServerError, match=r"a model without a chat template is asked at …/v1/completions"):
            ServerCritic(url, BARE, model=str(model), patience=soon)(episodes(["You weasel."]))
        with pytest.raises(ServerError, match="HTTP 400"):  # another model than the one it serves
            ServerCritic(url, BARE, model="other", chat=False, patience=soon)(episodes(["You weasel."]))


def test_it_chats_with_a_model_that_has_a_template(model: Path, tmp_path: Path) -> None:
    chatty = Path(shutil.copytree(model, tmp_path / "chatty"))
    (chatty / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    port = free_port()
    with serving(chatty, port):
        critic = ServerCritic(f"http://127.0.0.1:{port}/v1#{chatty}", BARE, on_error="skip")
        texts = [text for text in TEXTS if text][:20]
        assert sum(spans is not None for spans in critic(episodes(texts))) >= 15  # asked without its bos, it still answers
        assert critic.metrics()["credit/critic_requests"] == 20.0
