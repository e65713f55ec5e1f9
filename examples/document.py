"""`python -m examples.document`: a page in docs/gallery about every function of the gallery, and a table of them all.

A page shows what the user wrote, the kernels it became, and how many there are. Nothing is run, and no GPU is needed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import gradc
from benchmarks.run import saved_beyond_outputs
from examples import gallery
from examples.gallery import GALLERY, Piece

PAGES = Path(__file__).parent.parent / "docs" / "gallery"

README = """# Functions nobody wrote a kernel for

[`examples/gallery.py`](../../examples/gallery.py) has functions as their users would write them: plain mathematics of arrays, with nothing from
`gradc.nn`. The compiler knows none of them by name. Each page shows a function, what its forward and backward became at the shapes
named there, and all of their kernels. *By hand* is how many kernels a good engineer would write. Where the host goes through chunks of an
array, a kernel is launched for each. Bytes count each array once per launch that touches it; *kept* is what the forward keeps for the
backward beyond inputs and outputs. A memory budget, where a page names one, is what its user would give.

| function | kernels forward | by hand | backward | by hand | launches | MB moved | MB kept |
|---|--:|--:|--:|--:|--:|--:|--:|
{table}

`make gallery` writes these pages; `tests/test_gallery.py` runs the kernels against PyTorch in float64, forward and backward.
"""

PAGE = """# `{name}`

```python
{text}
```

{arguments}; differentiated with respect to {wrt}. For an H200{budget}.

**Forward {forward}, backward {backward}**, {launches} in all; {bytes} MB moved, {kept} MB kept beyond inputs and outputs.
By hand: {by_hand}, {why}.

```text
{explanation}
```

```python
{sources}
```
"""


def pages() -> dict[str, str]:
    """The text of every page, by file name."""
    lowered = {row.name: row.lower() for row in GALLERY}
    table = "\n".join(line(row, lowered[row.name]) for row in GALLERY)
    return {"README.md": README.format(table=table)} | {f"{row.name}.md": page(row, lowered[row.name]) for row in GALLERY}


def line(row: Piece, low: gradc.Lowered) -> str:
    """A function's line of the table."""
    cells = [kernels(low, "forward"), row.forward, kernels(low, "backward"), row.backward, low.cost.launches]
    cells += [megabytes(low.cost.bytes), megabytes(saved_beyond_outputs(low))]
    return f"| [`{row.name}`]({row.name}.md) | {' | '.join(map(str, cells))} |"


def page(row: Piece, low: gradc.Lowered) -> str:
    """A function's page."""
    named = [f"`{a.name}` {a.dtype}{list(a.dimensions(row.full))}" for a in row.arguments]
    return PAGE.format(
        name=row.name,
        text="\n\n\n".join(inspect.getsource(function).rstrip() for function in [*helpers(row.function), row.function]),
        arguments=", ".join(named),
        wrt=", ".join(f"`{row.arguments[i].name}`" for i in row.wrt),
        budget=f", with memory_budget={row.budget:_}" if row.budget else "",
        forward=counted(kernels(low, "forward"), "kernel"),
        backward=counted(kernels(low, "backward"), "kernel"),
        launches=counted(low.cost.launches, "launch", "launches"),
        bytes=megabytes(low.cost.bytes),
        kept=megabytes(saved_beyond_outputs(low)),
        by_hand=f"{row.forward} and {row.backward}",
        why=row.why,
        explanation=low.explain(),
        sources="\n\n\n".join(kernel.source for kernel in low.kernels),
    )


def helpers(function: Callable[..., object]) -> list[FunctionType]:
    """The gallery's own functions that a function calls, in the order they are written."""
    found: dict[FunctionType, None] = {}
    waiting = [function]
    while waiting:
        for name in waiting.pop().__code__.co_names:
            called = vars(gallery).get(name)
            if isinstance(called, FunctionType) and called.__module__ == gallery.__name__ and called not in found:
                found[called] = None
                waiting.append(called)
    return sorted(found, key=lambda called: called.__code__.co_firstlineno)


def kernels(low: gradc.Lowered, phase: str) -> int:
    """How many kernels a phase has."""
    return sum(kernel.phase == phase for kernel in low.kernels)


def counted(count: int, one: str, more: str = "") -> str:
    """`1 kernel` or `2 kernels`."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def megabytes(count: int) -> str:
    """Four digits; one MB is 10⁶ bytes."""
    return f"{count / 1e6:.4g}"


def main() -> int:
    PAGES.mkdir(parents=True, exist_ok=True)
    texts = pages()
    for stale in PAGES.glob("*.md"):
        if stale.name not in texts:
            stale.unlink()
    for name, text in texts.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
