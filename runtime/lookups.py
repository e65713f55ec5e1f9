"""What the code of a function may look up: names of globals and attributes, also those spelled as strings, and imported modules.

Read from the compiled code alone, once per code object. Nothing is run, and no value is looked at.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

Names = Mapping[str, None]  # a set in a fixed order

# Among names: what is looked up under a name that only a run can tell, so that all there is counts.
EVERY_ATTRIBUTE, EVERY_GLOBAL, EVERY_MODULE = "every attribute", "every global", "every module"

BY_NAME = {"getattr": 1, "hasattr": 1, "getattr_static": 1, "__getattribute__": 1, "attrgetter": 0, "methodcaller": 0}
WHOLE_OBJECTS = frozenset(("__dict__", "vars", "asdict", "astuple", "getmembers", "eval", "exec"))
WHOLE_MODULES = frozenset(("eval", "exec"))
IMPORTERS = frozenset(("import_module", "__import__"))
SPELLING = frozenset((*BY_NAME, *WHOLE_OBJECTS, *IMPORTERS, "globals"))  # what takes a name as a string
SILENT = frozenset(("CACHE", "PRECALL", "EXTENDED_ARG", "NOP", "RESUME"))  # instructions that compute nothing
LONGEST = 400  # instructions of the arguments of one getattr
WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Lookups:
    """`names` of globals and attributes; `imports`: modules, each as its name and how many packages up it is looked for."""

    names: Names
    imports: tuple[tuple[str, int], ...]


class _Same:
    """A code object, compared by identity: hashing one is slow."""

    def __init__(self, code: CodeType):
        self.code = code

    def __hash__(self) -> int:
        return id(self.code)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.code is other.code


def lookups_in(code: CodeType) -> Lookups:
    """What a function, or a function inside it, may look up."""
    return _lookups(_Same(code))


@lru_cache(maxsize=8192)
def _lookups(same: _Same) -> Lookups:
    code = same.code
    names = dict.fromkeys((*code.co_names, *_spelled(code)))
    imports = dict.fromkeys(_imports(code))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = lookups_in(constant)
            names |= inner.names
            imports |= dict.fromkeys(inner.imports)
    return Lookups(names, tuple(imports))


def _spelled(code: CodeType) -> Iterator[str]:
    """The names that stand in strings, and the marks of what is looked up under others."""
    used = frozenset(code.co_names)
    if not SPELLING.isdisjoint(used):
        for text in _strings(code.co_consts):
            yield from WORD.findall(text)
    if not WHOLE_OBJECTS.isdisjoint(used):
        yield EVERY_ATTRIBUTE
    if not WHOLE_MODULES.isdisjoint(used):
        yield EVERY_GLOBAL
    steps = _steps(code)
    for i, step in enumerate(steps):
        if step.opname == "MATCH_CLASS" or (step.argval in BY_NAME and _loads(step) and not _is_spelled(steps, i)):
            yield EVERY_ATTRIBUTE
        if step.argval == "globals" and _loads(step) and not _is_subscript(steps[i + 1 : i + 5]):
            yield EVERY_GLOBAL


def _imports(code: CodeType) -> Iterator[tuple[str, int]]:
    steps = _steps(code)
    for i, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            yield step.argval, steps[i - 2].argval
    if not IMPORTERS.isdisjoint(code.co_names) or {"sys", "modules"} <= set(code.co_names):
        texts = list(_strings(code.co_consts))
        yield from ((text, 0) for text in texts or (EVERY_MODULE,))


def _steps(code: CodeType) -> list[dis.Instruction]:
    return [each for each in dis.get_instructions(code) if each.opname not in SILENT]


def _loads(step: dis.Instruction) -> bool:
    return step.opname.startswith("LOAD_") and step.opname != "LOAD_CONST"


def _is_spelled(steps: Sequence[dis.Instruction], start: int) -> bool:
    """Whether what is loaded at `start` is called at once, with a constant where it takes the name.

    Follows the stack: argument k begins where the stack last rose to k values above the function.
    """
    place, depth, began = BY_NAME[steps[start].argval], 0, {0: start}
    for i in range(start + 1, min(len(steps), start + LONGEST)):
        step = steps[i]
        if step.opname.startswith("CALL") and step.arg is not None and depth == step.arg:
            first = began.get(place + 1)
            after = began.get(place + 2, i)
            return (
                first is not None and after == first + 1 and isinstance(steps[first].argval, str) and _is_constant(steps[first])
            )
        if "JUMP" in step.opname or step.opname.startswith(("RETURN", "STORE")):
            return False
        before, depth = depth, depth + _effect(step)
        if depth < 0:
            return False
        began = {k: at for k, at in began.items() if k <= min(before, depth)} | dict.fromkeys(range(before + 1, depth + 1), i)
    return False


def _effect(step: dis.Instruction) -> int:
    """By how much an instruction lets the stack grow. Python 3.11 spreads a call over two, of which one is left out here."""
    return -step.arg - 1 if step.opname == "CALL" and step.arg is not None else dis.stack_effect(step.opcode, step.arg)


def _is_constant(step: dis.Instruction) -> bool:
    return step.opname == "LOAD_CONST"


def _is_subscript(following: Sequence[dis.Instruction]) -> bool:
    """Whether `globals` is called and subscripted by a constant, also by way of `get`."""
    names = [step.opname for step in following]
    if names[:1] != ["CALL"]:
        return False
    if names[1:3] == ["LOAD_CONST", "BINARY_SUBSCR"] or names[1:3] == ["LOAD_CONST", "BINARY_OP"]:
        return True
    return following[1].argval == "get" and names[2:3] == ["LOAD_CONST"]


def _strings(constants: Sequence[Any]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from _strings(tuple(constant))
