"""What PyTorch follows, wraps or leaves without elements: a call works, or is refused; it never gives a constant or drops a tangent."""

from __future__ import annotations

import numpy as np
import pytest

import gradc

torch = pytest.importorskip("torch")

from torch.autograd import forward_ad  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

X, Y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])

cube = gradc.compile(lambda x: x * x * x)


class Cube(torch.nn.Module):
    @gradc.compile
    def forward(self, x):
        return x * x * x


WAYS = {  # to x**3 or its like, through every kind of function that users call
    "compiled": (cube, lambda x: x**3),
    "module": (Cube(), lambda x: x**3),
    "closed over": (lambda x: gradc.compile(lambda: gradc.multiply(x, 2))(), lambda x: 2 * x),
    "grad": (lambda x: gradc.grad(lambda x: gradc.sum(x**3))(x), lambda x: 3 * x * x),
    "vjp": (lambda x: gradc.vjp(lambda x: x**3, x)[1](X)[0], lambda x: 3 * x * x * X),
    "jvp": (lambda x: gradc.jvp(lambda x: x**3, (x,), (X,))[1], lambda x: 3 * x * x * X),
    "at once": (lambda x: gradc.exp(x), torch.exp),
    "nn at once": (lambda x: gradc.nn.relu(x), torch.relu),
    "beside NumPy": (lambda x: gradc.compile(lambda x, y: x * y)(x, np.full(3, 2, np.float32)), lambda x: 2 * x),
}


def through_dual_numbers(f):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(X, torch.ones(3))))


def inside_mode(mode, f):
    with mode:
        return f(X)


class Seeing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def fake_mode():
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def wrapped(f):
    from torch.testing._internal.two_tensor import TwoTensor

    return f(TwoTensor(X, X + 1))


FOLLOWERS = {
    "jit.trace": lambda f: torch.jit.trace(f, (X,), check_trace=False),
    "make_fx": lambda f: make_fx(f)(X),
    "make_fx fake": lambda f: make_fx(f, tracing_mode="fake")(X),
    "make_fx symbolic": lambda f: make_fx(f, tracing_mode="symbolic")(X),
    "make_fx before dispatch": lambda f: make_fx(f, pre_dispatch=True)(X),
    "dual numbers": through_dual_numbers,
    "func.jvp": lambda f: torch.func.jvp(f, (X,), (X,)),
    "func.grad": lambda f: torch.func.grad(lambda x: f(x).sum())(X),
    "func.vmap": lambda f: torch.func.vmap(f)(torch.stack([X, Y])),
    "functionalize": lambda f: torch.func.functionalize(f)(X),
    "a FakeTensor": lambda f: f(fake_mode().from_tensor(X)),
    "inside FakeTensorMode": lambda f: inside_mode(fake_mode(), f),
    "a functional tensor": lambda f: f(torch._to_functional_tensor(X)),
    "a dispatch mode": lambda f: inside_mode(Seeing(), f),
    "a wrapper subclass": wrapped,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_what_cannot_look_into_gradc_is_refused(follower, way):
    function = WAYS[way][0]
    with pytest.raises(gradc.UnsupportedError) as caught:
        FOLLOWERS[follower](function)
    assert caught.value.advice
    torch.testing.assert_close(cube(X), X**3)  # and nothing is left behind


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("module", "closed over", "vjp", "beside NumPy")])
def test_torch_fx_records_a_call(way):
    function, formula = WAYS[way]
    traced = torch.fx.symbolic_trace(lambda x: function(x + 1) * 2)
    torch.testing.assert_close(traced(Y), formula(Y + 1) * 2)
    assert [node.op for node in traced.graph.nodes].count("call_function") >= 3


@pytest.mark.parametrize("way", ["vjp", "closed over"])
def test_torch_fx_where_it_cannot(way):
    with pytest.raises(gradc.UnsupportedError, match="Pass it as an argument"):
        torch.fx.symbolic_trace(lambda x: WAYS[way][0](x))


def test_torch_fx_beside_a_tensor():
    product = gradc.compile(lambda x, y: x * y)
    torch.testing.assert_close(torch.fx.symbolic_trace(lambda y: product(X, y))(Y), X * Y)
    slope = gradc.grad(lambda x, y: gradc.sum(x**3 * y))
    torch.testing.assert_close(torch.fx.symbolic_trace(lambda y: slope(X, y))(Y), 3 * X**2 * Y)


class Tagged(torch.Tensor):
    pass


class Metres(torch.Tensor):
    asked = ()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Metres.asked = (*Metres.asked, func)
        return super().__torch_function__(func, types, args, kwargs or {})


class Weight(torch.nn.Parameter):
    pass


def test_a_subclass_comes_back_as_what_it_is():
    assert type(cube(X.as_subclass(Tagged))) is Tagged
    assert type(gradc.exp(X.as_subclass(Tagged))) is Tagged
    x = X.clone().requires_grad_()
    cube(x.as_subclass(Tagged)).sum().backward()
    torch.testing.assert_close(x.grad, 3 * X**2)
    weight = Weight(X.clone())
    cube(weight).sum().backward()
    torch.testing.assert_close(weight.grad, 3 * X**2)
    tagged = X.as_subclass(Tagged)
    torch.testing.assert_close(gradc.compile(lambda: gradc.multiply(tagged, 2))(), 2 * X)


def test_a_subclass_with_a_meaning_of_its_own_is_asked():
    Metres.asked = ()
    assert type(cube(X.as_subclass(Metres))) is Metres
    assert Metres.asked == (cube,)
    metres = X.as_subclass(Metres)
    with pytest.raises(gradc.UnsupportedError, match="Metres"):
        gradc.compile(lambda: gradc.multiply(metres, 2))()


class Watching(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_a_function_mode_sees_one_call():
    with Watching() as mode:
        out = cube(X)
    torch.testing.assert_close(out, X**3)
    assert mode.seen == [cube]


def test_modes_that_only_count_or_choose_a_device():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("cpu"), FlopCounterMode(display=False):
        torch.testing.assert_close(cube(X), X**3)
    with forward_ad.dual_level():
        torch.testing.assert_close(cube(X), X**3)  # no dual number among the arguments


def legacy_zeros():
    return torch._efficientzerotensor((3,))


def emptied():
    x = X.clone()
    x.untyped_storage().resize_(0)
    return x


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: X.to("meta"), "meta device"),
        (lambda: torch.eye(3).to_sparse(), "sparse_coo"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse_csr"),
        (lambda: torch.eye(4).to_sparse_bsr(2), "sparse_bsr"),
        (lambda: X.to_mkldnn(), "mkldnn"),
        (lambda: torch.nested.nested_tensor([X, X[:2]]), "a nested tensor"),
        (lambda: torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged), "a NestedTensor"),
        (lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), "quantized"),
        (legacy_zeros, "zeros"),
        (emptied, "given back"),
    ],
    ids=["meta", "coo", "csr", "bsr", "mkldnn", "nested", "jagged", "quantized", "zeros", "emptied"],
)
def test_tensors_without_elements_in_memory(make, said):
    x = make()
    for call in (
        cube,
        gradc.exp,
        lambda x: gradc.grad(lambda x: gradc.sum(x * x))(x),
        lambda x: gradc.compile(lambda: gradc.multiply(x, 2))(),
    ):
        with pytest.raises(gradc.UnsupportedError, match="no elements in memory") as caught:
            call(x)
        assert said in str(caught.value)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
def test_a_sign_that_torch_has_put_off(backend):
    double = gradc.compile(backend=backend)(lambda x: x * 2)
    z = torch.complex(X, Y).requires_grad_()
    negative = z.conj().imag
    assert negative.is_neg()
    out = double(negative)
    torch.testing.assert_close(out, -2 * Y)
    out.sum().backward()
    torch.testing.assert_close(z.grad.imag, torch.full((3,), -2.0))
    constant = negative.detach()
    torch.testing.assert_close(gradc.compile(backend=backend)(lambda x: x * constant)(X), -X * Y)
    x = X.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(double(x), x, constant)[0], -2 * Y)


OF_ONE_ELEMENT = {  # NumPy calls all of these contiguous
    "reversed": lambda: np.ones((1, 3), np.float32)[::-1],
    "reversed columns": lambda: np.ones((3, 1), np.float32)[:, ::-1],
    "reversed halves": lambda: np.ones((1, 1), np.float16)[::-1, ::-1],
    "reversed integers": lambda: np.ones(1, np.int32)[::-1],
    "reversed nothing": lambda: np.ones((0, 3), np.float32)[::-1],
    "odd stride": lambda: np.ones(1, np.dtype([("a", "i1"), ("b", "f4")]))["b"],
    "odd stride, two": lambda: np.ones(2, np.dtype([("a", "i1"), ("b", "f4")]))["b"],
}


@pytest.mark.triton
@pytest.mark.parametrize("make", OF_ONE_ELEMENT.values(), ids=OF_ONE_ELEMENT)
def test_strides_that_torch_refuses(make):
    array = make()
    np.testing.assert_array_equal(gradc.compile(backend="interpret")(lambda x: x + x)(array), array + array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1,), (0, 3)])
def test_results_of_one_element_along_an_axis(shape, dtype):
    x = torch.ones(shape, dtype=dtype)
    flip = lambda x: gradc.flip(x)
    assert torch.equal(flip(x), x)
    assert torch.equal(gradc.compile(backend="numpy")(flip)(x), x)
