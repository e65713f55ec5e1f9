"""Prints a loop over the terms a program owns (`searches.py`): a loop over tiles of the numbers that say whose a term is, and
inside it a loop over the terms found in the tile, one after the other.
"""

from __future__ import annotations

from dataclasses import replace

from gradc.codegen.plan import KernelAxis
from gradc.codegen.printing.expressions import Expressions
from gradc.codegen.printing.scope import Scope
from gradc.codegen.searches import Owner


def open_search(kernel: Expressions, scope: Scope, loop: KernelAxis, owner: Owner) -> Scope:
    """The body of the inner loop, where the position along `loop` is that of a term found."""
    lanes = replace(loop, name=f"{loop.name}_searched", block=loop.parts, parts=1)
    search = Scope(scope, scope.bound | {lanes})
    size = kernel.positions.size(loop)
    printed = kernel.instead(loop, lanes)
    printed.open_loop(search, lanes)
    positions = printed.positions
    number = printed.at(owner.number, search).text
    if not number.isidentifier():
        search.add(f"{(name := kernel.names.fresh('owner'))} = {number}")
        number = name
    owners = next(axis for axis in kernel.axes if frozenset(axis.axes) & owner.position.axes)
    here = positions.whole(lanes, (lanes,))
    if owners.block == 1:
        belongs = f"{number} == {positions.index_text(owner.position, (), search)}"
    else:
        first = positions.first(owners)
        low = first.plus(type(first)((), owner.position.offset))
        belongs = f"({number} >= {low.text()}) & ({number} < {low.plus(positions.extent(owners)).text()})"
    if lanes.overhangs:
        belongs = f"({belongs}) & {positions.mask(lanes, (lanes,), search)}"
    found = kernel.names.fresh("found")
    search.add(f"{found} = tl.where({belongs}, {here}, {size})", "where a term of this program stands")
    search.known.clear()  # all of it holds of many positions at once
    body = Scope(search, search.bound | {loop})
    kernel.positions.open_found(body, loop, found)
    return body
