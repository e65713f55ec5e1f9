"""What to write instead of a name that is not there: not there yet, called otherwise in another library, or misspelt.

Read only when a lookup has failed. The tables are data; every name of gradc's that they advise exists, which a test sees to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib import import_module

from gradc import language
from gradc.errors import MissingNameError
from gradc.ops import TABLE

SORTED = "Sort outside, by NumPy or torch, and pass the order: gradc.take_along_axis(x, order, axis=-1)."
UNROLLED = "Write the loop in Python over a range of known length: it is unrolled while tracing."
OWN_DERIVATIVE = (
    "Write the function so that it has that derivative: `x + gradc.stop_gradient(f(x) - x)` is f(x) with x's derivative."
)
TREES = "Trees are optree's: optree.tree_map, optree.tree_flatten, optree.register_pytree_node with namespace=''."
WINDOWS = "Write it with slices and gradc.matmul, or leave this layer to torch, outside the compiled function."
RESAMPLED = "Write it with gradc.take or gradc.repeat, or leave this layer to torch, outside the compiled function."
CHECKED = "gradc.check_grads(f, args) compares with numerical derivatives; `gradc check` on the command line compares the kernels too."

# Names of the public contract, and of libraries it follows, that nothing stands for yet.
NOT_YET: dict[str, dict[str, str]] = {
    "gradc": {
        "accumulate": "Add the gradients of the parts up, each from gradc.value_and_grad.",
        "argsort": SORTED,
        "cache_info": "`gradc cache` lists what is kept on disk.",
        "checkpoint": "What is kept is chosen by what it costs; gradc.compile(memory_budget=bytes) keeps less.",
        "complex128": "Hold real and imaginary parts in two arrays.",
        "complex64": "Hold real and imaginary parts in two arrays.",
        "cond": "gradc.where(condition, a, b) chooses element by element, and computes both.",
        "custom_jvp": OWN_DERIVATIVE,
        "custom_vjp": OWN_DERIVATIVE,
        "diagnose": "`f.lower(...).explain()` says what was fused and why; `gradc doctor` what is installed and works.",
        "difference_report": CHECKED,
        "fft": "Transform outside the compiled function, by NumPy or torch.",
        "from_torch": "Write the function with gradc.nn, which has the functions of torch.nn.functional under their names.",
        "linalg": "gradc.matmul, gradc.einsum, gradc.vecdot, gradc.outer and gradc.trace are there; a norm is gradc.sqrt(gradc.sum(x * x)).",
        "prove": CHECKED,
        "register_pytree": TREES,
        "scalar": "A number is an array of shape (): gradc.asarray(1.0).",
        "scan": UNROLLED,
        "searchsorted": "Sum the comparisons: gradc.sum(x[..., None] > edges, axis=-1).",
        "sort": SORTED,
        "topk": SORTED,
        "trace_values": "Return what you want to see as a further result; `f.lower(...).ir` is the program with your lines.",
        "train": "Write the loop: gradc.value_and_grad and the optimisers of gradc.optim make a step of it.",
        "tree": TREES,
        "while_loop": UNROLLED,
    },
    "gradc.nn": {
        "Module": "gradc.nn has functions, as torch.nn.functional: keep the arrays in a dict, or in a torch.nn.Module.",
        "affine_grid": RESAMPLED,
        "bilinear": "Write gradc.einsum('bi,oij,bj->bo', x, w, y).",
        "ctc_loss": "Leave this loss to torch, outside the compiled function.",
        "embedding_bag": "Sum the rows: gradc.sum(gradc.nn.embedding(i, w), axis=-2).",
        "fold": WINDOWS,
        "grid_sample": RESAMPLED,
        "interpolate": RESAMPLED,
        "multi_head_attention_forward": "gradc.nn.scaled_dot_product_attention between products with the weights is the same.",
        "pixel_shuffle": "Write it with gradc.reshape and gradc.permute_dims.",
        "unfold": WINDOWS,
        "upsample": RESAMPLED,
    },
    "gradc.random": {
        "categorical": "Add -log(-log(u)) to the logits, u from gradc.random.uniform, and take gradc.argmax.",
        "choice": "gradc.random.randint draws positions with replacement.",
        "exponential": "Write -gradc.log(gradc.random.uniform(key, shape)).",
        "gumbel": "Write -log(-log(u)) of u = gradc.random.uniform(key, shape).",
        "permutation": SORTED,
        "truncated_normal": "gradc.clip(gradc.random.normal(key, shape), -2, 2) has heavier ends.",
    },
    "gradc.optim": dict.fromkeys(
        ("adamax", "adabelief", "lamb", "lars", "lbfgs", "lion", "muon", "nadam", "novograd", "radam", "shampoo"),
        "gradc.optim has sgd, adagrad, rmsprop, adam and adamw; an optimiser is a pair of functions, `init` and `update`.",
    ),
    "Lowered": {
        "latex": "`print(low.ir)` shows the function as a program, `print(low.backward_ir)` its gradient.",
        "report": "`low.explain()`, `low.source` and `low.cost` say what is decided, printed and counted.",
        "verify": CHECKED,
    },
    "Compiled": dict.fromkeys(
        ("as_text", "explain", "ir", "kernels", "source", "cost", "saved", "trace", "eval_shape", "export"),
        "`f.lower(...)` takes arguments, or a gradc.spec for each, and has `ir`, `source`, `kernels` and `explain()`.",
    ),
}
WINDOWED = re.compile(r"(conv|avg_pool|max_pool|lp_pool|adaptive_|max_unpool|fractional_)\w*")

# What other libraries call functions of gradc's.
ELSEWHERE = {
    "Variable": "gradc.spec", "absolute": "gradc.abs", "amax": "gradc.max", "amin": "gradc.min", "arccos": "gradc.acos",
    "arccosh": "gradc.acosh", "arcsin": "gradc.asin", "arcsinh": "gradc.asinh", "arctan": "gradc.atan", "arctan2": "gradc.atan2",
    "arctanh": "gradc.atanh", "array": "gradc.asarray", "as_tensor": "gradc.asarray", "bitwise_not": "gradc.bitwise_invert",
    "bmm": "gradc.matmul", "cat": "gradc.concat", "chunk": "gradc.split", "clamp": "gradc.clip", "concatenate": "gradc.concat",
    "detach": "gradc.stop_gradient", "div": "gradc.divide", "eq": "gradc.equal", "fabs": "gradc.abs", "fori_loop": "a Python loop",
    "from_numpy": "gradc.asarray", "gather": "gradc.take_along_axis", "ge": "gradc.greater_equal", "gt": "gradc.greater",
    "index_select": "gradc.take", "inner": "gradc.vecdot", "invert": "gradc.bitwise_invert", "jit": "gradc.compile",
    "le": "gradc.less_equal", "left_shift": "gradc.bitwise_left_shift", "lt": "gradc.less", "masked_fill": "gradc.where",
    "mm": "gradc.matmul", "mod": "gradc.remainder", "movedim": "gradc.moveaxis", "mul": "gradc.multiply", "mv": "gradc.matmul",
    "ne": "gradc.not_equal", "neg": "gradc.negative", "no_grad": "gradc.stop_gradient", "numpy": "gradc", "permute": "gradc.permute_dims",
    "power": "gradc.pow", "rand": "gradc.random.uniform", "randn": "gradc.random.normal", "remat": "gradc.compile(memory_budget=bytes)",
    "right_shift": "gradc.bitwise_right_shift", "rint": "gradc.round", "select": "gradc.where", "ShapeDtypeStruct": "gradc.spec",
    "sub": "gradc.subtract", "switch": "gradc.where", "tensor": "gradc.asarray", "true_divide": "gradc.divide", "unbind": "gradc.unstack",
    "unsqueeze": "gradc.expand_dims", "row_stack": "gradc.stack", "vstack": "gradc.concat", "hstack": "gradc.concat",
    "PRNGKey": "gradc.random.key", "seed": "gradc.random.key", "norm": "gradc.sqrt(gradc.sum(x * x))",
    "array_split": "gradc.split", "conv": "gradc.matmul of slices", "lax": "gradc", "float": "gradc.float32", "double": "gradc.float64",
    "half": "gradc.float16", "int": "gradc.int32", "long": "gradc.int64", "float_power": "gradc.pow", "var_mean": "gradc.var and gradc.mean",
    "std_mean": "gradc.std and gradc.mean", "addmm": "gradc.matmul", "baddbmm": "gradc.matmul", "flatten": "gradc.reshape",
    "ravel": "gradc.reshape", "view": "gradc.reshape", "repeat_interleave": "gradc.repeat", "nansum": "gradc.sum of gradc.nan_to_num",
}  # fmt: skip

CHANGES_NOTHING = "Nothing is to be written: leave it out."
DEVICE = "Move arrays before the call; results come back where the arguments are."
OUTSIDE = "The size of a result may not depend on values: do it outside, by NumPy or torch."
KNOWN_OUTSIDE = "It has no value until the program runs: return it from the compiled function and convert it there."
GRADIENT = (
    "gradc.grad(f)(x) returns the gradient; on PyTorch's tape it is in the tensor that was passed to the compiled function."
)

# What other libraries' arrays have, and a traced array has not: what to write for an array `x`.
METHODS = {
    "backward": GRADIENT, "grad": GRADIENT, "grad_fn": GRADIENT, "requires_grad": GRADIENT, "requires_grad_": GRADIENT, "retain_grad": GRADIENT,
    "is_leaf": GRADIENT, "block_until_ready": CHANGES_NOTHING, "contiguous": CHANGES_NOTHING, "clone": CHANGES_NOTHING, "copy": CHANGES_NOTHING,
    "is_contiguous": CHANGES_NOTHING, "data": "Write `gradc.stop_gradient(x)`.", "detach": "Write `gradc.stop_gradient(x)`.",
    "cpu": DEVICE, "cuda": DEVICE, "device": DEVICE, "is_cuda": DEVICE, "get_device": DEVICE, "numpy": KNOWN_OUTSIDE,
    "bfloat16": "Write `x.astype(gradc.bfloat16)`.", "bool": "Write `x != 0`.", "double": "Write `x.astype(gradc.float64)`.",
    "float": "Write `x.astype(gradc.float32)`.", "half": "Write `x.astype(gradc.float16)`.", "int": "Write `x.astype(gradc.int32)`.",
    "long": "Write `x.astype(gradc.int64)`.", "short": "Write `x.astype(gradc.int16)`.", "to": "Write `x.astype(dtype)`; arrays are moved before the call.",
    "type": "Write `x.astype(dtype)`.", "type_as": "Write `x.astype(y.dtype)`.", "view": "Write `x.reshape(shape)`.",
    "view_as": "Write `x.reshape(y.shape)`.", "reshape_as": "Write `x.reshape(y.shape)`.", "unflatten": "Write `x.reshape(shape)`.",
    "unsqueeze": "Write `gradc.expand_dims(x, axis=dim)`, or `x[:, None]`.", "expand": "Write `gradc.broadcast_to(x, shape)`.",
    "expand_as": "Write `gradc.broadcast_to(x, y.shape)`.", "t": "Write `x.T`.", "H": "Write `x.T`.", "mH": "Write `x.mT`.", "adjoint": "Write `x.mT`.",
    "dim": "Write `x.ndim`.", "ndimension": "Write `x.ndim`.", "numel": "Write `x.size`.", "nelement": "Write `x.size`.",
    "nbytes": "Write `x.bytes`.", "itemsize": "Write `x.dtype.itemsize`.", "is_floating_point": "Write `x.dtype.is_floating`.",
    "stride": "What is traced has no strides.", "strides": "What is traced has no strides.",
    "chunk": "Write `gradc.split(x, count, axis=dim)`.", "split": "Write `gradc.split(x, count, axis=dim)`: a number counts the parts, a list says where to cut.",
    "masked_fill": "Write `gradc.where(mask, value, x)`.", "where": "Write `gradc.where(condition, x, y)`.",
    "clamp": "Write `gradc.clip(x, low, high)`.", "clamp_min": "Write `gradc.maximum(x, low)`.", "clamp_max": "Write `gradc.minimum(x, high)`.",
    "pow": "Write `x ** y`.", "power": "Write `x ** y`.", "gather": "Write `gradc.take_along_axis(x, index, axis=dim)`.",
    "index_select": "Write `gradc.take(x, index, axis=dim)`.", "select": "Write `gradc.take(x, index, axis=dim)`, or `x[:, index]`.",
    "narrow": "Write a slice: `x[:, start:start + length]`.", "scatter": "Write `x.at[index].set(values)`.",
    "scatter_": "Write `x = x.at[index].set(values)`.", "scatter_add": "Write `x.at[index].add(values)`.", "index_add": "Write `x.at[index].add(values)`.",
    "index_put": "Write `x.at[index].set(values)`.", "fill": "Write `gradc.full_like(x, value)`.", "new_zeros": "Write `gradc.zeros(shape, dtype=x.dtype)`.",
    "new_ones": "Write `gradc.ones(shape, dtype=x.dtype)`.", "new_full": "Write `gradc.full(shape, value, dtype=x.dtype)`.",
    "norm": "Write `gradc.sqrt(gradc.sum(x * x))`.", "sort": SORTED, "argsort": SORTED, "topk": SORTED, "unfold": WINDOWS,
    "einsum": "Write `gradc.einsum('ij->ji', x)`.", "unique": OUTSIDE, "nonzero": OUTSIDE, "masked_select": OUTSIDE, "bincount": OUTSIDE,
    "real": "Every array is real.", "imag": "Every array is real.", "conj": "Every array is real.", "lerp": "Write `x + weight * (y - x)`.",
    "diag": "Write `gradc.diagonal(x)`.", "mv": "Write `x @ y`.", "mm": "Write `x @ y`.", "bmm": "Write `x @ y`.", "matmul": "Write `x @ y`.",
    "addmm": "Write `x + y @ z`.", "baddbmm": "Write `x + y @ z`.", "register_hook": GRADIENT,
}  # fmt: skip


def missing(owner: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that `owner` ("gradc", "gradc.nn", "Lowered", ...) has not; what it has is `known`."""
    if name.startswith("__"):
        return AttributeError(f"{owner} has no attribute {name!r}")
    advice = NOT_YET.get(owner, {}).get(name) or (WINDOWS if owner == "gradc.nn" and WINDOWED.fullmatch(name) else "")
    if advice:
        return MissingNameError(f"{owner}.{name} is not there yet", advice=advice)
    what = f"module {owner!r}" if owner.startswith("gradc") else owner
    return AttributeError(f"{what} has no attribute {name!r}.{_instead(owner, name, known)}")


def missing_of_array(described: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for an attribute that a traced array has not."""
    words = f"{described}, an array that is being traced, has no attribute {name!r}."
    if name.startswith("__"):
        return AttributeError(words)
    if name in METHODS:
        return AttributeError(f"{words} {METHODS[name]}")
    plain = name.rstrip("_")
    if name != plain and (plain in METHODS or function_called(plain) or plain in known):
        return AttributeError(f"{words} Arrays do not change: write `x = ...` with what it becomes.")
    if found := function_called(name):
        arguments = "x" if getattr(TABLE.get(name), "arity", 2) == 1 else "x, ..."
        return AttributeError(f"{words} Write `{found}`." if "(" in found else f"{words} Write `{found}({arguments})`.")
    return AttributeError(words + _similar(name, known))


def advice_for(library: str, name: str) -> str:
    """What to write for a function of another library that was called on a traced array."""
    found = function_called(name)
    if not found:
        return NOT_YET["gradc"].get(name) or NOT_YET["gradc.nn"].get(name) or "Use the functions of gradc and gradc.nn."
    return f"Write {found} in place of {library}.{name}."


def function_called(name: str) -> str:
    """Where gradc has a function that is called so, here or elsewhere; "" where it has none."""
    if name in language.__all__:
        return f"gradc.{name}"
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    return f"gradc.nn.{name}" if name in import_module("gradc.nn").__all__ else ""


def _instead(owner: str, name: str, known: Iterable[str]) -> str:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    names = [other for other in known if not other.startswith("_")]
    if snake != name and snake in names:
        return f" It has functions: write {owner}.{snake}."
    if owner.startswith("gradc") and (found := function_called(name)) and found != f"{owner}.{name}":
        return f" Write {found}."
    return _similar(name, names)


def _similar(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [other for other in known if not other.startswith("_")], 1, 0.65)
    return f" Did you mean {near[0]!r}?" if near else ""
