"""A group is tried before it counts: the module must run without its channels, and compute what is left of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats import pruned
from optimizer.formats.record import Built
from optimizer.formats.torch import TorchModel
from optimizer.passes.prune_channels import cutting
from optimizer.passes.prune_channels.cutting import Removal
from optimizer.passes.prune_channels.groups import Group
from optimizer.protocols import Feeds


@dataclass(frozen=True)
class Trial:
    """A module, samples, and what it gives for them."""

    model: TorchModel
    samples: Sequence[Feeds]
    expected: Sequence[Mapping[str, np.ndarray]]

    def fault(self, removal: Removal) -> str | None:
        """Why these channels cannot leave, None when they can.

        Without them the module must run and give outputs of the same shapes. The values must be those of the whole
        module whose layers read zeros for them: a forward with channel counts of its own may run, and pair the wrong
        channels. Where a normalization over the channels forbids that comparison, their order must not matter instead.
        """
        try:
            found = self._outputs(pruned.edited(self.model, cutting.cuts(self.model.module, removal)))
            reason = pruned.misshapen(self.expected, found)
            if reason:
                return reason
            mixing = [group for group in removal if group.mixes]
            if mixing:
                return self._order_matters(mixing)
            silenced = self._silenced(removal)
            if silenced is None:
                return "no layer reads its channels"
            gap = pruned.apart(self._outputs(silenced), found)
        except OptimizerError as error:
            return _short(error.message, self.model)
        if gap > pruned.SAME:
            return f"without them the forward computes something else (off by {gap:.2g} of the largest output)"
        return None

    def _outputs(self, model: TorchModel) -> list[dict[str, np.ndarray]]:
        return pruned.outputs(model, self.samples)

    def _silenced(self, removal: Removal) -> TorchModel | None:
        module = copy.deepcopy(self.model.module)
        for group, channels in removal.items():
            if not cutting.silence(module, group, channels):
                return None
        return TorchModel(Built(module, self.model.built.keywords, self.model.built.select), self.model.record)

    def _order_matters(self, groups: Sequence[Group]) -> str | None:
        for group in groups:
            found = self._outputs(pruned.edited(self.model, cutting.swaps(self.model.module, group)))
            gap = pruned.apart(self.expected, found)
            if gap > pruned.SAME:
                return f"the forward depends on the order of its channels (off by {gap:.2g} of the largest output)"
        return None


def begun(model: TorchModel, samples: Sequence[Feeds]) -> Trial:
    """A trial of a module on these samples; raises OptimizerError for whatever its forward raises."""
    return Trial(model, samples, pruned.outputs(model, samples))


def _short(message: str, model: TorchModel) -> str:
    """An error of the forward without the model's name, which the record tells anyway."""
    return " ".join(message.removeprefix(f"{model.record.origin}: ").split())[:200]
