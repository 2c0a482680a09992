"""Options of tasks that are about time or about other calls: in a kit they do what they do anywhere."""

from __future__ import annotations

from qtasks import Context, Flow, QTasks, Unique
from qtasks.testing import Drained, Kit


def test_a_call_that_has_expired_is_not_run(kit: Kit) -> None:
    app, ran = QTasks(), list[int]()

    @app.task(expires="1h", retry_delay="2h")
    def note() -> None:
        ran.append(1)

    kit.fail_next(note)
    result = note.delay()
    kit.drain()

    kit.advance(hours=3)

    assert ran == []
    assert result.state == "EXPIRED"


def test_a_unique_call_is_enqueued_once_while_its_window_lasts(kit: Kit) -> None:
    app = QTasks()

    @app.task(unique=Unique("{user}", until="1h"))
    def note(user: str) -> None: ...

    for user in ("ann", "ann", "bob"):
        note.delay(user)
    kit.advance(minutes=59)
    note.delay("ann")
    assert len(kit.enqueued(note, "ann")) == 1

    kit.advance(minutes=2)
    note.delay("ann")
    assert len(kit.enqueued(note, "ann")) == 2


def test_a_rate_lets_its_calls_start_window_by_window(kit: Kit) -> None:
    app = QTasks()

    @app.task(flow=Flow(rate=2, period="1h"))
    def note(number: int) -> int:
        return number

    for number in range(5):
        note.delay(number)

    assert kit.drain().succeeded == 2
    assert kit.advance(hours=1).succeeded == 2
    assert kit.results(note) == [0, 1, 2, 3]
    assert kit.drain(wait=True).succeeded == 1


def test_exclusive_calls_run_one_at_a_time_however_many_may_run() -> None:
    with Kit(concurrency=8) as kit:
        app, inside, most = QTasks(), [0], [0]

        @app.task(exclusive="{account}")
        def book(account: str) -> None:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1

        for _ in range(8):
            book.delay("ann")
        kit.drain()

    assert most == [1]


def test_a_retry_that_waits_for_days_and_changes_its_arguments_is_the_same_task(kit: Kit) -> None:
    app = QTasks()

    @app.task(bind=True)
    def count(context: Context, number: int) -> int:
        if number < 3:
            context.retry(countdown="3d", args=[number + 1])
        return number

    result = count.delay(2)
    assert kit.drain() == Drained(delivered=1, retried=1)
    assert kit.advance(days=2) == Drained()
    assert kit.advance(days=1) == Drained(delivered=1, succeeded=1)

    assert result.get() == 3
    assert kit.results(count) == [3]
    assert [each.arguments["number"] for each in kit.enqueued(count)] == [2, 3]


def test_hooks_are_called(kit: Kit) -> None:
    told: list[str] = []

    def tell(context: Context, what: object) -> None:
        told.append(f"{context.attempt} {what}")

    app = QTasks(defaults={"on_success": tell, "on_retry": tell})

    @app.task
    def note() -> str:
        return "noted"

    kit.fail_next(note, OSError("no"))
    note.delay()
    kit.drain(wait=True)

    assert told == ["1 no", "2 noted"]


def test_progress_is_told_at_once(kit: Kit) -> None:
    app = QTasks()

    @app.task(bind=True, retry_delay="1h")
    def note(context: Context) -> None:
        context.progress(1, 2, "half")
        seen.append(kit.enqueued(note)[0].state)
        raise OSError("no")

    seen: list[str] = []
    result = note.delay()
    kit.drain()

    assert seen == ["RUNNING"]
    assert result.progress is not None
    assert (result.progress.done, result.progress.total, result.progress.note) == (1, 2, "half")


def test_a_call_that_is_called_off_is_not_run(kit: Kit) -> None:
    app = QTasks()

    @app.task
    def note() -> None: ...

    result = note.delay()
    assert result.cancel()

    assert kit.drain() == Drained()
    assert kit.enqueued(note)[0].state == "CANCELLED"
