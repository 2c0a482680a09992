"""What a broker makes of each thing that tasks and calls may ask for: one table, and one refusal.

`docs/brokers.md` prints the table. The limits of a plan are numbers, and stand in `home/plans.py`; how
a message is put for hosted QStash is the business of `home/hosted.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qtasks.errors import UnsupportedByBroker
from qtasks.protocol.headers import QueueSpec
from qtasks.settings import HomeKind
from qtasks.tasks.options import TaskOptions
from qtasks.tasks.queues import UNDECLARED


@dataclass(frozen=True, slots=True)
class Asked:
    """What a task asks of its broker; `is_delayed` where a call is not to run at once."""

    options: TaskOptions
    queue: QueueSpec
    is_delayed: bool = False


@dataclass(frozen=True, slots=True)
class Support:
    """What hosted QStash makes of one option, named as people write it.

    Where `is_refused` says so it cannot be had, and `instead` is what to do.
    """

    option: str
    hosted: str
    is_refused: Callable[[Asked], bool] | None = None
    instead: str = ""


def _is_delayed_in_order(asked: Asked) -> bool:
    return asked.is_delayed and asked.queue.ordered and not asked.options.has_keys


def _is_of_another_window(asked: Asked) -> bool:
    return asked.options.dedup_window_ms not in (None, WINDOW_MS)


def _is_unique(asked: Asked) -> bool:
    return asked.options.unique is not None


WINDOW_MS = 600_000  # for which QStash remembers a deduplication id
BY_THE_APP = "yes: the app does it"

HOSTED = (
    Support("queue", "unordered: a flow-control key of its name; ordered: a queue of QStash"),
    Support("retries", "yes, up to the plan's limit"),
    Support("retry_delay", "yes"),
    Support("retry_jitter", BY_THE_APP),
    Support("retry_on", BY_THE_APP),
    Support("no_retry_on", BY_THE_APP),
    Support("timeout", "yes, up to the plan's limit"),
    Support("expires", "the app refuses it; it is then a dead letter of QStash"),
    Support("result_ttl", "kept by the app itself, with QTASKS_RESULTS"),
    Support("label", "yes; the task id is one more label"),
    Support("log_args", BY_THE_APP),
    Support("on_success", BY_THE_APP),
    Support("on_failure", BY_THE_APP),
    Support("on_retry", BY_THE_APP),
    Support("on_exhausted", BY_THE_APP),
    Support(
        "schedule",
        "what cron can say, when the app starts; other intervals, overlap, catch_up, expires: refused",
    ),
    Support("exclusive", "a flow-control key"),
    Support("flow", "a flow-control key"),
    Support(
        "dedup_window",
        "ten minutes; any other is refused",
        is_refused=_is_of_another_window,
        instead="its window is ten minutes, which you get without the option",
    ),
    Support(
        "unique",
        "refused",
        is_refused=_is_unique,
        instead="give equal calls an equal task_id, which is enqueued once in ten minutes",
    ),
    Support(
        "countdown, eta",
        "unordered queues, flow and exclusive: yes, in whole seconds; ordered queues: refused",
        is_refused=_is_delayed_in_order,
        instead="leave ordered=True away, or call it without a delay",
    ),
)


def check_supported(
    options: TaskOptions, *, kind: HomeKind, queues: Mapping[str, QueueSpec], is_delayed: bool = False
) -> None:
    """Raise `UnsupportedByBroker` for the first thing that a broker of this kind cannot do.

    `queues` are those that the app declares.
    """
    if kind is not HomeKind.HOSTED:
        return
    asked = Asked(options, queues.get(options.queue, UNDECLARED), is_delayed)
    for each in HOSTED:
        if each.is_refused is not None and each.is_refused(asked):
            place = f"the {'ordered' if asked.queue.ordered else 'unordered'} queue {options.queue!r}"
            raise UnsupportedByBroker(
                f"hosted QStash cannot do {each.option} for a task in {place}; {each.instead}",
                option=each.option,
            )
