"""A virtual environment for each peer, made from its file of pinned versions and kept until that changes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = Path(__file__).parent / "requirements"
FOLDER = ROOT / ".peers"
TIME_OUT_S = 900


def python_of(peer: str | None) -> Path:
    """Give the Python of a peer's environment, made if it is not there yet; our own for nobody."""
    if peer is None:
        return Path(sys.executable)
    folder = FOLDER / peer
    python = folder / "bin" / "python"
    wanted = hashlib.sha256((REQUIREMENTS / f"{peer}.txt").read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / ".installed"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"installing {peer} into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        _run([*pip, "-r", str(REQUIREMENTS / f"{peer}.txt")])
        stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_OUT_S, cwd=FOLDER.parent)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{' '.join(command)}: took over {TIME_OUT_S} s") from None
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
