"""Kinds of objects a function can refer to, for the walk in `closure.py`: whose they are, and which of their attributes count.

Three sorts of modules: the user's own, whose functions and classes are followed; installed packages, of which only what is named
is read; and the standard library and gradc's own foundations, which are taken to stay as they are.
"""

from __future__ import annotations

import io
import sys
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache, partial, partialmethod
from operator import attrgetter, methodcaller
from pathlib import Path
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
)
from typing import Any

from gradc.leaves import is_array_kind

LIBRARIES = frozenset(("gradc", "jax", "ml_dtypes", "numpy", "optree", "scipy", "sympy", "torch", "triton"))
INSTALLED = frozenset(("site-packages", "dist-packages"))
PLAIN_BASES = frozenset(("abc", "builtins", "collections.abc", "typing"))  # of the standard library, keeping nothing
COMPUTING = ("__contains__", "__getattr__", "__getattribute__", "__getitem__", "__iter__")  # reading what is not named

ADDRESS, VALUE, ATTRIBUTES = "address", "value", "attributes"

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), slice, range)
EXACT: frozenset[type] = frozenset((bool, int, float, str, type(None)))
LISTS = (list, tuple, set, frozenset, deque)
MAPPINGS = (dict, OrderedDict, defaultdict, Counter, MappingProxyType)
_EMPTY: dict[Any, Any] = {}
STAND_INS = (
    MethodType, BuiltinFunctionType, MethodWrapperType, partial, partialmethod, attrgetter, methodcaller,
    weakref.ReferenceType, *weakref.ProxyTypes, ContextVar,
)  # fmt: skip
VIEWS = (type(_EMPTY.keys()), type(_EMPTY.values()), type(_EMPTY.items()))


@dataclass(frozen=True)
class Kind:
    """What of an object counts. `slots` are its descriptors by name; a stand-in is read through, to what it calls or refers to.

    `is_whole`: every attribute, since methods that are not followed read them; `is_open`: every one that a computed name may
    mean; `counted`: those of such types, since
    methods read them, as `properties` may any. `equality`: what two equal ones have in common. `hidden` says what of it cannot be followed.
    """

    is_plain: bool
    is_array: bool
    is_stand_in: bool
    is_library: bool
    counted: tuple[type, ...]
    properties: frozenset[str]
    is_open: bool
    is_whole: bool
    is_buffer: bool
    equality: str
    hidden: str
    slots: tuple[tuple[str, Any], ...]

    def is_hidden(self, value: Any) -> bool:
        """False for a file that is only written to."""
        return not isinstance(value, io.IOBase) or (not value.closed and value.readable())


@lru_cache(maxsize=4096)
def kind_of(kind: type, home: str) -> Kind:
    """The Kind of a class, as seen from the package `home`."""
    library = is_library(kind.__module__, home)
    foreign = [base for base in kind.__mro__ if _is_foreign(base, home)]
    return Kind(
        is_plain=library and issubclass(kind, PLAIN),
        is_array=is_array_kind(kind),
        is_stand_in=issubclass(kind, STAND_INS),
        is_library=library,
        is_open=not library or kind.__name__ in ("SimpleNamespace", "Namespace"),
        is_whole=any(_computes(base) for base in foreign) or issubclass(kind, Enum),
        is_buffer=_is_buffer(kind),
        counted=_counted(foreign),
        properties=frozenset(name for base in foreign for name, member in vars(base).items() if isinstance(member, property)),
        equality=ADDRESS if _is_buffer(kind) else _equality(kind, home),
        hidden=_hidden(kind) if library else "",
        slots=tuple((name, slot) for base in kind.__mro__ for name, slot in vars(base).items() if _is_slot(name, slot)),
    )


def _is_foreign(base: type, home: str) -> bool:
    """Whether methods of a class are not followed, though they may read attributes of their own."""
    module = base.__module__
    return is_library(module, home) and module not in PLAIN_BASES and root_of(module) not in LIBRARIES


def _counted(foreign: Sequence[type]) -> tuple[type, ...]:
    """Types of the values that methods of such classes are taken to read: few where they are Python's own, which keep much."""
    if all(is_sealed(base.__module__) for base in foreign):
        return tuple(EXACT) if foreign else ()
    return (*EXACT, *LISTS, *MAPPINGS)


def _computes(base: type) -> bool:
    """Whether a class reads attributes by rules of its own."""
    return any(isinstance(vars(base).get(name), FunctionType) for name in COMPUTING)


def _is_buffer(kind: type) -> bool:
    """Whether objects are bytes that may change."""
    return any(base.__module__ in ("array", "_ctypes") or base in (bytearray, memoryview) for base in kind.__mro__)


def _equality(kind: type, home: str) -> str:
    """Who says when two objects are equal: nobody (then they are the same object), a library, or the user."""
    owner = next(base for base in kind.__mro__ if "__hash__" in vars(base))
    if owner is object or not isinstance(vars(owner)["__hash__"], FunctionType | WrapperDescriptorType):
        return ADDRESS
    return VALUE if is_library(owner.__module__, home) else ATTRIBUTES


def _hidden(kind: type) -> str:
    """What of a library's object cannot be followed; "" for nothing."""
    if issubclass(kind, Iterator):
        return "an iterator, of which each element is taken once"
    if hasattr(kind, "__array__") and not is_sealed(kind.__module__):
        return f"a {root_of(kind.__module__)}.{kind.__name__}, whose elements are read once"
    return ""


def _is_slot(name: str, slot: Any) -> bool:
    return isinstance(slot, MemberDescriptorType) and not name.startswith("__")


def root_of(module: Any) -> str:
    """The package of a module; that of Python's own types for what says something else there."""
    return module.partition(".")[0] if isinstance(module, str) else "builtins"


@cache
def is_sealed(module: Any) -> bool:
    """Whether all that a module contains is taken to stay as it is."""
    root = root_of(module)
    return root in LIBRARIES or (root in sys.stdlib_module_names and root != "__main__")


@lru_cache(maxsize=4096)
def is_library(module: Any, home: str = "") -> bool:
    """Whether functions and classes of a module are taken to stay as they are: it is installed, and not part of `home`."""
    root = root_of(module)
    return is_sealed(root) or (root != home and _is_in_packages(root))


@cache
def _is_in_packages(root: str) -> bool:
    module = sys.modules.get(root)
    places = (getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ()))
    return any(place and is_installed(place) for place in places)


@lru_cache(maxsize=4096)
def is_installed(file: str) -> bool:
    """Whether a file lies among installed packages."""
    return not INSTALLED.isdisjoint(Path(file).parts)
