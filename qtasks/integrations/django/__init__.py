"""Django: `with_tasks` for `asgi.py`, `delay_on_commit`; as an installed app, it imports `tasks` modules.

It keeps the database connections of tasks as Django keeps those of requests. Its migrations make the tables
of an outbox and an inbox.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import close_old_connections, connections
from starlette.types import ASGIApp

from qtasks.home.app import QTasks
from qtasks.integrations import asgi
from qtasks.integrations.django.on_commit import delay_on_commit
from qtasks.tasks.context import Context

__all__ = ["delay_on_commit", "with_tasks"]


def with_tasks(django: ASGIApp, tasks: QTasks, path: str = "/qtasks") -> ASGIApp:
    """Give an app that serves the tasks at `path` and Django everywhere else: the `application` of `asgi.py`.

    Around each task connections that are broken or too old are closed. An async task has one thread for
    all that it does by Django's async ORM, and its connections are closed when it ends.
    """

    @tasks.around
    def plain(context: Context) -> Iterator[None]:
        close_old_connections()
        try:
            yield
        finally:
            close_old_connections()

    @tasks.around
    async def coroutine(context: Context) -> AsyncIterator[None]:
        task = tasks.find(context.task)
        if task is None or not task.is_coroutine:
            yield
            return
        async with ThreadSensitiveContext():
            try:
                yield
            finally:
                await sync_to_async(connections.close_all)()

    return asgi.with_tasks(django, tasks, path)
