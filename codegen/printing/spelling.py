"""How constants, dtypes, operators and unnamed values are written in Triton. Knows no kernel."""

from __future__ import annotations

import re
from typing import Any

from gradc import types
from gradc.codegen.nodes import Node
from gradc.codegen.printing.scope import ATOM, BINDING, UNARY
from gradc.types import DType

IDENTITIES = {"sum": 0, "prod": 1, "max": float("-inf"), "min": float("inf")}
BINARY = re.compile(r"\{x\} (\S+) \{y\}")
CALL = re.compile(r"[\w.]+\([^()]*\)")
ARGUMENT = re.compile(r"(?<=[(,])\s*\{[xyz]\}(?=[,)])")  # an operand that is an argument by itself


def bindings(template: str) -> tuple[int, int, int]:
    """How tightly the left and the right operand of a template must bind, and how tightly the result does.

    The right operand of an operator binds tighter than the operator: floating-point sums are never reassociated.
    """
    binary = BINARY.fullmatch(template)
    if binary:
        level = BINDING[binary.group(1)]
        return (level + 1 if level == 1 else level), level + 1, level
    if template in ("-{x}", "~{x}"):
        return UNARY, UNARY, UNARY
    if CALL.fullmatch(template):
        operand = ATOM if "{" in ARGUMENT.sub("", template) else 0
        return operand, operand, ATOM
    return ATOM, ATOM, 0


def literal(value: Any, dtype: DType) -> str:
    """A constant by its exact spelling."""
    if isinstance(value, bool) or not dtype.is_floating:
        return repr(value)
    value = float(value)
    if value != value or value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    return repr(value)


def zero(dtype: DType) -> str:
    return "0.0" if dtype.is_floating else "0"


def identity(kind: str, dtype: DType) -> str:
    """The neutral element of a reduction in a dtype."""
    value = IDENTITIES[kind]
    if dtype.is_floating:
        return literal(float(value), dtype)
    if kind in ("sum", "prod"):
        return str(value)
    bits = 8 * dtype.itemsize - (dtype.family == "int")
    low, high = (-(2**bits) if dtype.family == "int" else 0), 2**bits - 1
    return str(low if kind == "max" else high)


def triton_dtype(dtype: DType) -> str:
    return "tl.int1" if dtype == types.bool_ else f"tl.{dtype.name}"


def fallback_name(node: Node) -> str:
    """A name for a value the user gave none: `d_multiply` is the cotangent of a product, `dx_term` a part of x's."""
    _, _, differentiated = node.value.note.partition("∂/∂")
    if differentiated:
        return f"d{differentiated}_term"
    if node.value.note.startswith("∂ "):
        return f"d_{node.value.note[2:]}"
    if node.kind == "apply":
        return node.detail.name
    if node.kind == "reduce":
        return f"{node.detail[0]}_"
    return {"dot": "product", "cast": "rounded", "scan": "running", "guard": "inside", "position": "position"}.get(
        node.kind, "value"
    )


def remark(node: Node) -> str:
    """What a reader of the line wants to know: which derivative it is, and the user's line."""
    return "  ".join(part for part in (node.value.note, str(node.value.source or "")) if part)
