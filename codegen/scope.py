"""The text of one kernel as it grows: nested scopes of statements, and the variables each scope has computed.

A scope is the kernel's body or the body of a loop. A variable knows the tile axes it has, so that a use beside a larger
tile can be expanded. Nothing here knows what is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradc.codegen.roles import KernelAxis

INDENT = "    "
COMMENT_COLUMN = 84


@dataclass(frozen=True)
class Variable:
    """Text for a value: `atomic` text needs no parentheses, `axes` are its tile dimensions in order, `depth` its scope's."""

    text: str
    axes: tuple[KernelAxis, ...]
    depth: int
    atomic: bool = True
    constant: bool = False

    def operand(self) -> str:
        return self.text if self.atomic else f"({self.text})"

    def expanded(self, axes: tuple[KernelAxis, ...]) -> str:
        """The text with size-1 dimensions where `axes` has one that the variable lacks."""
        if len(axes) == len(self.axes) or not self.axes:
            return self.operand()
        return f"{self.operand()}[{', '.join(':' if axis in self.axes else 'None' for axis in axes)}]"


@dataclass(eq=False)
class Scope:
    """Statements at one nesting level. `bound` are the looped axes whose position is known here."""

    parent: Scope | None
    bound: frozenset[KernelAxis]
    header: str = ""  # the `for` line of a loop body
    lines: list[str] = field(default_factory=list)
    known: dict[Any, Variable] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1

    def chain(self) -> list[Scope]:
        """This scope and those around it, innermost first."""
        scopes: list[Scope] = [self]
        while scopes[-1].parent is not None:
            scopes.append(scopes[-1].parent)
        return scopes

    def find(self, key: Any) -> Variable | None:
        return next((scope.known[key] for scope in self.chain() if key in scope.known), None)

    def at_depth(self, depth: int) -> Scope:
        return self.chain()[self.depth - depth]

    def add(self, line: str, remark: str = "") -> None:
        text = INDENT * (self.depth + 1) + line
        self.lines.append(f"{text:<{COMMENT_COLUMN - 2}}  # {remark}" if remark else text)

    def close(self) -> None:
        """Hands this loop body's statements to the scope around it."""
        assert self.parent is not None
        self.parent.add(self.header)
        self.parent.lines += self.lines
