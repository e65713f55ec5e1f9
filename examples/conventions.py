"""`python -m examples.conventions`: docs/conventions.md, what gradc gives where mathematics leaves a choice.

The kinks stand in the rows of the table, the library's points in `gradc/conventions.py`; the tests hold both. Nothing is run here.
"""

from __future__ import annotations

from math import isinf, isnan
from pathlib import Path
from typing import Any

from gradc.conventions import CONVENTIONS, Convention
from gradc.ops import TABLE

PAGE = Path(__file__).parent.parent / "docs" / "conventions.md"

TEXT = """# Conventions

What gradc gives at kinks and saturations, at ties, at infinity and NaN, and for nothing at all. `python -m examples.conventions` writes this page from
the rows of the table ([`gradc/ops.py`](../gradc/ops.py)) and from [`gradc/conventions.py`](../gradc/conventions.py); the tests run every line of it, forward and backward.
[Where gradc differs](differences.md) from PyTorch, NumPy and the array API has a page of its own.

## Zeros that a selection made

A cotangent or tangent that `where`, `maximum`, `minimum`, `clip`, a slice, padding, a scatter, an extremum or a mask of booleans sets to 0 stays 0, whatever derivative it
meets: 0·inf and 0·NaN do not arise behind it, by any route (`grad`, `jvp`, nested, compiled, on PyTorch's tape) and to any order. Which derivatives can be infinite is
found by interval arithmetic ([`gradc/ranges.py`](../gradc/ranges.py)), taking arguments as finite and sums and products of usual numbers not to overflow; there, a product
is 0 where its selected factor is. Directly under a selection it holds for infinite arguments too. Not protected: a product of matrices whose own operand holds inf or
NaN, which it multiplies with the zeros of a cotangent; and a function that you write yourself whose derivative is inf·0 with nothing selected, such as
`sqrt(sum(x * x))` at 0, which is NaN as in JAX and PyTorch (`gradc.std` and the norms of `gradc.nn` give 0).

## Elementwise functions

Derivatives with respect to the operands, where the function has a kink, a jump or a pole.

| function | at | derivative |
|---|---|---|
{kinks}

Floor, ceil, round, trunc and sign, comparisons and integers have derivative 0 wherever they have one, and 0 at their jumps.

## The library

The gradient is that for a cotangent of ones. A word in place of a result is the error that the reference raises; a kernel, which cannot raise, gives what follows it.

| function | of | result | gradient | why | PyTorch |
|---|---|---|---|---|---|
{rows}
"""


def page() -> str:
    """The text of the page."""
    kinks = [
        f"| `{row.name}` | {_numbers(point)} | {_numbers(slopes)} |" for row in TABLE.values() for point, slopes in row.kinks
    ]
    return TEXT.format(kinks="\n".join(kinks), rows="\n".join(line(row) for row in CONVENTIONS))


def line(row: Convention) -> str:
    """A convention's row of the table."""
    options = "".join(f", {name}={said(value)}" for name, value in row.options)
    value = f"{row.value}; {said(row.in_kernel)}" if isinstance(row.value, str) else said(row.value)
    gradients = ", ".join(said(gradient) for gradient in row.gradients if gradient is not None)
    cells = (
        f"`{row.function}`", _numbers(row.arguments) + options, value, gradients, row.why, row.peer or "the same",
    )  # fmt: skip
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _numbers(numbers: tuple[Any, ...]) -> str:
    return ", ".join(said(number) for number in numbers)


def said(number: Any) -> str:
    """A number, or nested tuples of numbers, as short as it can be read."""
    if isinstance(number, tuple):
        return f"({_numbers(number)})"
    if not isinstance(number, float) or isinf(number) or isnan(number):
        return str(number)
    return f"{number:.6g}"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
