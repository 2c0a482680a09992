"""The pytest plugin: the fixture `qtasks_kit`, and nothing that happens without it.

pytest loads this module at every start, so all else is imported when the fixture is first used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from qtasks.testing import Kit


@pytest.fixture
def qtasks_kit() -> Iterator[Kit]:
    """The tasks of all apps, in memory, for one test: see `qtasks.testing.Kit`."""
    from qtasks.testing import Kit

    with Kit() as kit:
        yield kit
