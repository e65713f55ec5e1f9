"""Reverse and forward mode on graphs: given Values and what they depend on, builds the Values of their derivatives.

Every operation brings its own rule (partials, a transpose, or a jvp); this file walks, names no operation and changes no
Value. Derivatives are ordinary Values, so a derivative is differentiated again in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradc.ir import Value, apply, on_behalf_of
from gradc.leaves import make_input
from gradc.tangents import Tangent, scale, total, zeros_like


def vjp_graph(outputs: Sequence[Value], wrt: Sequence[Value], cotangents: Sequence[Tangent]) -> list[Value]:
    """The cotangents of `wrt` from those of `outputs` (None is zero): reverse mode. Each of `wrt` counts as independent."""
    active = depending(outputs, wrt)
    known = max((value.number for value in active), default=0)
    totals: dict[Value, Value] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if output in active:
            _accumulate(totals, output, cotangent)
    stops = set(wrt)
    for value in reversed(active):
        if value not in totals:
            continue
        _name(totals[value], "d{}", value, known)
        if value not in stops:
            for operand, cotangent in _pulled_back(value, totals[value], active):
                if cotangent is not None and cotangent.number > totals[value].number:
                    cotangent.auxiliary = operand.auxiliary
                _accumulate(totals, operand, cotangent)
    return [totals[value] if value in totals else zeros_like(value) for value in wrt]


def jvp_graph(outputs: Sequence[Value], wrt: Sequence[Value], tangents: Sequence[Tangent]) -> list[Tangent]:
    """The tangents of `outputs` from those of `wrt` (None is zero): forward mode. Each of `wrt` counts as independent."""
    active = depending(outputs, wrt)
    known = max((value.number for value in active), default=0)
    found: dict[Value, Tangent] = dict(zip(wrt, tangents, strict=True))
    for value in active:
        if value not in found:
            with on_behalf_of(value, f"d {value.name or value.operation.name}"):
                found[value] = _pushed_forward(value, tuple(found.get(operand) for operand in value.operands))
            _name(found[value], "{}_dot", value, known)
    return [found.get(output) for output in outputs]


def depending(outputs: Sequence[Value], wrt: Sequence[Value]) -> dict[Value, None]:
    """The Values on a differentiable path from `wrt` to `outputs`, in the order they were made (operands first).

    A Value is younger than its operands, so nothing older than the oldest of `wrt` is looked at.
    """
    oldest = min((value.number for value in wrt), default=0)
    reached: set[Value] = set()
    waiting = list(outputs)
    while waiting:
        value = waiting.pop()
        if value.number >= oldest and value not in reached:
            reached.add(value)
            waiting.extend(value.operands)
    variables, active = set(wrt), dict[Value, None]()
    for value in sorted(reached, key=lambda value: value.number):
        if value in variables or any(operand in active for operand in _differentiable_operands(value)):
            active[value] = None
    return active


def _differentiable_operands(value: Value) -> Iterator[Value]:
    """The operands that the rule of the Value's operation passes derivatives through."""
    operation = value.operation
    if not value.dtype.is_floating:
        return
    for position, operand in enumerate(value.operands):
        if hasattr(operation, "partials"):
            passes = operation.partials[position] is not None
        else:
            passes = position in operation.linear if operation.linear else hasattr(operation, "jvp")
        if passes and operand.dtype.is_floating:
            yield operand


def _pulled_back(value: Value, cotangent: Value, active: dict[Value, None]) -> Iterator[tuple[Value, Tangent]]:
    """The Value's cotangent taken to each of its active operands."""
    operation = value.operation
    wanted = [operand if operand in active else None for operand in value.operands]
    if hasattr(operation, "partials"):
        parts: dict[Value, Tangent] = {}  # x·x takes 2·x·cotangent to x at once
        for operand, partial in zip(wanted, operation.partials, strict=True):
            if operand is not None and partial is not None:
                with on_behalf_of(value, _note(value, operand)):
                    parts[operand] = total(parts.get(operand), scale(partial(*value.operands, value), cotangent, value.number))
        yield from parts.items()
        return
    with on_behalf_of(value, _note(value, next(operand for operand in wanted if operand is not None))):
        pulled = operation.transpose(value, cotangent) if operation.linear else _transposed_jvp(value, cotangent, wanted)
    for operand, part in zip(wanted, pulled, strict=True):
        if operand is not None:
            if part is not None and part.number > cotangent.number:
                part.note = _note(value, operand)
            yield operand, part


def _transposed_jvp(value: Value, cotangent: Value, wanted: Sequence[Value | None]) -> list[Tangent]:
    """Reverse mode of an operation that only says its forward rule: that rule is linear in the tangents, so it transposes."""
    tangents = tuple(None if operand is None else make_input(operand.shape, operand.dtype) for operand in wanted)
    pushed = value.operation.jvp(value, tangents)
    given = [tangent for tangent in tangents if tangent is not None]
    if pushed is None:
        return [None] * len(tangents)
    pulled = iter(vjp_graph([pushed], given, [cotangent]))
    return [None if tangent is None else next(pulled) for tangent in tangents]


def _pushed_forward(value: Value, tangents: tuple[Tangent, ...]) -> Tangent:
    """The Value's tangent from those of its operands."""
    operation = value.operation
    if hasattr(operation, "partials"):
        pushed: Tangent = None
        for tangent, partial in zip(tangents, operation.partials, strict=True):
            if tangent is not None and partial is not None:
                pushed = total(pushed, scale(partial(*value.operands, value), tangent, value.number))
        return pushed
    return _linear_tangent(value, tangents) if operation.linear else operation.jvp(value, tangents)


def _linear_tangent(value: Value, tangents: tuple[Tangent, ...]) -> Tangent:
    """The operation itself on the tangents: on all at once where it is linear in its operands together, else one after another."""
    operation, operands = value.operation, value.operands
    linear = [(i, tangent) for i, tangent in enumerate(tangents) if i in operation.linear and tangent is not None]
    if linear and operation.jointly_linear:
        return apply(operation, *(x if t is None else t for x, t in zip(map(zeros_like, operands), tangents, strict=True)))
    pushed: Tangent = None
    for i, tangent in linear:
        pushed = total(pushed, apply(operation, *operands[:i], tangent, *operands[i + 1 :]))
    return pushed


def _accumulate(totals: dict[Value, Value], value: Value, cotangent: Tangent) -> None:
    """Adds to the Value's cotangent, which has its shape and dtype."""
    if cotangent is None:
        return
    assert (cotangent.shape, cotangent.dtype) == (value.shape, value.dtype), f"cotangent {cotangent!r} of {value!r}"
    with on_behalf_of(cotangent, f"∂/∂{value.name}" if value.name else f"∂ {value.operation.name}"):
        summed = total(totals.get(value), cotangent)
    assert summed is not None
    totals[value] = summed


def _note(value: Value, operand: Value) -> str:
    return f"∂/∂{operand.name}" if operand.name else f"∂ {value.operation.name}"


def _name(derivative: Tangent, form: str, value: Value, known: int) -> None:
    """Names a derivative made here after the Value it belongs to."""
    if derivative is not None and derivative.name is None and value.name is not None and derivative.number > known:
        derivative.name = form.format(value.name)
