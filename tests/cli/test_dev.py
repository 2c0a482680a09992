"""`qtasks dev` without an app: a broker for this machine, with keys of the project or the published ones."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from qtasks.errors import ConfigurationError
from qtasks.home.development import QSTASH_USER, Wish, check_wish
from qtasks.settings import Settings
from tests.support.processes import Process, Processes, clean_environment
from tests.support.terminals import Terminal

USER_1 = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    (tmp_path / "pyproject.toml").touch()
    with Processes(tmp_path) as processes:
        yield processes


def dev(processes: Processes, *options: str, **env: str) -> Process:
    settings = {"QTASKS_BROKER": "", "QTASKS_TOKEN": "the-token-of-production", **env}
    return processes.python("-m", "qtasks", "dev", "--port", "0", *options, env=settings)


def url_of(process: Process) -> str:
    process.expect("DEVELOPMENT MODE")
    return process.expect(r"broker on (http://\S+), store")[0][1]


def token_of(folder: Path) -> str:
    lines = (folder / ".qtasks-dev.keys").read_text().splitlines()
    return dict(each.split("=", 1) for each in lines)["QSTASH_TOKEN"]


def ask(url: str, token: str, path: str, method: str = "GET") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.request(method, url + path, headers=headers, timeout=10, trust_env=False)


def stop(process: Process) -> None:
    process.send(signal.SIGINT)
    assert process.wait() == 0


@pytest.mark.process
def test_a_project_keeps_its_keys_and_the_environment_s_do_not_count(
    processes: Processes, tmp_path: Path
) -> None:
    first = dev(processes)
    before = ask(url_of(first), token_of(tmp_path), "/v2/keys").json()
    stop(first)
    second = dev(processes)
    url = url_of(second)

    assert ask(url, token_of(tmp_path), "/v2/keys").json() == before
    assert ask(url, "the-token-of-production", "/v2/keys").status_code == 401
    assert token_of(tmp_path) not in second.output
    assert str(tmp_path / ".qtasks-dev.keys") in second.output


@pytest.mark.process
def test_the_published_user_is_known_where_it_was_asked_for(processes: Processes, tmp_path: Path) -> None:
    plain, adopted = dev(processes), dev(processes, "--qstash-users")

    assert ask(url_of(plain), USER_1, "/v2/keys").status_code == 401
    answer = ask(url_of(adopted), USER_1, "/v2/keys")
    assert answer.json() == {
        "current": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r",
        "next": "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs",
    }
    assert f"QSTASH_TOKEN={USER_1}" in adopted.output
    assert ask(url_of(adopted), token_of(tmp_path), "/v2/keys").status_code == 401


@pytest.mark.process
def test_messages_are_gone_at_the_end_unless_a_store_is_named(processes: Processes, tmp_path: Path) -> None:
    def queues_after_a_restart(*options: str) -> list[str]:
        first = dev(processes, *options)
        ask(url_of(first), token_of(tmp_path), "/v2/enqueue/mail/http://127.0.0.1:9/", "POST")
        stop(first)
        second = dev(processes, *options)
        found = ask(url_of(second), token_of(tmp_path), "/v2/queues").json()
        stop(second)
        return [each["name"] for each in found]

    assert queues_after_a_restart() == []
    assert queues_after_a_restart("--store", "sqlite:///kept.db") == ["mail"]
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("dev.db")]


@pytest.mark.process
def test_on_a_terminal_it_says_what_an_app_needs(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    command = ("dev", "--port", "0")
    with Terminal(*command, folder=tmp_path, env=clean_environment()) as terminal:
        terminal.expect("QSTASH_NEXT_SIGNING_KEY=sig_")

        assert f"QSTASH_TOKEN={token_of(tmp_path)}" in terminal.output
        terminal.press("\x03")
        assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("wish", "env", "text"),
    [
        (
            Wish(),
            {"QTASKS_ENV": " Production"},
            "QTASKS_ENV is 'production', and this is for development only; run `qtasks broker` instead",
        ),
        (
            Wish(host="0.0.0.0"),
            {},
            "a broker for development listens on loopback only, not on '0.0.0.0'; use 127.0.0.1, or run "
            "`qtasks broker` for others to reach it",
        ),
        (
            Wish(store="postgresql://db/q"),
            {},
            "--store must be a file of its own for development, such as sqlite:///dev.db",
        ),
    ],
)
def test_what_is_no_development_is_refused(wish: Wish, env: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_wish(wish, Settings.from_env(env))

    assert str(caught.value) == text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_any_loopback_address_will_do(host: str) -> None:
    check_wish(Wish(host=host), Settings.from_env({"QTASKS_ENV": "staging"}))


@pytest.mark.process
def test_a_refusal_is_an_error_of_usage(processes: Processes, tmp_path: Path) -> None:
    refused = dev(processes, "--qstash-users", QTASKS_ENV="production")

    assert refused.wait() == 2
    assert refused.output.startswith("qtasks: QTASKS_ENV is 'production'")
    assert not (tmp_path / ".qtasks-dev.keys").exists()


def test_the_published_user_is_the_first_one() -> None:
    assert QSTASH_USER[0] == USER_1
