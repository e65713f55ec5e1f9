"""The last step of every loss: what `reduction` makes of the elements' losses."""

from __future__ import annotations

from gradc import language as g
from gradc.errors import UnsupportedError
from gradc.ir import Value


def reduce_loss(loss: Value, reduction: str) -> Value:
    """The losses themselves ("none"), their "mean" or their "sum"."""
    if reduction == "none":
        return loss
    if reduction == "mean":
        return g.mean(loss)
    if reduction == "sum":
        return g.sum(loss)
    raise UnsupportedError(f"a loss has no reduction {reduction!r}", advice='Use "none", "mean" or "sum".')
