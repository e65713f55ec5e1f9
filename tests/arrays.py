"""What the tests of the array language share: sample arrays, a run through a trace, and a comparison."""

from __future__ import annotations

import numpy as np

from gradc.interpret import evaluate
from gradc.trace import trace


def array(*shape, dtype=np.float64, seed=0):
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2 if np.dtype(dtype) == bool else 5, shape).astype(dtype)


def run(function, *arrays):
    """The function inside a trace, so that operators and methods of Value are used."""
    traced = trace(function, arrays)
    traced.graph.check()
    return traced.results(evaluate(traced.graph, arrays))


def same(got, want, dtype=True):
    """Equal shapes, dtypes and (nearly) elements."""
    want = np.asarray(want)
    assert got.shape == want.shape
    if dtype:
        assert got.dtype == want.dtype
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-12, atol=1e-12)
