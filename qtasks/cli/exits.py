"""The exit codes of all commands."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
AUTH = 4
UNREACHABLE = 5
PARTLY = 7
"""Some of what was asked was done, and some was not."""
