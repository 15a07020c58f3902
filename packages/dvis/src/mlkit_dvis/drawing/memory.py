"""How the C library treats large blocks of memory."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 1 << 17  # bytes; glibc's own first value


def return_large_blocks() -> None:
    """Make glibc give large blocks back to the system as soon as they are free.

    It raises its limit by itself as such blocks come and go; frames, masks and an encoder's
    pictures then fragment a heap that only grows. Elsewhere this does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no such call
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
