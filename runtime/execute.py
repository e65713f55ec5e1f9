"""Runs one traced program on arrays: by the NumPy reference, by Triton's interpreter, or on the GPU.

An `Executable` is made once per program; its forward-only and its differentiable form are made when first asked for.
Arrays come in as NumPy or torch and go out as they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from gradc.codegen.device import H200, Device
from gradc.codegen.lower import differentiate, lower_graph, lower_pair, with_literals
from gradc.codegen.printing.explain import story
from gradc.codegen.residuals import Partition
from gradc.errors import UnsupportedError, require
from gradc.interpret import evaluate_values, finished, to_numpy
from gradc.ir import Graph
from gradc.leaves import Literal
from gradc.runtime import forks
from gradc.runtime.cache import DiskCache
from gradc.runtime.device import present_device
from gradc.runtime.logs import log
from gradc.runtime.module import load_module
from gradc.runtime.plan import Plan, make_plan, places, recipes_on_disk
from gradc.runtime.workers import interpret


class Executable:
    """A normalised graph ready to run with one backend: "numpy", "interpret" or "triton".

    `arrays` are always the arguments and then the `literals()`. `memory_budget` limits what emitted programs allocate. Without
    `deterministic`, their kernels may add floats up by atomics. Schedules are made for `device`; for the GPU here unless told.
    """

    def __init__(
        self,
        graph: Graph,
        backend: str,
        memory_budget: int | None = None,
        deterministic: bool = True,
        device: Device | None = None,
    ):
        if backend != "numpy":
            require("torch", "triton", what=f"backend={backend!r}")
        self.graph = with_literals(graph)
        self.backend, self.memory_budget, self.deterministic = backend, memory_budget, deterministic
        self.device = device
        self._literals = [value.operation for value in self.graph.inputs if isinstance(value.operation, Literal)]
        self._plans: dict[tuple[tuple[int, ...], Any], Plan] = {}  # by what is differentiated, and the GPU
        self._partitions: dict[tuple[int, ...], Partition] = {}
        self._lock = forks.lock()

    def literals(self) -> list[Any]:
        """What the function closed over, as it is now, row-major."""
        arrays = [literal.now() for literal in self._literals]
        return [array.resolve_neg().contiguous() if hasattr(array, "contiguous") else array for array in arrays]

    def run(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs, without anything kept for a backward."""
        if self.backend == "numpy":
            return self._evaluated(self.graph.inputs, self.graph.outputs, arrays)
        return self._launched((), "forward", arrays)

    def forward(self, arrays: Sequence[Any], wrt: tuple[int, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The outputs, and the arrays the backward with respect to the inputs `wrt` takes."""
        if self.backend == "numpy":
            split = self._partition(wrt)
            results = self._evaluated(split.forward.inputs, split.forward.outputs, arrays, exact_after=len(self.graph.outputs))
            kept = places(split)
        else:
            results, kept = self._launched(wrt, "forward", arrays), self._plan(wrt, gpu_of(arrays)).kept
        return results[: len(self.graph.outputs)], tuple((arrays if kind == "input" else results)[i] for kind, i in kept)

    def backward(self, kept: Sequence[Any], cotangents: Sequence[Any], wrt: tuple[int, ...]) -> tuple[Any, ...]:
        """The cotangents of the inputs `wrt`. `cotangents` has one array per floating-point output."""
        if self.backend == "numpy":
            backward = self._partition(wrt).backward
            return self._evaluated(backward.inputs, backward.outputs, (*kept, *cotangents))
        return self._launched(wrt, "backward", (*kept, *cotangents))

    def _plan(self, wrt: tuple[int, ...], gpu: Any) -> Plan:
        """What is launched on a GPU (None where there is none): GPUs of two kinds in one machine want two plans."""
        key = wrt, gpu
        with self._lock:
            if key not in self._plans:
                present = present_device(getattr(gpu, "index", None)) if self.backend == "triton" else H200
                device = replace(self.device or present, atomics=not self.deterministic)
                self._plans[key], was_cached = make_plan(self.graph, wrt, DiskCache(), device, self.memory_budget)
                log("cache", f"{self.graph.title}: emitted kernels {'found on disk' if was_cached else 'made'}")
                log("fusion", lambda: told(self.graph, wrt, device, self.memory_budget))
                log("kernel", self._plans[key].source)
            return self._plans[key]

    def _partition(self, wrt: tuple[int, ...]) -> Partition:
        with self._lock:
            if wrt not in self._partitions:
                self._partitions[wrt] = differentiate(self.graph, wrt)
            return self._partitions[wrt]

    def _evaluated(
        self, inputs: Sequence[Any], outputs: Sequence[Any], arrays: Sequence[Any], exact_after: int | None = None
    ) -> tuple[Any, ...]:
        """By the reference. Results from `exact_after` on are kept as computed, not rounded to 16 bits."""
        given = {value: to_numpy(array) for value, array in zip(inputs, arrays, strict=True)}
        results = evaluate_values(outputs, given)
        count = len(outputs) if exact_after is None else exact_after
        return (*finished(outputs[:count], results, given.values()), *(results[value] for value in outputs[count:]))

    def _launched(self, wrt: tuple[int, ...], function: str, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """The results of an emitted function, which launches on the GPU where its first argument lies."""
        gpu = gpu_of(arrays)
        source = self._plan(wrt, gpu).source
        if self.backend == "interpret":
            return interpret(source, function, [to_torch(array, "cpu") for array in arrays] or ["cpu"])
        device = gpu or "cuda"
        return getattr(load_module(source), function)(*([to_torch(array, device) for array in arrays] or [device]))


def gpu_of(arrays: Sequence[Any]) -> Any:
    """The torch.device of the first array that lies on a GPU; None where there is none."""
    return next((array.device for array in arrays if getattr(array, "is_cuda", False)), None)


def told(graph: Graph, wrt: tuple[int, ...], device: Device, budget: int | None = None) -> str:
    """What was fused in a program, in words."""
    recipes = recipes_on_disk()
    program = lower_pair(graph, wrt, device, recipes, budget)[0] if wrt else lower_graph(graph, device, recipes, budget)
    return "\n".join(story(sequence) for sequence in program.sequences)


def to_torch(array: Any, device: Any) -> Any:
    """An array as a torch tensor on a device, over the same memory where it can be."""
    import torch

    if isinstance(array, torch.Tensor):
        return array.detach().to(device)
    array = np.asarray(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(_owned(array).view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(_owned(array)).to(device)


def _owned(array: np.ndarray) -> np.ndarray:
    """Row-major, in this machine's byte order, and writeable: torch takes nothing else, or warns."""
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])


def from_torch(tensor: Any) -> np.ndarray:
    """A torch tensor's elements as NumPy."""
    return to_numpy(tensor)


def refuse_devices(arrays: Sequence[Any], backend: str) -> None:
    """Raises where a backend cannot take the arrays it was given."""
    devices = {str(array.device) for array in arrays if hasattr(array, "is_cuda")}
    if len({device for device in devices if device != "cpu"}) > 1:
        raise UnsupportedError(f"the tensors are on {', '.join(sorted(devices))}", advice="Move them to one device.")
    if backend == "triton" and not _has_gpu():
        raise UnsupportedError(
            "backend='triton' needs a GPU, and torch finds none", advice="Use backend='interpret' or 'numpy'."
        )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
