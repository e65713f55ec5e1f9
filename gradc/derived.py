"""What PyTorch computes from closed-over tensors while a function is traced: computed again, by PyTorch, at every call.

`x * torch.exp(self.scale)` meets a tensor that torch has made. Its elements, and the tape behind them, are those of the moment of the
trace; a program that kept them would miss every later step of an optimiser, and the gradient. So what is kept is how it was made.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optree

from gradc.errors import UnsupportedError

_state = threading.local()


@dataclass(frozen=True, eq=False)
class Derived:
    """A result of one of torch's functions, the `place`-th tensor of it; among its arguments are others."""

    function: Any
    arguments: Any
    place: int

    def again(self, known: dict[tuple[int, int], list[Any]] | None = None) -> Any:
        """The tensor, computed now."""
        known = {} if known is None else known
        key = id(self.function), id(self.arguments)
        if key not in known:
            args, kwargs = optree.tree_map(lambda x: x.again(known) if isinstance(x, Derived) else x, self.arguments)
            known[key] = _tensors(self.function(*args, **kwargs))
        return known[key][self.place]


class Record:
    """What torch's functions made in a trace: by address, each tensor (which keeps its address) and how it was made, None for a constant."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[Any, Derived | None]] = {}

    def add(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        arguments = optree.tree_map(self._how, (args, kwargs))
        given = _tensors((args, kwargs))
        is_constant = all(id(x) in self.made and self.made[id(x)][1] is None for x in given)
        for place, tensor in enumerate(_tensors(result)):
            if not any(tensor is x for x in given):
                self.made[id(tensor)] = tensor, None if is_constant else Derived(function, arguments, place)

    def is_outside(self, tensor: Any) -> bool:
        """Whether a tensor outlives the trace, or is made from one that does."""
        return id(tensor) not in self.made or self.made[id(tensor)][1] is not None

    def _how(self, x: Any) -> Any:
        return self.made.get(id(x), (x, None))[1] or x


@contextmanager
def following_torch() -> Iterator[None]:
    """A trace in which `derivation` knows what torch's functions made; nothing where torch is not loaded, or within another trace."""
    torch = sys.modules.get("torch")
    if torch is None or getattr(_state, "record", None) is not None:
        yield
        return

    class Following(torch.overrides.TorchFunctionMode):  # type: ignore[name-defined]
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return _followed(record, function, args, kwargs or {})

    record = _state.record = Record()
    try:
        with Following():
            yield
    finally:
        _state.record = None


def _followed(record: Record, function: Any, args: tuple, kwargs: dict) -> Any:
    """A call of one of torch's functions, noted. Raises UnsupportedError where it writes to a tensor from outside of the trace."""
    before = [(x, _version(x)) for x in _tensors((args, kwargs)) if record.is_outside(x)]
    result = function(*args, **kwargs)
    if any(_version(x) != version for x, version in before):
        raise UnsupportedError(
            f"{getattr(function, '__name__', function)} writes to a tensor while the function is traced, and would not at later calls",
            advice="Return the new values, and write them outside of the compiled function.",
        )
    if _tensors(result):
        record.add(function, args, kwargs, result)
    return result


def derivation(tensor: Any) -> Derived | None:
    """How torch made a tensor in the trace that is running; None for one from outside of it, and for a constant."""
    record = getattr(_state, "record", None)
    return record.made.get(id(tensor), (tensor, None))[1] if record is not None else None


def _tensors(tree: Any) -> list[Any]:
    kind = sys.modules["torch"].Tensor
    return [x for x in optree.tree_leaves(tree) if isinstance(x, kind)]


def _version(tensor: Any) -> int:
    return 0 if tensor.is_inference() else tensor._version
