"""A program that keeps to a memory budget: made storing everything, then storing less and less until it does.

What counts are bytes beside arguments and results, at any moment of the forward or the backward, with what is kept in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gradc.codegen.hosting.host import UNLIMITED, Memory
from gradc.errors import UnsupportedError

Made = TypeVar("Made")
SMALLEST = 8  # the power of two of bytes below which nothing is expected of less for an intermediate


@dataclass(frozen=True)
class Figures:
    """What a program takes: bytes allocated at once, and predicted seconds."""

    bytes: int
    seconds: float


def by_default(memories: Sequence[Memory], make: Callable[[Memory], Made], figures: Callable[[Made], Figures]) -> Made:
    """The program of the first memory; of a later one, that stores less, where it is no slower."""
    best, *others = map(make, memories)
    for made in others:
        best = made if figures(made).seconds <= figures(best).seconds else best
    return best


def within(budget: int, title: str, make: Callable[[Memory], Made], figures: Callable[[Made], Figures]) -> Made:
    """The faster of two programs within the budget, where both are: the one that stores everything, and the one that stores most of
    those that do not. Raises UnsupportedError, with the least that is possible, where there is neither.
    """
    whole = make(Memory(UNLIMITED, UNLIMITED))
    least = stored = figures(whole)
    for most in _trials(budget, stored.bytes):
        made = make(Memory(most, most))
        taken = figures(made)
        if taken.bytes <= budget:
            return whole if stored.bytes <= budget and stored.seconds <= taken.seconds else made
        if most != budget and taken.bytes < least.bytes:
            least = taken
    if stored.bytes <= budget:
        return whole
    raise UnsupportedError(
        f"{title} takes {least.bytes:,} bytes beside its arguments and results, and memory_budget is {budget:,}",
        advice=f"Allow memory_budget={least.bytes}, or make smaller what it computes in between.",
    )


def _trials(budget: int, stored: int) -> Iterator[int]:
    """What one loop's chunks may take: the budget, less, and more where its rows do not fit otherwise.

    But for the first they are the same for every budget: the least that one is told is found again when it is asked for.
    """
    yield budget
    powers = [1 << power for power in range(SMALLEST, stored.bit_length() + 1)]
    yield from (most for most in reversed(powers) if most < budget)
    yield from (most for most in powers if most >= budget)
