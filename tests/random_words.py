"""The words of random programs in PyTorch: the same names and arguments as gradc's.

A program is text in gradc's public language, `xp` being gradc. With `xp` being `words(...)` the same text runs in PyTorch, in float64
with every cast to a floating-point dtype left out (the exact values), or in the dtypes written (what rounding does to them).
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int32, torch.int64, torch.bool)


def axes_of(x: torch.Tensor, axis: Any) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)


def over(function: Callable) -> Callable:
    """A reduction of torch that wants its axes as a tuple; of an array without axes it is the identity's."""
    return lambda x, axis=None, keepdims=False, **rest: function(x, dim=axes_of(x, axis), keepdim=keepdims, **rest)


def product(x: torch.Tensor, axis: Any = None, keepdims: bool = False) -> torch.Tensor:
    for i in sorted((a % x.ndim for a in axes_of(x, axis)), reverse=True):
        x = torch.prod(x, i, keepdim=keepdims)
    return x


def beside(function: Callable) -> Callable:
    """A function of two tensors, of which either may be a Python number."""

    def of_tensors(x: Any, y: Any) -> torch.Tensor:
        x = x if isinstance(x, torch.Tensor) else torch.full_like(y, x)
        return function(x, y if isinstance(y, torch.Tensor) else torch.full_like(x, y))

    return of_tensors


def take(x: torch.Tensor, indices: Any, axis: int = 0) -> torch.Tensor:
    indices = torch.as_tensor(indices)
    taken = x.index_select(axis, indices.reshape(-1).long())
    axis %= x.ndim
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def added_at(x: torch.Tensor, indices: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    return torch.index_add(x, 0, indices.long(), update.to(x.dtype))


def padded(x: torch.Tensor, widths: Any, constant_values: float = 0.0) -> torch.Tensor:
    return torch.nn.functional.pad(x, [n for pair in reversed(widths) for n in pair], value=constant_values)


def cumulative(x: torch.Tensor, axis: int, include_initial: bool = False) -> torch.Tensor:
    sums = torch.cumsum(x, axis)
    return torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis) if include_initial else sums


def product_of_matrices(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(x.dtype, y.dtype)
    return torch.matmul(x.to(dtype), y.to(dtype))


def einsum(equation: str, *operands: torch.Tensor) -> torch.Tensor:
    dtype = operands[0].dtype
    for x in operands:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(equation, *(x.to(dtype) for x in operands))


SAME = "tanh sigmoid exp sin cos erf expm1 log1p sqrt rsqrt log square abs atan2 hypot logaddexp where clip roll concat stack "
SAME += "broadcast_to swapaxes moveaxis squeeze argmax floor round reshape tile diff sign log_softmax softmax cumsum"
WORDS: dict[str, Callable] = {name: getattr(torch, name) for name in SAME.split()} | {
    "maximum": beside(torch.maximum),
    "minimum": beside(torch.minimum),
    "copysign": beside(torch.copysign),
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "stop_gradient": lambda x: x.detach(),
    "where": lambda condition, x, y: torch.where(condition, x, y),
    "sum": over(torch.sum),
    "mean": over(torch.mean),
    "max": over(torch.amax),
    "min": over(torch.amin),
    "logsumexp": over(torch.logsumexp),
    "any": over(torch.any),
    "all": over(torch.all),
    "var": over(torch.var),
    "std": over(torch.std),
    "count_nonzero": lambda x, axis=None: torch.count_nonzero(x, dim=axes_of(x, axis)),
    "prod": product,
    "cumulative_sum": cumulative,
    "matmul": product_of_matrices,
    "einsum": einsum,
    "permute_dims": torch.permute,
    "flip": lambda x, axis=None: torch.flip(x, axes_of(x, axis)),
    "pad": padded,
    "expand_dims": lambda x, axis: torch.unsqueeze(x, axis),
    "repeat": lambda x, repeats, axis: torch.repeat_interleave(x, repeats, dim=axis),
    "diagonal": lambda x, offset=0: torch.diagonal(x, offset, 0, 1),
    "unstack": lambda x, axis: torch.unbind(x, axis),
    "tril": lambda x, k=0: torch.tril(x, k),
    "triu": lambda x, k=0: torch.triu(x, k),
    "take": take,
    "take_along_axis": lambda x, indices, axis: torch.take_along_dim(x, indices.long(), axis),
}


def words(exact: bool) -> dict[str, Any]:
    """What a program's text sees where it runs in PyTorch."""
    named = {str(d).removeprefix("torch."): torch.float64 if exact and d in FLOATS else d for d in DTYPES}
    made = {
        "astype": lambda x, dtype: x.to(dtype),
        "zeros": lambda shape, dtype: torch.zeros(shape, dtype=dtype),
        "arange": torch.arange,
        "asarray": torch.tensor,
    }
    return {"xp": SimpleNamespace(**WORDS, **named, **made), "added_at": added_at}
