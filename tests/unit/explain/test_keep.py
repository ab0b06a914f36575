"""The step of a recipe that leaves layers in float."""

from __future__ import annotations

from optimizer.explain import keep


def test_selectors_are_added_to_those_of_the_step() -> None:
    steps = [{"fuse": {}}, {"quantize.static": {"method": "mse", "keep": ["a"]}}]
    assert keep.step(steps, ["a", "op:Softmax"]) == "- {quantize.static: {method: mse, keep: [a, 'op:Softmax']}}"
    assert keep.step([], ["b"]) == "- {quantize.static: {keep: [b]}}"


def test_a_step_that_selects_modules_is_not_given_names_of_nodes() -> None:
    said = keep.step([{"quantize.inc": {}}], ["node_conv2d_1", "node_linear"])
    assert said == "name the modules behind node_conv2d_1, node_linear in the keep of quantize.inc"
