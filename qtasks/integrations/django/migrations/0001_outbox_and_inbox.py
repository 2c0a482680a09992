"""Makes `qtasks_outbox` and `qtasks_inbox`, on PostgreSQL and SQLite; elsewhere there is nothing to make."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations

from qtasks.clock import SystemClock
from qtasks.home.outbox import Outbox
from qtasks.tasks.app_tables import DIALECTS, InboxTable


def make(apps: Any, schema_editor: Any) -> None:
    """Make both tables."""
    connection = schema_editor.connection
    if connection.vendor in DIALECTS:
        Outbox(None).create(connection)
        InboxTable(SystemClock()).create(connection)


def drop(apps: Any, schema_editor: Any) -> None:
    """Drop both, with what they hold."""
    for table in ("qtasks_outbox", "qtasks_inbox"):
        schema_editor.execute(f"DROP TABLE IF EXISTS {table}")


class Migration(migrations.Migration):
    """They belong to no model."""

    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[Any]] = [migrations.RunPython(make, drop)]
