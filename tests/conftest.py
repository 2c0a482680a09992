"""How every test runs: the hypothesis profile of this run, and what only a full run includes."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.support import FULL
from tests.support.postgres import Postgres, require_postgres

# No deadlines: how long one example takes says more about the machine than about the code.
settings.register_profile("ci", max_examples=100, deadline=None, print_blob=True)
settings.register_profile(
    "full",
    max_examples=2_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("full" if FULL else "ci"))


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    """A PostgreSQL for the tests of this run."""
    return require_postgres()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if FULL:
        return
    left_out = pytest.mark.skip(reason="runs under `scripts/test --full` only")
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(left_out)
