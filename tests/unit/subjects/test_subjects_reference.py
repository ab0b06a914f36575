"""How things that are to be measured are named."""

from __future__ import annotations

import pytest

from optimizer.errors import OptimizerError
from optimizer.subjects import Reference, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m.onnx", ("m.onnx", None, None, None)),
        ("a=m.onnx", ("m.onnx", "a", None, None)),
        ("a=dir/m.onnx@openvino", ("dir/m.onnx", "a", "openvino", None)),
        ("./a=b.onnx", ("./a=b.onnx", None, None, None)),
        ("net.py:Net@pytorch", ("net.py:Net", None, "pytorch", None)),
        ("build/run#int8@openvino", ("build/run", None, None, "int8@openvino")),
        ("old=build/run#int8", ("build/run", "old", None, "int8")),
        ("/data/user@host/m.onnx", ("/data/user@host/m.onnx", None, None, None)),
    ],
)
def test_a_reference_is_taken_apart(text: str, expected: tuple[str | None, ...]) -> None:
    found = parse(text)
    assert isinstance(found, Reference)
    assert (found.place, found.name, found.target, found.pick) == expected


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(OptimizerError) as caught:
        parse("m.onnx@openvno")
    assert caught.value.hint == "did you mean 'openvino'?"


def test_a_name_alone_names_nothing() -> None:
    with pytest.raises(OptimizerError, match="names nothing"):
        parse("a=")
