"""What a function refers to besides its arguments: a program traced with other values of these is another program.

Numbers and other plain values count by value, everything else by identity. Arrays are read at each call, so their contents
do not count. Nothing is ever written here.
"""

from __future__ import annotations

from collections.abc import Hashable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from gradc.errors import is_internal
from gradc.leaves import is_array

PLAIN = (bool, int, float, str, bytes, type(None))


def closed_over(function: Any, arguments: tuple = ()) -> tuple[Hashable, tuple[Any, ...]]:
    """A key for what a function, and the functions it names, refer to besides arguments; and the objects that key knows by address.

    Counted are closures, global values that are data, and the attributes read of objects among these and `arguments`.
    """
    key: list[Hashable] = []
    held: list[Any] = []
    _collect(function, arguments, key, held, set())
    return tuple(key), tuple(held)


def _collect(function: Any, arguments: tuple, key: list[Hashable], held: list[Any], seen: set[CodeType]) -> None:
    while hasattr(function, "__wrapped__") or hasattr(function, "func"):
        function = getattr(function, "__wrapped__", None) or function.func
    code = getattr(function, "__code__", None)
    if code is None or code in seen or is_internal(code.co_filename):
        return
    seen.add(code)
    names = _names(code)
    found = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    found += [value for name in names if (value := function.__globals__.get(name)) is not None]
    for value in (*found, *arguments):
        if isinstance(value, FunctionType) or hasattr(value, "__wrapped__"):
            _collect(value, (), key, held, seen)
        elif not isinstance(value, ModuleType | type | BuiltinFunctionType):
            key.append(_key(value, names))
            if not isinstance(value, PLAIN):
                held.append(value)


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a variable that is assigned later
        return False
    return True


def _key(value: Any, names: tuple[str, ...]) -> Hashable:
    if isinstance(value, PLAIN):
        return type(value), repr(value) if isinstance(value, float) else value
    if isinstance(value, tuple | list):
        return type(value), tuple(_key(item, names) for item in value)
    if isinstance(value, dict):
        return dict, tuple((name, _key(item, names)) for name, item in value.items())
    attributes = getattr(value, "__dict__", None)
    if not attributes or is_array(value):
        return id(value)
    read = tuple((name, _key(attributes[name], ())) for name in names if isinstance(attributes.get(name, ...), (*PLAIN, tuple, list)))
    return id(value), read


_NAMES: dict[CodeType, tuple[str, ...]] = {}


def _names(code: CodeType) -> tuple[str, ...]:
    """Names a function or a function inside it may look up globally or as attributes."""
    if code not in _NAMES:
        inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
        _NAMES[code] = tuple(dict.fromkeys((*code.co_names, *inner)))
    return _NAMES[code]


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
