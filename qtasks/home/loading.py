"""Finds the `QTasks` that somebody names as `module:attribute`, for commands that work with an app."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Unpack

from qtasks.errors import ArgumentsError, ConfigurationError
from qtasks.home.app import QTasks
from qtasks.home.wiring import AnyTask
from qtasks.protocol.headers import QueueSpec
from qtasks.settings import Settings
from qtasks.tasks.default import DEFAULT
from qtasks.tasks.options import CallOptions, TaskOptions
from qtasks.tasks.written import read_call

VARIABLE = "QTASKS_APP"


def tasks_of(app: QTasks) -> list[AnyTask]:
    """List the tasks that an app can run, by name."""
    found = {each.name: each for each in (*DEFAULT, *app._registry)}
    return [found[name] for name in sorted(found)]


def options_of(app: QTasks, task: AnyTask) -> TaskOptions:
    """Give what holds for a task in an app."""
    return task.options_in(app._layers)


def settings_of(app: QTasks) -> Settings:
    """Give the settings of an app: those of its environment, and what its code says instead."""
    return app._settings


def queues_of(app: QTasks) -> Mapping[str, QueueSpec]:
    """Give the queues that an app declares."""
    return app._specs


def concurrency_of(app: QTasks) -> int:
    """Say how many tasks one process of an app runs at once."""
    return app._concurrency


def find_task(app: QTasks, name: str) -> AnyTask:
    """Find a task by its name, an alias, or the last part of a name that is no other's.

    Raises `ArgumentsError`.
    """
    task = app.find(name)
    if task is not None:
        return task
    known = [each.name for each in tasks_of(app)]
    alike = [each for each in known if each.rpartition(".")[2] == name]
    if len(alike) != 1:
        raise ArgumentsError(f"there is no task {name!r}; there are: {', '.join(alike or known) or 'none'}")
    found = app.find(alike[0])
    assert found is not None
    return found


def call_task(
    app: QTasks,
    name: str,
    written: Mapping[str, str],
    *,
    delay_ms: int | None = None,
    **options: Unpack[CallOptions],
) -> str:
    """Have a task called with arguments as a person writes them; gives its id, raises what `delay` raises."""
    task = find_task(app, name)
    args, kwargs = read_call(task.signature, written)
    told = task.with_options(**options) if options else task
    countdown = None if delay_ms is None else delay_ms / 1000
    return app._get_caller().send(told, args, kwargs, countdown=countdown).id


def load_app(name: str | None) -> QTasks:
    """Import an app by name, by default that of `QTASKS_APP`; raises `ConfigurationError`.

    Modules are looked for in the working directory too. Without an attribute, the module's only `QTasks`
    is taken.
    """
    name = name or os.environ.get(VARIABLE, "").strip()
    if not name:
        raise ConfigurationError(f"which app? Give --app module:tasks, or set {VARIABLE} to it")
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"--app {name}: importing {module_name} failed: {error}") from error
        raise ConfigurationError(
            f"--app {name}: there is no module {module_name!r} in {os.getcwd()} or on the path; run this "
            "where you start your app, and write --app module:tasks"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"--app {name}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    found = {key: value for key, value in vars(module).items() if isinstance(value, QTasks)}
    if attribute in found:
        return found[attribute]
    if not attribute and len(set(found.values())) == 1:
        return next(iter(found.values()))
    known = ", ".join(f"{module_name}:{key}" for key in found) or "none"
    raise ConfigurationError(f"--app {name} names no QTasks; there are: {known}")
