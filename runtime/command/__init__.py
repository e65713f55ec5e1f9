"""The command line: `gradc demo`, `inspect`, `check`, `doctor`, `cache` and `bench`. Reads the arguments and calls the command.

Exit status: 0 done, 1 what was asked failed or a check found a difference, 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from gradc.runtime.command.errors import debugging, told

FUNCTION_HELP = "module:function or path/to/file.py:function, decorated with gradc.compile or plain"
ARGUMENT_HELP = "an array argument: x=bf16[8192,4096]; for a list or dict, one for each array in it: params.0.w=f32[64,128]"
RANGE_HELP = "an array argument: x=f32[4,8], or with the range its random elements lie in: labels=i32[4]:0..9, x=f32[8]:0.5..2"
STATIC_HELP = "any other argument, as a Python literal: eps=1e-6"
WRT_HELP = "differentiate with respect to these array arguments, counted from 0: 0,2; or none"

UNREAD = {"prefix_chars": "+", "add_help": False}  # what begins with a dash is another program's to read


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status. Errors are told on standard error, without a traceback."""
    options = parser().parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough: `gradc inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debugging():
            raise
        print(f"gradc {options.command}: {told(error)}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = argparse.ArgumentParser(prog="gradc", description="A gradient compiler: look inside it, check it, see it work.")
    top.add_argument("--version", action="version", version=f"gradc {version('gradc')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for add in (_add_demo, _add_inspect, _add_check, _add_doctor, _add_cache, _add_bench):
        add(commands)
    return top


def _command(
    commands: argparse._SubParsersAction, name: str, module: str, summary: str, **more: Any
) -> argparse.ArgumentParser:
    """One command, whose code is imported when it runs."""
    made = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", **more)
    made.set_defaults(run=_runner(module))
    return made


def _runner(module: str) -> Callable[[argparse.Namespace], int]:
    return lambda options: import_module(module).run(options)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    made = _command(
        commands, "demo", "gradc.runtime.demo.run", "train on handwritten digits, and show and check the kernels of it"
    )
    made.add_argument(
        "--output", default="demo-output", metavar="FOLDER", help="where files are written (default: %(default)s)"
    )
    made.add_argument(
        "--backend", choices=("auto", "numpy", "triton"), default="auto", help="auto: Triton where there is a GPU"
    )
    made.add_argument("--epochs", type=_count, default=None, help="passes over the images (default: until learned, 30)")
    made.add_argument("--images", type=_count, default=None, help="use only so many images")
    made.add_argument("--seed", type=int, default=0, help="of weights and shuffling (default: %(default)s)")


def _add_inspect(commands: argparse._SubParsersAction) -> None:
    made = _command(
        commands, "inspect", "gradc.runtime.command.inspection", "show what a function compiles to, without running it"
    )
    _add_target(made, ARGUMENT_HELP)
    for flag, what in (
        ("explain", "what was fused with what, and why (shown by default, with kernels, saved and cost)"),
        ("kernels", "a table of the kernels: schedule and traffic"),
        ("saved", "what is kept for the backward, and why"),
        ("cost", "launches, bytes and flops"),
        ("ir", "the program and its gradient"),
        ("source", "the emitted module"),
    ):
        made.add_argument(f"--{flag}", action="append_const", dest="views", const=flag, help=what)
    made.add_argument(
        "--build", type=_gpu, metavar="TARGET", help="compile every kernel for sm_90 or the like; needs triton, no GPU"
    )
    made.add_argument("--device", metavar="NAME", help="make the schedules for this device: H100, A100, MI300X, ...")
    made.add_argument("--export", metavar="FILE", help="write the emitted module to a file")


def _add_check(commands: argparse._SubParsersAction) -> None:
    made = _command(
        commands, "check", "gradc.runtime.command.check", "check a function's gradient and its kernels on random inputs"
    )
    _add_target(made, RANGE_HELP)
    made.add_argument("--order", type=_count, default=1, help="check derivatives up to this order (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the random inputs (default: %(default)s)")


def _add_target(made: argparse.ArgumentParser, argument_help: str) -> None:
    made.add_argument("function", help=FUNCTION_HELP)
    made.add_argument("--arg", action="append", default=[], dest="arrays", metavar="NAME=DTYPE[SHAPE]", help=argument_help)
    made.add_argument("--static", action="append", default=[], dest="statics", metavar="NAME=VALUE", help=STATIC_HELP)
    made.add_argument("--wrt", metavar="0,2", help=WRT_HELP)


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    _command(commands, "doctor", "gradc.runtime.command.doctor", "say what is installed here and what works")


def _add_cache(commands: argparse._SubParsersAction) -> None:
    made = _command(commands, "cache", "gradc.runtime.command.cache", "list what the disk cache holds")
    made.add_argument("action", nargs="?", choices=("list", "clear", "path"), default="list", help="what to do (default: list)")
    made.add_argument("--all", action="store_true", help="list every entry, not the latest alone")
    made.add_argument("--clear", action="store_true", help="remove every entry")
    made.add_argument("--path", action="store_true", help="print the folder alone")


def _add_bench(commands: argparse._SubParsersAction) -> None:
    made = _command(commands, "bench", "gradc.runtime.command.bench", "run the benchmarks of a source checkout", **UNREAD)
    made.add_argument("rest", nargs=argparse.REMAINDER, help="passed on to `python -m benchmarks`")


def _gpu(text: str) -> str:
    """The name of a GPU's architecture."""
    if not re.fullmatch(r"sm_\d+a?|gfx[0-9a-f]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a target: use sm_80, sm_90, sm_100, gfx942, ...")
    return text


def _count(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above zero")
    return number
