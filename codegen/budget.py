"""A program that keeps to a memory budget: made storing everything, then storing less and less until it does.

What counts are bytes beside arguments and results, at any moment of the forward or the backward, with what is kept in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gradc.codegen.host import UNLIMITED, Memory
from gradc.errors import UnsupportedError

Made = TypeVar("Made")
SMALLEST = 12  # the power of two of bytes below which nothing is expected of less for an intermediate


@dataclass(frozen=True)
class Figures:
    """What a program takes: bytes allocated at once, and predicted seconds."""

    bytes: int
    seconds: float


def within(budget: int, title: str, make: Callable[[Memory], Made], figures: Callable[[Made], Figures]) -> Made:
    """The faster of two programs within the budget, where both are: the one that stores everything, and the one that stores most of
    those that do not. Raises UnsupportedError, with the least that is possible, where there is neither.
    """
    whole = make(Memory(UNLIMITED, UNLIMITED))
    at_most = figures(whole)
    for most in (budget, *(1 << power for power in range(budget.bit_length() - 1, SMALLEST, -1))):
        made = make(Memory(most, most))
        taken = figures(made)
        if taken.bytes <= budget:
            return whole if at_most.bytes <= budget and at_most.seconds <= taken.seconds else made
        if most != budget and taken.bytes < at_most.bytes:
            at_most = taken
    if at_most.bytes <= budget:
        return whole
    raise UnsupportedError(
        f"{title} takes {at_most.bytes:,} bytes beside its arguments and results, and memory_budget is {budget:,}",
        advice=f"Allow memory_budget={at_most.bytes}, or make smaller what it computes in between.",
    )
