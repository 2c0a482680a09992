"""Disks for tests: small ones that can be filled to the last byte, and a limit on how long a file may get.

What a machine does not allow (a mount needs root) leaves the test out, and fails in CI.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import require

KIB = 1024
MIB = 1024 * KIB


class SmallDisk:
    """A file system in memory of a fixed size, mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    @property
    def free(self) -> int:
        """How many bytes are free."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Have another file take all but `leave` bytes, or give back what it took too much."""
        with self._filler.open("ab", buffering=0) as filler:
            excess = self.free - leave
            if excess < 0:
                filler.truncate(max(0, filler.tell() + excess))
            while excess > 0:
                try:
                    filler.write(bytes(min(excess, 64 * KIB)))
                except OSError:  # somebody else was quicker with the last of it
                    return
                excess = self.free - leave

    def make_room(self) -> None:
        """Delete the other file."""
        self._filler.unlink()

    def __str__(self) -> str:
        sizes = {each.name: each.stat().st_size for each in self.folder.iterdir()}
        return f"--- disk: {self.free} bytes free beside {sizes}"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """Mount a new disk of `size` bytes; it is gone afterwards."""
    require(sys.platform == "linux" and os.geteuid() == 0, "a mount of a small disk needs Linux and root")
    mounted = folder / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mounted)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    require(answer.returncode == 0, f"a small disk cannot be mounted here: {answer.stderr.strip()}")
    try:
        yield SmallDisk(mounted)
    finally:
        # Lazily: whoever was killed a moment ago may still be letting go of its files.
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: the kernel refuses such writes with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
