"""Runs a module in this process, and breaks its disk when a test says so.

    python -m tests.support.breaking_disk TRIGGER CALL[,CALL] SUFFIX MODULE [ARGUMENT...]

From the moment at which the file TRIGGER exists, the kernel answers these system calls with EIO on every
file that is open by then and whose path ends in SUFFIX. It does so by a seccomp filter, which needs no
right and is never taken away.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import runpy
import struct
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

CALLS = {
    "x86_64": {"pread64": 17, "pwrite64": 18, "fsync": 74, "fdatasync": 75, "seccomp": 317},
    "aarch64": {"pread64": 67, "pwrite64": 68, "fsync": 82, "fdatasync": 83, "seccomp": 277},
}
POLL_S = 0.005

NO_NEW_PRIVILEGES = 38
SET_FILTER = 1
ALL_THREADS = 1
ALLOW = 0x7FFF_0000
FAIL = 0x0005_0000
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16  # where they stand in what a filter is given


def can_break() -> bool:
    """Say whether this machine's calls are known here."""
    return sys.platform == "linux" and platform.machine() in CALLS


def program(calls: Sequence[int], descriptors: Sequence[int]) -> bytes:
    """Write the filter: each instruction is a code, how far to jump if so and if not, and a value."""
    instructions = [
        (LOAD, 0, 0, NUMBER),
        *_one_of(calls),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        *_one_of(descriptors),
        (RETURN, 0, 0, FAIL | errno.EIO),
    ]
    return b"".join(struct.pack("=HBBI", *each) for each in instructions)


def _one_of(values: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Go on behind these instructions if what was loaded is one of the values; allow the call if not."""
    count = len(values)
    return [
        *((EQUALS, count - place, 0, each) for place, each in enumerate(values)),
        (RETURN, 0, 0, ALLOW),
    ]


def break_calls(names: Sequence[str], suffix: str) -> list[int]:
    """Have calls fail from now on, in every thread; give the descriptors on which they do."""
    numbers = CALLS[platform.machine()]
    descriptors = open_files(suffix)
    text = program([numbers[each] for each in names], descriptors)
    code = ctypes.create_string_buffer(text, len(text))
    told = struct.pack("@HP", len(text) // 8, ctypes.addressof(code))
    argument = ctypes.create_string_buffer(told, len(told))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(
        numbers["seccomp"], SET_FILTER, ALL_THREADS, argument
    ):
        raise OSError(ctypes.get_errno(), "seccomp")
    return descriptors


def open_files(suffix: str) -> list[int]:
    """Give the descriptors of files whose path ends so."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            path = os.readlink(each)
        except OSError:  # closed meanwhile
            continue
        if path.endswith(suffix):
            found.append(int(each.name))
    return found


def await_trigger(trigger: Path, names: Sequence[str], suffix: str) -> None:
    """Break the disk as soon as the file is there."""
    while not trigger.exists():
        time.sleep(POLL_S)
    print(f"broken: {', '.join(names)} of {break_calls(names, suffix)}", flush=True)


if __name__ == "__main__":
    trigger, calls, suffix, module, *arguments = sys.argv[1:]
    watch = threading.Thread(
        target=await_trigger, args=(Path(trigger), calls.split(","), suffix), daemon=True
    )
    watch.start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
