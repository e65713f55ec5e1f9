"""The text of one kernel as it grows: nested scopes of statements, and the variables each scope has computed.

A scope is the kernel's body or the body of a loop. A variable knows the tile axes it has, so that a use beside a larger
tile can be expanded. Nothing here knows what is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradc.codegen.plan import KernelAxis

INDENT = "    "
COMMENT_COLUMN = 84
ATOM = 10  # how tightly a name, a call or a subscript binds; operators bind less (Python's precedence)
BINDING = {
    "==": 1,
    "!=": 1,
    "<": 1,
    "<=": 1,
    ">": 1,
    ">=": 1,
    "|": 2,
    "^": 3,
    "&": 4,
    "<<": 5,
    ">>": 5,
    "+": 6,
    "-": 6,
    "*": 7,
    "/": 7,
    "//": 7,
    "%": 7,
}
UNARY = 8


@dataclass(frozen=True)
class Variable:
    """Text for a value: `binding` is how tightly its operator binds, `axes` are its tile dimensions, `depth` its scope's."""

    text: str
    axes: tuple[KernelAxis, ...]
    depth: int
    binding: int = ATOM
    constant: bool = False

    def operand(self, binding: int = ATOM) -> str:
        """The text as an operand of an operator: in parentheses unless it binds at least as tightly."""
        return self.text if self.binding >= binding else f"({self.text})"

    def expanded(self, axes: tuple[KernelAxis, ...], binding: int = ATOM) -> str:
        """The text with size-1 dimensions where `axes` has one that the variable lacks."""
        if len(axes) == len(self.axes) or not self.axes:
            return self.operand(binding)
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
        """One line with what is worth remarking: the last line of that beside it, the others above."""
        indent, (*above, beside) = INDENT * (self.depth + 1), remark.split("\n")
        self.lines += [f"{indent}# {text}" for text in above]
        text, remark = indent + line, beside.strip()
        self.lines.append(f"{text:<{COMMENT_COLUMN - 2}}  # {remark}" if remark else text)

    def close(self, until: Scope | None = None) -> None:
        """Hands this loop body's statements to the scope around it; with `until`, on to that scope."""
        assert self.parent is not None
        self.parent.add(self.header)
        self.parent.lines += self.lines
        if until is not None and self.parent is not until:
            self.parent.close(until)
