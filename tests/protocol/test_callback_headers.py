"""Callbacks in headers (contract 3.6), and which options the broker refuses."""

from __future__ import annotations

import pytest

from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.headers import (
    Callback,
    Options,
    QueueSpec,
    parse_options,
    render_options,
)

CALLBACK_HEADERS = [
    ("Upstash-Callback", "https://c"),
    ("Upstash-Callback-Timeout", "5s"),
    ("upstash-callback-retries", "1"),
    ("Upstash-Callback-Retry-Delay", "1000"),
    ("Upstash-Callback-Delay", "2s"),
    ("Upstash-Callback-Method", "put"),
    ("Upstash-Callback-Forward-X-a", "1"),
    ("Upstash-Callback-Forward-Content-Type", "a/b"),
    ("Upstash-Failure-Callback", "https://f"),
    ("Upstash-Failure-Callback-Forward-X-a", "2"),
    ("Upstash-Failure-Callback-Retries", "2"),
    ("Upstash-Callback-Failure-Callback", "https://cf"),
    ("Upstash-Callback-Failure-Callback-Forward-Upstash-Workflow-Url", "w"),
    ("Upstash-Retries", "9"),
    ("Upstash-Forward-Upstash-Callback", "https://not-ours"),
]


def test_callbacks_have_the_options_of_messages_behind_their_prefix() -> None:
    workflow = Callback("https://cf", Options(forward=(("Upstash-Workflow-Url", "w"),)))
    callback = Options(
        method="PUT",
        content_type="a/b",
        forward=(("X-A", "1"),),
        timeout_ms=5_000,
        retries=1,
        retry_delay="1000",
        delay_ms=2_000,
        failure_callback=workflow,
    )
    failure = Options(retries=2, forward=(("X-A", "2"),))
    options = Options(
        retries=9,
        forward=(("Upstash-Callback", "https://not-ours"),),
        callback=Callback("https://c", callback),
        failure_callback=Callback("https://f", failure),
    )

    assert parse_options(CALLBACK_HEADERS) == options
    assert parse_options([], [(name.lower(), value) for name, value in CALLBACK_HEADERS]) == options
    assert parse_options(render_options(options)) == options


def test_the_headers_of_a_callback_are_shown_as_lists() -> None:
    callback = Callback("https://c", Options(content_type="a/b", forward=(("X", "1"), ("Y", "2"))))

    assert callback.header == {"Content-Type": ("a/b",), "X": ("1",), "Y": ("2",)}
    assert Callback("https://c").header == {}


@pytest.mark.parametrize(
    "name",
    ["X-Foo", "Content-Type", "Qtasks-Task-Id", "Upstash-Retries", "Cron", "Schedule-Id", "Queue-Name", ""],
)
def test_a_setting_that_callbacks_do_not_have_is_ignored(name: str) -> None:
    headers = [("Upstash-Callback", "https://c"), (f"Upstash-Callback-{name}", "0 0 * * *")]

    assert parse_options(headers) == Options(callback=Callback("https://c"))


def test_settings_of_a_callback_without_a_url_are_ignored() -> None:
    assert (
        parse_options([("Upstash-Callback-Retries", "1"), ("Upstash-Failure-Callback-X", "1")]) == Options()
    )


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("Upstash-Callback-Retries", "x", "Upstash-Callback-Retries: must be an integer"),
        ("Upstash-Callback-Forward-X", "\0", "Upstash-Callback-Forward-X: the value must not contain"),
        ("Upstash-Callback-Forward-", "x", "Upstash-Callback-Forward-: the name of the header"),
        ("Upstash-Callback-Header-Forward", "x", "Upstash-Callback-Header-Forward: must be true or false"),
        ("Upstash-Callback-Failure-Callback", "x", "invalid callback url: "),
        ("Upstash-Callback-Flow-Control-Key", "\0", "Upstash-Callback-Flow-Control-Key: the value must not"),
    ],
)
def test_a_bad_setting_of_a_callback_is_refused_by_its_full_name(
    name: str, value: str, complaint: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_options([("Upstash-Callback", "https://c"), (name, value)])

    assert str(caught.value).startswith(complaint)


def test_the_callback_of_a_callback_is_the_last() -> None:
    name = "Upstash-Callback-Failure-Callback"
    two = [("Upstash-Callback", "https://c"), (name, "https://c")]
    assert parse_options(two).callback is not None

    with pytest.raises(BadRequest, match=f"{name}-Callback: the callback of a callback cannot have one"):
        parse_options([*two, (f"{name}-Callback", "https://c")])


@pytest.mark.parametrize(
    "options",
    [
        Options(task_id="t"),
        Options(queue=QueueSpec(2)),
        Options(schedule_id="s"),
        Options(schedule_queue="q"),
    ],
)
def test_a_callback_with_options_that_only_messages_have_is_not_written(options: Options) -> None:
    with pytest.raises(InvalidValue, match="cannot be set for a callback"):
        render_options(Options(callback=Callback("https://c", options)))
