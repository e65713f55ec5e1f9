"""What a function refers to besides its arguments: a program traced with other values of these is another program.

Followed are closures, globals, defaults, functions wherever they are kept, methods, what containers hold, and the attributes that
the code names. Plain values count by value, everything else by identity. Elements of arrays are read at each call and do not
count. Nothing is written, and no code of the user's is run.
"""

from __future__ import annotations

import marshal
import sys
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial, partialmethod
from hashlib import blake2b
from importlib.util import resolve_name
from operator import attrgetter, methodcaller
from threading import local
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, MethodWrapperType, ModuleType
from typing import Any

from gradc.errors import is_internal
from gradc.runtime.ambient import ambient, ambient_names
from gradc.runtime.kinds import (
    ATTRIBUTES,
    EXACT,
    LISTS,
    MAPPINGS,
    PLAIN,
    VALUE,
    VIEWS,
    Kind,
    is_library,
    is_sealed,
    kind_of,
    root_of,
)
from gradc.runtime.lookups import EVERY_ATTRIBUTE, EVERY_GLOBAL, EVERY_MODULE, WORD, Names, lookups_in
from gradc.signature import hashes

DEPTH = 32  # of attributes of attributes, and of containers in containers
WORK = 20_000  # objects that one walk visits
FEW = 32  # elements of a container that are looked at one by one; a longer one of plain values counts by its digest
IMPLIED: Names = dict.fromkeys(
    ("__call__", "__getattr__", "__getitem__", "__init__", "__wrapped__", "forward")
)  # read without being named
UNREAD = frozenset(
    ("__repr__", "__del__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")
)  # no results come of them
MODULE_STORES = ("_parameters", "_buffers", "_modules")  # where a torch.nn.Module keeps what looks like attributes


@dataclass(frozen=True)
class Unfollowed:
    """Something a function refers to whose changes cannot be seen: `name` in `code` leads to it."""

    code: CodeType | None
    name: str
    why: str


def closed_over(
    function: Any, arguments: Iterable[Any] = (), names: Names = IMPLIED
) -> tuple[Hashable, tuple[Any, ...], Names]:
    """A key for what a function and `arguments` refer to, the objects that key knows by address, and the names looked up.

    An attribute counts when any of the functions that are reached names it. Passing the `names` of the last time saves a round.
    """
    search = _searched(function, tuple(arguments), names)
    return search.found, tuple(search.held), search.names


def unfollowed(function: Any, arguments: Iterable[Any] = (), names: Names = IMPLIED) -> list[Unfollowed]:
    """What a function and `arguments` refer to whose changes `closed_over` cannot see."""
    return _searched(function, tuple(arguments), names).missed


def _searched(function: Any, arguments: tuple[Any, ...], names: Names) -> _Search:
    while True:
        search = _Search(names, root_of(getattr(getattr(function, "func", function), "__module__", "")))
        search.found = (
            search.key(function),
            tuple([search.key(argument) for argument in arguments]),
            ambient(names),
        )
        if search.met.keys() <= names.keys():
            return search
        names = {**names, **search.met}


class _Search:
    """One walk over all that can be reached. `names` are the attributes to read, `met` the names in the functions met.

    `home` is the package of the function itself: its functions are followed wherever they are installed.
    """

    def __init__(self, names: Names, home: str):
        self.names, self.home = names, home
        self.whole = EVERY_ATTRIBUTE in names
        self.met: dict[str, None] = {}
        self.held: list[Any] = []
        self.seen: dict[int, int] = {}
        self.found: Hashable = None
        self.missed: list[Unfollowed] = []
        self.place: tuple[CodeType | None, str] = (None, "")

    def key(self, value: Any, depth: int = 0) -> Hashable:
        kind = type(value)
        if kind in EXACT:
            return kind, repr(value) if kind is float else value
        number = self.seen.get(id(value))
        if number is not None:
            return "seen", number
        if len(self.seen) > WORK or depth > DEPTH:
            self._miss(f"more than {WORK} objects" if depth <= DEPTH else f"objects nested more than {DEPTH} deep")
            return self._address(value)
        self.seen[id(value)] = len(self.seen)
        if kind is FunctionType:
            return self._function(value)
        if kind in LISTS or kind in VIEWS:
            return kind, self._items(value, depth)
        if kind in MAPPINGS:
            return kind, self._entries(value, depth)
        sort = kind_of(kind, self.home)  # type: ignore[arg-type]  # types hash, which mypy does not know
        if sort.is_plain:
            return kind, value if kind is bytes else repr(value)
        if sort.is_array:
            return self._address(value)
        return self._stands_for(value, kind, depth) if sort.is_stand_in else self._object(value, kind, sort, depth)

    def _address(self, value: Any) -> Hashable:
        self.held.append(value)
        return id(value)

    def _miss(self, why: str) -> None:
        if not any(self.place == (each.code, each.name) for each in self.missed):
            self.missed.append(Unfollowed(*self.place, why))

    def _items(self, values: Iterable[Any], depth: int) -> Hashable:
        items = tuple(values)
        if len(items) > FEW and EXACT.issuperset(map(type, items)):
            return blake2b(marshal.dumps(items, 2)).digest()
        return tuple([self.key(item, depth + 1) for item in items])

    def _entries(self, mapping: Any, depth: int) -> Hashable:
        ordered = isinstance(mapping, OrderedDict | MappingProxyType)  # others may have an `items` of the user's
        entries = tuple(mapping.items() if ordered else dict.items(mapping))
        if len(entries) > FEW and all(type(name) in EXACT and type(item) in EXACT for name, item in entries):
            return blake2b(marshal.dumps(entries, 2)).digest()
        return tuple(
            [(name if type(name) is str else self.key(name, depth + 1), self.key(item, depth + 1)) for name, item in entries]
        )

    def _function(self, function: FunctionType) -> Hashable:
        """By its code and what that reads, so that a function made again from the same text is the same."""
        code, store = function.__code__, function.__globals__
        if is_internal(code.co_filename):
            if _is_public(function):
                return self._address(function)
            return self._address(code), self._cells(function), self._defaults(function)
        if is_library(store.get("__name__"), self.home):
            self.met.update(ambient_names(function))
            return self._address(code), self._cells(function)
        lookups = lookups_in(code)
        self.met.update(lookups.names)
        own = self._read(function.__dict__, self.names, 0) if function.__dict__ else ()
        cells, defaults = self._cells(function), self._defaults(function)
        modules = tuple([self._module(name, level, store) for name, level in lookups.imports]) if lookups.imports else ()
        names = lookups.names if EVERY_GLOBAL not in lookups.names else {name: None for name in store if name[:2] != "__"}
        return self._address(code), cells, defaults, own, modules, self._read(store, names, -1, code)

    def _cells(self, function: FunctionType) -> Hashable:
        if not function.__closure__:
            return ()
        code = function.__code__
        cells = zip(code.co_freevars, map(_content, function.__closure__), strict=True)
        return tuple([(name, self._placed(code, name, content)) for name, content in cells])

    def _placed(self, code: CodeType, name: str, value: Any) -> Hashable:
        before, self.place = self.place, (code, name)
        key = self.key(value)
        self.place = before
        return key

    def _defaults(self, function: FunctionType) -> Hashable:
        if not function.__defaults__ and not function.__kwdefaults__:
            return ()
        return self.key(function.__defaults__), self.key(function.__kwdefaults__)

    def _module(self, name: str, level: int, store: Mapping[str, Any]) -> Hashable:
        """A module that is imported inside a function; it may not be loaded yet."""
        if name == EVERY_MODULE:
            return tuple([self.key(each) for each in tuple(sys.modules.values()) if isinstance(each, ModuleType)])
        package = store.get("__package__") or ""
        return self.key(sys.modules.get(resolve_name("." * level + name, package) if level and package else name))

    def _stands_for(self, value: Any, kind: type, depth: int) -> Hashable:
        """What is called in place of a function, or stands for another object."""
        if issubclass(kind, MethodType):
            return self.key(value.__func__), self.key(value.__self__, depth)
        if issubclass(kind, BuiltinFunctionType | MethodWrapperType):
            owner = value.__self__
            self.met.update(ambient_names(value))
            return self._address(value) if owner is None or isinstance(owner, ModuleType) else (value.__name__, self.key(owner))
        if issubclass(kind, partial | partialmethod):
            return kind, self.key(value.func), self.key(value.args, depth), self.key(value.keywords, depth)
        if issubclass(kind, attrgetter | methodcaller):
            self.met.update(dict.fromkeys(WORD.findall(repr(value))))
            return kind, repr(value)
        if issubclass(kind, weakref.ReferenceType):
            return kind, self.key(value(), depth)
        if issubclass(kind, weakref.ProxyTypes):
            return kind, self.key(_referent(value), depth)
        return kind, self._address(value), self.key(value.get(None), depth)

    def _object(self, value: Any, kind: type, sort: Kind, depth: int) -> Hashable:
        """Any object: what it holds as a container, and its attributes that are read."""
        if issubclass(kind, ModuleType):
            return self._address(value), self._opened(value, depth)
        if issubclass(kind, type):
            return self._address(value), self._class(value, depth)
        if issubclass(kind, PLAIN):
            held: Hashable = repr(value)
        elif issubclass(kind, LISTS):
            held = self._items(value, depth)
        elif issubclass(kind, MAPPINGS):
            held = self._entries(value, depth)
        else:
            held = self._itself(value, sort), bytes(memoryview(value)) if sort.is_buffer else None
        if sort.hidden and sort.is_hidden(value):
            self._miss(sort.hidden)
        return held, self.key(kind), self._attributes(value, sort, depth)

    def _itself(self, value: Any, sort: Kind) -> Hashable:
        """An object by its value, where its class compares so; where that class is the user's, its attributes say it."""
        if sort.equality == VALUE and hashes(value):
            return value
        return None if sort.equality == ATTRIBUTES else self._address(value)

    def _opened(self, module: ModuleType, depth: int) -> Hashable:
        if is_sealed(module.__name__):
            return ()
        own = () if type(module) is ModuleType else self.key(type(module))
        return own, self._read(vars(module), self.names, depth)

    def _attributes(self, value: Any, sort: Kind, depth: int) -> Hashable:
        own = _own(value)
        every = sort.is_whole or (self.whole and sort.is_open) or not self.names.keys().isdisjoint(sort.properties)
        names: Mapping[str, Any] = own if every else self.names
        plain = (
            [(name, self.key(x, depth + 1)) for name, x in tuple(own.items()) if type(x) in sort.counted]
            if sort.counted
            else ()
        )
        stores = [own[store] for store in MODULE_STORES if store in own]
        inside = [self._read(s, s if sort.is_library else names, depth) for s in stores if isinstance(s, dict)]
        slots = {name: _behind_slot(value, slot) for name, slot in sort.slots if every or name in self.names}
        return self._read(own, names, depth), *plain, *inside, self._read(slots, slots, depth)

    def _class(self, kind: type, depth: int) -> Hashable:
        if is_library(kind.__module__, self.home):
            return ()
        members = {name: _behind(member) for name, member in tuple(vars(kind).items()) if self._counts(name, member)}
        meta = () if type(kind) is type else self.key(type(kind), depth)
        return self._read(members, members, depth), meta, *(self.key(base, depth) for base in kind.__bases__)

    def _counts(self, name: str, member: Any) -> bool:
        """Whether a member of a class is read: when it is named, and what operators and statements call without its name."""
        if name in self.names:
            return True
        if name.startswith("__"):
            return type(member) is FunctionType and name not in UNREAD
        return self.whole

    def _read(self, store: Mapping[str, Any], names: Mapping[str, Any], depth: int, code: CodeType | None = None) -> Hashable:
        """The values under those of `names` that are there. `code` reads them as its globals."""
        if len(store) < len(names):
            found = [name for name in tuple(store) if name in names]
        else:
            found = [name for name in tuple(names) if name in store]
        if code is not None:
            return tuple([(name, self._placed(code, name, store[name])) for name in found])
        return tuple([(name, self.key(store[name], depth + 1)) for name in found])


def _is_public(function: FunctionType) -> bool:
    """Whether one of gradc's own functions stands in its module under its name, and so is none that a transform made."""
    module = function.__module__ or ""
    return root_of(module) == "gradc" and getattr(sys.modules.get(module), function.__name__, None) is function


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is assigned later
        return ...


def _own(value: Any) -> dict[str, Any]:
    """The attributes of an object itself, past any `__getattribute__` of its class."""
    try:
        own = value.__dict__ if issubclass(type(value), local) else object.__getattribute__(value, "__dict__")
    except (AttributeError, TypeError):
        return {}
    return own if isinstance(own, dict) else {}


def _behind(member: Any) -> Any:
    """The function behind what stands in a class."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member.func if isinstance(member, cached_property) else member


def _behind_slot(value: Any, slot: Any) -> Any:
    try:
        return slot.__get__(value)
    except (AttributeError, TypeError):
        return ...


def _referent(proxy: Any) -> Any:
    """What a weak proxy stands for."""
    try:
        return proxy.__init__.__self__
    except ReferenceError:
        return None


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
