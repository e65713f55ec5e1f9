"""Sums over the chunks of a host loop: what each chunk's program writes, and where the sum is in the end.

Every chunk leaves its part, or adds it in place to what the chunks before it came to, always in the precision of the computation: a
result of float32 is that place itself, one of bfloat16 beside an array of what its rounding took, or there is an array apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gradc import types
from gradc.codegen.hosting.chunks import Body
from gradc.codegen.hosting.ways import Way
from gradc.codegen.nodes import Running
from gradc.ir import Value, apply, on_behalf_of
from gradc.leaves import Broadcast, cast, constant, make_input
from gradc.ops import TABLE
from gradc.types import DType


@dataclass(eq=False)
class Sum:
    """The sum of a way; of `parts` parts, if any. `aliases` are the Values that the chunk's program has for its arrays."""

    way: Way
    parts: int
    aliases: dict[Value, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        heavy = self.way.heavy
        name, compute = heavy.name or self.way.owner.name or "sum", heavy.dtype.compute
        self.array: Value = self.way.owner
        if self.parts:
            self.array = make_input((self.parts, *heavy.shape), heavy.dtype, f"{name}_part", stored=compute)
        elif self.way.place == "apart":
            self.array = make_input(heavy.shape, heavy.dtype, f"{name}_sum", stored=compute)

    @property
    def is_owner(self) -> bool:
        """Whether the owner itself is what the chunks leave."""
        return self.array is self.way.owner

    @property
    def left(self) -> tuple[int, ...]:
        """The axes of the array that are still to be summed."""
        return (0,) if self.parts else ()

    @property
    def said(self) -> tuple[str, ...]:
        """Where the sum is between chunks, in words, where it is in place."""
        beside = {"result": "", "halves": ", beside it what rounding took from it", "apart": " in float32"}[self.way.place]
        return () if self.parts else (f"{self.array.name or 'a sum'} is summed in place from chunk to chunk{beside}",)

    def steps(self, body: Body, share: Value) -> list[Value]:
        """What a chunk's program gives, for the chunk's share of the sum."""
        if self.parts:
            return [body.placed(share, self.array, None)]
        with on_behalf_of(self.way.heavy, self.way.heavy.note):
            if self.way.place != "halves":
                total = self._gone_on(body, share, {self.array: self.way.heavy.dtype.compute})
                total.name = share.name
                self.aliases[total] = self.array
                return [total]
            return self._halves(body, share)

    def _halves(self, body: Body, share: Value) -> list[Value]:
        """The sum rounded, and what that took from it: together twice the digits, and float32's range."""
        rest = make_input(self.array.shape, types.bfloat16, f"{share.name or 'sum'}_rest")
        total = self._gone_on(body, share, {self.array: types.bfloat16, rest: types.bfloat16})
        rounded = cast(total, types.bfloat16)
        back = cast(rounded, types.float32)
        taken = TABLE["where"](TABLE["isfinite"](back), TABLE["subtract"](total, back), 0.0)
        remains = cast(taken, types.bfloat16)
        rounded.name, remains.name = share.name, rest.name
        self.aliases |= {rounded: self.array, remains: rest}
        return [rounded, remains]

    def _gone_on(self, body: Body, share: Value, arrays: dict[Value, DType]) -> Value:
        """The share and what the arrays hold together, which is nothing before the first chunk."""
        compute = share.dtype.compute
        before = None
        for array, dtype in arrays.items():
            copy = apply(Running(share.shape, dtype))
            copy.name, copy.source = array.name, None
            self.aliases[copy] = array
            wide = cast(copy, compute)
            before = wide if before is None else TABLE["add"](before, wide)
        started = TABLE["greater"](body.first, 0)
        started = apply(Broadcast(share.shape, ()), started) if share.shape else started
        before = TABLE["where"](started, before, constant(0.0, compute, share.shape))
        return TABLE["add"](before, cast(share, compute))
