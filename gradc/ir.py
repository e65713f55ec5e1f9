"""The representation: a `Value` is one typed result, a `Graph` is some inputs and the outputs computed from them.

A program is a directed acyclic graph of Values, each naming the operation and the operands it comes from. Nothing here
knows any operation; transformations make new Values and never change old ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from itertools import chain, count, repeat
from typing import Any, ClassVar, Protocol

from gradc.errors import Source, user_source
from gradc.types import DType, Shape

_numbers = count()


class Operation(Protocol):
    """What computes a Value. Elementwise rows and structural primitives are frozen dataclasses with these members."""

    @property
    def name(self) -> str: ...

    def result(self, *operands: Value) -> tuple[Shape, DType]:
        """The shape and dtype of the result; raises ShapeError or DTypeError for operands that do not fit."""


class Value:
    """One array of the program: `operation(*operands)`, with its shape, dtype, the user's line, and a name if it had one.

    Users meet Values as the arrays inside a traced function: the language attaches operators and methods to this class.
    One that is `auxiliary` is not among what the user wrote, nor a derivative of that: it exists because a rewrite split or moved an
    operation, and the dtype the user chose may not hold it.
    """

    __slots__ = (
        "__weakref__", "auxiliary", "dtype", "inherited", "name", "note", "number", "operands", "operation", "shape", "source",
    )  # fmt: skip
    __array_priority__ = 1000  # NumPy arrays on the left of an operator defer to it
    __array_ufunc__ = None

    __add__: ClassVar[Callable[..., Value]]
    __radd__: ClassVar[Callable[..., Value]]
    __sub__: ClassVar[Callable[..., Value]]
    __rsub__: ClassVar[Callable[..., Value]]
    __mul__: ClassVar[Callable[..., Value]]
    __rmul__: ClassVar[Callable[..., Value]]
    __truediv__: ClassVar[Callable[..., Value]]
    __rtruediv__: ClassVar[Callable[..., Value]]
    __neg__: ClassVar[Callable[..., Value]]
    __pow__: ClassVar[Callable[..., Value]]
    __rpow__: ClassVar[Callable[..., Value]]
    __matmul__: ClassVar[Callable[..., Value]]
    __invert__: ClassVar[Callable[..., Value]]
    __and__: ClassVar[Callable[..., Value]]
    __or__: ClassVar[Callable[..., Value]]
    __xor__: ClassVar[Callable[..., Value]]
    __lshift__: ClassVar[Callable[..., Value]]
    __rshift__: ClassVar[Callable[..., Value]]
    __eq__: ClassVar[Callable[..., Value]]  # type: ignore[assignment]
    __ne__: ClassVar[Callable[..., Value]]  # type: ignore[assignment]
    __getitem__: ClassVar[Callable[..., Value]]
    __lt__: ClassVar[Callable[..., Value]]
    __le__: ClassVar[Callable[..., Value]]
    __gt__: ClassVar[Callable[..., Value]]
    __ge__: ClassVar[Callable[..., Value]]

    def __init__(self, operation: Any, operands: tuple[Value, ...], shape: Shape, dtype: DType, source: Source | None = None):
        self.operation = operation
        self.operands = operands
        self.shape = shape
        self.dtype = dtype
        self.source = source
        self.name: str | None = None
        self.note: str = ""
        self.auxiliary = False
        self.number = next(_numbers)
        self.inherited: dict[Any, Any] = {}

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        total = 1
        for extent in self.shape:
            total *= extent
        return total

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"<{self.name or self.operation.name} {self.dtype.short}[{','.join(map(str, self.shape))}]>"


class _Thread(threading.local):
    """What is in force in the thread that builds Values: whose line they carry and of what kind they are, and who is told of each."""

    def __init__(self) -> None:
        self.context: list[tuple[Source | None, str, bool]] = []
        self.listeners: list[Callable[[Value], None]] = []


thread = _Thread()


@contextmanager
def on_behalf_of(value: Value, note: str = "", auxiliary: bool | None = None) -> Iterator[None]:
    """Values made inside carry `value`'s source line (a derivative belongs to the line it differentiates) and `note`.

    They are `auxiliary`, or unless told as auxiliary as `value`.
    """
    thread.context.append((value.source, note, value.auxiliary if auxiliary is None else auxiliary))
    try:
        yield
    finally:
        thread.context.pop()


def apply(operation: Any, *operands: Value) -> Value:
    """The Value of an operation on operands, after its shape rule has accepted them."""
    shape, dtype = operation.result(*operands)
    source, note, auxiliary = thread.context[-1] if thread.context else (user_source(), "", False)
    value = Value(operation, operands, shape, dtype, source)
    value.note, value.auxiliary = note, auxiliary
    for listener in thread.listeners:
        listener(value)
    return value


def moment() -> int:
    """A number greater than that of every Value so far and smaller than that of every later one."""
    return next(_numbers)


@dataclass(frozen=True, eq=False)
class Graph:
    """A program: `outputs` computed from `inputs`. Every other Value reached is a result or a constant."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...] = ()
    title: str = "function"
    values: tuple[Value, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(topological(self.outputs)))

    def __str__(self) -> str:
        return format_graph(self)

    def check(self) -> None:
        """Raises AssertionError unless every Value's shape and dtype follow from its operands and no input is missing."""
        known = set(self.inputs)
        for value in self.values:
            if not value.operands and value.operation.name == "input":
                assert value in known, f"{value!r} is used but is not an input of {self.title}"
            if value.operands:
                assert value.operation.result(*value.operands) == (value.shape, value.dtype), value


def topological(outputs: Iterable[Value], given: Iterable[Value] = ()) -> list[Value]:
    """Every Value the outputs need, operands first, leaving out those `given` and what only they need."""
    order: list[Value] = []
    done: set[Value] = set(given)
    stack: list[tuple[Value, bool]] = [(value, False) for value in reversed(list(outputs))]
    while stack:
        value, ready = stack.pop()
        if ready:
            order.append(value)
        elif value not in done:
            done.add(value)
            stack.append((value, True))
            stack.extend((operand, False) for operand in reversed(value.operands) if operand not in done)
    return order


def inherited(rule: Callable[[Value, list[Any]], Any]) -> Callable[[Value], Any]:
    """What `rule(value, what its operands have)` says of a Value, found once for each. It follows from the graph alone."""

    @wraps(rule)
    def found(value: Value) -> Any:
        waiting = [value]
        while waiting:
            current = waiting[-1]
            missing = [x for x in current.operands if rule not in x.inherited]
            if missing and rule not in current.inherited:
                waiting += missing
                continue
            waiting.pop()
            if rule not in current.inherited:
                current.inherited[rule] = rule(current, [x.inherited[rule] for x in current.operands])
        return value.inherited[rule]

    return found


def users_of(values: Sequence[Value]) -> dict[Value, list[Value]]:
    """For each Value, those among `values` that take it as an operand (once per user)."""
    users: dict[Value, list[Value]] = {value: [] for value in values}
    for value in values:
        for operand in dict.fromkeys(value.operands):
            users.setdefault(operand, []).append(value)
    return users


def rebuild(
    outputs: Iterable[Value], replace: Mapping[Value, Value], rule: Callable[[Value], Value] = lambda value: value
) -> dict[Value, Value]:
    """Copies what `outputs` need with `replace` substituted, passing each copied Value through `rule`; returns old to new."""
    new: dict[Value, Value] = dict(replace)
    for value in topological(outputs):
        if value not in new:
            new[value] = rule(with_operands(value, tuple(new[operand] for operand in value.operands)))
    return new


def mapped(graph: Graph, rule: Callable[[Value], Value]) -> Graph:
    """The graph with every Value passed through `rule`, operands first."""
    new = rebuild(graph.outputs, {value: value for value in graph.inputs}, rule)
    return Graph(graph.inputs, tuple(new[output] for output in graph.outputs), graph.output_names, graph.title)


def with_operands(value: Value, operands: tuple[Value, ...]) -> Value:
    """`value` computed from other operands of the same shapes; the same object when nothing differs."""
    if all(a is b for a, b in zip(operands, value.operands, strict=True)):
        return value
    copy = Value(value.operation, operands, value.shape, value.dtype, value.source)
    copy.name, copy.note, copy.auxiliary = value.name, value.note, value.auxiliary
    return copy


def value_names(graph: Graph) -> dict[Value, str]:
    """A unique readable name for every Value: the user's where there was one, numbered otherwise."""
    taken: set[str] = set()
    names: dict[Value, str] = {}
    tries: dict[str | None, Iterator[str]] = {None: (f"t{i}" for i in count())}
    for value in (*graph.inputs, *graph.values):
        if value in names:
            continue
        wish = value.name or None
        if wish is not None and wish not in tries:
            tries[wish] = chain([wish], map("{}_{}".format, repeat(wish), count(1)))
        names[value] = next(name for name in tries[wish] if name not in taken)
        taken.add(names[value])
    return names


def format_graph(graph: Graph) -> str:
    """The text form: a line per Value, with the user's line beside it."""
    names = value_names(graph)
    header = ", ".join(f"{names[v]}: {_type(v)}" for v in graph.inputs)
    lines = [f"{graph.title}({header}):"]
    for value in graph.values:
        if value.operation.name == "input":
            continue
        arguments = ", ".join(names[operand] for operand in value.operands)
        text = f"  {names[value]}: {_type(value)} = {_call(value.operation)}({arguments})"
        remark = "  ".join(part for part in (value.note, str(value.source or "")) if part)
        lines.append(f"{text:<72}  # {remark}" if remark else text)
    labels = graph.output_names or ("",) * len(graph.outputs)
    outputs = ", ".join(f"{label}={names[v]}" if label else names[v] for label, v in zip(labels, graph.outputs, strict=True))
    return "\n".join([*lines, f"  return {outputs}"])


def _type(value: Value) -> str:
    return f"{value.dtype.short}[{','.join(map(str, value.shape))}]"


def _call(operation: Any) -> str:
    parameters = getattr(operation, "parameters", None)
    return operation.name + (f"[{parameters}]" if parameters else "")
