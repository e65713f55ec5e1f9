"""What a user reads who writes a name that is not there, or another library's: what to write instead, which exists."""

from __future__ import annotations

import ast
import importlib
import linecache
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import gradc
from gradc import absent, nn
from gradc.errors import PACKAGE_FOLDERS, TraceError, UnsupportedError
from gradc.ir import Value
from gradc.trace import trace

PROMISED = (
    "accumulate", "cache_info", "checkpoint", "cond", "custom_jvp", "custom_vjp", "diagnose", "difference_report", "from_torch",
    "register_pytree", "scalar", "scan", "sort", "topk", "trace_values", "train", "tree", "while_loop",
)  # fmt: skip
WORLD = {"gradc": gradc, "nn": nn, "np": np, "torch": torch, "math": math}

ON_ARRAYS = {
    "x.view(12)": "x.reshape(shape)", "x.unsqueeze(0)": "gradc.expand_dims", "x.to(gradc.float32)": "x.astype(dtype)", "x.float()": "astype(gradc.float32)",
    "x.half()": "astype(gradc.float16)", "x.double()": "astype(gradc.float64)", "x.long()": "astype(gradc.int64)", "x.bool()": "x != 0",
    "x.pow(2)": "x ** y", "x.size()": "x.shape", "x.size(0)": "x.shape", "x.shape()": "a tuple", "x.T()": "itself", "x.mT()": "itself", "x.ndim()": "a number",
    "x.masked_fill(x > 0, 0)": "gradc.where(mask", "x.sum(dim=-1)": "Write `axis` for `dim`", "gradc.sum(x, dim=0)": "Write `axis` for `dim`",
    "x.mean(-1, keepdim=True)": "Write `keepdims` for `keepdim`", "x.softmax(dim=-1)": "Write `axis` for `dim`", "x.sum(axs=0)": "Write `axis` for `axs`",
    "nn.softmax(x, axis=-1)": "Write `dim` for `axis`", "nn.gelu(x, approx='tanh')": "Write `approximate`", "x.std(unbiased=True)": "Write `correction`",
    "x.transpose(0, 1)": "x.swapaxes(0, 1)", "x.transpose(-2, -1)": "x.swapaxes(-2, -1)", "x[None].transpose(1, 2)": "x.swapaxes(1, 2)", "x.t()": "x.T",
    "x.expand(2, 3, 4)": "gradc.broadcast_to", "x.contiguous()": "leave it out", "x.clone()": "leave it out", "x.detach()": "gradc.stop_gradient(x)",
    "x.cuda()": "before the call", "x.device": "before the call", "x.item()": "return it", "x.numpy()": "return it", "x.tolist()": "return it",
    "x.chunk(2)": "gradc.split", "x.split(2)": "gradc.split", "x.clamp(0, 1)": "gradc.clip", "x.clamp_min(0)": "gradc.maximum", "x.add_(1)": "do not change",
    "x.masked_fill_(x > 0, 0)": "do not change", "x.grad": "gradc.grad", "x.backward()": "gradc.grad", "x.requires_grad_()": "gradc.grad",
    "x.numel()": "x.size", "x.dim()": "x.ndim", "x.mm(x)": "x @ y", "x.sort()": "gradc.take_along_axis", "x.argsort()": "gradc.take_along_axis",
    "x.gather(1, x)": "gradc.take_along_axis", "x.index_select(0, x)": "gradc.take", "x.scatter_add(0, x, x)": "x.at[index].add", "x.norm()": "gradc.sqrt",
    "x.flatten(1)": "x.reshape(shape)", "x.exp()": "`gradc.exp(x)`", "x.gelu()": "gradc.nn.gelu", "x.relu()": "gradc.nn.relu", "x.mul(2)": "gradc.multiply",
    "x.eq(0)": "gradc.equal", "x.amax(-1)": "gradc.max", "x.movedim(0, 1)": "gradc.moveaxis", "x.unbind(0)": "gradc.unstack", "x.flip(0)": "gradc.flip",
    "x.nonzero()": "do it outside", "x.unique()": "do it outside", "x.conj()": "is real", "x.stride()": "no strides", "x.softmx()": "Did you mean 'softmax'?",
    "x.astpye('float32')": "Did you mean 'astype'?", "x.block_until_ready()": "leave it out", "x.at[0].ad(2)": "Did you mean 'add'?",
    "torch.exp(x)": "gradc.exp", "torch.nn.functional.gelu(x)": "gradc.nn.gelu", "torch.cat([x, x])": "gradc.concat", "torch.where(x > 0, x, x)": "gradc.where",
    "torch.sum(x)": "gradc.sum", "torch.matmul(x, x)": "gradc.matmul", "torch.clamp(x, 0, 1)": "gradc.clip", "torch.sort(x)": "gradc.take_along_axis",
    "torch.tensor(x)": "an array already", "torch.as_tensor(x)": "an array already", "np.sum(x)": "gradc.sum", "np.concatenate([x, x])": "gradc.concat",
    "np.linalg.norm(x)": "gradc.sqrt", "np.add.reduce(x)": "gradc.sum", "np.arctan2(x, x, where=x)": "gradc.atan2", "np.where(x > 0, x, 0)": "gradc.where",
    "np.asarray(x)": "functions of gradc", "np.sort(x)": "gradc.take_along_axis", "math.exp(x)": "gradc.exp", "math.sqrt(x[0, 0])": "gradc.sqrt",
    "math.fabs(x)": "gradc.abs", "math.atan2(x, 1)": "gradc.atan2", "math.floor(x)": "gradc.floor", "math.ceil(x)": "gradc.ceil", "round(x)": "gradc.round",
    "divmod(x, 2)": "x // y", "f'{x:.3f}'": "print it outside", "float(x)": "return it", "int(x)": "return it", "range(x)": "return it", "bool(x)": "gradc.where",
    "1 in x": "gradc.where", "len(x[0, 0])": "0-d", "list(x[0, 0])": "0-d", "gradc.sofmax(x)": "Did you mean 'softmax'?", "gradc.relu(x)": "gradc.nn.relu",
    "gradc.concatenate([x])": "gradc.concat", "gradc.clamp(x, 0, 1)": "gradc.clip", "gradc.jit(f)": "gradc.compile", "gradc.unsqueeze(x, 0)": "gradc.expand_dims",
    "gradc.float": "gradc.float32", "gradc.tensor(1.0)": "gradc.asarray", "gradc.randn(3)": "gradc.random.normal", "gradc.nn.geluu(x)": "Did you mean 'gelu'?",
    "gradc.nn.Linear(3, 4)": "gradc.nn.linear", "gradc.nn.conv2d(x, x)": "gradc.matmul", "gradc.nn.max_pool1d(x, 2)": "gradc.matmul",
    "gradc.nn.exp(x)": "gradc.exp", "gradc.optim.Adam(0.1)": "gradc.optim.adam", "gradc.optim.adm(0.1)": "Did you mean 'adam'?", "gradc.optim.lion(1)": "adamw",
    "gradc.random.PRNGKey(0)": "gradc.random.key", "gradc.random.nornal(x)": "Did you mean 'normal'?", "gradc.random.categorical(x)": "gradc.argmax",
    "gradc.compile(bakend='numpy')": "Write `backend` for `bakend`", "gradc.compile(static_argnums=0)": "`static_argnames`",
    "gradc.grad(len, argnum=0)": "Write `argnums` for `argnum`", "gradc.vmap(len, in_axis=0)": "Write `in_axes`", "gradc.linalg.norm(x)": "gradc.einsum",
}  # fmt: skip


def said(expression: str) -> str:
    """The message for an expression over a traced array `x`, on a line of its own."""
    file, text = f"<{expression}>", f"def f(x):\n    return {expression}\n"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    made = dict(WORLD)
    exec(compile(text, file, "exec"), made)
    with pytest.raises((gradc.GradcError, AttributeError)) as info:
        trace(made["f"], (gradc.spec((3, 4)),))
    return str(info.value)


@pytest.mark.parametrize(("expression", "advice"), ON_ARRAYS.items())
def test_habits_of_other_libraries_are_answered(expression, advice):
    assert advice in said(expression)


def test_unpacking_a_maximum_as_torch_does():
    def f(x):
        values, _places = x.max(axis=-1)
        return values

    with pytest.raises(gradc.ShapeError, match=r"unpacked into 2(.|\n)*gradc.argmax"):
        trace(f, (gradc.spec((3, 4)),))

    def g(x):
        first, second, third = x.max(axis=-1)
        (*rest,) = x
        head, *tail = x
        return first + second + third + rest[0] + head + len(tail)

    assert trace(g, (gradc.spec((3, 4)),)).graph.outputs[0].shape == (4,)


def test_two_dimensions_are_transposed_where_both_libraries_agree():
    x = np.arange(6.0).reshape(2, 3)
    for f in (
        lambda x: x.transpose(1, 0),
        lambda x: x.transpose(-1, -2),
        lambda x: x.transpose(),
        lambda x: x.transpose((1, 0)),
    ):
        assert np.array_equal(gradc.compile(f)(x), x.T)


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_name_says_what_to_do(name):
    assert not hasattr(gradc, name)
    with pytest.raises(UnsupportedError, match=f"gradc.{name} is not there yet"):
        getattr(gradc, name)
    with pytest.raises(ImportError):
        exec(f"from gradc import {name}")


def test_every_table_is_of_names_that_are_not_there():
    owners = {"gradc": gradc, "Lowered": gradc.Lowered, "Compiled": type(gradc.compile(lambda x: x))}
    for owner, names in absent.NOT_YET.items():
        there = owners.get(owner) or importlib.import_module(owner)
        for name in set(names) - {"prove"}:  # a module of that name is
            assert not hasattr(there, name), (owner, name)
    for name in absent.METHODS:
        assert not hasattr(Value, name), name
    for name in absent.ELSEWHERE:
        assert name not in gradc.language.__all__, name


def test_objects_say_what_is_not_there():
    f = gradc.compile(lambda x: x * 2)
    low = f.lower(gradc.spec((3,)))
    for name, advice in (("latex", "low.ir"), ("verify", "check_grads"), ("report", "explain")):
        with pytest.raises(UnsupportedError, match=advice):
            getattr(low, name)
    with pytest.raises(UnsupportedError, match=r"f\.lower"):
        f.explain()
    with pytest.raises(AttributeError, match="Did you mean 'kernels'"):
        low.kernel  # noqa: B018
    with pytest.raises(AttributeError, match="Did you mean 'lower'"):
        f.lowered  # noqa: B018
    assert not hasattr(low, "__torch_function__")


def test_a_missing_name_is_an_attribute_error_that_pickles():
    error = absent.missing("gradc", "cond", ())
    assert isinstance(error, UnsupportedError)
    assert isinstance(error, AttributeError)
    assert str(pickle.loads(pickle.dumps(error))).startswith("gradc.cond is not there yet")


OF_TENSORS = ("tensors.py",)  # what they advise is a torch tensor's, before the call


def strings_of(file: Path) -> list[str]:
    return [
        x.value
        for x in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(x, ast.Constant) and isinstance(x.value, str)
    ]


def test_no_text_advises_what_does_not_exist():
    """Every `gradc.name` in a string of the source, and every method of an array that is written out."""
    files = [path for folder in PACKAGE_FOLDERS for path in Path(folder).rglob("*.py")]
    texts = [text for file in files for text in strings_of(file)]
    of_arrays = [text for file in files if file.name not in OF_TENSORS for text in strings_of(file)]
    named = {name for text in texts for name in re.findall(r"\bgradc((?:\.\w+)+)", text)}
    assert len(named) > 80
    assert [name for name in sorted(named) if not exists(name)] == []
    methods = {name for text in of_arrays for name in re.findall(r"`x\.(\w+)[(`\[ .]", text)}
    assert len(methods) > 10
    assert [name for name in sorted(methods) if not hasattr(Value, name)] == []
    assert not exists(".cond")


def exists(dotted: str) -> bool:
    found = gradc
    for part in dotted[1:].split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(f"gradc{dotted}")
            except ImportError:
                return False
            return True
    return True


def test_the_version_is_the_distributions():
    assert gradc.__version__ == importlib.metadata.version("gradc")


@pytest.mark.parametrize("kind", [MemoryError, np._core._exceptions._ArrayMemoryError])
def test_too_little_memory_shows_the_users_line(kind, monkeypatch):
    def f(x):
        wide = x[:, None] * x
        return wide.sum()

    def full(*operands):
        raise kind((10,), np.dtype(float))

    monkeypatch.setattr("gradc.interpret.compute", full)
    with pytest.raises(MemoryError, match=r"takes .* GB, more than there is room for(.|\n)*wide = x") as info:
        gradc.compile(f)(np.ones(3, np.float32))
    assert isinstance(info.value, gradc.GradcError)


WEIGHTS = np.ones((50, 50))


def test_an_argument_with_an_array_for_a_default_is_shown_on_one_line():
    def f(x, w=WEIGHTS, *, mode="sum"):
        return x

    with pytest.raises(TraceError, match=re.escape("It is f(x, w=..., *, mode='sum').")):
        gradc.compile(f)(1, 2, 3)
