"""Sums over programs that are added up in memory, where the order of additions may be any: no partial results are left to merge.

Such a sum starts from zeros that the host fills in, which is a launch too. Only float32 is added so; what lies in memory in another
dtype, or is computed from the sum, is a kernel's after it. Where terms say themselves whose they are (`searches.py`), programs
go over the terms and add each where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterable

from gradc import types
from gradc.codegen.stages import Stage, storage_dtype
from gradc.ir import Value


def can_add(stages: Iterable[Stage]) -> bool:
    """Whether memory can add up the reductions of all these stages."""
    return all(
        stage.heavy is not None
        and stage.heavy.kind == "reduce"
        and stage.heavy.detail[0] == "sum"
        and stage.heavy.dtype.is_floating
        and stage.heavy.dtype.compute == types.float32
        for stage in stages
    )


def is_added_in_place(stage: Stage, outputs: frozenset[Value]) -> bool:
    """Whether the array that a stage leaves can be the one that is added to: nothing follows its sum, not even a rounding."""
    assert stage.heavy is not None
    return stage.value is stage.heavy.value and storage_dtype(stage.value, outputs) == types.float32


def launches(stages: Iterable[Stage], outputs: frozenset[Value]) -> int:
    """Launches besides the kernel's own: a fill for each sum, and a kernel for what follows any."""
    stages = list(stages)
    return len(stages) + any(not is_added_in_place(stage, outputs) for stage in stages)
