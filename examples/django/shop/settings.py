"""The site's settings: about tasks are the first of the installed apps, and `QTASKS`."""

from __future__ import annotations

from pathlib import Path

from qtasks import QTasks

SECRET_KEY = "only good enough for an example"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["qtasks.integrations.django", "shop"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path.cwd() / "shop.db"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

QTASKS = QTasks()
