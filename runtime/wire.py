"""Messages between this process and its workers: a JSON header, then raw bytes.

Tensors keep their shape, strides and dtype; an expanded axis (stride 0) stays expanded and is sent once. No pickles.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

LENGTH = struct.Struct(">Q")
Blobs = list[bytearray]


def send(stream: BinaryIO, header: dict[str, Any], blobs: Sequence[bytes | bytearray] = ()) -> None:
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    stream.write(LENGTH.pack(len(text)) + text)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], Blobs]:
    """The next message. Raises EOFError where the other side has gone."""
    (length,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
    header = json.loads(_exactly(stream, length))
    return header, [_exactly(stream, size) for size in header.pop("blobs")]


def _exactly(stream: BinaryIO, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the stream ended in the middle of a message")
        done += count
    return data


def encoded(value: Any, blobs: Blobs) -> list[Any]:
    """A value as JSON; the bytes of its tensors are appended to `blobs`."""
    if hasattr(value, "data_ptr"):
        return _encoded_tensor(value, blobs)
    if isinstance(value, (tuple, list)):
        return ["tuple", [encoded(item, blobs) for item in value]]
    if value is None or isinstance(value, (bool, int, float, str)):
        return ["plain", value]
    if hasattr(value, "item"):
        return ["plain", value.item()]
    raise TypeError(f"cannot send a {type(value).__name__} to a worker: use tensors, numbers, strings and tuples of them")


def decoded(code: list[Any], blobs: Blobs) -> Any:
    kind, *content = code
    if kind == "tensor":
        return _decoded_tensor(blobs, *content)
    if kind == "tuple":
        return tuple(decoded(item, blobs) for item in content[0])
    return content[0]


def _encoded_tensor(tensor: Any, blobs: Blobs) -> list[Any]:
    import torch

    tensor = tensor.detach()
    stored = tensor.as_strided(_stored_shape(tensor.shape, tensor.stride()), tensor.stride())
    data = stored.contiguous().reshape(-1).as_strided((stored.numel(),), (1,)).view(torch.uint8)
    blobs.append(bytearray(data.numpy().tobytes()))
    return [
        "tensor",
        str(tensor.dtype).removeprefix("torch."),
        list(tensor.shape),
        list(tensor.stride()),
        len(blobs) - 1,
    ]


def _decoded_tensor(blobs: Blobs, dtype: str, shape: list[int], strides: list[int], blob: int) -> Any:
    import torch

    stored_shape = _stored_shape(shape, strides)
    stored = torch.empty_strided(stored_shape, strides, dtype=getattr(torch, dtype))
    if stored.numel():
        stored.copy_(torch.frombuffer(blobs[blob], dtype=stored.dtype).reshape(stored_shape))
    return stored.as_strided(shape, strides)


def _stored_shape(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The shape of what lies in memory: an expanded axis holds one element."""
    return [min(size, 1) if stride == 0 else size for size, stride in zip(shape, strides, strict=True)]
