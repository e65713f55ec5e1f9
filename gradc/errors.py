"""Every error a user can meet: one class each, one message shape, the user's own line with a caret.

This file formats messages and hides gradc's own frames. It never decides that something is wrong: the shape rules, the
tracer and the compiler do.
"""

from __future__ import annotations

import difflib
import inspect
import linecache
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

from gradc.entry import UNTOLD, entry, tell_torch

P = ParamSpec("P")
R = TypeVar("R")


def _package_folders() -> tuple[str, ...]:
    """gradc's own folders, each ending in a separator; beside `gradc/` too in a source tree, where the parts are apart."""
    here = Path(__file__).parent
    homes = {here, here.resolve()}
    if not (here / "codegen").exists():
        homes |= {home.parent / part for home in set(homes) for part in ("codegen", "runtime")}
    return tuple(f"{home}{os.sep}" for home in homes)


PACKAGE_FOLDERS = _package_folders()
SHIPPED_PROGRAMS = (f"{os.sep}demo{os.sep}digits.py",)  # written in the language, so their lines are shown as a user's are
LIBRARIES = tuple(f"{os.sep}site-packages{os.sep}{name}{os.sep}" for name in ("torch", "numpy"))
GO_BETWEENS = tuple(f"{os.sep}{name}" for name in ("functools.py", "contextlib.py", f"optree{os.sep}ops.py"))
LOOKUPS = ("__getattr__", "missing_attribute", "_followed")  # functions that raise AttributeError for a name the user misspelt


@dataclass(frozen=True, slots=True)
class Source:
    """A place in the user's program: file, line, and the columns of the expression on that line (0-based, or None)."""

    file: str
    line: int
    column: int | None = None
    end_column: int | None = None
    function: str = ""
    end_line: int | None = None

    def text(self) -> str:
        return linecache.getline(self.file, self.line).rstrip("\n")

    def __str__(self) -> str:
        return f"{printable(Path(self.file).name)}:{self.line}"

    def pointed(self) -> str:
        """The user's line with a caret under the expression."""
        line, place = self.text(), f"  {printable(self.file)}:{self.line}"
        if not line.strip():
            return place
        lead = len(line) - len(line.lstrip())
        start = lead if self.column is None else _characters(line, self.column)
        one_line = self.end_column is not None and self.end_line in (None, self.line)
        stop = _characters(line, self.end_column) if one_line and self.end_column is not None else len(line)
        before, pointed_at, after = (printable(part) for part in (line[lead:start], line[start:stop], line[stop:]))
        return f"{place}\n    {before}{pointed_at}{after}\n    {' ' * len(before)}{'^' * max(1, len(pointed_at))}"


def printable(text: str) -> str:
    """`text` on one line, as anyone may read it: what is not printable (line breaks, controls, half characters) is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _characters(line: str, column: int) -> int:
    """A column as Python counts them, in bytes, in characters."""
    return len(line.encode()[:column].decode(errors="ignore"))


@cache
def is_internal(file: str) -> bool:
    """Whether a file belongs to gradc itself (its frames are never shown to the user as theirs)."""
    return file.startswith(PACKAGE_FOLDERS) and not file.endswith(SHIPPED_PROGRAMS)


@cache
def _is_passed_through(file: str) -> bool:
    """Whether a frame of this file is never the user's: gradc's own, or of a library that calls gradc back."""
    if is_internal(file) or file.startswith("<frozen") or file == "<string>":
        return True
    return file.endswith(GO_BETWEENS) or any(library in file for library in LIBRARIES)


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame at or outside `frame` that is the user's."""
    while frame is not None and _is_passed_through(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def user_source() -> Source | None:
    """The innermost frame outside gradc, with the columns of the running expression where Python knows them."""
    frame = user_frame(sys._getframe(1))
    if frame is None:
        return None
    code, line = frame.f_code, frame.f_lineno
    return Source(code.co_filename, line, *_columns(code, frame.f_lasti), code.co_name)


_COLUMNS: dict[tuple[int, int], tuple[Any, tuple[int | None, int | None]]] = {}  # with the code, to keep its address


def _columns(code: Any, instruction: int) -> tuple[int | None, int | None]:
    """The columns of one instruction; an expression over several lines has no end on its first.

    Remembered by address: hashing code is slow, and what torch.compile makes does not hash.
    """
    key = id(code), instruction
    if key not in _COLUMNS:
        first, last, column, end_column = list(code.co_positions())[instruction // 2]
        _COLUMNS[key] = code, (column, end_column if first == last else None)
    return _COLUMNS[key][1]


class GradcError(Exception):
    """The root of gradc's errors. `source` is the user's place, `operation` what they called; the text ends with what to do."""

    def __init__(self, message: str, *, advice: str = "", source: Source | None = None):
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.source = source if source is not None else user_source()
        self.operation = ""

    def __str__(self) -> str:
        parts = [f"{self.operation}: {self.message}" if self.operation else self.message]
        if self.source is not None:
            parts.append(self.source.pointed())
        if self.advice:
            parts.append(f"  {self.advice}")
        return "\n".join(parts)


class TraceError(GradcError, TypeError):
    """The function did something that cannot be traced (a branch on an array's value, an unhashable static, ...)."""


class ShapeError(GradcError, ValueError):
    """Shapes, axes or indices that do not fit together."""


class DTypeError(GradcError, TypeError):
    """A dtype an operation does not take."""


class UnsupportedError(GradcError, NotImplementedError):
    """Something valid that gradc does not do."""


class MissingNameError(UnsupportedError, AttributeError):
    """A name that is promised and not there yet; `hasattr` says that it is not."""


class OutOfMemoryError(GradcError, MemoryError):
    """An intermediate that does not fit in memory."""


class VerificationError(GradcError, AssertionError):
    """A derivative or an emitted kernel that was shown to be wrong."""


class FrozenWarning(UserWarning):
    """The function read something that later calls will not read again: they see what it was when the program was made."""


class RecompileWarning(UserWarning):
    """A function is compiled for so many kinds of arguments that programs are dropped, and made again when they are wanted."""


def hide_internals(error: BaseException) -> None:
    """Takes gradc's own frames out of the error's traceback, unless GRADC_DEBUG is set. Call it, then `raise` bare:

        try: ...
        except Exception as error:
            hide_internals(error)
            raise

    A bare `raise` adds no entry for its own frame, so a GradcError ends at the user's line. An error of another kind that
    was raised inside gradc is a bug of gradc and keeps its frames, unless it says that a name is not there (LOOKUPS).
    """
    entries = list(_entries(error.__traceback__))
    if os.environ.get("GRADC_DEBUG", "0") not in ("", "0") or not entries:
        return
    last = entries[-1].tb_frame.f_code
    if not isinstance(error, GradcError) and is_internal(last.co_filename) and last.co_name not in LOOKUPS:
        return
    shown = None
    for step in reversed(entries):
        if not is_internal(step.tb_frame.f_code.co_filename):
            shown = TracebackType(shown, step.tb_frame, step.tb_lasti, step.tb_lineno)
    error.__traceback__ = shown
    if _is_wholly_internal(error.__context__):
        error.__suppress_context__ = True


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates what users call: its errors show no frame of gradc, and torch.compile ends a graph there."""
    entry(function)

    @entry
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if UNTOLD and "torch" in sys.modules:
            tell_torch()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if isinstance(error, TypeError) and not isinstance(error, GradcError):
                refuse_misuse(function, args, kwargs)
            hide_internals(error)
            raise

    return call


# One meaning, two names: the array API's and torch's, ours and others'.
SYNONYMS = (
    ("axis", "dim"), ("axes", "dims"), ("keepdims", "keepdim"), ("x", "input"), ("correction", "unbiased"), ("correction", "ddof"),
    ("static_argnames", "static_argnums"), ("argnums", "argnum"), ("dtype", "type"), ("axis", "axes"), ("axes", "axis"), ("repeats", "repetitions"),
)  # fmt: skip


def misuse(function: Callable, args: tuple, kwargs: dict) -> str:
    """What is wrong with the number or the names of the arguments; "" where they fit."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    except ValueError:  # a builtin without a signature
        return ""
    return ""


def refuse_misuse(function: Callable, args: tuple, kwargs: dict) -> None:
    """Raises TraceError for arguments that do not fit the function's parameters."""
    wrong = misuse(function, args, kwargs)
    if wrong:
        name = getattr(function, "__name__", "the function")
        advice = f"{_meant(function, kwargs)}It is {name}{_without_types(inspect.signature(function))}."
        raise TraceError(f"{name} {wrong}" if wrong.startswith("got") else f"{name}: {wrong}", advice=advice)


CALLED = {  # what a call of an attribute of an array looks like, and what to write
    r"\.size\(": "`x.size` is the number of elements; the sizes are in `x.shape`.",
    r"\.shape\(": "`x.shape` is a tuple.",
    r"\.ndim\(": "`x.ndim` is a number.",
    r"\.(m?T)\(": "`x.T` and `x.mT` are the transposed array itself.",
    r"\.dtype\(": "`x.dtype` is the dtype itself; write `y.astype(x.dtype)` to convert.",
}


def refuse_called_attribute(error: TypeError) -> None:
    """Raises TraceError where Python's `'int' object is not callable` is about an attribute of an array that the user called."""
    *_, last = _entries(error.__traceback__)
    if (
        isinstance(error, GradcError)
        or not str(error).endswith("object is not callable")
        or is_internal(last.tb_frame.f_code.co_filename)
    ):
        return
    source = Source(last.tb_frame.f_code.co_filename, last.tb_lineno)
    advice = next((advice for pattern, advice in CALLED.items() if re.search(pattern, source.text())), "")
    if advice:
        raise TraceError(str(error), advice=advice, source=source) from None


def _meant(function: Callable, kwargs: dict) -> str:
    """What the user may have meant by a name that no parameter has."""
    parameters = inspect.signature(function).parameters
    unknown = next((name for name in kwargs if name not in parameters), None)
    if unknown is None:
        return ""
    pairs = (*SYNONYMS, *(pair[::-1] for pair in SYNONYMS))
    same = [ours for ours, theirs in pairs if theirs == unknown and ours in parameters]
    near = same or difflib.get_close_matches(unknown, parameters, 1)
    return f"Write `{near[0]}` for `{unknown}`. " if near else ""


def _without_types(signature: inspect.Signature) -> str:
    """The parameters as a reader needs them: names and plain defaults."""
    plain = [
        parameter.replace(annotation=parameter.empty, default=parameter.default if _is_plain(parameter.default) else ...)
        for parameter in signature.parameters.values()
    ]
    shown = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    return printable(shown.replace("=Ellipsis", "=..."))


def _is_plain(default: Any) -> bool:
    return default is inspect.Parameter.empty or (
        isinstance(default, str | int | float | tuple | None) and len(repr(default)) < 40
    )


def require(*modules: str, what: str) -> None:
    """Raises UnsupportedError where a package that `what` needs is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"{what} needs {' and '.join(missing)}, not installed here", advice="Install with: pip install 'gradc[triton]'"
        )


def _entries(trace: TracebackType | None) -> Any:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_wholly_internal(error: BaseException | None) -> bool:
    """Whether an error was raised and caught inside gradc, so that the user need not hear of it."""
    return error is not None and all(is_internal(entry.tb_frame.f_code.co_filename) for entry in _entries(error.__traceback__))
