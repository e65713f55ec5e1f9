"""gradc, a gradient compiler: the face of the package. What is imported here is public; what is heavy is loaded when used.

This folder says what a program means. To read it, begin with `trace.py`, `ir.py` and the table, `ops.py`; then `normalise.py`,
`autodiff.py`, and `interpret.py`, the reference. How kernels look is in `codegen/`, what a call does in `runtime/`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gradc import transforms
from gradc.errors import DTypeError, GradcError, ShapeError, TraceError, UnsupportedError, VerificationError
from gradc.jacobians import hessian, jacfwd, jacrev, vmap
from gradc.language import *  # noqa: F403
from gradc.transforms import grad, jvp, linearize, stop_gradient, value_and_grad, vjp
from gradc.types import (
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    spec,
    uint8,
    uint16,
    uint32,
    uint64,
)
from gradc.types import bool_ as bool

if TYPE_CHECKING:
    from gradc.check import check_grads, numdiff
    from gradc.runtime.compile import compile
    from gradc.runtime.lowered import Lowered

# What is loaded when it is first asked for: modules, and names with the module they stand in.
LAZY_MODULES = ("nn", "optim", "random")
LAZY_NAMES = {
    "Lowered": "gradc.runtime.lowered",
    "check_grads": "gradc.check",
    "compile": "gradc.runtime.compile",
    "numdiff": "gradc.check",
}

newaxis, pi, e, inf, nan = None, 3.141592653589793, 2.718281828459045, float("inf"), float("nan")


def __getattr__(name: str) -> Any:
    """Loads the parts that most programs do not need, and the compiler when the first function is compiled."""
    if name in LAZY_MODULES:
        return import_module(f"gradc.{name}")
    if name in LAZY_NAMES:
        globals()[name] = getattr(import_module(LAZY_NAMES[name]), name)
        return globals()[name]
    if name == "__version__":
        globals()[name] = import_module("importlib.metadata").version("gradc")
        return globals()[name]
    raise import_module("gradc.absent").missing("gradc", name, __dir__())


def _run(function: Any, args: tuple, kwargs: dict) -> Any:
    return import_module("gradc.runtime.compile").run_once(function, args, kwargs)


transforms.runner = _run


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY_MODULES, *LAZY_NAMES})
