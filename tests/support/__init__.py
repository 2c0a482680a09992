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

UNBATCHED = os.environ.get("QTASKS_TEST_UNBATCHED", "") not in ("", "0")
"""Whether apps are handed each call alone in this run, and none before they can run it."""

BATCH = 1 if UNBATCHED else 100
"""What the settings of apps say of batches, unless a test is about them."""

BATCH_ENV = {"QTASKS_BATCH": "1"} if UNBATCHED else {}
"""The same for those that are told by their environment."""

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
"""Whether this run decides if a change lands, so that nothing may be left out quietly."""


def repeats(full_count: int) -> int:
    """Say how often to repeat something costly: `full_count` times in a full run, else a tenth of it.

    >>> repeats(100) in (10, 100)
    True
    """
    return full_count if FULL else max(1, full_count // 10)


def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what would configure qtasks, but for how this run has calls handed over."""
    for name in list(os.environ):
        if name.startswith(("QTASKS_", "QSTASH_")):
            monkeypatch.delenv(name)
    for name, value in BATCH_ENV.items():
        monkeypatch.setenv(name, value)


def require(condition: object, reason: str) -> None:
    """Leave the test out on a machine that lacks what it needs; in CI that is a failure instead.

    `reason` says what is missing: "PostgreSQL is not installed".
    """
    if condition:
        return
    if IN_CI:
        pytest.fail(f"required in CI: {reason}", pytrace=False)
    pytest.skip(reason)
