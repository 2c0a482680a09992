"""The page on transactions: its code runs as it stands, against a PostgreSQL and under a Django site."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.support import ROOT
from tests.support.homes import SECRET
from tests.support.postgres import Postgres
from tests.support.processes import clean_environment

RUN = """
import django, runpy
django.setup()
runpy.run_module("tests.docs.pages", run_name="__main__")
"""
SITE = """
SECRET_KEY = "of a test"
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "{name}",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": "{port}",
    }}
}}
"""


@pytest.mark.process
def test_the_code_of_the_page_runs(tmp_path: Path, postgres: Postgres) -> None:
    name = f"page_{os.getpid()}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    (tmp_path / "site_of_the_page.py").write_text(SITE.format(name=name, port=postgres.port))
    env = clean_environment() | {
        "DATABASE_URL": postgres.url(name),
        "QTASKS_SECRET": SECRET,
        "DJANGO_SETTINGS_MODULE": "site_of_the_page",
    }
    env["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, ROOT / "docs/transactions.md"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.splitlines()[:1] == ["receipt for order 1"]
    assert "charged 500 for order 1" in ran.stdout
    with closing(psycopg.connect(postgres.url(name))) as connection:
        orders = connection.execute("SELECT id FROM orders ORDER BY id").fetchall()
        calls = connection.execute("SELECT count(*) FROM qtasks.messages").fetchone()
    assert [row[0] for row in orders] == list(range(1, 9))
    assert calls == (12,)
