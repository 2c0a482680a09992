"""The JWT of deliveries (contract 4.2), also as other implementations read it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import warnings
from collections.abc import Sequence
from typing import Any

import jwt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qstash import Receiver

from qtasks.errors import ConfigurationError, SignatureError
from qtasks.protocol.signature import body_hash, sign, verify

KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"
NEXT_KEY = "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"
URL = "https://example.com/hook"
NOW = 1_700_000_000_000
TOKEN = sign(URL, b"hello", key=KEY, now=NOW, jti="jwt_test1")


def forged(claims: object, *, header: object = None, key: str = KEY) -> str:
    """Sign whatever claims and header, as somebody with the key could."""
    parts = [orjson.dumps(header or {"alg": "HS256", "typ": "JWT"}), orjson.dumps(claims)]
    signed = b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in parts)
    mac = hmac.new(key.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def claims(**changes: object) -> dict[str, object]:
    """Give the claims of `TOKEN` with changes; `None` takes one out."""
    good = {"iss": "Upstash", "sub": URL, "exp": 1_700_000_300, "nbf": 0, "iat": 1_700_000_000, "jti": "j"}
    all_claims = good | {"body": body_hash(b"hello")} | changes
    return {name: value for name, value in all_claims.items() if value is not None}


def check(
    token: str,
    *,
    body: bytes = b"hello",
    keys: Sequence[str] = (KEY,),
    url: str | None = URL,
    now: int = NOW,
    tolerance_s: int = 0,
) -> dict[str, object]:
    return dict(verify(token, body, keys=keys, url=url, now=now, tolerance_s=tolerance_s))


@pytest.mark.parametrize(
    ("body", "digest"),
    [
        (b"", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="),
        (b"hello", "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="),
        (b'{"hello":"world"}', "k6I5cakU5erL8KjSUVTNownDwccvu5kU1Hxg88toFYg="),
    ],
)
def test_the_hash_of_a_body_is_padded(body: bytes, digest: str) -> None:
    assert body_hash(body) == digest


def test_a_token_is_the_one_of_the_contract_byte_for_byte() -> None:
    assert TOKEN == (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJVcHN0YXNoIiwic3ViIjoiaHR0cHM6Ly9leGFtcGxlLmNvbS9o"
        "b29rIiwiZXhwIjoxNzAwMDAwMzAwLCJuYmYiOjAsImlhdCI6MTcwMDAwMDAwMCwianRpIjoiand0X3Rlc3QxIiwiYm9keSI6Ikx"
        "QSk51bC13b3c0bTZEc3F4Ym5pbmhzV0hsd2ZwMEplY3dRellwT0xtQ1E9In0.hrMMk6474lEWGEMNVEa1fglUBnDq2Tdk0iM9px"
        "_Uf1s"
    )


def test_an_ordinary_jwt_library_accepts_the_token() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)  # the published keys are short
        read = jwt.decode(TOKEN, KEY, algorithms=["HS256"], issuer="Upstash", options={"verify_exp": False})

    assert read == check(TOKEN)


def test_the_official_receiver_accepts_a_token_of_now() -> None:
    token = sign(URL, b"hello", key=KEY, now=time.time_ns() // 1_000_000, jti="jwt_1")

    Receiver(KEY, NEXT_KEY).verify(signature=token, body="hello", url=URL)


def test_claims_come_back_as_they_were_signed() -> None:
    assert check(TOKEN) == claims(jti="jwt_test1")


def test_the_current_and_the_next_key_both_count() -> None:
    assert check(TOKEN, keys=[NEXT_KEY, KEY])
    assert check(TOKEN, keys=[KEY, NEXT_KEY])


def test_without_a_url_any_destination_is_accepted() -> None:
    assert check(forged(claims(sub="https://elsewhere.example")), url=None)


def test_a_hash_without_padding_is_accepted() -> None:
    assert check(forged(claims(body=body_hash(b"hello").rstrip("="))))


@pytest.mark.parametrize(("now", "tolerance_s"), [(NOW + 299_999, 0), (NOW + 309_999, 10), (NOW - 9_000, 10)])
def test_a_token_is_good_for_five_minutes_and_the_tolerance(now: int, tolerance_s: int) -> None:
    assert check(forged(claims(nbf=1_700_000_000)) if now < NOW else TOKEN, now=now, tolerance_s=tolerance_s)


@pytest.mark.parametrize(
    ("token", "changes", "complaint"),
    [
        ("", {}, "not a JWT"),
        ("a.b", {}, "not a JWT"),
        (TOKEN + ".x", {}, "not a JWT"),
        (TOKEN + "\n", {}, "not a JWT"),
        ("x" + TOKEN, {}, "header of the signature is not JSON"),
        (TOKEN[:-10], {}, "none of the signing keys"),
        (TOKEN.replace("pXVCJ9.", "pXVCJ9.e30", 1), {}, "none of the signing keys"),
        (TOKEN, {"keys": [NEXT_KEY]}, "none of the signing keys"),
        (TOKEN, {"keys": []}, "none of the signing keys"),
        (forged(claims(), key=""), {"keys": ["", KEY]}, "none of the signing keys"),
        (forged(claims(), header={"alg": "none"}), {}, "algorithm is 'none', not HS256"),
        (forged(claims(), header={"alg": "HS512", "typ": "JWT"}), {}, "'HS512', not HS256"),
        (forged(claims(), header={"typ": "JWT"}), {}, "None, not HS256"),
        (forged(claims(), header=[1]), {}, "header of the signature is not a JSON object"),
        (forged([1]), {}, "payload of the signature is not a JSON object"),
        (forged(claims(iss="Somebody")), {}, "issued by 'Somebody', not 'Upstash'"),
        (TOKEN, {"url": "https://example.com/other"}, "is for 'https://example.com/hook', not for"),
        (forged(claims(sub=None)), {}, "is for None"),
        (TOKEN, {"now": NOW + 300_000}, "expired"),
        (forged(claims(exp=None)), {}, "exp is None, not a time"),
        (forged(claims(exp="never")), {}, "exp is 'never', not a time"),
        (forged(claims(exp=True)), {}, "exp is True, not a time"),
        (forged(claims(nbf=None)), {}, "nbf is None, not a time"),
        (forged(claims(nbf=1_700_000_001)), {}, "not valid yet"),
        (TOKEN, {"body": b"hello!"}, "the body is not the one that was signed"),
        (forged(claims(body=None)), {}, "the body is not the one that was signed"),
    ],
)
def test_a_token_that_does_not_fit_is_refused_with_the_reason(
    token: str, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SignatureError, match=complaint):
        check(token, **changes)


def test_an_empty_key_signs_nothing() -> None:
    with pytest.raises(ConfigurationError, match="key is empty"):
        sign(URL, b"", key="", now=NOW, jti="jwt_1")


@given(
    st.text() | st.text("abcdeyJ.=_-", max_size=40) | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True)
)
def test_any_other_text_is_no_signature(text: str) -> None:
    with pytest.raises(SignatureError):
        check(text)


@given(st.binary(), st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 10**14))
def test_whatever_is_signed_verifies(body: bytes, url: str, now: int) -> None:
    token = sign(url, body, key=KEY, now=now, jti="jwt_1")

    assert verify(token, body, keys=[KEY], url=url, now=now)["sub"] == url
