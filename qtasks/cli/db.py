"""`qtasks db`: look after the file of a broker: check, back up, restore, migrate, count."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qtasks.errors import ConfigurationError, QTasksError

FAILED = 1


class _Commands(click.Group):
    """Turns what goes wrong into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error
        except QTasksError as error:
            click.echo(f"qtasks: {error}", err=True)
            sys.exit(FAILED)


@click.group(cls=_Commands)
def db() -> None:
    """Look after a broker's SQLite file: check it, back it up, restore and migrate it."""


def _file(ctx: click.Context, param: click.Parameter, store: str | None) -> Path:
    from qtasks.home.upkeep import file_of

    return file_of(store or os.environ.get("QTASKS_BROKER") or "sqlite:///qtasks.db")


_on_store = click.option(
    "--store",
    "path",
    callback=_file,
    help="The store: sqlite:///FILE.  [default: QTASKS_BROKER, else sqlite:///qtasks.db]",
)


@db.command()
@_on_store
def migrate(*, path: Path) -> None:
    """Bring the file to the schema of this version, as the next start would.

    No broker may be using it. There is no way back: take a backup first.
    """
    from qtasks.home import upkeep

    before, after = upkeep.migrate(path)
    click.echo(f"{path}: schema {after}, {'as before' if before == after else f'was {before}'}")


@db.command()
@_on_store
@click.option("--quick", is_flag=True, help="Do not compare indexes with their tables; much faster.")
def check(*, path: Path, quick: bool) -> None:
    """Look for damage, and for rows that contradict each other; exit 1 if there is any.

    A broker may go on using the file meanwhile.
    """
    from qtasks.broker.store import upkeep

    problems = upkeep.check(path, is_quick=quick)
    for each in problems:
        click.echo(each)
    if problems:
        click.echo(f"qtasks: {path} is not sound; stop the broker and restore a backup", err=True)
        sys.exit(FAILED)
    click.echo(f"{path}: ok")


@db.command()
@_on_store
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
def backup(*, path: Path, target: Path) -> None:
    """Copy the file to TARGET, and its secrets to TARGET.keys, while a broker goes on using it.

    The copy holds all that was accepted before the command began. It never overwrites a file.
    """
    from qtasks.home import upkeep

    with _Bar() as bar:
        made = upkeep.backup(path, target.absolute(), bar.tell)
    click.echo(f"{made.path}: {made.size_bytes} bytes, read back and sound")
    if made.keys is not None:
        click.echo(f"{made.keys}: the secrets; keep them as safe as the originals")


class _Bar:
    """Shows how far a backup has come, where a person looks on."""

    def __enter__(self) -> _Bar:
        return self

    def tell(self, done: int, total: int) -> None:
        """Show it."""
        if sys.stderr.isatty():
            click.echo(f"\r{done} of {total} pages", nl=False, err=True)

    def __exit__(self, *error: object) -> None:
        if sys.stderr.isatty():
            click.echo("\r\033[K", nl=False, err=True)


@db.command()
@_on_store
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def restore(*, path: Path, source: Path) -> None:
    """Put the backup SOURCE, and SOURCE.keys, where there is no file now.

    What was delivered after the backup was taken is delivered again.
    """
    from qtasks.home import upkeep

    upkeep.restore(source.absolute(), path)
    click.echo(f"{path}: restored from {source}")


@db.command()
@_on_store
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def stats(*, path: Path, as_json: bool) -> None:
    """Count what the file holds. A broker may go on using it meanwhile."""
    from qtasks.broker.store import upkeep
    from qtasks.home.ownership import owner_socket

    found = upkeep.stats(path)
    facts: dict[str, object] = {"store": str(path), **asdict(found)}
    facts["owner_listens"] = owner_socket(path) is not None
    if as_json:
        click.echo(json.dumps(facts))
        return
    rows = facts.pop("rows")
    assert isinstance(rows, dict)
    for name, value in (facts | rows).items():
        click.echo(f"{name.replace('_', ' '):20} {value}")
