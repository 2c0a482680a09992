"""What people are shown, to the letter, and what never reaches their terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qtasks.cli import dlq, events, messages, queues
from qtasks.cli.tables import (
    Column,
    age,
    body_text,
    clean,
    cut,
    facts,
    instant,
    record,
    span,
    table,
    width_of,
)
from qtasks.protocol.shapes import DeadLetter, LogEntry, MessageView, QueueView, State

NOW = 1_700_000_000_000
MINUTE = 60_000


def lines(*expected: str) -> list[str]:
    """Give the lines of a golden text."""
    return list(expected)


def test_queues_stand_in_columns_with_their_numbers_to_the_right() -> None:
    found = [
        QueueView(
            name="mail", created_at=NOW - 3 * MINUTE, updated_at=NOW, parallelism=16, lag=3, ordered=False
        ),
        QueueView(name="bulk-imports", created_at=NOW - 86_400_000, updated_at=NOW, paused=True, lag=12_000),
    ]

    assert table(found, queues.columns(NOW)) == lines(
        "NAME            LAG  PARALLELISM  ORDER   STATE   AGE",
        "mail              3           16  free    active   3m",
        "bulk-imports  12000            1  strict  paused   1d",
    )


def test_messages_show_when_they_are_tried_again() -> None:
    found = [
        LogEntry(
            time=NOW - 5000,
            message_id="msg_1",
            state=State.RETRY,
            url="https://a.example/hook",
            queue_name="mail",
            next_delivery_time=NOW + 90_000,
        ),
        LogEntry(
            time=NOW,
            message_id="msg_2",
            state=State.DELIVERED,
            url="http://app.internal/",
            body=b'{"v":1,"task":"shop.welcome","id":"tsk_1","args":[',
        ),
    ]

    assert table(found, messages.columns(NOW)) == lines(
        "MESSAGE  STATE      QUEUE  SINCE   NEXT  WHAT",
        "msg_1    RETRY      mail      5s  in 1m  https://a.example/hook",
        "msg_2    DELIVERED  -        now      -  shop.welcome",
    )


def test_dead_letters_show_the_task_and_the_error() -> None:
    message = MessageView(
        message_id="msg_1",
        url="http://app.internal/",
        max_retries=0,
        not_before=NOW,
        created_at=NOW - 7_200_000,
        queue_name="mail",
        body=b'{"v":1,"task":"shop.welcome","id":"tsk_1","args":[],"kwargs":{},"meta":{}}',
    )
    answer = b'{"error":{"type":"ValueError","message":"no address: x\\nmore","traceback":null}}'
    letter = DeadLetter(dlq_id="1700000000000-7", message=message, response_status=500, response_body=answer)

    assert table([letter], dlq.columns(NOW)) == lines(
        "ID               WHAT          QUEUE  SENT  ERROR       MESSAGE",
        "1700000000000-7  shop.welcome  mail     2h  ValueError  no address: x",
    )


def test_the_log_shows_the_time_of_today_and_the_day_of_before() -> None:
    entry = LogEntry(
        time=NOW,
        message_id="msg_1",
        state=State.ERROR,
        url="https://a.example",
        response_status=500,
        error="x",
    )

    assert table([replace(entry, time=NOW - 86_400_000), entry], events.columns(NOW)) == lines(
        "TIME                  STATE  MESSAGE  STATUS  WHAT               ERROR",
        "2023-11-13 22:13:20Z  ERROR  msg_1       500  https://a.example  x",
        "22:13:20Z             ERROR  msg_1       500  https://a.example  x",
    )


def test_what_a_person_copies_is_never_cut_off() -> None:
    columns: tuple[Column[str], ...] = (
        Column("ID", lambda each: "msg_0123456789", is_whole=True),
        Column("A", lambda each: "a" * 20),
        Column("B", lambda each: "b" * 12),
    )

    assert table(["x"], columns, width=34) == lines(
        "ID              A         B",
        "msg_0123456789  aaaaaaa…  bbbbbbb…",
    )
    assert table(["x"], columns, width=5)[1] == "msg_0123456789  aaaaaaa…  bbbbbbb…"


def test_the_widest_column_gives_way_on_a_narrow_terminal() -> None:
    columns: tuple[Column[str], ...] = (Column("ID", lambda each: "msg_1"), Column("URL", str))

    assert table(["https://example.com/a/long/path"], columns, width=20) == lines(
        "ID     URL",
        "msg_1  https://exam…",
    )


def test_colours_do_not_move_columns() -> None:
    columns: tuple[Column[str], ...] = (
        Column("STATE", str, tone=lambda each: "red"),
        Column("N", lambda each: 1),
    )

    assert table(["x"], columns, paint=lambda text, tone: f"<{tone}:{text}>") == lines(
        "<bold:STATE>  <bold:N>",
        "<red:x>      1",
    )


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("right\u202eto left", "right\\u202eto left"),
        ("\ud800", "\\ud800"),
        (None, "-"),
        ("", "-"),
        ("grüße 你好", "grüße 你好"),
    ],
)
def test_what_a_stranger_wrote_cannot_steer_the_terminal(hostile: str | None, shown: str) -> None:
    assert clean(hostile) == shown


def test_bodies_keep_their_lines_but_not_their_control_characters() -> None:
    assert body_text(b"a\r\n\x1b[31mb") == "a\n\\x1b[31mb"
    assert body_text(b"\xff\xfe") == "<2 bytes>"


def test_wide_characters_are_counted_as_the_terminal_shows_them() -> None:
    assert (width_of("你好"), width_of("e\u0301"), cut("你好吗", 5)) == (4, 1, "你好…")


def test_facts_leave_out_what_is_empty_and_write_units_out() -> None:
    view = QueueView(name="mail", created_at=NOW, updated_at=NOW, parallelism=2)
    message = MessageView(
        message_id="msg_1",
        url="https://a.example",
        header={"X-A": ("1", "2"), "X-B": ("3",)},
        max_retries=3,
        not_before=NOW,
        created_at=NOW,
        timeout_ms=90_000,
        period_s=60,
        labels=("a", "b"),
    )

    assert record(facts(view)) == lines(
        "name         mail",
        "created      2023-11-14 22:13:20Z",
        "updated      2023-11-14 22:13:20Z",
        "parallelism  2",
        "paused       no",
        "lag          0",
        "ordered      yes",
    )
    assert record(facts(message)) == lines(
        "message id   msg_1",
        "url          https://a.example",
        "method       POST",
        "header       X-A: 1, 2",
        "             X-B: 3",
        "max retries  3",
        "not before   2023-11-14 22:13:20Z",
        "created      2023-11-14 22:13:20Z",
        "labels       a, b",
        "timeout      90s",
        "period       1m",
    )


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (NOW, "now"),
        (NOW - 999, "now"),
        (NOW - 1000, "1s"),
        (NOW - 3_600_000, "1h"),
        (NOW + 172_800_000, "in 2d"),
        (None, None),
    ],
)
def test_an_age_is_rough(at: int | None, shown: str | None) -> None:
    assert age(at, NOW) == shown


def test_spans_and_instants_are_written_as_people_read_them() -> None:
    assert [span(ms) for ms in (0, 250, 1500, 60_000, 90_000, 86_400_000)] == [
        "0ms",
        "250ms",
        "1.5s",
        "1m",
        "90s",
        "1d",
    ]
    assert instant(NOW) == "2023-11-14 22:13:20Z"
