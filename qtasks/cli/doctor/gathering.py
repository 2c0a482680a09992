"""Finds out the facts of a setup. All reading and asking is here; what it means is for the checks.

Nothing is made or changed: a store of another schema is not opened, and no keys are made.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import replace

from qtasks.broker.store.postgres_links import Place
from qtasks.cli.doctor.asking import ask_broker, ask_webhook
from qtasks.cli.doctor.facts import AppFacts, BrokerFacts, Facts
from qtasks.cli.doctor.stores import look_at_file, look_at_postgres
from qtasks.clock import Clock
from qtasks.errors import ConfigurationError, QTasksError
from qtasks.settings import HomeKind, Settings, database_path

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def gather(
    env: Mapping[str, str], clock: Clock, *, broker: str | None, app: str | None, is_for_hosted: bool
) -> Facts:
    """Find out what can be; an app is imported if one is named, and `broker` goes before all else."""
    facts = _of_machine(env, clock)
    try:
        settings = Settings.from_env(env)
    except ConfigurationError as error:
        return replace(facts, settings_error=str(error))
    if app is not None:
        settings, facts = _with_app(facts, settings, app)
    if broker is not None:
        settings = replace(settings, broker=broker)
    try:
        home = _home(settings)
    except ConfigurationError as error:
        return replace(facts, settings=settings, broker_error=str(error))
    facts = replace(
        facts, settings=settings, home=home, is_for_hosted=is_for_hosted or home is HomeKind.HOSTED
    )
    facts = _with_store(facts, settings)
    return replace(facts, broker=_broker(facts, settings, clock), webhook=ask_webhook(settings, home, clock))


def _home(settings: Settings) -> HomeKind:
    """Say where the broker is; raises `ConfigurationError` also for an address that names no store."""
    home = settings.home
    if home is HomeKind.SQLITE:
        database_path(settings.broker)
    elif home is HomeKind.POSTGRES:
        Place.parse(settings.broker)
    return home


def _of_machine(env: Mapping[str, str], clock: Clock) -> Facts:
    concerned = {
        name: value
        for name, value in env.items()
        if value and (name.startswith("QTASKS_") or "QSTASH_" in name or name.upper() in PROXIES)
    }
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Facts(
        environment=concerned,
        now=clock.now(),
        sqlite_version=sqlite3.sqlite_version_info,
        open_files=sys.maxsize if open_files == resource.RLIM_INFINITY else open_files,
    )


def _with_app(facts: Facts, settings: Settings, name: str) -> tuple[Settings, Facts]:
    from qtasks.home.loading import concurrency_of, load_app, options_of, queues_of, settings_of, tasks_of

    try:
        app = load_app(name)
        tasks = tasks_of(app)
        found = AppFacts(
            tasks={each.name: options_of(app, each) for each in tasks},
            schedules={each.name: each.schedules for each in tasks if each.schedules},
            queues=queues_of(app),
            concurrency=concurrency_of(app),
        )
    except QTasksError as error:
        return settings, replace(facts, app_error=str(error))
    return settings_of(app), replace(facts, app=found)


def _with_store(facts: Facts, settings: Settings) -> Facts:
    if facts.home is HomeKind.SQLITE:
        return replace(facts, file=look_at_file(settings))
    if facts.home is HomeKind.POSTGRES:
        return replace(facts, postgres=look_at_postgres(settings))
    return facts


def _broker(facts: Facts, settings: Settings, clock: Clock) -> BrokerFacts | None:
    """Ask the broker, unless its store would have to be made or migrated for it."""
    if facts.file is not None:
        file = facts.file
        is_sound = file.schema == file.newest_schema and file.may_write
        has_keys = file.keys is not None and file.keys.error is None
        if not is_sound or not has_keys or (file.is_held and not file.has_owner):
            return None
    if facts.postgres is not None:
        is_sound = facts.postgres.schema == facts.postgres.newest_schema
        if not is_sound or not settings.secrets or len(settings.signing_keys) == 1:
            return None
    is_running = facts.is_elsewhere or (facts.file is not None and facts.file.has_owner)
    return ask_broker(settings, clock, is_running=is_running)
