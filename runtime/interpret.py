"""Runs an emitted module's host function in this process, its kernels under Triton's interpreter.

This process must have started in that mode; `workers.interpret` sees to it. Nothing here compiles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradc.runtime.module import load_module

YES = frozenset({"1", "true", "yes", "on", "y"})


def runs_here() -> bool:
    """Whether this process interprets: Triton decided at its first import, and asks again at each `triton.jit`."""
    if os.environ.get("TRITON_INTERPRET", "").lower() not in YES:
        return False
    standard = sys.modules.get("triton.language.standard")
    return standard is None or type(standard.sum).__name__ == "InterpretedFunction"


def run(source: str, function: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What `function(*arguments)` of the module returns, as a tuple. Arguments are torch CPU tensors, numbers, None."""
    from gradc.runtime import repairs

    repairs.install()
    with np.errstate(all="ignore"):
        results = getattr(load_module(source), function)(*arguments)
    return results if isinstance(results, tuple) else (results,)
