"""Random array programs: gradc beside PyTorch in float64, in every mode and on the backends that need no GPU.

    python -m tests.random_programs --from 0 --count 3000 --backend numpy        (or interpret, or both)
    python -m tests.random_programs --from 17 --count 1 --show                   the program of seed 17

A seed settles a program, its arguments and how they lie in memory (`random_growth.py`; the grammar is `random_language.py`). The modes: the results (`forward`), the gradient on PyTorch's tape
(`backward`), `gradc.grad` inside compile (`grad`), `gradc.jvp` (`jvp`), and `gradc.vmap` of results and gradients (`vmap`).

Where float64 has a number, gradc must have it; where float64 has inf or NaN, results must have the same, while gradients may be
anything (a zero that a selection made stays 0 in gradc, and is NaN in PyTorch). Behind a NaN gradients are not compared at all: gradc
passes it on where PyTorch's slope is 0 (`clip`; see docs/conventions.md).
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from random_growth import EPSILON, Program, needed, program, run_line, tame
from random_words import words

import gradc

MODES = ("forward", "backward", "grad", "jvp", "vmap")
FACTOR = 64.0  # an element may be off by so many epsilons of the largest, and by so many errors of PyTorch in the same dtypes
FACTOR_OF_PEER = 8.0
BATCH = 2


# What PyTorch says ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """A program in PyTorch, in float64 or in the dtypes written."""

    function: Callable
    exact: bool
    floating: tuple[int, ...]

    def leaves(self, arrays: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [
            (x.double() if self.exact and x.is_floating_point() else x).clone(memory_format=torch.contiguous_format)
            for x in arrays
        ]

    def outputs(self, arrays: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return list(self.function(*self.leaves(arrays)))

    def gradients(self, arrays: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        leaves = [x.requires_grad_() if x.is_floating_point() else x for x in self.leaves(arrays)]
        return gradients(self.function(*leaves), [leaves[i] for i in self.floating], cotangents)

    def tangents(self, arrays: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        leaves = self.leaves(arrays)
        given = [t.to(leaves[i].dtype) for i, t in zip(self.floating, tangents, strict=True)]

        def of_floating(*variables: torch.Tensor) -> Any:
            return floats(self.function(*merged(leaves, self.floating, variables)))

        return list(torch.func.jvp(of_floating, tuple(leaves[i] for i in self.floating), tuple(given))[1])


def floats(outputs: Any) -> tuple:
    return tuple(x for x in outputs if "float" in str(x.dtype))


def merged(arrays: Sequence, places: Sequence[int], new: Sequence) -> list:
    found = list(arrays)
    for i, x in zip(places, new, strict=True):
        found[i] = x
    return found


def gradients(outputs: Any, leaves: list[torch.Tensor], cotangents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Of the floating-point outputs' products with the cotangents; zeros where nothing depends."""
    pairs = [(x, c.to(x.dtype)) for x, c in zip(floats(outputs), cotangents, strict=True) if x.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in leaves]
    found = torch.autograd.grad([x for x, _ in pairs], leaves, [c for _, c in pairs], allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


# What gradc says --------------------------------------------------------------------------------------------------------


def own_gradients(text: Callable, floating: tuple[int, ...]) -> Callable:
    """The gradient as a user's program asks for it inside compile. (What it closes over is followed at each call: let it be little.)"""

    def found(arrays: Any, cotangents: Any) -> tuple:
        def loss(*variables: Any) -> Any:
            outputs = floats(text(*merged(arrays, floating, variables)))
            return sum(gradc.sum(x * c) for x, c in zip(outputs, cotangents, strict=True))

        return gradc.grad(loss, argnums=tuple(range(len(floating))))(*(arrays[i] for i in floating))

    return found


def own_tangents(text: Callable, floating: tuple[int, ...]) -> Callable:
    def found(arrays: Any, tangents: Any) -> tuple:
        of_floating = lambda *variables: floats(text(*merged(arrays, floating, variables)))
        return gradc.jvp(of_floating, tuple(arrays[i] for i in floating), tuple(tangents))[1]

    return found


def both(text: Callable, floating: tuple[int, ...]) -> Callable:
    """Results and gradients."""
    gradients = own_gradients(text, floating)
    return lambda arrays, cotangents: (text(*arrays), gradients(arrays, cotangents) if floating else ())


class Case:
    """A program with its arrays, PyTorch's two readings of it, and its comparison with gradc."""

    def __init__(self, program: Program):
        self.program, self.floating = program, program.floating()
        self.arrays = [a.drawn(program.seed) for a in program.arguments]
        self.exact, self.rounded = (Reading(program.function(words(exact)), exact, self.floating) for exact in (True, False))
        self.wanted, self.peer = self.exact.outputs(self.arrays), self.rounded.outputs(self.arrays)
        drawn = np.random.default_rng(program.seed)
        like = lambda x: torch.from_numpy(np.asarray(drawn.integers(-4, 5, x.shape) / 2)).to(x.dtype)
        self.cotangents = [like(x) for x in floats(self.peer)]
        self.tangents = [like(self.arrays[i]) for i in self.floating]
        self.differentiable = self.cotangents and self.floating and not self.meets_nan()
        self.epsilon = max(EPSILON[d] for d in self.dtypes())
        self.text = program.function({"xp": gradc, "added_at": lambda x, i, update: x.at[i].add(update)})

    def dtypes(self) -> Iterator[torch.dtype]:
        """Floating-point dtypes of the program's arguments and lines."""
        yield torch.float64
        yield from (x.dtype for x in (*self.arrays, *self.peer) if x.dtype in EPSILON)
        yield from (d for d in EPSILON if f"xp.{str(d)[6:]}" in self.program.text)

    def meets_nan(self) -> bool:
        """Whether a line gives NaN."""
        everything = replace(self.program, outputs=tuple(line.name for line in self.program.lines))
        values = everything.function(words(exact=True))(*self.exact.leaves(self.arrays))
        return any(bool(x.isnan().any()) for x in values if x.is_floating_point())

    def difference(self, mode: str, backend: str) -> str:
        """ "" where gradc agrees; else what differs, or the error raised."""
        try:
            return getattr(self, mode)(backend)
        except gradc.GradcError as error:
            return f"refused: {type(error).__name__}: {error}"
        except Exception as error:
            return f"crash: {type(error).__name__}: {error}"

    def forward(self, backend: str) -> str:
        compiled = gradc.compile(backend=backend)(self.text)
        found = self.compared("result", compiled(*self.arrays), self.wanted, self.peer)
        if found or torch.bfloat16 in [x.dtype for x in (*self.arrays, *self.peer)]:
            return found
        if all(a.layout != "reversed" for a in self.program.arguments):
            return ""
        numbers = [x.numpy() for x in self.arrays]
        numbers = [
            np.flip(np.flip(x).copy()) if a.layout == "reversed" else x
            for a, x in zip(self.program.arguments, numbers, strict=True)
        ]
        results = [torch.from_numpy(np.array(x)) for x in compiled(*numbers)]
        return self.compared("result from NumPy", results, self.wanted, self.peer)

    def backward(self, backend: str) -> str:
        if not self.differentiable:
            return ""
        leaves = [x.detach().requires_grad_(i in self.floating) for i, x in enumerate(self.arrays)]
        outputs = gradc.compile(backend=backend)(self.text)(*leaves)
        found = gradients(outputs, [leaves[i] for i in self.floating], self.cotangents)
        return self.compared("gradient", found, *self.true_gradients(self.arrays))

    def true_gradients(self, arrays: Sequence[torch.Tensor]) -> tuple[list, list]:
        return self.exact.gradients(arrays, self.cotangents), self.rounded.gradients(arrays, self.cotangents)

    def grad(self, backend: str) -> str:
        if not self.differentiable:
            return ""
        compiled = gradc.compile(backend=backend)(own_gradients(self.text, self.floating))
        return self.compared("gradient", compiled(self.arrays, self.cotangents), *self.true_gradients(self.arrays))

    def jvp(self, backend: str) -> str:
        if not self.differentiable:
            return ""
        found = gradc.compile(backend=backend)(own_tangents(self.text, self.floating))(self.arrays, self.tangents)
        true = self.exact.tangents(self.arrays, self.tangents)
        try:
            peer = self.rounded.tangents(self.arrays, self.tangents)
        except RuntimeError:  # torch takes a Python number's tangent for float64, and refuses what comes of it
            peer = true
        peer = [t.to(x.dtype) for t, x in zip(peer, floats(self.peer), strict=True)]
        return self.compared("tangent", found, true, peer)

    def vmap(self, backend: str) -> str:
        """Results and gradients of a batch; arguments that do not vary over it are mapped over no axis."""
        batch = self.batch()
        varies = random.Random(self.program.seed)
        axes = tuple(varies.choice((0, 0, None)) if a.shape else 0 for a in self.program.arguments)
        axes = axes if any(axis == 0 for axis in axes) else (0,) * len(axes)
        batch = [
            [x if axis == 0 else batch[0][i] for i, (x, axis) in enumerate(zip(arrays, axes, strict=True))] for arrays in batch
        ]
        given = [torch.stack(xs) if axis == 0 else xs[0] for xs, axis in zip(zip(*batch, strict=True), axes, strict=True)]
        with_gradients = bool(self.differentiable)
        one = both(self.text, self.floating if with_gradients else ())
        mapped = gradc.compile(backend=backend)(gradc.vmap(one, in_axes=(list(axes), None)))
        outputs, found = mapped(given, self.cotangents)
        wanted, peer = ([torch.stack(x) for x in zip(*map(r.outputs, batch), strict=True)] for r in (self.exact, self.rounded))
        said = self.compared("mapped result", outputs, wanted, peer)
        if said or not with_gradients:
            return said
        true = [self.true_gradients(arrays) for arrays in batch]
        wanted, peer = ([torch.stack(x) for x in zip(*(t[i] for t in true), strict=True)] for i in (0, 1))
        return self.compared("mapped gradient", found, wanted, peer)

    def batch(self) -> list[list[torch.Tensor]]:
        """The arrays, and others that take no branch that rounding could change (or the same again)."""
        found = [self.arrays]
        for number in range(1, 4):
            drawn = [a.drawn(self.program.seed + 7919 * number) for a in self.program.arguments]
            if len(found) < BATCH and self.is_settled(drawn):
                found.append(drawn)
        return (found * BATCH)[:BATCH]

    def is_settled(self, arrays: list[torch.Tensor]) -> bool:
        exact, rounded = words(exact=True), words(exact=False)
        for argument, x in zip(self.program.arguments, arrays, strict=True):
            rounded[argument.name], exact[argument.name] = x, x.double() if x.is_floating_point() else x
        return all(run_line(line, exact, rounded) and tame(exact[line.name]) for line in self.program.lines)

    def compared(self, what: str, found: Any, wanted: Sequence[torch.Tensor], peer: Sequence[torch.Tensor]) -> str:
        if len(found) != len(wanted):
            return f"{len(found)} {what}s, not {len(wanted)}"
        is_result = "result" in what
        texts = (self.off(*three, is_result) for three in zip(found, wanted, peer, strict=True))
        return next((f"{what} {i}: {text}" for i, text in enumerate(texts) if text), "")

    def off(self, got: torch.Tensor, exact: torch.Tensor, peer: torch.Tensor, is_result: bool) -> str:
        """What is wrong with an array; "" where nothing is."""
        if got.shape != exact.shape or got.dtype != peer.dtype:
            return f"{got.dtype} {tuple(got.shape)}, not {peer.dtype} {tuple(exact.shape)}"
        if not exact.is_floating_point():
            return "" if torch.equal(got, exact.to(got.dtype)) else f"{got.tolist()}, not {exact.tolist()}"
        got, exact, peer = got.detach().double(), exact.detach(), peer.detach().double()
        judged = exact.isfinite() & peer.isfinite()
        if is_result:
            kind = lambda x: torch.where(x.isfinite(), 0, x.nan_to_num(2, 1, -1))
            other = kind(got) != kind(exact)
            other &= ~(exact.isfinite() & ~peer.isfinite())
            if other.any():
                return f"other infinities or NaN\n{got}\nnot\n{exact}"
        if not judged.any():
            return ""
        allowed = FACTOR * self.epsilon * max(1.0, exact[judged].abs().max().item())
        allowed += FACTOR_OF_PEER * (peer - exact)[judged].abs().max().item()
        error = (got - exact)[judged].abs().max().item()
        return "" if error <= allowed else f"off by {error:.2e}, allowed {allowed:.2e}\n{got}\nnot\n{exact}"


# The command ------------------------------------------------------------------------------------------------------------


def smallest(whole: Program, mode: str, backend: str) -> Program:
    """The shortest beginning of the program that differs in the same mode, without what it does not need."""
    for line in whole.lines:
        part = needed(replace(whole, outputs=(line.name,)))
        try:
            differs = Case(part).difference(mode, backend)
        except Exception:
            continue
        if differs:
            return part
    return whole


def findings(seed: int, backend: str, modes: Sequence[str] = MODES) -> Iterator[tuple[str, str]]:
    """Of one seed: the modes in which gradc differs, and how."""
    case = Case(program(seed))
    for mode in modes:
        said = case.difference(mode, backend)
        if said:
            yield mode, said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.random_programs")
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--backend", choices=("numpy", "interpret", "both"), default="numpy")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--show", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for seed in range(chosen.first, chosen.first + chosen.count):
        if chosen.show:
            print(program(seed))
        for backend in ("numpy", "interpret") if chosen.backend == "both" else (chosen.backend,):
            counts[f"programs on {backend}"] += 1
            for mode, said in findings(seed, backend, chosen.modes.split(",")):
                counts["findings"] += 1
                part = smallest(program(seed), mode, backend)
                print(f"seed {seed}, {mode} on {backend}: {said}\n{part}", flush=True)
    print(", ".join(f"{n} {name}" for name, n in counts.items()))
    return int(counts["findings"] > 0)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        sys.exit(main())
