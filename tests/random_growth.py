"""Random programs as data, and how they grow: line by line, each run in PyTorch at once.

A line that fails there, whose values grow large, or whose branches rounding could change, is not taken.
"""

from __future__ import annotations

import linecache
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from random_language import RULES, Context
from random_words import words

LAYOUTS = ("contiguous", "contiguous", "strided", "transposed", "expanded", "offset", "reversed")
MOST_ELEMENTS, LARGEST = 96, 40.0
EPSILON = {d: torch.finfo(d).eps for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


@dataclass(frozen=True)
class Argument:
    """An argument of a program and how it lies in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str

    def drawn(self, seed: int) -> torch.Tensor:
        generator = np.random.default_rng((seed, *self.name.encode()))
        if not self.dtype.is_floating_point:
            return laid_out(torch.from_numpy(np.asarray(generator.integers(0, 6, self.shape))).to(self.dtype), self.layout)
        numbers = torch.from_numpy(np.asarray(generator.standard_normal(self.shape).clip(-2.5, 2.5))).to(self.dtype)
        return laid_out(numbers, self.layout)


@dataclass(frozen=True)
class Line:
    """One statement, the value it makes, and what must stay off 0 for its branches to be settled."""

    name: str
    text: str
    edges: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    seed: int
    arguments: tuple[Argument, ...]
    lines: tuple[Line, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        said = [f"{a.name}: {str(a.dtype)[6:]}{list(a.shape)} {a.layout}" for a in self.arguments]
        return f"# {'; '.join(said)}\n{self.text}"

    @property
    def text(self) -> str:
        body = "".join(f"    {line.text}\n" for line in self.lines)
        names = ", ".join(a.name for a in self.arguments)
        return f"def program({names}):\n{body}    return ({', '.join(self.outputs)},)\n"

    def function(self, seen: dict[str, Any]) -> Callable:
        """The program as a function of what its text sees."""
        file = f"<program {self.seed}>"
        linecache.cache[file] = (len(self.text), None, self.text.splitlines(True), file)
        namespace = dict(seen)
        exec(compile(self.text, file, "exec"), namespace)
        return namespace["program"]

    def floating(self) -> tuple[int, ...]:
        return tuple(i for i, a in enumerate(self.arguments) if a.dtype.is_floating_point)


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """`x`, or numbers of its first row, lying otherwise; "reversed" is what NumPy arrays alone can be."""
    if layout == "strided" and x.ndim:
        wide = torch.full(tuple(2 * n for n in x.shape), 77, dtype=x.dtype)
        return wide[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x)
    if layout == "transposed" and x.ndim:
        back = tuple(reversed(range(x.ndim)))
        return x.permute(back).contiguous().permute(back)
    if layout == "expanded" and x.ndim and x.shape[0]:
        return x[:1].contiguous().expand(x.shape)
    if layout == "offset":
        return torch.cat([torch.full((3,), 77, dtype=x.dtype), x.reshape(-1)])[3:].view(x.shape)
    return x


# Growing a program ------------------------------------------------------------------------------------------------------


@dataclass
class Growing:
    """A program that grows: the values of its lines in both readings, and the sloppiest dtype so far."""

    seed: int
    arguments: list[Argument] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    exact: dict[str, Any] = field(default_factory=lambda: words(exact=True))
    rounded: dict[str, Any] = field(default_factory=lambda: words(exact=False))

    def __post_init__(self) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.context = Context(self.seed, self.values, self.argument)
        self.random = self.context.random
        self.wild = self.random.random() < 0.15  # whether infinities and NaN are let pass
        self.dtypes = self.random.choice(
            (
                *[(torch.float32,)] * 4,
                (torch.float16,),
                (torch.bfloat16, torch.float32),
                (torch.float32, torch.float16),
                (torch.float64,),
            )
        )

    def argument(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> str:
        dtype = dtype or self.random.choice(self.dtypes)
        name = f"{'x' if dtype.is_floating_point else 'i'}{len(self.arguments)}"
        layout = self.random.choice(LAYOUTS)
        self.arguments.append(Argument(name, shape, dtype, layout))
        drawn = self.arguments[-1].drawn(self.seed)
        self.rounded[name] = self.values[name] = drawn
        self.exact[name] = drawn.double() if dtype.is_floating_point else drawn
        return name

    def grow(self) -> None:
        """One more line, if what is drawn makes one."""
        before = len(self.arguments)
        name = f"v{len(self.lines)}"
        said = self.random.choice(RULES)(self.context)
        if said and self.takes(name, *said):
            return
        for argument in self.arguments[before:]:  # it was made for a line that is not there
            del self.values[argument.name]
        del self.arguments[before:]

    def takes(self, name: str, text: str, *edges: str) -> bool:
        line = Line(name, text.replace("{out}", name) if "{out}" in text else f"{name} = {text}", edges)
        try:
            ran = run_line(line, self.exact, self.rounded)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return False
        exact, rounded = self.exact[name], self.rounded[name]
        if not ran or exact.shape != rounded.shape or exact.numel() > MOST_ELEMENTS or exact.ndim > 4:
            return False
        if exact.is_floating_point():
            finite = exact[exact.isfinite()]
            if (not self.wild and finite.numel() < exact.numel()) or (finite.abs() > LARGEST).any():
                return False
            if not torch.equal(rounded.isfinite(), exact.isfinite()):
                return False
        self.values[name] = rounded
        self.lines.append(line)
        return True


def run_line(line: Line, exact: dict[str, Any], rounded: dict[str, Any]) -> bool:
    """Runs a line in both readings; False where rounding could take another branch in it."""
    for namespace in (exact, rounded):
        exec(line.text.replace("\n    ", "\n"), namespace)
    return all(settled(eval(edge, exact), eval(edge, rounded)) for edge in line.edges)


def settled(exact: torch.Tensor, rounded: torch.Tensor) -> bool:
    """Whether what must stay off 0 does in both readings; it may be exactly 0 in both."""
    if rounded.dtype not in EPSILON:
        return True
    if not torch.equal(exact == 0, rounded == 0) or not torch.equal(exact.isfinite(), rounded.isfinite()):
        return False
    away = exact[(exact != 0) & exact.isfinite()].abs()
    error = (exact - rounded.double())[exact.isfinite()].abs()
    least = max(16 * EPSILON[rounded.dtype], 8 * error.max().item() if error.numel() else 0.0)
    return not away.numel() or away.min().item() > least


def program(seed: int) -> Program:
    """The program of a seed."""
    growing = Growing(seed)
    shape = tuple(growing.context.size() for _ in range(growing.random.choice((1, 2, 2, 2, 3, 3))))
    for _ in range(growing.random.randint(1, 3)):
        growing.argument(tuple(n if growing.random.random() < 0.8 else 1 for n in shape))
    wanted, tries = growing.random.randint(3, 12), 60
    while len(growing.lines) < wanted and tries:
        growing.grow()
        tries -= 1
    if not growing.lines:
        growing.takes("v0", f"{growing.arguments[0].name} * 2")
    return max((settled_on(growing, line.name) for line in growing.lines), key=lambda whole: len(whole.lines))


def settled_on(growing: Growing, last: str) -> Program:
    """The program that returns `last`, and perhaps other values that were made before it."""
    names = [line.name for line in growing.lines]
    before = names[: names.index(last)]
    choice = random.Random(growing.seed)
    others = choice.sample(before, min(len(before), choice.choice((0, 1, 1, 2))))
    return needed(Program(growing.seed, tuple(growing.arguments), tuple(growing.lines), (*others, last)))


def needed(whole: Program) -> Program:
    """The program without the lines and arguments that its outputs do not need."""
    wanted, lines = set(whole.outputs), []
    for line in reversed(whole.lines):
        if line.name in wanted:
            lines.append(line)
            wanted.update(re.findall(r"\b[vxi]\d+\b", line.text))
    arguments = tuple(a for a in whole.arguments if a.name in wanted)
    return replace(whole, lines=tuple(reversed(lines)), arguments=arguments or whole.arguments[:1])


def tame(x: torch.Tensor) -> bool:
    return not x.is_floating_point() or bool((x.abs() <= LARGEST).all())
