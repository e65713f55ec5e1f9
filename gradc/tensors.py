"""Which torch tensors gradc can read, and who else may answer a call that is given some. torch is never imported here.

gradc reads elements where they lie. Whatever follows PyTorch's operations (tracers, dual numbers, modes, subclasses) would take
what it computes for a constant, so it is asked to answer the call itself, or the call is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import optree

from gradc.entry import entry
from gradc.errors import UnsupportedError

_TENSOR_TYPES: dict[Any, bool] = {}


def is_tensor_type(kind: Any) -> bool:
    """Whether a type is torch's tensor, a subclass of it, or what stands for one while torch.fx traces."""
    if kind not in _TENSOR_TYPES:
        homes = [str(base.__module__) for base in kind.__mro__]  # a descriptor in some of Cython's types
        from_torch = any(home.partition(".")[0] == "torch" for home in homes)
        _TENSOR_TYPES[kind] = (from_torch and hasattr(kind, "stride")) or "torch.fx.proxy" in homes
    return _TENSOR_TYPES[kind]


@entry
def is_answered_elsewhere(args: tuple, kwargs: dict) -> bool:
    """Whether a call is for a tracer, a subclass of torch.Tensor or a mode to answer, by its `__torch_function__`."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.overrides.has_torch_function(optree.tree_leaves((args, kwargs)))


def ask(function: Callable, args: tuple, kwargs: dict) -> Any:
    """What those make of a call, as of a call of one of torch's own functions."""
    return sys.modules["torch"].overrides.handle_torch_function(function, optree.tree_leaves((args, kwargs)), *args, **kwargs)


def readable(tensors: Iterable[Any]) -> list[Any]:
    """torch tensors as kernels can read them: a sign that torch has put off is carried out.

    Raises UnsupportedError for one that has no elements of its own, and where PyTorch follows operations that it would not see.
    """
    tensors = list(tensors)
    if tensors:
        torch = sys.modules["torch"]
        _refuse_followers(torch)
        for tensor in tensors:
            _refuse_unreadable(torch, tensor)
        _refuse_dual_numbers(torch, tensors)
    return [tensor.resolve_neg() if tensor.is_neg() else tensor for tensor in tensors]


def with_readable_tensors(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments with their torch tensors as kernels can read them; raises as `readable` does."""
    tensors = [leaf for leaf in optree.tree_leaves((args, kwargs)) if is_tensor_type(type(leaf))]
    changed = {id(before): after for before, after in zip(tensors, readable(tensors), strict=True) if after is not before}
    if not changed:
        return args, kwargs
    return optree.tree_map(lambda leaf: changed.get(id(leaf), leaf), (args, kwargs))


def _refuse_followers(torch: Any) -> None:
    """Raises UnsupportedError where what PyTorch records, or transforms, would miss what gradc computes."""
    if torch._C._get_tracing_state() is not None:
        raise UnsupportedError(
            "gradc was called inside torch.jit.trace, which would keep the result as a constant",
            advice="Trace what is before and after it, and call it in between.",
        )
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise UnsupportedError(
            "gradc was called inside a transform of torch.func, which cannot look into it",
            advice="Use gradc's own: gradc.grad, gradc.vjp, gradc.jvp, gradc.vmap, gradc.hessian.",
        )
    if watchers := _watchers(torch):
        raise UnsupportedError(
            f"gradc was called inside {watchers[0]}, which follows PyTorch's operations and would take the result for a constant",
            advice="Call it outside: make_fx, torch.export and the like cannot look into a compiled function.",
        )


def _watchers(torch: Any) -> list[str]:
    """The dispatch modes that are on, without those of torch that only count or keep what they see."""
    before = ["a trace before dispatch"] if torch._ops._len_torch_dispatch_stack_pre_dispatch() else []
    if not torch._C._len_torch_dispatch_stack():
        return before
    modes = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    own = (type(mode).__module__.partition(".")[0] == "torch" and not mode.is_infra_mode() for mode in modes)
    return [*before, *(type(mode).__name__ for mode, harmless in zip(modes, own, strict=True) if not harmless)]


DENSE = "Pass a dense tensor, or a spec to `lower`."
ORDINARY = "Pass an ordinary tensor (of a DTensor, `x.to_local()`), or a spec to `lower`."
BATCHED = "a batched tensor", "Leave is_grads_batched or vectorize out: one cotangent at a time."
KINDS = {  # a key of torch's dispatcher, what a tensor that has it is, and what to do
    "Python": ("a {type}", ORDINARY),
    "Functionalize": ("a functional tensor", ORDINARY),
    "FuncTorchBatched": ("a tensor of torch.func.vmap", "Use gradc.vmap."),
    "FuncTorchGradWrapper": ("a tensor of torch.func.grad", "Use gradc.grad."),
    "ZeroTensor": ("a tensor of zeros", "Pass `torch.zeros(...)`."),
    "Meta": ("a tensor on the meta device", DENSE),
    "XLA": ("an XLA tensor", DENSE),
    "Lazy": ("a lazy tensor", DENSE),
    "NestedTensor": ("a nested tensor", DENSE),
    "Quantized": ("a quantized tensor", "Pass `x.dequantize()`."),
    "Sparse": ("a tensor of layout {layout}", "Pass `x.to_dense()`."),
    "SparseCsr": ("a tensor of layout {layout}", "Pass `x.to_dense()`."),
    "Named": ("a named tensor", "Pass `x.rename(None)`."),
}
_FOUND: dict[int, tuple[str, str] | None] = {}  # the kind by all keys of a tensor, as that is asked at every call


def _refuse_unreadable(torch: Any, tensor: Any) -> None:
    """Raises UnsupportedError for a tensor that is no array of elements in memory."""
    kind = _kind_by_keys(torch, tensor) if isinstance(tensor, torch.Tensor) else None
    if kind is None and type(tensor) not in (torch.Tensor, torch.nn.Parameter) and _has_own_meaning(torch, type(tensor)):
        raise UnsupportedError(
            f"a {type(tensor).__name__} gives PyTorch's functions a meaning that gradc cannot look into here",
            advice="Pass it as an argument of a compiled function: then it is asked what to make of the call.",
        )
    if kind is None and str(tensor.layout) != "torch.strided":
        kind = "a tensor of layout {layout}", DENSE
    if kind is None and tensor.untyped_storage().nbytes() == 0 and tensor.numel():
        kind = "a tensor whose memory was given back", "Gather it first: a sharded parameter is whole while its module runs."
    if kind is not None:
        said = kind[0].format(type=type(tensor).__name__, layout=tensor.layout)
        raise UnsupportedError(f"{said} has no elements in memory to read", advice=kind[1])


def _kind_by_keys(torch: Any, tensor: Any) -> tuple[str, str] | None:
    """What a tensor is by the keys of torch's dispatcher, and what to do; None for one that may have elements."""
    keys = torch._C._dispatch_keys(tensor)
    raw = keys.raw_repr()
    if raw not in _FOUND:
        known = ((getattr(torch._C.DispatchKey, key, None), kind) for key, kind in KINDS.items())
        batched = BATCHED if torch._C._functorch.is_legacy_batchedtensor(tensor) else None
        _FOUND[raw] = next((kind for key, kind in known if key is not None and keys.has(key)), batched)
    return _FOUND[raw]


def _has_own_meaning(torch: Any, kind: Any) -> bool:
    """Whether operations on a type do what its `__torch_function__` says, other than keep the type."""
    if not issubclass(kind, torch.Tensor):
        return True
    usual = (torch.Tensor.__torch_function__.__func__, torch._C._disabled_torch_function_impl)
    own = getattr(kind.__torch_function__, "__func__", kind.__torch_function__) not in usual
    return own and torch._C._is_torch_function_enabled()


def _refuse_dual_numbers(torch: Any, tensors: list[Any]) -> None:
    """Raises UnsupportedError for a tensor with a tangent of forward-mode differentiation."""
    level = torch.autograd.forward_ad
    if level._current_level >= 0 and any(level.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise UnsupportedError(
            "a tensor carries a tangent of torch.autograd.forward_ad, which gradc would drop",
            advice="Use gradc.jvp(function, primals, tangents), or unpack the tensor first.",
        )
