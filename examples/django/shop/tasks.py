"""The app's tasks. Django imports this module in every process; `QTASKS` of the settings sends the calls."""

from __future__ import annotations

from qtasks import task

from .models import Order


@task(retries=5)
def pack(order: int) -> str:
    """Pack an order. A plain function runs on a thread, so it uses the ORM as a view does."""
    found = Order.objects.get(pk=order)
    found.state = "packed"
    found.save()
    return f"{found.item} is packed"


@task
async def count(state: str) -> int:
    """Count orders by Django's async ORM."""
    found: int = await Order.objects.filter(state=state).acount()
    return found
