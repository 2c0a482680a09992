"""What tests of several rooms share: how often to repeat, and what a machine must have.

Imported as `tests.support`, as the root of the repository is on the path while tests run. Helpers
of one room stand in a module of their own beside this one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository."""

FULL = os.environ.get("QTASKS_TEST_FULL", "") not in ("", "0")
"""Whether this run is `scripts/test --full`."""

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
"""Whether this run decides if a change lands, so that nothing may be left out quietly."""


def repeats(full_count: int) -> int:
    """Say how often to repeat something costly: `full_count` times in a full run, else a tenth of it.

    >>> repeats(100) in (10, 100)
    True
    """
    return full_count if FULL else max(1, full_count // 10)


def require(condition: object, reason: str) -> None:
    """Leave the test out on a machine that lacks what it needs; in CI that is a failure instead.

    `reason` says what is missing: "PostgreSQL is not installed".
    """
    if condition:
        return
    if IN_CI:
        pytest.fail(f"required in CI: {reason}", pytrace=False)
    pytest.skip(reason)
