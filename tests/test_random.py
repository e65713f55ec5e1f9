"""gradc.random: the published numbers of Philox, their statistics, and the same on every backend."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import gradc
from gradc import random
from gradc.errors import DTypeError, ShapeError, TraceError
from gradc.interpret import evaluate_values
from gradc.runtime import compile as compile_module
from gradc.runtime.policy import check_ptx
from gradc.trace import tracing_scope
from gradc.types import uint32, uint64

KEY = random.key(2024)
MASK = 0xFFFFFFFF


def philox(counter, key, rounds=10):
    """Written from the paper, in Python numbers."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(rounds):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = q >> 32 ^ b ^ k, q & MASK, p >> 32 ^ d ^ m, p & MASK
        k, m = k + 0x9E3779B9 & MASK, m + 0xBB67AE85 & MASK
    return a, b, c, d


def word(place, key=KEY):
    """The random word at a place of an array: the lane of a call whose counter is the place over 4."""
    call, lane = divmod(place, 4)
    return philox((call & MASK, call >> 32, 0, 0), [int(part) for part in key])[lane]


# The generator ------------------------------------------------------------------------------------------------------

# tests/kat_vectors of Random123 (https://github.com/DEShawResearch/random123): counter, key, result for philox4x32, 10 rounds.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
COUNTERS, KEYS, RESULTS = (
    np.array([[int(part, 16) for part in row[column].split()] for row in PUBLISHED], np.uint32) for column in range(3)
)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("interpret", marks=pytest.mark.triton)])
def test_the_published_numbers(backend):
    def words(counter, key):
        return gradc.stack(random.philox([counter[:, i] for i in range(4)], [key[:, 0], key[:, 1]]), axis=-1)

    np.testing.assert_array_equal(gradc.compile(backend=backend)(words)(COUNTERS, KEYS), RESULTS)


def test_known_words_are_computed_at_once():
    for counter, key, result in zip(COUNTERS.tolist(), KEYS.tolist(), RESULTS.tolist(), strict=True):
        assert random.philox(counter, key) == philox(counter, key) == tuple(result)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (4, 12), (4, 16), (2, 3, 8), (24, 1), (0, 8)])
def test_a_number_depends_on_its_place_alone(shape):
    """Not on how many are drawn together for one access of a thread."""
    count = math.prod(shape)
    words = np.array([word(i) for i in range(count)], np.uint32).reshape(shape)
    for dtype in ("uint32", "uint16", "uint8"):
        np.testing.assert_array_equal(random.bits(KEY, shape, dtype), words.astype(dtype))
    pairs = np.array([word(2 * i) | word(2 * i + 1) << 32 for i in range(count)], np.uint64).reshape(shape)
    np.testing.assert_array_equal(random.bits(KEY, shape, "uint64"), pairs)


def test_positions_of_more_than_32_bits_do_not_repeat():
    assert random._positions(2**32).dtype == uint32
    assert random._positions(2**32 + 1).dtype == random._positions(2**31 + 1, 2, 1).dtype == uint64
    calls = np.array([0, 1, 2**32 - 1, 2**32, 2**32 + 1, 5 * 2**32, 2**62 + 1], np.uint64)
    with tracing_scope():
        position = random.value_of(calls)
        words = random.philox(random._counter(position, random.DRAW), random._key_words(KEY))
    drawn = [evaluate_values([x], {})[x] for x in words]
    for lane in range(4):
        assert drawn[lane].tolist() == [word(4 * int(call) + lane) for call in calls]
    assert len(np.unique(drawn)) == 4 * len(calls)


@pytest.mark.triton
@pytest.mark.parametrize("count", [2**33, 2**34 + 18, 2**35])
def test_the_end_of_a_huge_array(count):
    got = gradc.compile(backend="interpret")(lambda key: random.bits(key, (count,))[-8:])(KEY)
    assert got.tolist() == [word(i) for i in range(count - 8, count)]


# Keys ---------------------------------------------------------------------------------------------------------------


def test_keys():
    assert random.key(0).tolist() == [0, 0]
    assert random.key(5 + (7 << 32)).tolist() == [5, 7]
    assert random.key(-1).tolist() == random.key(2**64 - 1).tolist() == random.key(np.int32(-1)).tolist() == [MASK, MASK]
    assert random.key(np.uint64(2**63)).tolist() == [0, 2**31]
    assert (KEY.dtype, KEY.shape) == (np.uint32, (2,))


def test_new_keys():
    low, high = KEY.tolist()
    children = random.split(KEY, 5)
    assert children.tolist() == [list(philox((i, 0, 0, 1), (low, high))[:2]) for i in range(5)]
    assert random.split(KEY).shape == (2, 2)
    np.testing.assert_array_equal(random.split(KEY, (5, 1)), children[:, None])
    for data in (0, 3, -1, 2**40):
        expected = list(philox((data & MASK, data >> 32 & MASK, 0, 2), (low, high))[:2])
        assert random.fold_in(KEY, data).tolist() == random.fold_in(KEY, np.int64(data)).tolist() == expected
    drawn = random.bits(KEY, (4096, 2))
    known = {tuple(pair) for pair in (*drawn.tolist(), *random.split(KEY, 4096).tolist())}
    known |= {tuple(random.fold_in(KEY, i).tolist()) for i in range(16)}
    assert len(known) == 2 * 4096 + 16


def test_a_key_is_static_or_an_input_alike(monkeypatch):
    traced = []
    trace = compile_module.trace
    monkeypatch.setattr(compile_module, "trace", lambda *args: traced.append(args[0]) or trace(*args))
    by_array = gradc.compile(lambda key: random.uniform(key, (5,)))
    by_seed = gradc.compile(lambda seed: random.uniform(random.key(seed), (5,)))
    step = gradc.compile(lambda key, step: random.uniform(random.fold_in(key, step), (5,)))
    for seed in (0, 1, 2**63 + 7, -4):
        np.testing.assert_array_equal(by_array(random.key(seed)), random.uniform(random.key(seed), (5,)))
    assert len(traced) == 1, "another key is another input, not another program"
    for seed in (3, 9):
        np.testing.assert_array_equal(by_seed(seed), by_array(random.key(seed)))
        np.testing.assert_array_equal(by_seed(np.int64(seed)), by_array(random.key(seed)))
        np.testing.assert_array_equal(step(KEY, np.int32(seed)), by_array(random.fold_in(KEY, seed)))
    assert len(traced) == 1 + 2 + 1 + 1


def test_torch_keys():
    torch = pytest.importorskip("torch")
    key = random.key(torch.tensor(2024))
    assert (key.dtype, key.tolist()) == (torch.uint32, KEY.tolist())
    np.testing.assert_array_equal(random.uniform(key, (5,)), random.uniform(KEY, (5,)))
    assert isinstance(random.split(key), torch.Tensor)


def test_keys_split_inside_a_program():
    def two(key):
        first, second = random.split(key)
        return random.uniform(first, (3,)), random.normal(second, (2, 3))

    first, second = random.split(KEY)
    got = gradc.compile(two)(KEY)
    np.testing.assert_array_equal(got[0], random.uniform(first, (3,)))
    np.testing.assert_array_equal(got[1], random.normal(second, (2, 3)))


def test_many_keys_at_once():
    keys = random.split(KEY, 3)
    for draw in (random.uniform, random.normal, random.bits):
        want = [draw(key, (2, 8)) for key in keys]
        np.testing.assert_array_equal(gradc.vmap(lambda key, draw=draw: draw(key, (2, 8)))(keys), want)


# Backends -----------------------------------------------------------------------------------------------------------


def everything(key, other, shape):
    """What differs in integer arithmetic; floats that are exact."""
    return {
        "short": random.bits(key, shape, "uint8"),
        "long": random.randint(key, shape, -(2**62) - 5, 2**62, "int64"),
        "chances": random.bernoulli(key, random.uniform(other, shape, "float16")),
        "between": random.randint(key, shape, other[0] >> 20, other[1] | 1 << 31, "uint32"),
        "keys": random.split(random.fold_in(random.key(other[0]), other[1]), 3),
    }


def drawn_together(key, shape):
    """Where whole calls fill the last dimension: in pairs for 16 bits, singly for 32 and 64."""
    return {dtype: random.uniform(key, shape, dtype) for dtype in ("bfloat16", "float32", "float64")}


@pytest.mark.triton
@pytest.mark.parametrize(("function", "arguments"), [(everything, (random.key(77), (3, 7))), (drawn_together, ((2, 8),))])
def test_the_same_bits_on_every_backend(function, arguments):
    want = gradc.compile(backend="numpy")(function)(KEY, *arguments)
    got = gradc.compile(backend="interpret")(function)(KEY, *arguments)
    at_once = function(KEY, *arguments)
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)
        np.testing.assert_array_equal(at_once[name], array, err_msg=name)


@pytest.mark.triton
def test_normal_numbers_agree_between_backends():
    def both(key):
        return random.normal(key, (3, 7)), random.normal(key, (2, 6), "float64")

    for got, want in zip(gradc.compile(backend="interpret")(both)(KEY), both(KEY), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5 if got.dtype == np.float32 else 1e-14)


@pytest.mark.triton
def test_compiled_kernels_compute_without_signs():
    """Products of 32 bits by 32 bits, unsigned comparisons and conversions, no call of anything, and a clean policy."""

    def drawn(key):
        return gradc.where(random.bernoulli(key, 0.7, (64, 128)), random.uniform(key, (64, 128)), 0)

    for binary in gradc.compile(drawn).lower(gradc.spec((2,), "uint32")).build("sm_90"):
        assert "mul.wide.u32" in binary.ptx
        assert "cvt.rn.f32.u32" in binary.ptx
        assert not any(signed in binary.ptx for signed in ("cvt.rn.f32.s32", "shr.s32", "shr.s64", "call."))
        assert not any(f"setp.{order}.s32" in binary.ptx for order in ("lt", "gt", "le", "ge"))
        assert check_ptx(binary.ptx) == []
        assert binary.spills == 0


# Statistics ---------------------------------------------------------------------------------------------------------
# Everything is a function of the key, so a test that passes once passes always; the limits are about 4.5 deviations.

N = 1 << 18


def close_to(got, want, deviation):
    assert abs(got - want) < 4.5 * deviation, f"{got} is not {want} within 4.5 * {deviation}"


def test_every_bit_is_a_fair_coin():
    bits = np.unpackbits(random.bits(KEY, (N,)).view(np.uint8)).reshape(N, 32)
    close_to(np.abs(bits.mean(0) - 0.5).max(), 0, 0.5 / math.sqrt(N))
    together = np.corrcoef(bits.T[:8].astype(float)) - np.eye(8)
    close_to(np.abs(together).max(), 0, 1 / math.sqrt(N))


def test_uniform_numbers():
    x = random.uniform(KEY, (N,))
    assert 0 <= x.min() < x.max() < 1
    close_to(x.mean(), 0.5, math.sqrt(1 / 12 / N))
    close_to(x.var(), 1 / 12, math.sqrt(1 / 180 / N))
    assert stats.kstest(x, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.histogram2d(x[::2], x[1::2], 32)[0].ravel()).pvalue > 1e-3
    assert (random.uniform(KEY, (N,), "float64") * 2**53 % 1 == 0).all()
    for dtype, digits in (("float16", 11), ("bfloat16", 8)):
        coarse = random.uniform(KEY, (N,), dtype).astype(np.float64)
        assert coarse.max() == 1 - 2.0**-digits
        assert (coarse * 2**digits % 1 == 0).all()


def test_uniform_numbers_between_limits():
    x = random.uniform(KEY, (N,), minval=-2, maxval=3)
    np.testing.assert_allclose(x, random.uniform(KEY, (N,)) * 5 - 2, atol=1e-6)
    for dtype, gap in (("float32", 2.0**-23), ("bfloat16", 2.0**-7)):
        narrow = random.uniform(KEY, (99,), dtype, minval=1, maxval=1 + gap)
        assert (narrow == 1).all(), "rounding does not reach the limit"
    low, high = np.array([0, 10], np.float32), np.array([[1], [20]], np.float32)
    x = random.uniform(KEY, (2, 2), minval=low, maxval=high)
    assert ((x >= low) & (x < high) | (low >= high)).all()


def test_neighbours_and_keys_are_not_correlated():
    x = random.normal(KEY, (N,)).astype(np.float64)
    for lag in (1, 2, 3, 4, 5, 8, 256):
        close_to(np.mean(x[lag:] * x[:-lag]), 0, 1 / math.sqrt(N))
    relatives = [random.key(2025), random.key(2024 + 2**32), *random.split(KEY), random.fold_in(KEY, 0), random.fold_in(KEY, 1)]
    others = np.array([x, *(random.normal(key, (N,)) for key in relatives)])
    close_to(np.abs(np.corrcoef(others) - np.eye(len(others))).max(), 0, 1 / math.sqrt(N))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_numbers(dtype):
    x = random.normal(KEY, (N,), dtype)
    assert x.dtype == dtype
    assert np.isfinite(x).all()
    x = x.astype(np.float64)
    close_to(x.mean(), 0, 1 / math.sqrt(N))
    close_to(x.var(), 1, math.sqrt(2 / N))
    close_to(stats.skew(x), 0, math.sqrt(6 / N))
    close_to(stats.kurtosis(x), 0, math.sqrt(24 / N))
    assert stats.kstest(x, "norm").pvalue > 1e-3
    tail = np.mean(np.abs(x) > 3.5)
    close_to(tail, 2 * stats.norm.sf(3.5), math.sqrt(2 * stats.norm.sf(3.5) / N))


def test_normal_numbers_are_those_of_box_and_muller():
    first, second, third, fourth = (word(i) for i in range(4))
    for place, (one, other, turn) in enumerate([(first, second, np.cos), (first, second, np.sin), (third, fourth, np.cos)]):
        radius = math.sqrt(-2 * math.log((one + 0.5) / 2**32))
        assert random.normal(KEY, (4,))[place] == pytest.approx(radius * turn(2 * math.pi * (other >> 8) / 2**24), rel=2e-5)
    one, other = (random.bits(KEY, (2,), "uint64").tolist()[i] for i in range(2))
    want = math.sqrt(-2 * math.log((one + 0.5) / 2**64)) * math.cos(2 * math.pi * (other >> 11) / 2**53)
    assert random.normal(KEY, (1,), "float64")[0] == pytest.approx(want, rel=1e-12)
    rounded = random.normal(KEY, (64,)).astype(random.normal(KEY, (1,), "bfloat16").dtype)
    np.testing.assert_array_equal(random.normal(KEY, (64,), "bfloat16"), rounded)


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.1, 0.5, 0.9, 1.0])
def test_bernoulli(p):
    x = random.bernoulli(KEY, p, (N,))
    assert x.dtype == bool
    close_to(x.mean(), p, math.sqrt(p * (1 - p) / N) + 1e-12)
    np.testing.assert_array_equal(x, random.uniform(KEY, (N,)) < np.float32(p))
    np.testing.assert_array_equal(x, random.bernoulli(KEY, np.full(N, p, np.float32)))


def test_bernoulli_of_many_chances():
    chances = np.array([0.0, 0.25, 1.0], np.float32)
    x = random.bernoulli(KEY, chances, (N // 4, 3))
    assert (x.mean(0)[[0, 2]] == [0, 1]).all()
    close_to(x.mean(0)[1], 0.25, math.sqrt(3 / 4 / N))
    assert random.bernoulli(KEY, chances).shape == (3,)
    assert random.bernoulli(KEY).shape == ()


def test_integers():
    x = random.randint(KEY, (N,), -3, 7)
    assert (x.min(), x.max(), x.dtype) == (-3, 6, np.int32)
    assert stats.chisquare(np.bincount(x + 3)).pvalue > 1e-3
    assert set(random.randint(KEY, (N,), 0, 256, "uint8").tolist()) == set(range(256))
    assert set(random.randint(KEY, (4096,), -128, 128, "int8").tolist()) == set(range(-128, 128))
    assert set(random.randint(KEY, (64,), 2**31 - 2, 2**31).tolist()) == {2**31 - 2, 2**31 - 1}


def test_integers_are_the_high_half_of_a_product():
    """floor(R·span / 2⁶⁴), for numbers and for arrays, of 32 and of 64 bits."""
    words = random.bits(KEY, (64,), "uint64").tolist()
    for low, high, dtype in [
        (-5, 17, "int32"),
        (-(2**63), 2**63 - 1, "int64"),
        (3, 2**64 - 9, "uint64"),
        (0, 2**33 + 1, "int64"),
    ]:
        want = [low + (w * (high - low) >> 64) for w in words]
        assert random.randint(KEY, (64,), low, high, dtype).tolist() == want
        array = np.array([low, high], dtype)
        assert random.randint(KEY, (64,), array[0], array[1], dtype).tolist() == want
    assert random.randint(KEY, (2, 3), np.array([4, 1, 9]), np.array([4, 2, 5])).tolist() == [[4, 1, 9]] * 2


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: random.uniform(3, (2,)), TraceError, r"a random key is an array, got 3\n.*\n.*\n.*\n  Make one with"),
        (lambda: random.uniform(np.array([1, 2]), (2,)), DTypeError, r"uint32 of shape \(2,\), got i64\[2\]"),
        (lambda: random.normal(random.split(KEY), (2,)), ShapeError, r"uint32 of shape \(2,\), got u32\[2,2\]"),
        (lambda: random.key(2**64), ShapeError, "at most 64 bits"),
        (lambda: random.key(1.5), ShapeError, "a seed is an integer"),
        (lambda: random.key(np.arange(3)), ShapeError, r"a seed is one integer, got i64\[3\]"),
        (lambda: random.split(KEY, -1), ShapeError, "no negative sizes"),
        (lambda: random.bits(KEY, (2,), "int32"), DTypeError, "unsigned integers, not int32"),
        (lambda: random.normal(KEY, (2,), "int32"), DTypeError, "floating-point numbers, not int32"),
        (lambda: random.randint(KEY, (2,), 0, 9, "float32"), DTypeError, "integers, not float32"),
        (lambda: random.randint(KEY, (2,), 0, 257, "uint8"), ShapeError, "from 0 to below 257 in uint8"),
        (lambda: random.randint(KEY, (2,), 3, 3), ShapeError, "minval < maxval"),
        (lambda: random.bernoulli(KEY, 1.5, (2,)), ShapeError, r"lies in 0\.\.1, got 1\.5"),
    ],
)
def test_errors_name_the_call_and_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()
