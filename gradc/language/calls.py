"""What every public array function shares: it computes at once outside a trace, and its errors name the user's call.

Inside a trace (or given a Value) a function builds Values. Outside, the same function is run on its arrays through the
reference interpreter: NumPy in, NumPy out; torch in, torch out. This file knows no array function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import optree

from gradc import types
from gradc.entry import UNTOLD, entry, tell_torch
from gradc.errors import GradcError, UnsupportedError, hide_internals, refuse_misuse
from gradc.interpret import evaluate, row_major
from gradc.ir import Graph, Value
from gradc.leaves import is_array
from gradc.tensors import ask, is_answered_elsewhere, readable
from gradc.trace import tracing, tracing_scope

P = ParamSpec("P")
R = TypeVar("R")


def array_function(function: Callable[P, R]) -> Callable[P, Any]:
    """Makes `function`, written on Values, one that users call on Values and on arrays alike."""

    @entry
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        if UNTOLD and "torch" in sys.modules:
            tell_torch()
        try:
            if tracing() or any(isinstance(x, Value) for x in leaves(args, kwargs)):
                return function(*args, **kwargs)
            if is_answered_elsewhere(args, kwargs):
                return ask(call, args, kwargs)
            return at_once(function, args, kwargs)
        except Exception as error:
            if isinstance(error, GradcError):
                error.operation = describe_call(function.__name__, args, kwargs)
            elif isinstance(error, TypeError):
                refuse_misuse(function, args, kwargs)
            hide_internals(error)
            raise

    return call


def method(symbol: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For operators and methods of Value, whose errors show the operator as it was written."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if isinstance(error, GradcError):
                    error.operation = symbol.format(*(describe(x) for x in args))
                hide_internals(error)
                raise

        return call

    return decorate


@entry
def leaves(*containers: Any) -> list[Any]:
    """Everything in the pytrees."""
    return optree.tree_leaves(containers)


@entry
def at_once(function: Callable, args: tuple, kwargs: dict) -> Any:
    """The function's results on arrays, computed by the reference interpreter."""
    tensors = [x for x in leaves(args, kwargs) if is_array(x) and not isinstance(x, np.ndarray | np.generic)]
    readable(tensors)
    if any(x.requires_grad for x in tensors):
        raise UnsupportedError(
            "array functions called at once are not recorded on torch's autograd tape",
            advice="Put the computation in a function and decorate it with @gradc.compile, or detach the tensor.",
        )
    with tracing_scope():
        results, tree = optree.tree_flatten(function(*args, **kwargs))
    values = tuple(x for x in results if isinstance(x, Value))
    arrays = iter(evaluate(Graph((), values), ()))
    return optree.tree_unflatten(tree, [in_kind(next(arrays), tensors) if isinstance(x, Value) else x for x in results])


def in_kind(array: np.ndarray, tensors: list[Any]) -> Any:
    """The array as the kind that came in: a torch tensor on the first one's device if there was one."""
    if not tensors:
        return array
    import torch

    array = row_major(array)
    if types.as_dtype(array.dtype) == types.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(tensors[0].device)
    return torch.from_numpy(array).to(tensors[0].device)


def describe_call(name: str, args: tuple, kwargs: dict) -> str:
    """The call as a user would recognise it: `matmul(f32[2,3], f32[4,5])`."""
    parts = [*(describe(x) for x in args), *(f"{key}={describe(x)}" for key, x in kwargs.items())]
    inside = ", ".join(parts)
    return f"{name}({inside if len(inside) <= 100 else inside[:97] + '...'})"


def describe(x: Any) -> str:
    """An argument in a few characters: arrays as dtype[shape], anything else as Python prints it."""
    if isinstance(x, Value) or is_array(x):
        try:
            return f"{types.as_dtype(x.dtype).short}[{','.join(map(str, x.shape))}]"
        except Exception:  # of torch: a nested tensor has no shape to show, a quantized one another dtype
            return type(x).__name__
    if isinstance(x, tuple | list):
        inside = ", ".join(describe(part) for part in x)
        return f"({inside})" if isinstance(x, tuple) else f"[{inside}]"
    if isinstance(x, slice):
        text = ":".join("" if part is None else describe(part) for part in (x.start, x.stop, x.step))
        return text if x.step is not None else text.removesuffix(":")
    text = "..." if x is Ellipsis else repr(x)
    return text if len(text) <= 40 else f"{text[:37]}..."
