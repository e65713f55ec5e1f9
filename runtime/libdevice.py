"""NumPy's meaning of CUDA's libdevice functions, for Triton's interpreter, whose own versions return None.

A function computes in its operands' dtype: float32 stays float32. A function without a meaning here raises when it is
called. Nothing here is used by compiled kernels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import triton.language as tl
from triton.language.extra import libdevice as portable
from triton.language.extra.cuda import libdevice as cuda
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

Function = Callable[..., Any]


def install() -> None:
    """Give every libdevice function its NumPy meaning, or an error that names it."""
    for module in (portable, cuda):
        for name, stub in inspect.getmembers(module, inspect.isfunction):
            if stub.__module__ == module.__name__ and not name.startswith("_"):
                setattr(module, name, on_tensors(MEANINGS[name], name) if name in MEANINGS else _missing(name))


def on_tensors(function: Function, name: str) -> Function:
    """A NumPy function as one of the interpreter's tensors, with broadcasting."""

    def call(*operands: Any, _semantic: Any = None, **_ignored: Any) -> tl.tensor:
        dtype = _floating(operands)
        with np.errstate(all="ignore"):
            data = np.asarray(function(*(_array(operand, dtype) for operand in operands)))
        return _tensor(data, RESULTS.get(name, dtype), any(map(_is_block, operands)))

    call.__name__ = name
    return call


def _missing(name: str) -> Function:
    def call(*_operands: Any, **_named: Any) -> Any:
        raise NotImplementedError(f"libdevice.{name} has no meaning in the interpreter yet; add it to runtime/libdevice.py")

    call.__name__ = name
    return call


def _is_block(operand: Any) -> bool:
    return isinstance(operand, tl.tensor) and operand.type.is_block()


def _floating(operands: tuple[Any, ...]) -> Any:
    """The dtype to compute in: the widest floating-point operand's, float32 where there are only Python numbers."""
    found = [operand.type.scalar for operand in operands if isinstance(operand, tl.tensor)]
    floating = [dtype for dtype in found if dtype.is_floating()] or found or [tl.float32]
    return max(floating, key=lambda dtype: dtype.primitive_bitwidth)


def _array(operand: Any, dtype: Any) -> np.ndarray:
    """An operand's numbers. An integer operand, such as an exponent, becomes floating point, exactly where it is small."""
    if isinstance(operand, tl.constexpr):
        operand = operand.value
    data = operand.handle.data if isinstance(operand, tl.tensor) else np.array([operand])
    return data.astype(interpreter._get_np_dtype(dtype), copy=False)


def _tensor(data: np.ndarray, dtype: Any, block: bool) -> tl.tensor:
    handle = TensorHandle(data.astype(interpreter._get_np_dtype(dtype), copy=False), dtype)
    return tl.tensor(handle, tl.block_type(dtype, list(data.shape)) if block else dtype)


def _elementwise(function: Callable[[float], float], at_pole: float = math.nan) -> Function:
    """A function of Python's floats on arrays. What `math` refuses is a pole or outside the domain."""

    def guarded(value: float) -> float:
        try:
            return function(value)
        except ValueError:
            return math.nan if math.isnan(value) or value == -math.inf else at_pole
        except OverflowError:
            return math.inf

    vectorised = np.vectorize(guarded, otypes=[np.float64])
    return lambda x: vectorised(x.astype(np.float64))


def _quantile(probability: float) -> float:
    """The normal distribution's quantile."""
    edges = {0.0: -math.inf, 1.0: math.inf}
    return edges[probability] if probability in edges else NormalDist().inv_cdf(probability)


def _inverse_error(x: float) -> float:
    """The inverse of erf: a start that is good near 0 or from the quantile, then Newton's steps."""
    if abs(x) == 1:
        return math.copysign(math.inf, x)
    y = x * math.sqrt(math.pi) / 2 if abs(x) < 1e-3 else _quantile((1 + x) / 2) / math.sqrt(2)
    for _ in range(3):
        y -= (math.erf(y) - x) * math.sqrt(math.pi) / 2 * math.exp(y * y)
    return y


def _gamma(x: float) -> float:
    return math.copysign(math.inf, x) if x == 0 else math.gamma(x)


def _round(x: np.ndarray) -> np.ndarray:
    """To the nearest, halves away from zero. Adding the number just below 1/2 keeps 0.49999997 at 0."""
    below_half = np.nextafter(x.dtype.type(0.5), x.dtype.type(0))
    return np.trunc(x + np.copysign(below_half, x))


def _remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """IEEE's: x − n·y with n the nearest integer to x/y, ties to even."""
    return _elementwise_pair(math.remainder)(x, y)


def _elementwise_pair(function: Callable[[float, float], float]) -> Function:
    def guarded(x: float, y: float) -> float:
        try:
            return function(x, y)
        except ValueError:
            return math.nan

    vectorised = np.vectorize(guarded, otypes=[np.float64])
    return lambda x, y: vectorised(x.astype(np.float64), y.astype(np.float64))


def _scaled(x: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    return np.ldexp(x, exponent.astype(np.int32))


MEANINGS: dict[str, Function] = {
    **{name: getattr(np, name) for name in ("sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p")},
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "hypot", "copysign", "nextafter")},
    **{name: getattr(np, name) for name in ("floor", "ceil", "trunc", "rint", "fmod", "isnan", "isinf", "signbit", "abs")},
    **{name: getattr(np, "arc" + name[1:]) for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2")},
    "pow": np.power,
    "exp10": lambda x: np.power(x.dtype.type(10), x),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "rcbrt": lambda x: 1 / np.cbrt(x),
    "rhypot": lambda x, y: 1 / np.hypot(x, y),
    "nearbyint": np.rint,
    "round": _round,
    "llrint": np.rint,
    "llround": _round,
    "remainder": _remainder,
    "fdim": lambda x, y: np.where(x <= y, x.dtype.type(0), x - y),
    "finitef": np.isfinite,
    "isfinited": np.isfinite,
    "saturatef": lambda x: np.fmin(np.fmax(x, 0), 1),
    "ldexp": _scaled,
    "scalbn": _scaled,
    "logb": lambda x: np.floor(np.log2(np.abs(x))),
    "sinpi": lambda x: np.sin(np.pi * np.fmod(x, 2)),
    "cospi": lambda x: np.cos(np.pi * np.fmod(x, 2)),
    "erf": _elementwise(math.erf),
    "erfc": _elementwise(math.erfc),
    "erfinv": _elementwise(_inverse_error),
    "normcdf": _elementwise(lambda x: math.erfc(-x / math.sqrt(2)) / 2),
    "normcdfinv": _elementwise(_quantile),
    "lgamma": _elementwise(lambda x: math.inf if math.isinf(x) else math.lgamma(x), at_pole=math.inf),
    "tgamma": _elementwise(_gamma),
    "add_rn": np.add,
    "sub_rn": np.subtract,
    "mul_rn": np.multiply,
    "div_rn": np.divide,
    "rcp_rn": lambda x: 1 / x,
    "sqrt_rn": np.sqrt,
    "rsqrt_rn": lambda x: 1 / np.sqrt(x),
}
MEANINGS |= {
    f"fast_{name}f": MEANINGS[name] for name in ("sin", "cos", "tan", "tanh", "exp", "exp10", "log", "log2", "log10", "pow")
}
MEANINGS["fast_dividef"] = np.divide

RESULTS = {
    **dict.fromkeys(("isnan", "isinf", "signbit", "finitef", "isfinited"), tl.int1),
    **dict.fromkeys(("llrint", "llround"), tl.int64),
}
