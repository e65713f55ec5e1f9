"""`make readme`: brings README.md up to date. What its python blocks print, and the figures, stand in it between comments.

The blocks run in order, as one program. After a block, `<!-- prints -->` to `<!-- end -->` holds what it printed; the other
names are functions here. All other text is left as it is, and no figure is made here: they are read from results/.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.run import INDUCTOR

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
LAUNCHES = ROOT / "benchmarks" / "results" / "launches.json"
PART = re.compile(
    r"^```python\n(?P<code>.*?)^```\n|(?P<open><!-- (?P<name>\w+)(?: (?P<language>\w+))? -->\n).*?(?P<close><!-- end -->\n)",
    re.DOTALL | re.MULTILINE,
)
TITLE = re.compile(r"# (\w+\.py)\n")  # the first line of a block that names its file


class Program:
    """The python blocks of a page, run one after another as one program. `files` are those that the blocks name."""

    def __init__(self, folder: Path):
        self.folder, self.names = folder, dict[str, Any](__name__="readme")
        self.files: list[Path] = []
        self.printed = ""

    def run(self, code: str) -> None:
        """Runs one block from a file, which its errors and its kernels name. Raises what the block raises."""
        title = TITLE.match(code)
        file = self.folder / (title[1] if title else f"block_{len(self.files)}.py")
        file.write_text(code, encoding="utf-8")
        self.files.append(file)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.chdir(self.folder):
            exec(compile(code, str(file), "exec"), self.names)
        self.printed = printed.getvalue().replace(f"{self.folder}/", "").strip()


def rendered(text: str, folder: Path, figures: Mapping[str, Any]) -> str:
    """The page with everything between comments made anew; its blocks run from files in `folder`."""
    program = Program(folder)

    def part(match: re.Match[str]) -> str:
        if match["code"] is not None:
            program.run(match["code"])
            return match[0]
        if match["name"] == "prints":
            return f"{match['open']}```{match['language'] or 'text'}\n{program.printed}\n```\n{match['close']}"
        return f"{match['open']}{TABLES[match['name']](figures)}\n{match['close']}"

    return PART.sub(part, text)


# The figures ---------------------------------------------------------------------------------------------------------


def launches(figures: Mapping[str, Any]) -> str:
    """Launches, bytes moved and bytes kept of every workload beside Inductor's."""
    table = ["| forward and backward | launches | Inductor | MB moved | Inductor | MB kept | Inductor |", f"|---|{'--:|' * 6}"]
    return "\n".join(table + [row(name, workload) for name, workload in figures["workloads"].items()])


def row(name: str, own: Mapping[str, Any]) -> str:
    """A line of the table: a workload's figures, each with Inductor's."""
    peer = own["inductor"]
    cells = [f"{own['launches']} | {peer['launches']}"]
    cells += [f"{megabytes(own[key])} | {megabytes(peer[key])}" for key in ("bytes", "saved_new_bytes")]
    return f"| `{name}` | {' | '.join(cells)} |"


def exceptions(figures: Mapping[str, Any]) -> str:
    """Where Inductor needs less, and what the table cannot show about attention."""
    behind = {
        what: [f"`{name}`" for name, own in figures["workloads"].items() if own[key] > own["inductor"][key]]
        for what, key in (("launches", "launches"), ("bytes moved", "bytes"), ("bytes kept", "saved_new_bytes"))
    }
    said = "; ".join(f"in {what}: {', '.join(names)}" for what, names in behind.items() if names)
    library = INDUCTOR["attention_sdpa"]
    return (
        f"Where Inductor needs less: {said or 'nowhere'}. `attention_naive` is attention as it is written on paper; from a call of\n"
        f"`scaled_dot_product_attention` Inductor makes {library['launches']} launches of a library's kernels, "
        f"{megabytes(library['bytes'])} MB moved and {megabytes(library['saved_new_bytes'])} MB kept."
    )


def versions(figures: Mapping[str, Any]) -> str:
    """What the figures were made with."""
    used = figures["versions"]
    return f"Written by `make benchmarks` with Python {used['python']}, torch {used['torch']}, Triton {used['triton']}."


def megabytes(count: int) -> str:
    """Four digits; one MB is 10⁶ bytes."""
    return f"{count / 1e6:.4g}"


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {"launches": launches, "exceptions": exceptions, "versions": versions}


def current() -> str:
    """README.md as it should be."""
    with tempfile.TemporaryDirectory(prefix="gradc-readme-") as folder:
        return rendered(README.read_text(encoding="utf-8"), Path(folder), json.loads(LAUNCHES.read_text()))


def main() -> int:
    README.write_text(current(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
