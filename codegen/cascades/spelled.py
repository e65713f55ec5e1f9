"""Triton text read back as functions of the table: what recipes say of single tiles can then be said of whole arrays.

Texts are parsed and matched with the spelling of each row; nothing is evaluated.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from typing import Any

from gradc.ops import TABLE

HOLES = "xyz"


@cache
def meaning(template: str) -> Any:
    """The table functions of a text over {names}: nested lists `[function, operand, ...]` of names and numbers.

    Raises ValueError for a text that no row spells.
    """
    return _tree(ast.parse(template.replace("{", "").replace("}", ""), mode="eval").body)


def names_in(tree: Any) -> frozenset[str]:
    """The names that a meaning depends on."""
    if isinstance(tree, list):
        return frozenset().union(*map(names_in, tree[1:]))
    return frozenset((tree,)) if isinstance(tree, str) else frozenset()


def evaluated(tree: Any, at: Mapping[str, Any]) -> Any:
    """The functions of a meaning applied to what its names stand for, arrays and Values alike."""
    if isinstance(tree, list):
        return TABLE[tree[0]](*(evaluated(x, at) for x in tree[1:]))
    return at[tree] if isinstance(tree, str) else tree


def _tree(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _tree(node.operand)
        return -inner if isinstance(inner, float) else ["negative", inner]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "float" and isinstance(node.args[0], ast.Constant):
        return float(str(node.args[0].value))
    for name, pattern in _patterns():
        holes: dict[str, ast.expr] = {}
        if _matches(pattern, node, holes):
            return [name, *(_tree(holes[hole]) for hole in HOLES if hole in holes)]
    raise ValueError(f"no row of the table spells {ast.unparse(node)!r}")


@cache
def _patterns() -> tuple[tuple[str, ast.expr], ...]:
    """Every row with its spelling, the longest first: what is said in one function is not taken for several."""
    rows = sorted(TABLE.values(), key=lambda row: -len(row.triton))
    return tuple(
        (row.name, ast.parse(row.triton.replace("{", "").replace("}", ""), mode="eval").body)
        for row in rows
        if "{dtype}" not in row.triton
    )


def _matches(pattern: Any, node: Any, holes: dict[str, ast.expr]) -> bool:
    """Whether a node is what a pattern is, with the same expression wherever a hole of one name is."""
    if isinstance(pattern, ast.Name) and pattern.id in HOLES:
        return ast.dump(holes.setdefault(pattern.id, node)) == ast.dump(node)
    if isinstance(pattern, ast.AST):
        if type(pattern) is not type(node):
            return False
        return all(_matches(getattr(pattern, part), getattr(node, part), holes) for part in pattern._fields)
    if isinstance(pattern, list):
        pairs = zip(pattern, node, strict=False)
        return len(pattern) == len(node) and all(_matches(x, y, holes) for x, y in pairs)
    return bool(pattern == node)
