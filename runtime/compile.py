"""`gradc.compile`: from a call to its results. Finds the program made for arguments like these, or makes it, and runs it.

The way of a function, a pass a line, is `program_of`. Programs are kept by structure, shapes, dtypes, strides, static
arguments and what the function closes over; nothing that was computed is ever kept.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, overload

import numpy as np

from gradc.absent import missing
from gradc.codegen.device import H200, Device
from gradc.codegen.lower import lower_graph, lower_pair
from gradc.entry import UNTOLD, entry, tell_torch
from gradc.errors import TraceError, UnsupportedError, hide_internals, public, refuse_misuse
from gradc.ir import Graph
from gradc.normalise import normalise
from gradc.runtime import forks
from gradc.runtime.closure import IMPLIED, Names, closed_over, describe_change, unfollowed
from gradc.runtime.device import chosen_device
from gradc.runtime.execute import Executable, from_torch, refuse_devices
from gradc.runtime.frozen import warn_of_changes, warn_of_many, warn_of_unfollowed, watched
from gradc.runtime.logs import log
from gradc.runtime.lowered import Lowered
from gradc.runtime.plan import recipes_on_disk
from gradc.runtime.references import found, reference
from gradc.signature import is_dynamic, signature_key, static_names, static_objects
from gradc.tensors import ask, is_answered_elsewhere, readable, with_readable_tensors
from gradc.trace import Traced, title_of, trace
from gradc.transforms import is_traced, run_primals
from gradc.types import Spec

P = ParamSpec("P")
R = TypeVar("R")
PROGRAMS = 512  # of one function; at some 100 kB each
BACKENDS = ("auto", "numpy", "interpret", "triton")


@dataclass(frozen=True)
class Options:
    """How a function is compiled. Schedules are made for `device`; for the GPU here unless told."""

    backend: str = "auto"
    static_argnames: tuple[str, ...] = ()
    deterministic: bool = True
    memory_budget: int | None = None
    device: Device | None = None


@dataclass
class Prepared:
    """A traced function and what runs it. `held` keeps alive what the key identifies by address; `used` orders by last use."""

    traced: Traced
    executable: Executable
    held: tuple[Any, ...] = field(default=())
    used: int = 0


class Compiled(Generic[P, R]):
    """A function that runs as gradc's program of it. Made by `compile`; see there. `programs` is how many are kept."""

    def __init__(self, function: Callable[P, R], options: Options, programs: int = PROGRAMS):
        functools.update_wrapper(self, function)
        self.function, self.options = function, options
        self._static = static_names(function, options.static_argnames)
        self._programs: dict[Hashable, Prepared] = {}
        self._limit, self._uses = programs, 0
        self._names: Names = IMPLIED
        self._last: tuple[Any, ...] | None = None
        self._dropped = False  # whether programs were dropped
        self._changes = 0  # traces in a row that changed what the function reads
        self._lock = forks.lock()

    @entry
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if UNTOLD and "torch" in sys.modules:
            tell_torch()
        try:
            if is_traced((args, kwargs)):
                return self._inlined(args, kwargs)
            if is_answered_elsewhere(args, kwargs):
                return ask(self, args, kwargs)
            return self._run(args, kwargs)
        except Exception as error:
            hide_internals(error)
            raise

    def _inlined(self, args: tuple, kwargs: dict) -> R:
        """The function as a part of the program that is being traced, to which arrays are what they are to its own."""
        positions, names = self._static.positions, self._static.names
        given = (x if i in positions else run_primals(x) for i, x in enumerate(args))
        named = {name: x if name in names else run_primals(x) for name, x in kwargs.items()}
        return self.function(*given, **named)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: `self` is an argument, static unless it is a pytree of arrays."""
        return self if instance is None else functools.partial(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by its name, which is this object's and not the function's; without one, compiled again from the function."""
        where = reference(self)
        return (found, where) if where else (Compiled, (self.function, self.options))

    def __getattr__(self, name: str) -> NoReturn:
        raise missing("Compiled", name, dir(type(self)))

    def __repr__(self) -> str:
        return f"<gradc.compile of {getattr(self.function, '__qualname__', self.function)}>"

    @entry
    def _run(self, args: tuple, kwargs: dict) -> Any:
        args, kwargs = with_readable_tensors(args, kwargs)
        key, arrays = signature_key(args, kwargs, self._static)
        refuse_specs(arrays)
        backend = resolve_backend(self.options.backend, arrays)
        prepared = self._find(key, backend, args, kwargs)
        return results_of(prepared, arrays)

    def _find(self, key: Hashable, backend: str, args: tuple, kwargs: dict) -> Prepared:
        outside, held, self._names = closed_over(self.function, static_objects(key), self._names)
        full = (key, backend, outside)
        prepared = self._programs.get(full)
        if prepared is None:
            with self._lock:
                prepared = self._programs.get(full)
                if prepared is None:
                    self._tell_of_another(full)
                    options = self.options
                    with watched(self.function, held, self._names):
                        traced = traced_function(self.function, args, kwargs, options.static_argnames)
                    self._warn_of_outside(key, outside)
                    graph = normalised(traced)
                    executable = Executable(graph, backend, options.memory_budget, options.deterministic, options.device)
                    prepared = self._programs[full] = Prepared(traced, executable, held)
                    self._last = full
        self._uses = prepared.used = self._uses + 1
        return prepared

    def _tell_of_another(self, full: tuple[Any, ...]) -> None:
        """Logs why another program is made, and makes room for it by dropping those that were not used for longest."""
        if self._last is None:
            return
        change = describe_change(self._last, full)
        log("recompile", f"{title_of(self.function)}: {change}")
        if len(self._programs) < self._limit:
            return
        for key in sorted(self._programs, key=lambda key: self._programs[key].used)[: max(1, self._limit // 8)]:
            del self._programs[key]
        log("recompile", f"{title_of(self.function)}: more than {self._limit} programs, the oldest are dropped")
        if not self._dropped:
            self._dropped = True
            warn_of_many(self.function, self._limit, change)

    def _warn_of_outside(self, key: Hashable, before: Hashable) -> None:
        """Says what of all that the function refers to cannot be followed, and what it changes itself, twice in a row."""
        objects = static_objects(key)
        warn_of_unfollowed(unfollowed(self.function, objects, self._names), self.function)
        now = closed_over(self.function, objects, self._names)[0]
        self._changes = self._changes + 1 if now != before else 0
        if self._changes == 2:  # once, it may have been a cache that is filled
            warn_of_changes(before, now, self.function)

    @public
    def lower(
        self,
        /,
        *args: Any,
        wrt: int | Sequence[int] | None = None,
        device: str | Device | None = None,
        deterministic: bool | None = None,
        memory_budget: int | None = None,
        **kwargs: Any,
    ) -> Lowered:
        """What would run for arguments like these (arrays, or `gradc.spec` in their place), without running anything.

        Differentiates with respect to every floating-point array, or those numbered `wrt` among the array leaves; `()` for none.
        Schedules are made for `device` ("H100", "A100", "MI300X", "RTX 4090", ...); for the GPU here unless told, for an H200 where
        there is none. Without `deterministic` sums may be added up by atomics; `memory_budget` is in bytes. Both are as in `compile`,
        and as they were there unless told. Raises TraceError for a `wrt` that names something else, UnsupportedError for a device
        without figures and a budget that is too small.
        """
        options = {"wrt": wrt, "device": device, "deterministic": deterministic, "memory_budget": memory_budget}
        refuse_arrays_as_options(options)
        in_order = self.options.deterministic if deterministic is None else deterministic
        figures = replace(chosen_device(device or self.options.device), atomics=not in_order)
        budget = checked_budget(memory_budget) or self.options.memory_budget
        _, graph = program_of(self.function, args, kwargs, self.options.static_argnames)
        return lowered(graph, wrt, figures, budget)


def refuse_arrays_as_options(options: dict[str, Any]) -> None:
    """Raises TraceError where an array was meant for a parameter of the function that is called like an option of `lower`."""
    for name, given in options.items():
        if is_dynamic(given):
            raise TraceError(
                f"`lower` has an option {name!r} of its own, and was given an array", advice="Pass the array by position."
            )


def refuse_specs(arrays: Sequence[Any]) -> None:
    """Raises TraceError where a spec was passed to a call."""
    if any(isinstance(array, Spec) for array in arrays):
        raise TraceError("a spec has no elements to compute with", advice="Pass arrays, or give the specs to `lower`.")


def run_once(function: Callable, args: tuple, kwargs: dict) -> Any:
    """The function's results, traced for this one call; a transform called on arrays ends here."""
    args, kwargs = with_readable_tensors(args, kwargs)
    _, arrays = signature_key(args, kwargs)
    refuse_specs(arrays)
    traced, graph = program_of(function, args, kwargs)
    return results_of(Prepared(traced, Executable(graph, resolve_backend("auto", arrays))), arrays)


def program_of(function: Callable, args: tuple, kwargs: dict, static: Sequence[str] = ()) -> tuple[Traced, Graph]:
    """The traced function and its normalised graph."""
    traced = traced_function(function, args, kwargs, static)
    return traced, normalised(traced)


def traced_function(function: Callable, args: tuple, kwargs: dict, static: Sequence[str]) -> Traced:
    refuse_misuse(function, args, kwargs)
    traced = trace(function, args, kwargs, static)
    log("ir", str(traced.graph))
    return traced


def normalised(traced: Traced) -> Graph:
    graph = normalise(traced.graph, "before")
    log("ir", f"normalised\n{graph}")
    return graph


def lowered(graph: Graph, wrt: int | Sequence[int] | None, device: Device = H200, budget: int | None = None) -> Lowered:
    """A normalised graph lowered, with its gradient unless `wrt` is empty."""
    places = differentiated_inputs(graph, wrt)
    if not places or not any(value.dtype.is_floating for value in graph.outputs):
        result = Lowered(graph, lower_graph(graph, device, recipes_on_disk(), budget), None, device)
    else:
        result = Lowered(graph, *lower_pair(graph, places, device, recipes_on_disk(), budget), device)
    log("fusion", result.explain)
    return result


def differentiated_inputs(graph: Graph, wrt: int | Sequence[int] | None) -> tuple[int, ...]:
    """The inputs `wrt` names, by position among the array leaves; TraceError for what is no floating-point array of the graph."""
    if wrt is None:
        return tuple(i for i, value in enumerate(graph.inputs) if value.dtype.is_floating)
    places = tuple(wrt) if isinstance(wrt, tuple | list) else (wrt,)
    for place in places:
        if not isinstance(place, int) or not 0 <= place < len(graph.inputs) or not graph.inputs[place].dtype.is_floating:
            raise TraceError(
                f"wrt names argument {place!r}, which is not a floating-point array of {graph.title}",
                advice="Number the array arguments from 0: `wrt=0`, `wrt=(0, 2)`, or `wrt=()` for no gradient.",
            )
    return places


def results_of(prepared: Prepared, arrays: list[Any]) -> Any:
    """Runs a prepared program; results come back as the arrays came, in the structure the function returned.

    What the function closed over counts as an argument: a tensor among it puts the results on torch's tape.
    """
    executable = prepared.executable
    literals = executable.literals()
    readable(array for array in literals if not isinstance(array, np.ndarray | np.generic))  # arguments were asked before
    arrays = [*arrays, *literals]
    tensors = [array for array in arrays if not isinstance(array, np.ndarray | np.generic)]
    refuse_devices(tensors, executable.backend)
    if not tensors:
        return prepared.traced.results([as_numpy(array) for array in executable.run(arrays)])
    from gradc.runtime import tape

    if tape.wants_tape(arrays):
        return prepared.traced.results(tape.recorded(executable, arrays))
    from gradc.runtime.execute import to_torch

    return prepared.traced.results([to_torch(array, tensors[0].device) for array in executable.run(arrays)])


def as_numpy(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else from_torch(array)


def resolve_backend(wanted: str, arrays: Sequence[Any]) -> str:
    """The backend to run: as said, else `GRADC_BACKEND`, else Triton for a GPU tensor and NumPy otherwise."""
    if wanted == "auto":
        wanted = os.environ.get("GRADC_BACKEND", "auto")
    if wanted not in BACKENDS:
        raise UnsupportedError(f"there is no backend {wanted!r}", advice=f"Use one of: {', '.join(BACKENDS)}.")
    if wanted != "auto":
        return wanted
    return "triton" if any(getattr(array, "is_cuda", False) for array in arrays) else "numpy"


def checked_budget(budget: int | None) -> int | None:
    """The budget, if it is a number of bytes; otherwise TraceError."""
    if budget is None or (isinstance(budget, int) and not isinstance(budget, bool) and budget > 0):
        return budget
    raise TraceError(f"memory_budget is {budget!r}", advice="Give a number of bytes, such as `memory_budget=2**30`.")


@overload
def compile(function: Callable[P, R], /) -> Compiled[P, R]: ...
@overload
def compile(
    *,
    backend: str = "auto",
    static_argnames: str | Sequence[str] = (),
    dynamic: bool | None = None,
    tune: str = "none",
    deterministic: bool = True,
    memory_budget: int | None = None,
) -> Callable[[Callable[P, R]], Compiled[P, R]]: ...
@public
def compile(
    function: Callable[P, R] | None = None,
    /,
    *,
    backend: str = "auto",
    static_argnames: str | Sequence[str] = (),
    dynamic: bool | None = None,
    tune: str = "none",
    deterministic: bool = True,
    memory_budget: int | None = None,
) -> Any:
    """Decorates a function of arrays: it runs as fused kernels, and so does its gradient.

    Arrays (NumPy, torch) are the dynamic inputs, in any pytree; every other argument is static and must hash, as are those
    named in `static_argnames`. NumPy in gives NumPy out; torch in gives torch out, on the same device and on autograd's tape.
    `backend` is "auto" (Triton for a GPU tensor, NumPy otherwise), "numpy" (the reference), "triton", or "interpret" (the
    emitted kernels on the CPU). With `deterministic` every sum has a fixed order; without, sums may be added up in memory by float
    atomics where that is predicted to be faster, and round differently from call to call. Schedules are chosen without a
    search (`tune`).

    `memory_budget` is how many bytes the emitted forward and backward may have allocated at any moment beside arguments and
    results, what is kept from the one for the other included; to keep to it they compute large intermediates in chunks, again where
    need be. Without one, no intermediate is stored that is large beside what it is made from and what it gives.

    What the function reads besides its arguments may change between calls: arrays are read, and differentiated on torch's
    tape, at every call; other numbers, functions, containers and attributes that it names, the environment and context variables make
    another program. A number taken out of an array while tracing (`float(w[0])`, `if w[0] > 0` on a closed-over array) stays as it
    was: pass it as an argument. So does what it draws, reads or takes from an iterator while tracing (`random`, `time`, files), of
    which a FrozenWarning tells.

    Of one function 512 programs are kept, each for other shapes, dtypes, static arguments or values it reads; then those that were
    not used for longest are dropped, and a RecompileWarning says what keeps changing.

    Raises TraceError where the function cannot be traced, and UnsupportedError for options that are not there yet; when first
    called, for a budget that is too small, with the least that is possible.
    """
    if function is not None and not callable(function):
        advice = (
            f"Name the options: `@gradc.compile(backend={function!r})`."
            if function in BACKENDS
            else "Options are passed by name."
        )
        raise TraceError(f"compile takes a function, got {function!r}", advice=advice)
    if backend not in BACKENDS:
        raise UnsupportedError(f"there is no backend {backend!r}", advice=f"Use one of: {', '.join(BACKENDS)}.")
    if tune != "none" or dynamic is not None:
        raise UnsupportedError("dynamic shapes and tuning are not there yet", advice="Leave dynamic and tune as they are.")
    names = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
    options = Options(backend, names, deterministic, checked_budget(memory_budget))
    if function is not None:
        return Compiled(function, options)

    @public
    def decorate(wrapped: Callable[P, R]) -> Compiled[P, R]:
        return Compiled(wrapped, options)

    return decorate
