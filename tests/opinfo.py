"""gradc's functions on PyTorch's own operator samples: values and gradients beside torch's, and the names of what differs.

    python -m tests.opinfo             every operator; writes the second part of docs/differences.md
    python -m tests.opinfo exp where   these operators, every difference in full

The samples are those PyTorch tests its operators with (`torch.testing._internal`). The reference runs gradc's side. What differs by
convention is named in `CONVENTIONS`; the command fails on what differs and is not named.
"""

from __future__ import annotations

import re
import sys
import types
import unittest
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optree
import torch

import gradc
from gradc import nn
from gradc.transforms import run_traced

PAGE = Path(__file__).parents[1] / "docs" / "differences.md"
MARK = "<!-- opinfo -->"
UNNAMED = "differs"
STORAGE = ("device", "layout", "memory_format", "pin_memory", "requires_grad")  # what gradc does not ask
# What differs by convention: a pattern of "operator dtype what: difference", and the convention in a sentence.
CONVENTIONS: dict[str, str] = {
    r"of 0 dimensions|of shape \(\)": "A 0-d array has no axes: `axis=0` of it is refused, where PyTorch takes it for no axis.",
    r" bool value: DTypeError": "Bools are no numbers: arithmetic, order, sums of products, maxima and minima of them are refused (array API).",
    r" value: dtype uint64, not int64": "Sums and products of unsigned integers are uint64 (array API), not int64.",
    r"^(all|any) uint8 value: dtype bool": "`any` and `all` are bool of every dtype (array API); PyTorch keeps uint8.",
    r"^einsum uint8 value: dtype uint8": "`einsum` keeps its operands' dtype; PyTorch's gives int64 for some equations on uint8.",
    r"DTypeError: .* does not fit in": "A Python number that an integer dtype does not hold is refused; PyTorch wraps it around.",
    r"^arange (int64|uint8)": "`arange` between floats in an integer dtype truncates the numbers of the ramp, as NumPy; PyTorch truncates the ends.",
    r"^linspace\S* (int64|uint8) value: -?\d": "`linspace` in an integer dtype rounds down, as NumPy and JAX; PyTorch truncates, from the end in the second half.",
    r"TraceError: linspace|UnsupportedError: (one_hot|nonzero)": "What decides a shape or a ramp is a Python number; what has a size that depends on elements is refused, with what to write instead.",
    r"^empty": "`empty` and `empty_like` are zeros: gradc never shows memory that it has not written.",
    r"^diff .*unexpected keyword argument|^round/decimals": "`diff` has no `prepend` and `append`, `round` no `decimals`.",
    r"^squeeze\S* .*is not of size 1": "`squeeze` of an axis that is not 1 long is refused (array API); PyTorch leaves it.",
    r"^cat .*axis 1 is out of range": "An empty 1-d array does not concatenate with arrays of other shapes.",
    r"^tensordot .*differ in size": "The axes that `tensordot` and `einsum` sum over are of one size; PyTorch stretches 1.",
    r"^gather .*: indices of": "The indices of `take_along_axis` have as many dimensions as the array; PyTorch takes empty ones of any.",
    r"^masked_fill bool": "A Python number beside bools makes the result a number's; PyTorch casts it to bool.",
    r"^remainder float\d+ value: -?0.0, not -?0.0": "A rest that is 0 has the divisor's sign (array API).",
    r"^nn.functional.(relu|relu6|softshrink) float\d+ value: 0.0, not -0.0": "`relu`, `relu6` and `softshrink` of -0 or a number they cut off are 0.",
    r"^nn.functional.logsigmoid float\d+ value: -0.0": "`logsigmoid` far right is -0, the limit from below; PyTorch has 0.",
    r"^pow (int64|uint8) value: 0,": "A power of integers to an exponent beyond 63 that no integer holds is 0; NumPy and PyTorch wrap around.",
    r"^(abs|sign|nn.functional.(elu|celu|selu)) float\d+ \w+: nan, not": "NaN stays NaN in `sign` and in slopes: of `abs`, `elu`, `celu`, `selu` at NaN, where PyTorch has a number.",
    r"^nn.functional.(softshrink|hardshrink|hardtanh|relu6|hardsigmoid) float\d+ gradient: \S+, not -?0.0": "The slope of `softshrink`, `hardshrink`, `hardtanh`, `relu6` and `hardsigmoid` at NaN is that of the middle piece; PyTorch has 0.",
    r"^(max/binary|min/binary|maximum|minimum) float\d+ gradient": "The slopes of `maximum` and `minimum` are 0 where an operand is NaN, as in JAX; PyTorch passes the cotangent on.",
    r"^(copysign|logaddexp|hypot) float\d+ gradient: \S+, not nan": "Slopes at infinities that have a limit are that limit (`logaddexp`, `copysign`, `hypot`); PyTorch has NaN.",
    r"^(fmod|remainder|div/\w+) float\d+ gradient": "The slope of a rest in the divisor follows from the exact rest; PyTorch rounds the quotient first.",
    r"^nn.functional.(celu|hardsigmoid) float64 gradient": "PyTorch has the constants of `celu` and `hardsigmoid` in float32, gradc in the array's dtype.",
    r"^nn.functional.hardtanh (int64|uint8)": "`hardtanh` and `threshold` of integers promote as `where` does; PyTorch casts the limits.",
    r"^nn.functional.margin_ranking_loss uint8": "The loss of unsigned integers is computed in float32; PyTorch's wraps around.",
    r"cannot update running statistics in place": "`batch_norm` and `instance_norm` never change their arguments: `nn.running_statistics` gives the new statistics.",
    r"needs a random key": "Dropout draws from a key that is an argument.",
    r"UnsupportedError|^nn.functional.embedding .*unexpected keyword": "Options that torch.nn.functional has and gradc has not are refused by name.",
    r"^nn.functional.pad/replicate_negative .*nothing to pad it with": "Padding cuts first and repeats then: an axis that is cut to nothing has nothing to repeat.",
    r"^nn.functional.batch_norm .*channels are dimension 1": "Normalisation over a batch wants the channels in dimension 1.",
}
DTYPES = (torch.float64, torch.float32, torch.int64, torch.uint8, torch.bool)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def operators() -> list[Any]:
    """PyTorch's descriptions of its operators. The module wants `expecttest`, of which it needs the name of a class."""
    stub = types.ModuleType("expecttest")
    stub.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    sys.modules.setdefault("expecttest", stub)
    from torch.testing._internal.common_methods_invocations import op_db

    return op_db


# torch's functions in gradc's words, where the name or the order of arguments is another.


def _reduced(name: str) -> Callable[..., Any]:
    function = getattr(gradc, name)
    return lambda x, dim=None, keepdim=False, **rest: function(x, axis=_axes(x, dim), keepdims=keepdim, **rest)


def _axes(x: Any, dim: Any) -> Any:
    """Of a 0-d tensor torch takes dim=0 or -1 for what it has not; an empty list is every axis."""
    return None if dim is None or (isinstance(dim, list | tuple) and not dim) else tuple(dim) if isinstance(dim, list) else dim


def _spread(name: str) -> Callable[..., Any]:
    def spread(x: Any, dim: Any = None, unbiased: Any = True, correction: Any = 1, keepdim: bool = False) -> Any:
        dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
        ddof = (1 if correction is None else correction) * unbiased
        return getattr(gradc, name)(x, axis=_axes(x, dim), correction=ddof, keepdims=keepdim)

    return spread


def _extremum(name: str) -> Callable[..., Any]:
    def extremum(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if hasattr(dim, "shape"):
            return getattr(gradc, name + "imum")(x, dim)
        if dim is None:
            return getattr(gradc, name)(x)
        values = getattr(gradc, name)(x, axis=dim, keepdims=keepdim)
        return values, getattr(gradc, "arg" + name)(x, axis=dim, keepdims=keepdim)

    return extremum


def _divided(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return gradc.floor_divide(x, y)
    quotient = gradc.divide(x, y)
    if rounding_mode is None:
        return quotient
    whole = gradc.result_type(x, y)
    return gradc.trunc(quotient) if whole.is_floating else gradc.astype(quotient, whole)


def _diagonal(first: int, second: int) -> Callable[..., Any]:
    return lambda x, offset=0, dim1=first, dim2=second: gradc.diagonal(x, offset=offset, axis1=dim1, axis2=dim2)


def _expanded(x: Any, *shape: Any) -> Any:
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    own = (1,) * (len(sizes) - x.ndim) + tuple(x.shape)
    return gradc.broadcast_to(x, tuple(n if n >= 0 else m for n, m in zip(sizes, own, strict=True)))


def _split(x: Any, size: Any, dim: int = 0) -> Any:
    """torch says the parts' sizes, NumPy and gradc where they begin."""
    length = x.shape[dim]
    ends = np.cumsum(size) if isinstance(size, list | tuple) else range(size, length + size, size)
    return gradc.split(x, [int(end) for end in ends][:-1], axis=dim)


WORDS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y, alpha=1: gradc.add(x, y if alpha == 1 else gradc.multiply(alpha, y)),
    "sub": lambda x, y, alpha=1: gradc.subtract(x, y if alpha == 1 else gradc.multiply(alpha, y)),
    "equal": None, "arange": lambda start, end=None, step=1, dtype=None: gradc.arange(start, end, step, dtype=dtype), "mul": gradc.multiply, "neg": gradc.negative, "ne": gradc.not_equal, "gt": gradc.greater, "ge": gradc.greater_equal,
    "lt": gradc.less, "le": gradc.less_equal, "eq": gradc.equal, "bitwise_not": gradc.bitwise_invert, "div": _divided,
    "true_divide": gradc.divide, "clamp": gradc.clip, "float_power": None,
    "abs": gradc.abs, "round": lambda x, decimals=None: gradc.round(x) if decimals is None else _no_decimals(),
    "cat": lambda tensors, dim=0: gradc.concat(tensors, axis=dim), "stack": lambda tensors, dim=0: gradc.stack(tensors, axis=dim),
    "permute": lambda x, *dims: gradc.permute_dims(x, dims[0] if len(dims) == 1 else dims),
    "transpose": lambda x, a, b: gradc.swapaxes(x, a, b), "movedim": gradc.moveaxis, "flip": lambda x, dims: gradc.flip(x, axis=dims),
    "roll": lambda x, shifts, dims=None: gradc.roll(x, shifts, axis=dims), "unsqueeze": lambda x, dim: gradc.expand_dims(x, axis=dim),
    "squeeze": lambda x, dim=None: gradc.squeeze(x, axis=dim), "tril": lambda x, k=0: gradc.tril(x, k=k), "triu": lambda x, k=0: gradc.triu(x, k=k),
    "cumsum": lambda x, dim, **rest: gradc.cumsum(x, axis=dim, **rest), "gather": lambda x, dim, index: gradc.take_along_axis(x, index, axis=dim),
    "index_select": lambda x, dim, index: gradc.take(x, index, axis=dim), "diff": lambda x, n=1, dim=-1, prepend=None, append=None: gradc.diff(x, n=n, axis=dim, prepend=prepend, append=append),
    "logsumexp": _reduced("logsumexp"), "softmax": lambda x, dim, dtype=None: gradc.softmax(_cast(x, dtype), axis=dim),
    "log_softmax": lambda x, dim, dtype=None: gradc.log_softmax(_cast(x, dtype), axis=dim),
    "max": _extremum("max"), "min": _extremum("min"), "amax": _reduced("max"), "amin": _reduced("min"), "var": _spread("var"), "std": _spread("std"),
    "reshape": gradc.reshape, "view": gradc.reshape, "where": lambda x, condition, y: gradc.where(condition, x, y),
    "diagonal": _diagonal(0, 1), "linalg.diagonal": _diagonal(-2, -1), "linalg.vecdot": lambda x, y, dim=-1: gradc.vecdot(x, y, axis=dim - x.ndim if dim >= 0 else dim), "einsum": lambda tensors, equation: gradc.einsum(equation, *tensors),
    "split": _split, "repeat": lambda x, *shape: gradc.tile(x, shape[0] if len(shape) == 1 else shape),
    "tensordot": lambda x, y, dims=2: gradc.tensordot(x, y, axes=dims), "index_add": lambda x, dim, index, source, alpha=1: _at(x, dim, index).add(gradc.multiply(source, alpha)),
    "mm": gradc.matmul, "bmm": gradc.matmul, "mv": gradc.matmul, "__rmatmul__": lambda x, y: gradc.matmul(y, x),
    "masked_fill": lambda x, mask, value: gradc.where(mask, value, x), "square": gradc.square, "broadcast_tensors": gradc.broadcast_arrays,
    "meshgrid": lambda *tensors, indexing="ij": gradc.meshgrid(*(tensors[0] if isinstance(tensors[0], list | tuple) else tensors), indexing=indexing),
    "unbind": lambda x, dim=0: gradc.unstack(x, axis=dim), "special.erfcx": None, "expand": _expanded, "nn.functional.embedding": lambda weight, index, **rest: nn.embedding(index, weight, **rest),
    "logit": None, "rad2deg": None, "xlogy": None, "special.expit": gradc.sigmoid,
} | {name: _reduced(name) for name in ("sum", "prod", "mean", "any", "all", "argmax", "argmin", "count_nonzero")}  # fmt: skip


def _at(x: Any, dim: int, index: Any) -> Any:
    return gradc.asarray(x).at[(slice(None),) * (dim % max(x.ndim, 1)) + (index,)]


def _cast(x: Any, dtype: Any) -> Any:
    return x if dtype is None else gradc.astype(x, dtype)


def _no_decimals() -> Any:
    raise gradc.UnsupportedError("round to decimals")


def counterpart(op: Any) -> Callable[..., Any] | None:
    """gradc's function for one of torch's operators."""
    if op.name in WORDS:
        return WORDS[op.name]
    short = op.name.rpartition(".")[2]
    home = (
        nn
        if op.name.startswith("nn.functional.")
        else gradc
        if op.name in (short, f"special.{short}", f"linalg.{short}")
        else None
    )
    found = getattr(home, short, None) or next(
        (f for alias in op.aliases if (f := getattr(gradc, alias.name.rpartition(".")[2], None))), None
    )
    return found if isinstance(found, types.FunctionType) else None


@dataclass(frozen=True)
class Comparison:
    """One sample of one operator: what was compared ("value" or "gradient"), and "" or what differs."""

    op: str
    dtype: str
    what: str
    difference: str
    sample: str = ""

    def __str__(self) -> str:
        return f"{self.op} {self.dtype} {self.what}: {self.difference}"


def comparisons(op: Any, function: Callable[..., Any]) -> Iterator[Comparison]:
    """All samples of an operator that both torch and gradc have, in every dtype."""
    name = op.name + (f"/{op.variant_test_name}" if op.variant_test_name else "")
    for dtype in DTYPES:
        if dtype not in op.dtypes:
            continue
        wants_gradient = dtype == torch.float64 and op.supports_autograd
        torch.manual_seed(0)
        for sample in samples(op, dtype):
            kwargs = {name: x for name, x in sample.kwargs.items() if name not in STORAGE}
            given = optree.tree_map(lambda x, wants=wants_gradient: own(x, wants), (sample.input, *sample.args, kwargs))
            arguments, kwargs = given[:-1], given[-1]
            try:
                want = op.op(*arguments, **sample.kwargs | kwargs)
            except Exception:
                continue
            for what, difference in _differences(function, arguments, kwargs, want, wants_gradient):
                yield Comparison(
                    name, str(dtype).removeprefix("torch."), what, difference, f"{_said(arguments)} {_said(kwargs)}"
                )


def own(x: Any, wants_gradient: bool) -> Any:
    """A sample's tensor as a leaf of its own, so that nothing is between it and its gradient."""
    if not isinstance(x, torch.Tensor):
        return x
    return x.detach().clone().requires_grad_(wants_gradient and x.is_floating_point())


def samples(op: Any, dtype: Any) -> Iterator[Any]:
    """An operator's samples, of elementwise ones with special values; none is large."""
    given = (
        op.reference_inputs
        if hasattr(op, "reference_numerics_filter") or hasattr(op, "lhs_make_tensor_kwargs")
        else op.sample_inputs
    )
    for sample in given("cpu", dtype, requires_grad=False):
        tensors = [x for x in optree.tree_leaves((sample.input, sample.args)) if isinstance(x, torch.Tensor)]
        if all(x.numel() <= 4096 and x.device.type == "cpu" and x.layout == torch.strided for x in tensors):
            yield sample


def _differences(
    function: Callable[..., Any], arguments: tuple, kwargs: dict, want: Any, wants_gradient: bool
) -> Iterator[tuple[str, str]]:
    leaves, tree = optree.tree_flatten((arguments, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    arrays = [leaves[i].detach().clone().numpy() for i in places]

    def on_arrays(*arrays: Any) -> Any:
        filled = [_plain(leaf) for leaf in leaves]
        for i, array in zip(places, arrays, strict=True):
            filled[i] = array
        arguments, kwargs = optree.tree_unflatten(tree, filled)
        return function(*arguments, **kwargs)

    wanted = [x for x in optree.tree_leaves(want) if isinstance(x, torch.Tensor)]
    try:
        found = optree.tree_leaves(run_traced(on_arrays, tuple(arrays), {}))
    except Exception as error:
        yield "value", f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        return
    difference = _difference_of_all(found, [x.detach() for x in wanted])
    yield "value", difference
    if difference or not wants_gradient:
        return
    variables = [leaves[i] for i in places if leaves[i].requires_grad]
    recorded = [k for k, x in enumerate(wanted) if x.requires_grad]
    if not variables or not recorded:
        return
    cotangents = [torch.randn_like(wanted[k]) for k in recorded]
    try:
        true = torch.autograd.grad([wanted[k] for k in recorded], variables, cotangents, allow_unused=True)
    except RuntimeError:  # torch has no derivative
        return
    yield (
        "gradient",
        _gradient_difference(on_arrays, arrays, [leaves[i].requires_grad for i in places], recorded, cotangents, true),
    )


def _gradient_difference(
    function: Any, arrays: list, wanted: list[bool], outputs: list[int], cotangents: list, true: Any
) -> str:
    def chosen(*variables: Any) -> Any:
        given = iter(variables)
        results = optree.tree_leaves(function(*(next(given) if w else x for w, x in zip(wanted, arrays, strict=True))))
        return [results[k] for k in outputs]

    variables = [x for w, x in zip(wanted, arrays, strict=True) if w]
    try:
        found = gradc.vjp(chosen, *variables)[1]([x.numpy() for x in cotangents])
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    zeros = [torch.zeros(x.shape, dtype=torch.float64) if t is None else t for t, x in zip(true, variables, strict=True)]
    return _difference_of_all(list(found), zeros, "gradient")


def _difference_of_all(found: list[Any], wanted: list[torch.Tensor], what: str = "value") -> str:
    if len(found) != len(wanted):
        return f"{len(found)} results, not {len(wanted)}"
    return next((text for a, b in zip(found, wanted, strict=True) if (text := _difference(np.asarray(a), b, what))), "")


def _difference(a: np.ndarray, wanted: torch.Tensor, what: str) -> str:
    b = wanted.resolve_neg().resolve_conj().numpy()
    if a.shape != b.shape:
        return f"shape {a.shape}, not {b.shape}"
    tolerance = TOLERANCE.get(wanted.dtype, 1e-9)
    with np.errstate(all="ignore"):
        same = np.isclose(a.astype(np.float64), b.astype(np.float64), rtol=tolerance, atol=tolerance, equal_nan=True)
    if a.dtype.kind == b.dtype.kind == "f" and what == "value":
        same &= (np.signbit(a) == np.signbit(b)) | (a != 0) | (b != 0)
    if not same.all():
        place = np.unravel_index(int(np.argmin(same)), a.shape)
        return f"{a[place]}, not {b[place]}, at {tuple(map(int, place))} ({(~same).sum()} of {same.size})"
    return "" if a.dtype == b.dtype else f"dtype {a.dtype}, not {b.dtype}"


def _plain(leaf: Any) -> Any:
    """torch's dtypes by name; devices and layouts are not gradc's."""
    return str(leaf).removeprefix("torch.") if isinstance(leaf, torch.dtype) else leaf


def _said(arguments: Any) -> str:
    """Arguments in a few words: shapes for tensors."""
    shown = optree.tree_map(lambda x: list(x.shape) if isinstance(x, torch.Tensor) else x, arguments)
    return str(shown)[:120]


def main(names: list[str]) -> int:
    """Compares, prints what has no convention (of named operators everything that differs), and returns 1 where there is such."""
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    for op in operators():
        function = counterpart(op)
        if function is None or (names and op.name not in names):
            continue
        counts["operators"] += 1
        for comparison in comparisons(op, function):
            reason = convention(comparison)
            counts[reason] += 1
            if reason == UNNAMED or (names and comparison.difference):
                print(f"{comparison}   [{comparison.sample}]", flush=True)
    summary = report(counts)
    print(summary)
    if not names:
        before = PAGE.read_text().partition(MARK)[0]
        PAGE.write_text(f"{before}{MARK}\n{summary}\n")
    return int(counts[UNNAMED] > 0)


def report(counts: Counter[str]) -> str:
    """How many comparisons agree, and the conventions by how often they account for one that does not."""
    compared = counts.total() - counts["operators"]
    head = (
        f"{counts['operators']} operators, {compared} comparisons: {counts['']} agree, {counts[UNNAMED]} differ without a name."
    )
    named = [f"- {reason} ({count})" for reason, count in counts.most_common() if reason in CONVENTIONS.values()]
    return "\n".join([head, "", *named])


def convention(comparison: Comparison) -> str:
    """The convention that a difference is an instance of; "" where there is none, UNNAMED where no convention fits."""
    if not comparison.difference:
        return ""
    return next((reason for pattern, reason in CONVENTIONS.items() if re.search(pattern, str(comparison))), UNNAMED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
