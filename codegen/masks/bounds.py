"""Where a loop starts and stops when some of its tiles hold no term: from lines of `skips.py`, as text.

A line `M` over positions is non-negative wherever a term counts. The largest value it has in a program's tile, solved for
the looped position, bounds the loop. At least one tile is gone through, so that a row masked throughout gives what the
plain formula gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gradc.codegen.index import Axis, Index
from gradc.codegen.plan import KernelAxis
from gradc.codegen.printing.scope import Scope

LIMIT = 2**31  # bounds are computed in 32 bits


@dataclass(frozen=True)
class Symbol:
    """A number the kernel has under a name, and the least and the largest it can be."""

    text: str
    low: int
    high: int


@dataclass(frozen=True)
class Sum:
    """`offset + sum(coefficient * symbol)`."""

    terms: tuple[tuple[Symbol, int], ...] = ()
    offset: int = 0

    def plus(self, other: Sum, times: int = 1) -> Sum:
        total = dict(self.terms)
        for symbol, coefficient in other.terms:
            total[symbol] = total.get(symbol, 0) + times * coefficient
        return Sum(tuple((s, c) for s, c in total.items() if c), self.offset + times * other.offset)

    def bounds(self) -> tuple[int, int]:
        ends = [sorted((c * s.low, c * s.high)) for s, c in self.terms]
        return self.offset + sum(low for low, _ in ends), self.offset + sum(high for _, high in ends)

    def text(self) -> str:
        """As an expression: what is added first, what is taken away after it."""
        parts = sorted(((c, s.text) for s, c in self.terms), key=lambda part: part[0] < 0)
        text = ""
        for coefficient, name in parts:
            scaled = name if abs(coefficient) == 1 else f"{abs(coefficient)} * {name}"
            text += f" {'-' if coefficient < 0 else '+'} {scaled}" if text else f"{'-' if coefficient < 0 else ''}{scaled}"
        if not text:
            return str(self.offset)
        return text + (f" {'-' if self.offset < 0 else '+'} {abs(self.offset)}" if self.offset else "")


class Tiles(Protocol):
    """What a kernel knows of the tile it is at."""

    axes: tuple[KernelAxis, ...]

    def first(self, axis: KernelAxis) -> Sum: ...
    def size(self, axis: KernelAxis) -> str: ...
    def block(self, axis: KernelAxis) -> str: ...
    def index_text(self, index: Index, axes: tuple[KernelAxis, ...], scope: Scope) -> str: ...


@dataclass(frozen=True)
class Bound:
    """The looped position times `step` is at least (or at most) `limit`."""

    limit: Sum
    step: int

    @property
    def least(self) -> int:
        return self.limit.bounds()[0]

    @property
    def most(self) -> int:
        return self.limit.bounds()[1]


def start_and_stop(tiles: Tiles, loop: KernelAxis, lines: Iterable[Index], scope: Scope) -> tuple[str, str]:
    """The tightest range, in whole tiles, outside of which some line is negative in all of this program's tile."""
    lows, highs = [], []
    for line in lines:
        step, (low, high) = whole_step(line, loop), line.bounds()
        if step and loop.size and max(-low, high) < LIMIT:
            rest = _largest(tiles, loop, line, scope)
            if step > 0:
                lows.append(Bound(Sum().plus(rest, -1), step))
            else:
                highs.append(Bound(rest, -step))
    lows = [low for low in lows if low.most >= low.step * loop.block]  # may pass over the first tile
    highs = [high for high in highs if high.least // high.step < (loop.tiles - 1) * loop.block]  # may pass over the last
    start = _start(tiles, loop, lows)
    return start, _stop(tiles, loop, lows, highs, start)


def whole_edge(tiles: Tiles, loop: KernelAxis, line: Index, first: str, stop: str, scope: Scope) -> tuple[str, bool] | None:
    """Where, from `first` to `stop`, tiles begin to have no position at which a line is negative, or cease to (then False).

    None where the line does not move with the loop step by step.
    """
    step, (low, high) = whole_step(line, loop), line.bounds()
    if abs(step) != 1 or max(-low, high) >= LIMIT:
        return None
    rest = Sum().plus(_largest(tiles, loop, line.scaled(-1), scope), -1)  # the least value, less the looped position's share
    block = tiles.block(loop)
    if step < 0:
        limit = rest.plus(Sum((), 1))
        inside = limit.text() if limit.bounds()[0] >= 0 else f"tl.maximum({limit.text()}, 0)"
        edge = f"tl.minimum({_operand(inside)} // {block} * {block}, {stop})"
        return edge if first == "0" else f"tl.maximum({edge}, {first})", False
    limit = Sum().plus(rest, -1)
    inside = limit.text() if limit.bounds()[0] >= 0 else f"tl.maximum({limit.text()}, 0)"
    return f"tl.minimum(tl.maximum(tl.cdiv({inside}, {block}) * {block}, {first}), {stop})", True


def whole_step(line: Index, axis: KernelAxis) -> int:
    """How fast a line moves with the position along a kernel axis; 0 where it does not move with the whole of it."""
    steps = {term: step for term, step in line.terms if isinstance(term, Axis)}
    inner, step = 1, steps.get(axis.axes[-1], 0)
    for part in reversed(axis.axes):
        if steps.get(part, 0) != step * inner:
            return 0
        inner *= part.size
    return step


def _largest(tiles: Tiles, loop: KernelAxis, line: Index, scope: Scope) -> Sum:
    """The largest value of a line, less the looped position's share, in the tile a program is at."""
    total = Sum((), line.offset)
    for axis in tiles.axes:
        part = Index(tuple((term, step) for term, step in line.terms if term in axis.axes))
        if axis is not loop and part.terms:
            total = total.plus(_largest_along(tiles, axis, part, whole_step(line, axis), scope))
    return total


def _largest_along(tiles: Tiles, axis: KernelAxis, part: Index, step: int, scope: Scope) -> Sum:
    if axis.block == 1 and axis.role in ("grid", "split"):
        ((term, times), *others) = part.terms
        position = part if others else Index(((term, 1),))
        symbol = Symbol(_operand(tiles.index_text(position, (), scope)), *position.bounds())
        return Sum(((symbol, 1 if others else times),))
    if not step:
        return Sum((), part.bounds()[1])
    if axis.role == "resident":
        last = Sum(((Symbol(tiles.size(axis), axis.size, axis.size), 1),), -1)
        return Sum().plus(last, step) if step > 0 else Sum()
    block = Sum(((Symbol(tiles.block(axis), axis.block, axis.block), 1),), -1)
    first = tiles.first(axis)
    return Sum().plus(first.plus(block) if step > 0 else first, step)


def _start(tiles: Tiles, loop: KernelAxis, lows: list[Bound]) -> str:
    """The first tile that may hold a term, and never past the last tile."""
    if not lows:
        return "0"
    if len(lows) == 1 and not lows[0].limit.terms:
        return str(min(lows[0].least // lows[0].step, loop.size - 1) // loop.block * loop.block)
    texts = []
    for low in lows:
        text = low.limit.text() if low.least >= 0 else f"tl.maximum({low.limit.text()}, 0)"
        texts.append(text if low.step == 1 else f"{_operand(text)} // {low.step}")
    text = _nested("tl.maximum", texts)
    if max(low.most // low.step for low in lows) > loop.size - 1:
        text = f"tl.minimum({text}, {tiles.size(loop)} - 1)"
    return text if loop.block == 1 else f"{_operand(text)} // {tiles.block(loop)} * {tiles.block(loop)}"


def _stop(tiles: Tiles, loop: KernelAxis, lows: list[Bound], highs: list[Bound], start: str) -> str:
    """Past the last tile that may hold a term, and past the first tile gone through."""
    if not highs:
        return tiles.size(loop)
    if len(highs) == 1 and not highs[0].limit.terms and start == "0":
        return str(min(loop.size, max(1, highs[0].least // highs[0].step + 1)))
    texts = [
        high.limit.plus(Sum((), 1)).text() if high.step == 1 else f"{_operand(high.limit.text())} // {high.step} + 1"
        for high in highs
    ]
    text = _nested("tl.minimum", texts)
    if not all(_beyond(high, lows) for high in highs):
        text = f"tl.maximum({text}, {start} + 1)"
    if max(high.most // high.step for high in highs) >= loop.size:
        text = f"tl.minimum({text}, {tiles.size(loop)})"
    return text


def _beyond(high: Bound, lows: list[Bound]) -> bool:
    """Whether an upper bound is never below the range's start."""
    apart = all(high.step == low.step == 1 and high.limit.plus(low.limit, -1).bounds()[0] >= 0 for low in lows)
    return high.least >= 0 and apart


def _nested(function: str, texts: list[str]) -> str:
    text = texts[0]
    for other in texts[1:]:
        text = f"{function}({text}, {other})"
    return text


def _operand(text: str) -> str:
    is_call = text.startswith("tl.") and text.endswith(")")
    return text if is_call or text.isidentifier() else f"({text})"
