"""Programs of every structure with names to choose, and whether two emitted modules are one program under other names.

Names are the user's: of the function, its arguments, its variables and the keys of its result. `python tests/renaming.py`
tries every word that stands in a module at every place; the suite tries every word at one.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest
from typing import Any

import gradc
from gradc.codegen.printing import expressions, online

_files = count()


@dataclass(frozen=True)
class Structure:
    """A function as text over the names `{f}` (itself), `{a}`, `{b}`, `{c}` (arguments), `{t}` (a variable) and `{o}` (a key)."""

    text: str
    specs: tuple[tuple[tuple[int, ...], str], ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(place for place in "fabcto" if f"{{{place}}}" in self.text)

    def function(self, names: Mapping[str, str], file: str = "") -> Callable:
        """The function with these names; its lines can be shown. Any text may be the name of its file."""
        text = "import gradc\nfrom gradc import nn\n" + self.text.format(**names)
        file, found = file or f"<renamed {next(_files)}>", {}
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec"), found)
        return found[names["f"]]

    def source(self, names: Mapping[str, str], title: str | None = None, file: str = "") -> str:
        """The emitted module; the function may say that its name is any text."""
        function, specs = self.function(names, file), [gradc.spec(shape, dtype) for shape, dtype in self.specs]
        function.__name__ = names["f"] if title is None else title
        return gradc.compile(function).lower(*specs, **self.options).source


BIG, FLOATS, HALVES = 4096, "float32", "bfloat16"
STRUCTURES = {
    "elementwise": Structure(
        'def {f}({a}, {b}):\n    {t} = {a} * {b}\n    return {{{o!r}: gradc.tanh({t}) * {t}}}\n', (((5, 7), FLOATS), ((7,), FLOATS))
    ),
    "rows": Structure(
        "def {f}({a}, {b}):\n    {t} = gradc.rsqrt(gradc.mean({a} * {a}, axis=-1, keepdims=True) + 1e-6)\n"
        '    return {{{o!r}: {a} * {t} * {b}}}\n',
        (((8192, 1000), HALVES), ((1000,), HALVES)),
    ),
    "long rows": Structure(
        "def {f}({a}, {b}):\n    {t} = gradc.softmax({a}, axis=-1) * {b}\n"
        '    return {{{o!r}: {t}}}, gradc.var({a}, axis=-1)\n',
        (((512, 100001), FLOATS), ((512, 1), FLOATS)),
    ),
    "extremes": Structure(
        "def {f}({a}, {b}):\n    {t} = gradc.max({a}, axis=0)\n"
        '    return {{{o!r}: gradc.min({t} * {b})}}, gradc.prod({b}, axis=-1)\n',
        (((300, 50), FLOATS), ((50,), FLOATS)),
    ),
    "product": Structure(
        'def {f}({a}, {b}, {c}):\n    {t} = {a} @ {b}\n    return {{{o!r}: nn.gelu({t} + {c})}}\n',
        (((BIG, 1000), HALVES), ((1000, BIG), HALVES), ((BIG,), HALVES)),
    ),
    "attention": Structure(
        "def {f}({a}, {b}, {c}):\n"
        '    return {{{o!r}: nn.scaled_dot_product_attention({a}, {b}, {c}, is_causal=True)}}\n',
        (((2, 4, 1000, 64), HALVES),) * 3,
    ),
    "gathered": Structure(
        'def {f}({a}, {b}):\n    {t} = gradc.take({a}, {b}, axis=0)\n    return {{{o!r}: {t} * {t}}}\n',
        (((1000, 96), FLOATS), ((700,), "int64")),
    ),
    "added in memory": Structure(
        'def {f}({a}, {b}):\n    {t} = gradc.take({a}, {b}, axis=0)\n    return {{{o!r}: {t} * {t}}}\n',
        (((1000, 96), FLOATS), ((70000,), "int64")),
        {"deterministic": False},
    ),
    "chunks": Structure(
        "def {f}({a}, {b}, {c}):\n    {t} = {a} @ {b}.T\n"
        '    return {{{o!r}: nn.cross_entropy({t}.astype(gradc.float32), {c})}}\n',
        (((BIG, 512), HALVES), ((50257, 512), HALVES), ((BIG,), "int64")),
    ),
    "split": Structure(
        'def {f}({a}, {b}):\n    {t} = {a} * {b}\n    return {{{o!r}: gradc.logsumexp({t})}}\n',
        (((3000001,), FLOATS), ((), FLOATS)),
    ),
    "random": Structure(
        'def {f}({a}, {b}):\n    {t} = nn.dropout({a}, 0.25, key={b})\n    return {{{o!r}: {t} * {t}}}\n',
        (((500, 33), FLOATS), ((2,), "uint32")),
    ),
    "running": Structure(
        'def {f}({a}, {b}):\n    {t} = gradc.cumsum({a} * {b}, axis=-1)\n    return {{{o!r}: {t} * {t}}}\n',
        (((40, 20001), FLOATS), ((20001,), FLOATS)),
    ),
    "together": Structure(
        "def {f}({a}, {b}, {c}):\n    {t} = {a} - 0.1 * {b}\n"
        '    return {{{o!r}: {t}}}, gradc.sum({c} * {c}, axis=-1), {c} + 1\n',
        (((1000, 3), FLOATS), ((1000, 3), FLOATS), ((37, 5), FLOATS)),
    ),
}  # fmt: skip


PLAIN = {place: f"{place}qzxk" for place in "fabcto"}  # names that nothing else has


def words(source: str) -> list[str]:
    """Every name a module gives to something or finds in Python, and in what it imports."""
    tree = list(ast.walk(ast.parse(source)))
    named = {x.id for x in tree if isinstance(x, ast.Name)} | {x.arg for x in tree if isinstance(x, ast.arg)}
    defined = {x.name for x in tree if isinstance(x, ast.FunctionDef | ast.ClassDef)}
    return sorted((named | defined) - set(PLAIN.values()) - {"_"})  # what begins so the tracer does not read


def choices(structure: Structure, taken: Sequence[str], every_place: bool = False) -> Iterator[dict[str, str]]:
    """The names of a module as the user's own: each word at some place, or at every one."""
    places = structure.places
    for first in range(0, len(taken), 1 if every_place else len(places)):
        yield PLAIN | {place: taken[(first + i) % len(taken)] for i, place in enumerate(places)}


def wrong(structure: Structure, plain: str, names: Mapping[str, str]) -> str:
    """What is wrong with the module that is emitted under these names; "" where it is `plain` under other ones."""
    try:
        source = structure.source(names)
        compile(source, "<emitted>", "exec")
    except Exception as error:
        return f"{dict(names)}: {type(error).__name__}: {error}"
    found = same_program(source, plain)
    return f"{dict(names)}: {found}" if found else ""


def same_program(one: str, other: str) -> str:
    """ "" where two modules differ in the choice of names alone; otherwise where they part."""
    first, second = ast.parse(one), ast.parse(other)
    defined = [{x.name for x in tree.body if isinstance(x, ast.FunctionDef | ast.ClassDef)} for tree in (first, second)]
    outer = Renaming(*defined)
    for a, b in zip_longest(first.body[1:], second.body[1:]):  # without the docstring
        if a is None or b is None:
            return "one has more statements"
        if found := outer.difference(a, b):
            return f"{found}\n{ast.unparse(a)}\n--- and ---\n{ast.unparse(b)}"
    return ""


class Renaming:
    """Names of one text and their counterparts in the other: of the module, and anew for every function."""

    def __init__(self, first: set[str], second: set[str]):
        self.defined = first, second
        self.outer: dict[str, str] = {}
        self.inner: dict[str, str] | None = None
        self.local: tuple[set[str], set[str]] = set(), set()

    def difference(self, a: Any, b: Any) -> str:
        if isinstance(a, list):
            pairs = zip_longest(a, b)
            return next((found for x, y in pairs if (found := self.difference(x, y))), "")
        if type(a) is not type(b):
            return f"{a} and {b}"
        if isinstance(a, ast.FunctionDef):
            return self._function(a, b)
        if isinstance(a, ast.ClassDef):
            return self._paired(a.name, b.name, False) or self.difference(a.body, b.body)
        if isinstance(a, ast.Name):
            return self._named(a.id, b.id)
        if isinstance(a, ast.arg):
            return self._named(a.arg, b.arg) or self.difference(a.annotation, b.annotation)
        if isinstance(a, ast.keyword):  # of a kernel's parameters, some of which are named as the user's
            return self.difference(a.value, b.value)
        if isinstance(a, ast.Constant) and isinstance(a.value, str) and isinstance(b.value, str):
            return ""
        if isinstance(a, ast.AST):
            fields = (self.difference(getattr(a, name, None), getattr(b, name, None)) for name in a._fields)
            return next((found for found in fields if found), "")
        return "" if a == b else f"{a!r} and {b!r}"

    def _function(self, a: ast.FunctionDef, b: ast.FunctionDef) -> str:
        if a.col_offset == 0 and (found := self._paired(a.name, b.name, False)):
            return found
        self.inner, self.local = {}, (bound(a), bound(b))
        found = self.difference([a.args, a.body], [b.args, b.body])
        self.inner = None
        return found

    def _named(self, a: str, b: str) -> str:
        own = [name in local for name, local in zip((a, b), self.local, strict=True)]
        if self.inner is not None and any(own):
            return self._paired(a, b, True) if all(own) else f"{a} or {b} hides a name of the module"
        return self._paired(a, b, False)

    def _paired(self, a: str, b: str, inside: bool) -> str:
        if not inside and not (a in self.defined[0] and b in self.defined[1]):
            return "" if a == b else f"{a} and {b} are defined nowhere"
        pairs = self.inner if inside and self.inner is not None else self.outer
        if a not in pairs and b in pairs.values():
            return f"{b} is two things: {a} and {next(x for x, y in pairs.items() if y == b)}"
        return "" if pairs.setdefault(a, b) == b else f"{a} is two things: {b} and {pairs[a]}"


def bound(function: ast.FunctionDef) -> set[str]:
    """The names a function gives to things, its parameters included."""
    inner = list(ast.walk(function))
    stored = {x.id for x in inner if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    return stored | {x.arg for x in inner if isinstance(x, ast.arg)}


def free_words(source: str) -> set[str]:
    """The names a module reads that it does not give to anything itself."""
    tree = ast.parse(source)
    functions = [x for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)]
    inside = {id(x) for function in functions for x in ast.walk(function)}
    defined = {x.name for x in tree.body if isinstance(x, ast.FunctionDef | ast.ClassDef)}
    read = {x.id for x in ast.walk(tree) if isinstance(x, ast.Name) and id(x) not in inside}
    for function in functions:
        read |= {x.id for x in ast.walk(function) if isinstance(x, ast.Name)} - bound(function)
    return read - defined


def main(titles: Sequence[str]) -> int:
    """Every word of the structures named (all of them unless told) at every place; says which are wrong."""
    expressions.INLINE_LENGTH = online.LONG = 10**6  # whatever the length of a name, lines are broken alike
    failures = []
    for title in titles or STRUCTURES:
        structure = STRUCTURES[title]
        plain = structure.source(PLAIN)
        found = [wrong(structure, plain, names) for names in choices(structure, words(plain), every_place=True)]
        failures += [f"{title}: {text}" for text in found if text]
        print(f"{title}: {len(found)} programs, {sum(map(bool, found))} wrong", flush=True)
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
