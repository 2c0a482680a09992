"""Makes a process give large blocks of memory back to the system (promise P20)."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3
THRESHOLD_BYTES = 256 * 1024


def return_large_blocks() -> bool:
    """Have blocks of 256 KiB and more given back as soon as they are free; False where that cannot be said.

    The C library of Linux raises its own threshold with each large block that it sees, up to 32 MiB, and
    then keeps what bodies of messages have taken.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES))
    except (OSError, AttributeError):  # another C library
        return False
