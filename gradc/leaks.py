"""Finds traced arrays that a function left in an object: they stand for values that exist only while it is traced.

References are counted. A Value that is held by more than the Values and the graph of its trace is searched for, first from the
function and its arguments, so that it can be named as the user does, then from the Value. Nothing is changed.
"""

from __future__ import annotations

import dis
import gc
import re
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import _lru_cache_wrapper, partial
from types import (
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import Any

from gradc.errors import Source, TraceError, is_internal
from gradc.ir import Graph, Value, topological

Place = tuple[str, Any]  # a name as the user would write it, and what stands there

LIMIT = 50_000  # objects that are looked at
CLOSED = frozenset(("builtins", "gradc", "ml_dtypes", "numpy", "optree", "scipy", "sympy", "torch", "triton"))
LEAVES = (bool, int, float, complex, str, bytes, type(None), Value, CodeType, BaseException)
STORES = ("_parameters", "_buffers", "_modules")  # of a torch.nn.Module, whose entries look like attributes
PASSING = (BaseException, FrameType, GeneratorType, TracebackType, Value, Graph)  # what holds a Value in passing, or by right
ASSIGNMENTS = ("STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF", "STORE_NAME")


def refuse_left_behind(function: Any, arguments: Iterable[Place], made: list[Value], graph: Graph, start: int) -> None:
    """Raises TraceError where one of the Values `made` in a trace, numbered from `start`, is still held by an object.

    `made` is emptied. Of the trace only `graph` may hold Values by now.
    """
    values = [value for value in topological((*made, *graph.outputs)) if value.number > start]
    made.clear()
    if not _held(values, graph):
        return
    gc.collect()  # a local function that calls itself is a circle, and holds what it closes over until it is collected
    held = _held(values, graph)
    if not held:
        return
    search = _Search({id(value) for value in held})
    found = search.run([*arguments, ("", function)]) or _held_by(held, {id(held), id(values), *_own_tuples(values, graph)})
    if found is None:
        return
    where, value = found
    name = f"the array {value.name!r}" if value.name else "an array"
    raise TraceError(
        f"{name} of the trace was left in {where}; it stands for a value only while the function is traced",
        advice="Return it, and assign it where the function is called: what a compiled function leaves in an object is not an array.",
        source=_assignment(where, search.codes) or value.source,
    )


def _own_tuples(values: Sequence[Value], graph: Graph) -> dict[int, tuple[Value, ...]]:
    """The tuples of Values that belong to the trace itself, by address."""
    tuples = (graph.inputs, graph.outputs, graph.values, *(value.operands for value in values))
    return {id(each): each for each in tuples}


def _held(values: Sequence[Value], graph: Graph) -> list[Value]:
    """The Values with more references than `values`, the graph and each other."""
    own = Counter(id(value) for each in _own_tuples(values, graph).values() for value in each)
    probe = [object()]
    (alone,) = [sys.getrefcount(probe[i]) for i in range(1)]
    return [values[i] for i in range(len(values)) if sys.getrefcount(values[i]) - own[id(values[i])] > alone]


class _Search:
    """From objects the user can name to one of `targets`, breadth first. `codes` are those of the functions met."""

    def __init__(self, targets: set[int]):
        self.targets = targets
        self.codes: list[CodeType] = []
        self.seen: set[int] = set()

    def run(self, places: Iterable[Place]) -> Place | None:
        queue = deque(places)
        while queue and len(self.seen) < LIMIT:
            name, thing = queue.popleft()
            if id(thing) in self.targets:
                return name, thing
            if id(thing) not in self.seen and not isinstance(thing, LEAVES):
                self.seen.add(id(thing))
                queue.extend(self._inside(name, thing))
        return None

    def _inside(self, name: str, thing: Any) -> Iterator[Place]:
        kind = type(thing)
        if kind is FunctionType:
            yield from self._of_function(thing)
        elif issubclass(kind, MethodType):
            yield _parameters(thing.__func__, 1)[0], thing.__self__
            yield name, thing.__func__
        elif issubclass(kind, partial):
            yield name, thing.func
            yield from zip(_parameters(thing.func, len(thing.args)), thing.args, strict=True)
            yield from thing.keywords.items()
        elif issubclass(kind, _lru_cache_wrapper):
            yield name, thing.__wrapped__
            for held in gc.get_referents(thing):
                yield from ((f"the cache of {thing.__name__}", x) for x in (held.values() if type(held) is dict else (held,)))
        elif issubclass(kind, ContextVar):
            yield f"{name}.get()", thing.get(None)
        elif issubclass(kind, type):
            yield from _of_class(thing)
        elif not issubclass(kind, ModuleType):
            yield from _elements(name, thing)
            yield from _attributes(name, thing)

    def _of_function(self, function: FunctionType) -> Iterator[Place]:
        code, store = function.__code__, function.__globals__
        cells = function.__closure__ or ()
        for name, cell in zip(code.co_freevars, cells, strict=True):
            yield name, _content(cell)
        if is_internal(code.co_filename):
            return
        names = [*_names(code)]
        self.codes.append(code)
        for name in names:
            yield name, store.get(name)
            if isinstance(module := store.get(name), ModuleType) and not _is_closed(module.__name__):
                yield from ((f"{name}.{inner}", vars(module)[inner]) for inner in names if inner in vars(module))
        defaults = function.__defaults__ or ()
        yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
        yield from (function.__kwdefaults__ or {}).items()
        yield from ((f"{function.__name__}.{name}", x) for name, x in vars(function).items())


def _parameters(function: Any, count: int) -> list[str]:
    """The names of the first parameters of a function, as far as it has them."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code else []
    return (names + ["an argument of a partial"] * count)[:count]


def _of_class(kind: type) -> Iterator[Place]:
    if _is_closed(kind.__module__):
        return
    for name, member in tuple(vars(kind).items()):
        behind = getattr(member, "fget", None) or getattr(member, "__func__", None) or getattr(member, "func", None) or member
        yield f"{kind.__name__}.{name}", behind
    yield from ((base.__name__, base) for base in kind.__bases__)


def _elements(name: str, thing: Any) -> Iterator[Place]:
    """What a container holds."""
    if isinstance(thing, dict | MappingProxyType):
        yield from ((f"{name}[{key!r}]", x) for key, x in tuple(thing.items()))
    elif isinstance(thing, list | tuple | deque):
        yield from ((f"{name}[{i}]", x) for i, x in enumerate(tuple(thing)))
    elif isinstance(thing, set | frozenset):
        yield from ((name, x) for x in tuple(thing))


def _attributes(name: str, thing: Any) -> Iterator[Place]:
    kind = type(thing)
    own = getattr(thing, "__dict__", None)
    for key, x in tuple(own.items()) if isinstance(own, dict) else ():
        if key in STORES and isinstance(x, dict):
            yield from ((f"{name}.{inner}", y) for inner, y in tuple(x.items()))
        elif not kind.__module__.startswith("gradc") or key == "__wrapped__":
            yield (name if key == "__wrapped__" else f"{name}.{key}"), x
    for base in kind.__mro__ if not _is_closed(kind.__module__) else ():
        slots = vars(base).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if not slot.startswith("__") and hasattr(thing, slot):
                yield f"{name}.{slot}", getattr(thing, slot)
    yield kind.__name__, kind


def _held_by(values: list[Value], own: set[int]) -> Place | None:
    """What holds one of the Values, found upward from them: an attribute, a global or a cache. None where all hold it in passing."""
    level: list[Any] = list(values)
    below = {id(value) for value in values}
    for _ in range(4):
        held = [each for each in gc.get_referrers(*level) if each is not level and id(each) not in own]
        level = [each for each in held if not isinstance(each, PASSING) and not _is_of_gradc(each)]
        for each in level:
            if label := _label(each, below):
                return label, values[0]
        below |= {id(each) for each in level}
    return None


def _label(holder: Any, below: set[int]) -> str:
    """A name for what holds one of the objects `below`; "" for a container or a cell, which others hold in turn."""
    if isinstance(holder, _lru_cache_wrapper):
        return f"the cache of {holder.__name__}"
    if isinstance(holder, dict):
        module = sys.modules.get(str(holder.get("__name__")))
        if module is None or vars(module) is not holder or _is_closed(module.__name__):
            return ""
        return next((f"{module.__name__}.{name}" for name, x in holder.items() if id(x) in below), "")
    if isinstance(holder, list | tuple | set | frozenset | deque | CellType | FunctionType | ModuleType):
        return ""
    own = getattr(holder, "__dict__", {})
    kind = holder if isinstance(holder, type) else type(holder)
    return next((f"{kind.__name__}.{name}" for name, x in own.items() if id(x) in below), f"a {kind.__name__}")


def _is_of_gradc(thing: Any) -> bool:
    """Whether an object, or a function with a cache, is one of gradc's own."""
    module = thing.__module__ if isinstance(thing, _lru_cache_wrapper) else type(thing).__module__
    return isinstance(module, str) and module.partition(".")[0] == "gradc"


def _is_closed(module: Any) -> bool:
    """Whether the contents of a module are not looked at."""
    root = module.partition(".")[0] if isinstance(module, str) else "builtins"
    return root in CLOSED or (root in sys.stdlib_module_names and root != "__main__")


def _names(code: CodeType) -> dict[str, None]:
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is assigned later
        return None


def _assignment(where: str, codes: Sequence[CodeType]) -> Source | None:
    """Where the functions met assign the attribute or the variable that ends a name."""
    last = re.search(r"(\w+)$", where)
    if last is None:
        return None
    for code in codes:
        for step in _steps(code):
            if step.opname in ASSIGNMENTS and step.argval == last.group(1) and step.positions and step.positions.lineno:
                at = step.positions
                return Source(code.co_filename, at.lineno, at.col_offset, at.end_col_offset, code.co_name, at.end_lineno)  # type: ignore[arg-type]
    return None


def _steps(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _steps(constant)
