"""What the server runs: Django, and the tasks at /qtasks."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.asgi import get_asgi_application

from qtasks.integrations.django import with_tasks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

application = with_tasks(get_asgi_application(), settings.QTASKS)
