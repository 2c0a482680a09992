"""Which page is where."""

from __future__ import annotations

from django.urls import path

from .views import place_order, show_orders

urlpatterns = [path("", show_orders), path("orders", place_order)]
