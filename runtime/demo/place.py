"""Where the demo computes and with how many threads, what is missing here, and what the machine is."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from gradc.runtime.command.errors import CommandError
from gradc.runtime.workers import processors

DISTRIBUTIONS = {"gradc": "gradc", "numpy": "numpy", "torch": "torch", "triton": "triton", "sklearn": "scikit-learn"}


def missing(*modules: str) -> str:
    """Which of the modules are not installed, in words; empty where all are."""
    absent = [name for name in modules if find_spec(name) is None]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed" if absent else ""


def device_for(backend: str) -> str | None:
    """Where arrays lie: None for NumPy, "cuda" for Triton. Raises CommandError where Triton was asked for and cannot run."""
    reason = missing("torch", "triton")
    if not reason and backend != "numpy":
        import torch

        if torch.cuda.is_available():
            return "cuda"
        reason = "torch finds no GPU"
    if backend == "triton":
        raise CommandError(f"--backend triton is not possible: {reason}", "Leave --backend out: the demo then runs with NumPy.")
    return None


def wait_for(device: str | None) -> None:
    """Waits for a GPU; other devices compute at once."""
    if device is not None and device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread for NumPy and for torch: at this size more gain nothing, and on a busy machine they wait for each other."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    with threadpool_limits(1), _one_torch_thread():
        yield


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """torch has its own count, where torch is there."""
    if missing("torch"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine(device: str | None) -> dict[str, Any]:
    """What figures are measured on."""
    versions = {distribution: version(distribution) for module, distribution in DISTRIBUTIONS.items() if not missing(module)}
    found = {
        "platform": platform.platform(),
        "processors": processors(),
        "threads_used": 1,
        "python": platform.python_version(),
    }
    if device is None:
        return found | versions
    import torch

    return found | versions | {"gpu": torch.cuda.get_device_name(device)}
