"""The official JavaScript client of QStash against our standalone broker, run by Node.js.

What it does step by step stands in `javascript/flow.mjs`; it is installed from npm into pytest's cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import require
from tests.support.api import read_keys
from tests.support.official import NodeJs, find_nodejs
from tests.support.processes import BrokerProcess, Processes, clean_environment

pytestmark = pytest.mark.process

FOLDER = Path(__file__).parent / "javascript"
INSTALL_S = 120
FLOW_S = 60


@pytest.fixture(scope="module")
def node(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The command that runs the steps, with the client at hand; skips where that cannot be."""
    nodejs = find_nodejs()
    require(nodejs is not None, "node and npm are not installed")
    assert nodejs is not None
    # Some run pytest without its cache, and then it is installed each time.
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    name = "javascript-client"
    place = installed(cache.mkdir(name) if cache else tmp_path_factory.mktemp(name), nodejs)
    return [nodejs.node, str(place / "flow.mjs")]


def installed(place: Path, nodejs: NodeJs) -> Path:
    """Install what `package-lock.json` says into a folder, unless it is there already."""
    lock = FOLDER / "package-lock.json"
    finished = place / "installed.json"
    if not finished.exists() or finished.read_bytes() != lock.read_bytes():
        for each in ("package.json", "package-lock.json"):
            shutil.copyfile(FOLDER / each, place / each)
        # npm is a script that asks for `node` by its name.
        path = os.pathsep.join([str(Path(nodejs.node).parent), os.environ.get("PATH", "")])
        done = subprocess.run(
            [*nodejs.npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=place,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
        require(done.returncode == 0, f"npm cannot install the client: {done.stderr[-500:]}")
        shutil.copyfile(lock, finished)
    # Node looks for the client from where the script is.
    shutil.copyfile(FOLDER / "flow.mjs", place / "flow.mjs")
    return place


def test_every_step_of_the_javascript_client_works(
    node: Sequence[str], broker: BrokerProcess, tmp_path: Path
) -> None:
    env = clean_environment() | read_keys(tmp_path / "q.db") | {"QSTASH_URL": broker.url}
    done = subprocess.run(node, env=env, capture_output=True, text=True, timeout=FLOW_S, check=False)
    assert done.returncode == 0, done.stderr

    steps = re.findall(
        r"^  async (\w+)\(\) \{$", (FOLDER / "flow.mjs").read_text(encoding="utf-8"), re.MULTILINE
    )
    failed = {name: text for name, text in json.loads(done.stdout).items() if text != "ok"}
    assert list(json.loads(done.stdout)) == steps
    assert failed == {}, "\n\n".join(f"{name}: {text}" for name, text in failed.items())


def test_the_client_in_its_own_development_mode_finds_ours(node: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    publish = (
        'import { Client } from "@upstash/qstash";'
        'const done = await new Client().publish({ url: "http://127.0.0.1:9/", delay: 100 });'
        "console.log(done.messageId);"
    )
    with Processes(tmp_path) as processes:
        broker = processes.python("-m", "qtasks", "dev", "--qstash-users", "--port", "0")
        port = broker.expect(r"broker on http://\S+:(\d+), store")[0][1]
        done = subprocess.run(
            [node[0], "--input-type=module", "--eval", publish],
            cwd=Path(node[1]).parent,  # Node looks for the client from there
            env=clean_environment() | {"QSTASH_DEV": "1", "QSTASH_DEV_PORT": port},
            capture_output=True,
            text=True,
            timeout=FLOW_S,
            check=False,
        )

    assert f"already running at http://127.0.0.1:{port}" in done.stdout, done.stderr
    assert re.search(r"^msg_", done.stdout, re.MULTILINE), done.stdout


def test_the_client_is_pinned() -> None:
    wanted = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))["dependencies"]
    locked = json.loads((FOLDER / "package-lock.json").read_text(encoding="utf-8"))["packages"]

    assert re.fullmatch(r"\d+\.\d+\.\d+", wanted["@upstash/qstash"])
    assert locked["node_modules/@upstash/qstash"]["version"] == wanted["@upstash/qstash"]
