"""What a function refers to besides its arguments: a program traced with other values of these is another program.

Followed are closures, globals, defaults, functions wherever they are kept, methods, and the attributes that the code names. Plain
values count by value, everything else by identity. Elements of arrays are read at each call and do not count. Nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Mapping
from functools import cache, cached_property, partial
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from gradc.errors import is_internal
from gradc.leaves import is_array

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), slice)
EXACT = frozenset((bool, int, float, str, type(None)))
DEPTH = 6  # of attributes of attributes, and of containers in containers
LIBRARIES = frozenset(("gradc", "jax", "ml_dtypes", "numpy", "optree", "scipy", "sympy", "torch", "triton"))
IMPLIED: Mapping[str, None] = dict.fromkeys(
    ("__call__", "__getitem__", "__init__", "__wrapped__", "forward")
)  # what code reads without its name
MODULE_STORES = ("_parameters", "_buffers", "_modules")  # where a torch.nn.Module keeps what looks like attributes

Names = Mapping[str, None]  # a set in a fixed order


def closed_over(
    function: Any, arguments: Iterable[Any] = (), names: Names = IMPLIED
) -> tuple[Hashable, tuple[Any, ...], Names]:
    """A key for what a function and `arguments` refer to, the objects that key knows by address, and the names looked up.

    An attribute counts when any of the functions that are reached names it. Passing the `names` of the last time saves a round.
    """
    while True:
        search = _Search(names)
        key = (search.key(function), *(search.key(argument) for argument in arguments))
        if search.met.keys() <= names.keys():
            return key, tuple(search.held), names
        names = {**names, **search.met}


class _Search:
    """One walk over all that can be reached. `names` are the attributes to read, `met` the names in the functions met."""

    def __init__(self, names: Names):
        self.names = names
        self.met: dict[str, None] = {}
        self.held: list[Any] = []
        self.seen: dict[int, int] = {}

    def key(self, value: Any, depth: int = 0) -> Hashable:
        kind = type(value)
        if kind in EXACT or isinstance(value, PLAIN):
            return kind, repr(value) if isinstance(value, float | complex | slice) else value
        number = self.seen.get(id(value))
        if number is not None:
            return "seen", number
        self.held.append(value)
        if kind is FunctionType:
            return self._function(value)
        if (kind is ModuleType and is_library(value.__name__)) or depth > DEPTH or is_array(value):
            return id(value)
        if isinstance(value, tuple | list | set | frozenset):
            return kind, tuple([self.key(item, depth + 1) for item in value])
        if isinstance(value, dict):
            return kind, self._read(value, value, depth)
        self.seen[id(value)] = len(self.seen)
        if kind is MethodType:
            return self.key(value.__func__), self.key(value.__self__, depth)
        if isinstance(value, partial):
            return "partial", self.key(value.func), self.key(value.args, depth), self.key(value.keywords, depth)
        return id(value), self._attributes(value, depth)

    def _function(self, function: FunctionType) -> Hashable:
        """By its code and what that reads, so that a function made again from the same text is the same."""
        code, module = function.__code__, function.__module__ or ""
        if is_library(module) and (not module.startswith("gradc") or _is_public(function)):
            return id(function)
        self.seen[id(function)] = len(self.seen)
        cells = tuple([self.key(_content(cell)) for cell in function.__closure__]) if function.__closure__ else ()
        defaults = self.key(function.__defaults__), self.key(function.__kwdefaults__)
        if is_internal(code.co_filename):
            return id(code), cells, defaults
        names = names_in(code)
        self.met.update(names)
        return id(code), cells, defaults, self._read(function.__globals__, names, -1)

    def _attributes(self, value: Any, depth: int) -> Hashable:
        kind = value if isinstance(value, type) else type(value)
        if isinstance(value, ModuleType):
            return () if is_library(value.__name__) else self._read(vars(value), self.names, depth)
        if isinstance(value, type):
            return self._class(value, depth)
        names = IMPLIED if is_library(kind.__module__) else self.names
        own = getattr(value, "__dict__", {})
        stores = [own[store] for store in MODULE_STORES if store in own]
        inside = [self._read(store, store if names is IMPLIED else names, depth) for store in stores if isinstance(store, dict)]
        slots = [self._read(_slots(value, part), self.names, depth) for part in kind.__mro__ if "__slots__" in vars(part)]
        return self.key(kind), self._read(own, names, depth), *inside, *slots

    def _class(self, kind: type, depth: int) -> Hashable:
        if is_library(kind.__module__):
            return ()
        members = {name: _behind(member) for name, member in vars(kind).items() if name in self.names}
        return self._read(members, members, depth), *(self.key(base, depth) for base in kind.__bases__)

    def _read(self, store: Mapping[str, Any], names: Mapping[str, Any], depth: int) -> Hashable:
        """The values under those of `names` that are there."""
        if len(store) < len(names):
            found = [name for name in tuple(store) if name in names]
        else:
            found = [name for name in tuple(names) if name in store]
        return tuple([(name, self.key(store[name], depth + 1)) for name in found])


def _is_public(function: FunctionType) -> bool:
    """Whether a function stands in its module under its name, and so is none that a transform made."""
    return getattr(sys.modules.get(function.__module__), function.__name__, None) is function


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is assigned later
        return ...


def _behind(member: Any) -> Any:
    """The function behind what stands in a class."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member.func if isinstance(member, cached_property) else member


def _slots(value: Any, kind: type) -> dict[str, Any]:
    """What an object keeps in the `__slots__` of one of its classes."""
    return {name: getattr(value, name, ...) for name, slot in vars(kind).items() if isinstance(slot, MemberDescriptorType)}


@cache
def is_library(module: str | None) -> bool:
    """Whether a module's contents are taken to stay as they are."""
    root = (module or "builtins").partition(".")[0]
    return root in LIBRARIES or (root in sys.stdlib_module_names and root != "__main__")


_NAMES: dict[int, tuple[CodeType, Names]] = {}  # by address, as hashing code is slow; each is kept alive here


def names_in(code: CodeType) -> Names:
    """Names a function or a function inside it may look up globally or as attributes."""
    if id(code) not in _NAMES:
        names = dict.fromkeys(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                names.update(names_in(constant))
        _NAMES[id(code)] = code, names
    return _NAMES[id(code)][1]


def describe_change(before: tuple[Any, ...], now: tuple[Any, ...]) -> str:
    """Why a call did not find its program: what differs from the last one made."""
    (old_key, old_backend, old_outside), (key, backend, outside) = before, now
    reasons = []
    if old_backend != backend:
        reasons.append(f"backend {old_backend} became {backend}")
    if outside != old_outside:
        reasons.append("a value it closes over changed")
    if len(key) != len(old_key) or key[0] != old_key[0]:
        reasons.append(f"the arguments' structure changed from {old_key[0]} to {key[0]}")
    else:
        pairs = enumerate(zip(old_key[1:], key[1:], strict=True))
        reasons += [f"argument leaf {i}: {_said(old)} became {_said(new)}" for i, (old, new) in pairs if old != new]
    return "made again: " + ("; ".join(reasons) or "no program for these arguments yet")


def _said(part: Any) -> str:
    return " ".join(str(item) for item in part if item is not None) if isinstance(part, tuple) else str(part)
