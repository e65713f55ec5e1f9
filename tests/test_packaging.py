"""The distribution: every folder of code is installed, under one import name."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_folder_of_code_is_installed():
    installed = {"gradc": "gradc", "codegen": "gradc.codegen", "runtime": "gradc.runtime"}
    folders = {file.parent.relative_to(ROOT) for top in installed for file in (ROOT / top).rglob("*.py")}
    assert {".".join((installed[folder.parts[0]], *folder.parts[1:])) for folder in folders} == set(SETUPTOOLS["packages"])


def test_nothing_else_is_a_top_level_package():
    assert {name.split(".")[0] for name in [*SETUPTOOLS["packages"], *SETUPTOOLS["package-dir"]]} == {"gradc"}
    assert (ROOT / "gradc" / "py.typed").exists()
