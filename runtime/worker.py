"""The program of a worker process: answers requests from its standard input until that closes.

A worker serves the mode its environment chose, Triton's interpreter or its compiler. What a kernel prints goes to
standard error; standard output carries replies only.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

from gradc.runtime import build, interpret, wire


def main() -> None:
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    while True:
        try:
            header, blobs = wire.receive(requests)
        except EOFError:
            return
        wire.send(replies, *reply(header, blobs))
        sys.stdout.flush()


def reply(header: dict[str, Any], blobs: wire.Blobs) -> tuple[dict[str, Any], wire.Blobs]:
    try:
        return answer(header, blobs)
    except (Exception, SystemExit) as problem:
        summary = "".join(traceback.format_exception_only(problem)).strip()
        return {"error": summary, "traceback": traceback.format_exc()}, []


def answer(header: dict[str, Any], blobs: wire.Blobs) -> tuple[dict[str, Any], wire.Blobs]:
    if header["task"] == "build":
        request = build.BuildRequest.from_json(header["request"])
        return {"binary": build.compiled(header["source"], request, header["target"]).to_texts()}, []
    results = interpret.run(header["source"], header["function"], wire.decoded(header["arguments"], blobs))
    produced: wire.Blobs = []
    return {"results": wire.encoded(results, produced)}, produced
