"""What `docs/brokers.md` says of hosted QStash is what the tables in the code say."""

from __future__ import annotations

from qtasks.home.plans import AS_OF, PLANS
from qtasks.tasks.support import HOSTED
from tests.docs.pages import rows, text

PAGE = text("docs/brokers.md")


def test_every_option_is_on_the_page_as_the_table_has_it() -> None:
    found = [(row[0].replace("`", ""), row[1]) for row in rows(PAGE, "Options with hosted QStash")]

    assert found == [(each.option, each.hosted) for each in HOSTED]


def test_every_plan_is_on_the_page_with_the_limits_that_are_checked() -> None:
    limits = [
        (
            each.name,
            number(each.max_retries),
            number(None if each.max_response_ms is None else each.max_response_ms // 60_000),
            number(each.max_queues),
            number(each.max_parallelism),
        )
        for each in PLANS.values()
    ]

    found = [tuple(cell.strip("`").removesuffix(" min") for cell in row) for row in rows(PAGE, "Plans")]
    assert found == limits
    assert f"gave them on {AS_OF}" in PAGE


def number(limit: int | None) -> str:
    return "–" if limit is None else str(limit)
