"""Every row of gradc/conventions.py: what it says is what the library does, at once, compiled for the reference, and in kernels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gradc  # noqa: E402
from examples import conventions  # noqa: E402
from gradc import errors, nn  # noqa: E402
from gradc.conventions import CONVENTIONS  # noqa: E402

REFERENCE = [row for row in CONVENTIONS if not isinstance(row.value, str)]
ERRORS = [row for row in CONVENTIONS if isinstance(row.value, str)]


COMPARED = {f"nn.{name}" for name in set(nn.__all__) & set(vars(torch.nn.functional))}
FIXED = (
    "nn.soft_margin_loss",
    "nn.hinge_embedding_loss",
    "nn.binary_cross_entropy",
    "nn.batch_norm",
)  # no gradient of the others in torch


def title(row):
    return f"{row.function}{row.arguments}".replace(" ", "")


def function(row):
    """The function with its options, returning a tuple."""
    called = gradc
    for name in row.function.split("."):
        called = getattr(called, name)
    options = dict(row.options)
    if row.function.endswith(("normalize", "cosine_similarity", "softmax", "logsumexp")):
        options.setdefault("dim" if row.function.startswith("nn.") else "axis", -1)
    if row.function == "nn.dropout":
        options["key"] = gradc.random.key(0)
    results = lambda *arguments: called(*arguments, **options)
    return lambda *arguments: r if isinstance(r := results(*arguments), tuple) else (r,)


def arrays(row):
    """The arguments, tuples of numbers and floats as float64 tensors, sizes as they are."""
    made = [torch.from_numpy(np.array(x)) if isinstance(x, tuple | float) else x for x in row.arguments]
    if row.function == "nn.hinge_embedding_loss":
        made[1] = torch.tensor(row.arguments[1])
    return made


def agree(got, want, what):
    """Equal shapes and numbers, where the row states one."""
    want = np.array(want, dtype=object)
    if want.shape == () and want.item() is None:
        return
    got = got.numpy()
    assert got.shape == want.shape or want.size == got.size == 0, f"{what} has shape {got.shape}"
    for a, b in zip(got.reshape(-1).tolist(), want.reshape(-1).tolist(), strict=True):
        assert b is None or a == b or (a != a and b != b) or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-300), (
            f"{what} is {got}"
        )


def values_and_gradients(called, made, places=None):
    """The results of a function and the gradients of its floating arguments (at `places`), on torch's tape."""
    moving = [
        isinstance(x, torch.Tensor) and x.is_floating_point() and (places is None or i in places) for i, x in enumerate(made)
    ]
    leaves = [x.clone().requires_grad_() if moves else x for x, moves in zip(made, moving, strict=True)]
    results = called(*leaves)
    wrt = [x for x in leaves if isinstance(x, torch.Tensor) and x.requires_grad]
    if not wrt:
        return results, []
    found = torch.autograd.grad(results, wrt, [torch.ones_like(x) for x in results], allow_unused=True)
    return [x.detach() for x in results], [torch.zeros_like(x) if g is None else g for g, x in zip(found, wrt, strict=True)]


def at_once(called, made):
    """The same without a compiler: `vjp` on NumPy arrays."""
    given = [x.numpy() if isinstance(x, torch.Tensor) else x for x in made]
    wrt = [i for i, x in enumerate(given) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]

    def inside(*floats):
        filled = dict(zip(wrt, floats, strict=True))
        return called(*(filled.get(i, x) for i, x in enumerate(given)))

    results, pull = gradc.vjp(inside, *(given[i] for i in wrt))
    gradients = pull(tuple(np.ones_like(x) for x in results))
    return [torch.from_numpy(np.asarray(x)) for x in results], [torch.from_numpy(np.asarray(x)) for x in gradients]


def holds(row, results, gradients):
    for i, (got, want) in enumerate(zip(results, (row.value,) if len(results) == 1 else row.value, strict=True)):
        agree(got, want, f"result {i}")
    for i, (got, want) in enumerate(zip(gradients, row.gradients, strict=False)):
        agree(got, want, f"gradient {i}")


@pytest.mark.parametrize("row", REFERENCE, ids=title)
def test_the_reference_keeps_to_it(row):
    holds(row, *at_once(function(row), arrays(row)))
    holds(row, *values_and_gradients(compiled(row, "numpy"), arrays(row)))


def compiled(row, backend):
    """The function with what is no array bound, compiled."""
    made, called = arrays(row), function(row)
    places = [i for i, x in enumerate(made) if isinstance(x, torch.Tensor)]

    def inside(*tensors):
        filled = dict(zip(places, tensors, strict=True))
        return called(*(filled.get(i, x) for i, x in enumerate(made)))

    program = gradc.compile(backend=backend)(inside)
    return lambda *given: program(*(given[i] for i in places))


@pytest.mark.parametrize("row", ERRORS, ids=title)
def test_the_reference_raises(row):
    for backend in (None, "numpy"):
        with pytest.raises(getattr(errors, row.value), match="out of bounds"):
            (function(row) if backend is None else compiled(row, backend))(*arrays(row))


@pytest.mark.triton
@pytest.mark.parametrize("row", CONVENTIONS, ids=title)
def test_kernels_keep_to_it(row):
    results, gradients = values_and_gradients(compiled(row, "interpret"), arrays(row))
    value = row.in_kernel if isinstance(row.value, str) else row.value
    holds(replace(row, value=value), results, gradients)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", [row for row in REFERENCE if row.function in COMPARED], ids=title)
def test_pytorch_differs_where_the_row_says_so(row):
    made = [(x,) if row.function.endswith(("layer_norm", "rms_norm")) and isinstance(x, int) else x for x in arrays(row)]
    options = {"dim": -1} if row.function in ("nn.normalize", "nn.cosine_similarity") else {}
    counterpart = getattr(torch.nn.functional, row.function.removeprefix("nn."))
    wrt = (0, 1) if row.function == "nn.margin_ranking_loss" else (0,) if row.function in FIXED else None
    results, gradients = values_and_gradients(lambda *x: (counterpart(*x, **options, **dict(row.options)),), made, wrt)
    try:
        holds(row, results, gradients)
    except AssertionError:
        assert row.peer
    else:
        assert not row.peer or any(word in row.peer for word in ("float32", "gradient of", "by how many"))


def test_the_page_is_what_the_command_writes():
    assert conventions.PAGE.read_text(encoding="utf-8") == conventions.page(), "run `python -m examples.conventions`"
