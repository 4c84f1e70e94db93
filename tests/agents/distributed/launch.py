"""Torchrun as a user starts it, on this machine alone: one node, or several that meet on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from tests.repository import ROOT


@dataclass(frozen=True)
class Done:
    """How a run ended: one of its torchruns' exit codes that is not 0, else 0, and what all of them printed."""

    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    """Of a user who has installed the library."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _commands(script: tuple[str, ...], processes: int, nodes: int) -> list[list[str]]:
    """One a node. The first node's torchrun keeps the store: which of two meets the other must not be a race."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    python = [sys.executable, "-W", "error", "-X", "faulthandler", "-m", "torch.distributed.run"]
    place = ["--nnodes", str(nodes), "--nproc-per-node", str(processes), "--master-addr", "127.0.0.1", "--master-port", port]
    return [[*python, *place, "--node-rank", str(node), *script] for node in range(nodes)]


def torchrun(*script: str, processes: int = 1, nodes: int = 1, timeout: float = 300.0) -> Done:
    """Run a script, or `-m module`, with its arguments, on so many processes of so many nodes.

    Raises `TimeoutError` with all that was printed, each torchrun's stack with it, where they do not end in `timeout` seconds.
    """
    with contextlib.ExitStack() as files:
        started, printed = [], []
        for command in _commands(script, processes, nodes):
            out, err = (files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))  # a pipe that nobody reads would fill
            printed.append((out, err))
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=out, stderr=err))
        codes = _ended(started, timeout)
        texts = ["\n".join(_read(file) for file in stream) for stream in zip(*printed, strict=True)]
        if None in codes:
            raise TimeoutError(f"torchrun had not ended after {timeout:g} s (exit codes: {codes}).\n{texts[0]}\n{texts[1]}")
        return Done(next((code for code in codes if code), 0), *texts)


def _ended(started: list[subprocess.Popen[bytes]], timeout: float) -> list[int | None]:
    """Their exit codes; `None` where one had to be stopped, after its stack was written (faulthandler, on SIGABRT)."""
    until = time.monotonic() + timeout
    while any(process.poll() is None for process in started) and time.monotonic() < until:
        time.sleep(0.05)
    codes = [process.poll() for process in started]
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGABRT)
    for process in started:
        process.wait()
    return codes


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
