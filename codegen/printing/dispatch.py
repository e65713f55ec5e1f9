"""Prints kernels that are launched together (`together.py`): a function for each kind of part, and a kernel whose programs call them.

Parts whose texts differ in nothing but names share one function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradc.codegen.printing.expressions import Argument
from gradc.codegen.printing.names import Names
from gradc.codegen.printing.scope import INDENT

WORD = re.compile(r"(?<![\w.\"])[A-Za-z_]\w*(?![\w=])")  # no attribute, string or keyword
ASSIGNED = re.compile(r"^ *(?:for )?([A-Za-z_]\w*)(?: in\b| [+*]?= )", re.MULTILINE)
COMMENT = re.compile(r"  +#.*$", re.MULTILINE)


def same_text(source: str, arguments: Sequence[Argument]) -> str:
    """A function's text with every name of its own replaced by a number: equal for functions that differ in names alone."""
    body = COMMENT.sub("", source[source.index("def ") :])
    own = {argument.name for argument in arguments} | set(ASSIGNED.findall(body))
    numbers: dict[str, str] = {}
    return WORD.sub(lambda word: numbers.setdefault(word[0], f"_{len(numbers)}") if word[0] in own else word[0], body)


class Dispatcher:
    """The kernel that hands its programs out, as it grows by one part after another."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.program = names.fresh("pid")
        self.arguments: dict[str, Argument] = {}
        self._given: dict[tuple, str] = {}
        self.calls: list[tuple[str, str, int]] = []

    def add(self, function: str, arguments: Sequence[Argument], programs: int, takes_program: bool) -> None:
        """The next `programs` programs call `function`."""
        before = sum(count for _, _, count in self.calls)
        program = [f"{self.program} - {before}" if before else self.program] if takes_program else []
        self.calls.append((function, ", ".join([*program, *map(self._passed, arguments)]), programs))

    def _passed(self, argument: Argument) -> str:
        """The kernel's own parameter for a part's: one for every array, and for equal numbers of one kind."""
        value = argument.value.number if argument.kind in ("buffer", "counter") else argument.value
        key = (argument.kind, value) if argument.kind != "constexpr" else (argument.kind, value, argument.name)
        if key not in self._given:
            name = self._given[key] = self.names.fresh(argument.name)
            self.arguments[name] = Argument(name, argument.kind, argument.value)
        return self._given[key]

    def text(self, name: str) -> str:
        """The kernel: which part each of its programs belongs to."""
        kinds = ("buffer", "counter", "size", "constexpr")
        ordered = sorted(self.arguments.values(), key=lambda argument: kinds.index(argument.kind))
        self.arguments = {argument.name: argument for argument in ordered}
        signature = ", ".join(f"{a.name}: tl.constexpr" if a.kind == "constexpr" else a.name for a in ordered)
        lines = ["@triton.jit", f"def {name}({signature}):", f"{INDENT}{self.program} = tl.program_id(0)"]
        after = 0
        for place, (function, passed, programs) in enumerate(self.calls):
            after += programs
            condition = f"if {self.program} < {after}:" if place < len(self.calls) - 1 else "else:"
            lines.append(INDENT + ("el" if 0 < place < len(self.calls) - 1 else "") + condition)
            lines.append(f"{INDENT * 2}{function}({passed})")
        return "\n".join(lines)
