"""What a function refers to besides its arguments: a program traced with other values of these is another program.

Numbers and other plain values count by value, everything else by identity. Arrays are read at each call, so their contents
do not count. Nothing is ever written here.
"""

from __future__ import annotations

from collections.abc import Hashable
from types import CodeType
from typing import Any

from gradc.leaves import is_array

PLAIN = (bool, int, float, str, bytes, type(None))


def closed_over(function: Any) -> tuple[Hashable, tuple[Any, ...]]:
    """A key for the closure and the global values a function names, and the objects that key knows by address."""
    while hasattr(function, "func"):
        function = function.func
    code = getattr(function, "__code__", None)
    if code is None:
        return (), ()
    found = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    found += [value for name in _global_names(code) if _counts(value := function.__globals__.get(name))]
    return tuple(_key(value) for value in found), tuple(value for value in found if not isinstance(value, PLAIN))


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a variable that is assigned later
        return False
    return True


def _counts(value: Any) -> bool:
    """Globals that are data; modules, classes and functions are taken as they are."""
    return (isinstance(value, PLAIN) and value is not None) or isinstance(value, tuple | list | dict) or is_array(value)


def _key(value: Any) -> Hashable:
    if isinstance(value, PLAIN):
        return type(value), repr(value) if isinstance(value, float) else value
    if isinstance(value, tuple | list):
        return type(value), tuple(_key(item) for item in value)
    if isinstance(value, dict):
        return dict, tuple((name, _key(item)) for name, item in value.items())
    return id(value)


_NAMES: dict[CodeType, tuple[str, ...]] = {}


def _global_names(code: CodeType) -> tuple[str, ...]:
    """Names a function or a function inside it may look up globally."""
    if code not in _NAMES:
        inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _global_names(constant)]
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
