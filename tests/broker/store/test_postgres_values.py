"""Values and columns of them arrive at PostgreSQL as they were given."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtasks.broker.store.postgres_links import Place, store_link
from qtasks.broker.store.postgres_pipeline import Pipeline, Query
from qtasks.broker.store.postgres_values import TYPES, writers_of
from qtasks.broker.store.queries import load_queries
from qtasks.sql_texts import PARAMETER
from tests.support.postgres import Postgres

NAMES = ("BIGINT", "TEXT", "BYTEA")
ASKED = Query(
    b"SELECT * FROM unnest(CAST($1 AS BIGINT[]), CAST($2 AS TEXT[]), CAST($3 AS BYTEA[]))",
    NAMES,
    [TYPES[each].column for each in NAMES],
)
ONE = Query(
    b"SELECT CAST($1 AS BIGINT), CAST($2 AS TEXT), CAST($3 AS BYTEA)",
    NAMES,
    [TYPES[each].scalar for each in NAMES],
)
ROWS = st.lists(
    st.tuples(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1),
        st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        st.none() | st.binary(),
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module", params=[True, False], ids=["prepares", "does not"])
def pipeline(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[Pipeline]:
    with closing(Pipeline(store_link(Place.parse(postgres.new_store())), prepares=request.param)) as made:
        yield made


def arrived(pipeline: Pipeline, rows: list[tuple[Any, ...]]) -> list[Any]:
    columns = zip(*rows, strict=True)
    return pipeline.rows(ASKED, dict(zip(NAMES, columns, strict=True)))


@settings(max_examples=200)
@given(rows=ROWS)
def test_all_values_arrive_but_nul_in_a_text(pipeline: Pipeline, rows: list[tuple[Any, ...]]) -> None:
    wanted = [(number, text and text.replace("\0", "\ufffd"), data) for number, text, data in rows]

    assert arrived(pipeline, rows) == wanted
    assert pipeline.rows(ONE, dict(zip(NAMES, rows[0], strict=True))) == wanted[:1]


@pytest.mark.parametrize("row", [(7, "a", b"b"), (None, None, None), (0, "", b"")])
@pytest.mark.parametrize("count", [1, 2, 500])
def test_rows_that_are_all_alike_arrive(pipeline: Pipeline, row: tuple[Any, ...], count: int) -> None:
    assert arrived(pipeline, [row] * count) == [row] * count


def test_what_does_not_fit_is_refused_before_it_is_sent(pipeline: Pipeline) -> None:
    with pytest.raises(struct.error):
        arrived(pipeline, [(1 << 63, "a", b""), (1, "a", b"")])
    with pytest.raises(UnicodeEncodeError):
        arrived(pipeline, [(1, "\ud800", b"")])

    assert arrived(pipeline, [(1, "a", b"")]) == [(1, "a", b"")]


def test_statements_for_many_rows_and_that_which_appends_say_what_their_parameters_are() -> None:
    texts = load_queries("postgres")
    typed = [name for name in texts if name.endswith("_many") or name == "message_append"]

    assert len(typed) > 4
    for name in typed:
        assert set(PARAMETER.findall(texts[name])) == writers_of(texts[name]).keys()
