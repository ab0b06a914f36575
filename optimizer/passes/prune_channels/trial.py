"""A group is tried before it counts: the module must run without its channels, and compute what is left of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from optimizer.errors import OptimizerError
from optimizer.formats import pruned
from optimizer.formats.record import Built
from optimizer.formats.torch import TorchModel
from optimizer.passes.prune_channels import cutting
from optimizer.passes.prune_channels.cutting import Removal
from optimizer.passes.prune_channels.groups import Group
from optimizer.protocols import Feeds


def fault(model: TorchModel, samples: Sequence[Feeds], removal: Removal) -> str | None:
    """Why these channels cannot leave, None when they can.

    Without them the module must run and give outputs of the same shapes. The values must be those of the whole module
    whose layers read zeros for them: a forward with channel counts of its own may run, and pair the wrong channels.
    Where a normalization over the channels forbids that comparison, their order must not matter instead.
    """
    try:
        found = pruned.outputs(pruned.edited(model, cutting.cuts(model.module, removal)), samples)
        reason = pruned.misshapen(pruned.outputs(model, samples), found)
        if reason:
            return reason
        if any(group.mixes for group in removal):
            return _order_matters(model, samples, [group for group in removal if group.mixes])
        silenced = _silenced(model, removal)
        if silenced is None:
            return "no layer reads its channels"
        gap = pruned.apart(pruned.outputs(silenced, samples), found)
    except OptimizerError as error:
        return _short(error.message, model)
    if gap > pruned.SAME:
        return f"without them the forward computes something else (off by {gap:.2g} of the largest output)"
    return None


def _silenced(model: TorchModel, removal: Removal) -> TorchModel | None:
    module = copy.deepcopy(model.module)
    for group, channels in removal.items():
        if not cutting.silence(module, group, channels):
            return None
    return TorchModel(Built(module, model.built.keywords, model.built.select), model.record)


def _order_matters(model: TorchModel, samples: Sequence[Feeds], groups: Sequence[Group]) -> str | None:
    expected = pruned.outputs(model, samples)
    for group in groups:
        found = pruned.outputs(pruned.edited(model, cutting.swaps(model.module, group)), samples)
        gap = pruned.apart(expected, found)
        if gap > pruned.SAME:
            return f"the forward depends on the order of its channels (off by {gap:.2g} of the largest output)"
    return None


def _short(message: str, model: TorchModel) -> str:
    """An error of the forward without the model's name, which the record tells anyway."""
    return " ".join(message.removeprefix(f"{model.record.origin}: ").split())[:200]
