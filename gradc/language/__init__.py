"""The array language: functions with the Python array API's names, and the operators and methods of Value.

The elementwise functions are those of the table, under their rows' names. Importing this attaches the operators to Value.
"""

from __future__ import annotations

from typing import Any

from gradc.language import methods as methods
from gradc.language.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tril,
    triu,
    zeros,
    zeros_like,
)
from gradc.language.dtypes import (
    can_cast,
    finfo,
    iinfo,
    isdtype,
    nonzero,
    result_type,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)
from gradc.language.elementwise import FUNCTIONS, clip, nan_to_num, positive, stop_gradient, where
from gradc.language.indexing import take, take_along_axis
from gradc.language.linear import dot, einsum, matmul, outer, tensordot, trace, vecdot
from gradc.language.padding import pad
from gradc.language.reductions import (
    all,
    any,
    argmax,
    argmin,
    count_nonzero,
    cumsum,
    cumulative_sum,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    var,
)
from gradc.language.shaping import (
    astype,
    broadcast_arrays,
    broadcast_to,
    concat,
    diagonal,
    diff,
    expand_dims,
    flip,
    matrix_transpose,
    moveaxis,
    permute_dims,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    tile,
    transpose,
    unstack,
)
from gradc.language.softmax import log_softmax, logsumexp, softmax

globals().update({name: function for name, function in FUNCTIONS.items() if name != "where"})


def __getattr__(name: str) -> Any:
    """Reached for no existing name; it tells type checkers that there are more functions than they can see."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    *FUNCTIONS, "all", "any", "arange", "argmax", "argmin", "asarray", "astype", "broadcast_arrays", "broadcast_to", "clip", "concat",
    "count_nonzero", "cumsum", "cumulative_sum", "diagonal", "diff", "dot", "einsum", "empty", "empty_like", "expand_dims", "eye", "flip",
    "full", "full_like", "linspace", "log_softmax", "logsumexp", "matmul", "matrix_transpose", "max", "mean", "meshgrid", "min", "moveaxis",
    "nan_to_num", "ones", "ones_like", "outer", "pad", "permute_dims", "positive", "prod", "repeat", "reshape", "roll", "softmax", "split",
    "squeeze", "stack", "std", "stop_gradient", "sum", "swapaxes", "take", "take_along_axis", "tensordot", "tile", "trace", "transpose", "tril",
    "can_cast", "finfo", "iinfo", "isdtype", "nonzero", "result_type", "unique_all", "unique_counts", "unique_inverse", "unique_values",
    "triu", "unstack", "var", "vecdot", "zeros", "zeros_like",
]  # fmt: skip
