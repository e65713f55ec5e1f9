"""PyTorch's autograd tape: a compiled program as one node of it, whose backward is gradc's own.

torch is imported here, when the first tensor that requires a gradient comes in. No derivative is computed here.
"""

from __future__ import annotations

from typing import Any

import torch

from gradc.errors import UnsupportedError
from gradc.runtime.execute import Executable, to_torch


class Recorded(torch.autograd.Function):
    """Runs an Executable and records it. Arguments: the executable, the inputs differentiated, then the arrays."""

    @staticmethod
    def forward(ctx: Any, executable: Executable, wrt: tuple[int, ...], *arrays: Any) -> tuple[torch.Tensor, ...]:
        outputs, kept = executable.forward(arrays, wrt)
        device = arrays[wrt[0]].device
        tensors = tuple(to_torch(array, device) for array in outputs)
        known = {id(array): tensor for array, tensor in zip((*outputs, *arrays), (*tensors, *arrays), strict=True)}
        saved = (known.get(id(array), array) for array in kept)
        ctx.save_for_backward(*(array if isinstance(array, torch.Tensor) else to_torch(array, device) for array in saved))
        ctx.executable, ctx.wrt, ctx.count = executable, wrt, len(arrays)
        ctx.floating = [tensor.is_floating_point() for tensor in tensors]
        ctx.mark_non_differentiable(*(tensor for tensor in tensors if not tensor.is_floating_point()))
        return tensors

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "this backward is not recorded, so it cannot be differentiated again by torch",
                advice="Take higher derivatives inside the function with gradc.grad, or call backward without create_graph.",
            )
        device = cotangents[0].device
        given = [cotangent.contiguous() for cotangent, floating in zip(cotangents, ctx.floating, strict=True) if floating]
        gradients = ctx.executable.backward(ctx.saved_tensors, given, ctx.wrt)
        results: list[Any] = [None] * ctx.count
        for place, gradient in zip(ctx.wrt, gradients, strict=True):
            results[place] = to_torch(gradient, device)
        return (None, None, *results)


def recorded(executable: Executable, arrays: list[Any]) -> tuple[torch.Tensor, ...]:
    """The outputs, on the tape of the tensors that require a gradient."""
    wrt = tuple(i for i, array in enumerate(arrays) if getattr(array, "requires_grad", False) and array.is_floating_point())
    return Recorded.apply(executable, wrt, *arrays)


def wants_tape(arrays: list[Any]) -> bool:
    """Whether torch is recording and some tensor requires a gradient."""
    return torch.is_grad_enabled() and any(getattr(array, "requires_grad", False) for array in arrays)


def refuse_transforms_of_torch() -> None:
    """Raises UnsupportedError inside torch.func and torch.compile, whose tensors have no memory of their own."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        raise UnsupportedError(
            "a compiled function was called inside torch.compile or a transform of torch.func",
            advice="Use gradc's own: gradc.grad, gradc.vjp, gradc.jvp, gradc.vmap; and call it outside of torch.compile.",
        )
