"""What a rewrite is: a function from a Value to an equal Value or None, filed under the operation it looks at.

The docstring of each gives its formula and what becomes of the cases real algebra forgets. Nothing here rewrites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradc.ir import Value

Rewriting = Callable[[Value], Value | None]

EXACT = "for every float, bit for bit but for the sign of a zero"
REAL = "over the real numbers, up to rounding"
DERIVATIVE = "over the real numbers, applied to derivatives only, never to what the user wrote"


@dataclass(frozen=True)
class Rewrite:
    """One rule: the names of the operations it looks at, and for which numbers it holds."""

    function: Rewriting
    operations: tuple[str, ...]
    holds: str

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, value: Value) -> Value | None:
        """The new Value, or None where the rule does not apply. A floating Value with a note was made by differentiation."""
        applies = self.holds is not DERIVATIVE or (value.note and value.dtype.is_floating)
        return self.function(value) if applies else None


REWRITES: dict[str, Rewrite] = {}
ELEMENTWISE = "elementwise"  # files a rule under every row of the table


def rewrite(*operations: str, holds: str = EXACT) -> Callable[[Rewriting], Rewriting]:
    """Files the decorated function under the named operations. Rules are tried in the order they are written."""

    def file(function: Rewriting) -> Rewriting:
        REWRITES[function.__name__] = Rewrite(function, operations, holds)
        return function

    return file
