"""Recursive walks that nest no Python frames: a program is as deep as it is long, the interpreter's stack is not.

A walk is written as a recursive function, but as a generator: it yields the walk whose result it waits for.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

Result = TypeVar("Result")
Walk = Generator["Walk[Any]", Any, Result]


def walked(walk: Walk[Result]) -> Result:
    """The result of a walk.

    def height(value):
        operands = []
        for operand in value.operands:
            operands.append((yield height(operand)))
        return 1 + max(operands, default=0)

    walked(height(value))
    """
    waiting: list[Walk[Any]] = [walk]
    result: Any = None
    try:
        while waiting:
            try:
                inner = waiting[-1].send(result)
            except StopIteration as finished:
                waiting.pop()
                result = finished.value
            else:
                waiting.append(inner)
                result = None
        return result
    finally:
        while waiting:  # an error ends those that wait for the one that raised it, as it would functions
            waiting.pop().close()
