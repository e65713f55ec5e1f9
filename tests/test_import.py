"""`import gradc` is quick and loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "triton", "sympy", "mpmath", "rich", "scipy", "matplotlib")
# Processor time: the wall clock on a busy machine measures its neighbours. On a quiet one the two agree.
TIMED = "import time, numpy; start = time.process_time(); import gradc; print(time.process_time() - start)"


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_nothing_heavy_is_loaded():
    used = "import gradc, numpy; gradc.nn.gelu(gradc.softmax(numpy.ones((2, 3)))); gradc.optim.adam(0.1)"
    for code in ("import gradc", used):
        loaded = python(f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])")
        assert loaded.strip() == "[]"


def test_importing_adds_little_time():
    python("import gradc")  # writes the bytecode
    times = sorted(float(python(TIMED)) for _ in range(5))
    # 94 ms on a quiet machine; beside another test process on the same two cores the same work was seen to take 190.
    assert times[0] < 0.3, f"importing gradc took {times} s beside NumPy"


def test_public_names():
    import gradc

    for name in ("exp", "add", "matmul", "where", "nn", "optim", "spec", "float32", "bool", "ShapeError", "take_along_axis"):
        assert getattr(gradc, name) is not None
    assert set(gradc.language.__all__) <= set(dir(gradc))
    assert gradc.sum.__module__.startswith("gradc")
