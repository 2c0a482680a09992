"""Builds the wheel and the sdist in a folder of their own, and says what is wrong with them.

    python scripts/check_release.py [FOLDER]

What is in the repository must be in them and nothing else; the sdist must build the same wheel; the
licences of what comes along with the broker must let anybody ship it. With FOLDER, the two files are left
there. Fetches the build backend with pip; prints what is wrong, and then exits 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("qtasks/py.typed", "qtasks/broker/store/sql/messages.sql")
BESIDE = ("LICENSE", "README.md", "pyproject.toml", "PKG-INFO", ".gitignore")
PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|PSF|Python Software Foundation|MPL|Mozilla)\b")
LEFTOVERS = ("__pycache__", "build", "dist", "node_modules", "qtasks_http.egg-info")
STRICT = re.compile(r"GPL|General Public")


def wheel_problems(
    names: Collection[str], tracked: Collection[str], metadata: str, version: str
) -> list[str]:
    """Say what is wrong with a wheel of these members; `tracked` are the files of the repository."""
    code = {each for each in tracked if each.startswith("qtasks/")}
    inside = {each for each in names if ".dist-info/" not in each}
    found = [f"the wheel lacks {each}" for each in sorted({*code, *NEEDED} - inside)]
    found += [f"the wheel has {each}, which is not in the repository" for each in sorted(inside - code)]
    if not any(each.endswith(".dist-info/licenses/LICENSE") for each in names):
        found.append("the wheel has no licence")
    for line in (f"Version: {version}", "License-Expression: MIT", "Requires-Python: >=3.11"):
        if line not in metadata.splitlines():
            found.append(f"the wheel's METADATA has no line {line!r}")
    return found


def sdist_problems(names: Collection[str], tracked: Collection[str]) -> list[str]:
    """Say what is wrong with an sdist of these members, which are named from inside its one folder."""
    found = [
        f"the sdist has {each}, which is not in the repository"
        for each in sorted({*names} - {*tracked, *BESIDE})
    ]
    wanted = {each for each in tracked if not each.startswith((".ci/", "."))}
    return found + [f"the sdist lacks {each}" for each in sorted(wanted - {*names})]


def licence_problems(licences: Mapping[str, str]) -> list[str]:
    """Say which packages, by name, bear a licence under which they may not simply be shipped."""
    return [
        f"{name} is under {licence or 'no licence that it names'!r}"
        for name, licence in sorted(licences.items())
        if STRICT.search(licence) or not PERMISSIVE.search(licence)
    ]


def shipped_licences() -> dict[str, str]:
    """Give the licences of all that `qtasks-http[broker]` brings along, as installed here."""
    return {each.metadata["Name"]: _licence(each) for each in _closure("qtasks-http", frozenset({"broker"}))}


def _closure(name: str, extras: frozenset[str]) -> Iterator[Distribution]:
    seen: set[tuple[str, frozenset[str]]] = set()
    open_ends = [(name, extras)]
    while open_ends:
        name, extras = open_ends.pop()
        if (name.lower(), extras) in seen:
            continue
        seen.add((name.lower(), extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        yield found
        for each in map(Requirement, found.requires or ()):
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                open_ends.append((each.name, frozenset(each.extras)))


def _licence(found: Distribution) -> str:
    """Give the licence as its package names it: by an expression, else by a class or a text."""
    classes = [each for each in found.metadata.get_all("Classifier") or () if each.startswith("License ::")]
    named = found.metadata.get_all("License-Expression") or classes or found.metadata.get_all("License") or ()
    return " ".join(named)[:200]


def build(target: Path, source: Path, backend: Path, kind: str) -> Path:
    """Build a "wheel" or an "sdist" of a tree into a folder; give its file."""
    code = "import sys; from hatchling.cli import hatchling; sys.exit(hatchling())"
    _run(sys.executable, "-c", code, "build", "-t", kind, "-d", str(target), cwd=source, path=str(backend))
    [made] = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def _run(*command: str, cwd: Path = ROOT, path: str = "") -> str:
    """Run a program that must succeed, and give what it printed; what it says is heard if it fails."""
    env = {**os.environ, "PYTHONPATH": path}
    ran = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)}: {ran.stderr}")
    return ran.stdout


def problems(folder: Path) -> list[str]:
    """Build everything below a folder, and say what is wrong."""
    backend = folder / "backend"
    requires = _project()["build-system"]["requires"]
    _run(sys.executable, "-m", "pip", "install", "--target", str(backend), *requires)
    tracked = tracked_files()

    wheel = build(folder / "dist", ROOT, backend, "wheel")
    sdist = build(folder / "dist", ROOT, backend, "sdist")
    with zipfile.ZipFile(wheel) as opened:
        members = opened.namelist()
        [metadata] = [each for each in members if each.endswith(".dist-info/METADATA")]
        text = opened.read(metadata).decode()
    with tarfile.open(sdist) as packed:
        names = [each.name.partition("/")[2] for each in packed.getmembers() if each.isfile()]
    _run(sys.executable, "-m", "tarfile", "-e", str(sdist), str(folder / "unpacked"))
    [tree] = (folder / "unpacked").iterdir()
    again = build(folder / "again", tree, backend, "wheel")
    with zipfile.ZipFile(again) as opened:
        is_same = sorted(opened.namelist()) == sorted(members)

    found = wheel_problems(members, tracked, text, _project()["project"]["version"])
    found += sdist_problems(names, tracked)
    found += [] if is_same else ["the sdist builds another wheel than the repository"]
    return found + licence_problems(shipped_licences())


def tracked_files() -> list[str]:
    """Give the files of the repository; where there is no git, those of the folder that are no leftovers."""
    if shutil.which("git") and (ROOT / ".git").exists():
        # Whoever owns the folder: nothing of its configuration is run for a list.
        return _run("git", "-c", "safe.directory=*", "ls-files").splitlines()
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [
        each.as_posix()
        for each in found
        if not any(part.startswith(".") or part in LEFTOVERS for part in each.parts)
    ]


def _project() -> Mapping[str, dict[str, str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = problems(Path(folder))
        for each in found:
            print(each, file=sys.stderr)
        if not found and sys.argv[1:]:
            target = Path(sys.argv[1])
            target.mkdir(parents=True, exist_ok=True)
            for made in (Path(folder) / "dist").iterdir():
                (target / made.name).write_bytes(made.read_bytes())
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
