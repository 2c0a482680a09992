"""The broker's API, called in process with the token that it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from qtasks.broker.api import ROUTES, Api
from tests.support.broker import Rig

TOKEN = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciJ9"


@asynccontextmanager
async def client_of(rig: Rig, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a rig's API; without `headers` it bears the token."""
    transport = httpx.ASGITransport(api_of(rig), client=("203.0.113.9", 50000))
    known: dict[str, Any] = headers or {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://broker", headers=known) as client:
        yield client


def api_of(rig: Rig) -> Api:
    """Give a rig's API, which takes the token."""
    return Api(rig.broker, ROUTES, [TOKEN])


@pytest.fixture
def api(rig: Rig) -> Api:
    return api_of(rig)


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(rig) as client:
        yield client
