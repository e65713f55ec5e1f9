"""`import gradc` is little work and loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "triton", "sympy", "mpmath", "rich", "scipy", "matplotlib")
COUNTED = """
import numpy, sys
from tests.work import calls_of
before = set(sys.modules)
print(calls_of(lambda: __import__("gradc")), len(set(sys.modules) - before))
"""


def python(code):
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


def test_nothing_heavy_is_loaded():
    used = "import gradc, numpy; gradc.nn.gelu(gradc.softmax(numpy.ones((2, 3)))); gradc.optim.adam(0.1)"
    for code in ("import gradc", used):
        loaded = python(f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])")
        assert loaded.strip() == "[]"


def test_importing_adds_little_work():
    """To NumPy's own import. The milliseconds are in benchmarks/results/launches.json."""
    calls, modules = map(int, python(COUNTED).split())
    assert calls < 40_000
    assert modules < 100


def test_public_names():
    import gradc

    for name in ("exp", "add", "matmul", "where", "nn", "optim", "spec", "float32", "bool", "ShapeError", "take_along_axis"):
        assert getattr(gradc, name) is not None
    assert set(gradc.language.__all__) <= set(dir(gradc))
    assert gradc.sum.__module__.startswith("gradc")
