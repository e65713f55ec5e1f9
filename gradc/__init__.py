"""gradc, a gradient compiler: the face of the package. What is imported here is public; what is heavy is loaded when used."""

from __future__ import annotations

from typing import Any

from gradc.errors import DTypeError, GradcError, ShapeError, TraceError, UnsupportedError, VerificationError
from gradc.language import *  # noqa: F403
from gradc.runtime.compile import compile
from gradc.runtime.lowered import Lowered
from gradc.transforms import grad, hessian, jacfwd, jacrev, jvp, linearize, stop_gradient, value_and_grad, vjp
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

newaxis, pi, e, inf, nan = None, 3.141592653589793, 2.718281828459045, float("inf"), float("nan")

LAZY_MODULES = ("nn", "optim", "random")


def __getattr__(name: str) -> Any:
    """Loads the parts that most programs do not need."""
    if name in LAZY_MODULES:
        from importlib import import_module

        return import_module(f"gradc.{name}")
    raise AttributeError(f"module 'gradc' has no attribute {name!r}")
