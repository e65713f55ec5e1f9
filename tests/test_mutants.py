"""The table of faults fits the code: every fragment is there once, and says how often faults are tried by whom."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants import __main__ as mutants
from tests.mutants import mutant
from tests.mutants.__main__ import FAILED, PASSED, found, main
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.table import MUTANTS


def test_no_row_is_stale():
    stale = [row.name for row in MUTANTS if row.is_stale]
    assert stale == [], "the code has changed: put the fragments that stand there now into tests/mutants/table.py"


def test_there_are_enough_in_every_part():
    parts = Counter(next(part for part in PARTS if row.file.startswith(part)) for row in MUTANTS)
    assert len(MUTANTS) >= 100
    assert min(parts.values()) >= 5, parts
    assert sum(bool(row.equivalent) for row in MUTANTS) <= 5


PARTS = ("gradc/ops", "gradc/structure", "gradc/language", "gradc/rewrites", "codegen", "runtime")


def test_each_is_a_fault_of_its_own_with_tests_that_are_there():
    assert len({(row.file, row.before, row.after) for row in MUTANTS}) == len(MUTANTS)
    for row in MUTANTS:
        files = [word for word in shlex.split(row.tests) if word.endswith(".py")]
        assert row.before != row.after
        assert files
        assert all((ROOT / file).is_file() for file in files), row.name
        assert not re.search(r"-k\s*$", row.tests), row.name


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A file with a line, as a checkout and as its copy."""
    (tmp_path / "code.py").write_text("low, high = 0, 1\n")
    monkeypatch.setattr(mutant, "ROOT", tmp_path)
    return tmp_path


ROW = Mutant("code.py", "low, high", "high, low", "tests/test_code.py")


def test_a_row_is_stale_where_its_fragment_is_not_there_once(checkout):
    assert not ROW.is_stale
    for text in ("high, low = 1, 0\n", "low, high = low, high\n"):
        (checkout / "code.py").write_text(text)
        assert ROW.is_stale


@pytest.mark.parametrize(
    ("without", "with_fault", "finding"),
    [
        (PASSED, FAILED, "caught"),
        (PASSED, PASSED, "survived"),
        (FAILED, FAILED, "broken"),
        (5, 5, "broken"),
        (PASSED, 4, "broken"),
    ],
)
def test_what_is_found_of_a_fault(without, with_fault, finding, checkout, monkeypatch):
    """It is tried in the copy, which is as it was afterwards."""
    path = Path(checkout / "code.py")
    before = path.read_text()
    monkeypatch.setattr(mutants, "WITHOUT", {})
    monkeypatch.setattr(mutants, "status", lambda *_: without if path.read_text() == before else with_fault)
    assert found(ROW, checkout) == finding
    assert path.read_text() == before


def test_what_is_known_is_not_tried_again(checkout, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(mutants, "FOUND", checkout / "found.json")
    monkeypatch.setattr(mutants, "copied", lambda folder: checkout)
    monkeypatch.setattr(mutants, "found", lambda row, folder: asked.append(row) or "survived")
    monkeypatch.setattr(mutants, "MUTANTS", (ROW,))
    assert [main([]), main([])] == [1, 1]
    assert len(asked) == 1
    (checkout / "code.py").write_text("low, high = 0, 2\n")
    assert main(["--again"]) == 1
    assert len(asked) == 2
    assert "1 faults: 1 survived" in capsys.readouterr().out
