"""Each error becomes an exit code, and a text that says which command or setting mends it."""

from __future__ import annotations

import pytest

from qtasks.cli import exits
from qtasks.cli.failures import explained
from qtasks.errors import (
    ArgumentsError,
    BadRequest,
    BrokerUnavailable,
    BrokerUnreachable,
    ConfigurationError,
    DecodeError,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    QTasksError,
    QuotaExceeded,
    StoreFull,
    TooManyRequests,
    Unauthorized,
)


@pytest.mark.parametrize(
    ("error", "code", "mend"),
    [
        (NotFound("queue x not found"), exits.NOT_FOUND, "qtasks queues ls"),
        (NotFound("no such operation: GET /qtasks/v1/keys"), exits.FAILED, "hosted QStash, strict"),
        (MethodNotAllowed("method PUT is not allowed"), exits.FAILED, "this broker cannot do that"),
        (Unauthorized("invalid token"), exits.AUTH, "set QTASKS_TOKEN"),
        (Forbidden("read-only"), exits.AUTH, "qtasks tokens new NAME --scope full"),
        (BrokerUnreachable("nobody there"), exits.UNREACHABLE, "nobody there"),
        (BrokerUnavailable("503", retry_after=2.5), exits.UNREACHABLE, "try again in 2.5 s"),
        (BrokerUnavailable("502"), exits.UNREACHABLE, "try again later"),
        (TooManyRequests("slow down"), exits.FAILED, "--rate"),
        (QuotaExceeded("too long"), exits.FAILED, "too long"),
        (BadRequest("bad"), exits.FAILED, "bad"),
        (StoreFull("no room"), exits.FAILED, "no room"),
        (DecodeError("not JSON"), exits.FAILED, "not JSON"),
        (ConfigurationError("QTASKS_BROKER is odd"), exits.USAGE, "QTASKS_BROKER is odd"),
        (ArgumentsError("no parameter"), exits.USAGE, "no parameter"),
    ],
)
def test_an_error_has_a_code_and_a_remedy(error: QTasksError, code: int, mend: str) -> None:
    failure = explained(error, "queues")

    assert failure.code == code
    assert mend in failure.text


def test_what_has_no_listing_names_none() -> None:
    assert explained(NotFound("message x not found"), "messages").text == "message x not found"
