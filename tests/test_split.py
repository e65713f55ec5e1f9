"""Loops that programs share out: products, cascades and products of products with few programs, and how parts are put together."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels import check, force_loops, force_splits, tensor  # noqa: E402
from test_chained import causal, plain, scores, selected, weights  # noqa: E402
from test_riding import CASES, agree, np_third_moment, rows, without_recipes  # noqa: E402

import gradc  # noqa: E402

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
ONE_PASS = [name for name, (_, _, passes) in CASES.items() if passes == 1]


def split_in(low):
    """The number of parts of each kernel that has some."""
    return [kernel.schedule.split("split ")[1].split()[0] for kernel in low.kernels if "split" in kernel.schedule]


# Sums that ride along ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "parts"), [(33, 2), (70, 3), (256, 7)])
@pytest.mark.parametrize("name", ONE_PASS)
def test_parts_of_rows(name, n, parts, monkeypatch, tmp_path):
    """Whatever may stand in a row, parts that saw nothing of it included."""
    function, reference, _ = CASES[name]
    x = rows(n)
    if name in ("variance", "third moment"):  # a sum that overflows may be NaN where the plain formula has inf
        x[9], x[12] = -1e4, np.maximum(x[12], -1e4)
    force_loops(monkeypatch, tmp_path)
    with monkeypatch.context() as alone:
        without_recipes(alone, tmp_path)
        passes = gradc.compile(backend="interpret")(function)(x)
    force_splits(monkeypatch, tmp_path, parts)
    low = gradc.compile(function).lower(gradc.spec(x.shape, gradc.float32), wrt=())
    assert len(low.kernels) == 2 and split_in(low)[0] == str(parts)
    exact = x.astype(np.float64)
    got = gradc.compile(backend="interpret")(function)(x)
    agree(got, reference(exact), passes, np_third_moment(np.abs, exact) if name == "third moment" else 1)
