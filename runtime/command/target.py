"""From `module:function` and `--arg x=bf16[8192,4096]` to a compiled function and the arguments to lower it with.

Text from the command line is read as names, numbers and Python literals, and never evaluated.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gradc.errors import printable
from gradc.runtime.command.errors import CommandError
from gradc.runtime.compile import Compiled, compile
from gradc.types import Spec, as_dtype, spec

NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
ARRAY = re.compile(
    rf"(?P<path>[A-Za-z_][\w.]*)=(?P<dtype>\w+)\[(?P<shape>\s*|\s*\d+\s*(?:,\s*\d+\s*)*,?\s*)\](?::(?P<low>{NUMBER})\.\.(?P<high>{NUMBER}))?"
)
KEYWORDS = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Ranged:
    """An array argument: its shape and dtype, and the range that random elements of it lie in, where the user said."""

    spec: Spec
    within: tuple[float, float] | None = None


@dataclass(frozen=True)
class Target:
    """A function and the arguments it is looked at with; `Ranged` stands where an array goes."""

    function: Compiled
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def target_of(function: str, arrays: Sequence[str], statics: Sequence[str]) -> Target:
    """The function named, and its arguments. Raises CommandError with what is wrong and how to write it."""
    found = loaded_function(function)
    given = nested([parsed_array(text) for text in arrays]) | dict(parsed_static(text) for text in statics)
    compiled = found if isinstance(found, Compiled) else compile(found)
    args, kwargs = bound(compiled.function, function, given)
    return Target(compiled, args, kwargs)


def wrt_of(text: str | None) -> tuple[int, ...] | None:
    """`0,2` as numbers; `none` as no argument at all; None where nothing was said."""
    if text is None:
        return None
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise CommandError(f"--wrt takes numbers of array arguments, got {text!r}", "Write --wrt 0,2 or --wrt none.") from None


def loaded_function(text: str) -> Callable:
    """`module:function`, `package.module:Class.method` or `path/to/file.py:function`, imported."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise CommandError(f"{text!r} names no function", "Write module:function or path/to/file.py:function.")
    found: Any = loaded_file(Path(place)) if place.endswith(".py") else loaded_module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise CommandError(f"{printable(place)} has no function {name!r}", _suggestion(part, found))
        found = getattr(found, part)
    if not callable(found):
        raise CommandError(f"{printable(text)} is a {type(found).__name__}, which cannot be called")
    return found


def loaded_module(name: str) -> ModuleType:
    """A module by name; the current folder is searched first, as `python -m` does."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{name}.".startswith(f"{problem.name}."):
            raise
        raise CommandError(
            f"there is no module {name!r}",
            "Run this where the module can be imported, or name its file: path/to/file.py:function.",
        ) from None


def loaded_file(path: Path) -> ModuleType:
    """A file as a module; what lies beside it can be imported from it."""
    if not path.is_file():
        raise CommandError(f"there is no file {printable(str(path))}")
    sys.path.insert(0, str(path.resolve().parent))
    description = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert description is not None
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    sys.modules[path.stem] = module
    description.loader.exec_module(module)
    return module


def _suggestion(name: str, owner: Any) -> str:
    """Names that the user may have meant: similar ones, else the functions that there are."""
    names = [known for known, value in vars(owner).items() if callable(value) and not known.startswith("_")]
    near = difflib.get_close_matches(name, names) or names[:8]
    return f"It has {', '.join(near)}." if near else ""


def parsed_array(text: str) -> tuple[tuple[str, ...], Ranged]:
    """`x=bf16[8192,4096]`, `labels=i32[64]:0..9` or `params.0.w=f32[64,128]` as a path and what lies there."""
    match = ARRAY.fullmatch(text.strip())
    if match is None:
        raise CommandError(
            f"--arg {text!r} is no array", "Write name=dtype[shape], as in x=bf16[8192,4096], n=f32[] or labels=i32[64]:0..9."
        )
    shape = tuple(int(size) for size in re.findall(r"\d+", match["shape"]))
    within = None if match["low"] is None else (float(match["low"]), float(match["high"]))
    return tuple(match["path"].split(".")), Ranged(spec(shape, as_dtype(match["dtype"])), within)


def parsed_static(text: str) -> tuple[str, Any]:
    """`eps=1e-6` as a name and a Python literal; what is none, as in `mode=sum`, is a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise CommandError(f"--static {text!r} has no value", "Write name=value, as in eps=1e-6.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def nested(arrays: Sequence[tuple[tuple[str, ...], Ranged]]) -> dict[str, Any]:
    """Arrays by path as arguments: `params.0.w` is the entry "w" of the first element of the list `params`."""
    tree: dict[str, Any] = {}
    for path, array in arrays:
        inner = tree
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
            if isinstance(inner, Ranged):
                raise CommandError(f"--arg names both {part} and an array inside it")
        if path[-1] in inner:
            raise CommandError(f"--arg names {'.'.join(path)} twice")
        inner[path[-1]] = array
    return {name: _with_lists(value) for name, value in tree.items()}


def _with_lists(tree: Any) -> Any:
    """Entries numbered from 0 are a list."""
    if isinstance(tree, Ranged):
        return tree
    entries = {name: _with_lists(value) for name, value in tree.items()}
    numbers = sorted((name for name in entries if name.isdigit()), key=int)
    is_list = len(numbers) == len(entries) and [int(name) for name in numbers] == list(range(len(numbers)))
    return [entries[name] for name in numbers] if is_list else entries


def bound(function: Callable, title: str, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments in the order of the function's parameters. Raises CommandError for one too many or one too few."""
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in given if name not in parameters]
    if unknown and not takes_any:
        raise CommandError(
            f"{printable(title)} has no parameter {unknown[0]!r}", f"Its parameters are {', '.join(parameters)}."
        )
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    absent = [name for name in needed if name not in given]
    if absent:
        raise CommandError(
            f"{printable(title)} needs {', '.join(absent)}",
            f"Add --arg {absent[0]}=f32[...] for an array, or --static {absent[0]}=... for anything else.",
        )
    args: list[Any] = []
    for name, parameter in parameters.items():
        if name not in given or parameter.kind in KEYWORDS:
            break
        args.append(given[name])
    taken = list(parameters)[: len(args)]
    return tuple(args), {name: value for name, value in given.items() if name not in taken}
