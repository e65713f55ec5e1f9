"""Which products of matrices, and which sums over a short axis, are cheaper to compute again wherever they are read than to keep.

Such a value never lies in memory: the kernels that read it hold its summed axis in the tile and compute it again, in the
forward and in every owner of the backward. This is a question of bytes against flops; no operation is named here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import prod

from gradc import ops, structure, types
from gradc.codegen.axes import AxisMap, summed_dims
from gradc.codegen.device import Device
from gradc.codegen.nodes import is_leaf
from gradc.codegen.stages import HEAVY, Stage
from gradc.ir import Value, apply, on_behalf_of, rebuild, topological, users_of
from gradc.leaves import Broadcast, Cast, Reshape
from gradc.ops import TABLE

RESIDENT_DEPTH = 256  # the longest summed axis that a tile holds whole
RESIDENT_FOLD = 64  # the same where the sum is no product of matrices
MEMORY_WEIGHT = 4  # seconds of arithmetic taken for a second of memory traffic that keeps a large array out of memory
LARGER = 1  # such a product has at least so many times the bytes of what it is made of

VIEWS = (ops.Elementwise, Cast, Broadcast, Reshape, structure.Permute, structure.Slice, structure.Marker)


def recomputed_products(outputs: Sequence[Value], device: Device) -> frozenset[Value]:
    """The products and short sums of a program that are computed again by whatever reads them."""
    values = topological(outputs)
    users, wanted = users_of(values), frozenset(outputs)
    return frozenset(
        value for value in values if _is_cheap(value, device) and _only_reduced(value, users, wanted) and is_safe(value, users)
    )


def _is_cheap(value: Value, device: Device) -> bool:
    if is_leaf(value) or not value.dtype.is_floating or value.dtype.itemsize > 4:
        return False
    if isinstance(value.operation, structure.Reduce):
        return _is_cheap_fold(value, device)
    return isinstance(value.operation, structure.Contract) and _is_cheap_product(value, device)


def _is_cheap_fold(value: Value, device: Device) -> bool:
    """A sum over a short axis of arrays that are spread against each other, such as the distances between all points of two sets."""
    (x,) = value.operands
    depth = prod(x.shape[axis] for axis in value.operation.axes)
    if not 1 < depth <= RESIDENT_FOLD or value.operation.kind not in ("sum", "max", "min", "prod"):
        return False
    sources, flops = _sources(value)
    if value.size * value.dtype.itemsize < LARGER * sum(source.size * source.dtype.itemsize for source in sources):
        return False
    return depth * flops / device.vector_rate < MEMORY_WEIGHT * 2 * value.dtype.itemsize / device.bandwidth


def _sources(fold: Value) -> tuple[list[Value], int]:
    """What a fold is made of element by element, and the operations for each element of its operand."""
    found: dict[Value, None] = {}
    seen: set[Value] = set()
    stack, flops = list(fold.operands), 1
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if is_leaf(value) or isinstance(value.operation, HEAVY):
            found[value] = None
            continue
        flops += getattr(value.operation, "flops", 0)
        stack.extend(value.operands)
    return list(found), flops


def _is_cheap_product(value: Value, device: Device) -> bool:
    contract = value.operation
    depth = prod(owner.shape[axis] for owner, axis in summed_dims(value))
    rows = [label for label in contract.out if label not in contract.rhs]
    columns = [label for label in contract.out if label not in contract.lhs]
    sizes = dict(zip(contract.out, value.shape, strict=True))
    sides = [prod(sizes[label] for label in part) for part in (rows, columns)]
    if min(*sides, depth) <= 1 or depth > RESIDENT_DEPTH:
        return False
    size = value.dtype.itemsize
    if value.size * size < LARGER * sum(x.size * x.dtype.itemsize for x in value.operands):
        return False
    computing = 2 * depth / (device.vector_rate if value.dtype == types.float32 else device.matrix_rate)
    return computing < MEMORY_WEIGHT * 2 * size / device.bandwidth


def _only_reduced(value: Value, users: Mapping[Value, list[Value]], outputs: frozenset[Value]) -> bool:
    """Whether everything made of a product element by element ends in reductions, and none that would repeat it for tile after tile."""
    return all(
        (isinstance(user.operation, HEAVY) and _width_beside(v, user) <= RESIDENT_DEPTH)
        or (isinstance(user.operation, VIEWS) and user not in outputs)
        for v in _derived(value, users)
        for user in users[v]
    ) and not any(v in outputs or not users[v] for v in _derived(value, users))


def _width_beside(value: Value, user: Value) -> int:
    """How many columns of another array each element of a Value is multiplied with."""
    if not isinstance(user.operation, structure.Contract):
        return 1
    contract, (x, _) = user.operation, user.operands
    mine, others = (contract.lhs, contract.rhs) if x is value else (contract.rhs, contract.lhs)
    sizes = dict(zip(contract.out, user.shape, strict=True))
    return prod(sizes[label] for label in others if label in sizes and label not in mine)


def _derived(value: Value, users: Mapping[Value, list[Value]]) -> dict[Value, None]:
    """A Value and what is computed from it without a reduction in between."""
    found, stack = {value: None}, [value]
    while stack:
        for user in users[stack.pop()]:
            if user not in found and not isinstance(user.operation, HEAVY):
                found[user] = None
                stack.append(user)
    return found


def is_safe(value: Value, users: Mapping[Value, list[Value]]) -> bool:
    """Not compared with a reduction of itself: computed again it may differ in the last bit, and equal nothing."""
    derived = _derived(value, users)
    reduced = {user for v in derived for user in users[v] if isinstance(user.operation, HEAVY)}
    compared = (v for v in derived if v.dtype == types.bool_ and len(v.operands) > 1)
    return not any(reduced & _made_of(v) for v in compared)


def _made_of(value: Value) -> set[Value]:
    """What a comparison's operands are computed from, as far as the nearest reductions."""
    found: set[Value] = set()
    stack: list[Value] = list(value.operands)
    while stack:
        x = stack.pop()
        if x not in found:
            found.add(x)
            if not isinstance(x.operation, HEAVY) and not is_leaf(x):
                stack.extend(x.operands)
    return found


def folded_in_two(stage: Stage, axes: AxisMap) -> Value | None:
    """A stage's reduction as one along a side of a product in its body, and then one of those results; None where there is no such.

    The first has the axes of other reductions of that product and can share their loop; the second reads an array that has lost a side.
    """
    heavy = stage.heavy
    if heavy is None or not isinstance(heavy.value.operation, structure.Reduce):
        return None
    operation, (x,) = heavy.value.operation, heavy.value.operands
    folded = dict(zip(operation.axes, axes.domain(heavy.value)[1], strict=True))
    for node in stage.nested:
        for side in (node.detail.columns, node.detail.rows):
            first = tuple(dim for dim, along in folded.items() if along and set(along) <= set(side))
            if first and len(first) < len(folded) and {axis for dim in first for axis in folded[dim]} == set(side):
                kept = [dim for dim in range(x.ndim) if dim not in first]
                with on_behalf_of(heavy.value, heavy.value.note):
                    partial = apply(structure.Reduce(operation.kind, first), x)
                    rest = tuple(kept.index(dim) for dim in operation.axes if dim not in first)
                    return apply(structure.Reduce(operation.kind, rest), partial)
    return None


def joined_sums(gradients: Sequence[Value], device: Device) -> list[Value]:
    """Gradients in which Σ_i g_i·(Σ_j y_ij) is Σ_ij g_i·y_ij wherever y is made of a recomputed product.

    The inner sums are then no array of their own; they would be nearly as large as the product. Sums may round differently.
    """
    users = users_of(topological(gradients))
    products = recomputed_products(gradients, device)
    made = {value for product in products for value in _derived(product, users)}

    def rule(value: Value) -> Value:
        found = _inner_sum(value, users, made)
        if found is None:
            return value
        with on_behalf_of(value, value.note):
            return _joined(value, *found)

    new = rebuild(gradients, {}, rule)
    return [new[value] for value in gradients]


def _inner_sum(value: Value, users: Mapping[Value, list[Value]], made: set[Value]) -> tuple[Value, Value] | None:
    """The sum under a summed product, and the other factor, where it is only used there."""
    if not _is_sum(value) or value.operands[0].operation is not TABLE["multiply"]:
        return None
    for inner, other in itertools.permutations(value.operands[0].operands):
        if _is_sum(inner) and inner.operands[0] in made and len(users.get(inner, ())) == 1:
            return inner, other
    return None


def _is_sum(value: Value) -> bool:
    return isinstance(value.operation, structure.Reduce) and value.operation.kind == "sum"


def _joined(value: Value, inner: Value, other: Value) -> Value:
    (x,) = inner.operands
    kept = [axis for axis in range(x.ndim) if axis not in inner.operation.axes]
    spread = apply(Broadcast(x.shape, tuple(kept)), other)
    axes = sorted((*inner.operation.axes, *(kept[axis] for axis in value.operation.axes)))
    return apply(structure.Reduce("sum", tuple(axes)), apply(TABLE["multiply"], x, spread))
