"""The table of tests/test_nn_limits.py: one row and more for every function of gradc.nn, with its counterpart in torch and its points.

A point is a place of the first dimension. Points lie at kinks, saturations, ties and the dtype's limits. Where gradc differs from
PyTorch on purpose the row says where, and names the convention of gradc/conventions.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from math import inf, nan
from typing import Any

import torch

import gradc
from gradc import conventions, nn

F = torch.nn.functional


@dataclass(frozen=True)
class Difference:
    """A convention, by its reason, and the points it is about: a function from the arguments (in float64) to a mask."""

    why: str
    at: Callable[..., torch.Tensor]


@dataclass(frozen=True, eq=False)
class Row:
    """A function of gradc.nn and its counterpart, called with `arguments(dtype)` and the options.

    `wrt` are the arguments whose gradients are compared, by default the floating ones. `whole` says that the points are not
    independent of each other; `noise` is how many epsilons beside 1 a result may be off, where it is a difference of larger numbers.
    `ours` calls the function with other than these arguments.
    """

    name: str
    theirs: Callable
    arguments: Callable[[torch.dtype], tuple]
    options: dict[str, Any] = field(default_factory=dict)
    wrt: tuple[int, ...] | None = None
    differs: tuple[Difference, ...] = ()
    whole: bool = False
    noise: float = 0.0
    ours: Callable | None = None

    def __str__(self) -> str:
        return ",".join((self.name, *(f"{k}={v}" for k, v in self.options.items())))


# Points ------------------------------------------------------------------------------------------------------------------


def smallest(dtype: torch.dtype) -> float:
    """The smallest subnormal."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def line(*kinks: float) -> Callable:
    """Zeros, subnormal, tiny, ordinary, saturating, large, infinite and NaN, and around the kinks."""

    def points(dtype: torch.dtype) -> tuple[torch.Tensor]:
        info = torch.finfo(dtype)
        sizes = (
            0.0,
            smallest(dtype),
            info.tiny,
            info.eps,
            0.25,
            1.0,
            4.0,
            17.0,
            21.0,
            80.0,
            700.0,
            math.sqrt(info.max) * 2,
            info.max,
            inf,
        )
        near = [kink * (1 + step * info.eps) for kink in kinks for step in (-1, 0, 1)]
        return (torch.tensor([*sizes, *(-x for x in sizes), *near, *(-x for x in near), nan], dtype=dtype),)

    return points


def grid(*values: tuple[float, ...]) -> Callable:
    """Every combination of the values, one tuple for each argument."""

    def points(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        cells = list(product(*(tuple(spelt(x, dtype) for x in choices) for choices in values)))
        return tuple(torch.tensor(column, dtype=dtype) for column in zip(*cells, strict=True))

    return points


TINY, EPS, LARGEST = "tiny", "eps", "largest"


def spelt(x: Any, dtype: torch.dtype) -> float:
    """A number that is another for each dtype."""
    info = torch.finfo(dtype)
    return {TINY: info.tiny, EPS: info.eps, LARGEST: info.max, "-largest": -info.max, "1-eps": 1 - info.eps}.get(x, x)


def rows(*extra: Callable) -> Callable:
    """Rows of four: zeros, equal, tied, one and all of them infinite, NaN, huge, tiny; then what `extra` makes of their number."""

    def points(dtype: torch.dtype) -> tuple:
        cells = [[spelt(x, dtype) for x in row] for row in ROWS]
        x = torch.tensor(cells, dtype=dtype)
        return (x, *(make(len(cells), dtype) for make in extra))

    return points


ROWS = (
    (0.0, 0.0, 0.0, 0.0), (-0.0, 0.0, -0.0, 0.0), (1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 3.0, 4.0), (3.0, 1.0, 3.0, 1.0), (-inf, -inf, -inf, -inf),
    (inf, inf, inf, inf), (nan, nan, nan, nan), (inf, 0.0, 1.0, 2.0), (inf, inf, 0.0, 1.0), (inf, -inf, 0.0, 1.0), (-inf, 0.0, 1.0, 2.0),
    (-inf, -inf, -inf, 1.0), (nan, 0.0, 1.0, 2.0), (nan, inf, 0.0, 1.0), (nan, -inf, -inf, -inf), (LARGEST,) * 4, ("-largest",) * 4,
    (LARGEST, "-largest", 0.0, 0.0), (LARGEST, LARGEST, 1.0, 0.0), ("-largest", "-largest", -inf, 0.0), (TINY,) * 4, (TINY, 0.0, 0.0, 0.0),
    (1000.0, 0.0, 0.0, 0.0), (-1000.0, 0.0, 0.0, 0.0), (1000.0, -1000.0, 1000.0, -1000.0), (1e30, 1e-30, 1.0, 0.0), (1e-30, 1e-30, 2e-30, 0.0),
)  # fmt: skip


def labels(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(count) % 4


def ignored(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.where(torch.arange(count) % 3 == 0, -100, torch.arange(count) % 4)


def shares(count: int, dtype: torch.dtype) -> torch.Tensor:
    kinds = [[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.5, 0.5]]
    return torch.tensor(kinds, dtype=dtype)[torch.arange(count) % 3]


def nobody(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((count,), -100)


def weights(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=dtype)


def calm(target: Callable) -> Callable:
    """Three rows whose loss is a number, and their targets."""

    def points(dtype: torch.dtype) -> tuple:
        return torch.tensor([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, -1000.0, 1.0], [1.0, 2.0, 3.0, 3.0]], dtype=dtype), target(
            3, dtype
        )

    return points


def reversed_rows(count: int, dtype: torch.dtype) -> torch.Tensor:
    return rows()(dtype)[0].flip(0)


# Where gradc differs -----------------------------------------------------------------------------------------------------


def somewhere(mask: torch.Tensor) -> torch.Tensor:
    """The points where the mask holds in some place."""
    return mask.reshape(len(mask), -1).any(1)


def no_spread(x: torch.Tensor) -> torch.Tensor:
    """Points whose numbers are all alike, or so small that their variance is 0."""
    flat = x.reshape(len(x), -1)
    return (flat == flat[:, :1]).all(1) | (flat.abs() < 1e-18).all(1)


def huge(x: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Points with a number whose square overflows float32."""
    return somewhere(x.isfinite() & (x.abs() > 1e19))


SQUARES = (Difference(conventions.SQUARES, huge),)
FLAT = (Difference(conventions.NO_SPREAD, no_spread),)
PRODUCTS = (Difference(conventions.PRODUCTS, lambda x, gate: (x.abs() > 1e19) | (gate.abs() > 1e19)),)

# The table ---------------------------------------------------------------------------------------------------------------

ALL = (0.0, -0.0, TINY, 0.5, 1.0, -1.0, 2.0, LARGEST, "-largest", inf, -inf, nan)
FEW = (0.0, -0.0, 0.5, 1.0, -2.0, LARGEST, inf, -inf, nan)
SIGNS = (1.0, -1.0, 0.0, 0.5, nan)
VARIANCES = (0.0, 1e-7, 0.5, 1.0, LARGEST, inf, nan)
PROBABILITIES = (0.0, -0.0, TINY, EPS, 0.25, 0.5, "1-eps", 1.0)
CERTAIN = (0.0, -0.0, TINY, 0.25, 0.5, 1.0)
TARGETS = (*CERTAIN, 2.0, -1.0, nan)
REDUCTIONS = ("none", "mean", "sum")
PLAIN = {"reduction": "none"}

ACTIVATIONS = (
    *(Row(name, getattr(F, name), line()) for name in ("sigmoid", "tanh", "logsigmoid", "silu", "mish", "tanhshrink", "relu", "selu")),
    Row("softsign", F.softsign, line(), noise=1),
    *(Row("leaky_relu", F.leaky_relu, line(), {"negative_slope": slope}) for slope in (0.01, 0.0, -0.3)),
    *(Row(name, getattr(F, name), line(), {"alpha": alpha}) for name in ("elu", "celu") for alpha in (1.0, 0.5, -1.5)),
    *(Row("gelu", F.gelu, line(), {"approximate": form}, noise=4) for form in ("none", "tanh")),
    Row("softplus", F.softplus, line(20.0)),
    *(Row("softplus", F.softplus, line(), {"beta": beta, "threshold": at}) for beta, at in ((2.0, 10.0), (0.1, 20.0), (-1.0, 20.0), (1.0, inf))),
    Row("relu6", F.relu6, line(6.0)),
    Row("hardtanh", F.hardtanh, line(1.0)),
    *(Row("hardtanh", F.hardtanh, line(), {"min_val": low, "max_val": high}) for low, high in ((-2.0, 0.5), (1.0, 1.0))),
    *(Row(name, getattr(F, name), line(0.5), {"lambd": width}) for name in ("softshrink", "hardshrink") for width in (0.5, 0.0)),
    Row("hardsigmoid", lambda x: F.relu6(x + 3) / 6, line(3.0)),  # PyTorch's own rounds the slope of 1/6 to float32
    Row("hardswish", F.hardswish, line(3.0)),
    *(Row("threshold", F.threshold, line(0.5), {"threshold": at, "value": value}) for at, value in ((0.5, 7.0), (0.0, nan), (inf, 2.0), (nan, 2.0))),
    Row("prelu", F.prelu, lambda dtype: (*line()(dtype), torch.tensor([0.25], dtype=dtype)), wrt=(0,)),
    Row("prelu", F.prelu, rows(weights), wrt=(0,)),
    Row("glu", F.glu, lambda dtype: (torch.stack(grid(ALL, ALL)(dtype), -1),)),
    Row("swiglu", lambda x, gate: F.silu(gate) * x, grid(ALL, ALL), differs=PRODUCTS),
    *(Row("geglu", lambda x, gate, approximate: F.gelu(gate, approximate=approximate) * x, grid(ALL, ALL), {"approximate": form},
          differs=PRODUCTS, noise=4) for form in ("none", "tanh")),
)  # fmt: skip

SOFTMAX = (
    *(Row(name, getattr(F, name), rows(), {"dim": -1}, noise=4) for name in ("softmax", "log_softmax", "softmin")),
    *(Row(name, getattr(F, name), lambda dtype: (torch.zeros(3, 0, dtype=dtype),), {"dim": -1}) for name in ("softmax", "log_softmax", "softmin")),
)  # fmt: skip

LOSSES = (
    *(Row(name, getattr(F, name), grid(ALL, ALL), PLAIN) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")),
    *(Row("smooth_l1_loss", F.smooth_l1_loss, grid(ALL, ALL), PLAIN | {"beta": beta}) for beta in (0.0, 0.5)),
    Row("huber_loss", F.huber_loss, grid(ALL, ALL), PLAIN | {"delta": 0.5}),
    Row("soft_margin_loss", F.soft_margin_loss, grid(ALL, ALL), PLAIN, wrt=(0,)),
    *(Row("hinge_embedding_loss", F.hinge_embedding_loss, grid(ALL, ALL), PLAIN | {"margin": margin}, wrt=(0,)) for margin in (1.0, -0.5)),
    *(Row("margin_ranking_loss", F.margin_ranking_loss, grid(FEW, FEW, SIGNS), PLAIN | {"margin": margin}, wrt=(0, 1)) for margin in (0.0, 0.5)),
    *(Row("poisson_nll_loss", F.poisson_nll_loss, grid(ALL, ALL), PLAIN | {"log_input": log, "full": full}, wrt=(0,))
      for log in (True, False) for full in (True, False)),
    *(Row("gaussian_nll_loss", F.gaussian_nll_loss, grid(FEW, FEW, VARIANCES), PLAIN | {"full": full}) for full in (True, False)),
    *(Row("binary_cross_entropy", F.binary_cross_entropy, grid(PROBABILITIES, CERTAIN), {"reduction": kind}, wrt=(0,), whole=kind != "none", noise=4)
      for kind in REDUCTIONS),
    Row("binary_cross_entropy", F.binary_cross_entropy, grid(PROBABILITIES[2:-1], CERTAIN), PLAIN, noise=4,
        differs=(Difference(conventions.EXACT, lambda x, y: (x < 1e-40) | (x == 1)),)),
    Row("binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits, grid(ALL, TARGETS), PLAIN),
    Row("binary_cross_entropy_with_logits", lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w, reduction="none"),
        grid(ALL, TARGETS, (3.0,)), wrt=(0, 1), ours=lambda x, y, w: nn.binary_cross_entropy_with_logits(x, y, pos_weight=w, reduction="none")),
    Row("kl_div", F.kl_div, grid(ALL, TARGETS), PLAIN, differs=(Difference(conventions.ABSENT, lambda x, y: y == 0),)),
    Row("kl_div", F.kl_div, grid(ALL, (0.0, TINY, -1.0, "-largest", -inf, nan)), PLAIN | {"log_target": True}),
)  # fmt: skip

CLASSES = (
    *(Row("cross_entropy", F.cross_entropy, rows(target), PLAIN | {"label_smoothing": smoothing}, noise=4)
      for target in (labels, ignored, shares) for smoothing in (0.0, 0.1)),
    *(Row("cross_entropy", F.cross_entropy, rows(labels, weights), PLAIN | {"label_smoothing": smoothing}, wrt=(0,), noise=4) for smoothing in (0.0, 0.1)),
    *(Row("cross_entropy", F.cross_entropy, calm(target), {"reduction": kind}, whole=True, noise=4) for target in (labels, ignored, nobody) for kind in ("mean", "sum")),
    *(Row("nll_loss", F.nll_loss, rows(target), PLAIN) for target in (labels, ignored)),
    Row("nll_loss", F.nll_loss, rows(labels, weights), PLAIN, wrt=(0,)),
    *(Row("nll_loss", F.nll_loss, calm(target), {"reduction": kind}, whole=True) for target in (labels, ignored, nobody) for kind in ("mean", "sum")),
)  # fmt: skip


def shaped(*shape: int) -> Callable:
    """The rows of four in another shape, and others after them."""
    return lambda dtype: (rows()(dtype)[0].reshape(shape),)


def columns(dtype: torch.dtype) -> tuple[torch.Tensor]:
    return (rows()(dtype)[0].T.contiguous(),)


def variances(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([0.0, 1.0, inf, nan], dtype=dtype)


def zeros(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(4, dtype=dtype)


POWERS = (2.0, 1.0, 3.0, 4.0, 0.5, 1.5, inf, 0.0, -1.0, -2.0, -inf)

NORMS = (
    Row("layer_norm", F.layer_norm, rows(), {"normalized_shape": (4,)}, noise=16, differs=SQUARES),
    Row("layer_norm", F.layer_norm, rows(), {"normalized_shape": (4,), "eps": 0.0}, noise=16, differs=(*SQUARES, *FLAT)),
    Row("rms_norm", F.rms_norm, rows(), {"normalized_shape": (4,)}, noise=16),
    Row("rms_norm", F.rms_norm, rows(), {"normalized_shape": (4,), "eps": 0.0}, noise=16),
    *(Row("group_norm", F.group_norm, shaped(-1, 2, 2), {"num_groups": 1, "eps": eps}, noise=16, differs=SQUARES) for eps in (1e-5, 0.0)),
    Row("instance_norm", F.instance_norm, shaped(-1, 1, 4), {"eps": 1e-5}, noise=16, differs=SQUARES),
    Row("instance_norm", F.instance_norm, shaped(-1, 1, 4), {"eps": 0.0}, noise=16, differs=(*SQUARES, *FLAT)),
    Row("batch_norm", lambda x: F.batch_norm(x.T, None, None, training=True).T, rows(), noise=16, differs=SQUARES,
        ours=lambda x: nn.batch_norm(x.T, None, None, training=True).T),
    Row("batch_norm", F.batch_norm, rows(zeros, variances), wrt=(0,), noise=16),
    Row("batch_norm", F.batch_norm, rows(zeros, variances), {"eps": 0.0}, wrt=(0,), noise=16,
        differs=(Difference(conventions.FUSED, lambda x, mean, var: x[:, 0] != 0),)),
    *(Row("normalize", F.normalize, rows(), {"p": p, "dim": -1}, noise=4) for p in POWERS),
    Row("normalize", F.normalize, rows(), {"eps": 0.0, "dim": -1}, noise=4),
    *(Row("cosine_similarity", F.cosine_similarity, rows(reversed_rows), {"dim": -1, "eps": eps}, noise=4) for eps in (1e-8, 0.0)),
    Row("cosine_similarity", lambda x: F.cosine_similarity(x, x, dim=-1), rows(), noise=4, differs=SQUARES,
        ours=lambda x: nn.cosine_similarity(x, x, dim=-1)),
)  # fmt: skip


def masked(kind: str) -> Callable:
    """Queries, keys and values that are two by two, one of each for a row; and what each query may see."""

    def points(dtype: torch.dtype) -> tuple:
        x = rows()(dtype)[0].reshape(-1, 2, 2)[[0, 3, 5, 6, 7, 8, 16, 17, 23]]
        usual = torch.tensor([[1.0, 0.5], [-0.5, 2.0]], dtype=dtype).expand(x.shape)
        seen = torch.tensor([[[True, True], [True, False]], [[False, False], [False, True]]])[torch.arange(len(x)) % 2]
        bias = torch.where(seen, 0.5, -inf).to(dtype)
        return {
            "none": (x, usual, usual),
            "bool": (x, usual, usual, seen),
            "float": (usual, x, usual, bias),
            "value": (usual, usual, x, seen),
        }[kind]

    return points


def no_keys(dtype: torch.dtype) -> tuple:
    return (
        torch.ones(2, 1, 3, dtype=dtype),
        torch.ones(2, 0, 3, dtype=dtype),
        torch.ones(2, 0, 4, dtype=dtype),
        torch.ones(2, 1, 0, dtype=torch.bool),
    )


def table_of_rows(dtype: torch.dtype) -> tuple:
    x = rows()(dtype)[0]
    return torch.arange(len(x)), x


def new_statistics(x: torch.Tensor) -> torch.Tensor:
    """What batch_norm makes of a running mean of 0 and a running variance of 1."""
    mean, variance = torch.zeros_like(x[0]), torch.ones_like(x[0])
    F.batch_norm(x[:, :, None], mean, variance, training=True)
    return torch.cat([mean, variance])


def unusual(*arrays: torch.Tensor) -> torch.Tensor:
    return torch.stack([somewhere(~x.isfinite() | (x.abs() > 1e19)) for x in arrays[:3]]).any(0)


UNSEEN = (Difference(conventions.UNSEEN, unusual),)
OVERFLOWN = (Difference(conventions.QUOTIENT, lambda *arrays: torch.stack([huge(x) for x in arrays]).any(0)),)
ATTENTION = F.scaled_dot_product_attention
LAYERS = (
    *(Row("scaled_dot_product_attention", ATTENTION, masked(kind), noise=16, differs=UNSEEN) for kind in ("bool", "float", "value")),
    *(Row("scaled_dot_product_attention", ATTENTION, masked("none"), {"is_causal": causal}, noise=16, differs=OVERFLOWN) for causal in (False, True)),
    Row("scaled_dot_product_attention", ATTENTION, no_keys),
    Row("linear", F.linear, lambda dtype: (rows()(dtype)[0], torch.eye(4, dtype=dtype)[:2]), wrt=(0,)),
    Row("embedding", F.embedding, table_of_rows, wrt=(1,)),
    Row("embedding", F.embedding, table_of_rows, {"padding_idx": 0}, wrt=(1,)),
    Row("one_hot", lambda x, index: F.one_hot(index, 4).to(x.dtype), rows(labels), wrt=(), ours=lambda x, index: nn.one_hot(index, 4).astype(x.dtype)),
    *(Row("pad", lambda x, mode, value: F.pad(x[None], (1, 2), mode, value)[0], rows(), {"mode": mode, "value": value},
          ours=lambda x, mode, value: nn.pad(x, (1, 2), mode, value))
      for mode, value in (("constant", inf), ("constant", nan), ("reflect", None), ("replicate", None), ("circular", None))),
    Row("dropout", F.dropout, line(), {"training": False}),
    Row("dropout", F.dropout, line(), {"p": 1.0}, ours=lambda x, p: nn.dropout(x, p, key=gradc.random.key(0)),
        differs=(Difference(conventions.DROPPED, lambda x: ~x.isfinite()),)),
    Row("running_statistics", new_statistics, rows(), ours=lambda x: gradc.concat(nn.running_statistics(x[:, :, None], x[0] * 0, x[0] * 0 + 1)),
        wrt=(), whole=True),
)  # fmt: skip

TABLE = (*ACTIVATIONS, *SOFTMAX, *LOSSES, *CLASSES, *NORMS, *LAYERS)
