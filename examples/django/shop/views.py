"""The pages of the shop."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from .models import Order
from .tasks import pack


def show_orders(request: HttpRequest) -> HttpResponse:
    """Show the orders, and a button that places another."""
    return render(request, "orders.html", {"orders": Order.objects.order_by("pk")})


@require_POST
def place_order(request: HttpRequest) -> HttpResponse:
    """Store an order, and enqueue its task once that is committed: it may run at once."""
    order = Order.objects.create(item=request.GET["item"])
    transaction.on_commit(lambda: pack.delay(order.pk))
    return JsonResponse({"order": order.pk})
