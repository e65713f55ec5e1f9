"""The user's variable names for the Values of a trace: `y = x * w` names the product `y`.

While a function is traced, the frames that make Values are remembered; when a frame has moved on to another line, its local
variables say which Value each name was bound to. No tracing hook of Python is used and no source is parsed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

from gradc.errors import is_internal
from gradc.ir import Value

# gradc's own files whose variables are names of mathematics (mean, rstd, peak), worth showing in a kernel.
FOLDER = str(Path(__file__).parent) + os.sep
READABLE = (FOLDER + "nn" + os.sep, FOLDER + "optim.py", FOLDER + "random.py", FOLDER + "language" + os.sep + "softmax.py")


class NameRecorder:
    """A listener of `ir.apply`, from the frame `root` (which is not looked at) inward."""

    def __init__(self, root: FrameType):
        self.root = root
        self.seen: dict[FrameType, _Progress] = {}

    def __call__(self, value: Value) -> None:
        frame: FrameType | None = sys._getframe(2)
        entered = True
        while frame is not None and frame is not self.root:
            file = frame.f_code.co_filename
            if not is_internal(file) or file.startswith(READABLE):
                entered = self._visit(frame, entered)
            frame = frame.f_back

    def _visit(self, frame: FrameType, entered: bool) -> bool:
        """Names what the frame has bound since the last visit; `entered`: it made this Value itself, or just called the maker.

        Returns whether the frame is new.
        """
        progress = self.seen.get(frame)
        if progress is None:
            self.seen[frame] = _Progress(frame)
            return True
        if progress.has_moved(frame, entered):
            progress.name_locals(frame)
        return False

    def finish(self) -> None:
        """Names what the frames' last lines bound, and lets go of the frames."""
        self.name_all()
        self.seen.clear()

    def name_all(self) -> None:
        """Names what the frames have bound so far: the user's names before gradc's, outer functions' before inner ones'."""
        for frame, progress in sorted(
            self.seen.items(), key=lambda item: (is_internal(item[0].f_code.co_filename), item[1].depth)
        ):
            progress.name_locals(frame)


class _Progress:
    """How far a frame was when it last made a Value, and the Values it was given, which it does not name."""

    def __init__(self, frame: FrameType):
        code = frame.f_code
        self.line, self.instruction = frame.f_lineno, frame.f_lasti
        self.depth = _depth(frame)
        count = code.co_argcount + code.co_kwonlyargcount
        names = code.co_varnames[:count]
        self.given = {x for name in names if isinstance(x := frame.f_locals.get(name), Value)}

    def has_moved(self, frame: FrameType, entered: bool) -> bool:
        """Whether a statement may have finished since: another line, or (in a loop) the same instruction again or one before."""
        line, instruction = frame.f_lineno, frame.f_lasti
        moved = line != self.line or instruction < self.instruction or (entered and instruction == self.instruction)
        self.line, self.instruction = line, instruction
        return moved

    def name_locals(self, frame: FrameType) -> None:
        if frame.f_locals is frame.f_globals:
            return
        for name, x in frame.f_locals.items():
            if type(x) is Value and x.name is None and x not in self.given and name.isidentifier() and name[0] != "_":
                x.name = name


def _depth(frame: FrameType | None) -> int:
    depth = 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth
