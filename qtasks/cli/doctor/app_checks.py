"""Checks of what an app declares: against its own limits, and against hosted QStash and its plans."""

from __future__ import annotations

from collections.abc import Iterator

from qtasks.broker.config import BrokerConfig
from qtasks.cli.doctor.facts import AppFacts, Facts
from qtasks.cli.doctor.findings import Check, Verdict, fail, failed, ok, warn
from qtasks.cli.output import counted
from qtasks.errors import ConfigurationError, UnsupportedByBroker
from qtasks.home.plans import Plan, check_plan, find_plan
from qtasks.protocol.durations import format_duration
from qtasks.protocol.every import Every
from qtasks.settings import HomeKind
from qtasks.tasks.hosted_schedules import cron_of
from qtasks.tasks.periodic import Periodic
from qtasks.tasks.support import check_supported

LONGEST_MS = BrokerConfig().max_timeout_ms


def look_at_app(facts: Facts) -> Verdict | None:
    """Whether the app can be imported."""
    if facts.app_error is not None:
        return failed(facts.app_error, "see that the module can be imported where you run this")
    if facts.app is None:
        return None
    return ok(f"{counted(len(facts.app.tasks), 'task')}, {counted(len(facts.app.queues), 'queue')} declared")


def look_at_concurrency(facts: Facts) -> Verdict | None:
    """Whether a queue is declared wider than the app is."""
    if facts.app is None:
        return None
    most = facts.app.concurrency
    found = [name for name, spec in facts.app.queues.items() if spec.parallelism > most]
    if found:
        return warn(
            f"declared for more at once than the {most} that one process runs: {', '.join(found)}",
            "give QTasks(concurrency=) as much, or the queues less",
        )
    return ok(f"{most} at once in each process")


def look_at_timeouts(facts: Facts) -> Verdict | None:
    """Whether a task has more time than a broker gives any."""
    if facts.app is None or facts.is_for_hosted:
        return None
    found = [name for name, options in facts.app.tasks.items() if options.timeout_ms > LONGEST_MS]
    if found:
        longest = format_duration(LONGEST_MS)
        return warn(
            f"with a timeout beyond {longest}, after which a broker ends every attempt: {', '.join(found)}",
            f"split what they do, and give timeout={longest!r} or less",
        )
    return None


def look_at_options(facts: Facts) -> Verdict | None:
    """Whether hosted QStash can do what tasks ask for."""
    if facts.app is None or not facts.is_for_hosted:
        return None
    found = list(_unsupported(facts.app))
    if found:
        first, _, remedy = found[0].rpartition("; ")
        more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
        return fail(f"{first}{more}", remedy)
    return ok("hosted QStash can do all that tasks ask for")


def _unsupported(app: AppFacts) -> Iterator[str]:
    for name, options in app.tasks.items():
        try:
            check_supported(options, kind=HomeKind.HOSTED, queues=app.queues)
        except UnsupportedByBroker as error:
            yield f"task {name}: {error}"
    for name, schedules in app.schedules.items():
        for each in schedules:
            if (problem := _problem_of(name, each, expires_ms=app.tasks[name].expires_ms)) is not None:
                yield problem


def _problem_of(task: str, periodic: Periodic, *, expires_ms: int | None) -> str | None:
    beyond = {
        "overlap": periodic.overlap != "allow",
        "catch_up": periodic.catch_up != "latest",
        "expires": expires_ms is not None,
    }
    for option, is_asked in beyond.items():
        if is_asked:
            return f"task {task}: hosted QStash cannot do {option} for a schedule; leave it away"
    if isinstance(periodic.timing, Every):
        try:
            cron_of(periodic.timing, f"task {task}")
        except UnsupportedByBroker as error:
            return str(error)
    return None


def look_at_plan(facts: Facts) -> Verdict | None:
    """Whether the plan of hosted QStash allows what the app declares."""
    if facts.settings is None or not facts.is_for_hosted:
        return None
    try:
        plan = find_plan(facts.settings.plan)
    except ConfigurationError as error:
        return failed(str(error), "name your plan in QTASKS_QSTASH_PLAN")
    if facts.app is None:
        return ok(f"{plan.name}; name your app (--app) to have its tasks held against it")
    try:
        check_plan(plan, facts.app.tasks, facts.app.queues)
    except ConfigurationError as error:
        text, _, remedy = str(error).rpartition(". ")
        return fail(text, remedy)
    return _schedules_in(plan, facts.app)


def _schedules_in(plan: Plan, app: AppFacts) -> Verdict:
    count = sum(map(len, app.schedules.values()))
    if plan.max_schedules is not None and count > plan.max_schedules:
        return fail(
            f"{count} schedules, and the plan {plan.name!r} allows {plan.max_schedules}",
            "leave some away, or name your plan in QTASKS_QSTASH_PLAN",
        )
    return ok(f"{plan.name} allows what the app declares")


def look_at_results(facts: Facts) -> Verdict | None:
    """Whether results are kept, as hosted QStash keeps none."""
    if facts.settings is None or not facts.is_for_hosted:
        return None
    if facts.settings.results is None:
        return warn(
            "hosted QStash keeps no results, nor does the app: get() raises ResultsUnavailable",
            "set QTASKS_RESULTS=sqlite:///results.db, unless nobody asks for results",
        )
    return ok("the app keeps them itself")


CHECKS = (
    Check("app", "the app can be imported", look_at_app),
    Check("concurrency", "no queue is declared wider than a process of the app is", look_at_concurrency),
    Check("timeouts", "no task has a longer timeout than a broker gives", look_at_timeouts),
    Check("hosted-options", "hosted QStash can do what tasks and schedules ask for", look_at_options),
    Check("hosted-plan", "the plan allows what the app declares", look_at_plan),
    Check("hosted-results", "the app keeps results, as hosted QStash does not", look_at_results),
)
