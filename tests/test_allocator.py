"""The allocator is told where a program starts, and only where nobody has told it."""

import platform
import sys

import pytest

from tests.test_threads import run

LINUX = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone takes it")
FAULTS = """
import resource, torch
from textenv.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
torch.set_num_threads(1)
def step():
    blocks = [torch.ones(1 << 20) for _ in range(8)]  # 4 MiB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@LINUX
def test_blocks_that_are_freed_are_not_asked_for_again() -> None:
    kept = int(run(FAULTS.replace("{keep}", "True"))[0])
    mapped = int(run(FAULTS.replace("{keep}", "False"), MALLOC_MMAP_THRESHOLD_="131072")[0])  # each block for itself
    assert kept < 0.1 * mapped


@LINUX
def test_an_environment_that_says_otherwise_is_left_alone() -> None:
    code = "from textenv.allocator import keep_freed_memory; print(keep_freed_memory())"
    assert run(code)[0] == "True"
    assert run(code, MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


@pytest.mark.skipif(sys.platform == "win32", reason="the test fakes another C library")
def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from textenv.allocator import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
