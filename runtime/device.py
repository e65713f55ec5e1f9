"""The device that schedules are made for: the one asked for, or the GPU that torch has, or the device of reference.

Torch is asked only where it is loaded already: lowering needs neither torch nor a GPU.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache

from gradc.codegen.device import H200, Device, device_named
from gradc.errors import UnsupportedError


def chosen_device(wanted: str | Device | None) -> Device:
    """What `device=` names. Raises UnsupportedError for a device that gradc has no figures of."""
    if wanted is None:
        return present_device()
    return wanted if isinstance(wanted, Device) else device_named(wanted)


def present_device(number: int | None = None) -> Device:
    """The GPU here of a number, else the current one; without any, the device of reference."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return H200
    return figures_of(torch.cuda.current_device() if number is None else number)


@cache
def figures_of(number: int) -> Device:
    """The figures of a GPU by its name. One that is not known counts as one of reference with its own processors and cache."""
    properties = sys.modules["torch"].cuda.get_device_properties(number)
    try:
        return device_named(properties.name)
    except UnsupportedError:
        mebibytes = getattr(properties, "L2_cache_size", H200.cache_bytes) >> 20
        return replace(
            H200, name=properties.name, processors=properties.multi_processor_count, cache_mebibytes=max(1, mebibytes)
        )
