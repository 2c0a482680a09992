"""Signs deliveries and verifies them: the JWT in `Upstash-Signature` (contract 4.2).

The key says who signed, the claims say what: this body, to this URL, in these five minutes. That a
token comes once only is for the receiver to remember, by `jti`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache

import orjson
from itsdangerous import BadData, Signer
from itsdangerous.encoding import base64_decode, base64_encode

from qtasks.errors import ConfigurationError, SignatureError

ISSUER = "Upstash"
LIFETIME_S = 300

_HEADER = base64_encode(b'{"alg":"HS256","typ":"JWT"}').decode()
# Stricter than the decoder below, which skips characters that are not base64.
_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")


def body_hash(body: bytes) -> str:
    """Hash a body for the `body` claim: SHA-256 in URL-safe base64, with padding."""
    return urlsafe_b64encode(hashlib.sha256(body).digest()).decode()


def sign(url: str, body: bytes, *, key: str, now: int, jti: str) -> str:
    """Make the token for one delivery of `body` to `url`.

    `now` is in Unix milliseconds; the token is good for five minutes from then. Raises
    `ConfigurationError` if the key is empty.
    """
    issued_at = now // 1000
    claims = {
        "iss": ISSUER,
        "sub": url,
        "exp": issued_at + LIFETIME_S,
        "nbf": 0,
        "iat": issued_at,
        "jti": jti,
        "body": body_hash(body),
    }
    signed = f"{_HEADER}.{base64_encode(orjson.dumps(claims)).decode()}"
    return _signer(key).sign(signed).decode()


def verify(
    token: str, body: bytes, *, keys: Sequence[str], url: str | None, now: int, tolerance_s: int = 0
) -> Mapping[str, object]:
    """Check that a token was made with one of `keys` for this body, and give its claims.

    `keys` are the current and the next one. `url` is the receiver's own, configured one (never one
    taken from the request, whose Host anybody may set); `None` leaves the URL unchecked. `now` is in
    Unix milliseconds, `tolerance_s` forgives clocks that differ. Raises `SignatureError`.
    """
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        raise SignatureError("the signature is not a JWT: it must be three parts of base64, joined by dots")
    header = _json_object(parts[1], "header")
    if header.get("alg") != "HS256":
        raise SignatureError(f"the signature's algorithm is {header.get('alg')!r:.40}, not HS256")
    # Each key counts alone; an empty one, which Signer would accept, signs nothing.
    if not any(_signer(key).validate(token) for key in keys if key):
        raise SignatureError("the signature was made with none of the signing keys")
    claims = _json_object(parts[2], "payload")
    _check_claims(claims, url=url, now_s=now / 1000, tolerance_s=tolerance_s)
    signed_hash = claims.get("body")
    if not isinstance(signed_hash, str) or not _is_same_hash(signed_hash, body_hash(body)):
        raise SignatureError("the body is not the one that was signed")
    return claims


@lru_cache(maxsize=64)
def _signer(key: str) -> Signer:
    if not key:
        raise ConfigurationError("the signing key is empty")
    return Signer(key, sep=".", key_derivation="none", digest_method=hashlib.sha256)


def _json_object(part: str, what: str) -> Mapping[str, object]:
    try:
        value = orjson.loads(base64_decode(part))
    except (BadData, orjson.JSONDecodeError) as error:
        raise SignatureError(f"the {what} of the signature is not JSON in base64") from error
    if not isinstance(value, dict):
        raise SignatureError(f"the {what} of the signature is not a JSON object")
    return value


def _check_claims(claims: Mapping[str, object], *, url: str | None, now_s: float, tolerance_s: int) -> None:
    if claims.get("iss") != ISSUER:
        raise SignatureError(f"the signature was issued by {claims.get('iss')!r:.100}, not {ISSUER!r}")
    if url is not None and claims.get("sub") != url:
        raise SignatureError(f"the signature is for {claims.get('sub')!r:.200}, not for {url!r}")
    if now_s >= _instant(claims, "exp") + tolerance_s:
        raise SignatureError("the signature has expired")
    if now_s < _instant(claims, "nbf") - tolerance_s:
        raise SignatureError("the signature is not valid yet")


def _instant(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SignatureError(f"the signature's {name} is {value!r:.40}, not a time")
    return value


def _is_same_hash(one: str, other: str) -> bool:
    """Compare in constant time; receivers and senders disagree about the padding."""
    return hmac.compare_digest(one.rstrip("=").encode(), other.rstrip("=").encode())
