"""`qtasks db`: look after the store of a broker: check, back up, restore, migrate, count."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtasks.cli.exits import FAILED
from qtasks.cli.failures import explained
from qtasks.errors import ConfigurationError, QTasksError

if TYPE_CHECKING:
    from qtasks.home.upkeep import Store


class _Commands(click.Group):
    """Turns what goes wrong into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error
        except QTasksError as error:
            failure = explained(error, None)
            click.echo(f"qtasks: {failure.text}", err=True)
            sys.exit(failure.code)


@click.group(cls=_Commands)
def db() -> None:
    """Look after a broker's store: check it, back it up, restore and migrate it."""


def _store(ctx: click.Context, param: click.Parameter, url: str | None) -> Store:
    from qtasks.home.upkeep import store_of

    return store_of(url or os.environ.get("QTASKS_BROKER") or "sqlite:///qtasks.db")


_on_store = click.option(
    "--store",
    callback=_store,
    help="The store: sqlite:///FILE or postgresql://….  [default: QTASKS_BROKER, else sqlite:///qtasks.db]",
)


@db.command()
@_on_store
def migrate(*, store: Store) -> None:
    """Bring the store to the schema of this version, as the next start would.

    No broker may be using a file. There is no way back: take a backup first.
    """
    before, after = store.migrate()
    click.echo(f"{store}: schema {after}, {'as before' if before == after else f'was {before}'}")


@db.command()
@_on_store
@click.option("--quick", is_flag=True, help="Do not compare a file's indexes with its tables; much faster.")
def check(*, store: Store, quick: bool) -> None:
    """Look for damage, and for rows that contradict each other; exit 1 if there is any.

    A broker may go on using the store meanwhile.
    """
    problems = store.check(is_quick=quick)
    for each in problems:
        click.echo(each)
    if problems:
        click.echo(f"qtasks: {store} is not sound; stop the broker and restore a backup", err=True)
        sys.exit(FAILED)
    click.echo(f"{store}: ok")


@db.command()
@_on_store
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
def backup(*, store: Store, target: Path) -> None:
    """Copy a file to TARGET, and its secrets to TARGET.keys, while a broker goes on using it.

    The copy holds all that was accepted before the command began. It never overwrites a file.
    """
    with _Bar() as bar:
        made = store.backup(target.absolute(), bar.tell)
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
def restore(*, store: Store, source: Path) -> None:
    """Put the backup SOURCE, and SOURCE.keys, where there is no file now.

    What was delivered after the backup was taken is delivered again.
    """
    store.restore(source.absolute())
    click.echo(f"{store}: restored from {source}")


@db.command()
@_on_store
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def stats(*, store: Store, as_json: bool) -> None:
    """Count what the store holds. A broker may go on using it meanwhile."""
    found = store.stats()
    if as_json:
        click.echo(json.dumps({"name": str(store), **asdict(found)}))
        return
    click.echo(f"{'store':20} {store}")
    for name, value in {**found.store, **found.rows}.items():
        click.echo(f"{name.replace('_', ' '):20} {value}")
