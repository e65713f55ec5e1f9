"""PyTorch's autograd tape: a compiled program as one node of it, whose backward is gradc's own.

torch is imported here, when the first tensor that requires a gradient comes in. No derivative is computed here.
"""

from __future__ import annotations

from typing import Any

import torch

from gradc.entry import entry
from gradc.errors import UnsupportedError
from gradc.runtime.execute import Executable, to_torch
from gradc.tensors import readable


class Recorded(torch.autograd.Function):
    """Runs an Executable and records it. Arguments: the executable, the inputs differentiated, then the arrays."""

    @staticmethod
    def forward(ctx: Any, executable: Executable, wrt: tuple[int, ...], *arrays: Any) -> tuple[torch.Tensor, ...]:
        outputs, kept = executable.forward(arrays, wrt)
        device = arrays[wrt[0]].device
        tensors = tuple(to_torch(array, device) for array in outputs)
        known = {id(array): tensor for array, tensor in zip((*outputs, *arrays), (*tensors, *arrays), strict=True)}
        ctx.save_for_backward(*(_saved(known.get(id(array), array), device) for array in kept))
        ctx.executable, ctx.wrt, ctx.count = executable, wrt, len(arrays)
        ctx.floating = [tensor.is_floating_point() for tensor in tensors]
        ctx.mark_non_differentiable(*(tensor for tensor in tensors if not tensor.is_floating_point()))
        return tensors

    @staticmethod
    @entry
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "this backward is not recorded, so it cannot be differentiated again by torch",
                advice="Take higher derivatives inside the function with gradc.grad, or call backward without create_graph.",
            )
        device = cotangents[0].device
        read = readable(cotangents)
        given = [cotangent.contiguous() for cotangent, floating in zip(read, ctx.floating, strict=True) if floating]
        gradients = ctx.executable.backward(ctx.saved_tensors, given, ctx.wrt)
        results: list[Any] = [None] * ctx.count
        for place, gradient in zip(ctx.wrt, gradients, strict=True):
            results[place] = to_torch(gradient, device)
        return (None, None, *results)


def _saved(array: Any, device: Any) -> torch.Tensor:
    """An array that the backward takes: a tensor, which torch watches, or else a copy of what could change unnoticed."""
    return array if isinstance(array, torch.Tensor) else to_torch(array, device).clone()


def recorded(executable: Executable, arrays: list[Any]) -> tuple[torch.Tensor, ...]:
    """The outputs, on the tape of the tensors that require a gradient."""
    wrt = tuple(i for i, array in enumerate(arrays) if getattr(array, "requires_grad", False) and array.is_floating_point())
    return Recorded.apply(executable, wrt, *arrays)


def wants_tape(arrays: list[Any]) -> bool:
    """Whether torch is recording and some tensor requires a gradient."""
    return torch.is_grad_enabled() and any(getattr(array, "requires_grad", False) for array in arrays)
