"""An explanation as text: verdict sentences, short tables, the next step last."""

from __future__ import annotations

from optimizer.console import table
from optimizer.explain import slow
from optimizer.explain.sensitivity import told_as
from optimizer.values import Explanation, Measurement, OpTime, TensorError

TOP, AROUND = 12, 2
NEXT = "next, in the recipe: "


def text(found: Explanation) -> str:
    """The whole explanation for a terminal."""
    against = f" against {found.against}" if found.against else ""
    parts = [f"{found.subject}{against}, on {found.data}", ""]
    told = slow.told(found.profile) if found.profile else []
    parts += [f"- {line}" for line in (*told, *found.advice) if not line.startswith(NEXT)]
    if found.profile:
        peaks = ", ".join(
            f"{name} {value:.0f} {'GB/s' if name == 'memory' else 'GMAC/s'}"
            for name, value in sorted(found.profile.peaks.items())
        )
        parts += ["", f"where the time goes (peaks of this machine: {peaks})", _profile(found.profile.ops[:TOP])]
    jump = next((i for i, t in enumerate(found.tensors) if t.name == found.first_jump), None)
    if jump is not None:
        parts += ["", "where the error first jumps", _tensors(found.tensors[max(0, jump - AROUND) : jump + AROUND + 1])]
    worst = [t for t in sorted(found.tensors, key=_decibel) if t.jump][:TOP]
    if len(worst) > 1:
        parts += ["", "the worst of the tensors at which it jumps", _tensors(worst)]
    if found.sensitivities:
        rows = [[_short(s.layer, 44), s.op, _cell(s.alone), _cell(s.without)] for s in found.sensitivities[:TOP]]
        metric = next((told for s in found.sensitivities if s.alone for told in [_metric(s.alone)]), "")
        parts += ["", f"layers by harm ({metric})", table(rows, ["layer", "type", "only it quantized", "all but it"])]
    parts += ["", *(line for line in found.advice if line.startswith(NEXT))]
    return "\n".join(parts).rstrip()


def _metric(found: Measurement) -> str:
    return (
        f"{found.metric} {'drop against ' + str(found.against) if found.relation == 'drop' else ''}".strip()
        + f", n = {found.n}"
    )


def _cell(found: Measurement | None) -> str:
    if found is None:
        return "-"
    return told_as(found).removeprefix(found.metric).removeprefix(" drop").strip()


def _profile(ops: tuple[OpTime, ...]) -> str:
    rows = [
        [
            f"{op.ms:.3f}",
            f"{100 * op.share:.1f} %",
            op.op,
            op.kind,
            op.dtype,
            f"{op.macs / op.ms / 1e6:.1f}" if op.macs and op.ms else "-",
            f"{op.bound} {100 * op.of_peak:.0f} %" if op.bound and op.of_peak is not None else "-",
            _short(op.name, 44),
            _short(op.implementation, 40),
        ]
        for op in ops
    ]
    header = ["ms", "share", "kernel", "kind", "type", "GMAC/s", "roofline", "node", "implementation"]
    return table(rows, header, right=[0, 1, 5])


def _tensors(found: tuple[TensorError, ...] | list[TensorError]) -> str:
    rows = [
        [
            str(t.place),
            _short(t.name, 60),
            t.op,
            "identical" if t.sqnr_db is None else f"{t.sqnr_db:.1f}",
            f"{t.cosine:.5f}",
            "-" if t.saturated is None else f"{100 * t.saturated:.3f} %",
            f"[{t.low:.3g}, {t.high:.3g}]",
            "jumps" if t.jump else "",
        ]
        for t in found
    ]
    return table(
        rows, ["place", "tensor", "made by", "SQNR dB", "cosine", "at the ends", "range", ""], right=[0, 3, 4, 5]
    )


def _decibel(found: TensorError) -> float:
    return 999.0 if found.sqnr_db is None else found.sqnr_db


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width // 2 - 1]}...{text[-(width // 2 - 2) :]}"
