"""What the environment decides: every name that is read, and what is refused with which text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qtasks import ConfigurationError, QTasks, Settings
from qtasks.settings import HomeKind, database_path
from tests.support.homes import SECRET

OTHER = SECRET[::-1]
AMERICA = {
    "QSTASH_TOKEN": "theirs",
    "QSTASH_CURRENT_SIGNING_KEY": "eu1",
    "QSTASH_NEXT_SIGNING_KEY": "eu2",
    "US_EAST_1_QSTASH_URL": "https://qstash-us-east-1.upstash.io",
    "US_EAST_1_QSTASH_TOKEN": "american",
    "US_EAST_1_QSTASH_CURRENT_SIGNING_KEY": "us1",
    "US_EAST_1_QSTASH_NEXT_SIGNING_KEY": "us2",
}


def test_without_an_environment_the_broker_is_a_file() -> None:
    settings = Settings.from_env({})

    assert settings == Settings(broker="sqlite:///qtasks.db")
    assert settings.home is HomeKind.SQLITE


@pytest.mark.parametrize(
    ("env", "member", "value"),
    [
        ({"QTASKS_BROKER": " http://127.0.0.1:8080 "}, "broker", "http://127.0.0.1:8080"),
        ({"QTASKS_BROKER": ""}, "broker", "sqlite:///qtasks.db"),
        ({"QTASKS_TOKEN": "ours"}, "token", "ours"),
        ({"QSTASH_TOKEN": "theirs"}, "token", "theirs"),
        ({"QTASKS_TOKEN": "ours", "QSTASH_TOKEN": "theirs"}, "token", "ours"),
        ({"QTASKS_TOKEN": "", "QSTASH_TOKEN": "theirs"}, "token", "theirs"),
        ({"QTASKS_CURRENT_SIGNING_KEY": "a", "QTASKS_NEXT_SIGNING_KEY": "b"}, "signing_keys", ("a", "b")),
        ({"QSTASH_CURRENT_SIGNING_KEY": "a", "QSTASH_NEXT_SIGNING_KEY": "b"}, "signing_keys", ("a", "b")),
        ({"QTASKS_CURRENT_SIGNING_KEY": "a", "QSTASH_NEXT_SIGNING_KEY": "b"}, "signing_keys", ("a", "b")),
        ({"QTASKS_SECRET": SECRET}, "secrets", (SECRET,)),
        ({"QTASKS_SECRET": f"{SECRET}, {OTHER},"}, "secrets", (SECRET, OTHER)),
        ({"QTASKS_PUBLIC_URL": "https://a.example/q/"}, "public_url", "https://a.example/q"),
        ({"QTASKS_PUBLIC_URL": ""}, "public_url", None),
        ({"QTASKS_ALLOW_DESTINATIONS": "10.0.0.0/8, app"}, "allow_destinations", ("10.0.0.0/8", "app")),
        ({"QTASKS_DURABILITY": "relaxed"}, "durability", "relaxed"),
        ({"QTASKS_RESULTS": "sqlite:///r.db"}, "results", "sqlite:///r.db"),
        ({"QTASKS_OUTBOX": "sqlite:///a.db"}, "outbox", "sqlite:///a.db"),
        ({"QTASKS_QSTASH_PLAN": "free"}, "plan", "free"),
        ({**AMERICA, "QSTASH_REGION": "US_EAST_1"}, "token", "american"),
        ({**AMERICA, "QSTASH_REGION": "us-east-1"}, "token", "american"),
        ({**AMERICA, "QSTASH_REGION": "EU_CENTRAL_1"}, "token", "theirs"),
        ({**AMERICA, "QSTASH_REGION": "US_EAST_1", "QTASKS_TOKEN": "ours"}, "token", "ours"),
        ({**AMERICA, "QSTASH_REGION": "US_EAST_1"}, "signing_keys", ("us1", "us2")),
        ({**AMERICA, "QSTASH_REGION": "EU_CENTRAL_1"}, "signing_keys", ("eu1", "eu2")),
        ({**AMERICA, "QSTASH_REGION": "US_EAST_1"}, "regional_keys", ("eu1", "eu2", "us1", "us2")),
        (AMERICA, "token", "theirs"),
        (AMERICA, "signing_keys", ("eu1", "eu2")),
        (AMERICA, "regional_keys", ()),
    ],
)
def test_a_variable_of_the_environment_is_read(env: dict[str, str], member: str, value: object) -> None:
    assert getattr(Settings.from_env(env), member) == value


def test_the_url_of_hosted_qstash_never_chooses_the_home() -> None:
    assert Settings.from_env({"QSTASH_URL": "https://qstash.upstash.io"}).home is HomeKind.SQLITE
    assert Settings.from_env({**AMERICA, "QSTASH_REGION": "US_EAST_1"}).home is HomeKind.SQLITE


@pytest.mark.parametrize(
    ("broker", "region", "address"),
    [
        ("https://qstash.upstash.io", "", "https://qstash.upstash.io"),
        ("https://qstash.upstash.io/", "US_EAST_1", "https://qstash-us-east-1.upstash.io"),
        ("https://qstash.upstash.io", "EU_CENTRAL_1", "https://qstash.upstash.io"),
        ("https://qstash-eu-central-1.upstash.io", "US_EAST_1", "https://qstash-eu-central-1.upstash.io"),
        ("qstash+http://127.0.0.1:8080", "US_EAST_1", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080", "US_EAST_1", "http://127.0.0.1:8080"),
    ],
)
def test_a_region_has_its_own_address_where_none_was_named(broker: str, region: str, address: str) -> None:
    env = {**AMERICA, "QTASKS_BROKER": broker, "QSTASH_REGION": region}

    assert Settings.from_env(env).address == address


@pytest.mark.parametrize(
    ("env", "text"),
    [
        (
            {"QTASKS_SECRET": "short"},
            "QTASKS_SECRET must be at least 32 bytes long, not 5; make one with: python",
        ),
        ({"QTASKS_SECRET": "a" * 40}, "QTASKS_SECRET looks like a sample, not like a secret; make one with"),
        ({"QTASKS_SECRET": f"changeme-{SECRET}"}, "QTASKS_SECRET looks like a sample"),
        ({"QTASKS_SECRET": f"{SECRET},short"}, "must be at least 32 bytes long, not 5"),
        (
            {"QTASKS_PUBLIC_URL": "app.example.com"},
            "QTASKS_PUBLIC_URL is 'app.example.com'; it must be the address",
        ),
        ({"QTASKS_PUBLIC_URL": "http://[::1/q"}, "it must be the address where the webhook is mounted"),
        ({"QTASKS_PUBLIC_URL": "ftp://app.example"}, "it must be the address where the webhook is mounted"),
        (
            {"QTASKS_PUBLIC_URL": "https://a.example/?x=1"},
            "it must be the address where the webhook is mounted",
        ),
        (
            {"QSTASH_REGION": "mars"},
            "QSTASH_REGION is 'mars'; it must be EU_CENTRAL_1 or US_EAST_1",
        ),
        ({"QTASKS_DURABILITY": "none"}, """durability must be "full" or "relaxed", not 'none'"""),
    ],
)
def test_a_variable_that_cannot_be_is_refused(env: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(env)

    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("broker", "home"),
    [
        ("sqlite:////data/q.db", HomeKind.SQLITE),
        ("postgresql://host/db", HomeKind.POSTGRES),
        ("postgres://host/db", HomeKind.POSTGRES),
        ("http://127.0.0.1:8080", HomeKind.HTTP),
        ("HTTPS://broker.example", HomeKind.HTTP),
        ("https://qstash.upstash.io", HomeKind.HOSTED),
        ("https://QSTASH-us-east-1.upstash.io/", HomeKind.HOSTED),
        ("https://upstash.io.example", HomeKind.HTTP),
        ("https://notupstash.io", HomeKind.HTTP),
        ("qstash+http://127.0.0.1:8080", HomeKind.HOSTED),
        ("QSTASH+https://broker.example", HomeKind.HOSTED),
    ],
)
def test_the_url_of_the_broker_chooses_the_home(broker: str, home: HomeKind) -> None:
    assert Settings(broker=broker).home is home


@pytest.mark.parametrize("broker", ["http://", "http://[::1", "https:///path"])
def test_an_address_without_a_host_is_no_broker(broker: str) -> None:
    with pytest.raises(ConfigurationError, match="which is no broker"):
        _ = Settings(broker=broker).home


def test_a_url_that_is_no_broker_is_refused_without_showing_its_password() -> None:
    with pytest.raises(
        ConfigurationError, match=r"which is no broker; use sqlite:///qtasks\.db, postgresql:"
    ) as caught:
        QTasks("mysql://me:hunter2@host/db")

    assert "hunter2" not in str(caught.value)


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QTASKS_BROKER", "postgresql://host/db")

    assert QTasks("sqlite:///q.db")._settings.home is HomeKind.SQLITE
    assert QTasks()._settings.home is HomeKind.POSTGRES


def test_no_secret_is_shown_when_settings_are_printed() -> None:
    settings = Settings(token="hunter2", signing_keys=("sig_1", "sig_2"), secrets=(SECRET,))

    assert not any(each in repr(settings) for each in ("hunter2", "sig_1", "sig_2", SECRET))


@pytest.mark.parametrize("mark", ["pyproject.toml", ".git"])
def test_a_relative_file_belongs_to_the_project_around(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).touch()
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    assert database_path("sqlite:///q.db", below) == tmp_path / "q.db"
    assert database_path("sqlite:///data/q.db", tmp_path) == tmp_path / "data" / "q.db"
    assert database_path("sqlite:////data/q.db", below) == Path("/data/q.db")


def test_the_file_is_the_same_from_every_folder_of_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")

    assert database_path("sqlite:///q.db") == Path(os.path.realpath(tmp_path)) / "q.db"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("sqlite://", "'sqlite://' names no file; use sqlite:///qtasks.db"),
        ("sqlite:///folder/", "names no file"),
        ("sqlite:///:memory:", "a broker in memory would lose tasks; use a file"),
    ],
)
def test_what_is_no_file_is_refused(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        QTasks(url)

    assert text in str(caught.value)
