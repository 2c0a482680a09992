"""What `INSTALLED_APPS` finds: it imports every app's `tasks` module, so that tasks are known by name."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class QTasksConfig(AppConfig):
    """`"qtasks.integrations.django"` in `INSTALLED_APPS`."""

    name = "qtasks.integrations.django"
    label = "qtasks"
    verbose_name = "qtasks"

    def ready(self) -> None:
        """Import `tasks.py` of each installed app that has one."""
        autodiscover_modules("tasks")
