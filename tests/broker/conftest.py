"""The broker that tests of this room put to work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
async def make_rig(tmp_path: Path) -> AsyncIterator[MakeRig]:
    """Make a rig with other limits than the default; one for each test."""
    made: list[Rig] = []

    def make(**config: Any) -> Rig:
        made.append(Rig(tmp_path, **config))
        return made[-1]

    yield make
    for rig in made:
        rig.database.close()


@pytest.fixture
async def rig(make_rig: MakeRig) -> Rig:
    return make_rig()
