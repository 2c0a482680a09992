"""Spares the garbage collector what a process has made by its start, for as long as it is at work.

A full collection looks at all objects that hold others. In an app those are mostly what it has imported,
which is never garbage.
"""

from __future__ import annotations

import gc
import threading


class SetApart:
    """A block for all that is at work in a process: what there is when the first begins is set apart.

    That is freed as ever once nobody refers to it. Only what then refers to itself in a circle has to wait
    for the end of the last block. Nothing is done where others have set objects apart, or do without the
    collector.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._is_ours = False
        self._is_first = True

    def __enter__(self) -> None:
        with self._lock:
            self._blocks += 1
            if self._blocks == 1 and gc.isenabled() and not gc.get_freeze_count():
                if self._is_first:  # what imports have left behind must not stay; a collection takes time
                    gc.collect()
                    self._is_first = False
                gc.freeze()
                self._is_ours = True

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if self._is_ours and not self._blocks:
                gc.unfreeze()
                self._is_ours = False


SET_APART = SetApart()
"""That of this process, as it has one collector."""
