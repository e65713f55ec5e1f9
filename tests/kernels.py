"""What the kernel tests share: a function run by Triton's interpreter under autograd, against PyTorch in float64.

The reference is never gradc: it is the same mathematics written with torch, on the same numbers held in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

import gradc
from gradc.codegen import roles, schedule, splits
from gradc.codegen.device import H200, Device
from gradc.runtime.compile import Compiled

EPSILON = {dtype: torch.finfo(dtype).eps for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
LARGE_PRODUCTS = replace(
    H200, small_products=(0, 0)
)  # multiplies every matrix on its matrix units, so that small ones stand for large ones
LAYOUTS = ("contiguous", "strided", "transposed", "expanded", "offset")


def tensor(
    *shape: int, dtype: Any = torch.float32, seed: int = 0, low: float | None = None, high: float | None = None
) -> torch.Tensor:
    """Standard normal numbers, or uniform ones between `low` and `high`; for integers, uniform between them (0 and 5)."""
    generator = np.random.default_rng((seed, *shape))
    if dtype == torch.bool:
        return torch.from_numpy(np.asarray(generator.random(shape) < 0.5))
    if not dtype.is_floating_point:
        return torch.from_numpy(
            np.asarray(generator.integers(0 if low is None else low, 5 if high is None else high, shape))
        ).to(dtype)
    numbers = generator.standard_normal(shape) if low is None else generator.uniform(low, high, shape)
    return torch.from_numpy(np.asarray(numbers)).to(dtype)


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The numbers of `x` (those of its first row for "expanded") lying in memory otherwise."""
    if layout == "strided":
        wide = torch.full(tuple(2 * n for n in x.shape), 77, dtype=x.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in x.shape)]
        return view.copy_(x) if x.ndim else x.clone()
    if layout == "transposed" and x.ndim:
        return x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    if layout == "expanded" and x.ndim:
        return x[:1].contiguous().expand(x.shape)
    if layout == "offset":
        return torch.cat([torch.full((3,), 77, dtype=x.dtype), x.reshape(-1)])[3:].view(x.shape)
    return x.contiguous().clone()


def on(device: Device, compiled: Compiled) -> Compiled:
    """A compiled function with schedules for `device` when it is called, as `lower(device=)` has them."""
    return Compiled(compiled.function, replace(compiled.options, device=device))


def differentiable(arrays: Sequence[torch.Tensor], wrt: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(i for i, x in enumerate(arrays) if x.is_floating_point()) if wrt is None else tuple(wrt)


def as_tuple(results: Any) -> tuple[torch.Tensor, ...]:
    return tuple(results) if isinstance(results, tuple | list) else (results,)


def outputs_and_gradients(
    function: Callable,
    arrays: Sequence[torch.Tensor],
    wrt: Sequence[int],
    cotangents: Callable[[int, torch.Tensor], torch.Tensor],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What a function returns, and the gradients of its floating-point results' products with the cotangents."""
    leaves = [x.detach().requires_grad_(i in wrt) for i, x in enumerate(arrays)]
    outputs = as_tuple(function(*leaves))
    recorded = [(i, out) for i, out in enumerate(outputs) if out.requires_grad]
    chosen = [leaves[i] for i in wrt]
    if not recorded or not chosen:
        return [out.detach() for out in outputs], [torch.zeros_like(x) for x in chosen]
    gradients = torch.autograd.grad(
        [out for _, out in recorded], chosen, [cotangents(i, out) for i, out in recorded], allow_unused=True
    )
    return [out.detach() for out in outputs], [
        torch.zeros_like(x) if g is None else g for g, x in zip(gradients, chosen, strict=True)
    ]


def check(
    function: Callable,
    reference: Callable,
    *arrays: torch.Tensor,
    wrt: Sequence[int] | None = None,
    layout: str = "contiguous",
    cotangent_layout: str = "contiguous",
    factor: float = 16.0,
    backend: str = "interpret",
    static: dict[str, Any] | None = None,
    device: Device = H200,
) -> None:
    """The emitted kernels of a function, or of one that is compiled, for `device`, forward and backward, against `reference` under autograd in float64.

    An output may be off by `factor` times the epsilon of its own dtype, of the largest number of that output (or 1).
    """
    arrays = tuple(laid_out(x, layout) for x in arrays)
    wrt = differentiable(arrays, wrt)
    dtypes = [x.dtype for x in arrays if x.is_floating_point()]
    sloppiest = max(dtypes, key=EPSILON.__getitem__, default=torch.float32)

    def cotangent(number: int, out: torch.Tensor) -> torch.Tensor:
        rounded = tensor(*out.shape, dtype=sloppiest, seed=100 + number).to(out.dtype)
        return laid_out(rounded, cotangent_layout)

    compiled = function if isinstance(function, Compiled) else gradc.compile(backend=backend, **(static or {}))(function)
    compiled = on(device, compiled)
    got, got_gradients = outputs_and_gradients(compiled, arrays, wrt, cotangent)
    exact = [x.double() if x.is_floating_point() else x for x in arrays]
    want, want_gradients = outputs_and_gradients(reference, exact, wrt, cotangent)
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        close(a, b, f"result {i}", factor)
    for i, a, b in zip(wrt, got_gradients, want_gradients, strict=True):
        assert a.dtype == arrays[i].dtype, f"the gradient of argument {i} is {a.dtype}"
        close(a, b, f"gradient of argument {i}", factor)


def close(got: torch.Tensor, want: torch.Tensor, what: str, factor: float = 16.0) -> None:
    """Equal shapes; NaN, infinities and integers where the other has them; the rest within the tolerance of the dtype of `got`."""
    assert got.shape == want.shape, f"{what} has shape {tuple(got.shape)}, not {tuple(want.shape)}"
    if not got.is_floating_point():
        assert got.dtype == want.dtype, f"{what} is {got.dtype}, not {want.dtype}"
        assert torch.equal(got, want), f"{what}\n{got}\nis not\n{want}"
        return
    a, b = got.double(), want.double()
    limit = torch.finfo(got.dtype).max
    b = torch.where(b.abs() > limit, torch.sign(b) * torch.inf, b)
    assert torch.equal(a.isnan(), b.isnan()), f"{what} has other NaNs\n{got}\nthan\n{want}"
    special = b.isinf() | a.isinf()
    assert torch.equal(a[special], b[special]), f"{what} has other infinities\n{got}\nthan\n{want}"
    finite = b.isfinite() & a.isfinite()
    if finite.any():
        scale = max(1.0, b[finite].abs().max().item())
        error = (a - b)[finite].abs().max().item()
        allowed = factor * EPSILON[got.dtype] * scale
        assert error <= allowed, f"{what} is off by {error:.2e}, allowed {allowed:.2e}\n{got}\nis not\n{want}"


def force_loops(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, live: int = 16, tile: int = 16) -> None:
    """Schedules as for arrays far larger than registers, at tiny sizes: rows are looped over, sums are split.

    The disk cache is another one, since plans are kept there by program and not by these limits.
    """
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "looped"))
    monkeypatch.setattr(roles, "LIVE_ELEMENTS", live)
    monkeypatch.setattr(roles, "ROW_TILE", tile)
    monkeypatch.setattr(roles, "REDUNDANT_WORK", tile)
    assert schedule is not None


def force_splits(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, parts: int) -> None:
    """Schedules as for a device that tiny sizes leave idle: wherever programs can share out a loop, so many of them do."""
    monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / f"split in {parts}"))
    monkeypatch.setattr(splits, "parts_for", lambda device, others, shares=(): (parts,))
    monkeypatch.setattr(splits, "WORTH", math.inf)
    weighed = roles.plans

    def loops_are_slow(stages: Any, setting: Any) -> Any:
        for p in weighed(stages, setting):
            loops = any(axis.role == "loop" and axis.tiles > 1 for axis in p.axes)
            longer = {field.name: 1000 * getattr(p.bounds, field.name) for field in fields(p.bounds)}
            yield replace(p, bounds=replace(p.bounds, **longer)) if loops else p

    monkeypatch.setattr(roles, "plans", loops_are_slow)
