"""A Django site without pages and with one empty SQLite file: configured once for a process."""

from __future__ import annotations

import atexit
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import django
from django.conf import settings


def configure() -> None:
    """Set Django up, unless that is done."""
    if settings.configured:
        return
    folder = tempfile.TemporaryDirectory(prefix="qtasks-django-")
    atexit.register(folder.cleanup)
    urls = ModuleType("urls_of_no_site")
    urls.__dict__["urlpatterns"] = []
    sys.modules[urls.__name__] = urls
    settings.configure(
        SECRET_KEY="of a test",
        ROOT_URLCONF=urls.__name__,
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["qtasks.integrations.django"],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(folder.name) / "site.db"},
        },
    )
    django.setup(set_prefix=False)
