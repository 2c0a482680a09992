"""Hostile destinations, each tried in earnest: real resolver, real connector, and no connection astray.

The event loop under all of it records every connection that is tried and every name that is looked
up, so an attempt shows even if nobody would have answered. What must be admitted stands here too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from qtasks.broker.addresses import unmapped
from qtasks.broker.security import DestinationRules, check_destination, parse_rules
from qtasks.broker.store.records import Reply
from qtasks.errors import BadRequest
from tests.support import require
from tests.support.deliveries import claim, deliver, new_deliverer

PUBLIC_ADDRESS = "93.184.216.34"

LITERALS = {
    "loopback": ["127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "127.0.0.1.", "[::1]"],
    "loopback, short": ["127.1", "127.0.1", "127.65535", "127.0.65535", "127.1."],
    "loopback, decimal": ["2130706433", "2130706434", "2147483646", "2130706433."],
    "loopback, hexadecimal": [
        "0x7f000001",
        "0X7F000001",
        "0x7f.0x0.0x0.0x1",
        "0x7f.0.0.1",
        "0x7f.1",
        "0x7f.0x000001",
        "0x0000007f000001",
        "127.0x000001",
        "0x7f.0.1",
    ],
    "loopback, octal": [
        "0177.0.0.1",
        "0177.0.0.01",
        "0177.0000.0000.0001",
        "0177.1",
        "017700000001",
        "00000177.1",
        "127.0.0.01",
        "127.00.00.01",
        "0177.0x0.1",
    ],
    "loopback, other digits": [
        "\uff11\uff12\uff17.0.0.1",
        "\uff11\uff12\uff17\uff0e\uff10\uff0e\uff10\uff0e\uff11",
        "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
        "127\u30020\u30020\u30021",
        "127\uff0e0\uff0e0\uff0e1",
        "127\uff610\uff610\uff611",
        "\U0001d7cf\U0001d7d0\U0001d7d5.0.0.1",
        "\u00b9\u00b2\u2077.\u2070.\u2070.\u00b9",
        "\uff10x7f.1",
        "1\u00ad27.0.0.1",
        "\u200b127.0.0.1",
        "127.0.0.1\u3002",
        "2130706\uff14\uff13\uff13",
    ],
    "loopback, by name": [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "app.localhost",
        "a.b.localhost.",
        "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54",
        "loc\u00adalhost",
        "\u24dbocalhost",
        "local\uff28ost",
    ],
    "mapped": [
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[::FFFF:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[::ffff:192.168.1.1]",
        "[::ffff:0.0.0.0]",
        "[::ffff:100.100.100.200]",
    ],
    "compatible": ["[::127.0.0.1]", "[::7f00:1]", "[::10.0.0.1]", "[::a9fe:a9fe]", "[::192.168.0.1]"],
    "translated": ["[::ffff:0:127.0.0.1]", "[::ffff:0:a9fe:a9fe]", "[::ffff:0:10.0.0.1]"],
    "6to4": [
        "[2002:7f00:1::]",
        "[2002:7f00:1::1]",
        "[2002:a00:1::1]",
        "[2002:a9fe:a9fe::]",
        "[2002:c0a8:101::1]",
        "[2002:ac10:1::]",
        "[2002:6464:64c8::]",
    ],
    "NAT64": [
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::10.0.0.1]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b::c0a8:1]",
        "[64:ff9b:1::7f00:1]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[64:ff9b:1:abcd::1]",
    ],
    "Teredo": ["[2001::1]", "[2001:0:7f00:1::]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]"],
    "this network": [
        "0",
        "0.0.0.0",
        "0.0.0.1",
        "0.255.255.255",
        "0x0",
        "0x",
        "00",
        "00.0.0.0",
        "0.0",
        "000000000000",
        "[::]",
        "[0:0:0:0:0:0:0:0]",
        "\u24ea",
    ],
    "private": [
        "10.0.0.0",
        "10.0.0.1",
        "10.255.255.255",
        "10.1",
        "167772161",
        "0xa000001",
        "012.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "172.1048577",
        "0xac100001",
        "192.168.0.1",
        "192.168.257",
        "192.11010305",
        "0xc0a80001",
        "0300.0250.0.1",
        "3232235521",
    ],
    "carriers": ["100.64.0.0", "100.64.0.1", "100.127.255.255", "1681915905", "0x64400001"],
    "link-local": ["169.254.0.1", "169.254.255.255", "[fe80::1]", "[fe80::5efe:127.0.0.1]", "[febf::1]"],
    "site-local": ["[fec0::1]", "[feff::1]"],
    "unique local": ["[fc00::1]", "[fd00::1]", "[fdff:ffff::1]"],
    "metadata": [
        "169.254.169.254",
        "169.254.169.254.",
        "169.254.43518",
        "169.16689662",
        "2852039166",
        "0xa9fea9fe",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "025177524776",
        "169.254.169.253",  # Amazon's name servers
        "169.254.169.123",  # and its time
        "169.254.170.2",  # credentials of Amazon's containers
        "169.254.170.23",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fd20:ce::254]",  # Google
        "100.100.100.200",  # Alibaba
        "0x646464c8",
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure, an address that looks public
        "2822734096",
        "0xa83f8110",
        "[::ffff:168.63.129.16]",
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "[fd00:42::42]",
        "[fd00:a9fe:a9fe::1]",  # Akamai
        "\uff11\uff16\uff19.254.169.254",
        "metadata",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "instance-data",
        "instance-data.ec2.internal",
        "rancher-metadata",
        "\uff4detadata.google\u3002internal",
    ],
    "multicast": [
        "224.0.0.1",
        "224.0.0.251",
        "239.255.255.250",
        "232.1.1.1",
        "3758096385",
        "[ff01::1]",
        "[ff02::1]",
        "[ff02::fb]",
        "[ff05::2]",
        "[ff0e::1]",
    ],
    "broadcast": ["255.255.255.255", "4294967295", "0xffffffff", "255.16777215", "037777777777"],
    "reserved": [
        "240.0.0.1",
        "250.1.2.3",
        "254.255.255.254",
        "[4000::1]",
        "[5f00::1]",
        "[1000::1]",
        "[8000::1]",
    ],
    "documentation": [
        "192.0.2.1",
        "198.51.100.7",
        "203.0.113.9",
        "3221225985",
        "[2001:db8::1]",
        "[3fff::1]",
        "[100::1]",
    ],
    "benchmarks": ["198.18.0.1", "198.19.255.255", "[2001:2::1]"],
    "assignments": ["192.0.0.1", "192.0.0.8", "192.0.0.170", "192.88.99.1", "[2001:10::1]", "[2001:20::1]"],
}
"""Hosts that are refused when a message is accepted, and again when it is delivered."""

URLS = [
    "https://user@127.0.0.1:{port}/",
    "https://user:password@127.0.0.1:{port}/",
    "https://@127.0.0.1:{port}/",
    "https://example.com@127.0.0.1:{port}/",
    "https://example.com:443@127.0.0.1:{port}/",
    "https://example.com%40127.0.0.1:{port}/",
    "https://example.com%2f@127.0.0.1:{port}/",
    "https://a@b@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}@example.com/",
    "https://127.0.0.1:{port}\\@example.com/",
    "https://example.com\\@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}#@example.com/",
    "https://127.0.0.1:{port}?@example.com/",
    "https://127.0.0.1:{port}/@example.com/",
    "https://127.0.0.1:{port}/https://example.com/",
    "https://127.0.0.1:{port}",
    "https://127.0.0.1:{port}?",
    "https://127.0.0.1:{port}#",
    "HTTPS://127.0.0.1:{port}/",
    "hTtP://127.0.0.1:{port}/",
    "http://127.0.0.1:0{port}/",
    "https://127.0.0.1:0/",
    "https://127.0.0.1:65536/",
    "https://127.0.0.1:-1/",
    "https://127.0.0.1:{port}:443/",
    "https://127.0.0.1:\uff18\uff10/",
    "https://127.0.0.1 :{port}/",
    "https:// 127.0.0.1:{port}/",
    "https://127.0.0.1\t:{port}/",
    "https://127.0.0.1\n:{port}/",
    "https://127.0.0.1\r\nHost: example.com:{port}/",
    "https://127.0.0.1%00.example.com:{port}/",
    "https://127.0.0.1\0.example.com:{port}/",
    "https://%31%32%37.0.0.1:{port}/",
    "https://127%2e0%2e0%2e1:{port}/",
    "https://loc%61lhost:{port}/",
    "https://127.0.0.1..:{port}/",
    "https://localhost..:{port}/",
    "https://.127.0.0.1:{port}/",
    "https://127..0.0.1:{port}/",
    "https://127.0.0.1.0:{port}/",
    "https://127.0.0.256:{port}/",
    "https://383.0.0.1:{port}/",  # 383 is 127, modulo 256
    "https://0x17f000001:{port}/",  # and so is this, modulo 2 to the 32nd
    "https://4294967296:{port}/",
    "https://6425673729:{port}/",
    "https://127.0.0.08:{port}/",
    "https://0x000000000000000000007f000001:{port}/",
    "https://+127.0.0.1:{port}/",
    "https://[127.0.0.1]:{port}/",
    "https://[::1%25lo]:{port}/",
    "https://[::1%lo]:{port}/",
    "https://[::1%251]:{port}/",
    "https://[fe80::1%25eth0]:{port}/",
    "https://[::1]]:{port}/",
    "https://[[::1]]:{port}/",
    "https://[::1:{port}/",
    "https://::1:{port}/",
    "https://[v1.127.0.0.1]:{port}/",
    "https://[::ffff:127.0.0.1%25]:{port}/",
    "https://[0:0:0:0:0:0:0:0:1]:{port}/",
    "https://[::ffff:127.0.0.256]:{port}/",
    "https://[::ffff:127.1]:{port}/",
    "https:/127.0.0.1:{port}/",
    "https:127.0.0.1:{port}/",
    "https:///127.0.0.1:{port}/",
    "https:////127.0.0.1:{port}/",
    "https:\\\\127.0.0.1:{port}/",
    "https://\\127.0.0.1:{port}/",
    "https://?127.0.0.1:{port}/",
    "https://:{port}/",
    "https://",
    "//127.0.0.1:{port}/",
    " https://127.0.0.1:{port}/",
    "\thttps://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "gopher://127.0.0.1:{port}/_GET",
    "ws://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
    "data:text/plain,hello",
    "blob:https://127.0.0.1:{port}/",
    "jar:https://127.0.0.1:{port}/!/",
    "url:https://127.0.0.1:{port}/",
    "http+unix://127.0.0.1:{port}/",
    "127.0.0.1:{port}/",
]
"""URLs that say, hint or might be read to say a place where nothing may be sent."""

RESOLVED = {
    "loopback": ["127.0.0.1"],
    "loopback, another": ["127.8.8.8"],
    "loopback, IPv6": ["::1"],
    "loopback, both": ["::1", "127.0.0.1"],
    "unspecified": ["0.0.0.0"],
    "unspecified, IPv6": ["::"],
    "private, ten": ["10.0.0.1"],
    "private, many": ["10.0.0.1", "172.16.0.1", "192.168.0.1"],
    "carriers": ["100.64.0.1"],
    "link-local": ["fe80::1"],
    "link-local, with a zone": ["fe80::1%1"],
    "unique local": ["fd00::1"],
    "site-local": ["fec0::1"],
    "metadata": ["169.254.169.254"],
    "metadata, Amazon IPv6": ["fd00:ec2::254"],
    "metadata, Alibaba": ["100.100.100.200"],
    "metadata, Oracle": ["192.0.0.192"],
    "metadata, Azure": ["168.63.129.16"],
    "mapped loopback": ["::ffff:127.0.0.1"],
    "mapped metadata": ["::ffff:169.254.169.254"],
    "compatible": ["::127.0.0.1"],
    "6to4": ["2002:7f00:1::1"],
    "NAT64": ["64:ff9b::7f00:1"],
    "NAT64, local": ["64:ff9b:1::1"],
    "Teredo": ["2001:0:7f00:1::"],
    "multicast": ["224.0.0.1"],
    "multicast, IPv6": ["ff02::1"],
    "broadcast": ["255.255.255.255"],
    "reserved": ["240.0.0.1"],
    "documentation": ["192.0.2.1"],
    "benchmarks": ["198.18.0.1"],
}
"""What a name may resolve to that must not be connected to."""

PUBLIC = parse_rules((), loopback=False)
WITH_NETWORKS = parse_rules(["11.0.0.0/8"], loopback=False)
"""Rules under which http:// to a name is not refused before it is resolved."""


class WatchedLoop(asyncio.SelectorEventLoop):
    """Records what is connected to and what is looked up, and lets neither leave this machine."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[str] = []
        self.asked: list[str] = []
        self.names: dict[str, list[list[str]]] = {}
        """What names resolve to: one list for each time, the last for ever after."""

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self.tried.append(address[0])
        if not unmapped(ipaddress.ip_address(address[0])).is_loopback:
            raise ConnectionRefusedError(f"nothing leaves this machine for {address[0]}")
        await super().sock_connect(sock, address)

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        self.asked.append(host)
        if host == "localhost":
            return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        answers = self.names.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is not known here")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [_info(each, port) for each in found]


def _info(address: str, port: int) -> Any:
    bare, _, zone = address.partition("%")
    if ":" not in bare:
        return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (bare, port)
    return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (bare, port, 0, int(zone or 0))


class Door:
    """Listens on a loopback address, counts who comes, and answers with `answer`."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._address = address
        self.visits = 0
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def open(self, port: int = 0) -> asyncio.Server:
        """Begin to listen."""
        return await asyncio.start_server(self._visit, self._address, port)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        with closing(writer):
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            writer.write(self.answer)
            await writer.drain()


class Place:
    """A loop that is watched, and doors on one port of both loopback addresses, and on another port."""

    def __init__(self, runner: asyncio.Runner, loop: WatchedLoop) -> None:
        self.loop = loop
        self._runner = runner
        self.door, self.door6, self.other = Door(), Door("::1"), Door()
        self._servers = [runner.run(self.door.open()), runner.run(self.other.open())]
        self.port, self.other_port = (each.sockets[0].getsockname()[1] for each in self._servers)
        self.has_ipv6 = True
        try:
            self._servers.append(runner.run(self.door6.open(self.port)))
        except OSError:
            self.has_ipv6 = False

    @property
    def visits(self) -> int:
        """How many connections the doors have accepted."""
        return self.door.visits + self.door6.visits + self.other.visits

    def forget(self) -> None:
        """Begin anew."""
        self.loop.tried.clear()
        self.loop.asked.clear()
        self.loop.names.clear()
        for each in (self.door, self.door6, self.other):
            each.visits, each.answer = 0, Door().answer

    def attempt(self, urls: Iterable[str], rules: DestinationRules = PUBLIC) -> list[Reply]:
        """Deliver to one URL after the other with one deliverer."""
        return self._runner.run(self._attempt(list(urls), rules))

    async def _attempt(self, urls: Sequence[str], rules: DestinationRules) -> list[Reply]:
        deliverer = new_deliverer(rules)
        try:
            return [await deliver(deliverer, claim(each, timeout_ms=5000)) for each in urls]
        finally:
            await deliverer.close()

    def close(self) -> None:
        """Listen no more."""
        for each in self._servers:
            each.close()


@pytest.fixture(scope="module")
def one_place() -> Iterator[Place]:
    loop = WatchedLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner, closing(Place(runner, loop)) as place:
        yield place


@pytest.fixture
def place(one_place: Place) -> Place:
    one_place.forget()
    return one_place


def rules_with(*entries: str) -> DestinationRules:
    return parse_rules(entries, loopback=False)


def is_refused(url: str, rules: DestinationRules = PUBLIC) -> bool:
    try:
        check_destination(url, rules)
    except BadRequest:
        return True
    return False


# --- what must not be reached ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", [pytest.param(host, id=f"{kind} {host}") for kind, hosts in LITERALS.items() for host in hosts]
)
def test_a_forbidden_host_is_refused_twice_and_never_connected_to(place: Place, host: str) -> None:
    urls = [f"{scheme}://{host}{port}/" for scheme in ("http", "https") for port in (f":{place.port}", "")]

    replies = place.attempt(urls, WITH_NETWORKS)

    assert [is_refused(each, WITH_NETWORKS) for each in urls] == [True] * 4
    assert {each.status for each in replies} == {0}
    assert all(each.error and each.error.startswith("invalid destination url: ") for each in replies)
    assert (place.loop.tried, place.loop.asked, place.visits) == ([], [], 0)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("rules", [PUBLIC, WITH_NETWORKS], ids=["public", "with networks"])
def test_a_hostile_url_connects_to_nothing_forbidden(place: Place, url: str, rules: DestinationRules) -> None:
    place.loop.names["example.com"] = [[PUBLIC_ADDRESS]]

    [reply] = place.attempt([url.format(port=place.port)], rules)

    assert reply.status == 0
    assert (place.loop.tried, place.visits) == ([], 0)


@pytest.mark.parametrize("addresses", RESOLVED.values(), ids=RESOLVED.keys())
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_resolves_to_a_forbidden_address_is_not_connected_to(
    place: Place, scheme: str, addresses: list[str]
) -> None:
    rules = rules_with("11.0.0.0/8")
    place.loop.names["app.test"] = [addresses]
    url = f"{scheme}://app.test:{place.port}/"
    assert not is_refused(url, rules)

    [reply] = place.attempt([url], rules)

    assert (reply.status, place.loop.tried, place.visits) == (0, [], 0)
    assert "endpoint resolves to a" in (reply.error or "")
    assert place.loop.asked == ["app.test"]
    assert is_refused(url, rules)  # from here on when it is accepted, too


@pytest.mark.parametrize("forbidden", RESOLVED.values(), ids=RESOLVED.keys())
def test_a_name_that_answers_public_first_and_forbidden_next_is_not_followed_there(
    place: Place, forbidden: list[str]
) -> None:
    place.loop.names["rebind.test"] = [[PUBLIC_ADDRESS], forbidden]
    rules = rules_with()
    # Another port each time, so that no cache answers for the resolver.
    urls = [f"https://rebind.test:{port}/" for port in (place.port, place.port, place.other_port)]

    replies = place.attempt(urls, rules)

    assert [each.status for each in replies] == [0, 0, 0]
    assert place.loop.tried == [PUBLIC_ADDRESS, PUBLIC_ADDRESS]
    assert place.loop.asked == ["rebind.test", "rebind.test"]
    assert "endpoint resolves to a" in (replies[2].error or "")
    assert is_refused(urls[0], rules)
    assert place.visits == 0


@pytest.mark.parametrize("forbidden", RESOLVED.values(), ids=RESOLVED.keys())
def test_of_mixed_answers_only_the_public_one_is_connected_to(place: Place, forbidden: list[str]) -> None:
    place.loop.names["mixed.test"] = [[*forbidden, PUBLIC_ADDRESS, *forbidden]]

    place.attempt([f"https://mixed.test:{place.port}/"])

    assert (place.loop.tried, place.visits) == ([PUBLIC_ADDRESS], 0)


LOCATIONS = [
    "http://127.0.0.1:{other}/",
    "https://127.0.0.1:{other}/",
    "//127.0.0.1:{other}/",
    "http://[::1]:{port}/",
    "http://localhost:{other}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://0x7f.1:{other}/",
    "https://inside.test/",
    "file:///etc/passwd",
    "http://" + PUBLIC_ADDRESS + "/",
]


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_never_followed(place: Place, status: int, location: str) -> None:
    there = location.format(port=place.port, other=place.other_port)
    place.loop.names["inside.test"] = [["10.0.0.1"]]
    place.door.answer = (
        f"HTTP/1.1 {status} Gone\r\nLocation: {there}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ).encode()

    [reply] = place.attempt([f"http://127.0.0.1:{place.port}/"], rules_with(f"http://127.0.0.1:{place.port}"))

    assert (reply.status, reply.error) == (status, f"unexpected status {status}")
    assert (place.loop.tried, place.loop.asked) == (["127.0.0.1"], [])
    assert (place.door.visits, place.visits) == (1, 1)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"])
def test_a_proxy_of_the_environment_is_not_connected_to(
    place: Place, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{place.port}")

    place.attempt([f"https://{PUBLIC_ADDRESS}/", "http://11.0.0.1/"], WITH_NETWORKS)

    assert (place.loop.tried, place.visits) == ([PUBLIC_ADDRESS, "11.0.0.1"], 0)


def test_an_origin_that_was_called_opens_no_other_on_the_same_host(place: Place) -> None:
    """What was resolved for one scheme must not answer for the other, nor for another port."""
    place.loop.names["app.test"] = [["127.0.0.1"]]
    urls = [
        f"http://app.test:{place.port}/",
        f"https://app.test:{place.port}/",
        f"http://app.test:{place.other_port}/",
    ]

    replies = place.attempt(urls, rules_with(urls[0].rstrip("/")))

    assert [each.status for each in replies] == [200, 0, 0]
    assert (place.loop.tried, place.door.visits, place.visits) == (["127.0.0.1"], 1, 1)


# --- what must be reached -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (PUBLIC_ADDRESS, PUBLIC_ADDRESS),
        ("1.1.1.1", "1.1.1.1"),
        ("1.1.1.1.", "1.1.1.1"),
        ("0x01010101", "1.1.1.1"),
        ("16843009", "1.1.1.1"),
        ("01.01.01.01", "1.1.1.1"),
        ("010.8.8.8", "8.8.8.8"),
        ("1.65793", "1.1.1.1"),
        ("\u2460.1.1.1", "1.1.1.1"),
        ("126.255.255.255", "126.255.255.255"),
        ("128.0.0.1", "128.0.0.1"),
        ("172.15.255.255", "172.15.255.255"),
        ("172.32.0.0", "172.32.0.0"),
        ("100.63.255.255", "100.63.255.255"),
        ("100.128.0.0", "100.128.0.0"),
        ("169.253.255.255", "169.253.255.255"),
        ("168.63.129.17", "168.63.129.17"),
        ("223.255.255.255", "223.255.255.255"),
        ("[2606:4700::1111]", "2606:4700::1111"),
        ("[2A00:1450:4001:830::200E]", "2a00:1450:4001:830::200e"),
        ("[64:ff9b::1.1.1.1]", "64:ff9b::101:101"),
    ],
)
def test_a_public_address_is_connected_to(place: Place, host: str, address: str) -> None:
    url = f"https://{host}:{place.port}/"

    place.attempt([url])

    assert not is_refused(url)
    assert (place.loop.tried, place.loop.asked) == ([address], [])


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("app.test", "app.test"),
        ("APP.test", "app.test"),
        ("app.test.", "app.test."),
        ("\uff41pp\u3002test", "app.test"),
        ("b\u00fccher.test", "xn--bcher-kva.test"),
        ("127.0.0.1.test", "127.0.0.1.test"),
        ("localhost.test", "localhost.test"),
        ("1e100.test", "1e100.test"),
    ],
)
def test_a_name_that_resolves_to_a_public_address_is_connected_to(
    place: Place, host: str, asked: str
) -> None:
    place.loop.names[asked] = [[PUBLIC_ADDRESS]]

    place.attempt([f"https://{host}:{place.port}/"])

    assert (place.loop.asked, place.loop.tried) == ([asked], [PUBLIC_ADDRESS])


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.1"),
        ("127.0.0.1", "2130706433"),
        ("127.0.0.0/8", "0x7f000001"),
        ("127.0.0.0/8", "localhost"),
        ("localhost", "LOCALHOST."),
        ("127.0.0.0/8", "app.test"),
        ("app.test", "app.test"),
        ("app.test", "APP.test."),
        ("*.test", "app.test"),
        ("b\u00fccher.test", "B\u00dcCHER.test"),
        ("http://app.test:{port}", "app.test"),
        ("http://127.0.0.1:{port}", "127.0.0.1"),
        ("metadata.google.internal", "metadata.google.internal"),
    ],
)
def test_what_is_on_the_list_is_reached(place: Place, entry: str, host: str) -> None:
    for each in ("app.test", "app.test.", "localhost.", "xn--bcher-kva.test", "metadata.google.internal"):
        place.loop.names[each] = [["127.0.0.1"]]
    rules = rules_with(entry.format(port=place.port))
    url = f"http://{host}:{place.port}/"

    [reply] = place.attempt([url], rules)

    assert not is_refused(url, rules)
    assert (reply.status, reply.error) == (200, None)
    assert place.door.visits + place.door6.visits == 1


@pytest.mark.parametrize("entry", ["::1", "::/0", "http://[::1]:{port}"])
def test_a_listed_ipv6_address_is_reached(place: Place, entry: str) -> None:
    require(place.has_ipv6, "this machine has no IPv6 loopback")

    [reply] = place.attempt([f"http://[::1]:{place.port}/"], rules_with(entry.format(port=place.port)))

    assert (reply.status, place.loop.tried, place.door6.visits) == (200, ["::1"], 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "[::ffff:127.0.0.1]"])
def test_a_broker_on_loopback_reaches_loopback(place: Place, host: str) -> None:
    [reply] = place.attempt([f"http://{host}:{place.port}/"], parse_rules((), loopback=True))

    assert (reply.status, place.door.visits + place.door6.visits) == (200, 1)


def test_the_table_is_as_long_as_it_should_be() -> None:
    cases = sum(map(len, LITERALS.values())) + len(URLS) + len(RESOLVED)

    assert cases >= 200
