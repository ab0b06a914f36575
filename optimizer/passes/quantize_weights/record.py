"""What quantize.weights tells of its work: which layers, and their bytes before and after, scales counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from optimizer.formats import caution
from optimizer.passes.quantize_weights.options import Options
from optimizer.protocols import Context


@dataclass(frozen=True)
class Row:
    """One layer: `shape` of its weights (outputs, inputs), bytes in float32, and with codes, scales and zero points."""

    name: str
    op: str
    shape: tuple[int, ...]
    before: int
    after: int


def record(ctx: Context, rows: Sequence[Row], options: Options, group: int | str, whole: int) -> None:
    """Note the layers; warn when they hold little of the model, whose float weights take `whole` bytes."""
    before, after = sum(row.before for row in rows), sum(row.after for row in rows)
    ctx.note("quantized", dict(Counter(row.op for row in rows)))
    ctx.note(
        "weights",
        {
            "algorithm": options.algorithm,
            "bits": options.bits,
            "group": group,
            "symmetric": options.symmetric,
            "bytes": {"before": before, "after": after, "ratio": round(after / before, 4)},
            "layers": [asdict(row) for row in rows],
        },
    )
    if before < caution.SMALL * whole:
        ctx.warn(
            f"the quantized layers hold {before / whole:.1%} of the model's weights; "
            + ("" if options.embeddings else "embeddings: true takes tables, too; ")
            + "convolutions need quantize.static"
        )
