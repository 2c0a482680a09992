"""Deliveries over TLS: whose certificates are believed, and that nothing makes others be."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest

from qtasks.broker.http_delivery import HttpDeliverer
from qtasks.broker.security import parse_rules
from tests.support.certificates import Authority
from tests.support.deliveries import FakeResolver, claim, deliver, new_deliverer
from tests.support.wire import WireServer

HERE = "IP:127.0.0.1,DNS:localhost"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "known")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "unknown")


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that the operator has named in SSL_CERT_FILE."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


@pytest.fixture
async def deliverer() -> AsyncIterator[HttpDeliverer]:
    deliverer = new_deliverer()
    yield deliverer
    await deliverer.close()


async def refusal(deliverer: HttpDeliverer, tls: ssl.SSLContext) -> str:
    """Deliver to a server with that certificate; give the error, after which nothing was sent."""
    async with WireServer(tls) as server:
        reply = await deliver(deliverer, claim(server.url, body=b"secret"))

    assert (reply.status, server.requests) == (0, [])
    return reply.error or ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "LOCALHOST"])
async def test_a_certificate_of_an_authority_in_ssl_cert_file_is_believed(
    deliverer: HttpDeliverer, trusted: Authority, host: str
) -> None:
    async with WireServer(trusted.issue(HERE)) as server:
        reply = await deliver(deliverer, claim(f"https://{host}:{server.port}/"))

    assert (reply.status, reply.error) == (200, None)


@pytest.mark.parametrize("host", ["app.test", "APP.test.", "b\u00fccher.app.test"])
async def test_a_certificate_is_for_the_name_in_its_canonical_form(trusted: Authority, host: str) -> None:
    rules = parse_rules(["app.test", "*.app.test"], loopback=False)
    deliverer = new_deliverer(rules, resolver=FakeResolver("127.0.0.1"))

    async with WireServer(trusted.issue("DNS:app.test,DNS:xn--bcher-kva.app.test")) as server:
        reply = await deliver(deliverer, claim(f"https://{host}:{server.port}/"))

    assert (reply.status, reply.error) == (200, None)
    await deliverer.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    deliverer: HttpDeliverer, authority: Authority
) -> None:
    assert "self-signed certificate" in await refusal(deliverer, authority.own())


async def test_without_ssl_cert_file_only_the_authorities_of_the_system_are_believed(
    deliverer: HttpDeliverer, authority: Authority
) -> None:
    assert "certificate verify failed" in await refusal(deliverer, authority.issue(HERE))


async def test_a_certificate_of_another_authority_than_the_one_named_is_refused(
    deliverer: HttpDeliverer, trusted: Authority, stranger: Authority
) -> None:
    assert "certificate verify failed" in await refusal(deliverer, stranger.issue(HERE))


@pytest.mark.parametrize("names", ["DNS:app.example", "IP:127.0.0.2", "DNS:127.0.0.1"])
async def test_a_certificate_for_another_host_is_refused(
    deliverer: HttpDeliverer, trusted: Authority, names: str
) -> None:
    assert "is not valid for '127.0.0.1'" in await refusal(deliverer, trusted.issue(names))


async def test_a_certificate_that_has_expired_is_refused(
    deliverer: HttpDeliverer, trusted: Authority
) -> None:
    assert "certificate has expired" in await refusal(deliverer, trusted.issue(HERE, days=-1))


async def test_a_host_on_the_list_is_verified_as_well(stranger: Authority) -> None:
    deliverer = new_deliverer(parse_rules(["127.0.0.1", "localhost"], loopback=False))

    assert "certificate verify failed" in await refusal(deliverer, stranger.issue(HERE))

    await deliverer.close()
