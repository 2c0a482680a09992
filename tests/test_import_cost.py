"""`import qtasks` stays cheap. Modules are counted, as time would measure the machine."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT, require

# Half the modules of asyncio itself; a module of ours or of a library takes about half a millisecond.
AT_MOST = 60


def test_importing_qtasks_loads_few_modules_beyond_asyncio() -> None:
    require((ROOT / "qtasks/__init__.py").exists(), "qtasks/__init__.py is not there yet")
    code = "import asyncio, sys; before = {*sys.modules}; import qtasks; print(*{*sys.modules} - before)"

    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert len(run.stdout.split()) <= AT_MOST
