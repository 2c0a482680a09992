"""Django's migrations: the tables that qtasks may have in a site's own database."""

from __future__ import annotations
