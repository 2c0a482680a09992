"""`qtasks doctor`: looks at a setup, says what is wrong with it, and how to mend it.

`gathering.py` finds out the facts, the checks of `table.py` judge them.
"""

from __future__ import annotations

import os

import click

from qtasks.cli import exits
from qtasks.cli.command import printing
from qtasks.cli.doctor.facts import Facts
from qtasks.cli.doctor.findings import Finding, Level, examine
from qtasks.cli.doctor.gathering import gather
from qtasks.cli.doctor.table import CHECKS
from qtasks.cli.output import Output, counted
from qtasks.cli.tables import clean
from qtasks.cli.tasks import app_option
from qtasks.clock import SystemClock

TONES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@click.command()
@app_option
@click.option("--broker", metavar="URL", help="Which broker.  [default: that of the app, else QTASKS_BROKER]")
@click.option("--target", type=click.Choice(["hosted"]), help="Also check it for hosted QStash and its plan.")
@printing
def doctor(out: Output, *, app_name: str | None, broker: str | None, target: str | None) -> None:
    """Check the setup of this environment, and of an app if one is named; exit 1 if anything fails.

    Nothing is changed. With a broker elsewhere, the public address gets two deliveries that run nothing.
    """
    app = app_name or os.environ.get("QTASKS_APP", "").strip() or None
    facts = gather(os.environ, SystemClock(), broker=broker, app=app, is_for_hosted=target == "hosted")
    findings = examine(facts, CHECKS)
    show(out, facts, findings)
    if any(each.level is Level.FAIL for each in findings):
        raise click.exceptions.Exit(exits.FAILED)


def show(out: Output, facts: Facts, findings: list[Finding]) -> None:
    """Print what was found, for people what must be done beneath each."""
    if not out.is_for_people:
        out.rows(findings, (), Finding.to_json, empty="")
        return
    width = max(len(each.name) for each in findings)
    for each in findings:
        level = out.painted(f"{each.level.value:4}", TONES[each.level])
        click.echo(f"{level}  {each.name:{width}}  {clean(each.text)}")
        if each.remedy is not None:
            click.echo(f"{'':{width + 6}}  -> {clean(each.remedy)}")
    count = {level: sum(each.level is level for each in findings) for level in Level}
    out.say(
        f"{counted(len(findings), 'check')}: {count[Level.OK]} ok, {count[Level.WARN]} to look at, "
        f"{count[Level.FAIL]} failed"
    )
