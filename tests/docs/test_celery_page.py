"""What the page for those who know Celery says is so: it names all of Celery's, and ours exist."""

from __future__ import annotations

import dataclasses
import inspect
import re
from importlib.util import find_spec
from typing import Any

import pytest

import qtasks
import qtasks.errors
from qtasks import Task
from qtasks.tasks.options import DECLARED
from tests.docs.pages import rows, text

PAGE = "docs/celery.md"
SECTIONS: tuple[str, ...] = (
    "Task options",
    "Calling options",
    "In a task",
    "Results",
    "Groups of results",
    "Configuration and tools",
)
COMING = {
    "AsyncResult.attempts",
    "AsyncResult.cancel",
    "AsyncResult.error",
    "AsyncResult.forget",
    "AsyncResult.info",
    "AsyncResult.result",
    "Context.progress",
    "QTasks.around",
    "as_completed",
    "cron",
    "every",
    "qtasks.testing",
    "schedule",
    "track",
}
"""Names on the page that other work brings; each is taken out when it is there."""

# Of Celery 5: what `@app.task` takes and a task class has.
OPTIONS = """
    name bind base typing max_retries default_retry_delay autoretry_for dont_autoretry_for retry_kwargs
    retry_backoff retry_backoff_max retry_jitter throws rate_limit time_limit soft_time_limit expires
    ignore_result store_errors_even_if_ignored track_started acks_late acks_on_failure_or_timeout
    reject_on_worker_lost serializer compression priority backend trail send_events resultrepr_maxsize
    shadow_name on_success on_failure on_retry before_start after_return
"""
CALLING = """
    delay apply_async apply s si signature subtask send_task map starmap chunks
    args kwargs task_id countdown eta expires queue exchange routing_key priority serializer compression
    ignore_result time_limit soft_time_limit retry retry_policy link link_error headers shadow connection
    producer publisher add_to_parent chain group_id group_index chord root_id parent_id reply_to
    stamped_headers
"""
REQUEST = """
    args callbacks called_directly chain children chord correlation_id delivery_info errbacks eta expires
    group group_index headers hostname id ignore_result is_eager kwargs logfile loglevel origin parent_id
    properties replaced_task_nesting reply_to retries root_id shadow stamped_headers stamps task taskset
    timelimit utc self.request self.retry self.max_retries self.update_state self.replace
    self.add_to_chord self.send_event self.backend self.app Reject Ignore
"""
RESULT = """
    args as_list as_tuple backend build_graph children collect date_done failed forget get get_leaf graph id
    ignored info iterdeps kwargs maybe_reraise maybe_throw name on_ready parent queue ready result retries
    revoke revoke_by_stamped_headers state status successful supports_native_join task_id then throw
    traceback wait worker
"""
GROUP = """
    add app as_tuple backend children clear completed_count delete discard failed forget get id iter_native
    join join_native maybe_reraise maybe_throw on_ready parent ready remove restore results revoke save
    successful supports_native_join then update waiting
"""
CELERY: dict[str, str] = dict(zip(SECTIONS, (OPTIONS, CALLING, REQUEST, RESULT, GROUP), strict=False))
STATES = {
    "QUEUED", "SCHEDULED", "RUNNING", "RETRYING", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "UNKNOWN",
}  # fmt: skip


def codes(cell: str) -> list[str]:
    """Give the names in a cell that are marked as code, without what is called with them."""
    return [each.partition("(")[0] for each in re.findall(r"`([^`]+)`", cell)]


def ours() -> list[str]:
    found = {name for section in SECTIONS for _, cell, _ in rows(text(PAGE), section) for name in codes(cell)}
    return sorted(found)


def exists(name: str) -> bool:
    parameters = inspect.signature(Task.apply_async).parameters
    if name in DECLARED or name in parameters or name in qtasks.__all__:
        return True
    head, _, member = name.partition(".")
    if head == "qtasks":
        return find_spec(name) is not None
    kind: Any = getattr(qtasks, head, None) or getattr(qtasks.errors, head, None)
    if kind is None or not member:
        return False
    fields = {each.name for each in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    return hasattr(kind, member) or member in fields


@pytest.mark.parametrize("name", ours())
def test_a_name_of_ours_on_the_page_is_in_the_code(name: str) -> None:
    assert exists(name) or name in COMING


def test_what_is_said_to_come_is_on_the_page() -> None:
    assert {*ours()} >= COMING


@pytest.mark.parametrize("section", CELERY)
def test_every_name_of_celery_has_a_row(section: str) -> None:
    named = [name for cell, _, _ in rows(text(PAGE), section) for name in codes(cell)]

    assert {*CELERY[section].split()} <= {*named}
    assert len(named) == len({*named})


def test_every_option_of_ours_has_a_row() -> None:
    named = {
        name for section in SECTIONS for row in rows(text(PAGE), section) for name in codes(row[1] + row[2])
    }

    assert {*DECLARED} <= named


def test_every_state_of_ours_has_a_row() -> None:
    named = {name for _, cell, _ in rows(text(PAGE), "States") for name in codes(cell)}

    assert named == STATES
