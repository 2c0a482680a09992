"""An app as its authors write it, for tests of the testing kit; its broker is a file that must never come.

Tasks write down in `done` what they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from qtasks import AsyncResult, Context, QTasks, Reject

tasks = QTasks("sqlite:////nowhere/at/all/qtasks.db", name="shop", defaults={"retry_jitter": 0.5})
done: list[object] = []


@dataclass(frozen=True)
class Order:
    number: int
    lines: tuple[str, ...] = ()


@tasks.task(queue="mail", label="welcome")
async def send_email(to: str, subject: str = "Welcome") -> str:
    done.append(("email", to, subject))
    return f"sent {subject!r} to {to}"


@tasks.task(retries=2, retry_delay="1m", aliases=["shop.bill"])
def charge(order: Order, *, currency: str = "EUR") -> Order:
    done.append(("charge", order.number))
    if order.number < 0:
        raise LookupError(f"order {order.number} is unknown")
    return order


@tasks.task
async def count(*numbers: int, **weights: int) -> int:
    return sum(numbers) + sum(weights.values())


@tasks.task(bind=True)
def attempt_of(context: Context, name: str) -> int:
    done.append((name, context.attempt))
    return context.attempt


@tasks.task(retries=0)
async def refuse(why: str) -> None:
    raise Reject(why)


@tasks.task
async def follow_up(left: int) -> None:
    done.append(("follow-up", left))
    if left:
        await follow_up.adelay(left - 1)


@tasks.task
async def ask_for(number: int) -> Order:
    return await charge.delay(Order(number)).aget(timeout=5, allow_in_task=True)


def register(address: str) -> AsyncResult[str]:
    """Do what a request would."""
    return send_email.delay(address)


def remind_tomorrow(address: str) -> AsyncResult[str]:
    """Reckon an instant from the machine's clock, as apps do."""
    return send_email.apply_async([address], eta=datetime.now(UTC) + timedelta(days=1))
