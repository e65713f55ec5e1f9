"""The grammar of random programs: which line may come next, given the values made so far.

A rule gives a line's text, and after it what must not be near 0 for the line to take the same branches after rounding; or None.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

Said = tuple[str, ...] | None


class Context:
    """What a rule chooses from: the values made so far (as they are in PyTorch, rounded), and new arguments."""

    def __init__(self, seed: int, values: dict[str, torch.Tensor], argument: Callable[..., str]):
        self.random, self.values, self.argument = random.Random(seed), values, argument

    def pick(self, fits: Callable[[torch.Tensor], bool] = lambda x: True, floating: bool = True) -> str | None:
        """A value, later ones more often; None where none fits."""
        names = [n for n, x in self.values.items() if x.is_floating_point() == floating and fits(x)]
        return self.random.choice(names + 2 * names[-3:] + 4 * names[-1:]) if names else None

    def axis(self, name: str) -> int:
        return self.random.randrange(-self[name].ndim, self[name].ndim)

    def size(self, most: int = 4) -> int:
        return self.random.choice((0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5)[: 3 * most - 1])

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.values[name]


ELEMENTWISE: tuple[tuple[str, ...], ...] = (
    ("xp.tanh({x})",),
    ("xp.sigmoid({x}) * {x}",),
    ("xp.exp(-xp.square({x}))",),
    ("xp.exp(xp.minimum({x}, 1.5))", "{x} - 1.5"),
    ("xp.sin({x})",),
    ("xp.cos({x} * 1.5)",),
    ("xp.erf({x})",),
    ("xp.expm1(0.5 * xp.tanh({x}))",),
    ("xp.log1p(xp.square({x}))",),
    ("xp.sqrt({x} * {x} + 0.5)",),
    ("{x} * xp.rsqrt(xp.square({x}) + 1.0)",),
    ("xp.log({x} ** 2 + 0.1)",),
    ("xp.softplus({x})",),
    ("-{x} / 3",),
    ("2 - {x}",),
    ("1.0 / ({x} ** 2 + 1.0)",),
    ("xp.abs({x})", "{x}"),
    ("xp.clip({x}, -0.8, 1.1)", "{x} + 0.8", "{x} - 1.1"),
    ("xp.maximum({x}, 0.25)", "{x} - 0.25"),
    ("xp.where({x} > 0.1, {x}, 0.5 * {x})", "{x} - 0.1"),
    ("xp.where({x} > 0.5, xp.log(xp.where({x} > 0.5, {x}, 1.0)), 0.0)", "{x} - 0.5"),
    ("xp.where(({x} < 1.0) & ({x} >= -0.5), xp.exp({x}), {x} * {x})", "{x} - 1.0", "{x} + 0.5"),
    ("xp.remainder({x}, 1.5)", "{x} / 1.5 - xp.round({x} / 1.5)"),
    ("xp.fmod({x}, 0.7)", "{x} / 0.7 - xp.round({x} / 0.7)"),
    ("xp.floor({x} * 2) + {x}", "{x} * 2 - xp.round({x} * 2)"),
    ("xp.sign({x}) * xp.square({x})", "{x}"),
    ("xp.stop_gradient({x}) * {x}",),
    ("{x} - xp.stop_gradient(xp.mean({x}, keepdims=True))",),
    ("xp.log({x})",),
    ("1 / {x}",),
    ("xp.exp({x} * 30)",),
)
BINARY: tuple[tuple[str, ...], ...] = (
    ("{x} + {y}",),
    ("{x} - 2 * {y}",),
    ("{x} * {y}",),
    ("{x} * {y}",),
    ("{x} / (1.0 + {y} * {y})",),
    ("xp.maximum({x}, {y})", "{x} - {y}"),
    ("xp.minimum({x}, {y}) * 0.5", "{x} - {y}"),
    ("xp.where({x} > {y}, {x} * {y}, {y})", "{x} - {y}"),
    ("xp.where(xp.abs({x}) < 1.0, {y}, 0.25)", "xp.abs({x}) - 1.0"),
    ("xp.atan2({x}, xp.square({y}) + 0.5)",),
    ("xp.hypot({x}, {y})", "{x}"),
    ("xp.logaddexp({x}, {y})",),
    ("xp.copysign({x}, {y})", "{x}", "{y}"),
    ("(xp.abs({x}) + 0.5) ** xp.tanh({y})", "{x}"),
)
REDUCTIONS: tuple[tuple[str, ...], ...] = (
    ("xp.sum({x}, axis={axes}, keepdims={keep})",),
    ("xp.sum({x} * {x}, axis={axes}, keepdims={keep})",),
    ("xp.mean({x}, axis={axes}, keepdims={keep})",),
    ("xp.max({x}, axis={axes}, keepdims={keep})", "xp.max({x}, axis={axes}, keepdims=True) - {x}"),
    ("xp.min({x}, axis={axes}, keepdims={keep})", "xp.min({x}, axis={axes}, keepdims=True) - {x}"),
    ("xp.logsumexp({x}, axis={axes}, keepdims={keep})",),
    ("xp.prod(xp.tanh({x}) + 0.3, axis={axes}, keepdims={keep})",),
    ("xp.var({x}, axis={axes}, correction=0, keepdims={keep})",),
    ("xp.std({x}, axis={axes}, correction=1, keepdims={keep})",),
    ("xp.softmax({x}, axis={axis})",),
    ("xp.log_softmax({x}, axis={axis}) * 0.5",),
    ("xp.cumsum({x}, axis={axis})",),
    ("xp.cumulative_sum({x}, axis={axis}, include_initial=True)",),
    ("xp.flip(xp.cumsum(xp.flip({x}, axis={axis}), axis={axis}), axis={axis})",),
    ("{x} - xp.mean({x}, axis={axes}, keepdims=True)",),
    ("{x} * xp.rsqrt(xp.mean({x} * {x}, axis={axis}, keepdims=True) + 0.1)",),
    ("xp.diff({x}, axis={axis})",),
)
VIEWS = (
    "xp.flip({x}, axis={axis})",
    "xp.roll({x}, {n}, {axis})",
    "xp.swapaxes({x}, {axis}, {other})",
    "xp.moveaxis({x}, {axis}, {other})",
    "xp.expand_dims({x}, axis={axis})",
    "xp.permute_dims({x}, {order})",
    "xp.reshape({x}, {shape})",
    "xp.reshape({x}, (-1,))",
    "xp.repeat({x}, 2, axis={axis})",
    "xp.tile({x}, (2, {ones}))",
    "xp.broadcast_to({x}, (2, {sizes}))",
    "xp.pad({x}, {widths})",
    "xp.pad({x}, {widths}, constant_values=0.5)",
    "{x}[{cuts}]",
    "{x}[{cuts}]",
    "{x}[..., {place}]",
    "xp.unstack({x}, axis={axis})[{place}]",
    "xp.squeeze(xp.mean({x}, axis={axis}, keepdims=True), axis={axis})",
    "xp.diagonal({x}, offset={place})",
    "{x}[{place}:]",
    "{x}[None, ..., ::2]",
)


def elementwise(c: Context) -> Said:
    x = c.pick()
    return x and filled(c.random.choice(ELEMENTWISE), x=x)


def binary(c: Context) -> Said:
    x = c.pick()
    if x is None:
        return None
    fits = lambda y: stretches(c[x].shape, y.shape) and promotes(c[x], y)
    y = c.pick(lambda y: y is not c[x] and fits(y)) or c.pick(fits)
    if y is None or c.random.random() < 0.25:
        shape = tuple(1 if c.random.random() < 0.3 else n for n in c[x].shape[c.random.randint(0, c[x].ndim) :])
        y = c.argument(shape, c[x].dtype if not c[x].ndim or not shape else None)
    x, y = c.random.sample((x, y), 2)
    return filled(c.random.choice(BINARY), x=x, y=y)


def reduction(c: Context) -> Said:
    x = c.pick(lambda x: x.ndim > 0)
    if x is None:
        return None
    several = tuple(sorted(c.random.sample(range(c[x].ndim), c.random.randint(1, c[x].ndim))))
    axes = c.random.choice((c.axis(x), c.axis(x), several, None))
    return filled(c.random.choice(REDUCTIONS), x=x, axes=axes, axis=c.axis(x), keep=c.random.random() < 0.5)


def view(c: Context) -> Said:
    x = c.pick(lambda x: x.ndim > 0)
    if x is None:
        return None
    shape = list(c[x].shape)
    order = tuple(c.random.sample(range(len(shape)), len(shape)))
    widths = tuple((c.random.randint(0, 2), c.random.randint(0, 1)) for _ in shape)
    cuts = ", ".join(c.random.choice((":", "1:", "::2", ":-1", "-2:", "0:1", "1:3", "3:")) for _ in shape)
    split = shape[:]
    i = c.random.randrange(len(split))
    factor = c.random.choice([d for d in range(1, 5) if split[i] % d == 0])
    split[i : i + 1] = [factor, split[i] // factor]
    if len(split) > 2 and c.random.random() < 0.5:
        split[:2] = [split[0] * split[1]]
    return filled(
        (c.random.choice(VIEWS),),
        x=x,
        axis=c.axis(x),
        other=c.axis(x),
        n=c.random.randint(-2, 3),
        order=order,
        shape=tuple(split),
        ones=", ".join("1" for _ in shape),
        sizes=", ".join(map(str, shape)),
        widths=widths,
        cuts=cuts,
        place=c.random.randint(-2, 1),
    )


def joined(c: Context) -> Said:
    x = c.pick(lambda x: x.ndim > 0)
    if x is None:
        return None
    if c.random.random() < 0.3:
        y = c.pick(lambda y: y.shape == c[x].shape and y.dtype == c[x].dtype) or x
        return (f"xp.stack([{x}, {y}], axis={c.axis(x)})",)
    axis = c.random.randrange(c[x].ndim)
    fits = lambda y: without(y.shape, axis) == without(c[x].shape, axis) and y.ndim == c[x].ndim
    names = [x, c.pick(fits), c.pick(fits)][: c.random.randint(2, 3)]
    return (f"xp.concat([{', '.join(names)}], axis={axis})",)


def contracted(c: Context) -> Said:
    """A product of matrices, or a sum of products over any letters."""
    x = c.pick(lambda x: x.ndim > 0)
    if x is None:
        return None
    if c.random.random() < 0.5:
        y = c.pick(lambda y: y.ndim > 0 and y.shape[max(y.ndim - 2, 0)] == c[x].shape[-1])
        if y is None or c.random.random() < 0.4:
            y = c.argument((c[x].shape[-1], c.size()) if c.random.random() < 0.8 else (c[x].shape[-1],), None)
        return (f"{x} @ {y} * 0.5",) if c[x].dtype == c[y].dtype else (f"xp.matmul({x}, {y})",)
    y = c.pick(lambda y: y.ndim > 0)
    letters = "abcd"[: c[x].ndim]
    second, unused = "", list(letters)
    for i, n in enumerate(c[y].shape):
        same = [a for a in unused if c[x].shape[letters.index(a)] == n]
        letter = c.random.choice(same) if same and c.random.random() < 0.7 else "wxyz"[i % 4]
        second += letter
        unused = [a for a in unused if a != letter]
    every = sorted({*letters, *second})
    out = "".join(c.random.sample(every, c.random.randint(0, min(3, len(every)))))
    return (f'xp.einsum("{letters},{second}->{out}", {x}, {y})',)


def indexed(c: Context) -> Said:
    x = c.pick(lambda x: x.ndim > 0 and 0 not in x.shape)
    if x is None:
        return None
    axis = c.axis(x)
    n = c[x].shape[axis]
    kind = c.random.choice(("constant", "take", "along", "largest", "add", "add"))
    if kind == "constant":
        return (f"xp.take({x}, xp.asarray({[c.random.randrange(n) for _ in range(c.random.randint(1, 4))]}), axis={axis})",)
    if kind == "take":
        i = c.argument((c.size(),) if c.random.random() < 0.7 else (2, c.size()), torch.int64)
        return (f"xp.take({x}, {i} % {n}, axis={axis})",)
    if kind == "along":
        shape = list(c[x].shape)
        shape[axis] = c.size()
        i = c.argument(tuple(shape), c.random.choice((torch.int32, torch.int64)))
        return (f"xp.take_along_axis({x}, {i} % {n}, axis={axis})",)
    if kind == "largest":
        edge = f"xp.max({x}, axis={axis}, keepdims=True) - {x}"
        return (f"xp.take_along_axis({x}, xp.argmax({x}, axis={axis}, keepdims=True), axis={axis})", edge)
    i = c.argument((c[x].shape[0],), torch.int32)
    rest = "".join(f"{n}, " for n in c[x].shape[1:])
    dtype = str(c[x].dtype).removeprefix("torch.")
    return (f"added_at(xp.zeros((3, {rest}), dtype=xp.{dtype}), {i} % 3, {x})",)


def cast(c: Context) -> Said:
    x = c.pick()
    return x and (f"xp.astype({x}, xp.{c.random.choice(('float32', 'float32', 'float16', 'bfloat16', 'float64'))})",)


def counted(c: Context) -> Said:
    """Numbers that are no floating-point numbers, and what becomes of them."""
    x, i = c.pick(lambda x: x.ndim > 0), c.pick(floating=False)
    if i is not None and c.random.random() < 0.6:
        if c[i].dtype == torch.bool:
            return (c.random.choice((f"xp.astype({i}, xp.float32)", f"xp.where({i}, 0.5, -1.0) * 1.0", f"~{i}")),)
        return (c.random.choice((f"{i} * 2 - 1", f"{i} % 3 + {i} // 2", f"xp.astype({i} % 4, xp.float32)", f"{i} > 1")),)
    if x is None:
        return None
    axis, edge = c.axis(x), f"{x} - 0.3"
    largest = f"xp.max({x}, axis={axis}, keepdims=True) - {x}"
    return c.random.choice(
        (
            (f"{x} > 0.3", edge),
            (f"xp.any({x} > 0.3, axis={axis})", edge),
            (f"xp.all({x} < 0.3, axis={axis})", edge),
            (f"xp.count_nonzero({x} > 0.3, axis={axis})", edge),
            (f"xp.argmax({x}, axis={axis})", largest),
            (f"xp.sum(xp.astype({x} > 0.3, xp.int32), axis={axis})", edge),
        )
    )


def masked(c: Context) -> Said:
    x = c.pick(lambda x: x.ndim > 1)
    if x is None:
        return None
    n, m = c[x].shape[-2:]
    rows, columns = f"xp.arange({n})[:, None]", f"xp.arange({m})[None, :]"
    condition = c.random.choice((f"{rows} >= {columns}", f"({rows} + {columns}) % 2 == 0", f"{columns} < {m // 2}"))
    weighed = f"xp.softmax(xp.where({rows} >= {columns}, {x}, -float('inf')), axis=-1)"
    triangle = f"xp.{c.random.choice(('tril', 'triu'))}({x}, k={c.random.randint(-1, 1)})"
    return (c.random.choice((f"xp.where({condition}, {x}, -1.0)", weighed, triangle)),)


def scanned(c: Context) -> Said:
    """A short scan: a carry, an element of the first axis at a time, all carries stacked."""
    x = c.pick(lambda x: x.ndim > 0 and 1 <= x.shape[0] <= 4)
    if x is None:
        return None
    step = c.random.choice(("xp.tanh(h * 0.5 + {x}[t])", "h * xp.sigmoid({x}[t]) + {x}[t]", "xp.logaddexp(h, {x}[t])"))
    step = step.format(x=x)
    steps = f"h = {x}[0]\n    hs = [h]\n    for t in range(1, {c[x].shape[0]}):\n        h = {step}\n        hs.append(h)\n"
    return (f"{steps}    {{out}} = xp.stack(hs, axis=0)",)


RULES = [elementwise] * 6 + [binary] * 5 + [reduction] * 5 + [view] * 5 + [joined, contracted, contracted, contracted]
RULES += [indexed, indexed, cast, cast, counted, masked, scanned]


def filled(texts: tuple[str, ...], **parts: Any) -> tuple[str, ...]:
    return tuple(text.format(**parts) for text in texts)


def stretches(a: Any, b: Any) -> bool:
    """Whether two shapes broadcast."""
    return all(n == m or 1 in (n, m) for n, m in zip(reversed(a), reversed(b), strict=False))


def promotes(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether PyTorch promotes the two as the array API does: it lets arrays without axes count less."""
    return x.dtype == y.dtype or bool(x.ndim and y.ndim)


def without(shape: Any, axis: int) -> list[int]:
    return [n for i, n in enumerate(shape) if i != axis]
