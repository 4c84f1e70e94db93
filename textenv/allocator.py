"""Freed memory stays with the process: what the C library gives back to the system, a training step asks for again.

glibc maps large blocks one by one and trims its heap as soon as there is something to trim, so that each pass over a model
pays for its activations in page faults. Told to keep them, an update of a GPT-2 of 4 M weights took .70 to .84 of the time (one CPU
thread, bfloat16), one of 27 M weights about the same as before; the peak was no higher.

It is told where a program starts (`textenv.threads.set_threads`), never on import, and not where MALLOC_TRIM_THRESHOLD_ or
MALLOC_MMAP_THRESHOLD_ say something else. Elsewhere than on glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>
_MOST_MAPPED = 32 << 20
"""Bytes: the largest that glibc takes."""


def keep_freed_memory() -> bool:
    """Tell the allocator; whether it has taken it."""
    if platform.libc_ver()[0] != "glibc" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _MOST_MAPPED)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
