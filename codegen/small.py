"""Small products of matrices: which are multiplied and summed as one tile, like any other sum, without the matrix unit.

Such a product shares a kernel with whatever its operands come from and its result goes to, so that whole small networks become one
or few kernels. Up to the first of a device's `small_products` that is always better; up to the second it is weighed against the
matrix unit for the program as a whole, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from gradc.codegen.device import Device
from gradc.codegen.index import power_of_two
from gradc.ir import Graph, Value
from gradc.structure import Contract


def limits(graph: Graph, device: Device) -> tuple[int, ...]:
    """The sizes up to which products may count as small in this program, to be weighed against each other."""
    surely, perhaps = device.small_products
    counts = [multiplications(value) for value in graph.values if isinstance(value.operation, Contract)]
    return (surely, perhaps) if any(surely < count <= perhaps for count in counts) else (surely,)


def multiplications(value: Value) -> int:
    """How many a contraction takes, with every extent padded to a power of two."""
    x, y = value.operands
    sizes = dict(zip((*value.operation.lhs, *value.operation.rhs), (*x.shape, *y.shape), strict=True))
    return padded(sizes.values())


def padded(sizes: Iterable[int]) -> int:
    """The elements of a tile with these extents."""
    return prod(power_of_two(size) for size in sizes)
