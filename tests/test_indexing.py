"""x[key], take, take_along_axis and x.at[key], against NumPy: what is written is what would be read."""

from __future__ import annotations

import numpy as np
import pytest
from arrays import array, run, same

import gradc
from gradc.errors import ShapeError, TraceError, UnsupportedError

X345 = array(3, 4, 5)
I, J = np.array([2, 0, -1]), np.array([[1], [-3]])
KEYS = [
    0, -1, (1, 2), (1, 2, 3), (..., 1), (1, ...), ..., None, (None, 0), (..., None, 2), (slice(None), None, 1),
    slice(1, 3), slice(None, None, -1), slice(None, None, 2), slice(2, None, -2), slice(5, 1, -1), slice(3, 1), slice(-2, None), slice(0, 0),
    (slice(None), slice(None, None, -3), slice(4, 0, -2)), (slice(1, None), 2, slice(None, None, -1)),
    I, (I,), [0, 2], (slice(None), I), (..., I), (I, I), (I, J), (slice(None), I, J), (I, slice(None), I), (0, slice(None), I), (0, I), (I, 0), (I, ..., 1),
    (None, I), (slice(None), I, None, J), (I, None), (slice(None), None, I, None), (I, None, J), (..., I, slice(1, 3)), (slice(None, None, -1), I, slice(None, None, 2)),
    J, (J, J), (J, slice(None), slice(0, 2)), np.array([], np.int64), (I, J, I), np.int64(1), np.array(1), (slice(0, 0), I), (1, I, None, 2),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_getitem_and_at(key):
    x = X345
    want = x[key]
    same(run(lambda x: x[key], x), want)
    values = array(*want.shape, seed=3)
    added, replaced = x.copy(), x.copy()
    np.add.at(added, key, values)
    replaced[key] = values
    same(run(lambda x, v: x.at[key].add(v), x, values), added)
    same(run(lambda x, v: x.at[key].set(v), x, values), replaced)
    same(run(lambda x: x.at[key].set(1.5).at[key].get(), x), np.full(want.shape, 1.5))


def test_indexing_by_traced_arrays():
    x, i = array(3, 4), np.array([1, -1, 1])
    same(run(lambda x, i: x[i], x, i), x[i])
    same(run(lambda x, i: x[i[0]], x, i), x[1])
    same(run(lambda x, i: x[0, i[0]], x, i), x[0, 1])
    same(run(lambda x, i: x.at[i].set(gradc.stack([x[0], x[1], x[2]])), x, i), np.stack([x[0], x[2], x[1]]))
    for axis in (0, 1, -1):
        index = array(2, 4, dtype=np.int64) % 3 if axis == 0 else array(3, 6, dtype=np.int64) % 4
        same(gradc.take_along_axis(x, index, axis=axis), np.take_along_axis(x, index, axis=axis))
        same(gradc.take(x, i, axis=axis), np.take(x, i, axis=axis))
    same(gradc.take(x, np.array([[0, 11], [-1, 3]])), np.take(x, np.array([[0, 11], [-1, 3]])))
    same(gradc.take_along_axis(x, np.array([[1]]), axis=1), x[:, 1:2])


def test_indexing_refuses():
    x = X345
    with pytest.raises(UnsupportedError, match=r"gradc\.where"):
        run(lambda x: x[x > 0], x)
    with pytest.raises(UnsupportedError, match="boolean mask"):
        run(lambda x: x[np.ones(3, bool)], x)
    with pytest.raises(ShapeError, match="out of bounds"):
        run(lambda x: x[3], x)
    with pytest.raises(ShapeError, match="4 indices"):
        run(lambda x: x[0, 0, 0, 0], x)
    with pytest.raises(ShapeError, match="out of bounds"):
        run(lambda x, i: x[i], x, np.array([3]))
    with pytest.raises(ShapeError, match="out of bounds"):
        run(lambda x, i: x[i, 0 * i + 4], x, np.array([0]))
    with pytest.raises(TraceError, match=r"\.at\[index\]\.set"):
        run(lambda x: x.__setitem__(0, 1), x)
