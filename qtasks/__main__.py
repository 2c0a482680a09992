"""`python -m qtasks`: the command line."""

from __future__ import annotations

from qtasks.cli import main

main(prog_name="qtasks")
