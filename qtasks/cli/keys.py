"""`qtasks keys`: show the broker's signing keys, say what they have signed, and roll them safely."""

from __future__ import annotations

from dataclasses import dataclass

import click

from qtasks.broker.keys import fingerprint
from qtasks.cli import exits
from qtasks.cli.command import Session, with_broker
from qtasks.cli.tables import Column, age, instant
from qtasks.client import calls
from qtasks.client.keys import KeyStatus, KeyUse
from qtasks.errors import NotFound

SETTLED_MS = 24 * 3_600_000
"""So long after a roll receivers are taken to know the new keys, if nothing tells otherwise."""


@dataclass(frozen=True, slots=True)
class Danger:
    """Why the keys had better not be rolled now."""

    why: str


def danger_of(status: KeyStatus, here: tuple[str, ...], now: int) -> Danger | None:
    """Say why a roll would have receivers refuse deliveries; None if nothing speaks against it.

    After a roll, what knows only the pair before knows the current key as its next, and the new next not at
    all: another roll would leave it with nothing. `here` are fingerprints of the keys in this environment.
    """
    if here and status.current not in here:
        return Danger("the keys in this environment are of neither this nor the last roll: update them first")
    if here and here[0] != status.current:
        return Danger(
            "this environment still has the keys from before the last roll, and so may your receivers: give "
            "them the new ones first (qtasks keys show)"
        )
    if here == (status.current, status.next):
        return None  # what is deployed from here knows both
    if status.rotated_at is not None and now - status.rotated_at < SETTLED_MS:
        return Danger(
            f"the keys were rolled at {instant(status.rotated_at)}, and receivers that still have the old "
            "ones would refuse everything: first give all of them the new ones (qtasks keys show)"
        )
    return None


@click.group()
def keys() -> None:
    """Signing keys: with which receivers verify deliveries."""


@keys.command("show")
@with_broker
def show(session: Session) -> None:
    """Print both signing keys, as lines for an environment."""
    found = session.ask(calls.signing_keys())
    if session.out.is_for_people:
        click.echo(f"QTASKS_CURRENT_SIGNING_KEY={found.current}\nQTASKS_NEXT_SIGNING_KEY={found.next}")
    else:
        session.out.json({"current": found.current, "next": found.next})


@keys.command("status")
@with_broker
def status(session: Session) -> None:
    """Say by fingerprints which keys there are, which of them signed lately, and whether a roll is safe."""
    found, now = session.ask(calls.key_status()), session.now()
    danger = danger_of(found, fingerprints_here(session), now)
    if not session.out.is_for_people:
        session.out.json(found.to_json() | {"safeToRoll": danger is None})
        return
    session.out.rows(_lines(found), _columns(found, now), KeyUse.to_json, empty="")
    if found.rotated_at is not None:
        session.out.say(f"rolled at {instant(found.rotated_at)}")
    if not found.can_rotate:
        session.out.say(
            "these keys are set in the broker's environment: roll them there, current from next first"
        )
    elif danger is None:
        session.out.say("safe to roll: qtasks keys roll")
    else:
        session.out.say(f"not safe to roll: {danger.why}")


def _lines(found: KeyStatus) -> list[KeyUse]:
    uses = {each.key: each for each in found.signed}
    unused = (KeyUse(key=key, attempts=0, last_at=0) for key in (found.current, found.next))
    known = [uses.pop(each.key, each) for each in unused]
    return [*known, *uses.values()]


def _columns(found: KeyStatus, now: int) -> tuple[Column[KeyUse], ...]:
    roles = {found.current: "current", found.next: "next"}
    return (
        Column("KEY", lambda each: each.key),
        Column("ROLE", lambda each: roles.get(each.key, "old")),
        Column("SIGNED", lambda each: each.attempts, is_number=True),
        Column("LAST", lambda each: age(each.last_at or None, now), is_number=True),
    )


@keys.command("roll")
@click.option("--force", is_flag=True, help="Although receivers may not know the keys yet.")
@with_broker
def roll(session: Session, *, force: bool) -> None:
    """Sign with the next key from now on, and make a new next one.

    Receivers with the old pair go on verifying, as they know the next key already; give them the new pair
    before the next roll. Refuses while receivers may not have it yet.
    """
    if not force and (danger := _danger(session)) is not None:
        session.out.say(f"qtasks: {danger.why}; then run this again, or at once with --force")
        raise click.exceptions.Exit(exits.FAILED)
    made = session.ask(calls.rotate_keys())
    if session.out.is_for_people:
        session.out.say("rolled; give your receivers these two now, as the old pair outlives one roll only:")
        click.echo(f"QTASKS_CURRENT_SIGNING_KEY={made.current}\nQTASKS_NEXT_SIGNING_KEY={made.next}")
    else:
        session.out.json({"current": made.current, "next": made.next})


def _danger(session: Session) -> Danger | None:
    try:
        found = session.ask(calls.key_status())
    except NotFound:
        return Danger("this broker does not say when its keys were rolled last; see that it is long ago")
    return danger_of(found, fingerprints_here(session), session.now())


def fingerprints_here(session: Session) -> tuple[str, ...]:
    """Give the fingerprints of the signing keys in this environment."""
    return tuple(fingerprint(each) for each in session.broker.settings().signing_keys)
