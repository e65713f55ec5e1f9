"""`gradc bench`: runs the benchmarks of the source checkout that gradc is installed from. They are no part of the package."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import gradc
from gradc.runtime.command.errors import CommandError


def run(options: argparse.Namespace) -> int:
    """Runs `benchmarks/run.py` with what else is on the command line. Returns its exit status."""
    root = Path(gradc.__file__).resolve().parent.parent
    script = root / "benchmarks" / "__main__.py"
    if not is_checkout(root) or not script.is_file():
        raise CommandError(
            f"the benchmarks are not part of the installed package, and {script} does not exist",
            "Clone the repository, install it with `pip install -e '.[triton,dev]'`, and run `gradc bench` or `make benchmarks` there.",
        )
    return subprocess.run([sys.executable, "-m", "benchmarks", *options.rest], cwd=root).returncode


def is_checkout(root: Path) -> bool:
    """Whether a folder is gradc's repository."""
    project = root / "pyproject.toml"
    return project.is_file() and 'name = "gradc"' in project.read_text(encoding="utf-8")
