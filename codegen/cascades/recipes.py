"""Cascades as text to print, by the form of the body: how a sum that depends on unfinished reductions is kept up to date.

A form is a body in the table's functions, as JSON: x0, x1, ... vary along the loop, d0, ... are states and c0, ... constants.
The commonest forms stand in `recipes.json`, others in a store on disk; only for a new one does `cascade.py` run, with SymPy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from math import copysign, isfinite, isnan
from pathlib import Path
from typing import Any, Protocol

from gradc.codegen.cascades.cascade import Cascade, Refusal, derive, to_triton
from gradc.ops import TABLE

FILE = "recipe.json"
SHIPPED = Path(__file__).with_name("recipes.json")
FAR = 1000  # as the distance between two states: exp(-FAR) is 0 in every dtype


class Store(Protocol):
    """Texts on disk by key and file name; what is absent or damaged is None."""

    def get(self, key: str) -> Mapping[str, str] | None: ...

    def put(self, key: str, files: Mapping[str, str]) -> Any: ...


@dataclass(frozen=True)
class Recipe:
    """A cascade in Triton text over {x0}, {d0}, {c0}, the sums {a0}, {a1}, ..., and how far a state moves: {d0_by} is old - new.

    `basis` are the summands; the first is the body itself where `keeps_body`. `moved` are the sums when the states move from
    old to new (in {d0_old} and {d0_new} where that is not a matter of the distance), and `combination` is the result from the sums at the final states. `polynomial` says of each state whether
    the sums move by polynomials in it. `shrinks` is "max" or "min" where there is one sum, one state moves it, and it tends
    to 0 as that state grows or falls. `proof` has the identities for a reader, over the same names, a prime for the new state.
    """

    basis: tuple[str, ...]
    keeps_body: bool
    moved: tuple[str, ...]
    combination: str
    polynomial: tuple[bool, ...]
    shrinks: str
    proof: tuple[str, ...]

    @property
    def rank(self) -> int:
        return len(self.basis)

    def moves(self, i: int) -> bool:
        """Whether the i-th sum needs any repair."""
        return self.moved[i] != f"{{a{i}}}"

    @property
    def is_moved(self) -> bool:
        """Whether any sum does."""
        return any(map(self.moves, range(self.rank)))

    @property
    def is_diagonal(self) -> bool:
        """Whether every sum moves by a factor of its own."""
        return all(f"{{a{j}}}" not in text for i, text in enumerate(self.moved) for j in range(self.rank) if j != i)


class Recipes:
    """The recipes met so far: those shipped, those of the store, those derived in this process.

    `state` says what derived those of the store: another compiler's are not read.
    """

    def __init__(self, store: Store | None = None, state: str = ""):
        self.store, self.state = store, state
        self._known: dict[str, Recipe | Refusal] = {}

    def of(self, form: str) -> Recipe | Refusal:
        """The recipe of a form, or why there is none."""
        if form not in self._known:
            self._known[form] = shipped().get(form) or self._stored(form)
        return self._known[form]

    def _stored(self, form: str) -> Recipe | Refusal:
        key = sha256(f"recipe {self.state} {form}".encode()).hexdigest()[:40]
        files = self.store.get(key) if self.store is not None else None
        found = from_json(files[FILE]) if files is not None and FILE in files else None
        if found is None:
            found = derived(form)
            if self.store is not None:
                self.store.put(key, {FILE: to_json(found)})
        return found


def to_json(found: Recipe | Refusal) -> str:
    return json.dumps(asdict(found), ensure_ascii=False)


def from_json(text: str) -> Recipe | Refusal | None:
    """What `to_json` wrote; None for any other text."""
    try:
        return _from_content(json.loads(text))
    except (AttributeError, TypeError, ValueError):
        return None


def _from_content(content: dict[str, Any]) -> Recipe | Refusal:
    if "reason" in content:
        return Refusal(str(content["reason"]))
    parts: dict[str, Any] = {name: _frozen(part) for name, part in content.items()}
    return Recipe(**parts)


def _frozen(part: Any) -> Any:
    return tuple(map(_frozen, part)) if isinstance(part, list) else part


def to_file(found: Mapping[str, Recipe | Refusal]) -> str:
    """The text of `recipes.json`: a form a line."""
    lines = (json.dumps({"form": json.loads(form), **asdict(found[form])}, ensure_ascii=False) for form in sorted(found))
    return "[\n" + ",\n".join(lines) + "\n]\n"


@cache
def shipped() -> Mapping[str, Recipe | Refusal]:
    """The recipes of `recipes.json`, which `derived` gives too."""
    content = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return {json.dumps(entry.pop("form")): _from_content(entry) for entry in content}


def derived(form: str) -> Recipe | Refusal:
    """The recipe of a form, proved by `cascade.py`."""
    symbols: dict[str, Any] = {}
    try:
        body = _expression(json.loads(form), symbols)
        groups = [[symbols[name] for name in sorted(symbols) if name[0] == kind] for kind in "xdc"]
        found = derive(body, *groups)
    except (TypeError, ValueError, NotImplementedError, KeyError) as error:
        return Refusal(f"no exact meaning: {error}")
    return found if isinstance(found, Refusal) else _recipe(found)


def _expression(tree: Any, symbols: dict[str, Any]) -> Any:
    import sympy

    if isinstance(tree, str):
        return symbols.setdefault(tree, sympy.Symbol(tree))
    if isinstance(tree, list):
        name, *operands = tree
        return TABLE[name].symbolic(sympy, *(_expression(x, symbols) for x in operands))
    return sympy.Rational(tree) if isfinite(tree) else sympy.nan if isnan(tree) else sympy.oo * int(copysign(1, tree))


def _recipe(cascade: Cascade) -> Recipe:
    import sympy

    sums = [sympy.Symbol(f"a{i}") for i in range(cascade.rank)]
    known = set().union(*(part.free_symbols for part in (cascade.body, *cascade.basis, *cascade.combination)))
    names = {symbol: f"{{{symbol.name}}}" for symbol in known | set(sums)}
    names |= {
        s: f"{{{d.name}_{age}}}" for age in ("old", "new") for d, s in zip(cascade.states, getattr(cascade, age), strict=True)
    }
    transport, distances = _by_distance(cascade)
    names |= {by: f"{{{d.name}_by}}" for d, by in zip(cascade.states, distances, strict=True)}
    moved = tuple(sympy.Add(*(t * a for t, a in zip(row, sums, strict=True))) for row in transport)
    result = sympy.Add(*(c * a for c, a in zip(cascade.combination, sums, strict=True)))
    return Recipe(
        tuple(to_triton(part, names) for part in cascade.basis),
        bool(cascade.combination[0] == 1 and cascade.basis[0] == cascade.body),
        tuple(to_triton(part, names) for part in moved),
        to_triton(result, names),
        tuple(
            all(entry.is_polynomial(old, new) for row in cascade.transport for entry in row)
            for old, new in zip(cascade.old, cascade.new, strict=True)
        ),
        _shrinks(cascade),
        cascade.proof,
    )


def _by_distance(cascade: Cascade) -> tuple[Sequence[Sequence[Any]], list[Any]]:
    """The transport in the distances old - new alone, where that is possible; and their symbols.

    Two states that lie close together are first subtracted: what they have in common is gone before it is rounded.
    """
    import sympy

    distances = [sympy.Dummy(f"{state.name}_by") for state in cascade.states]
    ahead = {old: new + by for old, new, by in zip(cascade.old, cascade.new, distances, strict=True)}
    moved = [[entry.xreplace(ahead) for entry in row] for row in cascade.transport]
    is_possible = all(entry.free_symbols.isdisjoint(cascade.new) for row in moved for entry in row)
    return (moved if is_possible else cascade.transport), distances


def _shrinks(cascade: Cascade) -> str:
    """Which way the one state that moves the one sum may go without the sum growing: "max" for upwards."""
    import sympy

    entry = cascade.transport[0][0]
    moving = [pair for pair in zip(cascade.old, cascade.new, strict=True) if entry.free_symbols == set(pair)]
    if cascade.rank > 1 or not moving:
        return ""
    for kind, sign in (("max", 1), ("min", -1)):
        far = entry.xreplace({moving[0][0]: sympy.Integer(-sign * FAR), moving[0][1]: sympy.Integer(0)})
        if far.is_number and abs(float(far)) < 1e-300:
            return kind
    return ""


KNOWN = Recipes()  # what this process has met, where nothing is kept on disk
