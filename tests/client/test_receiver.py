"""`Receiver` knows what comes from the broker from what does not."""

from __future__ import annotations

import pytest

from qtasks import ConfigurationError, Receiver, SignatureError
from qtasks.clock import ManualClock
from qtasks.protocol.signature import sign

URL = "https://app.example/hook"
BODY = b'{"order": 7}'
CLOCK = ManualClock()
RECEIVER = Receiver("sig_current", "sig_next", CLOCK)


def signed(key: str = "sig_current", body: bytes = BODY, url: str = URL) -> str:
    """Sign a delivery now."""
    return sign(url, body, key=key, now=CLOCK.now(), jti="jwt_1")


@pytest.mark.parametrize("key", ["sig_current", "sig_next"])
def test_a_delivery_signed_with_either_key_is_taken(key: str) -> None:
    claims = RECEIVER.verify(body=BODY, signature=signed(key), url=URL)

    assert (claims["sub"], claims["jti"]) == (URL, "jwt_1")


def test_a_body_may_be_given_as_text() -> None:
    RECEIVER.verify(body=BODY.decode(), signature=signed(), url=URL)


def test_without_a_url_it_is_not_checked() -> None:
    RECEIVER.verify(body=BODY, signature=signed(url="https://elsewhere.example"), url=None)


@pytest.mark.parametrize(
    ("signature", "body", "url", "text"),
    [
        (None, BODY, URL, "the request has no signature: header Upstash-Signature is missing"),
        ("", BODY, URL, "the request has no signature"),
        ("x.y", BODY, URL, "is not a JWT"),
        (signed("sig_other"), BODY, URL, "made with none of the signing keys"),
        (signed(), b"{}", URL, "the body is not the one that was signed"),
        (signed(), BODY, f"{URL}/other", "the signature is for 'https://app.example/hook', not for"),
    ],
)
def test_anything_else_is_refused(signature: str | None, body: bytes, url: str, text: str) -> None:
    with pytest.raises(SignatureError, match=text):
        RECEIVER.verify(body=body, signature=signature, url=url)


def test_a_signature_expires_after_five_minutes_but_clocks_may_differ() -> None:
    clock = ManualClock()
    receiver = Receiver("sig_current", "sig_next", clock)
    signature = signed()
    clock.advance(minutes=5)

    with pytest.raises(SignatureError, match="expired"):
        receiver.verify(body=BODY, signature=signature, url=URL)
    receiver.verify(body=BODY, signature=signature, url=URL, tolerance_s=5)


def test_keys_that_are_missing_are_said_before_any_request_comes() -> None:
    with pytest.raises(ConfigurationError, match="needs both signing keys"):
        Receiver("sig_current", "")
    with pytest.raises(ConfigurationError, match="set both QTASKS_CURRENT_SIGNING_KEY"):
        Receiver.from_env({})


def test_keys_come_from_the_environment_and_are_never_shown() -> None:
    receiver = Receiver.from_env({"QSTASH_CURRENT_SIGNING_KEY": "sig_a", "QSTASH_NEXT_SIGNING_KEY": "sig_b"})

    assert (receiver.current_signing_key, receiver.next_signing_key) == ("sig_a", "sig_b")
    assert "sig_" not in repr(receiver)
