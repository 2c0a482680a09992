"""The one table of the shop."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """What somebody has ordered."""

    item = models.CharField(max_length=100)
    state = models.CharField(max_length=10, default="new")

    objects = models.Manager()
