"""Every name in an emitted module: one namespace, and inside it one for each function. Only whitelisted characters ever reach the text.

A function's names differ from those of the module that its text may refer to, and a name that the module gets later differs
from those of the functions so far. So whatever users call their arguments, nothing emitted is hidden or overwritten.
"""

from __future__ import annotations

import keyword
import re

MODULES = ("tl", "triton", "torch", "libdevice")
BUILTINS = ("RuntimeError", "ValueError", "any", "float", "int", "max", "min", "range", "staticmethod", "sum", "tuple", "zip")
RESERVED = frozenset((*keyword.kwlist, *keyword.softkwlist, *MODULES, *BUILTINS))  # what emitted text means by itself
LONGEST = 160  # characters: Triton names files after kernels, and a file's name has at most 255 bytes


def identifier(text: str, fallback: str = "value") -> str:
    """`text` as a plain ASCII identifier; `fallback` where nothing readable is left of it."""
    clean = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_")[:LONGEST]
    if not clean or clean[0].isdigit():
        clean = f"{fallback}_{clean}".rstrip("_")
    return f"{clean}_" if clean in RESERVED else clean


class Names:
    """Hands out identifiers once each: `x`, then `x_1`, `x_2`. Those of a function come from `module.inside()`."""

    def __init__(self, outer: Names | None = None):
        self._outer, self._inner = outer, list[Names]()
        self._taken: set[str] = set()
        self._hidden: set[str] = set()  # names that no function refers to
        self._next: dict[str, int] = {}

    def inside(self) -> Names:
        """The names of one more function."""
        self._inner.append(Names(self))
        return self._inner[-1]

    def fresh(self, wish: str, referred: bool = True) -> str:
        """`wish` as an identifier nothing else has. Functions may use it again where none of them refers to it."""
        base = identifier(wish)
        name, number = base, self._next.get(base, 0)
        while self._is_taken(name):
            number += 1
            name = f"{base}_{number}"
        self._next[base] = number
        self._taken.add(name)
        if not referred:
            self._hidden.add(name)
        return name

    def _is_taken(self, name: str) -> bool:
        outer = self._outer
        outside = outer is not None and name in outer._taken and name not in outer._hidden
        return outside or name in self._taken or any(name in inner._taken for inner in self._inner)
