"""What a row of the table is: one elementwise function and every way gradc reads it.

`Elementwise` checks operands, promotes, and applies itself to Values, SymPy expressions or arrays. It holds no function:
the rows stand in `ops.py`. SymPy is imported only when an operand is a SymPy or mpmath object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from gradc import types
from gradc.errors import DTypeError, ShapeError
from gradc.interval import ARGUMENT, TRUTH, Interval, image
from gradc.ir import Value, apply
from gradc.leaves import broadcast_to, cast, constant, lift
from gradc.types import DType, Shape

Partial = Callable[..., Any]
FLOAT, NUMBER, ANY, BOOL = "floating-point", "numeric", "any", "bool"
INTEGER, BITS = "integer", "integer or bool"


@dataclass(frozen=True, eq=False)
class Elementwise:
    """One row of the table. Calling it applies the function to Values, SymPy expressions or arrays alike.

    `numpy` takes arrays of one dtype and keeps it; `symbolic(sympy, *operands)` is the exact meaning over the reals;
    `triton` and `triton_integer` are spellings over {x}, {y}, {z} and {dtype}. `domain` names the smooth pieces that
    `prove.py` proves the partials on, and `kinks` lists (operands, partials there) for points where they are a convention.
    `flops` is the weight of one element in additions. `monotone` rows are monotone in each operand on each side of 0.
    """

    name: str
    numpy: Callable[..., Any]
    symbolic: Callable[..., Any]
    triton: str
    partials: tuple[Partial | None, ...]
    takes: str = FLOAT
    gives: str = "same"  # "same" or "bool"
    domain: str = "real"
    kinks: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    flops: int = 1
    monotone: bool = True
    triton_integer: str = ""  # where the spelling for integers differs

    @property
    def arity(self) -> int:
        return len(self.partials)

    @property
    def is_selection(self) -> bool:
        """Whether the first operand is a condition, whose dtype does not take part in promotion."""
        return self.takes == ANY and self.arity == 3

    def spelling(self, dtype: DType) -> str:
        """The Triton format string for operands of `dtype`."""
        return self.triton_integer if self.triton_integer and not dtype.is_floating else self.triton

    def spell(self, dtype: DType, *operands: str) -> str:
        """Triton text of the function on operand texts (in parentheses where they are compound) of `dtype`."""
        names = dict(zip(("x", "y", "z"), operands, strict=False))
        return self.spelling(dtype).format(**names, dtype=f"tl.{'int1' if dtype == types.bool_ else dtype.compute.name}")

    def result(self, *operands: Value) -> tuple[Shape, DType]:
        """Raises ShapeError unless the operands share one shape and (but for a condition) one dtype."""
        shapes, dtypes = {x.shape for x in operands}, {x.dtype for x in self._promoted(operands)}
        if len(shapes) != 1 or len(dtypes) != 1 or len(operands) != self.arity:
            raise ShapeError(
                f"{self.name} takes {self.arity} operands of one shape and dtype, got {', '.join(map(repr, operands))}"
            )
        return operands[0].shape, types.bool_ if self.gives == "bool" else dtypes.pop()

    def interval(self, value: Value, operands: tuple[Interval, ...]) -> Interval:
        """Between which numbers the results lie, from the operands' intervals; an operand that is given twice is one number."""
        if not value.dtype.is_floating:
            return TRUTH if value.dtype == types.bool_ else ARGUMENT
        places = tuple(next(i for i, y in enumerate(value.operands) if x is y) for x in value.operands)
        distinct = tuple(dict.fromkeys(places))
        given = tuple(operands[place] for place in distinct)
        return image(self.numpy, given, tuple(map(distinct.index, places)), self.monotone, value.dtype.compute.name)

    def _promoted(self, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        return operands[1:] if self.is_selection else operands

    def __call__(self, *operands: Any) -> Any:
        if any(isinstance(x, Value) for x in operands):
            return self.on_values(*operands)
        if any(isinstance(x, np.ndarray) and x.dtype == object for x in operands):
            return np.asarray(self._on_objects(*operands), dtype=object)
        if any(is_exact(x) for x in operands):
            return self.on_exact(*operands)
        with np.errstate(all="ignore"):
            return self.numpy(*operands)

    @cached_property
    def _on_objects(self) -> Callable[..., Any]:
        return np.frompyfunc(self.on_exact, self.arity, 1)

    def on_exact(self, *operands: Any) -> Any:
        """The symbolic meaning on SymPy expressions and Python numbers; beside an mpmath number, an mpmath number."""
        import sympy

        result = self.symbolic(sympy, *(as_exact(x) for x in operands))
        if not any(is_mpmath(x) for x in operands):
            return result
        return bool(result) if result in (sympy.true, sympy.false) else as_mpmath(result)

    def on_values(self, *operands: Any) -> Value:
        """Promotes, broadcasts, checks the dtype and applies. Raises DTypeError for operands the function does not take."""
        shared = self._accept(lift(*self._promoted(operands)))
        values = (*(self._condition(x) for x in operands[: len(operands) - len(shared)]), *shared)
        shape = types.broadcast_shapes(*(x.shape for x in values))
        return apply(self, *(broadcast_to(x, shape) for x in values))

    def _condition(self, x: Any) -> Value:
        value = x if isinstance(x, Value) else lift(x)[0]
        if value.dtype != types.bool_:
            raise DTypeError(f"the condition of {self.name} is bool, got {value.dtype}", advice="Compare it first: `x != 0`.")
        return value

    def _accept(self, values: tuple[Value, ...]) -> tuple[Value, ...]:
        dtype = values[0].dtype
        is_bool = dtype == types.bool_
        if self.takes == BOOL:
            return tuple(cast(x, types.bool_) for x in values)
        if self.takes == FLOAT and not dtype.is_floating:
            return tuple(cast(x, types.float32) for x in values)
        refused = dtype.is_floating if self.takes in (INTEGER, BITS) else False
        if refused or (is_bool and self.takes in (NUMBER, INTEGER)):
            raise DTypeError(
                f"{self.name} takes {self.takes} operands, got {dtype}", advice="Cast with astype, or use another function."
            )
        return values


TABLE: dict[str, Elementwise] = {}


def row(name: str, numpy: Callable, symbolic: Callable, triton: str, *partials: Partial | None, **columns: Any) -> Elementwise:
    """Adds a function to the table."""
    TABLE[name] = Elementwise(name, numpy, symbolic, triton, partials, **columns)
    return TABLE[name]


def fill_like(x: Any, value: float) -> Any:
    """`value` in the dtype of `x`, where a partial is a plain number: lifted for Values, exact for SymPy."""
    if isinstance(x, Value):
        return constant(value, x.dtype, x.shape)
    return (
        np.asarray(value, x.dtype)
        if isinstance(x, np.ndarray) and x.dtype != object
        else as_exact(value)
        if is_exact(x)
        else value
    )


# A float that is exactly one of these numbers is read as the number it rounds, so that 2/√π can be proved.
IRRATIONALS: dict[float, Callable[[Any], Any]] = {
    math.pi: lambda S: S.pi,
    2 * math.pi: lambda S: 2 * S.pi,
    math.e: lambda S: S.E,
    math.log(2): lambda S: S.log(2),
    1 / math.log(2): lambda S: 1 / S.log(2),
    math.log(10): lambda S: S.log(10),
    math.sqrt(2): lambda S: S.sqrt(2),
    math.sqrt(0.5): lambda S: S.sqrt(2) / 2,
    math.sqrt(2 / math.pi): lambda S: S.sqrt(2 / S.pi),
    2 / math.sqrt(math.pi): lambda S: 2 / S.sqrt(S.pi),
}


def exactly(like: Any, number: float) -> Any:
    """An irrational `number` beside `like`: a float among Values and arrays, itself among SymPy expressions."""
    return as_exact(number) if is_exact(like) else number


def is_exact(x: Any) -> bool:
    """Whether `x` is a SymPy expression, an mpmath number, or an array of objects (found without importing either)."""
    return hasattr(x, "free_symbols") or is_mpmath(x) or (isinstance(x, np.ndarray) and x.dtype == object)


def is_mpmath(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "mpmath"


def as_exact(x: Any) -> Any:
    """A number as the SymPy number it stands for; SymPy expressions as they are. Never text: sympify would run it."""
    import sympy

    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float) and math.isfinite(x):
        return IRRATIONALS[x](sympy) if x in IRRATIONALS else sympy.Rational(Fraction(x))
    return sympy.sympify(x, strict=True)


def as_mpmath(x: Any) -> Any:
    """A SymPy number as an mpmath number of the working precision."""
    import mpmath

    return mpmath.mpmathify(x.evalf(mpmath.mp.dps + 2)._to_mpmath(mpmath.mp.prec))
