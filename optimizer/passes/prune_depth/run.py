"""From a number of blocks to a shallower module: each absence is measured, the least felt one is made real, again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from optimizer import selectors
from optimizer.errors import OptimizerError
from optimizer.formats import pruned
from optimizer.formats.torch import TorchModel
from optimizer.passes.prune_depth.options import Options
from optimizer.passes.prune_depth.stacks import Block, blocks, drops
from optimizer.protocols import Context
from optimizer.values import Artifact

Outputs = Sequence[dict[str, np.ndarray]]
TOGETHER = 16  # examples per inference


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the module without the blocks that are asked for, or without those that the outputs miss least.

    Raises OptimizerError for a model without a stack of equal blocks, for selectors that match nothing, and for a
    number of blocks that leaves a stack empty.
    """
    model = pruned.opened(source, "prune.depth")
    found = _among(blocks(model, ctx.samples[0]), options, model)
    leaving = _named(model, found, options, ctx) if options.blocks else _felt_least(model, found, options, ctx)
    shallow = pruned.edited(model, drops(model.module, leaving))
    ctx.note("dropped", [block.path for block in leaving])
    ctx.note("parameters", {"before": pruned.parameters(model), "after": pruned.parameters(shallow)})
    ctx.note("macs", {"before": pruned.macs_of(model, ctx), "after": pruned.macs_of(shallow, ctx)})
    pruned.write(shallow, out)


def _among(found: list[Block], options: Options, model: TorchModel) -> list[Block]:
    """The blocks of the stacks that are asked for."""
    if not found:
        raise OptimizerError(
            f"prune.depth: {model.record.origin} has no stack of equal blocks: no ModuleList or Sequential of modules "
            "of one class, whose input and output have the same shape",
            "prune.channels makes layers narrower instead",
        )
    if not options.stacks:
        return found
    nodes = [selectors.Node(name, ("stack",)) for name in dict.fromkeys(block.stack for block in found)]
    chosen = selectors.select(options.stacks, nodes, "prune.depth, stacks")
    return [block for block in found if block.stack in chosen]


def _named(model: TorchModel, found: list[Block], options: Options, ctx: Context) -> list[Block]:
    nodes = [selectors.Node(block.path, ("block",)) for block in found]
    chosen = selectors.select(options.blocks, nodes, "prune.depth, blocks")
    leaving = [block for block in found if block.path in chosen]
    leaving = [block for block in leaving if not block.within(leaving)]
    emptied = next((b.stack for b in leaving if not _rest(model, b.stack, leaving)), None)
    if emptied is not None:
        raise OptimizerError(f"prune.depth: no block is left of {emptied}", "leave at least one")
    reason = _fault(model, leaving, ctx)
    if reason:
        raise OptimizerError(
            f"prune.depth: {model.record.origin} does not work without {', '.join(b.path for b in leaving)}: {reason}",
            "name other blocks",
        )
    return leaving


def _rest(model: TorchModel, stack: str, leaving: Collection[Block]) -> int:
    """Blocks that are left in a stack, those that could not leave included."""
    return len(list(model.module.get_submodule(stack).children())) - sum(block.stack == stack for block in leaving)


def _fault(model: TorchModel, leaving: Sequence[Block], ctx: Context) -> str | None:
    """Why the module does not run without these blocks."""
    try:
        shallow = pruned.edited(model, drops(model.module, leaving))
        return pruned.misshapen(pruned.outputs(model, ctx.samples), pruned.outputs(shallow, ctx.samples))
    except OptimizerError as error:
        return " ".join(error.message.removeprefix(f"{model.record.origin}: ").split())[:200]


def _felt_least(model: TorchModel, found: list[Block], options: Options, ctx: Context) -> list[Block]:
    """Blocks one after the other: each time the one whose absence, beside those gone, changes the outputs least."""
    refused = {block.path: reason for block in found if (reason := _fault(model, [block], ctx))}
    able = [block for block in found if block.path not in refused]
    ctx.note("left whole", refused)
    goal = _goal(model, able, refused, options)
    feeds = [batch.feeds for batch in ctx.data[options.data].batches(TOGETHER, options.samples)]
    expected = pruned.outputs(model, feeds)
    leaving: list[Block] = []
    felt: list[dict[str, float]] = []
    for done in range(goal):
        errors = {}
        for block in _next(model, able, leaving, options):
            shallow = pruned.edited(model, drops(model.module, [*leaving, block]))
            errors[block] = _felt(expected, pruned.outputs(shallow, feeds))
        felt.append({block.path: round(error, 5) for block, error in errors.items()})
        leaving.append(min(errors, key=lambda block: errors[block]))
        ctx.progress(done + 1, goal)
    ctx.note("felt", felt)
    reason = _fault(model, leaving, ctx)
    if reason:
        raise OptimizerError(
            f"prune.depth: {model.record.origin} works without each block, not without {goal} of them: {reason}",
            "drop fewer, or name them: blocks",
        )
    return leaving


def _goal(model: TorchModel, able: Sequence[Block], refused: dict[str, str], options: Options) -> int:
    """How many blocks are to leave; OptimizerError when there are not as many."""
    stacks = dict.fromkeys(block.stack for block in able)
    most = sum(_spare(model, able, stack, 1) for stack in stacks)
    wanted = options.drop or sum(_spare(model, able, stack, options.keep or 1) for stack in stacks)
    reasons = "; ".join(f"{path}: {reason}" for path, reason in list(refused.items())[:5])
    if wanted > most or not able:
        told = f" ({reasons})" if reasons else ""
        raise OptimizerError(
            f"prune.depth: {wanted or options.keep} blocks cannot leave, {most} of "
            f"{', '.join(stacks) or model.record.origin} can{told}",
            "drop fewer; one block of each stack stays",
        )
    if not wanted:
        counts = ", ".join(f"{stack} {_rest(model, stack, [])}" for stack in stacks)
        raise OptimizerError(
            f"prune.depth: keep: {options.keep} leaves every stack as it is ({counts})", "keep fewer blocks"
        )
    return wanted


def _spare(model: TorchModel, able: Sequence[Block], stack: str, keep: int) -> int:
    return max(0, min(_rest(model, stack, []) - keep, sum(block.stack == stack for block in able)))


def _next(model: TorchModel, able: Sequence[Block], leaving: Sequence[Block], options: Options) -> list[Block]:
    """The blocks that may leave next, beside those that leave already."""
    keep = options.keep or 1
    return [
        block
        for block in able
        if block not in leaving and not block.within(leaving) and _rest(model, block.stack, leaving) > keep
    ]


def _felt(expected: Outputs, found: Outputs) -> float:
    """Squared error of all outputs over their square."""
    error = power = 0.0
    for before, after in zip(expected, found, strict=True):
        for name, array in before.items():
            if array.dtype.kind == "f":
                a, b = array.astype(np.float64).ravel(), after[name].astype(np.float64).ravel()
                error, power = error + float((a - b) @ (a - b)), power + float(a @ a)
    return error / power if power else error
