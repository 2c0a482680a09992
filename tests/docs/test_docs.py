"""What the documentation says is so: its code runs, its commands exist, its tables are complete."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import Any

import httpx
import pytest

from qtasks.broker.api import ROUTES
from qtasks.cli import main
from qtasks.errors import BadRequest
from qtasks.protocol.headers import ROWS, UNSUPPORTED, parse_options
from qtasks.settings import Settings
from tests.docs.pages import anchors, blocks, links, rows, templates
from tests.support import ROOT
from tests.support.processes import BrokerProcess, Processes, clean_environment

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [each.relative_to(ROOT).as_posix() for each in PAGES]
RUN_WHOLE = ["README.md", "docs/quickstart.md", "docs/tasks.md"]
API = "docs/http-api.md"
ENVIRONMENT = re.compile(r"\b(?:QTASKS|QSTASH)_[A-Z]+(?:_[A-Z]+)*\b")
# Written for people and other clients, by the broker or by the reader; read by nothing of ours.
NOT_SETTINGS = {"QSTASH_URL"}
FORWARDING = {"Upstash-Forward-*", "Upstash-Header-Forward"}
COMMANDS = {"cd", "curl", "export", "python", "set", ".", "qtasks", "uvicorn"}
TAKES_VALUE = {"-X", "-H", "-d", "--unix-socket"}
MADE = {".venv/bin/qtasks", "../../.venv/bin/uvicorn", "../../.venv/bin/python"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(block: str) -> Iterator[list[str]]:
    """Give the commands of a shell block, each as its words, without comments."""
    for line in block.replace("\\\n", " ").split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word != ";":
                words.append(word)
            elif words:
                yield words
                words = []


def shell_commands(name: str) -> list[list[str]]:
    found: list[list[str]] = []
    for block in blocks(text(name), "sh"):
        joined = re.sub(r"'[^']*'", lambda each: each[0].replace("\n", " "), block.text)
        found.extend(commands(joined))
    return found


def test_the_readme_s_app_is_the_example_to_the_letter() -> None:
    first = blocks(text("README.md"), "python")[0].text

    assert first == text("examples/hello/app.py")
    assert blocks(text("docs/quickstart.md"), "python")[0].text == first


@pytest.mark.parametrize("name", NAMES)
def test_every_python_block_compiles(name: str) -> None:
    for block in blocks(text(name), "python"):
        compile(block.text, f"{name}:{block.line}", "exec", 0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@pytest.mark.process
@pytest.mark.parametrize("name", RUN_WHOLE)
def test_the_python_blocks_of_a_page_run_one_after_the_other(name: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs.pages", ROOT / name],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in links(text(name)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        assert found.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), f"{name}: {link}"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_exists(name: str) -> None:
    for words in shell_commands(name):
        command = words[0]
        if command.startswith("scripts/"):
            assert (ROOT / command).stat().st_mode & 0o100, f"{name}: {words}"
        elif not re.fullmatch(r"[A-Z_]+=.*", command):
            assert command in COMMANDS | MADE, f"{name}: {words}"
        if command == "cd":
            assert (ROOT / words[1]).is_dir(), f"{name}: {words}"
        if command.endswith("qtasks"):
            check_usage(words[1:])


def check_usage(arguments: Sequence[str]) -> None:
    """Have click read a command line, without running it."""
    name, *rest = arguments
    main.commands[name].make_context(name, rest, resilient_parsing="--help" in rest)


def test_no_page_names_a_package_that_is_not_ours() -> None:
    for name in NAMES:
        assert "pip install qtasks" not in text(name)


def test_every_setting_is_in_the_docs_and_every_one_in_the_docs_exists() -> None:
    class Recorder(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            read.add(key)
            return default

    read: set[str] = set()
    Settings.from_env(Recorder())
    table = " ".join(row[0] for row in rows(text("docs/brokers.md"), "Settings"))
    named = {each for name in NAMES for each in ENVIRONMENT.findall(text(name))}

    assert set(ENVIRONMENT.findall(table)) == read
    assert named - NOT_SETTINGS <= read


def test_every_operation_is_in_the_docs_and_no_other_is_said_to_be_there() -> None:
    table = {row[0].strip("`"): row[1] for row in rows(text(API), "Operations")}
    routes = {f"{route.method} /{'/'.join(route._segments)}" for route in ROUTES}
    webhooks = {each for each in routes if "/publish/" in each and not each.startswith("POST")}

    assert {name for name, state in table.items() if state == "yes"} == routes - webhooks
    assert set(table.values()) == {"yes", "not yet"}
    assert len([name for name in table if " /v2/" in name and "/events" not in name]) == 40


def test_the_pages_count_the_operations_right() -> None:
    present = [row[0] for row in rows(text(API), "Operations") if row[1] == "yes"]
    of_qstash = [each for each in present if "/v2/" in each and "/v2/events" not in each]

    assert f"has [{len(of_qstash)}](docs/http-api.md)" in text("README.md")
    assert f"has {len(of_qstash)} of its 40 operations" in text(API)
    assert f"{len(of_qstash)} operations of QStash's API" in text("CHANGELOG.md")


def documented_headers() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for row in rows(text(API), "Headers of a message"):
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", row[0]), row[1])
    return found


def test_every_header_that_is_read_is_in_the_docs_and_every_supported_one_is_read() -> None:
    documented = documented_headers()
    supported = {name for name, state in documented.items() if state == "supported"}

    assert {row.header for row in ROWS} <= documented.keys()
    assert supported <= {row.header for row in ROWS} | FORWARDING


def test_every_header_that_is_refused_is_in_the_docs_as_refused() -> None:
    documented = {name.lower(): state for name, state in documented_headers().items()}

    for prefix, _ in UNSUPPORTED:
        named = [state for name, state in documented.items() if f"{name}-".startswith(f"{prefix}-")]
        assert named, prefix
        assert set(named) == {"refused"}, prefix


@pytest.mark.parametrize("name", sorted(n for n, state in documented_headers().items() if state == "refused"))
def test_a_header_said_to_be_refused_is_refused_by_the_parser_or_has_a_row(name: str) -> None:
    header = name.replace("*", "Retries")
    if header in {row.header for row in ROWS}:
        return  # the broker refuses it, with the reason
    with pytest.raises(BadRequest, match="not supported by this version"):
        parse_options([(header, "1")])


def test_every_error_text_of_the_docs_is_one_of_ours() -> None:
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "qtasks").rglob("*.py"))]
    known = {each for source in sources for each in templates(source)}

    for row in rows(text(API), "Errors"):
        wanted = re.sub(r"<\w+>", "<>", row[1].strip("`"))
        assert any(wanted in each for each in known), row[1]


@pytest.mark.process
def test_every_curl_example_works(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, destination() as url:
        broker = processes.broker()
        values = {"QSTASH_URL": broker.url, "QSTASH_TOKEN": broker.token}
        values["START_AT"] = str(round(time.time() * 1000) + 1000)
        sent, answer = 0, None
        for words in shell_commands(API):
            if words[0] == "curl":
                answer = curl(words[1:], values, url)
                values.setdefault("MESSAGE_ID", answer.get("messageId", "") if answer else "")
                sent += 1

        assert sent >= 10
        assert answer == {"status": "ok"}
        assert_the_first_was_delivered(broker, values["MESSAGE_ID"])


class _Destination(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def destination() -> Iterator[str]:
    """Run a server that answers 200 to everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Destination) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def curl(arguments: list[str], values: Mapping[str, str], destination: str) -> Any:
    """Send what curl would, to the broker of the test and the destination of the test; give the JSON."""
    method, url, headers, body = "GET", "", [], None
    words = iter(arguments)
    for word in words:
        value = next(words) if word in TAKES_VALUE else word
        value = Template(value).substitute(values).replace("http://127.0.0.1:8000", destination)
        if word == "-X":
            method = value
        elif word == "-H":
            name, _, content = value.partition(": ")
            headers.append((name, content))
        elif word == "-d":
            body = value
        else:
            url = value
    answer = httpx.request(method, url, headers=headers, content=body, timeout=20, trust_env=False)
    assert answer.is_success, f"{method} {url}: {answer.status_code} {answer.text}"
    return json.loads(answer.text) if answer.text and answer.text.startswith("{") else None


def assert_the_first_was_delivered(broker: BrokerProcess, message_id: str) -> None:
    with broker.api() as api:
        assert api.states(message_id)[:2] == ["CREATED", "ACTIVE"]
