"""`Receiver`: verifies deliveries in routes of one's own, those of any framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from qtasks.clock import Clock, SystemClock
from qtasks.errors import ConfigurationError, SignatureError
from qtasks.protocol.signature import verify
from qtasks.settings import Settings

HEADER = "Upstash-Signature"


@dataclass(frozen=True, slots=True)
class Receiver:
    """Knows the broker's two signing keys, and so whether a request comes from it.

    Both keys are tried, so that keys can be rolled while deliveries are under way. Raises
    `ConfigurationError` for a key that is empty.
    """

    current_signing_key: str = field(repr=False)
    next_signing_key: str = field(repr=False)
    clock: Clock = field(default_factory=SystemClock, repr=False)

    def __post_init__(self) -> None:
        if not self.current_signing_key or not self.next_signing_key:
            raise ConfigurationError(
                "a receiver needs both signing keys, and one is empty; `qtasks keys show` prints them"
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Take the keys from `QTASKS_CURRENT_SIGNING_KEY` and `QTASKS_NEXT_SIGNING_KEY`.

        The names with `QSTASH_` work as well. Raises `ConfigurationError` if one is missing.
        """
        keys = Settings.from_env(env).signing_keys
        if len(keys) != 2:
            raise ConfigurationError(
                "set both QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY to the broker's signing "
                "keys; `qtasks keys show` prints them"
            )
        return cls(*keys)

    def verify(
        self, *, body: bytes | str, signature: str | None, url: str | None, tolerance_s: int = 0
    ) -> Mapping[str, object]:
        """Check a delivery, and give the claims of its signature; raises `SignatureError`.

        `signature` is the header `Upstash-Signature`, `body` the request's, byte for byte. `url` is where
        this route is reached from outside, as it is configured: never take it from the request, whose
        Host anybody may set; None leaves it unchecked. `tolerance_s` forgives clocks that differ. The
        claim `jti` is new for each attempt: remember it to refuse a request that somebody sends twice.
        """
        if not signature:
            raise SignatureError(f"the request has no signature: header {HEADER} is missing")
        return verify(
            signature,
            body.encode() if isinstance(body, str) else body,
            keys=(self.current_signing_key, self.next_signing_key),
            url=url,
            now=self.clock.now(),
            tolerance_s=tolerance_s,
        )
