"""Operators and methods of Value: `x + y`, `x @ w`, `x.sum(axis=-1)`, `x[..., None]`, `x.at[i].set(v)`.

Two tables at the bottom attach them. What Python asks of a value that is not known yet (`if x`, `float(x)`, `x[0] = 1`) is
refused here, with what to write instead.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from opcode import opmap
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from gradc.errors import ShapeError, TraceError, user_source
from gradc.ir import Value
from gradc.language import indexing, linear, reductions, shaping, softmax
from gradc.language.calls import describe, method
from gradc.language.elementwise import FUNCTIONS, clip, powered
from gradc.leaves import is_array, is_scalar
from gradc.ops import TABLE


def operator(symbol: str, function: Callable[..., Value]) -> Callable[..., Value]:
    """A binary operator that leaves operands it does not know to the other side."""

    @method(f"{{}} {symbol} {{}}")
    def forward(self: Value, other: Any) -> Value:
        return function(self, other) if _is_operand(other) else NotImplemented

    return forward


def reflected(symbol: str, function: Callable[..., Value]) -> Callable[..., Value]:
    """The same operator with the Value on the right."""

    @method(f"{symbol} {{}}")
    def backward(self: Value, other: Any) -> Value:
        return function(other, self) if _is_operand(other) else NotImplemented

    return backward


def _is_operand(x: Any) -> bool:
    return isinstance(x, Value) or is_scalar(x) or is_array(x)


def _unary(symbol: str, name: str) -> Callable[[Value], Value]:
    return method(f"{symbol}{{}}")(lambda self: TABLE[name].on_values(self))


@method("{}[{}]")
def _getitem(self: Value, key: Any) -> Value:
    return indexing.getitem(self, key)


def _iterate(self: Value) -> Iterator[Value]:
    if self.ndim == 0:
        raise TraceError("a 0-d array has no elements to iterate over", advice=_conversion())
    wanted = _unpacked_into(sys._getframe(1))
    if wanted not in (None, self.shape[0]):
        both = self.operation.name in ("reduce", "max", "min")
        raise ShapeError(
            f"{describe(self)} is unpacked into {wanted}, and its first dimension is {self.shape[0]}",
            advice="gradc.max gives the values alone, gradc.argmax where they are." if both else "",
        )
    return iter(shaping.unstack(self))


def _unpacked_into(frame: FrameType) -> int | None:
    """How many names the running statement of a frame has on its left: `a, b = x`; None where it is no such one."""
    code = frame.f_code.co_code
    return code[frame.f_lasti + 1] if code[frame.f_lasti] == opmap["UNPACK_SEQUENCE"] else None


def _length(self: Value) -> int:
    if self.ndim == 0:
        raise TraceError("a 0-d array has no len()", advice=_conversion())
    return self.shape[0]


def _conversion() -> str:
    """What to say where torch takes an array apart in order to copy it."""
    source = user_source()
    converts = source is not None and re.search(r"\btorch\.(as_)?tensor\(", source.text())
    return "What is traced is an array already: use it as it is, or gradc.stack for several." if converts else ""


@method("a number of {}")
def _number(self: Value, *args: Any) -> NoReturn:
    """float(x), int(x) and what calls them: functions of `math` take nothing else."""
    source = user_source()
    called = re.search(r"\bc?math\.(\w+)\(", source.text()) if source is not None else None
    advice = import_module("gradc.absent").advice_for("math", called[1]) if called else CONCRETE
    raise TraceError("it has no value until the program runs", advice=advice)


@method("the text of {}")
def _format(self: Value, specification: str) -> str:
    if specification:
        raise TraceError("it has no value until the program runs", advice="Return it, and print it outside.")
    return str(self)


def _refuse(what: str, advice: str) -> Callable[..., NoReturn]:
    def refuse(self: Value, *args: Any, **kwargs: Any) -> NoReturn:
        raise TraceError("it has no value until the program runs", advice=advice)

    return method(f"{what} of {{}}")(refuse)


@method("the truth of {}")
def _truth(self: Value) -> NoReturn:
    source = user_source()
    line = source.text().strip() if source is not None else ""
    special = next((advice for pattern, advice in BRANCHES if pattern.search(line)), BRANCH)
    both = special is not BRANCH and re.search(r"\bif\b", line)
    raise TraceError("it has no value until the program runs", advice=f"{special} {BRANCH}" if both else special)


def missing_attribute(self: Value, name: str) -> NoReturn:
    raise import_module("gradc.absent").missing_of_array(describe(self), name, dir(Value))


BRANCHES = (  # what the user's line looks like, and what to write there
    (
        re.compile(r"^while\b"),
        "The number of rounds of a loop must be known while tracing: loop over a range of Python numbers or shapes.",
    ),
    (
        re.compile(r"(?<![\w.])(max|min)\("),
        "Python's max and min choose one: use gradc.maximum or gradc.minimum, or gradc.max and gradc.min over an axis.",
    ),
    (re.compile(r"\b(and|or|not)\b"), "Write `&`, `|` and `~` between conditions, each in parentheses: `(0 < x) & (x < 1)`."),
    (re.compile(r"[<>]=?[^<>,:]+[<>]"), "Python splits a chain of comparisons with `and`: write `(0 < x) & (x < 1)`."),
)
BRANCH = (
    "Use gradc.where(condition, a, b) to choose element by element; an `if` can ask for shapes, dtypes and static arguments."
)
CONCRETE = "Compute it from shapes and static arguments, or return it from the compiled function and convert it there."


def _reshape(self: Value, *shape: Any) -> Value:
    return shaping.reshape(self, shape[0] if len(shape) == 1 else shape)


@method("transpose of {}")
def _transpose(self: Value, *axes: Any) -> Value:
    """NumPy's meaning, all dimensions in their new order; torch's two dimensions to be swapped are refused where it is another."""
    if len(axes) == 2 and all(isinstance(axis, int) for axis in axes):
        first, second = axes
        if self.ndim != 2 or (first % 2, second % 2) == (0, 1):
            raise TraceError(
                f"({first}, {second}) is no new order of {self.ndim} dimensions",
                advice=f"Write `x.swapaxes({first}, {second})` to swap two, or name all dimensions in their new order.",
            )
    return _permute(self, *axes)


def _permute(self: Value, *axes: Any) -> Value:
    order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None
    return shaping.transpose(self, order)


@method("flatten of {}")
def _flatten(self: Value, *dimensions: Any, **named: Any) -> Value:
    if dimensions or named:
        raise TraceError("it makes one dimension of all", advice="Write `x.reshape(shape)`; -1 stands for what is left.")
    return shaping.reshape(self, (-1,))


def _transposed(self: Value) -> Value:
    """The matrix transposed; with more dimensions say which with `mT` or `permute_dims`."""
    if self.ndim > 2:
        raise ShapeError(
            f"`.T` of {self.ndim} dimensions", advice="Use `.mT` for the last two, or gradc.permute_dims(x, axes)."
        )
    return shaping.transpose(self)


def _numpy_ufunc(self: Value, ufunc: Any, kind: str, *operands: Any, **kwargs: Any) -> Value:
    """NumPy's own functions on a Value: the table's function of the same meaning."""
    function = NUMPY_UFUNCS.get(ufunc)
    if function is None or kind != "__call__" or kwargs:
        called, name = (f"{ufunc.__name__}.{kind}", SUMS.get(ufunc, "")) if kind != "__call__" else (ufunc.__name__,) * 2
        raise TraceError(
            f"numpy.{called} was called on {self!r}, which is being traced",
            advice=import_module("gradc.absent").advice_for("numpy", name),
        )
    return function(*operands)


def _numpy_function(self: Value, function: Any, kinds: Any, args: Any, kwargs: Any) -> NoReturn:
    raise TraceError(
        f"numpy.{function.__name__} was called on an array that is being traced",
        advice=import_module("gradc.absent").advice_for("numpy", function.__name__),
    )


def _torch_function(function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
    """torch's functions are refused; of an operator torch hears it as the TypeError that lets the Value's own operator run."""
    raise TraceError(
        f"torch's {function.__name__} was called on an array that is being traced",
        advice=import_module("gradc.absent").advice_for("torch", function.__name__),
    )


NUMPY_UFUNCS: dict[Any, Callable[..., Value]] = {row.numpy: FUNCTIONS[name] for name, row in TABLE.items()} | {
    np.matmul: linear.matmul,
    np.power: FUNCTIONS["pow"],
    np.floor_divide: FUNCTIONS["floor_divide"],
}
SUMS = {np.add: "sum", np.multiply: "prod", np.maximum: "max", np.minimum: "min", np.logical_and: "all", np.logical_or: "any"}

BINARY = {
    "add": ("+", TABLE["add"].on_values),
    "sub": ("-", TABLE["subtract"].on_values),
    "mul": ("*", TABLE["multiply"].on_values),
    "truediv": ("/", TABLE["divide"].on_values),
    "floordiv": ("//", TABLE["floor_divide"].on_values),
    "mod": ("%", TABLE["remainder"].on_values),
    "pow": ("**", powered),
    "matmul": ("@", linear.matmul.__wrapped__),  # type: ignore[attr-defined]
    "and": ("&", TABLE["bitwise_and"].on_values),
    "or": ("|", TABLE["bitwise_or"].on_values),
    "xor": ("^", TABLE["bitwise_xor"].on_values),
    "lshift": ("<<", TABLE["bitwise_left_shift"].on_values),
    "rshift": (">>", TABLE["bitwise_right_shift"].on_values),
}
COMPARISONS = {
    "eq": ("==", "equal"),
    "ne": ("!=", "not_equal"),
    "lt": ("<", "less"),
    "le": ("<=", "less_equal"),
    "gt": (">", "greater"),
    "ge": (">=", "greater_equal"),
}
METHODS: dict[str, Any] = (
    {
        "__neg__": _unary("-", "negative"),
        "__abs__": _unary("abs ", "abs"),
        "__invert__": _unary("~", "bitwise_invert"),
        "__pos__": lambda self: self,
        "__getitem__": _getitem,
        "__iter__": _iterate,
        "__len__": _length,
        "__bool__": _truth,
        "__getattr__": missing_attribute,
        "__int__": _number,
        "__index__": _refuse("the integer value", CONCRETE),
        "__float__": _number,
        "__round__": _refuse("round()", "Write gradc.round(x)."),
        "__floor__": _refuse("math.floor()", "Write gradc.floor(x)."),
        "__ceil__": _refuse("math.ceil()", "Write gradc.ceil(x)."),
        "__trunc__": _refuse("math.trunc()", "Write gradc.trunc(x)."),
        "__divmod__": _refuse("divmod()", "Write `x // y` and `x % y`."),
        "__rdivmod__": _refuse("divmod()", "Write `x // y` and `x % y`."),
        "__format__": _format,
        "__complex__": _refuse("complex()", CONCRETE),
        "item": _refuse("item()", CONCRETE),
        "tolist": _refuse("tolist()", CONCRETE),
        "__array__": _refuse("the NumPy array", "Use the functions of gradc, which are named as NumPy's."),
        "__setitem__": _refuse("assigning to a part", "Arrays do not change: write `x = x.at[index].set(value)`."),
        "__delitem__": _refuse("deleting a part", "Take the parts to keep and use gradc.concat."),
        "__array_ufunc__": _numpy_ufunc,
        "__array_function__": _numpy_function,
        "__torch_function__": staticmethod(_torch_function),
        "reshape": _reshape,
        "transpose": _transpose,
        "permute": _permute,
        "flatten": _flatten,
        "ravel": _flatten,
        "astype": shaping.astype,
        "squeeze": shaping.squeeze,
        "swapaxes": shaping.swapaxes,
        "take": indexing.take,
        "repeat": shaping.repeat,
        "dot": linear.dot,
        "clip": clip,
        "T": property(_transposed),
        "mT": property(shaping.matrix_transpose),
        "at": property(indexing.At),
    }
    | {
        name: getattr(reductions, name)
        for name in ("sum", "prod", "max", "min", "mean", "var", "std", "any", "all", "argmax", "argmin", "cumsum")
    }
    | {name: getattr(softmax, name) for name in ("logsumexp", "softmax", "log_softmax")}
)


def attach() -> None:
    """Gives Value its operators and methods."""
    for name, (symbol, function) in BINARY.items():
        setattr(Value, f"__{name}__", operator(symbol, function))
        setattr(Value, f"__r{name}__", reflected(symbol, TABLE["pow"].on_values if name == "pow" else function))
    for name, (symbol, row) in COMPARISONS.items():
        setattr(Value, f"__{name}__", operator(symbol, TABLE[row].on_values))
    for name, attribute in METHODS.items():
        setattr(Value, name, attribute)


attach()
