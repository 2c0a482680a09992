"""A kit around all apps, and a shop in which nothing has happened yet."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from qtasks.testing import Kit
from tests.support import shop


@pytest.fixture(scope="module", autouse=True)
def _no_apps_of_earlier_tests() -> None:
    """A kit takes in every app that is alive, those too that nobody can reach any more but for Python."""
    gc.collect()


@pytest.fixture
def kit() -> Iterator[Kit]:
    shop.done.clear()
    with Kit() as kit:
        yield kit
