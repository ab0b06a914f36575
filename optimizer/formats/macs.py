"""Multiply-accumulates of a PyTorch module, counted by running it once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimizer.formats.torch import TorchModel
    from optimizer.protocols import Feeds


def count(model: TorchModel, feeds: Feeds) -> int | None:
    """Half the floating-point operations of matrix products and convolutions in one run; compiled code hides them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    if model.record.scripted:
        return None
    # The fused attention of CPUs is one operator that the counter does not know.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(feeds)
    return int(counter.get_total_flops()) // 2
