"""Why an exporter gave up, in a sentence: the user's line for control flow, the operator's name, or the first cause."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from optimizer import usercode

Kind = Literal["control flow", "script", "operator", "result", "other"]
# What exporters raise: they run the user's forward on stand-ins for tensors, and fail in as many ways.
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, OSError)
OPERATOR = (
    r"No ONNX function found for <OpOverload\(op='(?P<op>[\w.]+)'",
    r"Exporting the operator '(?P<op>[\w:]+)' to ONNX",
    r"operator with unrecognized namespace (?P<op>[\w:]+)",
)
CONTROL_FLOW = ("GuardOnDataDependentSymNode", "data-dependent", "data dependent", "DynamicOutputShape")
# PyTorch's assertion that no node of its own is left in the graph: those that mark a return from within a loop are.
LEFT_OVER = re.compile(r"kind\(\)\.is_prim\(\).* INTERNAL ASSERT FAILED")
TRACED = re.compile(
    r"^(?P<file>.+?):(?P<line>\d+): TracerWarning: (?P<text>Converting a tensor to a Python boolean)", re.M
)


@dataclass(frozen=True)
class Fault:
    """One exporter's reason."""

    exporter: str
    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"{self.exporter}: {self.reason}"


def explain(exporter: str, error: BaseException) -> Fault:
    """The fault behind an exception of an exporter."""
    chain = list(_chain(error))
    text = "\n".join(str(e) for e in chain)
    for pattern in OPERATOR:
        found = re.search(pattern, text)
        if found:
            return Fault(exporter, "operator", f"the operator {found['op']} has no ONNX form in this exporter")
    if LEFT_OVER.search(text):
        reason = "it cannot take the control flow of this TorchScript code, such as a return from within a loop"
        return Fault(exporter, "script", reason)
    root = chain[-1]
    names = " ".join(type(e).__name__ for e in chain)
    if any(mark in names or mark in text for mark in CONTROL_FLOW):
        place = _called(text) or usercode.place(root)
        return Fault(exporter, "control flow", f"the control flow depends on values, at {place}")
    return Fault(exporter, "other", f"{type(root).__name__}: {_sentence(root)}")


def frozen_decisions(chatter: str) -> list[str]:
    """The places at which a tracer replaced a decision of the Python code by what it was for one input."""
    return list(dict.fromkeys(f"{m['file']}, line {m['line']}" for m in TRACED.finditer(chatter)))


def _chain(error: BaseException) -> list[BaseException]:
    """The exception, what caused it, and so on down."""
    found = [error]
    while found[-1].__cause__ is not None and found[-1].__cause__ not in found:
        found.append(found[-1].__cause__)
    return found


def _called(text: str) -> str | None:
    """The user's line as torch.export names it."""
    found = re.search(r'The following call raised this error:\s+File "([^"]+)", line (\d+), in \w+\s+([^\n]*)', text)
    return f"{found[1]}, line {found[2]}: {found[3]}" if found else None


def _sentence(error: BaseException) -> str:
    """The lines that say something: bullet points where there are some, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    bullets = [line for line in lines if line.startswith("- ")]
    return " ".join(bullets or lines[:1])[:500] or "no message"
