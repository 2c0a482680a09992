"""`qtasks keys` and `tokens`: shown once, rolled safely, and no valid call is lost by a roll."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qtasks import Receiver, Settings
from qtasks.broker.keys import fingerprint
from qtasks.cli import exits
from qtasks.cli.keys import SETTLED_MS, danger_of
from qtasks.client import AsyncClient, calls
from qtasks.client.keys import KeyStatus
from qtasks.errors import SignatureError
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from tests.support.api import read_keys
from tests.support.cli import Shell
from tests.support.homes import TOKEN, running_server, server_setup, url_said
from tests.support.wire import WireServer

NOW = 1_700_000_000_000
AT_ONCE = 150


def own_keys(folder: Path) -> Settings:
    """Settings of a broker that keeps signing keys of its own."""
    return Settings(token=TOKEN, durability="relaxed")


def shell_to(said: list[str], **env: str) -> Shell:
    """A shell whose environment names the broker."""
    return Shell({"QTASKS_BROKER": url_said(said), "QTASKS_TOKEN": TOKEN, **env})


async def test_keys_are_shown_as_lines_for_an_environment(shell: Shell) -> None:
    shown = await shell("keys", "show")

    assert shown.out == (
        "QTASKS_CURRENT_SIGNING_KEY=sig_the_current_key\nQTASKS_NEXT_SIGNING_KEY=sig_the_next_key\n"
    )


async def test_keys_of_the_environment_are_rolled_there(shell: Shell) -> None:
    status = await shell("keys", "status")
    rolled = await shell("keys", "roll")

    assert "set in the broker's environment: roll them there" in status.err
    assert rolled.code == exits.FAILED
    assert "current from next first" in rolled.err


async def test_the_status_says_which_key_has_signed_and_never_a_key(tmp_path: Path, hook: WireServer) -> None:
    store = tmp_path / "q.db"
    async with running_server(server_setup(store, settings=own_keys(tmp_path))) as said:
        shell = shell_to(said)
        await shell("send", hook.url)
        await hook.reached(1)
        keys = read_keys(store)
        before = await shell("keys", "status")
        rolled = await shell("keys", "roll")
        await shell("send", hook.url)
        await hook.reached(2)
        after = await shell("keys", "status", "--json")

    current = fingerprint(keys["QSTASH_CURRENT_SIGNING_KEY"])
    following = fingerprint(keys["QSTASH_NEXT_SIGNING_KEY"])
    assert f"{current}  current       1" in before.out
    assert f"{following}  next          0" in before.out
    assert before.err == "safe to roll: qtasks keys roll\n"
    assert f"QTASKS_CURRENT_SIGNING_KEY={keys['QSTASH_NEXT_SIGNING_KEY']}\n" in rolled.out
    assert "sig_" not in before.out + after.out
    assert [each["key"] for each in after.json["signed"]] == [following, current]
    assert (after.json["current"], after.json["safeToRoll"]) == (following, False)


async def test_a_second_roll_is_refused_until_receivers_may_know_the_keys(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    async with running_server(server_setup(store, settings=own_keys(tmp_path))) as said:
        shell = shell_to(said)
        old = read_keys(store)
        await shell("keys", "roll")
        new = read_keys(store)
        names = ("CURRENT_SIGNING_KEY", "NEXT_SIGNING_KEY")
        with_old = {f"QTASKS_{name}": old[f"QSTASH_{name}"] for name in names}
        with_new = {f"QTASKS_{name}": new[f"QSTASH_{name}"] for name in names}

        again = await shell("keys", "roll")
        stale = await shell("keys", "roll", **with_old)
        assert read_keys(store) == new
        deployed = await shell("keys", "roll", **with_new)
        forced = await shell("keys", "roll", "--force")

    assert again.code == exits.FAILED
    assert "receivers that still have the old ones would refuse everything" in again.err
    assert "at once with --force" in again.err
    assert stale.code == exits.FAILED
    assert "still has the keys from before the last roll" in stale.err
    assert (deployed.code, forced.code) == (0, 0)


async def test_that_keys_were_rolled_outlives_the_broker(tmp_path: Path) -> None:
    setup = server_setup(tmp_path / "q.db", settings=own_keys(tmp_path))
    async with running_server(setup) as said:
        await shell_to(said)("keys", "roll")
    async with running_server(setup) as said:
        again = await shell_to(said)("keys", "roll")

    assert again.code == exits.FAILED


@pytest.mark.parametrize(
    ("rotated_at", "here", "is_danger"),
    [
        (None, (), False),
        (NOW - SETTLED_MS, (), False),
        (NOW - SETTLED_MS + 1, (), True),
        (NOW, ("cur", "nxt"), False),
        (None, ("old", "cur"), True),
        (None, ("other", "unknown"), True),
    ],
)
def test_a_roll_is_dangerous_where_somebody_may_know_the_old_pair_only(
    rotated_at: int | None, here: tuple[str, ...], is_danger: bool
) -> None:
    status = KeyStatus(current="cur", next="nxt", rotated_at=rotated_at)

    assert (danger_of(status, here, NOW) is not None) == is_danger


async def test_a_roll_under_load_loses_no_valid_call(tmp_path: Path, hook: WireServer) -> None:
    store = tmp_path / "q.db"
    async with running_server(server_setup(store, settings=own_keys(tmp_path))) as said:
        old = read_keys(store)
        receiver = Receiver(old["QSTASH_CURRENT_SIGNING_KEY"], old["QSTASH_NEXT_SIGNING_KEY"])
        async with AsyncClient(url_said(said), TOKEN) as client:

            async def publish(number: int) -> None:
                await client.send(calls.publish(Outgoing(hook.url, str(number).encode(), Options())))

            sending = [asyncio.create_task(publish(number)) for number in range(AT_ONCE)]
            await hook.reached(AT_ONCE // 5)
            assert (await shell_to(said)("keys", "roll")).code == 0
            await asyncio.gather(*sending)
            await asyncio.gather(*(publish(number) for number in range(AT_ONCE, AT_ONCE + 20)))
            await hook.reached(AT_ONCE + 20)

    signers: set[bool] = set()
    for each in hook.requests:
        signature = each.header("upstash-signature")
        receiver.verify(body=each.body, signature=signature, url=hook.url)
        signers.add(_is_by(old["QSTASH_CURRENT_SIGNING_KEY"], each.body, signature))
    assert {int(each.body) for each in hook.requests} == set(range(AT_ONCE + 20))
    assert signers == {True, False}  # some before the roll, some after it


def _is_by(key: str, body: bytes, signature: str) -> bool:
    try:
        Receiver(key, key).verify(body=body, signature=signature, url=None)
    except SignatureError:
        return False
    return True


async def test_a_token_is_shown_once_and_works_until_it_is_revoked(shell: Shell) -> None:
    made = await shell("tokens", "new", "dash", "--scope", "read-only")
    value = made.out.strip()
    reads = await shell("queues", "ls", QTASKS_TOKEN=value)
    writes = await shell("queues", "set", "mail", QTASKS_TOKEN=value)
    listed = await shell("tokens", "ls", "--jsonl")
    twice = await shell("tokens", "new", "dash")
    revoked = await shell("tokens", "revoke", "dash", "nope")
    after = await shell("queues", "ls", QTASKS_TOKEN=value)

    assert made.err == "made the token dash (read-only); it is shown this once:\n"
    assert reads.code == 0
    assert writes.code == exits.AUTH
    assert "make one that may: qtasks tokens new NAME --scope full" in writes.err
    assert [set(each) for each in listed.lines] == [{"name", "scope", "createdAt"}]
    assert twice.code == exits.FAILED
    assert "revoke it first" in twice.err
    assert revoked.code == exits.PARTLY
    assert after.code == exits.AUTH


async def test_a_token_s_value_is_a_member_for_programs(shell: Shell) -> None:
    made = (await shell("tokens", "new", "ci", "--json")).json

    assert set(made) == {"name", "scope", "createdAt", "token"}
    assert (await shell("tokens", "new", "a b")).code == exits.FAILED
    assert (await shell("tokens", "new", "x", "--scope", "root")).code == exits.USAGE
