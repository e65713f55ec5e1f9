"""Runs the user's function on Values and keeps the program it builds, as a Graph with its argument and result trees.

Ordinary Python runs while tracing: loops, helpers, closures, `if` on shapes. The program itself is never run here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import optree

from gradc import ir
from gradc.derived import following_torch
from gradc.entry import entry
from gradc.errors import TraceError, printable, refuse_called_attribute
from gradc.ir import Graph, Value
from gradc.leaks import refuse_left_behind
from gradc.leaves import as_value, is_array, is_scalar, lift, make_input
from gradc.naming import NameRecorder
from gradc.signature import Static, identifier, is_dynamic, leaf_names, marked, positional_names, spec_of, static_names
from gradc.types import Spec

_state = threading.local()


@entry
def tracing() -> bool:
    """Whether this thread is inside a trace, where array functions build Values rather than compute arrays."""
    return getattr(_state, "depth", 0) > 0


@contextmanager
def tracing_scope() -> Iterator[None]:
    """Array functions called inside build Values, even from NumPy arrays and Python numbers."""
    _state.depth = getattr(_state, "depth", 0) + 1
    try:
        yield
    finally:
        _state.depth -= 1


@dataclass(frozen=True)
class Traced:
    """A traced function: its graph, the tree of its arguments `(args, kwargs)` and the tree of its results.

    `dynamic` says which leaves of the argument tree are the graph's inputs, in order.
    """

    graph: Graph
    input_tree: optree.PyTreeSpec
    dynamic: tuple[bool, ...]
    output_tree: optree.PyTreeSpec
    specs: tuple[Spec, ...]

    def results(self, arrays: Sequence[Any]) -> Any:
        """Output arrays in the structure the function returned."""
        return optree.tree_unflatten(self.output_tree, list(arrays))


def trace(
    function: Callable,
    arguments: Sequence[Any],
    keywords: dict[str, Any] | None = None,
    static_argnames: str | Sequence[str] = (),
) -> Traced:
    """Calls `function` on Values in place of its array arguments and returns what it built.

    Array leaves (NumPy, torch, `gradc.spec`) become inputs named for their parameter; other leaves are passed as they are.
    Raises TraceError for a result that is not an array, and for arrays of another trace.
    """
    args, kwargs = marked(tuple(arguments), dict(keywords or {}), static_names(function, static_argnames))
    start = Value(None, (), (), None, None).number  # type: ignore[arg-type]  # every Value made from here on exceeds it
    traced, made = _traced(function, args, kwargs)
    if not tracing():
        refuse_strangers(traced.graph, start)
        names = (*positional_names(function, len(args)), *kwargs)
        places = [(name, _unwrapped(x)) for name, x in zip(names, (*args, *kwargs.values()), strict=True)]
        refuse_left_behind(function, places, made, traced.graph, start)
    return traced


def _traced(function: Callable, args: tuple, kwargs: dict) -> tuple[Traced, list[Value]]:
    """What `trace` gives, and the Values that were made, which no variable holds once this has returned."""
    leaves, tree = optree.tree_flatten((args, kwargs))
    dynamic = tuple(is_dynamic(leaf) for leaf in leaves)
    specs = tuple(spec_of(leaf) for leaf in leaves if is_dynamic(leaf))
    with recording() as made:
        names = [name for name, is_input in zip(leaf_names(function, args, kwargs), dynamic, strict=True) if is_input]
        inputs = tuple(make_input(s.shape, s.dtype, name, s.strides) for s, name in zip(specs, names, strict=True))
        following = iter(inputs)
        given = [next(following) if is_input else _unwrapped(leaf) for leaf, is_input in zip(leaves, dynamic, strict=True)]
        traced_args, traced_kwargs = optree.tree_unflatten(tree, given)
        with following_torch():
            try:
                result = function(*traced_args, **traced_kwargs)
            except TypeError as error:
                refuse_called_attribute(error)
                raise
            outputs, output_tree, places = flat_results(result)
    graph = Graph(inputs, outputs, name_outputs(outputs, places, set(inputs)), title_of(function))
    return Traced(graph, tree, dynamic, output_tree, specs), made


@contextmanager
def recording() -> Iterator[list[Value]]:
    """A trace in which Values get the user's variable names; gives those that are made, unless it is within another trace."""
    made: list[Value] = []
    if tracing():
        with tracing_scope():
            yield made
        return
    recorder = NameRecorder(sys._getframe(2))
    before = [*ir.thread.listeners]
    ir.thread.listeners += [recorder, made.append]
    try:
        with tracing_scope():
            yield made
    finally:
        ir.thread.listeners[:] = before
        recorder.finish()


def name_values() -> None:
    """Gives the Values of the running trace the names they are bound to by now."""
    for listener in ir.thread.listeners:
        if isinstance(listener, NameRecorder):
            listener.name_all()


def _unwrapped(leaf: Any) -> Any:
    return leaf.what if isinstance(leaf, Static) else leaf


def flat_results(result: Any) -> tuple[tuple[Value, ...], optree.PyTreeSpec, list[tuple]]:
    """The results as Values, their tree, and each one's path in it. Numbers and arrays are lifted; other things refused."""
    paths, leaves, tree = optree.tree_flatten_with_path(result)
    for path, leaf in zip(paths, leaves, strict=True):
        if not (isinstance(leaf, Value) or is_array(leaf) or is_scalar(leaf)):
            place = f" at {printable('.'.join(map(str, path)))} of its result" if path else ""
            raise TraceError(
                f"the function returned a {type(leaf).__name__}{place}, which is not an array",
                advice="Return arrays and numbers, in tuples, lists or dicts as you like.",
            )
    return tuple(lift(leaf)[0] if is_scalar(leaf) else as_value(leaf) for leaf in leaves), tree, paths


def name_outputs(outputs: Sequence[Value], places: Sequence[tuple], inputs: set[Value]) -> tuple[str, ...]:
    """A distinct name for each output: the user's variable, its key in the result, or `out`; unnamed Values take it too."""
    names: list[str] = []
    for value, path in zip(outputs, places, strict=True):
        keys = [part for part in path if isinstance(part, str)]
        wanted = identifier("_".join(keys)) if keys else value.name if value.name and value not in inputs else "out"
        name, number = wanted, 0
        while name in names:
            number += 1
            name = f"{wanted}_{number}"
        names.append(name)
        if value.name is None:
            value.name = name
    return tuple(names)


def title_of(function: Any) -> str:
    """The function's name as an identifier; `function` for a lambda."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "function" if name == "<lambda>" else identifier(str(name))


def refuse_strangers(graph: Graph, start: int) -> None:
    """Raises TraceError when the program uses an array that belongs to another trace."""
    known = set(graph.inputs)
    strangers = {value for value in graph.values if value.operation.name == "input" and value not in known}
    if not strangers:
        return
    user = next(
        (value for value in graph.values if value.number > start and any(x.number <= start for x in value.operands)), None
    )
    stranger = next(iter(strangers))
    raise TraceError(
        f"an array of another trace is used: {stranger!r}, or something computed from it, outlived the function it was made in",
        advice="Return it from that function and pass it as an argument; do not keep traced arrays in globals, attributes or closures.",
        source=user.source if user is not None else None,
    )
