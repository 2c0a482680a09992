"""A standalone broker: what it refuses to start with, which secrets it makes, and that it serves."""

from __future__ import annotations

import asyncio
import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from qtasks import ConfigurationError, Settings
from qtasks.client import calls
from qtasks.client.clients import AsyncClient
from qtasks.errors import StoreBusy, Unauthorized
from qtasks.home.ownership import Ownership
from qtasks.home.server import Server, ServerSetup, check_setup
from tests.support.api import read_keys
from tests.support.homes import KEYS, TOKEN, keys_of, running_server, server_setup, url_said


def quiet(line: str) -> None:
    """Nobody reads what is said."""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"store": "postgresql://x/y", "settings": Settings()},
            "nodes on one PostgreSQL must have the same token and signing keys: set QTASKS_TOKEN, "
            "QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY",
        ),
        ({"store": "mysql://x/y"}, "--store 'mysql://x/y' is no store; use sqlite:///q.db"),
        ({"store": "sqlite://"}, "names no file"),
        (
            {"host": "0.0.0.0"},
            "a broker on 0.0.0.0 is open to others, so it does not start without a token: "
            "set QTASKS_TOKEN, or listen on 127.0.0.1",
        ),
        ({"host": "::"}, "does not start without a token"),
        ({"host": "10.1.2.3"}, "does not start without a token"),
        ({"host": "app.example"}, "does not start without a token"),
        (
            {"settings": Settings(signing_keys=("sig_1",))},
            "set both QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY, or neither",
        ),
    ],
)
def test_a_setup_that_is_unsafe_or_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Server(ServerSetup(**changes), say=quiet)

    assert text in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_a_broker_of_this_machine_alone_needs_no_token(host: str) -> None:
    assert check_setup(ServerSetup(store="sqlite:////data/q.db", host=host)) == Path("/data/q.db")


def test_a_broker_that_others_reach_starts_with_a_token() -> None:
    setup = ServerSetup(store="sqlite:////data/q.db", host="0.0.0.0", settings=Settings(token=TOKEN))

    assert check_setup(setup) == Path("/data/q.db")


async def test_a_taken_port_is_refused_and_the_file_is_given_up(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port"
        with pytest.raises(ConfigurationError, match=re.escape(text)):
            await Server(server_setup(store, port=port), say=quiet).run()

    async with running_server(server_setup(store)):
        pass


async def test_a_second_broker_on_the_same_file_is_refused(store: Path) -> None:
    text = (
        rf"{store} is in use by another process \(it holds {store}\.lock\); stop it, or name another --store"
    )
    async with running_server(server_setup(store)):
        with pytest.raises(StoreBusy, match=text):
            await Server(server_setup(store), say=quiet).run()


async def test_it_serves_whoever_has_the_token_and_stops_at_a_signal(store: Path) -> None:
    async with running_server(server_setup(store)) as said:
        url = url_said(said)
        async with AsyncClient(url, TOKEN) as client:
            assert await client.send(calls.queues()) == []
        async with AsyncClient(url, "another") as stranger:
            with pytest.raises(Unauthorized, match="unable to authenticate: invalid token"):
                await stranger.send(calls.queues())

    assert said[-2:] == [
        "draining: deliveries in flight may end, new requests are told to come back",
        "stopped; 0 deliveries handed back",
    ]
    ownership = await asyncio.to_thread(Ownership.try_acquire, store)
    assert ownership is not None
    ownership.release()


async def test_secrets_that_are_given_are_neither_stored_nor_said(store: Path) -> None:
    async with running_server(server_setup(store)) as said:
        assert not keys_of(store).exists()

    assert not any(secret in line for line in said for secret in (TOKEN, *KEYS))


@pytest.mark.parametrize("settings", [Settings(), Settings(token=TOKEN), Settings(signing_keys=KEYS)])
async def test_secrets_that_are_missing_are_made_and_kept(store: Path, settings: Settings) -> None:
    async with running_server(server_setup(store, settings=settings)) as said:
        made = read_keys(store)
        async with AsyncClient(url_said(said), settings.token or made["QSTASH_TOKEN"]) as client:
            assert await client.send(calls.queues()) == []
    async with running_server(server_setup(store, settings=settings)):
        assert read_keys(store) == made

    assert stat.S_IMODE(keys_of(store).stat().st_mode) == 0o600
    assert f"token and signing keys are in {keys_of(store)}" in said
    assert not any(secret in line for line in said for secret in made.values())
