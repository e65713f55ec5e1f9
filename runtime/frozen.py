"""Warns of what a program keeps as it was when it was made: random numbers, times, files and the like that were read while tracing.

A trace is watched by Python's profiling hook, and the states of random generators are compared before and after. Nothing of this
runs at a call that finds its program.
"""

from __future__ import annotations

import builtins
import datetime
import dis
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FrameType, ModuleType
from typing import Any

import numpy as np

from gradc.errors import LIBRARIES, FrozenWarning, RecompileWarning, is_internal
from gradc.runtime.closure import Unfollowed
from gradc.runtime.kinds import is_installed, is_library, root_of
from gradc.trace import title_of


def _public(kind: type) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if not name.startswith("_"))


TIME = "Pass the time as an argument."
RANDOM = "Draw with gradc.random from a key that is an argument, or pass the numbers as an argument."
READ = "Read it outside, and pass what it gives as an argument."
CLOCKS = (
    time.time, time.time_ns, time.perf_counter, time.perf_counter_ns, time.monotonic, time.monotonic_ns, time.process_time,
    time.process_time_ns, time.thread_time, time.thread_time_ns, time.localtime, time.gmtime, time.ctime,
    datetime.datetime.now, datetime.datetime.utcnow, datetime.datetime.today, datetime.date.today,
)  # fmt: skip
WATCHED: dict[Any, str] = {**dict.fromkeys(CLOCKS, TIME), os.urandom: RANDOM, builtins.open: READ, builtins.input: READ}
NAMES = frozenset(function.__name__ for function in WATCHED)
LEADING = frozenset((
    "open", "input", "urandom", "read_text", "read_bytes", "load", "loadtxt", "genfromtxt", "default_rng", "RandomState",
    "SeedSequence", "SystemRandom",
))  # fmt: skip  # names by which code reaches what is watched, beside those of MODULES
MODULES = frozenset(("time", "datetime", "uuid", "secrets"))
DRAWS = {
    "random": _public(random.Random),
    "numpy": _public(np.random.Generator) | _public(np.random.RandomState),
    "torch": frozenset((
        "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "normal", "bernoulli", "multinomial",
        "poisson", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "gumbel_softmax", "rrelu",
        "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_", "trunc_normal_",
        "xavier_normal_", "xavier_uniform_", "kaiming_normal_", "kaiming_uniform_", "orthogonal_", "sparse_",
    )),
}  # fmt: skip
STANDARD = os.path.dirname(os.__file__) + os.sep
GO_BETWEENS = frozenset(("random.py", "uuid.py", "secrets.py", "datetime.py", "_pydatetime.py", "pathlib.py", "codecs.py"))
STORES = ("STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF", "STORE_NAME")


@dataclass(frozen=True)
class Place:
    """A line of the user's."""

    file: str
    line: int


@dataclass(frozen=True)
class Generator:
    """A random generator: its library, what to call it, and its state. `own`: the function holds it, not only the process."""

    library: str
    name: str
    state: Callable[[], Hashable]
    own: bool


@contextmanager
def watched(function: Any, held: Sequence[Any] = (), names: Container[str] = ()) -> Iterator[None]:
    """A trace of `function`; warns at its end of what it drew or read that the program keeps.

    `held` are the objects it refers to, `names` what its code looks up. Numbers of a generator of the process count only where the
    code names a function that draws: another thread may have drawn them.
    """
    watch = _Watch(root_of(getattr(function, "__module__", "")))
    generators = [(generator, generator.state()) for generator in _generators(held)]
    hooked = sys.getprofile() is None and _may_call(held, names)  # the hook makes a trace several times as slow
    if hooked:
        sys.setprofile(watch)
    try:
        yield
    finally:
        if hooked:
            sys.setprofile(None)
    for (place, name), advice in watch.calls.items():
        _warn(place, f"{name} is called while tracing, and its result is part of the program: later calls see the same", advice)
    for generator, before in generators:
        if generator.state() != before and (drawn := _drawn(generator, function, held)):
            what = f"numbers of {generator.name} are drawn while tracing, and are part of the program: later calls see the same"
            _warn(drawn, what, RANDOM)


class _Watch:
    """A profile function: collects calls of clocks and the like. `home` is the package of the function."""

    def __init__(self, home: str):
        self.home = home
        self.calls: dict[tuple[Place, str], str] = {}

    def __call__(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in NAMES and function in WATCHED:
            caller = _users(frame, self.home)
            if caller is not None:
                self.calls[Place(caller.f_code.co_filename, caller.f_lineno), _name_of(function)] = WATCHED[function]


def _may_call(held: Iterable[Any], names: Container[str]) -> bool:
    """Whether a function that refers to the objects `held` may call what is watched."""
    if any(name in names for name in LEADING):
        return True
    for x in held:
        kind = type(x)
        if (kind is ModuleType and x.__name__ in MODULES) or (kind is type and x.__module__ == "datetime"):
            return True
        if (kind is CodeType and os.path.basename(x.co_filename) in GO_BETWEENS) or (
            kind is BuiltinFunctionType and x in WATCHED
        ):
            return True
    return False


def _drawn(generator: Generator, function: Any, held: Iterable[Any]) -> Place | None:
    """Where the code of the function, or of one it refers to, names a function that draws."""
    codes = [code for code in held if isinstance(code, CodeType) and _is_users(code, function)]
    lines = (_line(code, DRAWS[generator.library], ("LOAD",)) for code in codes)
    return next((place for place in lines if place), _start(function) if generator.own else None)


def _is_users(code: CodeType, function: Any) -> bool:
    own, file = _code_of(function), code.co_filename
    if is_internal(file) or file.startswith(STANDARD):
        return False
    return not is_installed(file) or (own is not None and is_installed(own.co_filename))


def _users(frame: FrameType | None, home: str) -> FrameType | None:
    """The user's frame that called for what a frame does, by way of a few modules; None where a library did it for itself."""
    while frame is not None:
        file = frame.f_code.co_filename
        between = file.startswith(STANDARD) and os.path.basename(file) in GO_BETWEENS
        if not between and not any(library in file for library in LIBRARIES):
            own = is_internal(file) or file.startswith("<frozen") or frame.f_code.co_name == "<module>"
            return None if own or is_library(frame.f_globals.get("__name__"), home) else frame
        frame = frame.f_back
    return None


def _generators(held: Iterable[Any]) -> list[Generator]:
    """The generators of the process, and those among the objects held."""
    held = {id(x): x for x in held}
    mine, numpys = held.pop(id(random.random.__self__), None), held.pop(id(np.random.rand.__self__), None)  # type: ignore[attr-defined]
    found = [Generator("random", "Python's random module", random.getstate, mine is not None)]
    found.append(Generator("numpy", "numpy.random", lambda: _plain(np.random.get_state(legacy=False)), numpys is not None))
    torch = sys.modules.get("torch")
    if torch is not None:
        found.append(Generator("torch", "torch", lambda: _bytes(torch.get_rng_state), False))
        if torch.cuda.is_initialized():
            found.append(Generator("torch", "torch", lambda: _bytes(torch.cuda.get_rng_state), False))
    return found + [generator for x in held.values() if (generator := _held_generator(x, torch)) is not None]


def _held_generator(x: Any, torch: Any) -> Generator | None:
    kind = type(x)
    if issubclass(kind, random.Random):
        return Generator("random", "a random.Random", x.getstate, True)
    if issubclass(kind, np.random.Generator):
        return Generator("numpy", "a numpy.random.Generator", lambda: _plain(x.bit_generator.state), True)
    if issubclass(kind, np.random.RandomState):
        return Generator("numpy", "a numpy.random.RandomState", lambda: _plain(x.get_state(legacy=False)), True)
    if torch is not None and issubclass(kind, torch.Generator):
        return Generator("torch", "a torch.Generator", lambda: _bytes(x.get_state), True)
    return None


def _bytes(state: Callable[[], Any]) -> bytes | None:
    """A state of PyTorch's; None under its tracers and transforms, whose tensors cannot be read."""
    try:
        return state().numpy().tobytes()
    except Exception:  # each of them raises another
        return None


def _plain(state: Any) -> Hashable:
    """A state of NumPy's, a dictionary of numbers and arrays, as what can be compared."""
    if isinstance(state, dict):
        return tuple((name, _plain(part)) for name, part in state.items())
    return state.tobytes() if isinstance(state, np.ndarray) else state


def warn_of_unfollowed(missed: Iterable[Unfollowed], function: Any) -> None:
    """Warns of what the function refers to whose changes cannot be seen."""
    for each in missed:
        place = (_line(each.code, {each.name}, ("LOAD",)) if each.code is not None else None) or _start(function)
        if place is not None:
            what = f"{each.name!r}" if each.name else "an argument"
            _warn(place, f"{what} leads to {each.why}: its changes make no new program", READ)


def warn_of_changes(before: Hashable, now: Hashable, function: Any) -> None:
    """Warns of a function that changes what it reads, which happens only while it is traced."""
    name = _changed(before, now)
    code = _code_of(function)
    place = (_line(code, {name}, STORES) if code is not None else None) or _start(function)
    if place is not None:
        what = f"{name!r}, which the function reads," if name else "something that the function reads"
        _warn(place, f"{what} is changed by the function itself: that happens while tracing, and makes a program each time",
              "Return the new value, and assign it where the function is called.")  # fmt: skip


def warn_of_many(function: Any, limit: int, change: str) -> None:
    """Warns of a function whose programs are so many that some are dropped; `change` is what differed last."""
    place = _start(function)
    if place is not None:
        advice = "Pass what changes as an array, or pad to a few sizes."
        _warn(place, f"{title_of(function)} has more than {limit} programs; the last was {change}", advice, RecompileWarning)


def _changed(before: Any, now: Any) -> str:
    """The innermost name under which two keys of `closed_over` differ."""
    if not (isinstance(before, tuple) and isinstance(now, tuple) and len(before) == len(now)):
        return ""
    for old, new in zip(before, now, strict=True):
        if old != new:
            named = isinstance(old, tuple) and len(old) == 2 and isinstance(old[0], str)
            return _changed(old, new) or (old[0] if named else "")
    return ""


def _warn(place: Place, what: str, advice: str, category: type[Warning] = FrozenWarning) -> None:
    warnings.warn_explicit(f"{what}. {advice}", category, place.file, place.line, registry=_REGISTRY.setdefault(place.file, {}))


_REGISTRY: dict[str, dict] = {}  # which warnings were given, for each file of the user's


def _name_of(function: Any) -> str:
    owner = function.__self__
    module = owner.__name__ if owner is not None else function.__module__
    return (
        f"{function.__name__}()"
        if module in ("builtins", "io", "_io")
        else f"{module.replace('posix', 'os')}.{function.__name__}()"
    )


def _code_of(function: Any) -> CodeType | None:
    while hasattr(function, "__wrapped__") or hasattr(function, "func"):
        function = function.__wrapped__ if hasattr(function, "__wrapped__") else function.func
    return getattr(getattr(function, "__func__", function), "__code__", None)


def _start(function: Any) -> Place | None:
    code = _code_of(function)
    return Place(code.co_filename, code.co_firstlineno) if code is not None else None


def _line(code: CodeType, names: Container[str], kinds: tuple[str, ...]) -> Place | None:
    """The first line of some code, or of a function in it, with an instruction of a kind on one of the names."""
    for step in dis.get_instructions(code):
        if step.opname.startswith(kinds) and step.argval in names and step.positions and step.positions.lineno:
            return Place(code.co_filename, step.positions.lineno)
    inner = (_line(constant, names, kinds) for constant in code.co_consts if isinstance(constant, CodeType))
    return next((place for place in inner if place is not None), None)
