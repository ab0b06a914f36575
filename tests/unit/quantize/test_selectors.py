"""Selectors: what they match, and how they fail."""

from __future__ import annotations

import pytest

from optimizer.errors import OptimizerError
from optimizer.selectors import Node, select

NODES = [
    Node("node_conv1", ("Conv",), ("conv1",)),
    Node("node_conv2", ("Conv",), ("layer1.conv2",)),
    Node("/head/Gemm", ("Gemm", "MatMul"), ("head",)),
]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("node_conv1", {"node_conv1"}),
        ("conv1", {"node_conv1"}),
        ("*conv*", {"node_conv1", "node_conv2"}),
        ("layer1.*", {"node_conv2"}),
        ("/conv[12]$/", {"node_conv1", "node_conv2"}),
        ("/head/Gemm", {"/head/Gemm"}),  # a name that starts with a slash is no regular expression
        ("op:Conv", {"node_conv1", "node_conv2"}),
        ("op:MatMul", {"/head/Gemm"}),
        ("node_conv?", {"node_conv1", "node_conv2"}),
    ],
)
def test_a_selector_matches_names_aliases_patterns_and_types(selector: str, expected: set[str]) -> None:
    assert select([selector], NODES, "keep") == expected


def test_several_selectors_add_up_and_none_selects_nothing() -> None:
    assert select(["conv1", "op:Gemm"], NODES, "keep") == {"node_conv1", "/head/Gemm"}
    assert select([], NODES, "keep") == set()


@pytest.mark.parametrize(
    ("selector", "message", "hint"),
    [
        ("node_convl", "matches none of 3 nodes", "node_conv1"),
        ("op:Cov", "operator types here: Conv, Gemm, MatMul", "op:Conv"),
        ("zzz", "matches none", "optc inspect"),
        ("/conv[/", "no regular expression", "syntax"),
    ],
)
def test_a_selector_that_matches_nothing_is_an_error_with_the_nearest_names(
    selector: str, message: str, hint: str
) -> None:
    with pytest.raises(OptimizerError) as raised:
        select(["conv1", selector], NODES, "quantize.static: keep")
    assert raised.value.message.startswith("quantize.static: keep")
    assert message in raised.value.message
    assert hint in str(raised.value.hint)
