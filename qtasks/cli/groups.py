"""`qtasks groups`: list, show, fill, set and remove URL groups."""

from __future__ import annotations

import click

from qtasks.cli.bulk import one_by_one
from qtasks.cli.command import Session, with_broker
from qtasks.cli.completing import live
from qtasks.cli.kinds import HEADER
from qtasks.cli.output import counted
from qtasks.cli.tables import Column, age, clean, instant
from qtasks.client import calls
from qtasks.errors import NotFound
from qtasks.protocol.resources import Endpoint, UrlGroup

complete_names = live(calls.url_groups, lambda each: each.name)
name_argument = click.argument("name", shell_complete=complete_names)


def columns(now: int) -> tuple[Column[UrlGroup], ...]:
    """What a listing shows of a URL group."""
    return (
        Column("NAME", lambda each: each.name, is_whole=True),
        Column("ENDPOINTS", lambda each: len(each.endpoints), is_number=True),
        Column("AGE", lambda each: age(each.created_at, now), is_number=True),
        Column("URLS", lambda each: " ".join(one.url for one in each.endpoints)),
    )


@click.group()
def groups() -> None:
    """URL groups: one name for several destinations."""


@groups.command("ls")
@with_broker
def ls(session: Session) -> None:
    """List the URL groups."""
    found = session.ask(calls.url_groups())
    session.out.rows(found, columns(session.now()), UrlGroup.to_json, empty="no URL groups")


@groups.command("show")
@name_argument
@with_broker
def show(session: Session, *, name: str) -> None:
    """Show one URL group, with its endpoints in order."""
    found = session.ask(calls.url_group(name))
    lines = [f"{each.name}: {each.url}" if each.name else each.url for each in found.endpoints]
    pairs = [
        ("name", found.name),
        ("created", instant(found.created_at)),
        ("updated", instant(found.updated_at)),
        ("endpoints", "\n".join(clean(each) for each in lines)),
    ]
    session.out.one(pairs, found.to_json())


@groups.command("add")
@name_argument
@click.argument("urls", nargs=-1, required=True, metavar="[LABEL=]URL...")
@with_broker
def add(session: Session, *, name: str, urls: tuple[str, ...]) -> None:
    """Add endpoints to a URL group, which is made if it is missing: billing=https://… or just the URL."""
    endpoints = [_endpoint(each) for each in urls]
    session.ask(calls.add_endpoints(name, endpoints))
    found = session.ask(calls.url_group(name))
    session.out.done(f"{name} has {counted(len(found.endpoints), 'endpoint')}", found.to_json())


@groups.command("set")
@name_argument
@click.option("--header", "-H", "headers", multiple=True, type=HEADER, required=True)
@with_broker
def set_(session: Session, *, name: str, headers: tuple[tuple[str, str], ...]) -> None:
    """Set the headers that each message to a URL group has by default: -H "Upstash-Retries: 5"."""
    found: dict[str, list[str]] = {}
    for header, value in headers:
        found.setdefault(header, []).append(value)
    session.ask(calls.set_group_headers(name, found))
    session.out.done(
        f"set {counted(len(found), 'default header')} of {name}", {"name": name, "headers": found}
    )


@groups.command("rm")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names)
@click.option("--endpoint", "endpoints", multiple=True, help="Only this endpoint: its name, or its URL.")
@with_broker
def rm(session: Session, *, names: tuple[str, ...], endpoints: tuple[str, ...]) -> None:
    """Remove URL groups, or endpoints of one; with its last endpoint a group goes."""
    if endpoints:
        if len(names) != 1:
            raise click.UsageError("--endpoint is about one URL group; name just that")
        urls = [each for each in endpoints if "://" in each]
        rest = [each for each in endpoints if "://" not in each]
        session.ask(calls.remove_endpoints(names[0], urls=urls, names=rest))
        members = {"name": names[0], "removed": list(endpoints)}
        session.out.done(f"removed {counted(len(endpoints), 'endpoint')} of {names[0]}", members)
        return
    known = {each.name for each in session.ask(calls.url_groups())}

    def remove(name: str) -> calls.Call[None]:
        # The API takes one that is not there for deleted; a person who mistyped it wants to know.
        if name not in known:
            raise NotFound(f"URL group {name} not found")
        return calls.delete_url_group(name)

    one_by_one(session, names, remove, "removed")


def _endpoint(text: str) -> Endpoint:
    name, equals, url = text.partition("=")
    if equals and "://" not in name:
        return Endpoint(url, name)
    return Endpoint(text)
