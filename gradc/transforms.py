"""The transformations users call: grad, vjp, jvp and the like, with JAX's names and argument order, on pytrees of arrays.

Inside a trace a transform builds Values: it marks the arrays it differentiates as variables, calls the function, and walks
the graph. Outside, the transformed function is traced and evaluated. They nest in any order; nothing here computes numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from operator import index
from typing import Any

import numpy as np
import optree

from gradc.autodiff import jvp_graph, vjp_graph
from gradc.entry import UNTOLD, entry, tell_torch
from gradc.errors import DTypeError, ShapeError, TraceError, UnsupportedError, hide_internals, public
from gradc.interpret import evaluate
from gradc.ir import Value, apply
from gradc.language.arguments import value_of
from gradc.language.calls import describe
from gradc.language.elementwise import stop_gradient as _stop_gradient
from gradc.leaves import cast, constant, is_array, is_scalar
from gradc.normalise import normal_form_from
from gradc.signature import is_dynamic
from gradc.structure import Variable
from gradc.tangents import zeros_like
from gradc.tensors import ask, is_answered_elsewhere
from gradc.trace import name_values, trace, tracing

Function = Callable[..., Any]
Argnums = int | Sequence[int]


@public
def grad(function: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """The gradient of a function that returns a scalar, with respect to the arguments `argnums` (pytrees of floating arrays).

    With `has_aux` the function returns (scalar, auxiliary) and the gradient comes with the auxiliary result.
    Raises ShapeError for a result that is no scalar and DTypeError for integer arguments.
    """
    both = value_and_grad(function, argnums, has_aux)

    @public
    @wraps(function)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        result, gradients = both(*args, **kwargs)
        return (gradients, result[1]) if has_aux else gradients

    return gradient


@public
def value_and_grad(function: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """Like `grad`, returning (value, gradient), or ((value, auxiliary), gradient) with `has_aux`."""

    def inside(*args: Any, **kwargs: Any) -> Any:
        variables, marked, restore = differentiated(args, argnums, "grad")
        result, auxiliary = split_auxiliary(function(*marked, **kwargs), has_aux)
        (output,) = in_normal_form(variables, [scalar_output(result)])
        gradients = vjp_graph([output], variables, [constant(1, output.dtype)])
        return ((output, auxiliary) if has_aux else output), restore(gradients)

    return staged(inside, function, argnums)


@public
def vjp(function: Function, *primals: Any, has_aux: bool = False) -> tuple:
    """(outputs, pullback): the pullback takes a cotangent shaped like the outputs to a tuple of cotangents of the primals.

    With `has_aux`, (outputs, pullback, auxiliary). Outside a trace the pullback computes the function again.
    """
    primals = tuple(arrays_of(primals))
    if not is_traced(primals):
        results, auxiliary = split_auxiliary(run_traced(checked(function, "vjp"), primals, {}), has_aux)
        primals = copies(primals)
        pullback = staged(lambda cotangent: vjp(function, *run_primals(primals), has_aux=has_aux)[1](cotangent))
        return (results, pullback, auxiliary) if has_aux else (results, pullback)
    variables, marked, restore = differentiated(primals, tuple(range(len(primals))), "vjp")
    results, auxiliary = split_auxiliary(function(*marked), has_aux)
    outputs, tree = output_values(results)
    outputs = in_normal_form(variables, outputs)

    def pull(cotangent: Any) -> tuple:
        cotangents = matching_leaves(cotangent, outputs, tree, "cotangent")
        return restore(vjp_graph(outputs, variables, cotangents))

    results = optree.tree_unflatten(tree, outputs)
    return (results, pull, auxiliary) if has_aux else (results, pull)


@public
def jvp(function: Function, primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> tuple:
    """(outputs, tangents of the outputs) at `primals` in the direction `tangents`, two sequences of the same structure.

    With `has_aux`, the auxiliary result is third.
    """
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise TraceError("jvp takes the primals and the tangents as tuples or lists", advice="Write jvp(f, (x,), (x_dot,)).")

    def inside(primals: tuple, tangents: tuple) -> tuple:
        results, push, *auxiliary = linearize(function, *primals, has_aux=has_aux)
        return results, push(*tangents), *auxiliary

    return staged(inside, argnums=0)(tuple(primals), tuple(tangents))


@public
def linearize(function: Function, *primals: Any, has_aux: bool = False) -> tuple:
    """(outputs, pushforward): the pushforward takes one tangent per primal to the tangents of the outputs.

    With `has_aux`, (outputs, pushforward, auxiliary). Outside a trace the pushforward computes the function again.
    """
    primals = tuple(arrays_of(primals))
    if not is_traced(primals):
        results, auxiliary = split_auxiliary(run_traced(checked(function, "linearize"), primals, {}), has_aux)
        primals = copies(primals)
        pushforward = staged(lambda *tangents: linearize(function, *run_primals(primals), has_aux=has_aux)[1](*tangents))
        return (results, pushforward, auxiliary) if has_aux else (results, pushforward)
    variables, marked, _ = differentiated(primals, tuple(range(len(primals))), "linearize")
    tree_in = optree.tree_structure(primals)
    results, auxiliary = split_auxiliary(function(*marked), has_aux)
    outputs, tree = output_values(results)
    outputs = in_normal_form(variables, outputs)

    def push(*tangents: Any) -> Any:
        given = matching_leaves(tangents, variables, tree_in, "tangent")
        pushed = jvp_graph(outputs, variables, given)
        return optree.tree_unflatten(tree, [zeros_like(o) if t is None else t for o, t in zip(outputs, pushed, strict=True)])

    results = optree.tree_unflatten(tree, outputs)
    return (results, push, auxiliary) if has_aux else (results, push)


@public
def stop_gradient(x: Any) -> Any:
    """`x`, a pytree of arrays, as constants to differentiation."""
    return optree.tree_map(_stop_gradient, x)


def staged(inside: Function, like: Function | None = None, argnums: Argnums = ()) -> Function:
    """`inside`, written on Values, as a function that also takes arrays: then it is traced and evaluated.

    Python floats among the arguments `argnums` count as float32 arrays.
    """
    chosen = argnums if isinstance(argnums, tuple | list) else (argnums,)

    @wraps(like or inside)
    def program(*args: Any, **kwargs: Any) -> Any:
        return inside(*args, **kwargs)

    @entry
    @wraps(like or inside)
    def call(*args: Any, **kwargs: Any) -> Any:
        if UNTOLD and "torch" in sys.modules:
            tell_torch()
        try:
            if is_traced((args, kwargs)):
                return inside(*run_primals(args), **run_primals(kwargs))
            if is_answered_elsewhere(args, kwargs):
                return ask(staged(inside, like, argnums), args, kwargs)
            lifted = {number % len(args) for number in chosen} if args else set()
            return run_traced(program, tuple(arrays_of(x) if i in lifted else x for i, x in enumerate(args)), kwargs)
        except Exception as error:
            hide_internals(error)
            raise

    return call


@entry
def is_traced(arguments: Any) -> bool:
    """Whether a call with these arguments builds Values: within a trace, or given a Value."""
    return tracing() or any(isinstance(leaf, Value) for leaf in optree.tree_leaves(arguments))


@entry
def run_traced(function: Function, args: tuple, kwargs: dict) -> Any:
    """The function's results on arrays, of the arrays' kind: NumPy by the reference, torch tensors as a compiled function runs."""
    arrays = [leaf for leaf in optree.tree_leaves((args, kwargs)) if is_dynamic(leaf)]
    if not all(isinstance(array, np.ndarray | np.generic) for array in arrays):
        return runner(function, args, kwargs)
    traced = trace(function, args, kwargs)
    return traced.results(evaluate(traced.graph, arrays))


def runner(function: Function, args: tuple, kwargs: dict) -> Any:
    """Runs a function on torch tensors. The face of the package puts the compiler's in its place."""
    raise UnsupportedError("a transform on torch tensors needs the compiler", advice="Import gradc, not a part of it.")


def checked(function: Function, what: str) -> Function:
    """The function, refusing arguments that cannot be differentiated."""

    @wraps(function)
    def call(*primals: Any) -> Any:
        differentiated(primals, tuple(range(len(primals))), what)
        return function(*primals)

    return call


def run_primals(primals: Any) -> Any:
    """Arrays as Values of the trace that is running, where a function finds what it finds outside of one."""
    return optree.tree_map(lambda leaf: value_of(leaf) if is_dynamic(leaf) else leaf, primals)


def copies(args: Any) -> Any:
    """The arguments with their arrays as they are now, whatever is written to those later."""
    return optree.tree_map(lambda x: x.clone() if hasattr(x, "clone") else np.array(x) if is_array(x) else x, args)


def arrays_of(args: Any) -> Any:
    """The arguments with Python floats as float32 arrays, so that they are inputs of the program and not part of it."""
    return optree.tree_map(lambda leaf: np.asarray(leaf, np.float32) if type(leaf) is float else leaf, args)


def differentiated(args: tuple, argnums: Argnums, what: str) -> tuple[list[Value], list[Any], Callable[[Sequence[Any]], Any]]:
    """Fresh variables for the leaves of the chosen arguments, the arguments with them put in, and what restores the structure.

    Raises TraceError for an argument that is not there or is no array, DTypeError for one that is not floating-point.
    """
    single = not isinstance(argnums, tuple | list)
    places = [_place(number, len(args), what) for number in ([argnums] if single else argnums)]  # type: ignore[list-item, union-attr]
    leaves, tree = optree.tree_flatten([args[place] for place in places])
    variables = [variable(leaf, what) for leaf in leaves]
    marked = list(args)
    for place, argument in zip(places, optree.tree_unflatten(tree, variables), strict=True):
        marked[place] = argument

    def restore(derivatives: Sequence[Any]) -> Any:
        parts = optree.tree_unflatten(tree, derivatives)
        return parts[0] if single else tuple(parts)

    return variables, marked, restore


def _place(number: Any, count: int, what: str) -> int:
    """The position of an argument, counted from the end where negative."""
    place = index(number)
    if not -count <= place < count:
        raise TraceError(
            f"{what} is to differentiate argument {place} of {count} positional arguments",
            advice="Pass it by position, or change argnums.",
        )
    return place % count


def variable(leaf: Any, what: str) -> Value:
    """A leaf marked as what is differentiated."""
    if not (isinstance(leaf, Value) or is_array(leaf) or is_scalar(leaf)):
        raise TraceError(
            f"{what} differentiates arrays, got a {type(leaf).__name__}", advice="Choose the array arguments with argnums."
        )
    value = value_of(leaf)
    if not value.dtype.is_floating:
        raise DTypeError(
            f"{what} differentiates floating-point arrays, got {describe(leaf)}",
            advice="Cast it to a floating dtype, or leave it out of argnums.",
        )
    marked = apply(Variable(), value)
    marked.name = value.name
    return marked


def scalar_output(result: Any) -> Value:
    """The single floating-point scalar a function returned."""
    if not (isinstance(result, Value) or is_array(result) or is_scalar(result)):
        raise TraceError(
            f"grad takes a function that returns one scalar, this one returned a {type(result).__name__}",
            advice="Return the scalar, or (scalar, rest) with has_aux=True.",
        )
    output = value_of(result)
    if output.shape != ():
        raise ShapeError(
            f"grad takes a function that returns a scalar, this one returned shape {output.shape}",
            advice="Reduce it first (`.sum()`, `.mean()`), or use vjp, jacrev or jacfwd.",
            source=output.source,
        )
    if not output.dtype.is_floating:
        raise DTypeError(
            f"grad takes a function that returns a floating-point scalar, this one returned {output.dtype}",
            source=output.source,
        )
    return output


def split_auxiliary(result: Any, has_aux: bool) -> tuple[Any, Any]:
    """(results, auxiliary) of what a function returned."""
    if not has_aux:
        return result, None
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TraceError("with has_aux=True the function returns a pair (results, auxiliary)")
    return result[0], result[1]


def output_values(results: Any) -> tuple[list[Value], optree.PyTreeSpec]:
    """The results as Values, and their structure."""
    leaves, tree = optree.tree_flatten(results)
    return [value_of(leaf) for leaf in leaves], tree


def in_normal_form(variables: Sequence[Value], outputs: Sequence[Value]) -> list[Value]:
    """What is differentiated: the outputs in normal form. Copies take the user's names along, so those are given first."""
    name_values()
    return normal_form_from(variables, outputs)


def matching_leaves(given: Any, values: Sequence[Value], tree: optree.PyTreeSpec, what: str) -> list[Value]:
    """The cotangents or tangents of `values`: the same structure, shapes and dtypes (numbers take the dtype)."""
    leaves, structure = optree.tree_flatten(given)
    if structure != tree:
        raise TraceError(f"the {what} has the structure {structure}, what it belongs to has {tree}")
    return [_matching(leaf, value, what) for leaf, value in zip(leaves, values, strict=True)]


def _matching(leaf: Any, value: Value, what: str) -> Value:
    given = value_of(leaf)
    if is_scalar(leaf):
        given = cast(given, value.dtype)
    if given.shape != value.shape:
        raise ShapeError(f"the {what} has shape {given.shape}, what it belongs to has {value.shape}")
    if given.dtype != value.dtype:
        raise DTypeError(f"the {what} is {given.dtype}, what it belongs to is {value.dtype}", advice="Cast it with astype.")
    return given
