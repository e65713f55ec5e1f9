"""dtypes, promotion, broadcasting, and `spec`. Knows nothing of operations; never imports torch.

A `DType` is one frozen record per element type with its spelling in NumPy, Triton and torch. Promotion follows the
Python array API standard 2024.12 within a kind, and JAX and PyTorch where that standard is silent (an integer array
with a floating array takes the floating dtype; bfloat16 with float16 gives float32).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from gradc.errors import DTypeError, ShapeError, public

Shape = tuple[int, ...]


@dataclass(frozen=True)
class DType:
    """An element type. `family` is one of "bool", "int", "uint", "float"; `itemsize` is in bytes.

    It equals what NumPy and torch call it, so that a branch on `x.dtype == np.float32` is the same within a trace and outside.
    Its hash is its name's: in a dict or a set it is found among names and DTypes, as NumPy's dtypes are among themselves only.
    """

    name: str
    family: str
    itemsize: int

    @cached_property
    def numpy(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16) if self.name == "bfloat16" else np.dtype(self.name)

    @property
    def dtype(self) -> np.dtype:
        """Where NumPy looks: `np.zeros(3, x.dtype)`, `np.issubdtype(x.dtype, np.floating)`, `np.dtype("int8") == x.dtype`."""
        return self.numpy

    @property
    def kind(self) -> str:
        """NumPy's letter: "f", "i", "u" or "b"."""
        return self.family[0]

    @property
    def is_floating(self) -> bool:
        return self.family == "float"

    @property
    def is_integer(self) -> bool:
        return self.family in ("int", "uint")

    @property
    def compute(self) -> DType:
        """The dtype arithmetic runs in: float32 for the 16-bit floats, the dtype itself otherwise."""
        return float32 if self.is_floating and self.itemsize == 2 else self

    @property
    def short(self) -> str:
        return {"bfloat16": "bf16", "bool": "b1"}.get(self.name, self.name[0] + str(self.itemsize * 8))

    def __repr__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return self is other or (self.name == other.name if isinstance(other, DType) else self is _meant(other))


bool_ = DType("bool", "bool", 1)
int8, int16, int32, int64 = (DType(f"int{bits}", "int", bits // 8) for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (DType(f"uint{bits}", "uint", bits // 8) for bits in (8, 16, 32, 64))
float16, float32, float64 = (DType(f"float{bits}", "float", bits // 8) for bits in (16, 32, 64))
bfloat16 = DType("bfloat16", "float", 2)

DTYPES = {
    dtype.name: dtype
    for dtype in (bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, float32, float64)
}
SHORT_NAMES = {dtype.short: dtype for dtype in DTYPES.values()}
SCALAR_TYPES: dict[type, DType] = {dtype.numpy.type: dtype for dtype in DTYPES.values()} | {bool: bool_, int: int64}


def as_dtype(like: Any) -> DType:
    """The DType of a DType, a name ("bfloat16" or "bf16"), a NumPy dtype or scalar type, a Python type, or a torch dtype."""
    if isinstance(like, DType):
        return like
    if like is None:
        raise DTypeError("None is no dtype here", advice=f"Use one of: {', '.join(DTYPES)}.")
    if any(like is python for python in (bool, int, float)):  # a NumPy dtype equals the Python type it comes from
        return {bool: bool_, int: int64, float: float32}[like]
    name = like if isinstance(like, str) else str(like).removeprefix("torch.") if "torch" in str(like) else np.dtype(like).name
    found = DTYPES.get(name) or SHORT_NAMES.get(name)
    if found is None:
        raise DTypeError(f"gradc has no dtype {name!r}", advice=f"Use one of: {', '.join(DTYPES)}.")
    return found


def _meant(other: Any) -> DType | None:
    """The DType that a NumPy or torch dtype, a scalar type or a name stands for where it is compared; None for all else.

    Raises DTypeError for what gradc and NumPy read as different dtypes, where either answer would surprise.
    """
    if other is float or (isinstance(other, str) and other in ("i8", "u8", "f16")):
        raise DTypeError(
            f"a dtype was compared with {other if isinstance(other, str) else 'float'!r}, which is one dtype in NumPy and another in gradc",
            advice="Write its full name, such as gradc.float32 or gradc.int8.",
        )
    if isinstance(other, str):
        return DTYPES.get(other) or SHORT_NAMES.get(other)
    if isinstance(other, np.dtype):
        return DTYPES.get(other.name)
    if isinstance(other, type):
        return SCALAR_TYPES.get(other)
    return DTYPES.get(str(other).removeprefix("torch.")) if type(other).__module__ == "torch" else None


def promote(*dtypes: DType) -> DType:
    """The dtype that holds every given one (see the module docstring for the rules)."""
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = _promote_pair(result, dtype)
    return result


def _promote_pair(a: DType, b: DType) -> DType:
    if a == b:
        return a
    if a.family == b.family:
        if a.itemsize == b.itemsize:  # bfloat16 with float16
            return float32
        return a if a.itemsize > b.itemsize else b
    order = ("bool", "uint", "int", "float")
    low, high = sorted((a, b), key=lambda dtype: order.index(dtype.family))
    if low.family == "uint" and high.family == "int":
        return _signed_with_unsigned(low, high)
    return high


def _signed_with_unsigned(unsigned: DType, signed: DType) -> DType:
    if unsigned.itemsize < signed.itemsize:
        return signed
    if unsigned.itemsize == 8:
        raise DTypeError(f"{unsigned} and {signed} have no common integer dtype", advice="Cast one of them with astype.")
    return {2: int16, 4: int32, 8: int64}[2 * unsigned.itemsize]


def broadcast_shapes(*shapes: Shape) -> Shape:
    """NumPy broadcasting of shapes; raises ShapeError naming them."""
    rank = max((len(shape) for shape in shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size != 1 and result[axis] not in (1, size):
                raise ShapeError(
                    f"shapes {' and '.join(map(str, shapes))} do not broadcast together",
                    advice="Sizes are compared from the last dimension and must be equal or 1: insert one with x[:, None] or reshape.",
                )
            if size != 1:
                result[axis] = size
    return tuple(result)


@dataclass(frozen=True)
class Spec:
    """The shape, dtype and (in elements) strides of an array that is not there. `strides=None` means row-major."""

    shape: Shape
    dtype: DType
    strides: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __str__(self) -> str:
        layout = "" if self.strides is None else f" strides {self.strides}"
        return f"{self.dtype.short}[{','.join(map(str, self.shape))}]{layout}"


def row_major(shape: Shape) -> tuple[int, ...]:
    """Strides in elements of a contiguous array."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


@public
def spec(shape: int | Shape, dtype: Any = "float32", *, strides: tuple[int, ...] | None = None) -> Spec:
    """Stands for an array when lowering: `gradc.spec((8192, 4096), "bfloat16")`. Strides are in elements.

    Raises ShapeError for negative sizes and DTypeError for a dtype that is none. Without elements every layout is row-major.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
    if any(size < 0 for size in shape):
        raise ShapeError(f"a spec's sizes are not negative, got {shape}")
    if strides is not None and len(strides) != len(shape):
        raise ShapeError(f"strides {strides} do not fit shape {shape}")
    contiguous = (
        strides is None or 0 in shape or all(s == r or n <= 1 for s, r, n in zip(strides, row_major(shape), shape, strict=True))
    )
    return Spec(shape, as_dtype(dtype), None if contiguous else tuple(strides))  # type: ignore[arg-type]
