"""`gradc check`: a function's gradient against numerical derivatives, and its emitted kernels against the NumPy reference.

Inputs are random, so the shapes on the command line should be small: Triton's interpreter is slow.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import optree

from gradc.check import check_grads
from gradc.errors import VerificationError
from gradc.interpret import to_numpy
from gradc.ir import Graph
from gradc.runtime.command.display import console_for, table, verdict
from gradc.runtime.command.errors import CommandError
from gradc.runtime.command.target import Ranged, Target, target_of, wrt_of
from gradc.runtime.compile import program_of
from gradc.runtime.execute import Executable

# The difference allowed, beside an array's largest element: some hundred roundings of float32 and float64, a few of 16 bits.
ALLOWED = {"float64": 1e-12, "float32": 2e-5, "float16": 5e-3, "bfloat16": 3e-2}
LARGEST = 2**20


@dataclass(frozen=True)
class Compared:
    """One array that the kernels made, and how far it is from the reference beside its largest element."""

    phase: str
    name: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed


def run(options: argparse.Namespace) -> int:
    """Checks the function and prints what was compared. Returns the exit status: 1 where a check fails."""
    target = target_of(options.function, options.arrays, options.statics)
    random = np.random.default_rng(options.seed)
    args, kwargs = optree.tree_map(
        lambda leaf: sample(leaf, random) if isinstance(leaf, Ranged) else leaf, (target.args, target.kwargs)
    )
    console = console_for()
    passed = check_gradient(console, target, args, kwargs, options.order)
    if find_spec("triton") is None or find_spec("torch") is None:
        console.print("kernels: left out, torch and triton are not installed")
        return 0 if passed else 1
    return 0 if check_kernels(console, target, args, kwargs, wrt_of(options.wrt), random) and passed else 1


def sample(array: Ranged, random: np.random.Generator) -> np.ndarray:
    """Random elements: in the range given, else normal for floats, 0 or 1 for integers and bools. Raises CommandError if too many."""
    shape, dtype = array.spec.shape, array.spec.dtype
    if array.spec.size > LARGEST:
        raise CommandError(
            f"{array.spec} has {array.spec.size} elements, which is too many to check",
            "Use small shapes: the rules are the same.",
        )
    values: Any
    if not dtype.is_floating:
        low, high = array.within or (0, 1)
        values = random.integers(int(low), int(high), shape, endpoint=True)
    elif array.within is None:
        values = random.standard_normal(shape)
    else:
        values = random.uniform(*array.within, shape)
    return np.asarray(values).astype(dtype.numpy)


def check_gradient(console: Any, target: Target, args: tuple, kwargs: dict, order: int) -> bool:
    """Both modes of differentiation against numerical derivatives, in float64."""
    leaves = optree.tree_leaves((args, kwargs))
    if not any(isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fV" for leaf in leaves):
        console.print("gradient: none, no argument is floating-point")
        return True
    function, values = positional(target.function.function, args, kwargs)
    try:
        with console.status("differentiating numerically"):
            check_grads(function, values, order=order)
    except VerificationError as error:
        console.print(f"gradient: {verdict(False)}")
        console.print(str(error), markup=False, highlight=False)
        return False
    console.print(f"gradient: {verdict(True)}, reverse and forward mode agree with numerical derivatives up to order {order}")
    return True


def positional(function: Callable, args: tuple, kwargs: dict) -> tuple[Callable, tuple]:
    """The same call with every argument by position, under its own name."""

    def call(*given: Any) -> Any:
        return function(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))

    names = [*list(inspect.signature(function).parameters)[: len(args)], *kwargs]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__name__ = getattr(function, "__name__", "function")
    return call, (*args, *kwargs.values())


def check_kernels(console: Any, target: Target, args: tuple, kwargs: dict, wrt: tuple[int, ...] | None, random: Any) -> bool:
    """The emitted kernels of forward and backward, under Triton's interpreter, against the NumPy reference."""
    traced, graph = program_of(target.function.function, args, kwargs, target.function.options.static_argnames)
    arrays = [leaf for leaf, dynamic in zip(optree.tree_leaves((args, kwargs)), traced.dynamic, strict=True) if dynamic]
    chosen = differentiable(graph) if wrt is None else wrt
    with console.status("running the kernels in Triton's interpreter"):
        found = compared(graph, arrays, chosen, random)
    shown = table(
        "Kernels against the NumPy reference", "phase", "array", "difference", "allowed", "", numbers=("difference", "allowed")
    )
    for one in found:
        shown.add_row(one.phase, one.name, f"{one.difference:.1e}", f"{one.allowed:.0e}", verdict(one.passed))
    console.print(shown)
    return all(one.passed for one in found)


def differentiable(graph: Graph) -> tuple[int, ...]:
    """The floating-point inputs; none where no result is floating-point."""
    if not any(value.dtype.is_floating for value in graph.outputs):
        return ()
    return tuple(number for number, value in enumerate(graph.inputs) if value.dtype.is_floating)


def compared(graph: Graph, arrays: Sequence[np.ndarray], wrt: tuple[int, ...], random: np.random.Generator) -> list[Compared]:
    """Every result and, for random cotangents, every gradient, of the kernels against the reference."""
    kernels, reference = Executable(graph, "interpret"), Executable(graph, "numpy")
    arrays = [*arrays, *reference.literals()]
    allowed = max((ALLOWED[value.dtype.name] for value in graph.values if value.dtype.is_floating), default=0.0)
    names = graph.output_names or [f"result {i}" for i in range(len(graph.outputs))]
    if not wrt:
        return pairs("forward", names, kernels.run(arrays), reference.run(arrays), allowed)
    (got, got_kept), (want, want_kept) = (executable.forward(arrays, wrt) for executable in (kernels, reference))
    cotangents = [random.standard_normal(v.shape).astype(v.dtype.numpy) for v in graph.outputs if v.dtype.is_floating]
    got_gradients = kernels.backward(got_kept, cotangents, wrt)
    want_gradients = reference.backward(want_kept, cotangents, wrt)
    gradient_names = [f"d{graph.inputs[number].name}" for number in wrt]
    return pairs("forward", names, got, want, allowed) + pairs(
        "backward", gradient_names, got_gradients, want_gradients, allowed
    )


def pairs(phase: str, names: Sequence[str], got: Sequence[Any], want: Sequence[Any], allowed: float) -> list[Compared]:
    return [Compared(phase, name, apart(x, y), allowed) for name, x, y in zip(names, got, want, strict=True)]


def apart(got: Any, want: Any) -> float:
    """The largest difference beside the largest finite element of `want`; infinite where one has a NaN or inf the other has not."""
    x, y = (np.asarray(to_numpy(array), np.float64) for array in (got, want))
    if x.shape != y.shape or not np.array_equal(np.where(np.isfinite(x), 0, x), np.where(np.isfinite(y), 0, y), equal_nan=True):
        return float("inf")
    finite = np.isfinite(y)
    scale = float(np.max(np.abs(y), initial=0.0, where=finite)) or 1.0
    return float(np.max(np.abs(np.where(finite, x, 0) - np.where(finite, y, 0)), initial=0.0)) / scale
