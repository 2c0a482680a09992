"""The table of what each home can do: every row names the tests that prove its cells.

Most of them run once for each home: see `tests/support/every_home.py`.
"""

from __future__ import annotations

import ast

import pytest

from tests.docs.pages import rows, text
from tests.support import ROOT
from tests.support.every_home import HOMES

PAGE = "docs/brokers.md"
SECTION = "What each home can do"
HOME, FAULTS = "tests/home", "tests/faults"

PROOFS = {
    "in this version": [f"{HOME}/test_every_option.py"],
    "tasks, retries, results, dead letters": [
        f"{HOME}/test_every_option.py::test_the_retries_option_bounds_the_attempts",
        f"{HOME}/test_dead_letters.py::test_a_traceback_can_be_read_in_the_dead_letter_queue",
    ],
    "waiting for results": [
        f"{HOME}/test_app_results.py::test_results_come_in_the_order_in_which_their_tasks_finish",
        f"{HOME}/test_app_results.py::test_a_tracked_loop_shows_how_many_items_are_done",
        f"{HOME}/test_hosted_results.py::test_progress_and_what_is_forgotten_are_as_with_any_broker",
    ],
    "a look at a result": [
        f"{HOME}/test_app_results.py::test_a_guest_waits_on_while_one_owner_follows_another",
        f"{HOME}/test_hosted_results.py::test_without_a_result_backend_every_question_says_so_at_once",
    ],
    "queues: parallelism, strict order, pause": [
        f"{HOME}/test_every_option.py::test_the_expires_option_calls_off_what_is_too_late",
        f"{FAULTS}/test_process_nodes.py::test_a_queue_of_one_keeps_its_order_over_nodes_and_kills",
        f"{HOME}/test_hosted.py::test_tasks_of_an_ordered_queue_run_in_the_order_of_their_calls",
    ],
    "`countdown`, `eta`": [
        f"{HOME}/test_app_context.py::test_a_plain_function_knows_when_it_was_called_and_for_when",
        f"{HOME}/test_hosted.py::test_a_delayed_call_of_an_unordered_queue_waits_and_then_runs",
        f"{HOME}/test_app_going_on.py::test_a_retry_after_days_is_scheduled",
    ],
    "deduplication by `task_id`": [
        f"{HOME}/test_every_option.py::test_the_dedup_window_option_remembers_a_task_id_for_so_long",
        f"{HOME}/test_hosted.py::test_a_task_id_given_twice_runs_once",
    ],
    "[periodic tasks]": [
        f"{HOME}/test_periodic_homes.py::test_the_clock_calls_a_task_each_second_and_each_call_has_a_result",
        f"{HOME}/test_periodic_strict.py::test_what_it_cannot_do_keeps_the_app_from_starting",
    ],
    "`delay` from scripts": [
        f"{FAULTS}/test_process_guests.py::"
        "test_a_script_without_an_owner_stores_its_tasks_for_the_app_that_comes",
        f"{HOME}/test_remote.py::test_a_call_inside_a_running_loop_does_not_need_that_loop",
    ],
    "tasks on several processes or machines": [
        f"{FAULTS}/test_process_workers.py::"
        "test_tasks_enqueued_by_any_worker_run_once_in_the_one_that_owns_the_file",
        f"{FAULTS}/test_process_nodes.py::test_every_worker_of_an_app_runs_tasks_and_each_task_runs_once",
    ],
    "several apps on one broker": [
        f"{HOME}/test_app_cancelling.py::test_the_tasks_of_other_apps_are_left_alone",
    ],
    "the app's middleware": [
        f"{HOME}/test_app_cancelling.py::test_a_request_is_dropped_through_middleware",
    ],
    "explicit `Queue(...)`": [
        f"{HOME}/test_hosted_setup.py::test_an_ordered_queue_has_its_declared_parallelism_from_the_start_on",
    ],
    "destinations that are no app": ["tests/home/test_listener.py"],
    "several nodes on one store": [
        f"{FAULTS}/test_process_nodes.py::test_messages_are_shared_and_each_is_delivered_once",
    ],
    "[QStash's API]": ["tests/contract/test_endpoint_index.py"],
    "cancelling by label": [
        f"{HOME}/test_app_cancelling.py::test_what_waits_is_called_off_by_what_is_said_of_it",
        f"{HOME}/test_hosted_results.py::test_tasks_are_called_off_by_label_and_queue",
    ],
    "cancelling what runs": [f"{HOME}/test_app_cancelling.py::test_a_coroutine_that_runs_is_cancelled"],
    "a task that is not there yet": [
        f"{HOME}/test_dead_letters.py::test_an_unknown_task_is_dead_after_the_window_and_says_so",
    ],
    "replay of dead letters": [f"{HOME}/test_app_going_on.py::test_a_replay_knows_that_it_is_one"],
    "schedules, callbacks": ["tests/contract/test_endpoint_index_from_13.py"],
    "`api/llm`": ["tests/contract/test_api_llm.py"],
}
"""By how a row begins. A file alone stands for all tests in it."""


def features() -> list[str]:
    return [row[0] for row in rows(text(PAGE), SECTION)]


def test_every_row_has_a_proof_and_no_proof_is_left_over() -> None:
    assert [each for each in features() if sum(map(each.startswith, PROOFS)) != 1] == []
    assert [each for each in PROOFS if not any(row.startswith(each) for row in features())] == []


@pytest.mark.parametrize("proof", [each for proofs in PROOFS.values() for each in proofs])
def test_every_proof_is_there(proof: str) -> None:
    file, _, name = proof.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    tests = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}

    assert name in tests if name else any(each.startswith("test_") for each in tests)


def test_every_column_is_a_home_that_tests_run_in() -> None:
    header = next(line for line in text(PAGE).splitlines() if line.startswith("| feature"))

    assert len(header.strip("|").split("|")) - 1 == len(HOMES)
