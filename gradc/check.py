"""Derivatives against numerical differentiation: `check_grads` compares, `numdiff` differentiates. Trusts no rule of gradc's.

The function is traced once and the reference interpreter runs it in float64 at nearby points, whatever dtype it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree

from gradc.errors import TraceError, UnsupportedError, VerificationError, public
from gradc.interpret import compute, evaluate, to_numpy
from gradc.ir import Graph, Value
from gradc.leaves import Cast
from gradc.signature import is_dynamic, leaf_names
from gradc.table import Elementwise
from gradc.trace import title_of, trace
from gradc.transforms import jvp, vjp
from gradc.types import as_dtype

Function = Callable[..., Any]
Arrays = Sequence[np.ndarray]
EVERY_ELEMENT = 200  # reverse mode compares every element of an argument up to this size, and this many chosen ones beyond


@dataclass(frozen=True)
class Tolerance:
    """How far numerical differences reach, and how near the derivative has to come."""

    step: float | None
    absolute: float | None
    relative: float | None

    def differs(self, analytic: np.ndarray, numeric: np.ndarray, precision: float) -> np.ndarray:
        """Where the two are further apart than rounding and truncation explain. nan agrees with nan alone."""
        usual = precision**0.4
        largest = np.max(np.abs(numeric), initial=1.0, where=np.isfinite(numeric))
        absolute = usual * largest if self.absolute is None else self.absolute
        relative = usual if self.relative is None else self.relative
        return ~np.isclose(analytic, numeric, relative, absolute, equal_nan=True)


@public
def check_grads(
    f: Function,
    args: Sequence[Any],
    order: int = 1,
    modes: Sequence[str] = ("rev", "fwd"),
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Compares the derivatives of `f` at `args` (pytrees of arrays) with central differences, up to `order`, in each mode.

    Raises VerificationError with the first element that differs: which argument or result, its index, and both numbers.
    Tolerances follow from the precision of what the function computes in, unless given. `eps` sets the step.
    """
    if not set(modes) <= {"rev", "fwd"}:
        raise TraceError(f"check_grads takes the modes 'rev' and 'fwd', got {tuple(modes)}")
    leaves, tree = optree.tree_flatten(tuple(args))
    names = leaf_names(f, tuple(args), {})
    places = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]

    def of_floats(*floats: Any) -> tuple:
        given = [floats[places.index(i)] if i in places else leaf for i, leaf in enumerate(leaves)]
        results = optree.tree_leaves(f(*optree.tree_unflatten(tree, given)))
        return tuple(x for x in results if isinstance(x, Value) and x.dtype.is_floating)

    of_floats.__name__ = title_of(f)
    point = [np.asarray(to_numpy(leaves[i]), np.float64) for i in places]
    _check(of_floats, point, [names[i] for i in places], order, tuple(modes), Tolerance(eps, atol, rtol))


def _check(f: Function, point: Arrays, names: Sequence[str], order: int, modes: Sequence[str], tolerance: Tolerance) -> None:
    """`check_grads` for a function of float64 arrays that returns a tuple of arrays; orders above the first recur."""
    random = np.random.default_rng(0)
    graph = trace(f, tuple(point)).graph
    tangents = [random.standard_normal(x.shape) for x in point]
    cotangents = [random.standard_normal(x.shape).astype(x.dtype.numpy) for x in graph.outputs]
    if sum(x.size for x in graph.outputs) == 1:  # a scalar: the numbers reported are then its partial derivatives
        cotangents = [np.ones(x.shape, x.dtype.numpy) for x in graph.outputs]

    def reverse(*xs: Any) -> tuple:
        return vjp(f, *xs)[1](tuple(cotangents))

    def forward(*xs: Any) -> tuple:
        return jvp(f, xs, tuple(tangents))[1]

    for mode in modes:
        derivative = reverse if mode == "rev" else forward
        derivative.__name__ = f"{f.__name__}'"
        found = evaluate(trace(derivative, tuple(point)).graph, point)
        if mode == "rev":
            _compare_gradient(graph, point, cotangents, found, names, tolerance, f.__name__)
        else:
            _compare_tangents(graph, point, tangents, found, tolerance, f.__name__)
        if order > 1:
            _check(derivative, point, names, order - 1, modes, tolerance)


def _compare_gradient(
    graph: Graph, point: Arrays, cotangents: Arrays, found: Arrays, names: Sequence[str], tolerance: Tolerance, title: str
) -> None:
    """Each argument's cotangent, element by element, against the differences of the cotangents' product with the results."""
    precision = precision_of(graph)
    random = np.random.default_rng(1)
    for place, (analytic, name) in enumerate(zip(found, names, strict=True)):
        size = analytic.size
        chosen = np.arange(size) if size <= EVERY_ELEMENT else np.sort(random.choice(size, EVERY_ELEMENT, replace=False))
        for flat in chosen:
            at = np.unravel_index(flat, analytic.shape)
            direction = [np.zeros(x.shape) for x in point]
            direction[place][at] = 1.0
            slopes = directional(lambda xs: evaluate(graph, xs), point, direction, tolerance.step, precision)
            numeric = np.asarray(sum(np.sum(c * slope) for c, slope in zip(cotangents, slopes, strict=True)))
            if tolerance.differs(analytic[at], numeric, precision):
                _fail(title, "reverse", f"the cotangent of argument {name}", at, analytic[at], numeric)


def _compare_tangents(graph: Graph, point: Arrays, tangents: Arrays, found: Arrays, tolerance: Tolerance, title: str) -> None:
    """Each result's tangent, element by element, against the differences along the tangents."""
    precision = precision_of(graph)
    slopes = directional(lambda xs: evaluate(graph, xs), point, tangents, tolerance.step, precision)
    for place, (analytic, numeric) in enumerate(zip(found, slopes, strict=True)):
        for at in np.argwhere(tolerance.differs(analytic, numeric, precision)):
            _fail(title, "forward", f"the tangent of result {place}", tuple(at), analytic[tuple(at)], numeric[tuple(at)])


def _fail(title: str, mode: str, what: str, at: Sequence[Any], analytic: Any, numeric: Any) -> None:
    raise VerificationError(
        f"{mode}-mode derivative of {title}: {what} differs at index {tuple(int(i) for i in at)}: "
        f"gradc gives {float(analytic):.9g}, numerical differentiation {float(numeric):.9g}",
        advice="At a kink or a discontinuity the two may rightly differ; elsewhere this is a wrong derivative rule.",
    )


def precision_of(graph: Graph) -> float:
    """The relative spacing of the coarsest floating dtype the program rounds to."""
    names = {value.dtype.name for value in graph.values if value.dtype.is_floating}
    return max((_SPACING[name] for name in names), default=_SPACING["float64"])


_SPACING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def is_floating(leaf: Any) -> bool:
    """Whether an argument is a floating-point array or number."""
    return isinstance(leaf, float) or (is_dynamic(leaf) and as_dtype(leaf.dtype).is_floating)


def directional(
    f: Callable[[Arrays], Arrays], point: Arrays, direction: Arrays, step: float | None, precision: float
) -> list[np.ndarray]:
    """The derivative of `f` along `direction`: central differences with `step`, or of fourth order with a step that suits."""
    scale = max((float(np.max(np.abs(x * (d != 0)), initial=1.0)) for x, d in zip(point, direction, strict=True)), default=1.0)

    def difference(h: float) -> list[np.ndarray]:
        ahead, behind = ([x + sign * h * d for x, d in zip(point, direction, strict=True)] for sign in (1, -1))
        return [
            (np.asarray(p, np.float64) - np.asarray(m, np.float64)) / (2 * h) for p, m in zip(f(ahead), f(behind), strict=True)
        ]

    if step is not None:
        return difference(step)
    h = precision**0.2 * scale
    return [(4 * fine - coarse) / 3 for fine, coarse in zip(difference(h / 2), difference(h), strict=True)]


@public
def numdiff(f: Function, x: Any, scheme: str = "central", step: float | str = "auto") -> np.ndarray:
    """The numerical derivative of `f` at the array `x`, in float64, of shape (*f(x).shape, *x.shape).

    `scheme`: "central"; "forward" or "backward", which stay on one side of x; "complex", exact to rounding where every
    function is analytic (UnsupportedError where one is not). With step="auto" the differences have one more order of
    accuracy than the plain two-point formulas that a given step uses.
    """
    if scheme not in ("central", "forward", "backward", "complex"):
        raise TraceError(f"numdiff takes the schemes central, forward, backward and complex, got {scheme!r}")
    point = np.asarray(to_numpy(x), np.float64)
    graph = trace(f, (point,)).graph
    if len(graph.outputs) != 1:
        raise TraceError(f"numdiff takes a function with one result, this one has {len(graph.outputs)}")
    columns = []
    for flat in range(point.size):
        unit = np.zeros(point.size)
        unit[flat] = 1.0
        columns.append(_slope(graph, point, unit.reshape(point.shape), scheme, step))
    shape = graph.outputs[0].shape
    return np.stack(columns, -1).reshape((*shape, *point.shape)) if columns else np.zeros((*shape, *point.shape))


def _slope(graph: Graph, point: np.ndarray, unit: np.ndarray, scheme: str, step: float | str) -> np.ndarray:
    """The derivative along one unit vector by one scheme."""
    precision = precision_of(graph)

    def at(h: float) -> np.ndarray:
        return np.asarray(evaluate(graph, (point + h * unit,))[0], np.float64)

    given = None if step == "auto" else float(step)
    if scheme == "complex":
        h = given or 1e-30
        return evaluate_complex(graph, point + 1j * h * unit).imag / h
    if scheme == "central":
        return directional(lambda xs: evaluate(graph, xs), (point,), (unit,), given, precision)[0]
    scale = max(1.0, float(np.max(np.abs(point * unit), initial=0.0)))
    h = (given if given is not None else precision ** (1 / 3) * scale) * (1 if scheme == "forward" else -1)
    return (at(h) - at(0)) / h if given is not None else (4 * at(h) - 3 * at(0) - at(2 * h)) / (2 * h)


def evaluate_complex(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The graph's output for a complex input: comparisons see real parts; a function that is not analytic is refused."""
    (given,), (output,) = graph.inputs, graph.outputs
    arrays: dict[Value, np.ndarray] = {given: x}
    for value in graph.values:
        if value not in arrays:
            arrays[value] = _compute_complex(value, [arrays[operand] for operand in value.operands])
    return np.asarray(arrays[output], np.complex128)


def _compute_complex(value: Value, operands: list[np.ndarray]) -> np.ndarray:
    """One Value from operands that may be complex."""
    operation = value.operation
    if not any(np.iscomplexobj(x) for x in operands):
        return compute(value, *operands)
    if isinstance(operation, Cast) and value.dtype.is_floating:
        return operands[0]
    if not value.dtype.is_floating:
        return compute(value, *(np.real(x) for x in operands))
    try:
        with np.errstate(all="ignore"):
            result = operation.numpy(*operands)
    except TypeError:
        result = np.zeros(())
    analytic = np.iscomplexobj(result) or (
        isinstance(operation, Elementwise) and all(partial is None for partial in operation.partials)
    )
    if not analytic:
        raise UnsupportedError(f"{operation.name} has no complex meaning", advice='Use scheme="central".', source=value.source)
    return result
