"""Random programs beside PyTorch in float64: a part of what `python -m tests.random_programs` runs, and that it sees what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from random_growth import needed, program  # noqa: E402
from random_programs import MODES, Case, findings, smallest  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch warns of deviations of one number


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_programs_on_the_reference(first):
    with np.errstate(all="ignore"):
        assert [(seed, *found) for seed in range(first, first + 10) for found in findings(seed, "numpy")] == []


@pytest.mark.triton
@pytest.mark.parametrize("seed", range(100, 106))
def test_programs_interpreted(seed):
    with np.errstate(all="ignore"):
        assert list(findings(seed, "interpret")) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_value_is_seen(mode):
    case = Case(program(2))
    right = case.text
    assert case.difference(mode, "numpy") == ""
    case.text = lambda *arrays: tuple(x * 1.01 for x in right(*arrays))
    assert "off by" in case.difference(mode, "numpy")
    case.text = lambda *arrays: right(*arrays)[0]
    assert case.difference(mode, "numpy")


def test_a_program_without_what_its_outputs_do_not_need():
    whole = next(p for p in map(program, range(100)) if len(p.lines) > 4)
    part = needed(replace(whole, outputs=(whole.lines[0].name,)))
    assert len(part.lines) == 1
    assert smallest(whole, "forward", "numpy") == whole  # nothing is wrong with it
