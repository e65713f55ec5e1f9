"""Whole matrices of derivatives, and functions of many examples: jacrev, jacfwd, hessian and vmap, as JAX defines them.

All are one graph on a batch, never a loop: the derivative of one cotangent (or tangent) is built once and batched over the
unit vectors. Sizes of the results are products of sizes, so these are for small arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree

from gradc.autodiff import jvp_graph, vjp_graph
from gradc.batching import basis, batch_graph
from gradc.errors import ShapeError, TraceError, public
from gradc.ir import Value, apply
from gradc.language.arguments import normal_axis, value_of
from gradc.leaves import Reshape, is_array, make_input
from gradc.structure import Permute
from gradc.tangents import zeros_like
from gradc.transforms import Argnums, Function, differentiated, in_normal_form, output_values, split_auxiliary, staged


@public
def jacrev(function: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """The Jacobian by reverse mode: for each output, a tree like the chosen arguments of arrays of shape (*output, *argument)."""
    return _jacobian(function, argnums, has_aux, _rows, "jacrev")


@public
def jacfwd(function: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """The Jacobian by forward mode, in the form `jacrev` gives it."""
    return _jacobian(function, argnums, has_aux, _columns, "jacfwd")


@public
def hessian(function: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """The second derivatives: the forward-mode Jacobian of the reverse-mode Jacobian."""
    return jacfwd(jacrev(function, argnums, has_aux), argnums, has_aux)


Entries = Callable[[list[Value], list[Value]], list[list[Value]]]


def _jacobian(function: Function, argnums: Argnums, has_aux: bool, entries: Entries, what: str) -> Function:
    def inside(*args: Any, **kwargs: Any) -> Any:
        variables, marked, restore = differentiated(args, argnums, what)
        results, auxiliary = split_auxiliary(function(*marked, **kwargs), has_aux)
        outputs, tree = output_values(results)
        outputs = in_normal_form(variables, outputs)
        jacobian = optree.tree_unflatten(tree, [restore(row) for row in entries(outputs, variables)])
        return (jacobian, auxiliary) if has_aux else jacobian

    return staged(inside, function, argnums)


def _rows(outputs: list[Value], variables: list[Value]) -> list[list[Value]]:
    """For each output, the derivatives with respect to every variable, all cotangents at once."""
    rows = []
    for output in outputs:
        cotangent = make_input(output.shape, output.dtype)
        pulled = vjp_graph([output], variables, [cotangent])
        many = batch_graph(pulled, {cotangent: basis(output.shape, output.dtype)}, output.size)
        rows.append([_reshaped(x, (*output.shape, *v.shape)) for x, v in zip(many, variables, strict=True)])
    return rows


def _columns(outputs: list[Value], variables: list[Value]) -> list[list[Value]]:
    """What `_rows` gives, all tangents at once."""
    columns = []
    for variable in variables:
        tangent = make_input(variable.shape, variable.dtype)
        pushed = jvp_graph(outputs, [variable], [tangent])
        many = batch_graph(
            [zeros_like(o) if t is None else t for o, t in zip(outputs, pushed, strict=True)],
            {tangent: basis(variable.shape, variable.dtype)},
            variable.size,
        )
        columns.append(
            [_reshaped(moved(x, 0, x.ndim - 1), (*o.shape, *variable.shape)) for x, o in zip(many, outputs, strict=True)]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _reshaped(x: Value, shape: tuple[int, ...]) -> Value:
    return x if x.shape == shape else apply(Reshape(shape), x)


def moved(x: Value, origin: int, target: int) -> Value:
    """`x` with dimension `origin` moved to position `target`."""
    order = [axis for axis in range(x.ndim) if axis != origin]
    order.insert(target, origin)
    return x if order == sorted(order) else apply(Permute(tuple(order)), x)


@public
def vmap(function: Function, in_axes: Any = 0, out_axes: Any = 0) -> Function:
    """The function on many examples at once. `in_axes` says which axis of each positional argument counts the examples.

    It is an int or None (not batched), or a tuple of them (or of trees of them) per argument; `out_axes` likewise for the
    results. Keyword arguments are batched along axis 0, as in JAX. Raises ShapeError where the sizes disagree.
    """

    def inside(*args: Any, **kwargs: Any) -> Any:
        axes = (tuple(in_axes) if isinstance(in_axes, list) else in_axes, 0)
        leaves, tree = optree.tree_flatten((args, kwargs), none_is_leaf=False)
        places = _axes_of(axes, (args, kwargs), "in_axes")
        batched, given, size = _examples(leaves, places)
        args, kwargs = optree.tree_unflatten(tree, given)
        outputs, out_tree = output_values(function(*args, **kwargs))
        results = optree.tree_unflatten(out_tree, batch_graph(outputs, batched, size))
        ends = _axes_of(out_axes, results, "out_axes")
        moved_back = (_out(x, axis) for x, axis in zip(optree.tree_leaves(results), ends, strict=True))
        return optree.tree_unflatten(out_tree, moved_back)

    return staged(inside, function)


def _axes_of(axes: Any, tree: Any, what: str) -> list[int | None]:
    """One axis per leaf of the tree, from a tree of axes that may stop early (None is an axis, not an empty tree)."""
    found: list[int | None] = []

    def walk(axes: Any, tree: Any) -> None:
        children, structure = optree.tree_flatten(tree, is_leaf=lambda x: x is not tree)
        if axes is None or isinstance(axes, int):
            found.extend([axes] * optree.tree_structure(tree).num_leaves)
            return
        keyed = axes.values() if isinstance(axes, dict) else axes
        if optree.treespec_is_leaf(structure) or len(keyed) != len(children):
            raise TraceError(f"{what}={axes!r} does not fit {structure}", advice="Give an int, None, or one per argument.")
        for part, child in zip([axes[key] for key in sorted(axes)] if isinstance(axes, dict) else axes, children, strict=True):
            walk(part, child)

    walk(axes, tree)
    return found


def _examples(leaves: Sequence[Any], places: Sequence[int | None]) -> tuple[dict[Value, Value], list[Any], int]:
    """Placeholders for one example mapped to all of them, the leaves with placeholders put in, and how many there are."""
    batched: dict[Value, Value] = {}
    given, sizes = [], set()
    for leaf, place in zip(leaves, places, strict=True):
        if place is None or not (isinstance(leaf, Value) or is_array(leaf)):
            given.append(leaf)
            continue
        many = moved(value_of(leaf), normal_axis(place, len(leaf.shape)), 0)
        one = make_input(many.shape[1:], many.dtype, many.name)
        batched[one] = many
        sizes.add(many.shape[0])
        given.append(one)
    if len(sizes) != 1:
        raise ShapeError(f"vmap needs one number of examples, its arguments have {sorted(sizes) or 'no batched array'}")
    return batched, given, sizes.pop()


def _out(x: Value, axis: int | None) -> Value:
    """A batched result with the examples along `axis`."""
    if axis is None:
        raise TraceError(
            "vmap returns every result batched", advice="Give out_axes an int, and take one example where all are equal."
        )
    return moved(x, 0, normal_axis(axis, x.ndim))
