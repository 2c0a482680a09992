"""What tests of an app take: `Kit`, the true path in memory with a clock that is moved by hand.

Used by `with Kit() as kit:`, or through the pytest fixture `qtasks_kit`. See docs/testing.md.
"""

from __future__ import annotations

from qtasks.testing.calls import DeadCall, EnqueuedCall
from qtasks.testing.kit import Kit
from qtasks.testing.rounds import Drained

__all__ = ["DeadCall", "Drained", "EnqueuedCall", "Kit"]
