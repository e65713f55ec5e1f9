"""Markers that the library puts on its values: a derivative that is another's, and numbers that must name something.

Each passes its first operand on. Normalisation takes the first away when nothing is left to differentiate; the second is looked at by the
reference alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradc.errors import ShapeError
from gradc.ir import Value, apply
from gradc.structure import Cotangents, Marker, StopGradient
from gradc.types import DType, Shape


@dataclass(frozen=True)
class StraightThrough(Marker):
    """The first operand, a constant to differentiation, with every derivative of the second (Bengio et al. 2013).

    https://arxiv.org/abs/1308.3432
    """

    name = "straight_through"
    linear = ()

    def result(self, x: Value, slope: Value) -> tuple[Shape, DType]:  # type: ignore[override]
        if (x.shape, x.dtype) != (slope.shape, slope.dtype):
            raise ShapeError(f"the derivative of {slope!r} does not fit {x!r}")
        return x.shape, x.dtype

    def numpy(self, x: np.ndarray, slope: np.ndarray) -> np.ndarray:  # type: ignore[override]
        return x

    def jvp(self, value: Value, tangents: Cotangents) -> Value | None:
        return tangents[1]


def with_derivative_of(x: Value, slope: Value) -> Value:
    """`x`, differentiated as if it were `slope`, of its shape and dtype."""
    return apply(StraightThrough(), apply(StopGradient(), x), slope)


@dataclass(frozen=True)
class Within(Marker):
    """Integers that number one of `size` things, or are `ignored`: a "class" of "10 classes", an "index" of "axis 0 of size 10".

    The reference raises ShapeError at the user's line for any other; a kernel passes it on.
    """

    size: int
    what: str
    of: str
    ignored: int | None = None
    name = "within"

    @property
    def parameters(self) -> str:
        return f"{self.size}" + ("" if self.ignored is None else f" or {self.ignored}")

    def outside(self, index: np.ndarray) -> np.ndarray:
        """Those that name nothing."""
        outside = index[(index < 0) | (index >= self.size)]
        return outside if self.ignored is None else outside[outside != self.ignored]
