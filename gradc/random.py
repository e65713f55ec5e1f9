"""Random numbers as pure functions of a key and of a position: the same ones every time and on every backend.

    key = gradc.random.key(0)
    first, second = gradc.random.split(key)      # use a key once; make new ones with split and fold_in
    x = gradc.random.normal(first, (4, 3))

The generator is Philox-4x32-10 (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405), written in the language: a
kernel draws where it needs a number and a backward draws the same again, so masks are never stored. JAX's names and argument
order, not its numbers. Nothing here holds a state; a key that is an argument of a compiled function costs no new program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import xor
from typing import Any, NoReturn

import numpy as np

from gradc import language as g
from gradc import types
from gradc.absent import missing
from gradc.errors import DTypeError, ShapeError, TraceError
from gradc.ir import Value, apply
from gradc.language.arguments import as_shape, integer, value_of
from gradc.language.calls import array_function, describe
from gradc.language.shaping import part
from gradc.leaves import Iota, cast, constant, is_array, is_scalar
from gradc.types import DType, Shape, float32, uint32, uint64

Words = tuple[Value, ...]
Word = Value | int  # 32 bits, as a uint32 Value or, where it is known, as a Python number

ROUNDS = 10  # the paper's safe choice (7 already pass all of BigCrush), affordable since one call serves four elements
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key in every round
MASK = 0xFFFFFFFF
DRAW, SPLIT, FOLD = 0, 1, 2  # the last word of the counter: what is drawn for one purpose never meets what is for another
ACCESS = 16  # bytes a thread reads or writes at once; it should draw whole calls for them
DIGITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}  # binary digits of a significand


# Keys ---------------------------------------------------------------------------------------------------------------


@array_function
def key(seed: Any) -> Value:
    """A key, uint32 of shape (2,), from an integer of at most 64 bits: a Python number or a 0-d integer array."""
    return g.stack(_as_values(_halves(seed, "a seed")))


@array_function
def split(key: Any, num: Any = 2) -> Value:
    """`num` new keys (a number or a shape), uint32 of shape (num, 2), independent of one another and of what `key` draws."""
    shape = _shape(num)
    children = philox(_counter(_positions(math.prod(shape)), SPLIT), _key_words(key))
    return g.reshape(g.stack(_as_values(children[:2]), axis=-1), (*shape, 2))


@array_function
def fold_in(key: Any, data: Any) -> Value:
    """A new key, uint32 of shape (2,), for each integer `data` of at most 64 bits: a step or a layer's number, say."""
    low, high = _halves(data, "data folded in")
    return g.stack(_as_values(philox((low, high, 0, FOLD), _key_words(key))[:2]))


def _halves(number: Any, what: str) -> tuple[Word, Word]:
    """The low and the high 32 bits of an integer, in two's complement."""
    if is_scalar(number):
        whole = integer(number, what)
        if not -(2**63) <= whole < 2**64:
            raise ShapeError(f"{what} has at most 64 bits, got {whole}")
        return whole & MASK, whole >> 32 & MASK
    value = value_of(number)
    if value.shape != () or not value.dtype.is_integer:
        raise ShapeError(f"{what} is one integer, got {describe(number)}")
    bits = cast(value, uint64)
    return cast(bits, uint32), cast(bits >> 32, uint32)


def _key_words(key: Any) -> tuple[Value, Value]:
    """The two words of a key, 0-d. Raises DTypeError or ShapeError for what is none."""
    if not (isinstance(key, Value) or is_array(key)):
        raise TraceError(f"a random key is an array, got {describe(key)}", advice="Make one with gradc.random.key(seed).")
    value = value_of(key)
    if value.dtype != uint32 or value.shape != (2,):
        what = DTypeError if value.dtype != uint32 else ShapeError
        raise what(
            f"a random key is uint32 of shape (2,), got {describe(key)}",
            advice="Make one with gradc.random.key(seed), or split one.",
        )
    return value[0], value[1]


def _as_values(words: Sequence[Word]) -> Words:
    return tuple(word if isinstance(word, Value) else constant(word, uint32) for word in words)


def _shape(shape: Any) -> Shape:
    sizes = as_shape(shape)
    if any(size < 0 for size in sizes):
        raise ShapeError(f"a shape has no negative sizes, got {sizes}")
    return sizes


# The generator ------------------------------------------------------------------------------------------------------


def philox(counter: Sequence[Word], key: Sequence[Word]) -> tuple[Word, Word, Word, Word]:
    """Philox-4x32-10: four random words for a counter of four words and a key of two, elementwise.

    A round is (c0, c1, c2, c3) -> (high(c2·M1) ^ c1 ^ k0, low(c2·M1), high(c0·M0) ^ c3 ^ k1, low(c0·M0)).
    """
    word_0, word_2, others = counter[0], counter[2], (counter[1], counter[3])
    for number in range(ROUNDS):
        key_0, key_1 = _plus(key[0], number * WEYL[0]), _plus(key[1], number * WEYL[1])
        left, right = _product(word_0, MULTIPLIERS[0]), _product(word_2, MULTIPLIERS[1])
        word_0, word_2 = _xor(_high(right), others[0], key_0), _xor(_high(left), others[1], key_1)
        others = _low(right), _low(left)
    return word_0, others[0], word_2, others[1]


def _product(word: Word, factor: int) -> Word:
    """All 64 bits of a product."""
    return word * factor if isinstance(word, int) else cast(word, uint64) * factor


def _high(product: Word) -> Word:
    return product >> 32 if isinstance(product, int) else cast(product >> 32, uint32)


def _low(product: Word) -> Word:
    return product & MASK if isinstance(product, int) else cast(product, uint32)


def _plus(word: Word, number: int) -> Word:
    """The sum modulo 2³²."""
    number &= MASK
    return word + number & MASK if isinstance(word, int) else word + number if number else word


def _xor(*words: Word) -> Word:
    terms: list[Any] = [word for word in words if isinstance(word, Value)]
    known = reduce(xor, (word for word in words if isinstance(word, int)), 0)
    return reduce(xor, [*terms, known] if known else terms) if terms else known


def _counter(position: Value, purpose: int) -> tuple[Word, Word, Word, Word]:
    """The counter of a call: its position in two words, and what it is for."""
    if position.dtype == uint32:
        return position, 0, 0, purpose
    return cast(position, uint32), cast(position >> 32, uint32), 0, purpose


def _positions(count: int, step: int = 1, start: int = 0) -> Value:
    """start, start + step, ...: `count` numbers, in uint64 where uint32 is too short."""
    dtype = uint32 if start + count * step <= 2**32 else uint64
    position = apply(Iota(count, dtype))
    position = position if step == 1 else position * step
    return position if start == 0 else position + start


def _drawn(key: Any, shape: Shape, itemsize: int, per_call: int, make: Callable[[Words], Sequence[Value]]) -> Value:
    """An array of a shape, in row-major order the results of `make` on the four words of each call, `per_call` of them.

    Where the last dimension allows, results for `itemsize` bytes each are made for a whole access of a thread together.
    The numbers do not depend on that: element i comes from call i // per_call.
    """
    calls = min(2, max(1, ACCESS // (itemsize * per_call)))
    last = next((size for size in reversed(shape) if size != 1), 1)
    calls = calls if last % (calls * per_call) == 0 else 1
    groups = -(-math.prod(shape) // (calls * per_call))
    keys = _key_words(key)
    draws: list[Value] = []
    for call in range(calls):
        draws += make(_as_values(philox(_counter(_positions(groups, calls, call), DRAW), keys)))
    flat = g.reshape(_interleaved(draws), (groups * len(draws),))
    return g.reshape(part(flat, 0, 0, math.prod(shape)), shape)


def _interleaved(draws: Sequence[Value]) -> Value:
    """Draws of shape (n,) side by side: (n, number of draws). By a choice, so that each is computed once for all lanes."""
    lane = apply(Iota(len(draws), uint32))
    columns = [g.reshape(draw, (draw.size, 1)) for draw in draws]
    chosen = columns[-1]
    for number in reversed(range(len(draws) - 1)):
        chosen = g.where(lane == number, columns[number], chosen)
    return chosen


def _long(words: Words) -> list[Value]:
    """Two numbers of 64 bits."""
    return [cast(high, uint64) << 32 | cast(low, uint64) for low, high in (words[:2], words[2:])]


def _bits(key: Any, shape: Shape, wide: bool, itemsize: int) -> Value:
    """uint64 bits if wide, uint32 bits otherwise, drawn for elements of `itemsize` bytes."""
    return _drawn(key, shape, itemsize, 2 if wide else 4, _long if wide else lambda words: words)


# Distributions ------------------------------------------------------------------------------------------------------


@array_function
def bits(key: Any, shape: Any = (), dtype: Any = "uint32") -> Value:
    """Uniformly distributed unsigned integers: every bit of every element is a fair coin."""
    kind = types.as_dtype(dtype)
    if kind.family != "uint":
        raise DTypeError(f"random bits are unsigned integers, not {kind}", advice="Use uniform, randint or bernoulli.")
    return cast(_bits(key, _shape(shape), kind.itemsize == 8, kind.itemsize), kind)


@array_function
def uniform(key: Any, shape: Any = (), dtype: Any = "float32", minval: Any = 0.0, maxval: Any = 1.0) -> Value:
    """Numbers uniformly distributed in minval <= x < maxval (numbers or arrays that broadcast to `shape`).

    In 0..1 they are the multiples of 2**-24 (float64: 2**-53, float16: 2**-11, bfloat16: 2**-8), the same on every backend;
    between other limits a GPU may round the last bit otherwise.
    """
    kind, size = _floating(dtype), _shape(shape)
    fraction = _fraction(key, size, kind)
    if is_scalar(minval) and is_scalar(maxval) and (minval, maxval) == (0, 1):
        return fraction
    low, high = (cast(value_of(x), kind) for x in (minval, maxval))
    start, stop, fraction = (cast(x, kind.compute) for x in (low, high, fraction))
    scaled = g.broadcast_to(cast(start + fraction * (stop - start), kind), size)
    return g.where(scaled < high, scaled, low)  # rounding may reach the limit


def _fraction(key: Any, shape: Shape, kind: DType) -> Value:
    """The leading bits of random integers, as a fraction in 0 <= x < 1 that is exact in the dtype."""
    wide, digits = kind.itemsize == 8, DIGITS[kind.name]
    return cast(_bits(key, shape, wide, kind.itemsize) >> (64 if wide else 32) - digits, kind) * 2.0**-digits


def _floating(dtype: Any) -> DType:
    kind = types.as_dtype(dtype)
    if not kind.is_floating:
        raise DTypeError(f"this distribution has floating-point numbers, not {kind}", advice="Use randint or bits.")
    return kind


@array_function
def normal(key: Any, shape: Any = (), dtype: Any = "float32") -> Value:
    """Standard normal numbers, at most 6.7 from 0 (9.5 in float64), by Box and Muller's method from 32 (64) bits each.

    Computed in float32 for the 16-bit dtypes. Backends agree within the rounding of log, sin and cos.
    """
    kind, size = _floating(dtype), _shape(shape)
    if kind.itemsize == 8:
        return _drawn(key, size, 8, 2, lambda words: _box_muller(_long(words), kind))
    return cast(_drawn(key, size, 4, 4, lambda words: _box_muller(words, float32)), kind)


def _box_muller(integers: Sequence[Value], kind: DType) -> list[Value]:
    """Independent normal numbers from pairs of random integers: √(-2 log u) · (cos 2πv, sin 2πv)."""
    width, digits = 8 * integers[0].dtype.itemsize, DIGITS[kind.name]
    normals: list[Value] = []
    for first, second in zip(integers[::2], integers[1::2], strict=True):
        u = cast(first, kind) * 2.0**-width + 2.0 ** -(width + 1)  # never 0
        radius = g.sqrt(-2.0 * g.log(u))
        angle = cast(second >> width - digits, kind) * (2 * math.pi * 2.0**-digits)
        normals += radius * g.cos(angle), radius * g.sin(angle)
    return normals


@array_function
def bernoulli(key: Any, p: Any = 0.5, shape: Any = None) -> Value:
    """True with probability `p` (a number or an array): where uniform(key, shape) < p. The shape is that of `p` unless given."""
    if not is_scalar(p):
        chance = value_of(p)
        size = chance.shape if shape is None else _shape(shape)
        return g.broadcast_to(chance, size) > _fraction(key, size, types.float64 if chance.dtype == types.float64 else float32)
    return coins(key, p, () if shape is None else _shape(shape), 4)


def coins(key: Any, p: float, shape: Shape, itemsize: int) -> Value:
    """`bernoulli` for a number `p`, to be used beside elements of `itemsize` bytes: integers are compared, nothing is rounded."""
    if not 0 <= p <= 1:
        raise ShapeError(f"a probability lies in 0..1, got {p}")
    digits = DIGITS["float32"]
    threshold = math.ceil(float(np.float32(p)) * 2.0**digits) << 32 - digits
    if threshold > MASK:
        return constant(True, types.bool_, shape)
    return _bits(key, shape, False, itemsize) < threshold


@array_function
def randint(key: Any, shape: Any, minval: Any, maxval: Any, dtype: Any = "int32") -> Value:
    """Integers uniformly distributed in minval <= x < maxval (numbers or arrays); minval where that is empty.

    floor(R·(maxval - minval) / 2⁶⁴) for 64 random bits R: a probability is off by at most 2**-64.
    """
    kind, size = types.as_dtype(dtype), _shape(shape)
    if not kind.is_integer:
        raise DTypeError(f"randint gives integers, not {kind}", advice="Use uniform.")
    random = _bits(key, size, True, kind.itemsize)
    if is_scalar(minval) and is_scalar(maxval):
        low, span = _range(integer(minval, "minval"), integer(maxval, "maxval"), kind)
        offset = _scaled(random, constant(span, uint64), span <= 2**32)
        return cast(offset, kind) + low
    least, most = (cast(value_of(x), uint64 if kind == uint64 else types.int64) for x in (minval, maxval))
    span = g.where(most > least, cast(most, uint64) - cast(least, uint64), 0)
    return g.broadcast_to(cast(_scaled(random, span, kind.itemsize < 8), kind) + cast(least, kind), size)


def _range(low: int, high: int, kind: DType) -> tuple[int, int]:
    """The least number and how many there are. Raises ShapeError where there is none or the dtype does not hold them."""
    limits = np.iinfo(kind.numpy)
    if not limits.min <= low < high <= limits.max + 1 or high - low == 2**64:
        raise ShapeError(f"randint from {low} to below {high} in {kind}", advice="Choose minval < maxval within the dtype.")
    return low, high - low


def _scaled(random: Value, span: Value, short: bool) -> Value:
    """The high 64 bits of the product of two uint64 numbers, by halves; `short` says that span is at most 2³²."""
    high, low = random >> 32, random & MASK
    if short:
        return high * span + (low * span >> 32) >> 32
    span_high, span_low = span >> 32, span & MASK
    middle = high * span_low + (low * span_low >> 32)
    carry = (middle & MASK) + low * span_high >> 32
    return high * span_high + (middle >> 32) + carry


def __getattr__(name: str) -> NoReturn:
    raise missing("gradc.random", name, [other for other, x in globals().items() if getattr(x, "__module__", "") == __name__])
