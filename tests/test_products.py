"""matmul, einsum and their relatives against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from arrays import array, run, same

import gradc
from gradc.errors import DTypeError, ShapeError

MATMULS = [((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (2, 4, 5)),
           ((2, 1, 3, 4), (1, 5, 4, 2)), ((1, 3, 4), (7, 4, 5)), ((4,), (2, 4, 5)), ((2, 3, 4), (4,)), ((3, 0), (0, 5)), ((0, 3), (3, 2)), ((1, 1), (1, 1)), ((2, 3, 1), (2, 1, 5))]  # fmt: skip


@pytest.mark.parametrize("shapes", MATMULS, ids=str)
def test_matmul(shapes):
    x, y = array(*shapes[0]), array(*shapes[1], seed=1)
    same(gradc.matmul(x, y), np.matmul(x, y))
    same(run(lambda x, y: x @ y, x, y), x @ y)
    same(run(lambda x: x @ y, x), x @ y)
    same(run(lambda y: x @ y, y), x @ y)


EINSUMS = [
    ("ij,jk->ik", (3, 4), (4, 5)), ("ij,jk", (3, 4), (4, 5)), ("ij,kj->ik", (3, 4), (5, 4)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("ij->ji", (3, 4)), ("ij->", (3, 4)),
    ("ij->i", (3, 4)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("ijj->i", (2, 3, 3)), ("iji->j", (3, 2, 3)), ("i,j->ij", (3,), (4,)), ("i,i->", (3,), (3,)), ("i,i->i", (3,), (3,)),
    ("ij,j->", (3, 4), (4,)), ("ij,k->i", (3, 4), (2,)), ("...i,...i->...", (2, 3), (2, 3)), ("...ij,...jk->...ik", (5, 2, 3), (3, 4)), ("i...,i...->...", (2, 3), (2, 1)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)), ("ij,jk,kl,lm->im", (2, 3), (3, 4), (4, 5), (5, 2)), ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
    ("ij,ij,ij->j", (2, 3), (2, 3), (2, 3)), (",ij->ij", (), (2, 3)), ("i,->i", (3,), ()), ("a b, b c -> a c", (2, 3), (3, 4)), ("ij,jk->ki", (0, 4), (4, 5)), ("...->...", (2, 3)), ("ba", (2, 3)), ("ij,ij", (2, 3), (2, 1)),
    ("iij,jkk->ik", (2, 2, 3), (3, 4, 4)),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUMS, ids=lambda case: case[0])
def test_einsum(case):
    subscripts, *shapes = case
    operands = [array(*shape, seed=i) for i, shape in enumerate(shapes)]
    same(gradc.einsum(subscripts, *operands), np.einsum(subscripts, *operands))


def test_other_products():
    x, y = array(2, 3, 4), array(4, 3, 5, seed=1)
    same(gradc.tensordot(x, y, axes=1), np.tensordot(x, y, axes=1))
    same(gradc.tensordot(x, y, axes=((1, 2), (1, 0))), np.tensordot(x, y, axes=((1, 2), (1, 0))))
    same(gradc.tensordot(x, array(3, 4, 2), axes=2), np.tensordot(x, array(3, 4, 2), axes=2))
    same(gradc.tensordot(x, y, axes=0), np.tensordot(x, y, axes=0))
    same(gradc.vecdot(x, array(1, 4)), np.vecdot(x, array(1, 4)))
    same(gradc.vecdot(x, array(2, 3, 1), axis=-2), np.vecdot(x, array(2, 3, 1), axis=-2))
    same(gradc.outer(array(3), array(2)), np.outer(array(3), array(2)))
    for a, b in (((), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((2, 3), (4, 3, 2)), ((), (2, 3))):
        same(gradc.dot(array(*a), array(*b)), np.dot(array(*a), array(*b)))
    same(gradc.trace(array(2, 3, 4), offset=1), np.trace(array(2, 3, 4), offset=1, axis1=1, axis2=2))
    assert gradc.matmul(array(2, 2, dtype=np.int8), array(2, 2, dtype=np.int8)).dtype == np.int8
    assert gradc.matmul(array(2, 2, dtype=np.int8), array(2, 2, dtype=np.float32)).dtype == np.float32
    with pytest.raises(DTypeError, match="bool"):
        gradc.matmul(np.ones((2, 2), bool), np.ones((2, 2), bool))
    with pytest.raises(ShapeError, match="one dimension or more"):
        gradc.matmul(array(), array(2))
    with pytest.raises(ShapeError, match="stands in no operand"):
        gradc.einsum("ij->ik", array(2, 3))
    with pytest.raises(ShapeError, match="does not name 2 dimensions"):
        gradc.einsum("ijk->ik", array(2, 3))
    with pytest.raises(ShapeError, match="3 and 2"):
        gradc.einsum("ij,jk->ik", array(2, 3), array(2, 3))
