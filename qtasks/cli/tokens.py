"""`qtasks tokens`: list, make and revoke the broker's named tokens."""

from __future__ import annotations

import click

from qtasks.cli.bulk import one_by_one
from qtasks.cli.command import Session, with_broker
from qtasks.cli.completing import live
from qtasks.cli.tables import Column, age
from qtasks.client import calls
from qtasks.client.keys import NamedToken

complete_names = live(calls.tokens, lambda each: each.name)


def columns(now: int) -> tuple[Column[NamedToken], ...]:
    """What a listing shows of a token."""
    return (
        Column("NAME", lambda each: each.name, is_whole=True),
        Column("SCOPE", lambda each: each.scope),
        Column("AGE", lambda each: age(each.created_at, now), is_number=True),
    )


@click.group()
def tokens() -> None:
    """Tokens: who may use the broker's API, and for what."""


@tokens.command("ls")
@with_broker
def ls(session: Session) -> None:
    """List the named tokens; nobody can find out their values."""
    found = session.ask(calls.tokens())
    session.out.rows(
        found, columns(session.now()), NamedToken.to_json, empty="no named tokens, only the broker's own"
    )


@tokens.command("new")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["full", "read-only"]),
    default="full",
    show_default=True,
    help="What it may do.",
)
@with_broker
def new(session: Session, *, name: str, scope: str) -> None:
    """Make a token, and print it: it is shown this once."""
    made = session.ask(calls.make_token(name, scope))
    if session.out.is_for_people:
        session.out.say(f"made the token {name} ({scope}); it is shown this once:")
        click.echo(made.value)
    else:
        session.out.json(made.to_json())


@tokens.command("revoke")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names)
@with_broker
def revoke(session: Session, *, names: tuple[str, ...]) -> None:
    """End tokens, at once."""
    one_by_one(session, names, calls.revoke_token, "revoked")
