"""What a model file tells without its weights being read: protobuf's fields are walked, and their contents passed over.

Parsing takes as long as loading, and this is asked whenever a session is opened. Wire format: protobuf.dev, Encoding;
numbers of fields: onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

GRAPH, NODE, INITIALIZER, DATA_TYPE = 7, 1, 5, 2  # of ModelProto, GraphProto, GraphProto, TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
SIZES = {FIXED64: 8, FIXED32: 4}


def pairs(file: Path) -> tuple[set[int], list[bytes]]:
    """Of a graph with Q/DQ pairs the types of its initializers (as in onnx.TensorProto) and its encoded nodes.

    Both are empty where it has none. Raises OSError for a file that is not there, ValueError for one that is empty or
    no protobuf message.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for low, high in _contents(text, GRAPH, 0, len(text)):
            nodes = [text[start:end] for start, end in _contents(text, NODE, low, high)]
            if not any(b"DequantizeLinear" in node for node in nodes):
                continue
            tensors = _contents(text, INITIALIZER, low, high)
            kinds = {value for tensor in tensors for number, value, _ in _fields(text, *tensor) if number == DATA_TYPE}
            return kinds, nodes
    return set(), []


def _contents(text: mmap.mmap, wanted: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Where the contents of a field begin and end, each time that it occurs."""
    return ((start, end) for number, start, end in _fields(text, low, high) if number == wanted)


def _fields(text: mmap.mmap, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, beginning and end of each field's contents; of a varint its value in place of the beginning."""
    while place < end:
        key, place = _varint(text, place, end)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            start, place = _varint(text, place, end)
        else:
            size = SIZES.get(kind, end)
            if kind == BYTES:
                size, place = _varint(text, place, end)
            start, place = place, place + size
        if place > end:
            raise ValueError("no protobuf message")
        yield number, start, place


def _varint(text: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """A number of seven bits per byte, the lowest first, and where it ends."""
    value = shift = 0
    while place < end and shift < 70:
        byte = text[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("no protobuf message")
