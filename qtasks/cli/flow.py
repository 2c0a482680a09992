"""`qtasks flow`: list, show and steer flow-control keys."""

from __future__ import annotations

import click

from qtasks.cli.bulk import one_by_one
from qtasks.cli.command import Session, with_broker
from qtasks.cli.completing import live
from qtasks.cli.kinds import SPAN
from qtasks.cli.tables import Column, facts, span
from qtasks.client import calls
from qtasks.protocol.resources import FlowControlView

complete_keys = live(calls.flow_keys, lambda each: each.key)
key_argument = click.argument("key", shell_complete=complete_keys)
keys_argument = click.argument("keys", nargs=-1, required=True, shell_complete=complete_keys)


def columns() -> tuple[Column[FlowControlView], ...]:
    """What a listing shows of a flow-control key."""
    return (
        Column("KEY", lambda each: each.key, is_whole=True),
        Column("WAITING", lambda each: each.wait_list_size, is_number=True),
        Column("RUNNING", lambda each: _of(each.parallelism_count, each.parallelism_max), is_number=True),
        Column("RATE", _rate, is_number=True),
        Column("PINNED", lambda each: _pinned(each) or None),
        Column(
            "STATE",
            lambda each: "paused" if each.is_paused else "active",
            tone=lambda each: "yellow" if each.is_paused else "green",
        ),
    )


def _of(count: int, most: int) -> str:
    return f"{count}/{most}" if most else f"{count}"


def _rate(key: FlowControlView) -> str | None:
    return f"{key.rate_count}/{key.rate_max} in {span(key.rate_period_s * 1000)}" if key.rate_max else None


def _pinned(key: FlowControlView) -> str:
    pins = (("parallelism", key.is_pinned_parallelism), ("rate", key.is_pinned_rate))
    return ", ".join(name for name, is_pinned in pins if is_pinned)


@click.group()
def flow() -> None:
    """Flow-control keys: what waits at them, their rate and parallelism."""


@flow.command("ls")
@click.option("--search", help="Only keys that contain this.")
@with_broker
def ls(session: Session, *, search: str | None) -> None:
    """List the flow-control keys."""
    found = session.ask(calls.flow_keys(search))
    session.out.rows(found, columns(), FlowControlView.to_json, empty="no flow-control keys")


@flow.command("show")
@key_argument
@with_broker
def show(session: Session, *, key: str) -> None:
    """Show one flow-control key."""
    found = session.ask(calls.flow_key(key))
    session.out.one(facts(found), found.to_json())


@flow.command("pause")
@keys_argument
@with_broker
def pause(session: Session, *, keys: tuple[str, ...]) -> None:
    """Start nothing more of keys; a missing key is made."""
    one_by_one(session, keys, calls.pause_flow_key, "paused")


@flow.command("resume")
@keys_argument
@with_broker
def resume(session: Session, *, keys: tuple[str, ...]) -> None:
    """Let paused keys go on."""
    one_by_one(session, keys, calls.resume_flow_key, "resumed")


@flow.command("pin")
@key_argument
@click.option("--parallelism", type=click.IntRange(1), help="How many run at once.")
@click.option("--rate", type=click.IntRange(1), help="How many start in a period.")
@click.option("--period", type=SPAN, help="The period of the rate.  [default: 1s]")
@with_broker
def pin(session: Session, *, key: str, parallelism: int | None, rate: int | None, period: int | None) -> None:
    """Fix the limits of a key, whatever later messages say."""
    if parallelism is None and rate is None:
        raise click.UsageError("say what to pin: --parallelism 2, or --rate 10 --period 1m")
    if period is not None and (rate is None or period % 1000 or not period):
        raise click.UsageError("--period is that of a --rate, in whole seconds: --rate 10 --period 1m")
    seconds = None if period is None else period // 1000
    session.ask(calls.pin_flow_key(key, parallelism=parallelism, rate=rate, period_s=seconds))
    session.out.done(f"pinned {key}", session.ask(calls.flow_key(key)).to_json())


@flow.command("unpin")
@key_argument
@click.option("--parallelism", is_flag=True, help="Only this limit.")
@click.option("--rate", is_flag=True, help="Only this limit.")
@with_broker
def unpin(session: Session, *, key: str, parallelism: bool, rate: bool) -> None:
    """Let messages set the limits of a key again: both, unless one is named."""
    both = not (parallelism or rate)
    session.ask(calls.unpin_flow_key(key, parallelism=parallelism or both, rate=rate or both))
    session.out.done(f"unpinned {key}", session.ask(calls.flow_key(key)).to_json())


@flow.command("reset")
@keys_argument
@with_broker
def reset(session: Session, *, keys: tuple[str, ...]) -> None:
    """Begin a new window of keys, with nothing of their rate spent."""
    one_by_one(session, keys, calls.reset_flow_rate, "reset")
