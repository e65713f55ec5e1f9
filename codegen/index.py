"""Integer index arithmetic: an `Index` is a sum of axes times coefficients, with exact simplification of // and %.

This is all the algebra that views need (reshape, slice, flip, pad): no symbolic package is involved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Axis:
    """One direction of iteration. Dimensions that always move together share an `atom`; `copy` tells apart two uses of it."""

    atom: int
    size: int
    copy: int = 0


@dataclass(frozen=True)
class Part:
    """`(index // divisor) % modulus`; a modulus of None takes no remainder."""

    index: Index
    divisor: int
    modulus: int | None


@dataclass(frozen=True, eq=False)
class Datum:
    """An index read from memory or computed: `node` is an expression of the kernel, in [0, size) after wrapping negatives."""

    node: Any
    size: int


Term = Axis | Part | Datum


@dataclass(frozen=True)
class Index:
    """`offset + sum(coefficient * term)`."""

    terms: tuple[tuple[Term, int], ...] = ()
    offset: int = 0
    axes: frozenset[Axis] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", frozenset(axis for term, _ in self.terms for axis in term_axes(term)))

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.offset + other)
        return collect([*self.terms, *other.terms], self.offset + other.offset)

    def scaled(self, factor: int) -> Index:
        return Index(
            tuple((term, coefficient * factor) for term, coefficient in self.terms) if factor else (), self.offset * factor
        )

    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest value (over non-empty axes)."""
        low = high = self.offset
        for term, coefficient in self.terms:
            ends = sorted((0, coefficient * max(0, term_extent(term) - 1)))
            low, high = low + ends[0], high + ends[1]
        return low, high


def sums_of(index: Index) -> Iterator[Index]:
    """An index, and every one that it takes a part of."""
    yield index
    for term, _ in index.terms:
        if isinstance(term, Part):
            yield from sums_of(term.index)


def term_axes(term: Term) -> Iterable[Axis]:
    if isinstance(term, Axis):
        return (term,)
    return term.index.axes if isinstance(term, Part) else term.node.axes


def term_extent(term: Term) -> int:
    if not isinstance(term, Part):
        return term.size
    extent = term.index.bounds()[1] // term.divisor + 1
    return extent if term.modulus is None else min(extent, term.modulus)


def collect(terms: Iterable[tuple[Term, int]], offset: int) -> Index:
    """Equal terms added together, in a canonical order; parts of one index put together again where they fit."""
    total: dict[Term, int] = {}
    for term, coefficient in terms:
        total[term] = total.get(term, 0) + coefficient
    joined = _join_parts({term: coefficient for term, coefficient in total.items() if coefficient})
    opened: list[tuple[Term, int]] = []
    more = 0
    for term, coefficient in joined.items():
        if isinstance(term, Part) and term.divisor == 1 and term.modulus is None:  # a part that is the whole
            opened += term.index.scaled(coefficient).terms
            more += term.index.offset * coefficient
        else:
            opened.append((term, coefficient))
    if len(opened) != len(joined) or more or any(term not in joined for term, _ in opened):
        return collect(opened, offset + more)
    return Index(tuple(sorted(joined.items(), key=_order)), offset)


def _join_parts(terms: dict[Term, int]) -> dict[Term, int]:
    """`(i // dm) * m*c + (i // d % m) * c` is `(i // d) * c`."""
    for inner, coefficient in terms.items():
        if isinstance(inner, Part) and inner.modulus is not None:
            for outer, other in terms.items():
                if (
                    isinstance(outer, Part)
                    and outer.index == inner.index
                    and outer.divisor == inner.divisor * inner.modulus
                    and other == coefficient * inner.modulus
                ):
                    rest = {term: c for term, c in terms.items() if term is not inner and term is not outer}
                    modulus = None if outer.modulus is None else outer.modulus * inner.modulus
                    return _join_parts({**rest, Part(inner.index, inner.divisor, modulus): coefficient})
    return terms


def _order(item: tuple[Term, int]) -> tuple:
    term, coefficient = item
    rank = {Axis: 0, Part: 1, Datum: 2}[type(term)]
    return (
        rank,
        -abs(coefficient),
        (term.atom, term.copy) if isinstance(term, Axis) else (id(term), 0) if isinstance(term, Datum) else (0, 0),
    )


def of_axis(axis: Axis) -> Index:
    return Index(((axis, 1),))


def floor_divide(index: Index, divisor: int) -> Index:
    """`index // divisor`, without a division wherever the terms allow it."""
    if divisor == 1:
        return index
    whole = [(term, c // divisor) for term, c in index.terms if c % divisor == 0]
    rest = Index(tuple((term, c) for term, c in index.terms if c % divisor), index.offset % divisor)
    rest, shift = _raised(rest, divisor)
    quotient = collect(whole, index.offset // divisor - shift)
    if rest.bounds()[1] < divisor:
        return quotient
    return quotient + collect([(Part(rest, divisor, None), 1)], 0)


def _raised(index: Index, divisor: int) -> tuple[Index, int]:
    """An index plus the least multiple of `divisor` that makes it non-negative, and that multiple: a GPU's // and % truncate."""
    shift = max(0, -(index.bounds()[0] // divisor))
    return Index(index.terms, index.offset + shift * divisor), shift


def modulo(index: Index, modulus: int) -> Index:
    """`index % modulus`, without a remainder wherever the terms allow it."""
    rest, _ = _raised(Index(tuple((term, c) for term, c in index.terms if c % modulus), index.offset % modulus), modulus)
    if rest.bounds()[1] < modulus:
        return rest
    part, coefficient = rest.terms[0]
    if len(rest.terms) == 1 and rest.offset == 0 and coefficient == 1 and isinstance(part, Part) and part.modulus is None:
        return collect([(Part(part.index, part.divisor, modulus), 1)], 0)
    return collect([(Part(rest, 1, modulus), 1)], 0)


def flatten(indices: Iterable[Index], sizes: Iterable[int]) -> Index:
    """The row-major position of a multi-dimensional index."""
    flat = Index()
    for index, size in zip(indices, sizes, strict=True):
        flat = flat.scaled(size) + index
    return flat


def unflatten(flat: Index, sizes: tuple[int, ...]) -> Iterator[Index]:
    """The multi-dimensional index of a row-major position."""
    inner = 1
    for size in sizes:
        inner *= size
    for position, size in enumerate(sizes):
        inner //= max(size, 1)
        quotient = floor_divide(flat, inner)
        yield quotient if position == 0 or all(n == 1 for n in sizes[:position]) else modulo(quotient, size)


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size` (1 for 0)."""
    return 1 << max(0, size - 1).bit_length()
