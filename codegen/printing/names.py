"""Readable, unique identifiers for emitted code. Only whitelisted characters ever reach the text."""

from __future__ import annotations

import keyword
import re

RESERVED = frozenset(
    {*keyword.kwlist, *keyword.softkwlist, "tl", "triton", "torch", "libdevice", "float", "range", "min", "max", "sum", "int"}
)


def identifier(text: str, fallback: str = "value") -> str:
    """`text` as a plain ASCII identifier; `fallback` where nothing readable is left of it."""
    clean = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_")
    if not clean or clean[0].isdigit():
        clean = f"{fallback}_{clean}".rstrip("_")
    return f"{clean}_" if clean in RESERVED else clean


class Names:
    """Hands out identifiers once each: `x`, then `x_1`, `x_2`."""

    def __init__(self, taken: tuple[str, ...] = ()):
        self._taken = set(taken)
        self._numbers: dict[str, int] = {}  # the last number given to each wish

    def fresh(self, wish: str) -> str:
        base = identifier(wish)
        name, number = base, self._numbers.get(base, 0)
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        self._numbers[base] = number
        return name
