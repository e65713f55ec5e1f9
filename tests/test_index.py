"""Index arithmetic against Python's own // and %, at every position of its axes; and the edges of loops, tile by tile."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from gradc import types
from gradc.codegen.index import (
    Axis,
    Index,
    Part,
    collect,
    flatten,
    floor_divide,
    modulo,
    of_axis,
    power_of_two,
    sums_of,
    term_extent,
    unflatten,
)
from gradc.codegen.masks.bounds import Sum, Symbol, start_and_stop, whole_edge
from gradc.codegen.nodes import Guard, Node, reshape_index
from gradc.codegen.plan import KernelAxis
from gradc.codegen.printing.narrow import Narrowing
from gradc.codegen.printing.positions import is_long, whole_number
from gradc.leaves import make_input
from gradc.table import TABLE

AXES = [Axis(number, size) for number, size in enumerate((4, 3, 1, 6))]
PLACES = [dict(zip(AXES, at, strict=True)) for at in itertools.product(*(range(axis.size) for axis in AXES))]


def value(index, at):
    """An index at a position, its parts by truncating division as a GPU has it."""
    return index.offset + sum(step * term_value(term, at) for term, step in index.terms)


def term_value(term, at):
    if isinstance(term, Axis):
        return at[term]
    inner = value(term.index, at)
    quotient = math.trunc(inner / term.divisor)
    return quotient if term.modulus is None else int(math.fmod(quotient, term.modulus))


def chosen(draw):
    """A random index, of axes or of axes and a part of an index."""
    steps = [(axis, draw.choice((0, 1, -1, 2, 3, -4, 5, 6, 12, -7))) for axis in AXES]
    index = collect(steps, draw.randrange(-9, 10))
    if draw.random() < 0.4:
        index = index + draw.choice((floor_divide, modulo))(index, draw.choice((2, 3, 4, 6))).scaled(draw.choice((1, 3, -2)))
    return index


DRAWN = [chosen(random.Random(seed)) for seed in range(120)]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 12, 36])
def test_quotients_and_remainders_are_those_of_python(number):
    for index in DRAWN:
        quotient, rest = floor_divide(index, number), modulo(index, number)
        assert all(value(quotient, at) == value(index, at) // number for at in PLACES), index
        assert all(value(rest, at) == value(index, at) % number for at in PLACES), index


def test_what_is_divided_is_never_negative():
    """A GPU's // and % truncate, and NumPy's do not: the same number is meant in both only from 0 on."""
    for index, number in itertools.product(DRAWN, (2, 3, 7)):
        parts = [t for made in (floor_divide, modulo) for part in sums_of(made(index, number)) for t, _ in part.terms]
        assert all(part.index.bounds()[0] >= 0 for part in parts if isinstance(part, Part)), index


def test_bounds_hold_and_are_reached_where_no_part_stands():
    for index in DRAWN:
        found = [value(index, at) for at in PLACES]
        low, high = index.bounds()
        assert low <= min(found)
        assert max(found) <= high
        if all(isinstance(term, Axis) for term, _ in index.terms):
            assert (low, high) == (min(found), max(found))


def test_the_extent_of_a_part_is_what_it_reaches():
    for size, divisor, modulus in itertools.product((1, 5, 6, 7), (1, 2, 3), (None, 1, 2, 4)):
        part = Part(of_axis(Axis(0, size)), divisor, modulus)
        reached = [term_value(part, {Axis(0, size): i}) for i in range(size)]
        assert term_extent(part) == max(reached) + 1


def test_sums_and_multiples():
    for first, second in itertools.pairwise(DRAWN):
        total = first + second
        assert all(value(total, at) == value(first, at) + value(second, at) for at in PLACES)
        assert all(value(first.scaled(-3) + 2, at) == 2 - 3 * value(first, at) for at in PLACES)
        assert first + first.scaled(-1) == Index()


def test_parts_of_one_index_are_put_together_again():
    index = of_axis(Axis(9, 60))
    for divisor, modulus in itertools.product((1, 2, 5), (2, 3, 6)):
        outer, inner = floor_divide(index, divisor * modulus), modulo(floor_divide(index, divisor), modulus)
        assert outer.scaled(modulus * 7) + inner.scaled(7) == floor_divide(index, divisor).scaled(7)
        assert outer.scaled(modulus * 7 + 1) + inner.scaled(7) != floor_divide(index, divisor).scaled(7)


SHAPES = [(12,), (3, 4), (4, 3), (2, 6), (2, 2, 3), (1, 12), (6, 1, 2), (3, 2, 2), (12, 1)]


@pytest.mark.parametrize("before", SHAPES, ids=str)
def test_a_reshape_finds_the_element_of_the_same_number(before):
    for after in SHAPES:
        axes = [Axis(number, size) for number, size in enumerate(after)]
        found = reshape_index(tuple(map(of_axis, axes)), after, before)
        for place in itertools.product(*map(range, after)):
            at = dict(zip(axes, place, strict=True))
            where = tuple(value(index, at) for index in found)
            assert where == np.unravel_index(np.ravel_multi_index(place, after), before), (before, after, place)


def test_flat_positions_and_back():
    sizes = (3, 1, 4)
    axes = [Axis(number, size) for number, size in enumerate(sizes)]
    flat = flatten(map(of_axis, axes), sizes)
    back = tuple(unflatten(flat, sizes))
    for place in itertools.product(*map(range, sizes)):
        at = dict(zip(axes, place, strict=True))
        assert value(flat, at) == np.ravel_multi_index(place, sizes)
        assert tuple(value(index, at) for index in back) == place


def test_powers_of_two():
    assert [power_of_two(size) for size in range(10)] == [1, 1, 2, 4, 4, 8, 8, 8, 8, 16]


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0, 9, 1), (2, 9, 1), (0, 4, 1), (3, 3, 1), (-5, -1, 1), (1, 8, 3), (12, 20, 1)]
)
def test_what_a_guard_says_of_itself(low, high, step):
    index = of_axis(Axis(0, 9))
    holds = [low <= i < high and (i - low) % step == 0 for i in range(9)]
    guard = Guard(index, low, high, step)
    assert not guard.always() or all(holds)
    assert not guard.never() or not any(holds)
    assert guard.always() == (step == 1 and all(holds))
    assert guard.never() or any(holds) or low == high


# Numbers in addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2**31 - 1, -(2**31) + 1, 2**31, 2**31 + 5, 2**32, 2**40, -(2**31), -(2**33)])
def test_a_number_from_2_to_the_31_is_a_literal_of_64_bits(number):
    """Triton takes 2**31 for an unsigned number of 32 bits, whose difference with a larger one wraps around."""
    text = whole_number(number)
    assert text == (str(number) if -(2**31) < number < 2**31 else f"tl.full([], {number}, tl.int64)")


@pytest.mark.parametrize(
    ("size", "block", "parts"), [(2**31 - 256, 128, 1), (2**31 - 128, 128, 1), (2**31 - 1, 1, 1), (2**30, 2**20, 1024)]
)
def test_positions_past_the_last_tile_count_too(size, block, parts):
    axis = KernelAxis("row", (Axis(0, size),), "split" if parts > 1 else "loop", block, parts)
    assert is_long(axis) == (size + block * (axis.programs if parts > 1 else 1) >= 2**31)


# Edges of loops -------------------------------------------------------------------------------------------------------


class Program:
    """One program of a kernel: a tile of rows at `row`, and a loop over columns."""

    def __init__(self, rows, columns, row):
        self.axes, self.row = (rows, columns), row

    def first(self, axis):
        low, high = 0, (axis.tiles - 1) * axis.block
        return Sum(((Symbol("row_start", low, high), 1),)) if axis is self.axes[0] else Sum()

    def size(self, axis):
        return str(axis.size)

    def block(self, axis):
        return str(axis.block)

    def index_text(self, index, axes, scope):
        return "row"

    def numbers(self):
        rows = self.axes[0]
        start = self.row * rows.block
        return {"row_start": start, "row": start, "tl": Text}


class Text:
    """What Triton's functions mean of plain numbers."""

    minimum, maximum = staticmethod(min), staticmethod(max)
    cdiv = staticmethod(lambda a, b: -(-a // b))


LINES = [(rows, columns, offset) for rows in (-2, -1, 1, 3) for columns in (-1, 1) for offset in (-40, -7, 0, 1, 13, 64)]


@pytest.mark.parametrize("row_block", [1, 4])
@pytest.mark.parametrize(("by_row", "by_column", "offset"), LINES)
def test_tiles_left_out_and_tiles_left_whole(by_row, by_column, offset, row_block):
    """Every tile with a position that counts is gone through, and exactly those whole that have no other, of those gone through."""
    row, column = Axis(0, 24), Axis(1, 45)
    rows, columns = KernelAxis("row", (row,), "grid", row_block), KernelAxis("column", (column,), "loop", 8)
    line = Index(((row, by_row), (column, by_column)), offset)
    for tile in range(rows.tiles):
        program = Program(rows, columns, tile)
        first, stop = (eval(text, program.numbers()) for text in start_and_stop(program, columns, [line], None))
        edge, after = whole_edge(program, columns, line, str(first), str(stop), None)
        edge = eval(edge, program.numbers())
        counts = {start: inside(line, program, start) for start in range(0, columns.size, 8)}
        gone = set(range(first, stop, 8))
        assert first % 8 == 0
        assert {start for start, found in counts.items() if any(found)} <= gone, (first, stop)
        assert len(gone) <= max(1, sum(map(any, counts.values()))), "a tile that is masked throughout is left out"
        full = {start for start in gone if (start >= edge if after else start < edge)}
        assert full == {start for start in gone if all(counts[start])}, (first, edge, stop, after)
        assert first <= edge <= stop or not after


def inside(line, program, start):
    """Whether the line is non-negative, at every position of a whole tile."""
    (rows, columns), (row, column) = program.axes, (axis.axes[0] for axis in program.axes)
    places = itertools.product(range(rows.block), range(columns.block))
    return [value(line, {row: program.row * rows.block + i, column: start + j}) >= 0 for i, j in places]


# Widths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "times", "beside", "narrow"), [
    (1000, 1, 5, True), (2**31 - 1, 1, 0, True), (2**31 + 1, 1, 0, False), (2**30, 2, 0, True), (2**30 + 1, 2, 0, False),
    (1000, 1, 2**31 - 1, True), (1000, 1, 2**31, False), (1000, 1, -(2**40), False),
])  # fmt: skip
def test_positions_are_compared_in_32_bits_where_that_is_the_same(size, times, beside, narrow):
    index = of_axis(Axis(0, size)).scaled(times)
    value = make_input((size,), types.int64)
    position = Node("position", (), types.int64, value, index, index.axes)
    number = Node("constant", (), types.int64, value, beside)
    compared = Node("apply", (position, number), types.bool_, value, TABLE["less"], index.axes)
    found = Narrowing().operands(compared)
    assert {x.dtype for x in found} == {types.int32 if narrow else types.int64}
