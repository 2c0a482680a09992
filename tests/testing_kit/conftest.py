"""A kit around all apps, and a shop in which nothing has happened yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qtasks.testing import Kit
from tests.support import shop


@pytest.fixture
def kit() -> Iterator[Kit]:
    shop.done.clear()
    with Kit() as kit:
        yield kit
