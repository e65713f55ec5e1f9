"""What the array API asks about dtypes, and the functions it has that cannot be traced, which are refused with advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from gradc import types
from gradc.errors import DTypeError, UnsupportedError
from gradc.ir import Value
from gradc.leaves import common_dtype, is_array, is_scalar
from gradc.types import DType

KINDS: dict[str, tuple[str, ...]] = {
    "bool": ("bool",),
    "signed integer": ("int",),
    "unsigned integer": ("uint",),
    "integral": ("int", "uint"),
    "real floating": ("float",),
    "complex floating": (),
    "numeric": ("int", "uint", "float"),
}


def dtype_of(x: Any) -> DType:
    """The dtype of an array, or the dtype itself."""
    return types.as_dtype(x.dtype if isinstance(x, Value) or is_array(x) else x)


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype that an operation of these arrays, dtypes and Python numbers has."""
    numbers = [x for x in arrays_and_dtypes if is_scalar(x)]
    dtypes = [dtype_of(x) for x in arrays_and_dtypes if not is_scalar(x)]
    return common_dtype(*numbers, *(Value(None, (), (), dtype) for dtype in dtypes))


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether promotion may turn the one (an array or a dtype) into the other."""
    origin, target = dtype_of(from_), types.as_dtype(to)
    try:
        return types.promote(origin, target) == target
    except DTypeError:
        return False


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind: a dtype, one of the array API's names such as "real floating", or a tuple of such."""
    found = types.as_dtype(dtype)
    if isinstance(kind, tuple):
        return any(isdtype(found, one) for one in kind)
    return found.family in KINDS[kind] if isinstance(kind, str) and kind in KINDS else found == types.as_dtype(kind)


def finfo(type: Any, /) -> Any:
    """The limits of a floating dtype (or an array's): bits, eps, max, min, smallest_normal."""
    return ml_dtypes.finfo(dtype_of(type).numpy)


def iinfo(type: Any, /) -> Any:
    """The limits of an integer dtype (or an array's): bits, max, min."""
    return np.iinfo(dtype_of(type).numpy)


def refused(name: str, advice: str) -> Callable[..., NoReturn]:
    """A function whose result has a size that is known only when the program runs."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(f"{name} has a result whose size is known only when the program runs", advice=advice)

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Always raises UnsupportedError. {advice}"
    return refuse


nonzero = refused("nonzero", "Use gradc.where(condition, x, 0), or numpy.nonzero on an array that is a constant.")
unique_all, unique_counts, unique_inverse, unique_values = (
    refused(name, "Use NumPy before the compiled function, and pass the result as an argument.")
    for name in ("unique_all", "unique_counts", "unique_inverse", "unique_values")
)
