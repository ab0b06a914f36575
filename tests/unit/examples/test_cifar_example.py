"""The CIFAR ResNets: sizes and state keys of the published weights, and the paper's shortcut without parameters."""

from __future__ import annotations

import pytest

from optimizer import content, usercode

torch = pytest.importorskip("torch")
ENTRY = content.root("examples") / "cifar" / "model.py"


def make(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return usercode.load(f"{ENTRY}:{name}")().eval()


@pytest.mark.parametrize(("name", "parameters", "blocks"), [("resnet20", 269_722, 3), ("resnet56", 853_018, 9)])
def test_sizes_are_those_of_the_paper(name: str, parameters: int, blocks: int) -> None:
    net = make(name)
    assert sum(p.numel() for p in net.parameters()) == parameters
    keys = set(net.state_dict())
    assert {"conv1.weight", "bn1.running_var", f"layer3.{blocks - 1}.conv2.weight", "linear.bias"} <= keys
    assert not any("shortcut" in key for key in keys)


def test_scores_for_any_number_of_images() -> None:
    net = make("resnet20")
    with torch.inference_mode():
        assert net(torch.randn(1, 3, 32, 32)).shape == (1, 10)
        assert net(torch.randn(3, 3, 32, 32)).shape == (3, 10)


def test_option_a_strides_space_and_pads_channels_with_zeros_on_both_sides() -> None:
    block = make("resnet20").layer2[0]
    x = torch.randn(2, 16, 8, 8)
    y = block.shortcut(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_identity_shortcut_where_the_stage_does_not_change() -> None:
    block = make("resnet20").layer2[1]
    x = torch.randn(1, 32, 4, 4)
    assert block.shortcut(x) is x
