"""Torchrun as a user starts it, on this machine alone: one node, or several that meet on a free loopback port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass

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


def torchrun(*script: str, processes: int = 1, nodes: int = 1, timeout: float = 150.0) -> Done:
    """Run a script, or `-m module`, with its arguments, on so many processes of so many nodes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-W", "error", "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", str(processes),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", str(port), "--local-addr", "127.0.0.1",
        *script,
    ]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes) for _ in range(nodes)]
    try:
        printed = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    return Done(next((code for code in codes if code), 0), *("\n".join(texts) for texts in zip(*printed, strict=True)))
