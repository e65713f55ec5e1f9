"""The arguments of a call: which leaves are arrays, which are static, what each is called, and a key for caches.

Arrays (NumPy, torch, a Spec, or a Value) are dynamic and described by shape, dtype and strides; every other leaf is static
and must hash. `signature_key` runs at every call of a compiled function, so it does little. Nothing here reads elements.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, NoReturn

import numpy as np
import optree

from gradc import types
from gradc.errors import TraceError, printable
from gradc.ir import Value
from gradc.tensors import is_tensor_type
from gradc.types import Spec

NUMPY, TORCH, ABSTRACT, NUMBER, PLAIN, STATIC = range(6)
_KINDS: dict[type, int] = {int: PLAIN, bool: PLAIN, str: PLAIN, float: NUMBER}


@dataclass(frozen=True)
class StaticNames:
    """The parameters that are static as a whole, by position and by name; `parameters` are all names in order."""

    positions: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    parameters: tuple[str, ...] = ()


NOTHING_STATIC = StaticNames()


@dataclass(frozen=True)
class Static:
    """An argument that is static as a whole, whatever it contains."""

    what: Any


def static_names(function: Callable, names: str | Sequence[str]) -> StaticNames:
    """`static_argnames` resolved against the function's parameters; TraceError for one that is not there."""
    wanted = (names,) if isinstance(names, str) else tuple(names)
    parameters = list(inspect.signature(function).parameters.values()) if wanted else []
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = [p.name for p in parameters]
    for name in wanted:
        if name not in known and not takes_any:
            raise TraceError(f"static_argnames has {name!r}, but the parameters are {', '.join(known)}")
    positions = frozenset(i for i, p in enumerate(parameters) if p.name in wanted and p.kind is not p.KEYWORD_ONLY)
    return StaticNames(positions, frozenset(wanted), tuple(known))


def marked(args: tuple, kwargs: dict, static: StaticNames) -> tuple[tuple, dict]:
    """The arguments with those that are static as a whole wrapped, so that they are leaves."""
    if static is NOTHING_STATIC or not static.names:
        return args, kwargs
    args = tuple(Static(x) if i in static.positions else x for i, x in enumerate(args))
    return args, {name: Static(x) if name in static.names else x for name, x in kwargs.items()}


def signature_key(args: tuple, kwargs: dict, static: StaticNames = NOTHING_STATIC) -> tuple[Hashable, list[Any]]:
    """A key that is equal for calls that run the same program, and the array leaves in order.

    The key holds the tree, each array's shape, dtype and (unless contiguous) strides, and the static leaves with their types.
    Raises TraceError, naming the argument, for a static leaf that does not hash.
    """
    args, kwargs = marked(args, kwargs, static)
    leaves, tree = optree.tree_flatten((args, kwargs) if kwargs else args)
    key: list[Any] = [tree]
    arrays: list[Any] = []
    for leaf in leaves:
        kind = _KINDS.get(type(leaf))
        if kind is None:
            kind = _KINDS[type(leaf)] = kind_of(type(leaf))
        if kind == TORCH:
            arrays.append(leaf)
            key.append((leaf.shape, leaf.dtype, None if leaf.is_contiguous() else leaf.stride()))
        elif kind == NUMPY:
            arrays.append(leaf)
            key.append((leaf.shape, leaf.dtype, None))  # NumPy arrays are copied row-major to where kernels run
        elif kind == ABSTRACT:
            arrays.append(leaf)
            key.append((leaf.shape, leaf.dtype, getattr(leaf, "strides", None)))
        elif kind == NUMBER:
            key.append((float, leaf if leaf else repr(leaf)) if leaf == leaf else (float, "nan"))
        elif kind == PLAIN:
            key.append((type(leaf), leaf))
        else:
            key.append((type(leaf), leaf) if hashes(leaf) else _refuse_unhashable(args, kwargs, static))
    return tuple(key), arrays


def static_objects(key: Hashable) -> list[Any]:
    """The static leaves of a `signature_key` that are neither numbers nor text: what they refer to may change."""
    leaves = [part[1] for part in key[1:] if len(part) == 2 and _KINDS.get(part[0]) == STATIC]  # type: ignore[index]
    return [leaf.what if isinstance(leaf, Static) else leaf for leaf in leaves]


def kind_of(kind: type) -> int:
    """How leaves of a Python type are treated."""
    if issubclass(kind, np.ndarray | np.generic):
        return NUMPY
    if issubclass(kind, Spec | Value):
        return ABSTRACT
    return TORCH if is_tensor_type(kind) else STATIC


def is_dynamic(leaf: Any) -> bool:
    """Whether a leaf is an array, known or abstract."""
    return isinstance(leaf, Spec | Value) or kind_of(type(leaf)) in (NUMPY, TORCH)


def spec_of(array: Any) -> Spec:
    """The shape, dtype and strides (in elements) of an array of any kind."""
    if isinstance(array, Spec):
        return array
    dtype, shape = types.as_dtype(array.dtype), tuple(array.shape)
    if isinstance(array, Value):
        return Spec(shape, dtype)
    return types.spec(shape, dtype, strides=tuple(array.stride()) if hasattr(array, "stride") else None)


def leaf_names(function: Callable, args: tuple, kwargs: dict) -> list[str]:
    """A name for each leaf of `(args, kwargs)`: its parameter, then its keys and positions: `params_w1`, `layers_0_b`."""
    parameters = positional_names(function, len(args))
    paths = [[getattr(entry, "field", entry.entry) for entry in accessor] for accessor in optree.tree_accessors((args, kwargs))]
    return [identifier("_".join(map(str, (parameters[path[1]] if path[0] == 0 else path[1], *path[2:])))) for path in paths]


def positional_names(function: Callable, count: int) -> list[str]:
    """The parameters that `count` positional arguments fall on; those of *args are numbered."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "argument")
    return [*names, *(f"{rest}_{i}" for i in range(count - len(names)))]


def identifier(text: str) -> str:
    """`text` as a Python identifier."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return name if name.isidentifier() and not iskeyword(name) else f"_{name}"


def hashes(leaf: Any) -> bool:
    try:
        hash(leaf)
    except TypeError:
        return False
    return True


def _refuse_unhashable(args: tuple, kwargs: dict, static: StaticNames) -> NoReturn:
    """Raises TraceError for the first static leaf that does not hash."""
    paths, leaves, _ = optree.tree_flatten_with_path((args, kwargs))
    path, leaf = next(
        (path, leaf) for path, leaf in zip(paths, leaves, strict=True) if not is_dynamic(leaf) and not hashes(leaf)
    )
    what = leaf.what if isinstance(leaf, Static) else leaf
    names = static.parameters[: len(args)]
    where = f"positional argument {path[1]}" if path[0] == 0 else f"argument {path[1]!r}"
    if path[0] == 0 and path[1] < len(names) and isinstance(leaf, Static):
        where = f"argument {names[path[1]]!r}"
    inside = f" (at {printable('.'.join(map(str, path[2:])))})" if path[2:] else ""
    raise TraceError(
        f"{where}{inside} is a {type(what).__name__}, which is neither an array nor hashable",
        advice="Pass a tuple: what is static has to hash."
        if isinstance(leaf, Static) and isinstance(what, list)
        else "Arrays are dynamic inputs; everything else is part of the compiled program: use a tuple or a frozen dataclass.",
    )
