"""The files in `deploy/` against what there is: options, settings, paths, ports, users and times.

No container engine is needed; systemd's and Kubernetes' own tools look at them too where they are installed.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from qtasks.broker.api import ROUTES
from qtasks.broker.config import BrokerConfig
from qtasks.cli import main
from tests.support import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "docker" / "compose.yaml"
UNIT = DEPLOY / "systemd" / "qtasks-broker.service"
MANIFESTS = DEPLOY / "kubernetes" / "broker.yaml"
KUSTOMIZATION = DEPLOY / "kubernetes" / "kustomization.yaml"

GRACE_S = BrokerConfig().grace_ms / 1000
USER = 10001
DATA = "/var/lib/qtasks"
SECRETS = {"QTASKS_TOKEN", "QTASKS_CURRENT_SIGNING_KEY", "QTASKS_NEXT_SIGNING_KEY", "QTASKS_SECRET"}


def yaml_of(path: Path) -> list[Any]:
    """Read all documents of a YAML file."""
    # Without stubs, and not worth a dependency for the type checkers.
    yaml = import_module("yaml")
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Read a Dockerfile: each instruction with its rest, continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (each.partition(" ") for each in lines) if word]


def exec_form(text: str) -> list[str]:
    """Read `["a", "b"]`, which runs without a shell."""
    words: list[str] = json.loads(text)
    return words


class _Exact(configparser.ConfigParser):
    """Leaves the names of options as they are written."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit() -> configparser.ConfigParser:
    """Read the unit; of an option that is given twice, the last one counts here."""
    parser = _Exact(strict=False, interpolation=None)
    parser.read(UNIT)
    return parser


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None, f"there is no command {name!r}"
    return found


def broker_options(words: Sequence[str]) -> Mapping[str, Any]:
    """Have click read the words of `qtasks broker …`, and give what they say."""
    name, *rest = words
    assert name == "broker"
    return command(name).make_context(name, list(rest)).params


def commands() -> Iterator[tuple[str, list[str]]]:
    """Give every command line by which a broker is started, as the words after `qtasks`."""
    yield "systemd", shlex.split(unit()["Service"]["ExecStart"])[1:]
    yield "Dockerfile", exec_form(dict(instructions(DOCKERFILE))["CMD"])
    yield "compose", yaml_of(COMPOSE)[0]["services"]["broker"]["command"]
    yield "kubernetes", container()["args"]


def manifest(kind: str) -> Any:
    [only] = [each for each in yaml_of(MANIFESTS) if each["kind"] == kind]
    return only


def deployment() -> Any:
    return manifest("Deployment")["spec"]


def container() -> Any:
    [only] = deployment()["template"]["spec"]["containers"]
    return only


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_line_is_understood_and_keeps_the_store_in_the_one_folder(name: str) -> None:
    options = broker_options(COMMANDS[name])

    assert options["store"] == f"sqlite:///{DATA}/q.db"
    assert options["port"] == 8080
    assert options["grace"] == GRACE_S


@pytest.mark.parametrize("name", [each for each in COMMANDS if each != "systemd"])
def test_a_container_listens_to_all_and_logs_for_machines(name: str) -> None:
    options = broker_options(COMMANDS[name])

    assert (options["host"], options["log_format"]) == ("0.0.0.0", "json")


def test_every_setting_that_is_named_exists() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DEPLOY.rglob("*") if path.is_file())
    known = (ROOT / "docs" / "brokers.md").read_text(encoding="utf-8")

    for name in set(re.findall(r"\bQTASKS_[A-Z_]+\b", text)):
        assert f"`{name}`" in known, name


def test_no_file_holds_a_secret() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not any(re.search(rf"{name}\s*[:=]", text) for name in SECRETS), path
    assert "secrets.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


# --- the image and compose ------------------------------------------------------------------------


def test_the_image_runs_without_rights_and_checks_itself() -> None:
    steps = instructions(DOCKERFILE)
    last = dict(steps)  # of those that repeat, the last one counts

    assert last["USER"] == f"{USER}:{USER}"
    assert last["VOLUME"] == last["WORKDIR"] == DATA
    assert exec_form(last["ENTRYPOINT"]) == ["qtasks"]
    assert last["STOPSIGNAL"] == "SIGTERM"
    program, *arguments = exec_form(last["HEALTHCHECK"].partition("CMD ")[2])
    assert program == "qtasks"
    command(arguments[0]).make_context(arguments[0], arguments[1:])
    words = [word for word, _ in steps]
    assert words.index("USER") > max(n for n, word in enumerate(words) if word == "RUN")


def test_the_image_is_made_of_what_the_wheel_needs_and_of_nothing_else() -> None:
    copied = [rest.split() for word, rest in instructions(DOCKERFILE) if word == "COPY"]
    sources = {each for words in copied if not words[0].startswith("--from") for each in words[:-1]}
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()

    assert all((ROOT / each).exists() for each in sources)
    assert "*" in ignored
    assert {each.removeprefix("!") for each in ignored if each.startswith("!")} == sources


@pytest.mark.parametrize("name", ["broker", "app"])
def test_compose_takes_away_what_is_not_needed(name: str) -> None:
    service = yaml_of(COMPOSE)[0]["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert int(service["stop_grace_period"].removesuffix("s")) > GRACE_S + 5


def test_the_app_of_compose_and_its_broker_find_each_other() -> None:
    services = yaml_of(COMPOSE)[0]["services"]
    app = services["app"]
    options = broker_options(services["broker"]["command"])
    origin, _, path = app["environment"]["QTASKS_PUBLIC_URL"].rpartition("/")

    assert options["allowed"] == (origin,)
    assert origin == f"http://app:{app['entrypoint'][app['entrypoint'].index('--port') + 1]}"
    assert app["environment"]["QTASKS_BROKER"] == f"http://broker:{options['port']}"
    assert app["depends_on"] == {"broker": {"condition": "service_healthy"}}
    [code, *_] = (each.partition(":")[0] for each in app["volumes"])
    assert f'Mount("/{path}"' in (COMPOSE.parent / code / "app.py").read_text(encoding="utf-8")
    [volume] = services["broker"]["volumes"]
    assert volume.partition(":")[0] in yaml_of(COMPOSE)[0]["volumes"]
    assert volume.endswith(f":{DATA}")


# --- systemd --------------------------------------------------------------------------------------


def test_the_unit_waits_to_be_told_and_lets_deliveries_end() -> None:
    service = unit()["Service"]

    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > GRACE_S + 5
    assert int(service["WatchdogSec"]) >= 10
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert f"/var/lib/{service['StateDirectory']}" == service["WorkingDirectory"] == DATA
    assert service["DynamicUser"] == "yes"
    assert service["UMask"] == "0077"


@pytest.fixture
def runnable_unit(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / UNIT.name
    program = Path(sys.executable).with_name("qtasks")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/qtasks/bin/qtasks", str(program))
    copy.write_text(text, encoding="utf-8")
    return copy


@pytest.mark.process
def test_systemd_finds_nothing_wrong_with_the_unit(runnable_unit: Path) -> None:
    looked = analyze("verify", "--man=no", str(runnable_unit))

    assert (looked.returncode, looked.stderr) == (0, "")


@pytest.mark.process
def test_systemd_rates_the_unit_as_hardly_exposed(runnable_unit: Path) -> None:
    looked = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(runnable_unit))

    assert looked.returncode == 0, looked.stdout[-500:]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


# --- Kubernetes -----------------------------------------------------------------------------------


def test_two_brokers_never_share_the_volume() -> None:
    claim = manifest("PersistentVolumeClaim")

    assert deployment()["replicas"] == 1
    assert deployment()["strategy"] == {"type": "Recreate"}
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_the_pod_runs_without_rights_and_with_a_root_that_cannot_be_written() -> None:
    pod = deployment()["template"]["spec"]
    mine = container()["securityContext"]
    user = pod["securityContext"]

    assert user["runAsNonRoot"] is True
    assert {user["runAsUser"], user["runAsGroup"], user["fsGroup"]} == {USER}
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert mine["readOnlyRootFilesystem"] is True
    assert mine["allowPrivilegeEscalation"] is False
    assert mine["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] > GRACE_S + 5


def test_the_probes_ask_for_what_there_is_at_the_port_that_is_listened_on() -> None:
    found = container()
    [port] = found["ports"]
    open_paths = {each.path for each in ROUTES if each.is_open}
    asked = {kind: found[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}

    assert {each["path"] for each in asked.values()} <= open_paths
    assert asked["liveness"]["path"] == "/livez", "a full disk is not mended by a restart"
    assert asked["readiness"]["path"] == "/readyz"
    assert all(each["port"] == port["name"] for each in asked.values())
    assert port["containerPort"] == broker_options(found["args"])["port"]
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == port["name"]


def test_every_volume_and_secret_that_is_mounted_is_there() -> None:
    pod = deployment()["template"]["spec"]
    [generated] = yaml_of(KUSTOMIZATION)[0]["secretGenerator"]
    [source] = container()["envFrom"]
    mounted = {each["name"] for each in container()["volumeMounts"]}
    wanted = [each["persistentVolumeClaim"] for each in pod["volumes"] if "persistentVolumeClaim" in each]

    assert mounted == {each["name"] for each in pod["volumes"]}
    assert source["secretRef"]["name"] == generated["name"]
    assert wanted == [{"claimName": manifest("PersistentVolumeClaim")["metadata"]["name"]}]


def test_the_service_and_the_budget_are_about_the_pod() -> None:
    labels = deployment()["template"]["metadata"]["labels"]

    assert deployment()["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels


def test_a_machine_can_be_drained_although_there_is_one_replica() -> None:
    budget = manifest("PodDisruptionBudget")["spec"]

    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


@pytest.mark.process
def test_kustomize_gives_the_pod_the_secret_that_it_makes(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    for each in (MANIFESTS, KUSTOMIZATION):
        shutil.copy(each, tmp_path)
    (tmp_path / "secrets.env").write_text("QTASKS_TOKEN=x\n", encoding="utf-8")

    made = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    found = {each["kind"]: each for each in import_module("yaml").safe_load_all(made.stdout)}

    assert found.keys() == {each["kind"] for each in yaml_of(MANIFESTS)} | {"Secret"}
    [broker] = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert broker["envFrom"] == [{"secretRef": {"name": found["Secret"]["metadata"]["name"]}}]
