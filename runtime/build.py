"""Cross-compiles one kernel of an emitted module, without a GPU, and reads registers and spills from the assembler.

This runs inside a worker that started in Triton's compiling mode; `workers.build` sends the requests. It never launches.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import importlib.util
import io
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from gradc.runtime.module import load_module

Constant = int | float | bool | str | None
KEPT_IMPORTS = frozenset({"triton", "math"})


@dataclass(frozen=True)
class BuildRequest:
    """One kernel to compile: a type for every argument, a value for every constexpr, and the launch options.

    `divisible` names the arguments known to be multiples of 16: pointers aligned to 16 bytes, sizes and strides.
    """

    kernel: str
    signature: Mapping[str, str]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    divisible: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"signature": dict(self.signature), "constants": dict(self.constants)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> BuildRequest:
        return cls(**content | {"divisible": tuple(content["divisible"])})


@dataclass(frozen=True)
class Binary:
    """A compiled kernel. `spills` and `shared_bytes` are in bytes, per thread and per block.

    `image` is the CUDA binary. For an AMD target `ptx` is empty and `image` is the amdgcn assembly.
    """

    name: str
    ptx: str = field(repr=False)
    image: bytes = field(repr=False)
    registers: int
    spills: int
    shared_bytes: int

    @cached_property
    def sass(self) -> str:
        """The machine code as text. NVIDIA's disassembler takes half a second, so it runs when first asked."""
        return disassembled(self.image) if self.ptx else self.image.decode()

    def to_texts(self) -> dict[str, str]:
        """The fields as texts by file name, for the disk cache and for a worker's reply."""
        counts = {"registers": self.registers, "spills": self.spills, "shared_bytes": self.shared_bytes}
        image = base64.encodebytes(self.image).decode()
        return {"kernel.ptx": self.ptx, "image.base64": image, "counts.json": json.dumps(counts, indent=1)}

    @classmethod
    def from_texts(cls, name: str, texts: Mapping[str, str]) -> Binary:
        image = base64.decodebytes(texts["image.base64"].encode())
        return cls(name, texts["kernel.ptx"], image, **json.loads(texts["counts.json"]))


def compiled(source: str, request: BuildRequest, target: str) -> Binary:
    """Compile one kernel for `sm_90`, `gfx942` and the like. Raises what Triton raises."""
    import triton
    from triton.compiler import ASTSource

    _skip_own_hash()
    function = getattr(kernel_module(source), request.kernel)
    program = ASTSource(
        fn=function,
        signature=_signature(function.arg_names, request),
        constexprs=dict(request.constants),
        attrs={(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in request.divisible},
    )
    options = {"num_warps": request.num_warps, "num_stages": request.num_stages}
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        kernel = triton.compile(program, target=_target(target), options=options)
    return _binary(request.kernel, kernel, log.getvalue())


def _signature(arguments: list[str], request: BuildRequest) -> dict[str, str]:
    """The signature in the kernel's own order, which older Triton versions rely on."""
    unknown = {*request.signature, *request.constants, *request.divisible}.difference(arguments)
    missing = [name for name in arguments if name not in request.signature and name not in request.constants]
    if unknown or missing:
        raise ValueError(f"{request.kernel} takes {arguments}: missing {missing}, unknown {sorted(unknown)}")
    return {name: "constexpr" if name in request.constants else request.signature[name] for name in arguments}


@functools.cache
def _skip_own_hash() -> None:
    """Triton hashes its whole installation, half a second, to key a cache; a worker's is empty and its own."""
    from triton.runtime import cache

    cache.triton_key = lambda: "worker"


def _target(name: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name.removeprefix("sm_").rstrip("a")), 32)
    if name.startswith("gfx"):
        return GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)
    raise ValueError(f"{name!r} is not a target: use sm_80, sm_90, sm_100, gfx942, ...")


def _binary(name: str, kernel: Any, log: str) -> Binary:
    shared = kernel.metadata.shared
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        counts = {key: _number(rf"\.{key}:\s+(\d+)", text) for key in ("vgpr_count", "private_segment_fixed_size")}
        return Binary(name, "", text.encode(), counts["vgpr_count"], counts["private_segment_fixed_size"], shared)
    registers, spills = _number(r"Used (\d+) registers", log), _number(r"(\d+) bytes spill stores", log)
    return Binary(name, kernel.asm["ptx"], kernel.asm["cubin"], registers, spills, shared)


def _number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    if not found:
        raise RuntimeError(f"the assembler's report has no {pattern!r}:\n{text[-2000:]}")
    return max(map(int, found))


def disassembled(cubin: bytes) -> str:
    """The machine code of a CUDA binary as text, by the disassembler that ships with Triton."""
    with tempfile.TemporaryDirectory(prefix="gradc-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(tool("nvdisasm")), "-c", str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def tool(name: str) -> Path:
    """A program of NVIDIA's that ships inside the triton wheel."""
    package = importlib.util.find_spec("triton")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "backends" / "nvidia" / "bin" / name


def environment(folder: str) -> dict[str, str]:
    """The environment a building worker starts in. What Triton finds in its own cache comes without the assembler's report,
    so it always compiles, and its cache is a folder to throw away.
    """
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    report = {"TRITON_DUMP_PTXAS_LOG": "1", "TRITON_ALWAYS_COMPILE": "1"}
    return kept | report | {"TRITON_CACHE_DIR": folder, "CUDA_VISIBLE_DEVICES": ""}


def kernel_module(source: str) -> ModuleType:
    """The module's kernels and constants alone where they stand alone: importing torch takes seconds, a build does not need it."""
    try:
        return load_module(_kernels_only(source))
    except Exception:
        return load_module(source)


def _kernels_only(source: str) -> str:
    """The text with every other top-level statement blanked, so that line numbers stay."""
    lines = source.splitlines()
    for statement in ast.parse(source).body:
        if not _kept(statement):
            start = min([statement.lineno, *(item.lineno for item in getattr(statement, "decorator_list", []))])
            lines[start - 1 : statement.end_lineno] = [""] * (statement.end_lineno - start + 1)
    return "\n".join(lines) + "\n"


def _kept(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import(names=names):
            return all(item.name.split(".")[0] in KEPT_IMPORTS for item in names)
        case ast.ImportFrom(module=module):
            return module == "__future__" or (module or "").split(".")[0] in KEPT_IMPORTS
        case ast.FunctionDef(decorator_list=decorators):
            return any("triton" in ast.unparse(item) for item in decorators)
        case ast.Assign() | ast.AnnAssign():
            return "torch" not in ast.unparse(statement)
    return False
